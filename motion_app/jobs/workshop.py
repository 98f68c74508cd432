"""Makes the items of a manifest with a model that stays loaded from one to the next."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from motion_app.assignment import build_request, parse_request
from motion_app.errors import GenerationCancelled
from motion_app.jobs.generation import FILES
from motion_app.jobs.handling import GoOn
from motion_app.jobs.ingredients import lossless_frames, training_inputs
from motion_app.jobs.manifest import Item
from motion_app.library import SUFFIX, Library
from motion_app.models import Models
from motion_app.results import save_result
from motion_app.scene import StepReport
from motion_app.settings import Settings
from motion_app.signing import certificate_of

if TYPE_CHECKING:
    from motion_app.training.trainer import TrainingReport

QUIET = {
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


@dataclass(frozen=True)
class Bench:
    """Where a worker stands: ``device`` None for the best there is, ``threads`` of the CPU."""

    settings: Settings
    device: str | None = None
    threads: int = 1

    def models(self) -> Models:
        """What is loaded there; nothing is yet."""
        return Models(self.settings, device=self.device, threads=self.threads)


class Workshop:
    """Loads nothing until an item needs it, and keeps the model of the last one."""

    def __init__(self, bench: Bench) -> None:
        self._settings, self._models = bench.settings, bench.models()
        self._certificate = certificate_of(bench.settings)
        os.environ.update(QUIET)
        cv2.setNumThreads(bench.threads)

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
        from motion_app.evaluation.items import EvaluationItem
        from motion_app.evaluation.scoring import score_videos

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
