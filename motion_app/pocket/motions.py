"""The motions the pocket ships: one rendered reference clip each, and what is learned from it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from motion_app.engine.pipeline import MotionEngine
from motion_app.jobs.models import Models
from motion_app.library.motion_file import read_motion
from motion_app.scene import Motion
from motion_app.training.config import ClipTraining, MotionTraining, SynMotionTraining
from motion_app.training.trainer import TrainingReport, train_motion
from motion_app.world.references import SHIPPED_MOTIONS, render_reference

log = logging.getLogger(__name__)


def train_shipped_motions(
    checkpoint: Path,
    names: Sequence[str] = SHIPPED_MOTIONS,
    *,
    models: Models,
    out: Path | None = None,
    method: str = "fleximmt",
    given: Mapping[str, Any] = MappingProxyType({}),
) -> list[Motion]:
    """Learns each motion from its one clip, with the engine of ``models``, and writes
    ``{name}.safetensors`` into ``out``, by default ``checkpoint/motions``; what an ``out`` that was
    given already holds is left.

    ``method``: motion tokens, with the clip's masks ("fleximmt") or without ("concat"), or
    "synmotion". ``given``: settings of the training in place of the checkpoint's own.
    """
    engine = models.engine(checkpoint)
    motions = []
    for name in names:
        file = (out or checkpoint / "motions") / f"{name.replace(' ', '-')}.safetensors"
        if out is not None and file.is_file():
            motions.append(read_motion(file))
            continue
        reference = render_reference(name)
        training = _training(engine, method, name=name, noun=reference.noun, **given)

        def report(news: TrainingReport, name: str = name) -> None:
            if news.step % 25 == 0:
                log.info("%s: step %d loss %.4f", name, news.step, news.loss)

        motions.append(
            train_motion(
                [reference.clip],
                training,
                engine=engine,
                out=file,
                masks=[reference.rendered.masks[0]],
                track=reference.rendered.tracks[0].tolist(),
                on_progress=report,
            )
        )
    return motions


def _training(engine: MotionEngine, method: str, **given: Any) -> ClipTraining:
    """The checkpoint's own settings of ``method`` under what was ``given``."""
    defaults = engine.defaults.training_of(method)
    if method == SynMotionTraining.method:
        return SynMotionTraining.for_checkpoint(defaults, **given)
    mask = "given" if method == MotionTraining.method else "none"
    return MotionTraining.for_checkpoint(defaults, mask=mask, **given)
