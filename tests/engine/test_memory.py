"""Memory profiles change where weights are, not what comes out; estimates are held to measures."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXImageToVideoPipeline
from PIL import Image
from test_full_scale import full_footprint
from test_pipeline import HEIGHT, WIDTH, motions, picture, scene  # noqa: F401
from tiny_models import stock_latents, tiny_pipeline

from motion_app.acceleration import Acceleration
from motion_app.engine.footprint import GIGABYTE, decoding_bytes, denoising_bytes, footprint
from motion_app.engine.memory import LADDER, PLACEMENTS, RESERVE, DeviceProfile, Placing, look_ahead
from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import CheckpointError
from motion_app.geometry import ModelGeometry
from motion_app.models.checkpoint import Checkpoint
from motion_app.speed.peak_memory import PeakMemory

ON_A_CPU = [name for name, placement in PLACEMENTS.items() if placement.where != "model"]


@pytest.fixture(scope="module")
def engine(tiny_checkpoint) -> MotionEngine:
    return MotionEngine.load(tiny_checkpoint, device="cpu")


def with_profile(checkpoint, name: str, **options) -> MotionEngine:
    acceleration = Acceleration(profile=name, **options)
    return MotionEngine.load(checkpoint, device="cpu", acceleration=acceleration)


@pytest.mark.parametrize("name", ON_A_CPU)
def test_without_motion_every_profile_is_the_stock_pipeline_in_it_bit_for_bit(
    name,
    tiny_checkpoint,
    motions,  # noqa: F811
):
    request = scene(motions, method="none")
    pipe = CogVideoXImageToVideoPipeline.from_pretrained(tiny_checkpoint)
    Placing(pipe, torch.device("cpu")).apply(PLACEMENTS[name])
    stock = stock_latents(pipe, image=Image.fromarray(picture()), prompt=request.full_prompt())
    video = with_profile(tiny_checkpoint, name).generate(request)
    assert np.array_equal(video.latents, stock)
    assert video.recipe["profile"] == name


@pytest.mark.parametrize("name", ["resident-tiled", "group-offload"])
def test_a_profile_that_moves_weights_changes_no_bit_of_a_steered_video(
    name,
    engine,
    tiny_checkpoint,
    motions,  # noqa: F811
):
    resident = engine.generate(scene(motions)).latents
    other = with_profile(tiny_checkpoint, name)
    found = other.generate(scene(motions)).latents
    # The picture is encoded in tiles, whose seams the transformer sees.
    assert np.abs(found - resident).mean() < 0.1 * np.abs(resident).mean()
    other.backbone.pipe.vae.disable_tiling()
    assert np.array_equal(other.generate(scene(motions)).latents, resident)


def test_a_dropped_text_encoder_is_read_for_a_new_prompt_and_gone_again(
    engine,
    tiny_checkpoint,
    motions,  # noqa: F811
):
    dropping = with_profile(tiny_checkpoint, "resident", keep_text_encoder=False)
    assert dropping.backbone.pipe.text_encoder is None
    request = scene(motions)
    assert np.array_equal(dropping.generate(request).latents, engine.generate(request).latents)
    assert dropping.backbone.pipe.text_encoder is None
    dropping.backbone._read_text_encoder = lambda: pytest.fail("the prompt is known")
    dropping.generate(request)


def test_out_of_memory_goes_on_with_the_next_profile_and_names_it(
    tiny_checkpoint,
    motions,  # noqa: F811
    caplog,
):
    engine = with_profile(tiny_checkpoint, "resident")
    calls = []

    def fail_once(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("no room")

    hook = engine.backbone.transformer.register_forward_pre_hook(fail_once, with_kwargs=True)
    with caplog.at_level(logging.WARNING):
        video = engine.generate(scene(motions))
    hook.remove()
    assert video.recipe["profile"] == "resident-tiled"
    assert "resident; going on with resident-tiled" in caplog.text
    assert engine.profile.too_large == "resident"
    assert engine.generate(scene(motions)).recipe["profile"] == "resident-tiled"


def test_after_the_smallest_profile_there_is_an_error_that_says_so(tiny_checkpoint):
    pipe = CogVideoXImageToVideoPipeline.from_pretrained(tiny_checkpoint)
    last = DeviceProfile(torch.device("cpu"), torch.float32, LADDER[-1])
    with pytest.raises(CheckpointError, match="too little memory even for the profile group"):
        last.step_down(pipe, torch.OutOfMemoryError("no room"))


def test_the_largest_profile_that_fits_is_chosen_and_each_needs_less_than_the_one_before(tmp_path):
    needs = full_footprint("cogvideox-5b-i2v", tmp_path)
    sizes = [placement.device_bytes(needs) for placement in LADDER]
    assert sizes == sorted(sizes, reverse=True)
    for placement, size in zip(LADDER, sizes, strict=True):
        profile = DeviceProfile.choose(
            lambda item: needs, device="meta", free=round(size / (1 - RESERVE)) + 1
        )
        assert profile.placement == placement
    assert DeviceProfile.choose(lambda item: needs, device="meta", free=0).placement == LADDER[-1]


def test_a_text_encoder_that_is_not_kept_makes_room_for_a_larger_profile(tmp_path):
    needs = full_footprint("cogvideox-5b-i2v", tmp_path)
    for placement in LADDER[:3]:
        kept, dropped = (
            (placement.device_bytes(needs, **keep), placement.host_bytes(needs, **keep))
            for keep in ({}, {"keep_text_encoder": False})
        )
        assert dropped[0] <= kept[0] and dropped[1] <= kept[1] and dropped != kept
    # Blocks that come and go are smaller than the whole encoder, which then comes at once.
    assert LADDER[3].device_bytes(needs, keep_text_encoder=False) > LADDER[3].device_bytes(needs)
    room = round(23 * GIGABYTE / (1 - RESERVE))
    chosen = [
        DeviceProfile.choose(lambda item: needs, device="meta", free=room, **keep).placement.name
        for keep in ({}, {"keep_text_encoder": False})
    ]
    assert chosen == ["model-offload", "resident-tiled"]


def test_what_loading_will_take_is_told_before_a_weight_is_read(tiny_checkpoint, monkeypatch):
    told = []
    load = CogVideoXImageToVideoPipeline.from_pretrained

    def reading(*arguments, **options):
        told.append("weights")
        return load(*arguments, **options)

    monkeypatch.setattr(CogVideoXImageToVideoPipeline, "from_pretrained", reading)
    engine = MotionEngine.load(tiny_checkpoint, device="cpu", on_outlook=told.append)
    outlook, weights = told
    assert weights == "weights" and not outlook.short
    assert outlook.profile == engine.profile.placement.name == "resident"
    whole = sum(
        tensor.numel() * tensor.element_size()
        for part in ("transformer", "vae", "text_encoder")
        for tensor in getattr(engine.backbone.pipe, part).parameters()
    )
    assert whole < outlook.device_bytes == outlook.main_bytes < outlook.main_free
    assert f"{outlook.device_bytes / GIGABYTE:.1f} GB" in str(outlook)


def test_a_whole_generation_takes_no_more_than_was_told(tiny_checkpoint, motions):  # noqa: F811
    told = []
    engine = MotionEngine.load(tiny_checkpoint, device="cpu", on_outlook=told.append)
    weights = footprint(Checkpoint.read(tiny_checkpoint), item=4).weight_bytes
    with PeakMemory() as measured:
        engine.generate(scene(motions))
    assert measured.peak + weights <= 1.2 * told[0].device_bytes


def test_too_little_memory_is_seen_before_it_runs_out(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(
        "psutil.virtual_memory",
        lambda: SimpleNamespace(available=1000),
    )
    checkpoint = Checkpoint.read(tiny_checkpoint)
    _, outlook = look_ahead(checkpoint, device="cpu")
    assert outlook.short and outlook.to_json()["main_free_gb"] == 0
    _, dropping = look_ahead(checkpoint, device="meta", free=10**9, placement="resident")
    assert dropping.device_free == 10**9 and dropping.main_bytes < dropping.device_bytes


def test_a_dropped_text_encoder_is_not_read_with_the_rest(tiny_checkpoint, monkeypatch):
    from transformers import T5EncoderModel

    monkeypatch.setattr(
        T5EncoderModel, "from_pretrained", lambda *_, **__: pytest.fail("it was read")
    )
    assert (
        with_profile(tiny_checkpoint, "resident", keep_text_encoder=False).backbone.pipe is not None
    )


def test_an_unknown_profile_is_answered_with_the_ones_there_are(tiny_checkpoint):
    with pytest.raises(CheckpointError, match='"huge"; choose one of resident, '):
        with_profile(tiny_checkpoint, "huge")


def test_the_footprint_counts_every_weight_of_every_part(engine, tiny_checkpoint):
    needs = footprint(Checkpoint.read(tiny_checkpoint), item=4)
    for part in ("transformer", "vae"):
        model = getattr(engine.backbone.pipe, part)
        assert needs.parts[part].weights == sum(t.numel() for t in model.state_dict().values())
    blocks = engine.backbone.transformer.transformer_blocks
    assert needs.parts["transformer"].largest_block == sum(
        p.numel() for p in blocks[0].parameters()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [2, 4])
def test_a_forward_pass_takes_what_was_estimated(dtype, heads):
    pipe = tiny_pipeline(num_attention_heads=heads, attention_head_dim=64)
    transformer = pipe.transformer.to(dtype)
    g = ModelGeometry.from_configs(transformer.config, pipe.vae.config)
    noisy = torch.randn(2, g.latent_frames, 8, 16, 24, dtype=dtype)
    angles = torch.rand(g.video_tokens, 64)
    with torch.no_grad(), PeakMemory() as measured:
        transformer(
            hidden_states=noisy,
            encoder_hidden_states=torch.randn(2, g.text_tokens, 32, dtype=dtype),
            timestep=torch.tensor([5, 5]),
            image_rotary_emb=(angles.cos(), angles.sin()),
            return_dict=False,
        )
    estimate = denoising_bytes(g, batch=2, item=dtype.itemsize, steered=False)
    assert measured.peak <= 1.15 * estimate and estimate <= 1.3 * measured.peak


@pytest.mark.parametrize("channels", [8, 16])
@pytest.mark.parametrize("frames", [9, 17])
def test_decoding_takes_what_was_estimated(channels, frames):
    torch.manual_seed(0)
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(channels, 2 * channels, 2 * channels, 4 * channels),
        latent_channels=16,
        norm_num_groups=4,
    ).eval()
    transformer = {
        **tiny_pipeline().transformer.config,
        "sample_height": 4,
        "sample_width": 8,
        "sample_frames": frames,
    }
    g = ModelGeometry.from_configs(transformer, vae.config)
    latents = torch.randn(1, 16, g.latent_frames, 4, 8)
    with torch.no_grad(), PeakMemory() as measured:
        vae.decode(latents)
    estimate = decoding_bytes(g, vae.config, size=(32, 64), item=4)
    assert measured.peak <= 1.2 * estimate and estimate <= 1.5 * measured.peak


def test_what_is_freed_is_not_counted_at_once():
    with PeakMemory() as measured:
        for _ in range(4):
            torch.zeros(1000).add(1)
    assert 8000 <= measured.peak < 12_000
