"""Run as a program with ``fake_spaces`` on the path: ``app.py`` is imported as on ZeroGPU, and two
visitors make a video each. Prints what happened as one line of JSON."""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
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
from motion_app.scene import Click
from motion_app.settings import Limits
from motion_app.training.inputs import ClipSelection, TrainingInputs
from motion_app.ui.markup import Texts
from motion_app.ui.motions.training import submit_training
from motion_app.ui.pictures import Previews
from motion_app.ui.transfer.stream import FollowedJobs, JobStream


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
    clip = ClipSelection(Path("clip.mp4"))
    inputs = TrainingInputs(name="x", phrase="is moving", noun="cat", clips=(clip,))
    result["training"] = refusal(lambda: submit_training(host, inputs, owner="first"))
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
