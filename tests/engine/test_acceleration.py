"""Kernels, compiled code, caches and a second device: the same video, or close and only later."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from daily import some_daily
from test_pipeline import motions, scene  # noqa: F401
from torch._subclasses.fake_tensor import FakeTensorMode

from motion_app import acceleration
from motion_app.acceleration import CACHES, Acceleration, StepCache
from motion_app.engine import kernels
from motion_app.engine.attention import AttentionPlan, FixedShapes, attend
from motion_app.engine.kernels import (
    TORCH_KERNEL,
    attention_kernel,
    explicit_with_sums,
    kernels_of,
)
from motion_app.engine.layout import SequenceLayout
from motion_app.engine.pipeline import MotionEngine
from motion_app.engine.runtime import resampled, residual_ratios
from motion_app.errors import CheckpointError, RequestError
from motion_app.evaluation.metrics import PSNR_AT_MOST
from motion_app.jobs.models import Models
from motion_app.scene import GenerationRequest
from motion_app.settings import Settings
from motion_app.speed import caches
from motion_app.speed.caches import bench_caches, computed_share
from motion_app.speed.parts import two_objects

LAYOUT = SequenceLayout(text=8, phrases=[(1, 3), (4, 6)], motion=[5, 7], grid=(3, 6, 8))


@pytest.fixture(scope="module")
def engine(tiny_checkpoint) -> MotionEngine:
    return MotionEngine.load(tiny_checkpoint, device="cpu")


def accelerated(checkpoint, **options) -> MotionEngine:
    return MotionEngine.load(checkpoint, device="cpu", acceleration=Acceleration(**options))


def region(seed: int, share: float = 0.2) -> torch.Tensor:
    """Two random masks that overlap."""
    draws = torch.rand(2, *LAYOUT.grid, generator=torch.Generator().manual_seed(seed))
    return draws < share


def tokens() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = (LAYOUT.queries, LAYOUT.keys, LAYOUT.keys)
    return [torch.randn(1, 2, count, 16, generator=generator) for count in rows]


@pytest.mark.parametrize("name", ["native", "_native_math", "auto"])
def test_every_exact_kernel_gives_what_pytorchs_own_gives(name):
    plan = AttentionPlan.build(LAYOUT, region(0), strengths=[1.0, 0.5])
    found = attend(*tokens(), plan, kernel=attention_kernel(name))
    assert torch.allclose(found, attend(*tokens(), plan), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", [TORCH_KERNEL, attention_kernel("native")])
def test_a_kernel_tells_the_log_sum_exp_of_its_logits(kernel, dtype):
    query, key, value = (part.to(dtype) for part in tokens())
    output, sums = kernel.with_sums(query, key, value, scale=0.3)
    logits = (query.double() @ key.double().mT) * 0.3
    near = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    assert torch.allclose(sums.double(), logits.logsumexp(-1), atol=near)
    assert torch.allclose(output.double(), logits.softmax(-1) @ value.double(), atol=near)
    explicit, total = explicit_with_sums(query, key, value, scale=0.3)
    assert torch.allclose(explicit.double(), output.double(), atol=max(near, 1e-5))
    assert torch.allclose(total.double(), sums.double(), atol=max(near, 1e-5))


@pytest.mark.parametrize("cudnn", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_the_sums_have_a_number_for_every_row(dtype, cudnn, monkeypatch):
    """By the shapes that PyTorch itself says its CUDA kernels return."""
    monkeypatch.setattr(kernels, "cudnn_takes", lambda *tokens: cudnn)
    with FakeTensorMode():
        query, key, value = (
            torch.empty(2, 3, count, 64, dtype=dtype, device="cuda") for count in (70, 90, 90)
        )
        output, sums = TORCH_KERNEL.with_sums(query, key, value)
    assert output.shape == query.shape and sums.shape == (2, 3, 70)
    assert output.dtype == dtype and sums.dtype == torch.float32


def test_a_kernel_that_cannot_run_here_is_refused_with_those_that_can():
    with pytest.raises(CheckpointError, match='"_native_cudnn" does not run on cpu; .*native'):
        attention_kernel("_native_cudnn", device="cpu")
    assert {"native", "_native_math"} <= set(kernels_of("cpu"))


@pytest.mark.parametrize("strengths", [None, [1.0, 0.5], [0.0, 1.0]])
def test_a_plan_of_fixed_shape_attends_exactly_as_the_plan_it_was_made_from(strengths):
    shapes = FixedShapes(bucket=16)
    for seed, share in ((0, 0.2), (1, 0.25), (2, 0.05), (3, 0.0), (4, 0.6)):
        plan = AttentionPlan.build(LAYOUT, region(seed, share), strengths=strengths)
        fixed = shapes.fit(plan)
        assert torch.allclose(attend(*tokens(), fixed), attend(*tokens(), plan), atol=1e-5)


def test_shapes_stay_when_masks_change_a_little_and_never_shrink():
    shapes = FixedShapes(bucket=16)
    shapes.fit(AttentionPlan.build(LAYOUT, region(0)))
    before = dict(shapes.shapes)
    for seed in range(1, 5):
        shapes.fit(AttentionPlan.build(LAYOUT, region(0) & (torch.rand(LAYOUT.grid) < 0.9)))
        shapes.fit(AttentionPlan.build(LAYOUT, torch.roll(region(0), seed, dims=-1)))
    assert shapes.shapes == before


def test_a_change_of_the_masks_compiles_nothing_anew():
    """Plain plans have other shapes with every mask, and each would be compiled for itself."""
    torch._dynamo.reset()
    compiled = torch.compile(attend, backend="eager", dynamic=False)
    shapes = FixedShapes(bucket=16)
    counter = torch._dynamo.utils.counters["stats"]
    built = []
    for step in range(4):
        plan = AttentionPlan.build(LAYOUT, torch.roll(region(0), step, dims=-1))
        found = compiled(*tokens(), shapes.fit(plan))
        assert torch.allclose(found, attend(*tokens(), plan), atol=1e-5)
        built.append(counter["unique_graphs"])
    assert built == built[:1] * 4 and built[0] > 0


def test_a_compiled_engine_makes_the_same_video(
    engine,
    tiny_checkpoint,
    motions,  # noqa: F811
):
    torch._dynamo.reset()
    compiled = accelerated(tiny_checkpoint, compiled=True, compiler="eager")
    found = compiled.generate(scene(motions)).latents
    assert np.allclose(found, engine.generate(scene(motions)).latents, atol=1e-4)


def test_the_halves_of_guidance_on_two_devices_make_the_same_video(
    engine,
    tiny_checkpoint,
    motions,  # noqa: F811
):
    split = accelerated(tiny_checkpoint, second_device="cpu")
    assert split.runtime.pair.replica is not split.backbone.transformer
    for options in ({}, {"method": "none"}, {"without": frozenset({"rmpm"})}):
        one = engine.generate(scene(motions, **options))
        two = split.generate(scene(motions, **options))
        assert np.allclose(one.latents, two.latents, atol=1e-4)
        assert np.array_equal(one.masks, two.masks)
    assert "guidance_split" not in split.backbone.transformer._diffusers_hook.hooks


def test_each_half_sees_its_own_strengths(
    engine,
    tiny_checkpoint,
    motions,  # noqa: F811
):
    split = accelerated(tiny_checkpoint, second_device="cpu")
    found = []
    for one in (engine, split):
        before = one.backbone.checkpoint
        silent = replace(before.defaults, motion_in_unconditional=False)
        one.backbone.checkpoint = replace(before, defaults=silent)
        found.append(one.generate(scene(motions)).latents)
        one.backbone.checkpoint = before
    assert np.allclose(*found, atol=1e-4)
    assert not np.allclose(found[0], engine.generate(scene(motions)).latents, atol=1e-4)


@pytest.mark.parametrize("kind", CACHES)
def test_a_cache_starts_when_the_masks_have_settled_and_leaves_nothing_behind(
    kind,
    tiny_checkpoint,
    motions,  # noqa: F811
):
    ratios = [1.0] * 8 if kind == "mag" else ()
    cached = accelerated(tiny_checkpoint, cache_steps=StepCache(kind, strength=1.0, ratios=ratios))
    seen = []

    def watch(report):
        seen.append((report.masks_settled, cached.runtime.cache.started_at))

    request = scene(motions, steps=8)
    video = cached.generate(request, watch)
    assert np.isfinite(video.latents).all()
    for settled, started in seen[:-1]:
        assert (started is not None) <= settled
    assert not cached.backbone.transformer.is_cache_enabled
    plain = accelerated(tiny_checkpoint).generate(request).latents
    stock = cached.generate(scene(motions, steps=2)).latents
    again = accelerated(tiny_checkpoint).generate(scene(motions, steps=2)).latents
    assert np.array_equal(stock, again)
    assert plain.shape == video.latents.shape


def test_a_cache_skips_layers_once_it_has_started(tiny_checkpoint, motions):  # noqa: F811
    request = scene(motions, steps=10, method="none")
    calls = {}
    for name, cache in (("plain", None), ("cached", StepCache("pab", strength=1.0))):
        engine = accelerated(tiny_checkpoint, cache_steps=cache)
        count = []
        attention = engine.backbone.transformer.transformer_blocks[1].attn1.to_out[0]
        attention.register_forward_hook(lambda *_, count=count: count.append(1))
        engine.generate(request)
        calls[name] = len(count)
    assert calls["plain"] == 10 and 5 <= calls["cached"] < 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "magic"}, '"magic"; choose one of first-block'),
        ({"kind": "pab", "strength": 0.0}, "above 0 up to 1"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(options, words):
    with pytest.raises(RequestError, match=words):
        StepCache(**options)


def test_mag_is_refused_for_a_model_that_names_no_ratios(tiny_checkpoint):
    with pytest.raises(CheckpointError, match="the cache mag needs .* tiny names none"):
        accelerated(tiny_checkpoint, cache_steps=StepCache("mag"))


def test_measured_ratios_are_those_of_what_the_layers_add(engine, motions):  # noqa: F811
    transformer, residuals = engine.backbone.transformer, []

    def last(block, arguments, output):
        residuals.append(output[0] - first[0])

    first = []
    hooks = (
        transformer.transformer_blocks[0].register_forward_pre_hook(
            lambda block, _, options: first.__setitem__(slice(None), [options["hidden_states"]]),
            with_kwargs=True,
        ),
        transformer.transformer_blocks[-1].register_forward_hook(last),
    )
    with residual_ratios(engine.backbone.blocks()) as ratios:
        engine.generate(scene(motions, steps=4))
    for hook in hooks:
        hook.remove()
    norms = [residual.norm(dim=-1) for residual in residuals]
    expected = [1.0, *((b / a).mean().item() for a, b in pairwise(norms))]
    assert ratios == pytest.approx(expected, rel=1e-4) and len(ratios) == 4
    assert not transformer.transformer_blocks[-1]._forward_hooks


def on_the_pocket(engine: MotionEngine, checkpoint: Path) -> GenerationRequest:
    return two_objects(engine, str(checkpoint)).with_options(steps=20)


@pytest.fixture(scope="module")
def uncached(short_pocket: Path) -> np.ndarray:
    """The frames without any cache."""
    engine = accelerated(short_pocket)
    return engine.generate(on_the_pocket(engine, short_pocket)).frames.astype(float)


DAILY = ("first-block", "taylorseer")  # and "mag" in the bench of caches below


@pytest.mark.parametrize("kind", some_daily(CACHES, *DAILY))
def test_every_cache_works_on_the_pocket_by_its_name_alone(kind, uncached, short_pocket):
    """As a deployment sets it, and skipping as much as it can."""
    engine = accelerated(short_pocket, cache_steps=StepCache(kind, strength=1.0))
    request = on_the_pocket(engine, short_pocket)
    passes = []
    block = engine.backbone.transformer.transformer_blocks[-1].attn1.to_out[0]
    block.register_forward_hook(lambda *_: passes.append(1))
    started = []
    video = engine.generate(
        request, lambda report: started.append(engine.runtime.cache.started_at) or True
    )
    assert started[-1] is not None and len(passes) < 20
    error = (video.frames - uncached) ** 2
    assert 10 * np.log10(255**2 / max(error.mean(), 1e-9)) > 22  # the same video to the eye
    assert not engine.backbone.transformer.is_cache_enabled


def test_a_step_over_several_measured_ones_takes_the_product_of_their_ratios():
    ratios = [1.0, 0.9, 0.8, 0.95, 0.99, 0.7, 0.6, 0.85]
    assert resampled(ratios, 8) == pytest.approx(ratios)
    assert resampled(ratios, 4) == pytest.approx([1.0, 0.9 * 0.8, 0.95 * 0.99, 0.7 * 0.6])
    finer = resampled(ratios, 16)
    assert finer[1] * finer[2] == pytest.approx(0.9) and len(finer) == 16


@pytest.mark.parametrize("kind", CACHES)
def test_a_cache_does_without_guidance_too(kind, tiny_checkpoint, motions):  # noqa: F811
    ratios = [1.0] * 8 if kind == "mag" else ()
    cached = accelerated(tiny_checkpoint, cache_steps=StepCache(kind, strength=1.0, ratios=ratios))
    request = scene(motions, steps=12, guidance=1.0)
    with computed_share(cached.backbone.transformer, steps=12, batch=1) as share:
        assert np.isfinite(cached.generate(request).latents).all()
    assert 0 < share.attention < 1


@pytest.mark.parametrize("kinds", some_daily([("mag",), CACHES], ("mag",)))
def test_the_bench_of_caches_compares_each_with_the_same_videos_without_one(
    kinds, short_pocket, monkeypatch
):
    monkeypatch.setattr(caches, "RATIO_SCENES", 1)
    monkeypatch.setattr(acceleration, "CACHES", kinds)
    figures = bench_caches(Models(Settings(model=str(short_pocket))), scenes=1, steps=12)
    assert figures["none.psnr"] == PSNR_AT_MOST and figures["none.over_none"] == 1
    assert figures["none.attention_computed"] == pytest.approx(1)
    for kind in kinds:
        assert figures[f"{kind}.psnr"] >= figures[f"{kind}.psnr_worst"] > 22
        assert 0 < figures[f"{kind}.attention_computed"] <= 1 + 1e-9
        assert 0 <= figures[f"{kind}.follows"] <= 1
    assert {name.partition(".")[0] for name in figures} == {"none", "mag_ratio", *kinds}
    assert sum(name.startswith("mag_ratio.") for name in figures) == 12


def test_a_cache_and_a_second_device_exclude_each_other(tiny_checkpoint):
    with pytest.raises(CheckpointError, match="leave one of them out"):
        accelerated(tiny_checkpoint, second_device="cpu", cache_steps=StepCache("pab"))
