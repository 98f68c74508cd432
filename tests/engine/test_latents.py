"""What is cached of a clip: its latents, and its first frame as a picture is encoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_pipeline

from motion_app.benchmark.propagation import measure_propagation
from motion_app.benchmark.scenes import tuning_cases
from motion_app.engine.motion_tokens import MotionTokens
from motion_app.engine.pipeline import MotionEngine
from motion_app.media.files import Clip
from motion_app.settings import ROOT
from motion_app.training.config import MotionTraining, SynMotionTraining
from motion_app.training.synmotion import SynMotionRun, prepare_synmotion
from motion_app.training.tokens import TrainingRun, draw_noise, prepare_lesson
from motion_app.training.trainer import train_motion
from motion_app.training.views import ViewConfig, cache_views
from motion_app.world.world import WorldConfig, draw_scene, render

TINY = {"steps": 4, "batch": 2, "views": 3, "checkpoint_every": 2, "image_dropout": 0.0}
TOKENS = {**TINY, "tokens": 3, "learning_rate": 0.05}
PACK = {
    **TINY,
    "alpha": 0.5,
    "rank": 4,
    "refiner_width": 16,
    "refiner_heads": 2,
    "image_noise": (),
    "spv": "rendered",
    "spv_clips": 2,
    "init_prompt": "a {motion}",
}


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> MotionEngine:
    return MotionEngine.load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def clip() -> Clip:
    world = WorldConfig(height=32, width=48)
    scene = draw_scene(np.random.default_rng(2), world, objects=1, motions=["jump"])
    return Clip(render(scene).frames, 8.0)


def config(**changes) -> MotionTraining:
    return MotionTraining(**{"name": "jump", "noun": "red cat", **TOKENS, **changes})


def stock_condition(engine: MotionEngine, image: np.ndarray, seed: int) -> torch.Tensor:
    """(1, F, C, H', W'): what the stock pipeline hands the transformer beside the noise."""
    pipe, g = engine.backbone.pipe, engine.geometry
    pixels = pipe.video_processor.preprocess(Image.fromarray(image), g.height, g.width)
    noise = torch.zeros(1)  # given, so that the generator draws nothing but the picture's latents
    return pipe.prepare_latents(
        pixels,
        *(1, g.latent_channels, g.frames, g.height, g.width, torch.float32, torch.device("cpu")),
        torch.Generator().manual_seed(seed),
        noise,
    )[1]


@pytest.mark.parametrize("options", [{}, {"patch_size_t": 2, "ofs_embed_dim": 16}])
def test_a_training_step_is_shown_the_picture_that_the_stock_pipeline_is_shown(
    options: dict, clip: Clip, tmp_path: Path
) -> None:
    """Encoded alone: the clip's own first latent frame is another, also where 1.5 repeats it."""
    positions = {"use_learned_positional_embeddings": False} if options else {}
    pipe = tiny_pipeline(**options, **positions)
    pipe.vae.register_to_config(invert_scale_latents=bool(options))
    pipe.save_pretrained(tmp_path)
    engine = MotionEngine.load(tmp_path, device="cpu")
    views = cache_views(engine.backbone, [clip], ViewConfig(count=1), seed=0)
    draws = draw_noise(
        views,
        np.array([0]),
        config(),
        engine.backbone,
        rng=np.random.default_rng(0),
        generator=torch.Generator().manual_seed(0),
    )
    drawn = torch.randn(views.images.mean.shape, generator=torch.Generator().manual_seed(3))
    scale = 1 / engine.backbone.pipe.vae.config.scaling_factor**2 if options else 1.0
    sampled = stock_condition(engine, clip.frames[0], seed=3)  # the stock pipeline draws a sample
    expected = sampled - scale * (views.images.deviation * drawn) * (sampled != 0)
    assert draws.condition.shape == expected.shape
    assert torch.allclose(draws.condition, expected, atol=1e-4)
    assert (views.images.mean[:, 0] - views.latents.mean[:, 0]).abs().max() > 1e-3


