"""``make bench``: the times the project promises, measured on this machine.

Rival versions are timed in turn and compared by their medians, so that a machine that slows down
half-way slows all of them.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from motion_app.speed.caches import bench_caches
from motion_app.speed.layers import TimedCase, bench_layers
from motion_app.speed.rivals import dense_mask_builder

if TYPE_CHECKING:
    from torch import Tensor

    from motion_app.engine.layout import SequenceLayout
    from motion_app.engine.pipeline import MotionEngine
    from motion_app.jobs.models import Models
    from motion_app.scene import GenerationRequest

PARTS = ("attention", "generate", "train", "startup")
ATTENTION_SIZES = {"text": 226, "motion": 226, "heads": 4, "head_dim": 64}
ATTENTION_GRID = (6, 30, 30)  # 5,400 video tokens
REPEATS = 7
TRAINING_STEPS = 10


def run_bench(
    part: str | None,
    *,
    models: Models,
    show: bool = True,
    shape: str | None = None,
    **full_scale: Any,
) -> dict[str, Any]:
    """Measure one of PARTS or "caches", or all PARTS (None), with the checkpoint of ``models``;
    seconds as JSON. With ``shape``, "generate" measures layers of that size on random weights
    instead: ``full_scale`` are the options of ``bench_layers``."""
    measures: dict[str, Callable[[], dict[str, float]]] = {
        "attention": bench_attention,
        "generate": lambda: (
            bench_generate(models)
            if shape is None
            else bench_layers(shape, on_case=tell_case, **full_scale)
        ),
        "train": lambda: bench_train(models),
        "startup": lambda: bench_startup(models),
        "caches": lambda: bench_caches(models),
    }
    results = {}
    for name in PARTS if part is None else (part,):
        results[name] = {key: round(value, 4) for key, value in measures[name]().items()}
        if show:
            for key, value in results[name].items():
                print(f"{name:>10}  {key:<32} {value:10.3f}")
    return results


def tell_case(name: str, case: TimedCase) -> None:
    """One finished case of a long measurement, on stderr."""
    print(f"{name:>10}  {case.seconds:8.1f} s  {case.peak_gigabytes:6.2f} GB", file=sys.stderr)


def medians(rivals: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, timed in turn after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for repeat in range(repeats + 1):
        for name, run in rivals.items():
            started = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def bench_attention() -> dict[str, float]:
    """One attention call with two objects on one thread: ours, the stock one without motion tokens,
    and a dense masked one that builds its mask in each call. Seconds, and ratios."""
    import torch
    import torch.nn.functional as F

    from motion_app.engine.attention import AttentionPlan, attend

    layout, masks = _two_regions()
    plan = AttentionPlan.build(layout, masks)
    may_see = dense_mask_builder(layout, masks)
    heads, head_dim = ATTENTION_SIZES["heads"], ATTENTION_SIZES["head_dim"]
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, heads, layout.queries, head_dim, generator=generator)
    key, value = (
        torch.randn(1, heads, layout.keys, head_dim, generator=generator) for _ in range(2)
    )
    stock_key, stock_value = (part[:, :, : layout.queries].contiguous() for part in (key, value))

    def dense() -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=may_see())

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            taken = medians(
                {
                    "ours": lambda: attend(query, key, value, plan),
                    "stock": lambda: F.scaled_dot_product_attention(query, stock_key, stock_value),
                    "dense": dense,
                },
                REPEATS,
            )
            difference = (attend(query, key, value, plan) - dense()).abs().max().item()
    finally:
        torch.set_num_threads(threads)
    return {
        **taken,
        "ours_over_stock": taken["ours"] / taken["stock"],
        "dense_over_ours": taken["dense"] / taken["ours"],
        "largest_difference_in_1e-6": difference * 1e6,
    }


def _two_regions() -> tuple[SequenceLayout, Tensor]:
    """Two objects that stand apart, as most do; each covers a fifth of every frame."""
    import torch

    from motion_app.engine.layout import SequenceLayout

    layout = SequenceLayout(
        text=ATTENTION_SIZES["text"],
        phrases=[(4, 7), (12, 15)],
        motion=[ATTENTION_SIZES["motion"]] * 2,
        grid=ATTENTION_GRID,
    )
    masks = torch.zeros(2, *ATTENTION_GRID, dtype=torch.bool)
    masks[0, :, 6:24, 3:12] = True
    masks[1, :, 6:24, 18:27] = True
    return layout, masks


def bench_generate(models: Models) -> dict[str, float]:
    """A video of two objects at the checkpoint's default steps, against the stock pipeline decoding
    the same way (method "none"); seconds and their ratio."""
    engine = models.engine()
    request = two_objects(engine, models.settings.model)
    stock = request.with_options(method="none")
    taken = medians(
        {"ours": lambda: engine.generate(request), "stock": lambda: engine.generate(stock)},
        repeats=3,
    )
    return {**taken, "ours_over_stock": taken["ours"] / taken["stock"]}


def two_objects(engine: MotionEngine, model: str) -> GenerationRequest:
    """A rendered scene of two creatures with two motions of the model's own library."""
    from motion_app.errors import MotionFileError
    from motion_app.geometry import fit_image
    from motion_app.library.library import Library
    from motion_app.scene import GenerationRequest, SceneObject
    from motion_app.wording import NEUTRAL_PHRASE
    from motion_app.world.world import draw_scene, render

    motions = Library([Path(model) / "motions"]).list()
    if len(motions) < 2:
        raise MotionFileError(f"the model {Path(model).name} has no two motions of its own")
    clip = render(draw_scene(np.random.default_rng(1), objects=2))
    fitted = fit_image(clip.frames[0], engine.geometry.height, engine.geometry.width)
    objects = tuple(
        SceneObject(fitted.fit_mask(masks[0]), creature.neutral_sentence, NEUTRAL_PHRASE, motion)
        for creature, masks, motion in zip(
            clip.scene.creatures, clip.masks, motions[:2], strict=True
        )
    )
    return GenerationRequest(fitted.image, objects)


def bench_train(models: Models) -> dict[str, float]:
    """Learning a motion from one rendered clip: seconds a step, and for the checkpoint's own number
    of steps as far as the steps go (encoding the views included)."""
    from motion_app.training.config import MotionTraining
    from motion_app.training.trainer import train_motion
    from motion_app.world.world import render_reference

    engine = models.engine()
    reference = render_reference("jump")
    whole = MotionTraining.for_checkpoint(engine.defaults.motion_training, name="bench")
    seconds: list[float] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train_motion(
            [reference.clip],
            replace(whole, noun=reference.noun, mask="dmem", steps=TRAINING_STEPS),
            engine=engine,
            out=Path(folder) / "bench.safetensors",
            on_progress=lambda report: seconds.append(report.seconds),
        )
    total = time.perf_counter() - started
    step = (seconds[-1] - seconds[0]) / (TRAINING_STEPS - 1)
    return {"step": step, "motion": total + step * (whole.steps - TRAINING_STEPS)}


def bench_startup(models: Models) -> dict[str, float]:
    """A fresh process each: the command line's quick commands, and loading the model."""
    given = {"model": models.settings.model, "device": models.device}
    quick = [sys.executable, "-m", "motion_app", "motions", "list"]
    load = (
        "from motion_app.jobs.models import Models; from motion_app.settings import load_settings; "
        f"Models(load_settings(**{given!r})).engine()"
    )

    def run(command: list[str]) -> Callable[[], object]:
        return lambda: subprocess.run(command, check=True, capture_output=True)

    return medians(
        {"motions list": run(quick), "model": run([sys.executable, "-c", load])}, repeats=1
    )
