"""The pieces of work of a benchmark. Each writes its own file, or finds it written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import diffusers
import numpy as np
import transformers

from motion_app.errors import MotionAppError
from motion_app.evaluation.ablation import Bench
from motion_app.evaluation.case_scores import CaseScores, CaseVideo, fitted_frames, score_case
from motion_app.evaluation.cases import BenchmarkCase
from motion_app.evaluation.propagation_study import feature_picture, propagation_scores
from motion_app.evaluation.result_store import write_arrays, write_json, write_whole
from motion_app.evaluation.sheets import png_bytes
from motion_app.evaluation.variants import Variant
from motion_app.evaluation.workers import BenchSource
from motion_app.library import read_motion
from motion_app.media import read_clip
from motion_app.models import Models
from motion_app.scene import Motion


def load_bench(source: BenchSource) -> Bench:
    """A worker's bench, on ``source.threads`` threads."""
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    cv2.setNumThreads(source.threads)
    models = Models(source.settings, device=source.device, threads=source.threads)
    return Bench(models.engine(source.model), models)


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

    def run(self, bench: Bench) -> str:
        try:
            if not self.video.is_file():
                made = bench.make(self.case, self.variant, self.motions, steps=self.steps)
                write_arrays(
                    self.video,
                    frames=made.frames,
                    masks=made.masks,
                    fps=np.float64(made.fps),
                    settled=np.int64(made.settled if propagated(made.masks) else 0),
                    seconds=np.float64(made.seconds),
                )
            with np.load(self.video, allow_pickle=False) as kept:
                frames, masks, fps = kept["frames"], kept["masks"], float(kept["fps"])
        except MotionAppError as error:
            return str(error)
        video = CaseVideo(
            self.case,
            frames,
            fps,
            judges=bench.judges,
            shared=bench.flows,
            geometry=bench.engine.geometry,
            token_masks=masks if propagated(masks) else None,
        )
        write_json(self.scores, score_case(video, self.ids).to_json())
        return ""


def propagated(masks: np.ndarray) -> bool:
    """Whether the masks (N, F, h, w) bool of a video are more than the first frame's, repeated."""
    return bool((masks != masks[:, :1]).any())


@dataclass(frozen=True, eq=False)
class ScoreTask:
    """Score frames that are there: the renderer's own where ``file`` is None, else another
    method's video. The answer is why that cannot be, or ""."""

    case: BenchmarkCase
    ids: tuple[str, ...]
    scores: Path
    file: Path | None = None

    def run(self, bench: Bench) -> str:
        geometry = bench.engine.geometry
        try:
            if self.file is None:
                frames, fps = self.case.rendered.frames, geometry.fps
            else:
                clip = read_clip(self.file)
                frames, fps = fitted_frames(self.case, clip.frames), clip.fps
            if len(frames) < 2:
                raise MotionAppError("the video has one frame; two are needed")
        except MotionAppError as error:
            return str(error)
        video = CaseVideo(
            self.case, frames, fps, judges=bench.judges, shared=bench.flows, geometry=geometry
        )
        scores: CaseScores = score_case(video, self.ids)
        write_json(self.scores, scores.to_json())
        return ""


@dataclass(frozen=True)
class ProbeTask:
    """Whether ``method`` can use ``motion``: the answer is why not, or ""."""

    motion: Motion
    method: str

    def run(self, bench: Bench) -> str:
        return bench.refusal(self.motion, self.method)


@dataclass(frozen=True)
class LearnTask:
    """Learn a movement from its crowded reference; the answer is the motion, or why there is
    none."""

    name: str
    marked: bool
    out: Path
    steps: int | None = None

    def run(self, bench: Bench) -> Motion | str:
        if self.out.is_file():
            return read_motion(self.out)
        try:
            return bench.learn_crowded(self.name, self.marked, self.out, steps=self.steps)
        except MotionAppError as error:
            return str(error)


@dataclass(frozen=True, eq=False)
class PropagationTask:
    """RMPM's rules on one rendered scene, into ``path``."""

    case: BenchmarkCase
    path: Path

    def run(self, bench: Bench) -> None:
        write_json(self.path, propagation_scores(bench.engine, self.case))


@dataclass(frozen=True, eq=False)
class FeatureTask:
    """The paper's figure 4 of one scene, into ``path``; the answer is why there is none, or ""."""

    case: BenchmarkCase
    motions: tuple[Motion, ...]
    path: Path
    steps: int | None = None

    def run(self, bench: Bench) -> str:
        try:
            picture = feature_picture(bench.engine, self.case, self.motions, steps=self.steps)
        except MotionAppError as error:
            return str(error)
        write_whole(self.path, lambda part: part.write_bytes(png_bytes(picture)))
        return ""
