"""Subject prior videos (SPV): many subjects doing things that are not the motion to be learned.

A set is a folder with a ``manifest.jsonl`` of one row a clip, {video, image, subject, motion,
prompt, seed, model_revision}, ``prompt`` holding the words of ``subject`` and ``motion``.
``make_subjects`` has the model itself, as it came, make them: from the subjects' names, as the
paper does, or, as an image model cannot, from pictures. The pocket draws its creatures instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from motion_app.errors import RequestError
from motion_app.geometry import ModelGeometry, fit_image
from motion_app.media.file_types import PICTURE_KINDS, is_picture
from motion_app.media.files import Clip, read_clip, read_image
from motion_app.media.provenance import export_video
from motion_app.methods import STOCK_METHOD
from motion_app.request.phrases import occurrences
from motion_app.scene import GenerationRequest, Options, StepReport
from motion_app.text_files import json_text, read_text, records, write_whole
from motion_app.training.config import RENDERED, SynMotionTraining, training_caption
from motion_app.wording import as_read
from motion_app.world.creatures import MOTIONS
from motion_app.world.world import WorldConfig, draw_scene, render

if TYPE_CHECKING:
    from motion_app.engine.pipeline import MotionEngine

MANIFEST = "manifest.jsonl"
FOLDER = "spv"  # of a checkpoint that brings its own set
ACTIONS = ("walks", "runs", "sits down", "turns its head", "stands still")
RENDER_SEED = 600_000  # far from every seed other clips are drawn from


@dataclass(frozen=True, eq=False)
class SubjectClip:
    """``clip`` shows ``subject`` doing ``motion``, as ``prompt`` says; both stand in it once."""

    clip: Clip
    subject: str
    motion: str
    prompt: str


def find_subjects(
    config: SynMotionTraining, geometry: ModelGeometry, *, folder: Path
) -> list[SubjectClip]:
    """The SPV clips of a training, without those of the motion itself. ``folder``: the
    checkpoint's. RequestError where there is no set, or a broken one."""
    if config.spv == RENDERED:
        return render_subjects(
            geometry, config.spv_clips, exclude=(config.name, config.phrase), seed=config.seed
        )
    place = folder / FOLDER if config.spv is None else Path(config.spv)
    if not (place / MANIFEST).is_file():
        raise RequestError(
            "SynMotion needs videos of other subjects doing other things; make them with the "
            "make-spv command from pictures of your own, or from names where the model needs no "
            "picture, and name the folder with --spv, or learn without them (--alpha 1)"
        )
    clips = read_subjects(place, fps=geometry.fps, exclude=(config.name, config.phrase))
    if not clips:
        raise RequestError(f"every clip of {place.name} shows the motion itself; add others")
    chosen = np.random.default_rng(config.seed).permutation(len(clips))[: config.spv_clips]
    return [clips[i] for i in sorted(chosen)]


def read_subjects(folder: Path, *, fps: float, exclude: Sequence[str] = ()) -> list[SubjectClip]:
    """The set in ``folder``, but for clips whose motion is in ``exclude``."""
    found = []
    for number, line in records(read_text(folder / MANIFEST)):
        try:
            row = json.loads(line)
            video, subject, motion = (str(row[key]) for key in ("video", "subject", "motion"))
            prompt = as_read(str(row["prompt"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RequestError(
                f"line {number} of {MANIFEST} is no JSON object with video, subject, motion and "
                "prompt; make the set again"
            ) from error
        if any(len(occurrences(words, prompt)) != 1 for words in (subject, motion)):
            raise RequestError(
                f'line {number} of {MANIFEST}: "{prompt[:80]}" must hold "{subject[:40]}" and '
                f'"{motion[:40]}" once each'
            )
        if motion not in exclude:
            clip = read_clip(folder / Path(video).name, fps=fps)
            found.append(SubjectClip(clip, subject, motion, prompt))
    return found


def render_subjects(
    geometry: ModelGeometry, count: int, *, exclude: Sequence[str] = (), seed: int = 0
) -> list[SubjectClip]:
    """``count`` creatures of the pocket's world doing its motions, ``exclude`` by name or words."""
    config = WorldConfig(
        height=geometry.height,
        width=geometry.width,
        frames=geometry.frames,
        fps=round(geometry.fps),
    )
    names = [
        name
        for name, motion in MOTIONS.items()
        if motion.level == 0 and not motion.novel and not {name, motion.words} & set(exclude)
    ]
    clips = []
    for i in range(count):
        rng = np.random.default_rng([RENDER_SEED, seed, i])
        name = names[i % len(names)]
        rendered = render(draw_scene(rng, config, objects=1, motions=[name], neutral_share=0.0))
        creature = rendered.scene.creatures[0]
        clip = Clip(rendered.frames, geometry.fps)
        clips.append(SubjectClip(clip, creature.noun, creature.phrase, creature.sentence))
    return clips


def make_subjects(
    pictures: Sequence[Path],
    engine: MotionEngine,
    out: Path,
    *,
    subjects: Sequence[str] = (),
    actions: Sequence[str] = ACTIONS,
    steps: int | None = None,
    seed: int = 0,
    on_step: Callable[[StepReport], bool | None] | None = None,
) -> Path:
    """Have the model move every picture, and each of the ``subjects`` from its name alone, in every
    way; returns the manifest in ``out``.

    A picture's file name is its subject: "polar-bear.jpg" is a polar bear. Use pictures whose
    licence allows it. A clip that is there already is kept, so a run that was stopped goes on.
    RequestError where nothing came, and where the model cannot do with or without pictures.
    """
    if not (pictures or subjects) or not actions:
        raise RequestError("no subject or no action came; give at least one of each")
    geometry, rows = engine.geometry, []
    drawn = [(_named_by(picture), picture) for picture in pictures]
    out.mkdir(parents=True, exist_ok=True)
    for number, (subject, picture) in enumerate([*drawn, *((name, None) for name in subjects)]):
        image = None
        if picture is not None:
            image = fit_image(read_image(picture), geometry.height, geometry.width, "crop").image
        for place, action in enumerate(actions):
            prompt = training_caption(subject, action)
            file = out / f"{number:03d}-{place:02d}.mp4"
            chosen = Options(
                seed=seed + number * len(actions) + place,
                steps=steps,
                prompt=prompt,
                method=STOCK_METHOD,
            )
            request = GenerationRequest(image, options=chosen)
            if not file.is_file():
                made = engine.generate(request, on_step)
                write = partial(export_video, frames=made.frames, fps=made.fps, recipe=made.recipe)
                write_whole(file, write, ending=file.suffix)
            rows.append(
                {
                    "video": file.name,
                    "image": picture and picture.name,
                    "subject": subject,
                    "motion": action,
                    "prompt": prompt,
                    "seed": chosen.seed,
                    "model_revision": engine.fingerprint,
                }
            )
    text = "".join(json_text(row) + "\n" for row in rows)
    (out / MANIFEST).write_text(text, encoding="utf-8")
    return out / MANIFEST


def _named_by(picture: Path) -> str:
    if not is_picture(picture):
        raise RequestError(f"{picture.name} is no picture this app reads; use {PICTURE_KINDS}")
    return picture.stem.replace("-", " ").replace("_", " ").strip()
