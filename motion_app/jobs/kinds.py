"""What generate, train and evaluate do, whoever asks: the command line, the page, the queue, a
batch. Checked inputs come in, files are written, and the outcome is plain JSON.

``Workshop`` makes the items of a manifest with a model that stays loaded from one to the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

from motion_app.errors import GenerationCancelled, MotionFileError
from motion_app.jobs.content_keys import lossless_frames, training_inputs
from motion_app.jobs.manifest import Item
from motion_app.jobs.models import Models
from motion_app.jobs.stock_videos import OpenStock, generate_stock
from motion_app.library.library import Library
from motion_app.library.motion_file import SUFFIX, numbers_digest, read_motion
from motion_app.media.provenance import Certificate, certificate_of
from motion_app.media.results import make_folder, save_result
from motion_app.methods import METHOD_TABLE
from motion_app.request.request import build_request, parse_request
from motion_app.scene import Click, GenerationRequest, Motion, StepReport
from motion_app.settings import Limits, Settings
from motion_app.training.inputs import TrainingInputs

if TYPE_CHECKING:  # torch is imported by whoever computes, when it does
    from motion_app.engine.pipeline import MotionEngine
    from motion_app.evaluation.networks import Judges
    from motion_app.evaluation.report import Report
    from motion_app.evaluation.scoring import ScoreProgress, Scores
    from motion_app.evaluation.videos import EvaluationItem
    from motion_app.models.checkpoint import Checkpoint
    from motion_app.training.config import ClipTraining
    from motion_app.training.processes import Share
    from motion_app.training.trainer import TrainingReport

FILES = ("video", "gif", "recipe", "frames", "masks_zip")
QUIET = {
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
GoOn = Callable[[], bool]  # False: drop what is being made
Make = Callable[[Item, Path, GoOn], dict[str, Any]]  # into the folder; the outcome as plain JSON
Mark = Callable[[np.ndarray, Sequence[Click]], np.ndarray]  # image and clicks to a mask


def generate(
    request: GenerationRequest,
    folder: Path,
    engine: MotionEngine | Checkpoint,
    on_step: Callable[[StepReport], bool | None] | None = None,
    *,
    open_stock: OpenStock,
    badge: bool = False,
    certificate: Certificate | None = None,
    on_saving: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The video of ``request`` into ``folder``, as ``save_result`` writes it.

    Returns the names of FILES, relative to ``folder``, with "seed", "steps" and "guidance".
    ``engine``: the one of its checkpoint, or, where its options name a model of others, that
    checkpoint; ``open_stock``, ``Models.stock``, opens such a model. ``on_step`` as of
    ``MotionEngine.generate``, ``on_saving`` is called when the video is made; ``badge`` and
    ``certificate`` as of ``save_result``. Raises what those two raise.
    """
    if request.options.stock is None:
        export = engine.defaults.export
        video = cast("MotionEngine", engine).generate(request, on_step=on_step)
    else:
        export = None  # it has the size it has
        video = generate_stock(request, engine, open_stock, on_step)
    on_saving()
    saved = save_result(video, folder, export=export, badge=badge, certificate=certificate)
    named = {name: str(getattr(saved, name).relative_to(folder)) for name in FILES}
    return named | {name: video.recipe[name] for name in ("seed", "steps", "guidance")}


def train(
    inputs: TrainingInputs,
    config: ClipTraining,
    out: Path,
    engine: MotionEngine,
    mark: Mark,
    *,
    on_progress: Callable[[TrainingReport], bool | None] | None = None,
    tokens: Path | None = None,
    share: Share | None = None,
) -> Motion:
    """The motion of the clips of ``inputs``, learned as ``config`` says, in the file ``out``.

    ``mark`` is asked only where a person pointed at what moves, or an encoder looks at it;
    ``tokens`` and ``share`` as of ``train_motion``. Raises what that raises.
    """
    from motion_app.training.trainer import train_motion

    given: dict[str, Any] = {} if share is None else {"share": share}
    pointed = any(clip.mover for clip in inputs.clips)
    return train_motion(
        inputs.clips,
        config,
        engine=engine,
        out=out,
        segment=mark if pointed or METHOD_TABLE[inputs.method].encoder else None,
        tokens=tokens,
        on_progress=on_progress,
        still=inputs.still,
        **given,
    )


