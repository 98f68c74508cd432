"""Run as a program with ``fake_spaces`` on the path: ``app.py`` is imported as on ZeroGPU, and two
visitors make a video each. Prints what happened as one line of JSON."""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import app  # before torch

# isort: split
import gradio as gr
import numpy as np
import spaces
import torch
from example_requests import EXAMPLE, request_of
from PIL import Image

from motion_app.errors import RequestError
from motion_app.library.owners import LibraryUser
from motion_app.scene import Click
from motion_app.settings import Limits
from motion_app.training.inputs import ClipSelection, TrainingInputs
from motion_app.ui.markup import Texts
from motion_app.ui.motions.training import submit_training
from motion_app.ui.pictures import Previews
from motion_app.ui.transfer.stream import FollowedJobs, JobStream

CLIPS = Path(__file__).resolve().parent.parent / "assets" / "clips"


def watch_models(engine: Any) -> None:
    """Note the process in which any model that belongs on the GPU computes."""
    for name in ("transformer", "vae", "text_encoder"):
        for part in getattr(engine.backbone.pipe, name).modules():
            part.register_forward_pre_hook(lambda *_, name=name: computed(name))


def computed(name: str, seen: set[tuple[str, int]] = set()) -> None:  # noqa: B006
    if (name, os.getpid()) not in seen:
        seen.add((name, os.getpid()))
        spaces.note(computed=name)


def visit(host: Any, owner: str, request: dict[str, Any]) -> dict[str, Any]:
    """What a page does: hand in, follow, show the last step and the gallery."""
    stream, followed = JobStream(host, Texts("en"), Previews(Limits())), FollowedJobs()
    row = host.jobs.submit("generate", {"request": request}, owner=owner)
    panels = list(stream.follow(owner, followed, row.id))
    row = host.jobs.row(row.id)
    return {
        "state": row.state,
        "message": row.message,
        "frames": str(host.jobs.folder(row.id) / row.outcome["frames"]),
        "previews": sum('class="live"' in (panel.live or "") for panel in panels),
        "gallery": stream.gallery(owner, followed).count("gallery-card"),
    }


def leave_early(host: Any, request: dict[str, Any]) -> dict[str, Any]:
    """A visitor who closes the page after the second step of many."""
    row = host.jobs.submit("generate", {"request": request}, owner="leaver")
    followed = host.jobs.follow(row.id, every=0.05)
    for progress in followed:
        if progress.step >= 2:
            break
    followed.close()
    began = time.monotonic()
    while host.jobs.row(row.id).active:
        assert time.monotonic() - began < 60
        time.sleep(0.02)
    row = host.jobs.row(row.id)
    return {"state": row.state, "message": row.message}


def lesson(*, steps: int) -> TrainingInputs:
    """A motion of a clip that ships, with its mover pointed at."""
    clip = ClipSelection(sorted(CLIPS.glob("*.mp4"))[0], mover=(0.66, 0.6))
    return TrainingInputs(
        name="lent hop", phrase="is moving", noun="cat", clips=(clip,), steps=steps
    )


def learn(host: Any, owner: str, inputs: TrainingInputs) -> dict[str, Any]:
    """What the Motions tab does: hand in, follow while the page is open, look at the library."""
    row = submit_training(host, inputs, owner=owner)
    seen = [progress.step for progress in host.jobs.follow(row.id, every=0.02)]
    row = host.jobs.row(row.id)
    (motion,) = [one for one in host.motions() if one.name == inputs.name] or [None]
    whose = "" if motion is None else host.library.seen_by(LibraryUser(owner)).whose(motion)
    steps = 0 if motion is None else motion.steps
    told = {"state": row.state, "message": row.message, "seen": max(seen)}
    return told | {"whose": whose, "steps": steps, "has_mover": bool(motion and motion.has_mover)}


def refusal(do: Any) -> str:
    try:
        do()
    except RequestError as error:
        return str(error)
    return ""


def main() -> None:
    host = app.PREPARED.host
    result: dict[str, Any] = {"pid": os.getpid(), "page": isinstance(app.demo, gr.Blocks)}
    result["ready"] = host.status().state
    engine = inspect.getclosurevars(host.engine().call.task).nonlocals["engine"]
    watch_models(engine)
    torch.cuda._lazy_init = lambda: spaces.note(cuda=True)
    host.jobs.start()
    motions = [motion.name for motion in host.motions()[:2]]
    result["motions"] = motions
    segmenter = host.segmenter()
    result["clicks"] = str(segmenter.model.device)
    segmenter.set_image(np.asarray(Image.open(EXAMPLE).convert("RGB")))
    segmenter.predict([Click(60.0, 60.0)])
    result["first"] = visit(host, "first", request_of(motions[0], 1, steps=3))
    result["second"] = visit(host, "second", request_of(motions[1], 2, steps=3))
    result["left"] = leave_early(host, request_of(motions[0], 3, steps=200))
    result["again"] = visit(host, "second", request_of(motions[1], 2, steps=3))
    result["unattended"] = refusal(host.jobs.check_unattended)
    result["learned"] = learn(host, "learner", lesson(steps=4))
    result["cost"], result["most"] = host.lent_seconds(), host.settings.lent_seconds
    long = replace(lesson(steps=20_000), name="long hop")
    result["training"] = refusal(lambda: submit_training(host, long, owner="a"))
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
