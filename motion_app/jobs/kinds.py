"""The kinds of jobs: what generate, train and evaluate do.

Jobs of the kind "generate": a request becomes a video and its files.

inputs   {"request": what ``request.request.parse_request`` reads, with the picture and the masks
         inside as data: URIs; "badge": bool; any other key is the page's own}
outcome  {"video", "gif", "recipe", "frames", "masks_zip": file names in the job's folder;
         "seed", "steps", "guidance", "seconds"}

Jobs of the kind "train": reference clips become a motion in the library.

    inputs   what ``TrainingInputs.to_json`` gives; the clips lie in the job's folder
    outcome  {"motion": the file in the library, "name", "steps", "seconds", "last_loss"}

The job's folder also holds the training's state, so that one that was stopped or killed goes on
where it was. The library is written when the motion is finished, and not before.

Makes the items of a manifest with a model that stays loaded from one to the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from motion_app.errors import GenerationCancelled, MotionFileError, RequestError
from motion_app.geometry import GenerationDefaults, ModelGeometry
from motion_app.jobs.content_keys import lossless_frames, training_inputs
from motion_app.jobs.folder import JobRow
from motion_app.jobs.manifest import Item
from motion_app.jobs.models import Models
from motion_app.jobs.progress import JobSize, WaitForEngine, Work, engine_for
from motion_app.library.library import Library, token_of
from motion_app.library.motion_file import SUFFIX, read_motion
from motion_app.media.provenance import Certificate, certificate_of
from motion_app.media.results import SavedVideo, make_folder, save_result
from motion_app.request.prompt_tokenizer import PromptTokenizer
from motion_app.request.request import RequestFile, build_request, parse_request, request_to_json
from motion_app.scene import Click, GenerationRequest, Motion, StepReport
from motion_app.settings import DEFAULT_LIMITS, Limits, Settings
from motion_app.training.inputs import TrainingInputs

if TYPE_CHECKING:
    from motion_app.engine.pipeline import MotionEngine
    from motion_app.models.clicks import ClickSegmenter
    from motion_app.training.trainer import TrainingReport

GENERATE = "generate"
FILES = ("video", "gif", "recipe", "frames", "masks_zip")
TRAIN = "train"
MOTION_FILE = "motion.safetensors"
DEFAULT_STEPS = 2000  # of MotionTraining, where the checkpoint says nothing
TURNED_OFF = (
    "learning motions is turned off here (MOTION_APP_TRAINING); run the app on your own machine, "
    "or train with the command line and import the file"
)
QUIET = {
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
GoOn = Callable[[], bool]  # False: drop what is being made
Make = Callable[[Item, Path, GoOn], dict[str, Any]]  # into the folder; the outcome as plain JSON


def check_generation(
    request: Mapping[str, Any] | RequestFile,
    *,
    geometry: ModelGeometry,
    library: Library,
    base: str | None = None,
    badge: bool = False,
    tokenizer: PromptTokenizer | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> dict[str, Any]:
    """The inputs of a job that makes the video of ``request``: everything checked that can be
    without the model, and the picture as the model will see it.

    ``base``: the loaded model's fingerprint, None while it is loading; ``badge``: a visible
    "AI-generated" on the video; ``tokenizer`` counts the prompt. Raises RequestError, MediaError
    or MotionFileError.
    """
    entries = dict(request) if isinstance(request, Mapping) else request.model_dump()
    built = _built(
        entries,
        geometry=geometry,
        library=library,
        base=base,
        tokenizer=tokenizer,
        limits=limits,
    )
    return {"request": request_to_json(built), "badge": badge}


def _built(
    entries: Mapping[str, Any],
    *,
    geometry: ModelGeometry,
    library: Library,
    base: str | None,
    limits: Limits,
    tokenizer: PromptTokenizer | None = None,
) -> GenerationRequest:
    request_file = parse_request(entries)
    _check_sources(request_file)
    return build_request(
        request_file,
        geometry=geometry,
        library=library,
        base=base,
        tokenizer=tokenizer,
        limits=limits,
    )


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


class GenerationRunner:
    """``geometry`` and ``defaults`` ask for the model's, which may be known before it is loaded;
    ``base`` for its fingerprint, None until then; ``tokenizer`` for what counts a prompt, None
    where only the engine can; ``badge`` puts the badge on every video and ``certificate`` a
    signature."""

    def __init__(
        self,
        *,
        wait_for_engine: WaitForEngine,
        library: Library,
        geometry: Callable[[], ModelGeometry],
        defaults: Callable[[], GenerationDefaults],
        base: Callable[[], str | None],
        tokenizer: Callable[[], PromptTokenizer | None] = lambda: None,
        badge: bool = False,
        certificate: Certificate | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._wait_for_engine = wait_for_engine
        self._library = library
        self._geometry = geometry
        self._defaults = defaults
        self._base = base
        self._tokenizer = tokenizer
        self._badge = badge
        self._certificate = certificate
        self._limits = limits

    def check(self, inputs: Mapping[str, Any], files: Sequence[str]) -> dict[str, Any]:
        """A mistake is told at once, not when the job's turn comes."""
        request, badge = inputs.get("request"), inputs.get("badge", False)
        if not isinstance(request, Mapping) or not isinstance(badge, bool):
            raise RequestError('a video needs {"request": the request\'s JSON, "badge": bool}')
        checked = check_generation(
            request,
            geometry=self._geometry(),
            library=self._library,
            base=self._base(),
            badge=badge,
            tokenizer=self._tokenizer(),
            limits=self._limits,
        )
        return {**inputs, **checked}

    def check_line(self, inputs: Mapping[str, Any], active: Sequence[JobRow]) -> None:
        """Two jobs may make the same video."""

    def size(self, inputs: Mapping[str, Any]) -> JobSize:
        request = parse_request(inputs["request"])
        return JobSize(request.steps or self._defaults().steps, len(request.objects))

    def run(self, work: Work) -> dict[str, Any]:
        """Generate and save. Raises GenerationCancelled within the step in which it is asked to."""
        engine = engine_for(work, self._wait_for_engine)
        work.enter("preparing")
        request = _built(
            work.row.inputs["request"],
            geometry=engine.geometry,
            library=self._library,
            base=engine.fingerprint,
            limits=self._limits,
        )
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

        video = engine.generate(request, on_step=on_step)
        work.check_stop()
        work.enter("saving")
        badge = self._badge or bool(work.row.inputs.get("badge"))
        saved = save_result(
            video,
            work.folder,
            export=engine.defaults.export,
            badge=badge,
            certificate=self._certificate,
        )
        return {
            **_named(saved, work.folder),
            "seed": video.recipe["seed"],
            "steps": video.recipe["steps"],
            "guidance": video.recipe["guidance"],
            "seconds": round(work.seconds, 3),
        }