def conditions_seen(engine: MotionEngine, act) -> list[torch.Tensor]:
    """The image condition (B, F, C, H', W') of every forward pass in ``act``."""
    seen = []

    def watch(module, args, kwargs):
        seen.append(kwargs["hidden_states"].chunk(2, dim=2)[1].float().clone())

    hook = engine.backbone.transformer.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        act()
    finally:
        hook.remove()
    return seen


def test_learning_and_measuring_show_the_model_first_frames_encoded_alone(
    engine: MotionEngine, clip: Clip, tmp_path: Path
) -> None:
    tokens = config()
    pack = SynMotionTraining(name="jump", noun="red cat", **PACK)
    lesson = prepare_lesson([clip], tokens, engine.backbone)
    learned = prepare_synmotion([clip], pack, engine.backbone)
    runs = (
        (TrainingRun(lesson, tokens, engine.backbone, tmp_path / "a"), [lesson.views]),
        (
            SynMotionRun(learned, pack, engine.backbone, tmp_path / "b"),
            [learned.motion.views, learned.subjects.views],
        ),
    )
    for run, cached in runs:
        images = torch.cat([views.images.mean[:, 0] for views in cached])
        for shown in conditions_seen(engine, lambda run=run: [run.advance() for _ in range(4)]):
            for row in shown:
                assert any(torch.allclose(row[0], image) for image in images)
                assert not row[1:].any()


def test_rmpm_is_measured_beside_the_picture_a_generation_is_shown() -> None:
    pocket = ROOT / "checkpoints" / "pocket"
    engine = MotionEngine.load(pocket, device="cpu")
    case = tuning_cases(("circle", "jump"), {2: 1}, geometry=engine.geometry)[0]
    shown = conditions_seen(
        engine,
        lambda: measure_propagation(engine, [case.rendered], noise_levels=(0.6,), rules=("paper",)),
    )[0]
    alone = cache_views(
        engine.backbone,
        [Clip(case.rendered.frames, 8.0)],
        ViewConfig(count=1),
        seed=0,
    )
    assert torch.allclose(shown[:, 0], alone.images.mean[:, 0], atol=1e-5)
    assert not torch.allclose(shown[:, 0], alone.latents.mean[:, 0], atol=1e-2)
    assert not shown[:, 1:].any()


def test_latents_are_the_posterior_s_mean_unless_they_are_to_be_sampled(
    engine: MotionEngine, clip: Clip
) -> None:
    views = cache_views(engine.backbone, [clip], ViewConfig(count=1), seed=0)

    def drawn(seed: int, *, sample: bool) -> torch.Tensor:
        return draw_noise(
            views,
            np.zeros(64, int),
            config(sample_latents=sample),
            engine.backbone,
            rng=np.random.default_rng(0),
            generator=torch.Generator().manual_seed(seed),
        ).latents

    assert torch.equal(drawn(0, sample=False), views.latents.mean.expand(64, -1, -1, -1, -1))
    sampled = drawn(0, sample=True)
    assert torch.equal(sampled, drawn(0, sample=True))
    assert not torch.equal(sampled, drawn(1, sample=True))
    away = (sampled - views.latents.mean) / views.latents.deviation
    assert abs(float(away.mean())) < 0.01 and abs(float(away.std()) - 1) < 0.01


def test_killed_and_resumed_with_sampled_latents_is_undisturbed_too(
    engine: MotionEngine, clip: Clip, tmp_path: Path
) -> None:
    def learned(name: str, *, broken: bool = False, **changes) -> torch.Tensor:
        out = tmp_path / f"{name}.safetensors"

        def killed(report) -> None:
            if broken and report.step == 3:
                raise KeyboardInterrupt

        if broken:
            with pytest.raises(KeyboardInterrupt):
                train_motion([clip], config(**changes), engine=engine, out=out, on_progress=killed)
        train_motion([clip], config(**changes), engine=engine, out=out)
        return torch.stack(list(MotionTokens.load(out).layers)).detach()

    whole = learned("whole", sample_latents=True)
    assert torch.equal(whole, learned("broken", sample_latents=True, broken=True))
    assert not torch.equal(whole, learned("means"))
