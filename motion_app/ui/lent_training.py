"""Learning a motion on a GPU that is lent: what is handed to the process that has it, and what it
costs a visitor. No gradio here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from motion_app.errors import RequestError
from motion_app.jobs.kinds import Mark
from motion_app.jobs.timings import Measurement
from motion_app.training.config import ClipTraining, MotionTraining
from motion_app.training.inputs import ClipSelection, TrainingInputs

if TYPE_CHECKING:
    from motion_app.engine.footprint import Workload
    from motion_app.engine.pipeline import MotionEngine
    from motion_app.training.trainer import TrainingReport

OnProgress = Callable[["TrainingReport"], bool | None]


@dataclass(frozen=True, eq=False)
class TrainingOrder:
    """What ``train_motion`` is to do there. The ``clips`` point at nothing: what was pointed at is
    in ``masks``, (T', H0, W0) bool for each clip, found on the CPU before the GPU was asked for."""

    clips: tuple[ClipSelection, ...]
    config: ClipTraining
    out: Path
    masks: tuple[np.ndarray, ...] | None = None
    still: bool = False

    @classmethod
    def of(
        cls, inputs: TrainingInputs, config: ClipTraining, out: Path, mark: Mark, *, fps: float
    ) -> TrainingOrder:
        """The order for ``inputs``, clips at ``fps`` frames per second. Raises MediaError and
        RequestError for clips that cannot be learned from."""
        if not any(clip.mover for clip in inputs.clips):
            return cls(inputs.clips, config, out, still=inputs.still)

        from motion_app.training.trainer import mover_masks, read_clips

        masks = mover_masks(read_clips(inputs.clips, fps=fps, still=inputs.still), mark)
        clips = tuple(replace(clip, mover=None) for clip in inputs.clips)
        if isinstance(config, MotionTraining):
            config = replace(config, mask="given")
        return cls(clips, config, out, tuple(masks), inputs.still)

    def made_by(self, engine: MotionEngine, on_progress: OnProgress) -> None:
        """Learn it; the motion lies in ``out`` then. Raises as ``train_motion``."""
        from motion_app.training.trainer import train_motion

        train_motion(
            self.clips,
            self.config,
            engine=engine,
            out=self.out,
            masks=self.masks,
            on_progress=on_progress,
            still=self.still,
        )


def learning_seconds(
    config: ClipTraining,
    work: Workload,
    *,
    timed: Measurement | None = None,
    video: Measurement | None = None,
) -> float:
    """How long a training holds the GPU, without what loading takes: by the last one that was
    ``timed``, else by a step of the last ``video``, else by how much there is to compute."""
    shown = 0.0
    if config.validate_every is not None:
        each = video.seconds_for(config.validation_steps) if video is not None else None
        each = each or work.rest_seconds + config.validation_steps * work.step_seconds
        shown = config.steps // config.validate_every * each
    if timed is not None:
        return shown + timed.seconds_for(config.steps)
    denoising = None if video is None else video.step_seconds
    step = work.learning_step_seconds(config.batch, denoising=denoising)
    return shown + work.learning_rest_seconds(config.views) + config.steps * step


def check_lent_seconds(seconds: float, most: float) -> None:
    """RequestError where a training asks for more than visitors are lent."""
    if seconds > most:
        raise RequestError(
            f"learning this motion would hold the GPU for about {math.ceil(seconds)} s, and a "
            f"visitor is lent {most:g} s; choose fewer steps, or learn it on your own machine and "
            "import the file"
        )