def _named(saved: SavedVideo, folder: Path) -> dict[str, str]:
    """The result's files relative to the job's folder."""
    return {name: str(getattr(saved, name).relative_to(folder)) for name in FILES}


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


@dataclass(frozen=True)
class WorkerConfig:
    """How a worker loads models: ``device`` None for the best there is, ``threads`` of the CPU."""

    settings: Settings
    device: str | None = None
    threads: int = 1

    def models(self) -> Models:
        """What is loaded there; nothing is yet."""
        return Models(self.settings, device=self.device, threads=self.threads)


class Workshop:
    """Loads nothing until an item needs it, and keeps the model of the last one."""

    def __init__(self, config: WorkerConfig) -> None:
        self._settings, self._models = config.settings, config.models()
        self._certificate = certificate_of(config.settings)
        os.environ.update(QUIET)
        cv2.setNumThreads(config.threads)

    def make(self, item: Item, folder: Path, go_on: GoOn) -> dict[str, Any]:
        """``item`` into ``folder``; the outcome, its files named relative to that. Raises
        MotionAppError for a mistake, GenerationCancelled once ``go_on`` says so."""
        makers = {"generate": self._generate, "train": self._train, "evaluate": self._evaluate}
        return makers[item.kind](item, folder, go_on)

    def _library(self, model: str) -> Library:
        return Library(self._settings.motion_folders(model))

    def _generate(self, item: Item, folder: Path, go_on: GoOn) -> dict[str, Any]:
        file = parse_request(item.entries)
        engine = self._models.engine(file.model)
        request = build_request(
            file,
            geometry=engine.geometry,
            library=self._library(file.model or self._settings.model),
            base=engine.fingerprint,
            limits=self._settings.limits,
        )

        def on_step(report: StepReport) -> bool:
            return go_on()

        video = engine.generate(request, on_step=on_step)
        saved = save_result(
            video,
            folder,
            export=engine.defaults.export,
            badge=self._settings.badge,
            certificate=self._certificate,
        )
        named = {name: str(getattr(saved, name).relative_to(folder)) for name in FILES}
        return named | {name: video.recipe[name] for name in ("seed", "steps", "guidance")}

    def _train(self, item: Item, folder: Path, go_on: GoOn) -> dict[str, Any]:
        from motion_app.training.trainer import train_motion

        entries = {name: given for name, given in item.entries.items() if name != "model"}
        inputs, model = training_inputs(entries), item.entries["model"]
        engine = self._models.engine(model)
        config = inputs.config(engine.defaults.training_of(inputs.method))
        losses: list[float] = []

        def on_progress(report: TrainingReport) -> bool:
            losses.append(report.loss)
            return go_on()

        pointed = any(clip.mover for clip in inputs.clips)
        motion = train_motion(
            inputs.clips,
            config,
            engine=engine,
            out=folder / f"{item.id}{SUFFIX}",
            segment=self._models.mark(model) if pointed else None,
            on_progress=on_progress,
            still=inputs.still,
        )
        return {
            "motion": motion.path.name,
            "preview": motion.preview.name if motion.preview else None,
            "name": motion.name,
            "steps": config.steps,
            "last_loss": losses[-1] if losses else None,
        }

    def _evaluate(self, item: Item, folder: Path, go_on: GoOn) -> dict[str, Any]:
        from motion_app.evaluation.scoring import score_videos
        from motion_app.evaluation.videos import EvaluationItem

        entries = item.entries
        model, request = entries["model"], entries["request"]
        if not go_on():
            raise GenerationCancelled("stopped before the first measurement, as asked")
        video = Path(entries["video"])
        scores = score_videos(
            [
                EvaluationItem(
                    item.id,
                    entries["method"] or (request["method"] if request else "video"),
                    video,
                    frames=lossless_frames(video),
                    request=request,
                    references=tuple(Path(path) for path in entries["references"]),
                    reference_masks=tuple(Path(path) for path in entries["reference_masks"]),
                    folder=folder,  # no path inside the request is relative
                )
            ],
            entries["metrics"],
            judges=self._models.judges(),
            library=self._library(model),
            limits=self._settings.limits,
            segment=self._models.mark_at(model),
            on_progress=lambda progress: go_on(),
        )
        report = scores.report
        texts = {"csv": report.to_csv(), "md": report.to_markdown(), "tex": report.to_latex()}
        for ending, text in texts.items():
            (folder / f"report.{ending}").write_text(text, encoding="utf-8")
        return {**report.to_json(), **{ending: f"report.{ending}" for ending in texts}}
