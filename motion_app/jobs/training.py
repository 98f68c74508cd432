"""Jobs of the kind "train": reference clips become a motion in the library.

    inputs   what ``TrainingInputs.to_json`` gives; the clips lie in the job's folder
    outcome  {"motion": the file in the library, "name", "steps", "seconds", "last_loss"}

The job's folder also holds the training's state, so that one that was stopped or killed goes on
where it was. The library is written when the motion is finished, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from motion_app.errors import MotionFileError, RequestError
from motion_app.geometry import GenerationDefaults
from motion_app.jobs.store import JobRow
from motion_app.jobs.timing import JobSize
from motion_app.jobs.work import WaitForEngine, Work, engine_for
from motion_app.library import Library, read_motion
from motion_app.ownership import token_of
from motion_app.prompt_tokenizer import PromptTokenizer
from motion_app.results import make_folder
from motion_app.scene import Click, Motion
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.training.inputs import TrainingInputs

if TYPE_CHECKING:
    from motion_app.engine.pipeline import MotionEngine
    from motion_app.segmentation import ClickSegmenter
    from motion_app.training.trainer import TrainingReport

KIND = "train"
MOTION_FILE = "motion.safetensors"
DEFAULT_STEPS = 2000  # of MotionTraining, where the checkpoint says nothing
TURNED_OFF = (
    "learning motions is turned off here (MOTION_APP_TRAINING); run the app on your own machine, "
    "or train with the command line and import the file"
)


class TrainingRunner:
    """``segmenter`` gives one that follows what a person pointed at; ``defaults`` the checkpoint's
    own settings; ``tokenizer`` what counts the caption, None where only the engine can; ``enabled``
    False refuses every training, with the words ``turned_off``."""

    def __init__(
        self,
        *,
        wait_for_engine: WaitForEngine,
        library: Library,
        segmenter: Callable[[], ClickSegmenter],
        defaults: Callable[[], GenerationDefaults],
        tokenizer: Callable[[], PromptTokenizer | None] = lambda: None,
        enabled: bool = True,
        turned_off: str = TURNED_OFF,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._wait_for_engine = wait_for_engine
        self._library = library
        self._segmenter = segmenter
        self._defaults = defaults
        self._tokenizer = tokenizer
        self._enabled = enabled
        self._turned_off = turned_off
        self._limits = limits

    def check(self, inputs: Mapping[str, Any], files: Sequence[str]) -> dict[str, Any]:
        """A wrong setting, a missing clip or a name that is taken is told at once."""
        if not self._enabled:
            raise RequestError(self._turned_off)
        asked = TrainingInputs.from_json(inputs, Path())
        asked.check_count(self._limits)
        missing = [clip.file.name for clip in asked.clips if clip.file.name not in files]
        if missing:
            raise RequestError(f"the clip {missing[0]} did not come; upload it with the training")
        self._library.new_path(asked.name)  # raises where the name is taken or cannot be
        config = asked.config(self._defaults().training_of(asked.method))
        tokenizer = self._tokenizer()
        if tokenizer is not None:
            tokenizer.check(config.caption)
        return dict(inputs)

    def check_line(self, inputs: Mapping[str, Any], active: Sequence[JobRow]) -> None:
        """Of two trainings with one name the second would be refused at its very end."""
        name = str(inputs["name"]).strip()
        if any(str(row.inputs["name"]).strip() == name for row in active):
            raise RequestError(f'a motion "{name}" is being learned already; choose another name')

    def size(self, inputs: Mapping[str, Any]) -> JobSize:
        method = inputs.get("method") or "fleximmt"
        own = self._defaults().training_of(method).get("steps", DEFAULT_STEPS)
        return JobSize(inputs.get("steps") or own, objects=1)

    def run(self, work: Work) -> dict[str, Any]:
        """Learn the motion, or what is left of it, and bring it into the library."""
        from motion_app.training.trainer import train_motion

        engine = engine_for(work, self._wait_for_engine)
        work.enter("encoding_clips")
        asked = TrainingInputs.from_json(work.row.inputs, work.folder)
        config = asked.config(engine.defaults.training_of(asked.method))
        steps = _Steps(work)
        learned = _finished(work.folder / MOTION_FILE) or train_motion(
            asked.clips,
            config,
            engine=engine,
            out=work.folder / MOTION_FILE,
            segment=self._segment if any(clip.mover for clip in asked.clips) else None,
            on_progress=steps,
            still=asked.still,
        )
        work.enter("saving")
        motion = self._publish(learned, work, engine)
        return {
            "motion": str(motion.path),
            "name": motion.name,
            "steps": config.steps,
            "seconds": round(work.seconds, 1),
            "last_loss": steps.last_loss,
        }

    def _segment(self, image: np.ndarray, clicks: Sequence[Click]) -> np.ndarray:
        segmenter = self._segmenter()
        segmenter.set_image(image)
        return segmenter.predict(clicks).mask

    def _publish(self, learned: Motion, work: Work, engine: MotionEngine) -> Motion:
        """``learned`` into the library, with its preview, as the motion of the job's owner. Where a
        kill came between this and the end of the job it is there already."""
        made = (learned.name, learned.base, learned.created)
        for motion in self._library.list():
            if (motion.name, motion.base, motion.created) == made:
                return motion
        make_folder(self._library.home)
        parcel = self._library.export_file(learned, work.folder / "export")
        return self._library.import_file(
            parcel,
            name=learned.name,
            base=engine.fingerprint,
            limits=self._limits,
            owner=token_of(work.row.owner),
        )


class _Steps:
    """The trainer's ``on_progress``: hands its reports on."""

    def __init__(self, work: Work) -> None:
        self.last_loss: float | None = None
        self._work = work
        self._seconds = 0.0

    def __call__(self, report: TrainingReport) -> bool:
        self.last_loss = report.loss
        seconds, self._seconds = report.seconds - self._seconds, report.seconds
        return self._work.stepped(
            report, step=report.step, steps=report.steps, seconds=seconds, stage="training"
        )


def _finished(path: Path) -> Motion | None:
    """The motion of a job that was killed after its last step; None where there is no whole one."""
    try:
        return read_motion(path) if path.is_file() else None
    except MotionFileError:
        return None
