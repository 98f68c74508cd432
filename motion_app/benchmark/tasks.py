"""The pieces of work of a benchmark, and the checkpoint that does them.

The pieces of work of a benchmark. Each writes its own file, or finds it written.

Variants of the method, and one loaded checkpoint that runs them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import diffusers
import numpy as np
import transformers

from motion_app.benchmark.charts import png_bytes
from motion_app.benchmark.propagation import feature_picture, propagation_scores
from motion_app.benchmark.references import NAMED, POINTED, WHOLE, ClipLesson, lesson
from motion_app.benchmark.scenes import BenchmarkCase
from motion_app.benchmark.scores import CaseScores, CaseVideo, fitted_frames, score_case
from motion_app.benchmark.variants import Variant
from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import GenerationCancelled, MotionAppError
from motion_app.evaluation.trackers import FlowPair
from motion_app.jobs.kinds import WorkerConfig
from motion_app.jobs.models import Models
from motion_app.jobs.results import write_arrays, write_json
from motion_app.jobs.stock_videos import generate_stock
from motion_app.library.motion_file import read_motion
from motion_app.media.files import Clip, read_clip
from motion_app.methods import METHOD_TABLE
from motion_app.scene import GenerationRequest, Motion, Options, SceneObject, StepReport
from motion_app.text_files import write_whole
from motion_app.training.config import ClipTraining
from motion_app.training.inputs import training_config
from motion_app.training.mover import follow_mover, inner_points
from motion_app.training.trainer import train_motion


def load_runner(config: WorkerConfig) -> MethodRunner:
    """What a worker runs methods with, on ``config.threads`` threads."""
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    cv2.setNumThreads(config.threads)
    models = config.models()
    return MethodRunner(models.engine(), models)


@dataclass(frozen=True, eq=False)
class VideoTask:
    """Make the video of ``case`` by ``variant`` and score it; the answer is why there is none, or
    "". ``motions``: each object's file."""

    case: BenchmarkCase
    variant: Variant
    motions: tuple[Motion, ...]
    ids: tuple[str, ...]
    video: Path
    scores: Path
    steps: int | None = None

    def run(self, runner: MethodRunner) -> str:
        try:
            if not self.video.is_file():
                made = runner.make(self.case, self.variant, self.motions, steps=self.steps)
                write_arrays(
                    self.video,
                    frames=made.frames,
                    masks=made.masks,
                    fps=np.float64(made.fps),
                    settled=np.int64(made.settled if propagated(made.masks) else 0),
                    seconds=np.float64(made.seconds),
                    calls=np.int64(made.calls),
                )
            with np.load(self.video, allow_pickle=False) as kept:
                frames, masks, fps = kept["frames"], kept["masks"], float(kept["fps"])
        except MotionAppError as error:
            return str(error)
        video = CaseVideo(
            self.case,
            frames,
            fps,
            judges=runner.judges,
            shared=runner.flows,
            geometry=runner.engine.geometry,
            token_masks=masks if propagated(masks) else None,
        )
        write_json(self.scores, score_case(video, self.ids).to_json())
        return ""


def propagated(masks: np.ndarray) -> bool:
    """Whether the masks (N, F, h, w) bool of a video are more than the first frame's, repeated."""
    return bool((masks != masks[:, :1]).any())


@dataclass(frozen=True, eq=False)
class ScoreTask:
    """Score frames that are there: another method's video, or where ``file`` is None the renderer's
    own, or a ``still`` picture. The answer is why that cannot be, or ""."""

    case: BenchmarkCase
    ids: tuple[str, ...]
    scores: Path
    file: Path | None = None
    still: bool = False

    def run(self, runner: MethodRunner) -> str:
        geometry = runner.engine.geometry
        try:
            if self.still:
                frames, fps = np.repeat(self.case.image[None], geometry.frames, 0), geometry.fps
            elif self.file is None:
                frames, fps = self.case.rendered.frames, geometry.fps
            else:
                clip = read_clip(self.file)
                frames, fps = fitted_frames(self.case, clip.frames), clip.fps
            if len(frames) < 2:
                raise MotionAppError("the video has one frame; two are needed")
        except MotionAppError as error:
            return str(error)
        video = CaseVideo(
            self.case, frames, fps, judges=runner.judges, shared=runner.flows, geometry=geometry
        )
        scores: CaseScores = score_case(video, self.ids)
        write_json(self.scores, scores.to_json())
        return ""


@dataclass(frozen=True)
class ProbeTask:
    """Whether ``method`` can use ``motion``: the answer is why not, or ""."""

    motion: Motion
    method: str

    def run(self, runner: MethodRunner) -> str:
        return runner.refusal(self.motion, self.method)


@dataclass(frozen=True)
class LearnTask:
    """Learn the movement ``name`` from its lesson for the set ``tokens``; the answer is the motion,
    or why there is none. ``beside``: the motion file whose tokens a pack is kept beside."""

    tokens: str
    name: str
    out: Path
    steps: int | None = None
    beside: Path | None = None

    def run(self, runner: MethodRunner) -> Motion | str:
        if self.out.is_file():
            return read_motion(self.out)
        try:
            checkpoint = runner.engine.backbone.checkpoint
            usual = checkpoint.ways[0]
            taught = lesson(self.tokens, self.name, checkpoint.geometry, usual=usual)
            return runner.learn(taught, self.out, steps=self.steps, beside=self.beside)
        except MotionAppError as error:
            return str(error)


