"""Step caches: what they leave out of the work, and what that does to the pocket's videos.

``python -m motion_app bench caches`` measures the second on scenes that nothing was trained on; the
first, for models too large to run here, is counted on a model of as many layers and few numbers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from motion_app.evaluation.metrics import psnr

if TYPE_CHECKING:
    from diffusers import CogVideoXTransformer3DModel
    from torch import nn

    from motion_app.benchmark.scenes import BenchmarkCase
    from motion_app.engine.pipeline import MotionEngine
    from motion_app.geometry import ModelGeometry
    from motion_app.jobs.models import Models
    from motion_app.scene import GeneratedVideo, GenerationRequest

CACHED_STEPS = 50  # the authors' number; enough that something is left when the masks have settled
SCENES = 8
RATIO_SCENES = 4  # others than SCENES
SETTLED_AT = 9  # of CACHED_STEPS: the pocket's median step, see ``started``


@dataclass
class ComputedShare:
    """What was computed of all attention and of all the rest of the layers, each 0 to 1 of what a
    model without a cache computes."""

    attention: float = 0.0
    rest: float = 0.0


@contextmanager
def computed_share(transformer: nn.Module, *, steps: int, batch: int) -> Iterator[ComputedShare]:
    """Counted over ``steps`` passes of a ``batch``; a pass of half the batch counts half."""
    share = ComputedShare()
    blocks = transformer.transformer_blocks
    whole = steps * batch * len(blocks)

    def attended(module: nn.Module, arguments: tuple, output: Any) -> None:
        share.attention += len(output) / whole

    def fed_forward(module: nn.Module, arguments: tuple, output: Any) -> None:
        share.rest += len(output) / whole

    hooks = []
    for block in blocks:
        hooks.append(block.attn1.to_out[0].register_forward_hook(attended))
        hooks.append(block.ff.register_forward_hook(fed_forward))
    try:
        yield share
    finally:
        for hook in hooks:
            hook.remove()


def forced_shares(layers: int, *, steps: int = CACHED_STEPS) -> dict[str, ComputedShare]:
    """What each cache at full strength computes of ``steps`` steps where it skips all that it may:
    its inputs never change, so that no threshold holds it back. It starts when the masks have
    settled, at step SETTLED_AT."""
    from diffusers import CogVideoXTransformer3DModel

    from motion_app.acceleration import CACHES

    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=1,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=8,
        num_layers=layers,
        sample_width=4,
        sample_height=4,
        sample_frames=1,
        max_text_seq_length=4,
    ).eval()
    return {kind: _forced_share(transformer, kind, steps) for kind in CACHES}


def _forced_share(transformer: CogVideoXTransformer3DModel, kind: str, steps: int) -> ComputedShare:
    import torch

    from motion_app.acceleration import StepCache
    from motion_app.engine.backbone import ATTENTION_NAMES
    from motion_app.engine.runtime import CacheSwitch

    cache = StepCache(kind, strength=1.0, ratios=[1.0] * steps if kind == "mag" else ())
    switch = CacheSwitch(transformer, cache, attention=ATTENTION_NAMES)
    timestep = [0]  # of the pass under way: some caches act in a range of them
    inputs = {
        "hidden_states": torch.ones(2, 1, 4, 4, 4),
        "encoder_hidden_states": torch.ones(2, 4, 8),
        "timestep": torch.full((2,), 500),
    }
    with computed_share(transformer, steps=steps, batch=2) as share, torch.no_grad():
        for step in range(1, steps + 1):
            timestep[0] = 999 - 1000 * (step - 1) // steps
            with transformer.cache_context("cond_uncond"):
                transformer(**inputs)
            switch.step_ended(
                step,
                steps,
                masks_move=step < SETTLED_AT,
                guided=True,
                timestep=lambda: timestep[0],
            )
        switch.off()
    return share


def bench_caches(
    models: Models, *, scenes: int = SCENES, steps: int = CACHED_STEPS
) -> dict[str, float]:
    """Every step cache at its own strength, in place of the settings' own, on videos of two objects
    by the checkpoint of ``models``: ``seconds`` (median over the scenes), ``over_none`` (median of
    the quotients with the same scene without a cache), ``attention_computed`` and ``rest_computed``
    of the layers, ``started`` (median step), ``psnr`` of the frames against those without a cache
    in decibels (mean, and ``psnr_worst``), ``follows`` (share of objects that follow their own
    motion) and ``own`` (mean similarity to it). ``mag_ratio.000`` and so on are means over other
    scenes."""
    from motion_app.acceleration import CACHES, StepCache
    from motion_app.benchmark.scenes import tuning_cases
    from motion_app.library.library import Library

    engines = {"none": models.with_cache(None).engine()}
    motions = Library([Path(models.settings.model) / "motions"]).list()
    names = [motion.name for motion in motions if motion.track is not None]
    geometry = engines["none"].geometry
    cases = tuning_cases(names, {2: scenes + RATIO_SCENES}, geometry=geometry)
    asked = [case.request(case.chosen(motions), steps=steps) for case in cases]
    ratios = mean_ratios(engines["none"], asked[scenes:])
    for kind in CACHES:
        cache = StepCache(kind, ratios=tuple(ratios) if kind == "mag" else ())
        engines[kind] = models.with_cache(cache).engine()
    runs: dict[str, list[_CachedRun]] = {name: [] for name in engines}
    for request in asked[:scenes]:
        for name, engine in engines.items():
            runs[name].append(_generate(engine, request))
    figures = {}
    for name, made in runs.items():
        for what, value in _compare(made, runs["none"], cases[:scenes], geometry).items():
            figures[f"{name}.{what}"] = value
    return {**figures, **{f"mag_ratio.{k:03}": ratio for k, ratio in enumerate(ratios)}}


def mean_ratios(engine: MotionEngine, requests: list[GenerationRequest]) -> list[float]:
    """``residual_ratios`` of each step, the geometric mean over ``requests``."""
    from motion_app.engine.runtime import residual_ratios

    found = []
    for request in requests:
        with residual_ratios(engine.backbone.blocks()) as ratios:
            engine.generate(request)
        found.append(ratios)
    return np.exp(np.log(found).mean(0)).tolist()


@dataclass(frozen=True, eq=False)
class _CachedRun:
    """``started``: the step after which the cache was on; ``steps`` where it never was."""

    video: GeneratedVideo
    seconds: float
    share: ComputedShare
    started: int


def _generate(engine: MotionEngine, request: GenerationRequest) -> _CachedRun:
    switch, started, steps = engine.runtime.cache, [], request.options.steps

    def look(report: Any) -> bool:
        started.append(switch.started_at)
        return True

    with computed_share(engine.backbone.transformer, steps=steps, batch=2) as share:
        began = time.perf_counter()
        video = engine.generate(request, look)
        seconds = time.perf_counter() - began
    return _CachedRun(video, seconds, share, started[-1] or steps)


def _compare(
    made: list[_CachedRun],
    plain: list[_CachedRun],
    cases: list[BenchmarkCase],
    geometry: ModelGeometry,
) -> dict[str, float]:
    from motion_app.benchmark.scores import colour_scores

    scores = [
        colour_scores(case, run.video.frames, geometry=geometry).values
        for case, run in zip(cases, made, strict=True)
    ]
    pairs = list(zip(made, plain, strict=True))
    decibels = [psnr(one.video.frames, other.video.frames) for one, other in pairs]
    return {
        "seconds": statistics.median(run.seconds for run in made),
        "over_none": statistics.median(one.seconds / other.seconds for one, other in pairs),
        "attention_computed": statistics.fmean(run.share.attention for run in made),
        "rest_computed": statistics.fmean(run.share.rest for run in made),
        "started": statistics.median(run.started for run in made),
        "psnr": statistics.fmean(decibels),
        "psnr_worst": min(decibels),
        "follows": statistics.fmean(v for s in scores for v in s["follows_own[colour]"]),
        "own": statistics.fmean(v for s in scores for v in s["own_motion[colour]"]),
    }
