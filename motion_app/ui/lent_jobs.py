"""Jobs that are done inside the call that follows them, where the device is lent to each call, and
what it costs a visitor to learn a motion there.

On ZeroGPU a call brings its visitor's own share of the GPU with it, and gives it back when it ends:
there is no line of ours, and no thread of ours that could work on after the visitor has left.
No gradio here.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator
from contextvars import copy_context
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from motion_app.errors import RequestError
from motion_app.jobs.kinds import Mark
from motion_app.jobs.progress import JobProgress, Work, attempt
from motion_app.jobs.queue import JobQueue
from motion_app.jobs.timings import Measurement
from motion_app.training.config import ClipTraining, MotionTraining
from motion_app.training.inputs import ClipSelection, TrainingInputs

if TYPE_CHECKING:
    from motion_app.engine.footprint import Workload
    from motion_app.engine.pipeline import MotionEngine
    from motion_app.training.trainer import TrainingReport

LEFT_ALONE_SECONDS = 120.0  # nobody waits before following: who has not come by then has left
OnProgress = Callable[["TrainingReport"], bool | None]


class CallQueue(JobQueue):
    """A JobQueue without a worker: the first who follows a waiting job does it, in the context of
    their own call, and stops it by leaving."""

    def start(self) -> None:
        """Open the folder, so that a mistake is told now."""
        with self._changed:
            self._stopping = False
            self.store  # noqa: B018

    def follow(self, job_id: str, *, every: float = 1.0) -> Generator[JobProgress, None, None]:
        """Do the job if it waits, telling of it as ``watch`` does; closing the iterator stops the
        job within one step. One that somebody else does is only watched."""
        work = self._claim(job_id)
        if work is None:
            yield from self.watch(job_id, every=every)
            return
        # The caller's context says whose share of the GPU is used.
        context = copy_context()
        threading.Thread(target=context.run, args=(self._do, work), name="attended-job").start()
        try:
            yield from self.watch(job_id, every=every)
        finally:
            work.ask_to_stop("cancelled")  # nothing to one that has ended

    def check_unattended(self) -> None:
        """RequestError always: a job is done only while somebody follows it."""
        raise RequestError(
            "a GPU is lent to a call only while it is open, so that no job can run behind it; use "
            "generate, which waits for the video"
        )

    def _check_quota(self, owner: str, address: str = "") -> None:
        """Jobs that nobody came to follow make room first; no worker would ever take them."""
        with self._changed:
            self.store  # noqa: B018  what waits from before counts
            for work in self._line.waiting:
                if work.progress(None).elapsed > LEFT_ALONE_SECONDS:
                    self._end(work, "interrupted", message="its page was left; run it again")
            super()._check_quota(owner, address)

    def _claim(self, job_id: str) -> Work | None:
        """The job, if it waits, as begun; None for any other."""
        with self._changed:
            row = self.row(job_id)
            work = self._line.find(job_id)
            if work is None or row.state != "queued" or self._stopping:
                return None
            work.begin(self.store.update(job_id, state="running", started=time.time()))
            return work

    def _do(self, work: Work) -> None:
        self._settle(work, attempt(self._runner(work.row.kind), work))

    def _moved(self) -> None:
        """Nobody waits for anybody else."""
        for work in self._line.waiting:
            work.placed(0, self.timings)
        self._changed.notify_all()

    def _seconds_left(self, work: Work) -> float | None:
        return work.seconds_left()


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

        from motion_app.training.seen_clips import mover_masks, read_clips

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
