"""How the queue runs its two kinds of jobs: a request that waits becomes a video, clips a motion.

Jobs of the kind "generate":

    inputs   {"request": a GenerationRequest, or what ``request.request.parse_request`` reads, with
             the picture and the masks inside as data: URIs; "badge": bool; other keys are the
             page's own}
    kept     the same with the request's JSON; its picture, masks and words in ``request.npz``
    outcome  that of ``kinds.generate``, and "seconds"

Jobs of the kind "train":

    inputs   what ``TrainingInputs.to_json`` gives; the clips lie in the job's folder
    outcome  {"motion": the file in the library, "name", "steps", "seconds", "last_loss"}

A job's folder also holds its training's state, so that one that was stopped or killed goes on where
it was. The library is written when the motion is finished, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from motion_app.errors import MotionFileError, RequestError
from motion_app.geometry import GenerationDefaults, ModelGeometry
from motion_app.jobs.folder import JobRow
from motion_app.jobs.kinds import generate, train
from motion_app.jobs.progress import JobSize, KeptInputs, WaitForEngine, Work, engine_for
from motion_app.library.library import Library
from motion_app.library.motion_file import numbers_digest, read_motion
from motion_app.library.owners import LibraryUser, token_of
from motion_app.media.provenance import Certificate
from motion_app.request.phrases import PromptTokenizer
from motion_app.request.request import (
    RequestFile,
    build_request,
    checked_request,
    parse_request,
    read_request,
    request_bytes,
    request_to_json,
    with_motions,
)
from motion_app.scene import Click, GenerationRequest, Motion, StepReport
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.training.inputs import TrainingInputs

if TYPE_CHECKING:
    from motion_app.engine.pipeline import MotionEngine
    from motion_app.models.clicks import ClickSegmenter
    from motion_app.training.trainer import TrainingReport

GENERATE = "generate"
TRAIN = "train"
MOTION_FILE = "motion.safetensors"
KEPT_REQUEST = "request.npz"
DEFAULT_STEPS = 2000  # of MotionTraining, where the checkpoint says nothing
TURNED_OFF = (
    "learning motions is turned off here (MOTION_APP_TRAINING); run the app on your own machine, "
    "or train with the command line and import the file"
)


def check_generation(
    request: Mapping[str, Any] | GenerationRequest,
    *,
    geometry: ModelGeometry,
    library: Library,
    base: str | None = None,
    tokenizer: PromptTokenizer | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> GenerationRequest:
    """The request of a job, as the model will see it: everything checked that can be without it.

    A mapping comes from a browser; a GenerationRequest was put together by the page.  ``base``: the
    loaded model's fingerprint, None while it is loading; ``tokenizer`` reads the prompt. Raises
    RequestError, MediaError or MotionFileError.
    """
    shared: dict[str, Any] = {"geometry": geometry, "tokenizer": tokenizer}
    shared |= {"limits": limits, "library": library}
    if isinstance(request, GenerationRequest):
        return checked_request(with_motions(request, library, base=base), **shared)
    request_file = parse_request(request)
    _check_sources(request_file)
    return build_request(request_file, base=base, **shared)


def _check_sources(request_file: RequestFile) -> None:
    """A job comes from a browser: it names no file of this machine."""
    pictures = {"image": request_file.image}
    for number, entry in enumerate(request_file.objects, start=1):
        pictures[f"mask of object {number}"] = entry.mask
        motion = entry.motion or ""
        if "/" in motion or "\\" in motion or motion.endswith(".safetensors"):
            raise RequestError(
                f'the motion of object {number} is the file "{Path(motion).name[:60]}"; use the '
                "name of a motion in the library, or import the file first"
            )
    for what, source in pictures.items():
        if not source.startswith("data:"):
            raise RequestError(
                f'the {what} is "{source[:40]}"; send the picture itself, as a data: URI'
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerationRunner:
    """``geometry`` and ``defaults`` ask for the model's, which may be known before it is loaded;
    ``base`` for its fingerprint, None until then; ``tokenizer`` for what counts a prompt, None
    where only the engine can; ``badge`` puts the badge on every video and ``certificate`` a
    signature."""

    wait_for_engine: WaitForEngine
    library: Library
    geometry: Callable[[], ModelGeometry]
    defaults: Callable[[], GenerationDefaults]
    base: Callable[[], str | None]
    tokenizer: Callable[[], PromptTokenizer | None] = lambda: None
    badge: bool = False
    certificate: Certificate | None = None
    limits: Limits = DEFAULT_LIMITS

    def check(
        self, inputs: Mapping[str, Any], files: Sequence[str], *, owner: str = ""
    ) -> KeptInputs:
        """A mistake is told at once, not when the job's turn comes."""
        request, badge = inputs.get("request"), inputs.get("badge", False)
        if not isinstance(request, Mapping | GenerationRequest) or not isinstance(badge, bool):
            raise RequestError('a video needs {"request": the request\'s JSON, "badge": bool}')
        checked = check_generation(
            request,
            geometry=self.geometry(),
            library=self.library.seen_by(LibraryUser(token_of(owner))),
            base=self.base(),
            tokenizer=self.tokenizer(),
            limits=self.limits,
        )
        row = {**inputs, "request": request_to_json(checked, picture=KEPT_REQUEST), "badge": badge}
        return KeptInputs(row, {KEPT_REQUEST: request_bytes(checked)})

    def check_line(self, inputs: Mapping[str, Any], active: Sequence[JobRow]) -> None:
        """Two jobs may make the same video."""

    def size(self, inputs: Mapping[str, Any]) -> JobSize:
        request = inputs["request"]
        return JobSize(request["steps"] or self.defaults().steps, len(request["objects"]))

    def run(self, work: Work) -> dict[str, Any]:
        """Generate and save. Raises GenerationCancelled within the step in which it is asked to."""
        engine = engine_for(work, self.wait_for_engine)
        work.enter("preparing")
        request = self._request(work, engine)
        work.check_stop()

        def on_step(report: StepReport) -> bool:
            last = report.step == report.steps
            return work.stepped(
                report,
                step=report.step,
                steps=report.steps,
                seconds=report.seconds,
                stage="decoding" if last else "denoising",
            )

        def on_saving() -> None:
            work.check_stop()
            work.enter("saving")

        outcome = generate(
            request,
            work.folder,
            engine,
            on_step,
            badge=self.badge or bool(work.row.inputs.get("badge")),
            certificate=self.certificate,
            on_saving=on_saving,
        )
        return {**outcome, "seconds": round(work.seconds, 3)}

    def _request(self, work: Work, engine: MotionEngine) -> GenerationRequest:
        """As it was kept. Jobs of versions before 1.1 have their pictures in the row."""
        entries = work.row.inputs["request"]
        kept = work.folder / KEPT_REQUEST
        if kept.is_file():
            return read_request(kept, entries, library=self.library, base=engine.fingerprint)
        return check_generation(
            entries,
            geometry=engine.geometry,
            library=self.library,
            base=engine.fingerprint,
            limits=self.limits,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingRunner:
    """``segmenter`` gives one that follows what a person pointed at; ``defaults`` the checkpoint's
    own settings; ``tokenizer`` what counts the caption, None where only the engine can; ``enabled``
    False refuses every training, with the words ``turned_off``; ``private`` shows what is learned
    to its owner alone."""

    wait_for_engine: WaitForEngine
    library: Library
    segmenter: Callable[[], ClickSegmenter]
    defaults: Callable[[], GenerationDefaults]
    tokenizer: Callable[[], PromptTokenizer | None] = lambda: None
    enabled: bool = True
    turned_off: str = TURNED_OFF
    private: bool = False
    limits: Limits = DEFAULT_LIMITS

    def check(
        self, inputs: Mapping[str, Any], files: Sequence[str], *, owner: str = ""
    ) -> KeptInputs:
        """A wrong setting, a missing clip or a name that is taken is told at once."""
        if not self.enabled:
            raise RequestError(self.turned_off)
        asked = TrainingInputs.from_json(inputs, Path())
        asked.check_count(self.limits)
        missing = [clip.file.name for clip in asked.clips if clip.file.name not in files]
        if missing:
            raise RequestError(f"the clip {missing[0]} did not come; upload it with the training")
        self.library.new_path(asked.name)  # raises where the name is taken or cannot be
        config = asked.config(self.defaults().training_of(asked.method))
        tokenizer = self.tokenizer()
        if tokenizer is not None:
            tokenizer.check(config.caption)
        return KeptInputs(dict(inputs))

    def check_line(self, inputs: Mapping[str, Any], active: Sequence[JobRow]) -> None:
        """Of two trainings with one name the second would be refused at its very end."""
        name = str(inputs["name"]).strip()
        if any(str(row.inputs["name"]).strip() == name for row in active):
            raise RequestError(f'a motion "{name}" is being learned already; choose another name')

    def size(self, inputs: Mapping[str, Any]) -> JobSize:
        method = inputs.get("method") or "fleximmt"
        own = self.defaults().training_of(method).get("steps", DEFAULT_STEPS)
        return JobSize(inputs.get("steps") or own, objects=1)

    def run(self, work: Work) -> dict[str, Any]:
        """Learn the motion, or what is left of it, and bring it into the library."""
        engine = engine_for(work, self.wait_for_engine)
        work.enter("encoding_clips")
        asked = TrainingInputs.from_json(work.row.inputs, work.folder)
        config = asked.config(engine.defaults.training_of(asked.method))
        steps = _Steps(work)
        learned = _finished(work.folder / MOTION_FILE)
        if learned is None:
            learned = train(
                asked, config, work.folder / MOTION_FILE, engine, self._segment, on_progress=steps
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
        return self.segmenter().segment(image, clicks).mask

    def _publish(self, learned: Motion, work: Work, engine: MotionEngine) -> Motion:
        """``learned`` into the library, with its preview, as the motion of the job's owner; under
        another name where its own was taken meanwhile. Where a kill came between this and the end
        of the job it is there already."""
        for motion in self.library.list():
            alike = (motion.base, motion.created) == (learned.base, learned.created)
            if alike and numbers_digest(motion.path) == numbers_digest(learned.path):
                return motion
        parcel = self.library.export_file(learned, work.folder / "export")
        return self.library.import_file(
            parcel,
            name=learned.name,
            base=engine.fingerprint,
            limits=self.limits,
            owner=token_of(work.row.owner),
            private=self.private,
            yielding=True,
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
