"""Variants of the method, and one loaded checkpoint that runs them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import GenerationCancelled, MotionAppError
from motion_app.evaluation.cases import BenchmarkCase
from motion_app.evaluation.extractors import FlowPair
from motion_app.evaluation.strata import crowded_reference
from motion_app.evaluation.variants import Variant
from motion_app.models import Models
from motion_app.scene import GenerationRequest, Motion, SceneObject, StepReport
from motion_app.training.config import MotionTraining
from motion_app.training.mover import follow_mover, inner_points
from motion_app.training.trainer import train_motion
from motion_app.video import Clip


@dataclass(frozen=True, eq=False)
class MadeVideo:
    """``frames`` (T, H, W, 3) uint8 at ``fps``; ``masks`` (N, F, h, w) bool of the last step;
    ``settled``: the step after which RMPM stopped for good, 0 where it never did."""

    frames: np.ndarray
    masks: np.ndarray
    fps: float
    settled: int
    seconds: float


class Bench:
    """One engine, the judges of its videos on the same device, and the flow of the references they
    are held against. ``models``: where the segmenter comes from once it is needed."""

    def __init__(self, engine: MotionEngine, models: Models) -> None:
        self.engine, self.models = engine, models
        self.judges = models.judges(device=str(engine.profile.device))
        self.flows: dict[str, FlowPair] = {}

    def make(
        self,
        case: BenchmarkCase,
        variant: Variant,
        motions: Sequence[Motion],
        *,
        steps: int | None = None,
    ) -> MadeVideo:
        """The video of ``case`` by ``variant``; raises as ``MotionEngine.generate`` does."""
        request = case.request(motions, method=variant.method, without=variant.without, steps=steps)
        settled = []

        def watch(report: StepReport) -> bool:
            if report.masks_settled:
                settled.append(report.step)
            return True

        started = time.perf_counter()
        with self._rule(variant.rule):
            video = self.engine.generate(request, on_step=watch)
        seconds = time.perf_counter() - started
        return MadeVideo(video.frames, video.masks, video.fps, min(settled, default=0), seconds)

    @contextmanager
    def _rule(self, rule: str) -> Iterator[None]:
        """RMPM's ``rule`` for the time being; "" leaves the checkpoint's own."""
        own = self.engine.propagation
        self.engine.propagation = replace(own, rule=rule) if rule else own
        try:
            yield
        finally:
            self.engine.propagation = own

    def refusal(self, motion: Motion, method: str) -> str:
        """Why ``method`` cannot use ``motion``, in the engine's own words, or "". One denoising
        step is made, so that a new method needs no entry anywhere."""
        g = self.engine.geometry
        mask = np.zeros((g.height, g.width), bool)
        mask[g.height // 4 : -(g.height // 4), g.width // 4 : -(g.width // 4)] = True
        noun = motion.noun or "thing"
        thing = SceneObject(mask, f"A {noun} {motion.phrase}.", motion.phrase, motion, name=noun)
        image = np.full((g.height, g.width, 3), 128, np.uint8)
        request = GenerationRequest(image, (thing,), steps=2, method=method)
        try:
            self.engine.generate(request, on_step=lambda report: False)
        except GenerationCancelled:
            return ""
        except MotionAppError as error:
            return str(error)
        return ""

    def learn_crowded(self, name: str, marked: bool, out: Path, *, steps: int | None) -> Motion:
        """Motion tokens of ``name`` from its crowded reference, in ``out``: with the mover
        ``marked`` by one click and followed, else found by its noun's attention (DMEM)."""
        reference = crowded_reference(name, self.engine.geometry)
        clip = reference.rendered
        config = MotionTraining.for_checkpoint(
            self.engine.defaults.motion_training,
            name=name,
            noun=reference.noun,
            steps=steps,
            mask="given" if marked else "dmem",
        )
        masks = None
        if marked:
            segment = self.models.mark(self.engine.folder)
            click = inner_points(clip.masks[0, 0], count=1)[0]
            masks = [follow_mover(clip.frames, (click.x, click.y), segment, name=name)]
        out.parent.mkdir(parents=True, exist_ok=True)
        return train_motion(
            [Clip(clip.frames, float(clip.scene.config.fps))],
            config,
            engine=self.engine,
            out=out,
            masks=masks,
            track=clip.tracks[0].tolist(),
        )
