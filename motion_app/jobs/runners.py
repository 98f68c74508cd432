"""How the queue runs its two kinds of jobs: a request that waits becomes a video, clips a motion.
A request may name motions that have still to be learned; then its job does that first.

Jobs of the kind "generate":

    inputs   {"request": a GenerationRequest, or what ``request.request.parse_request`` reads, with
             the picture and the masks inside as data: URIs; "badge": bool; "learn": the motions
             that are to be learned for it, each as the inputs of a job of the kind "train", [] for
             none; other keys are the page's own}
    kept     the same with the request's JSON; its picture, masks and words in ``request.npz``
    outcome  that of ``kinds.generate``, "seconds", and "learned": what was, where anything was,
             each as the outcome of a job of the kind "train" without its file

Jobs of the kind "train":

    inputs   what ``TrainingInputs.to_json`` gives; the clips lie in the job's folder
    outcome  {"motion": the file in the library, "name", "steps", "seconds", "last_loss",
             "clip_errors": as ``Motion.clip_errors``}

A job's folder also holds the state of its trainings, so that one that was stopped or killed goes on
where it was. What is learned stays in the library, whatever becomes of the video.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from motion_app.errors import RequestError
from motion_app.geometry import GenerationDefaults, ModelGeometry
from motion_app.jobs.folder import JobRow
from motion_app.jobs.kinds import generate, learn, train
from motion_app.jobs.progress import KeptInputs, WaitForEngine, Work, engine_for
from motion_app.jobs.stock_videos import OpenStock, no_stock
from motion_app.jobs.timings import JobPart, JobSize
from motion_app.library.library import AwaitedLibrary, Library
from motion_app.library.owners import LibraryUser, token_of
from motion_app.media.provenance import Certificate
from motion_app.methods import WAYS
from motion_app.models.stock_files import StockModel
from motion_app.request.kept import read_request, request_bytes, with_motions
from motion_app.request.phrases import PromptTokenizer
from motion_app.request.request import RequestFile, build_request, checked_request, parse_request
from motion_app.request.written import request_to_json
from motion_app.scene import Click, GenerationRequest, Motion, StepReport
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.training.config import ClipTraining, own_steps
from motion_app.training.inputs import TrainingInputs

if TYPE_CHECKING:
    from motion_app.engine.pipeline import MotionEngine
    from motion_app.models.clicks import PictureSegmenter
    from motion_app.training.trainer import TrainingReport

GENERATE = "generate"
TRAIN = "train"
MOTION_FILE = "motion.safetensors"
KEPT_REQUEST = "request.npz"
TURNED_OFF = (
    "learning motions is turned off here (MOTION_APP_TRAINING); run the app on your own machine, "
    "or train with the command line and import the file"
)


def training_size(method: str, steps: int) -> JobSize:
    """What the time of learning by ``method`` depends on. A step of any of WAYS is alike."""
    return JobSize(max(1, steps), objects=1, method="" if method in WAYS else method)


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
    pictures: dict[str, str | None] = {"image": request_file.image}
    for number, entry in enumerate(request_file.objects, start=1):
        pictures[f"mask of object {number}"] = entry.mask
        motion = entry.motion or ""
        if "/" in motion or "\\" in motion or motion.endswith(".safetensors"):
            raise RequestError(
                f'the motion of object {number} is the file "{Path(motion).name[:60]}"; use the '
                "name of a motion in the library, or import the file first"
            )
    for what, source in pictures.items():
        if source is not None and not source.startswith("data:"):
            raise RequestError(
                f'the {what} is "{source[:40]}"; send the picture itself, as a data: URI'
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerationRunner:
    """``geometry`` and ``defaults`` ask for the model's, which may be known before it is loaded;
    ``base`` for its fingerprint, None until then; ``tokenizer`` for what counts a prompt, None
    where only the engine can; ``training`` learns what a request's motions still lack; ``badge``
    puts the badge on every video and ``certificate`` a signature. ``stock`` asks what the models of
    others that are offered take where nothing is asked, by name; ``open_stock`` opens one."""

    wait_for_engine: WaitForEngine
    library: Library
    geometry: Callable[[], ModelGeometry]
    defaults: Callable[[], GenerationDefaults]
    base: Callable[[], str | None]
    training: TrainingRunner
    tokenizer: Callable[[], PromptTokenizer | None] = lambda: None
    badge: bool = False
    certificate: Certificate | None = None
    stock: Callable[[], Mapping[str, StockModel]] = dict
    open_stock: OpenStock = no_stock
    limits: Limits = DEFAULT_LIMITS

    def check(
        self, inputs: Mapping[str, Any], files: Sequence[str], *, owner: str = ""
    ) -> KeptInputs:
        """A mistake is told at once, not when the job's turn comes."""
        request, badge = inputs.get("request"), inputs.get("badge", False)
        if not isinstance(request, Mapping | GenerationRequest) or not isinstance(badge, bool):
            raise RequestError('a video needs {"request": the request\'s JSON, "badge": bool}')
        lessons = self._lessons(inputs, files, owner)
        seen = self.library.seen_by(LibraryUser(token_of(owner)))
        checked = check_generation(
            request,
            geometry=self.geometry(),
            library=AwaitedLibrary(seen, [lesson.awaited() for lesson in lessons]),
            base=self.base(),
            tokenizer=self.tokenizer(),
            limits=self.limits,
        )
        self._check_stock(checked.options.stock)
        wanted = {item.motion.name for item in checked.objects if item.motion is not None}
        unused = [lesson.name for lesson in lessons if lesson.name.strip() not in wanted]
        if unused:
            raise RequestError(
                f'the motion "{unused[0]}" is to be learned and is given to no object; name it as '
                "the motion of one"
            )
        row = {**inputs, "request": request_to_json(checked, picture=KEPT_REQUEST), "badge": badge}
        return KeptInputs(row, {KEPT_REQUEST: request_bytes(checked)})

    def _check_stock(self, name: str | None) -> None:
        known = self.stock()
        if name is not None and name not in known:
            offered = f"choose one of {', '.join(known)}, or " if known else ""
            raise RequestError(
                f'the model "{name[:80]}" is not offered here; {offered}leave "stock" out for the '
                "checkpoint itself"
            )

    def _lessons(
        self, inputs: Mapping[str, Any], files: Sequence[str], owner: str
    ) -> list[TrainingInputs]:
        """What is to be learned first, each checked as a training of its own."""
        asked = inputs.get("learn") or []
        if not isinstance(asked, list) or not all(isinstance(item, Mapping) for item in asked):
            raise RequestError(f'"learn" is a list of trainings, got {str(asked)[:40]!r}')
        for lesson in asked:
            self.training.check(lesson, files, owner=owner)
        lessons = [TrainingInputs.from_json(lesson, Path()) for lesson in asked]
        names = [lesson.name.strip() for lesson in lessons]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise RequestError(
                f'two motions to be learned are called "{twice[0]}"; give one another name'
            )
        return lessons

    def check_line(self, inputs: Mapping[str, Any], active: Sequence[JobRow]) -> None:
        """Two jobs may make the same video, and wait for the same motion."""
        for lesson in inputs.get("learn") or ():
            if not any(_same_lesson(lesson, other) for row in active for other in _lessons_of(row)):
                _check_name(lesson, active)

    def parts(self, inputs: Mapping[str, Any]) -> tuple[JobPart, ...]:
        request = inputs["request"]
        stock = request.get("stock")
        defaults = self.stock().get(stock) or self.defaults()
        method = request["method"] if stock is None else f"{request['method']}: {stock}"
        size = JobSize(request["steps"] or defaults.steps, len(request["objects"]), method)
        lessons = inputs.get("learn") or ()
        learning = (part for lesson in lessons for part in self.training.parts(lesson))
        return (*learning, JobPart(GENERATE, size))

    def run(self, work: Work) -> dict[str, Any]:
        """Learn what is to be learned, generate and save. Raises GenerationCancelled within the
        step in which it is asked to."""
        learned: list[dict[str, Any]] = []
        called: dict[str, str] = {}  # the names that motions got by those they were asked for
        for number, entries in enumerate(work.row.inputs.get("learn") or (), start=1):
            lesson = TrainingInputs.from_json(entries, work.folder)
            file = work.folder / MOTION_FILE.replace(".", f"-{number}.")
            outcome = self.training.known(lesson, work.row.owner)
            outcome = outcome or self.training.learn(lesson, work, file)
            learned.append({name: told for name, told in outcome.items() if name != "motion"})
            called[lesson.name.strip()] = outcome["name"]
            work.next_part()
        made = self._generate(work, called)
        made["seconds"] = round(work.seconds, 3)
        return made | ({"learned": learned} if learned else {})

    def _generate(self, work: Work, called: Mapping[str, str]) -> dict[str, Any]:
        engine = engine_for(work, self.wait_for_engine)
        work.enter("preparing")
        request = self._request(work, engine, called)
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

        return generate(
            request,
            work.folder,
            engine,
            on_step,
            open_stock=self.open_stock,
            badge=self.badge or bool(work.row.inputs.get("badge")),
            certificate=self.certificate,
            on_saving=on_saving,
        )

    def _request(
        self, work: Work, engine: MotionEngine, called: Mapping[str, str]
    ) -> GenerationRequest:
        """As it was kept. Jobs of versions before 1.1 have their pictures in the row."""
        entries = dict(work.row.inputs["request"])
        entries["objects"] = [
            item | {"motion": called.get(item.get("motion"), item.get("motion"))}
            for item in entries["objects"]
        ]
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
    to its owner alone. ``train`` is ``kinds.train`` or takes its place, and ``check_cost`` refuses
    what is too long for a device that is lent."""

    wait_for_engine: WaitForEngine
    library: Library
    segmenter: Callable[[], PictureSegmenter]
    defaults: Callable[[], GenerationDefaults]
    tokenizer: Callable[[], PromptTokenizer | None] = lambda: None
    enabled: bool = True
    turned_off: str = TURNED_OFF
    private: bool = False
    limits: Limits = DEFAULT_LIMITS
    train: Callable[..., Motion] = train
    check_cost: Callable[[ClipTraining], None] = lambda config: None

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
        self.library.check_room(LibraryUser(token_of(owner)))
        config = asked.config(self.defaults().training_of(asked.method))
        self.check_cost(config)
        tokenizer = self.tokenizer()
        if tokenizer is not None:
            tokenizer.check(config.caption)
        return KeptInputs(dict(inputs))

    def check_line(self, inputs: Mapping[str, Any], active: Sequence[JobRow]) -> None:
        """Of two trainings with one name the second would be refused at its very end."""
        _check_name(inputs, active)

    def parts(self, inputs: Mapping[str, Any]) -> tuple[JobPart, ...]:
        method = inputs.get("method") or "fleximmt"
        own = own_steps(method, self.defaults().training_of(method))
        size = training_size(method, inputs.get("steps") or own)
        return (JobPart(TRAIN, size, str(inputs["name"]).strip()),)

    def run(self, work: Work) -> dict[str, Any]:
        """Learn the motion, or what is left of it, and bring it into the library."""
        asked = TrainingInputs.from_json(work.row.inputs, work.folder)
        return self.learn(asked, work, work.folder / MOTION_FILE)

    def learn(self, asked: TrainingInputs, work: Work, file: Path) -> dict[str, Any]:
        """``kinds.learn`` as a part of ``work``, by way of ``file`` in its folder; the outcome."""
        engine = engine_for(work, self.wait_for_engine)
        work.enter("encoding_clips")
        config = asked.config(engine.defaults.training_of(asked.method))
        steps = _Steps(work)
        motion = learn(
            asked,
            config,
            file,
            engine,
            self._segment,
            self.library,
            owner=token_of(work.row.owner),
            private=self.private,
            limits=self.limits,
            on_progress=steps,
            on_saving=lambda: work.enter("saving"),
            by=self.train,
        )
        return {
            "motion": str(motion.path),
            "name": motion.name,
            "steps": config.steps,
            "seconds": round(work.seconds, 1),
            "last_loss": steps.last_loss,
            "clip_errors": motion.clip_errors,
        }

    def known(self, asked: TrainingInputs, owner: str) -> dict[str, Any] | None:
        """The outcome of ``asked`` where a job before this one, which is ``owner``'s, has learned
        it; else None. Names are unique among what is in the library and in the line, so that its
        words tell it."""
        config = asked.config(self.defaults().training_of(asked.method))
        for motion in self.library.seen_by(LibraryUser(token_of(owner))).list():
            words = (motion.name, motion.phrase, motion.noun, motion.steps)
            if words == (config.name, config.phrase, config.noun, config.steps):
                path = str(motion.path)
                return {"motion": path, "name": motion.name, "steps": 0, "seconds": 0.0}
        return None

    def _segment(self, image: np.ndarray, clicks: Sequence[Click]) -> np.ndarray:
        return self.segmenter().segment(image, clicks).mask


def _lessons_of(row: JobRow) -> Sequence[Mapping[str, Any]]:
    """What a job learns."""
    return [row.inputs] if row.kind == TRAIN else row.inputs.get("learn") or ()


def _same_lesson(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether both learn the same from the same. A page names clips by what is in them."""
    keys = (*("name", "phrase", "noun", "method", "steps", "still"), *("clips", "trim", "crop"))
    return all(one.get(key) == other.get(key) for key in (*keys, "mover"))


def _check_name(lesson: Mapping[str, Any], active: Sequence[JobRow]) -> None:
    name = str(lesson["name"]).strip()
    if any(str(other["name"]).strip() == name for row in active for other in _lessons_of(row)):
        raise RequestError(f'a motion "{name}" is being learned already; choose another name')


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