@dataclass(frozen=True, eq=False)
class PropagationTask:
    """RMPM's rules on one rendered scene, into ``path``."""

    case: BenchmarkCase
    path: Path

    def run(self, runner: MethodRunner) -> None:
        write_json(self.path, propagation_scores(runner.engine, self.case))


@dataclass(frozen=True, eq=False)
class FeatureTask:
    """The paper's figure 4 of one scene, into ``path``; the answer is why there is none, or ""."""

    case: BenchmarkCase
    motions: tuple[Motion, ...]
    path: Path
    steps: int | None = None

    def run(self, runner: MethodRunner) -> str:
        try:
            picture = feature_picture(runner.engine, self.case, self.motions, steps=self.steps)
        except MotionAppError as error:
            return str(error)
        write_whole(self.path, lambda part: part.write_bytes(png_bytes(picture)))
        return ""


@dataclass(frozen=True, eq=False)
class MadeVideo:
    """``frames`` (T, H, W, 3) uint8 at ``fps``; ``masks`` (N, F, h, w) bool of the last step;
    ``settled``: the step after which RMPM stopped for good, 0 where it never did; ``calls``: videos
    that the transformer saw for it."""

    frames: np.ndarray
    masks: np.ndarray
    fps: float
    settled: int
    seconds: float
    calls: int


class MethodRunner:
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
        """The video of ``case`` by ``variant``; raises as ``MotionEngine.generate`` does. One that
        a model of others makes is brought to the case's size, rate and length."""
        if variant.stock:
            return self._make_stock(case, variant, motions, steps)
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
        return MadeVideo(
            frames=video.frames,
            masks=video.masks,
            fps=video.fps,
            settled=min(settled, default=0),
            seconds=seconds,
            calls=video.calls,
        )

    def _make_stock(
        self, case: BenchmarkCase, variant: Variant, motions: Sequence[Motion], steps: int | None
    ) -> MadeVideo:
        from motion_app.models.stock import resampled

        request = case.request(motions, method=variant.method, steps=steps, stock=variant.stock)
        with self.models.stock(variant.stock, self.engine):
            started = time.perf_counter()  # it is loaded now
        video = generate_stock(request, self.engine, self.models.stock)
        seconds = time.perf_counter() - started
        geometry = self.engine.geometry
        height, width = case.image.shape[:2]
        frames = resampled(
            video.frames,
            video.fps,
            count=geometry.frames,
            fps=geometry.fps,
            height=height,
            width=width,
        )
        return MadeVideo(frames, video.masks, geometry.fps, 0, seconds, video.calls)

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
        step is made, without guidance, so that a new method needs no entry anywhere."""
        g = self.engine.geometry
        mask = np.zeros((g.height, g.width), bool)
        mask[g.height // 4 : -(g.height // 4), g.width // 4 : -(g.width // 4)] = True
        noun = motion.noun or "thing"
        thing = SceneObject(mask, f"A {noun} {motion.phrase}.", motion.phrase, motion, name=noun)
        image = np.full((g.height, g.width, 3), 128, np.uint8)
        request = GenerationRequest(image, (thing,), Options(steps=2, guidance=1.0, method=method))
        try:
            self.engine.generate(request, on_step=lambda report: False)
        except GenerationCancelled:
            return ""
        except MotionAppError as error:
            return str(error)
        return ""

    def learn(
        self, taught: ClipLesson, out: Path, *, steps: int | None, beside: Path | None = None
    ) -> Motion:
        """The motion of a lesson, in ``out``: with the mover pointed at by one click and followed,
        as a person would have it, or found by its noun's attention (DMEM), or without masks."""
        clip = taught.rendered
        masks = None
        if taught.looks == POINTED:
            segment = self.models.mark(self.engine.backbone.checkpoint.folder)
            click = inner_points(clip.masks[0, 0], count=1)[0]
            masks = [follow_mover(clip.frames, (click.x, click.y), segment, name=taught.name)]
        out.parent.mkdir(parents=True, exist_ok=True)
        return train_motion(
            [Clip(clip.frames, float(clip.scene.config.fps))],
            self._training(taught, steps),
            engine=self.engine,
            out=out,
            masks=masks,
            track=clip.tracks[0].tolist(),
            tokens=beside,
        )

    def _training(self, taught: ClipLesson, steps: int | None) -> ClipTraining:
        defaults = self.engine.defaults.training_of(taught.method)
        given = {"name": taught.name, "phrase": taught.phrase, "noun": taught.noun, "steps": steps}
        if METHOD_TABLE[taught.method].tokens:
            given["mask"] = {POINTED: "given", NAMED: "dmem", WHOLE: "none"}[taught.looks]
        return training_config(taught.method, defaults, **given)