def learn(
    inputs: TrainingInputs,
    config: ClipTraining,
    file: Path,
    engine: MotionEngine,
    mark: Mark,
    library: Library,
    *,
    owner: str = "",
    private: bool = False,
    limits: Limits,
    on_progress: Callable[[TrainingReport], bool | None] | None = None,
    on_saving: Callable[[], None] = lambda: None,
    by: Callable[..., Motion] = train,
) -> Motion:
    """``train`` into ``file``, or what is left of it after a kill, and from there into ``library``
    with its preview, as the motion of ``owner``, a browser's token; under another name where its
    own was taken meanwhile. ``private`` shows it to nobody else.

    The library is written when the motion is finished, and not before. ``on_saving`` is called
    then; ``by`` takes the place of ``train``. Raises what ``train`` and ``Library.import_file``
    raise.
    """
    learned = _finished(file)
    if learned is None:
        learned = by(inputs, config, file, engine, mark, on_progress=on_progress)
    on_saving()
    # Where a kill came between this and the end of the job. Two motions learned from the same clip
    # have the same numbers, and are told apart by their time.
    for motion in library.list():
        alike = (motion.base, motion.created) == (learned.base, learned.created)
        if alike and numbers_digest(motion.path) == numbers_digest(learned.path):
            return motion
    return library.import_file(
        library.export_file(learned, file.parent / "export"),
        name=learned.name,
        base=engine.fingerprint,
        limits=limits,
        owner=owner,
        private=private,
        yielding=True,
    )


def _finished(file: Path) -> Motion | None:
    """The motion of a training that ended; None where there is no whole one."""
    try:
        return read_motion(file) if file.is_file() else None
    except MotionFileError:
        return None


def evaluate(
    item: EvaluationItem,
    metrics: Sequence[str],
    judges: Judges,
    *,
    library: Library,
    limits: Limits,
    mark_at: Callable[[np.ndarray, tuple[float, float]], np.ndarray],
    on_progress: Callable[[ScoreProgress], bool] | None = None,
) -> Scores:
    """The scores of one video by ``metrics``, ids of the catalogue. RequestError for another.

    ``mark_at`` marks what moves in a reference by a point (y, x) in pixels.
    """
    from motion_app.evaluation.scoring import check_metrics, score_videos

    check_metrics(metrics)
    return score_videos(
        [item],
        metrics,
        judges=judges,
        library=library,
        limits=limits,
        segment=mark_at,
        on_progress=on_progress,
    )


def _made_by(request: Mapping[str, Any] | None) -> str:
    """What a video is called in a report: its method, or the model of others that made it."""
    if request is None:
        return "video"
    return str(request.get("stock") or request["method"])


def write_scores(report: Report, folder: Path) -> dict[str, str]:
    """``report.csv``, ``.md`` and ``.tex`` in ``folder``; their names by ending."""
    folder = make_folder(folder)
    texts = {"csv": report.to_csv(), "md": report.to_markdown(), "tex": report.to_latex()}
    for ending, text in texts.items():
        (folder / f"report.{ending}").write_text(text, encoding="utf-8")
    return {ending: f"report.{ending}" for ending in texts}


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
        engine = self._models.frame(file.model, file.options)
        request = build_request(
            file,
            geometry=engine.geometry,
            library=self._library(file.model or self._settings.model),
            base=engine.fingerprint,
            limits=self._settings.limits,
        )

        def on_step(report: StepReport) -> bool:
            return go_on()

        return generate(
            request,
            folder,
            engine,
            on_step,
            open_stock=self._models.stock,
            badge=self._settings.badge,
            certificate=self._certificate,
        )

    def _train(self, item: Item, folder: Path, go_on: GoOn) -> dict[str, Any]:
        entries = {name: given for name, given in item.entries.items() if name != "model"}
        inputs, model = training_inputs(entries), item.entries["model"]
        engine = self._models.engine(model)
        config = inputs.config(engine.defaults.training_of(inputs.method))
        losses: list[float] = []

        def on_progress(report: TrainingReport) -> bool:
            losses.append(report.loss)
            return go_on()

        out = folder / f"{item.id}{SUFFIX}"
        motion = train(
            inputs, config, out, engine, self._models.mark(model), on_progress=on_progress
        )
        return {
            "motion": motion.path.name,
            "preview": motion.preview.name if motion.preview else None,
            "name": motion.name,
            "steps": config.steps,
            "last_loss": losses[-1] if losses else None,
            "clip_errors": motion.clip_errors,
        }

    def _evaluate(self, item: Item, folder: Path, go_on: GoOn) -> dict[str, Any]:
        from motion_app.evaluation.videos import EvaluationItem

        entries = item.entries
        model, request = entries["model"], entries["request"]
        if not go_on():
            raise GenerationCancelled("stopped before the first measurement, as asked")
        video = Path(entries["video"])
        scores = evaluate(
            EvaluationItem(
                item.id,
                entries["method"] or _made_by(request),
                video,
                frames=lossless_frames(video),
                request=request,
                references=tuple(Path(path) for path in entries["references"]),
                reference_masks=tuple(Path(path) for path in entries["reference_masks"]),
                folder=folder,  # no path inside the request is relative
            ),
            entries["metrics"],
            self._models.judges(),
            library=self._library(model),
            limits=self._settings.limits,
            mark_at=self._models.mark_at(model),
            on_progress=lambda progress: go_on(),
        )
        return {**scores.report.to_json(), **write_scores(scores.report, folder)}
