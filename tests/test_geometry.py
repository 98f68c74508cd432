"""Sizes from configs, fitting a picture, masks on the token grid."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motion_app.errors import CheckpointError, MediaError, RequestError
from motion_app.geometry import (
    ExportSize,
    GenerationDefaults,
    ModelGeometry,
    fit_image,
    grid_to_mask,
    latent_frames_of,
    mask_to_grid,
)
from motion_app.methods import ENCODED, REFINED
from motion_app.models.checkpoint import Checkpoint

VAE = {
    "block_out_channels": [128, 256, 256, 512],
    "temporal_compression_ratio": 4,
    "latent_channels": 16,
}
I2V_5B = {
    "patch_size": 2,
    "patch_size_t": None,
    "num_attention_heads": 48,
    "attention_head_dim": 64,
    "in_channels": 32,
    "num_layers": 42,
    "sample_height": 60,
    "sample_width": 90,
    "sample_frames": 49,
    "max_text_seq_length": 226,
    "use_learned_positional_embeddings": True,
}
I2V_15 = I2V_5B | {
    "patch_size_t": 2,
    "sample_height": 96,
    "sample_width": 170,
    "sample_frames": 81,
    "use_learned_positional_embeddings": False,
}


def test_cogvideox_5b_has_the_sizes_the_paper_gives():
    sizes = ModelGeometry.from_configs(I2V_5B, VAE)
    assert (sizes.width, sizes.height, sizes.frames, sizes.fps) == (720, 480, 49, 8)
    assert (sizes.grid, sizes.video_tokens, sizes.width_tokens) == ((13, 30, 45), 17550, 3072)
    assert sizes.pixels_per_token == 16


def test_with_temporal_patches_the_grid_counts_padded_pairs_of_latent_frames():
    sizes = ModelGeometry.from_configs(I2V_15, VAE)
    assert (sizes.width, sizes.height) == (1360, 768)
    assert (sizes.latent_frames, sizes.padded_latent_frames, sizes.grid) == (21, 22, (11, 48, 85))


def test_a_small_checkpoint_derives_its_own_ratios():
    vae = {
        "block_out_channels": [16, 32, 64],
        "temporal_compression_ratio": 2,
        "latent_channels": 8,
    }
    small = I2V_5B | {"sample_height": 16, "sample_width": 24, "sample_frames": 13}
    sizes = ModelGeometry.from_configs(small, vae)
    assert (sizes.width, sizes.height, sizes.latent_frames, sizes.grid) == (96, 64, 7, (7, 8, 12))


@pytest.mark.parametrize(("frames", "ratio"), [(13, 4), (16, 4), (0, 4), (15, 2), (50, 4)])
def test_frames_the_vae_decodes_to_another_length_are_refused_with_two_that_work(frames, ratio):
    with pytest.raises(CheckpointError, match=r"use (\d+) or (\d+)") as refused:
        latent_frames_of(frames, ratio)
    offered = [int(word) for word in str(refused.value).split() if word.isdigit()][-2:]
    for number in offered:
        assert (latent_frames_of(number, ratio) - 1) * ratio + 1 == number


def test_learned_positions_fix_the_size():
    with pytest.raises(CheckpointError, match="720×480 only"):
        ModelGeometry.from_configs(I2V_5B, VAE, height=320)


def test_a_size_that_is_no_whole_number_of_tokens_is_refused():
    with pytest.raises(CheckpointError, match="multiples of 16"):
        ModelGeometry.from_configs(I2V_15, VAE, height=100)


def test_a_config_without_a_needed_key_names_it():
    with pytest.raises(CheckpointError, match="num_layers"):
        ModelGeometry.from_configs({k: v for k, v in I2V_5B.items() if k != "num_layers"}, VAE)


def test_defaults_are_the_methods_own_where_there_is_no_file(tmp_path):
    defaults = GenerationDefaults.read(tmp_path)
    assert (defaults.steps, defaults.guidance, defaults.fps) == (50, 6.0, 8.0)
    assert defaults.motion_in_unconditional is True
    assert defaults.name == tmp_path.name


def test_refining_takes_a_fifth_of_the_steps_or_what_the_checkpoint_says():
    usual = {"steps": 150, "learning_rate": 0.03, "batch": 3}
    plain = GenerationDefaults(motion_training=usual)
    assert plain.training_of(REFINED) == {**usual, "steps": 30}
    assert plain.training_of("fleximmt") == plain.training_of(ENCODED) == usual
    told = GenerationDefaults(motion_training=usual, refined_training={"steps": 100})
    assert told.training_of(REFINED) == {**usual, "steps": 100}
    assert told.training_of("fleximmt") == usual
    assert "steps" not in GenerationDefaults().training_of(REFINED)


def test_defaults_come_from_the_checkpoints_file(tmp_path):
    entries = {"steps": 12, "export": {"width": 576, "height": 384}, "rmpm": {"window": 2}}
    (tmp_path / "generation.json").write_text(json.dumps(entries))
    defaults = GenerationDefaults.read(tmp_path)
    assert (defaults.steps, defaults.export) == (12, ExportSize(576, 384))
    assert defaults.rmpm["window"] == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"stepps": 3}', "stepps"),
        ("[1]", "one JSON object"),
        ("{", "not JSON"),
        ('{"export": {"width": 3}}', "export"),
    ],
)
def test_a_broken_defaults_file_is_an_error_that_says_so(tmp_path, text, complaint):
    (tmp_path / "generation.json").write_text(text)
    with pytest.raises(CheckpointError, match=complaint):
        GenerationDefaults.read(tmp_path)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no diffusers checkpoint"):
        Checkpoint.read(tmp_path)


# fitting ----------------------------------------------------------------------------------------


def picture(height: int, width: int) -> np.ndarray:
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    return np.repeat(np.broadcast_to(ramp, (height, width))[..., None], 3, axis=2).copy()


def test_crop_keeps_the_middle_and_says_what_it_cut():
    fitted = fit_image(picture(100, 300), 100, 100)
    assert fitted.image.shape == (100, 100, 3)
    assert (fitted.box[0], fitted.box[2]) == (100, 200)
    assert "100 px left and right" in fitted.summary()
    assert np.array_equal(fitted.image, picture(100, 300)[:, 100:200])


def test_pad_keeps_everything_between_black_bars():
    fitted = fit_image(np.full((50, 100, 3), 255, np.uint8), 100, 100, "pad")
    assert (fitted.image[:25] == 0).all() and (fitted.image[75:] == 0).all()
    assert (fitted.image[25:75] == 255).all()
    assert "25 px above and below" in fitted.summary()


@pytest.mark.parametrize("shape", [(64, 300), (400, 96)])
def test_the_part_that_a_crop_keeps_can_be_moved_from_end_to_end(shape):
    height, width = shape
    image = picture(height, width)
    image[:] = (
        np.linspace(0, 250, max(shape))
        .astype(np.uint8)
        .reshape((1, width, 1) if width > height else (height, 1, 1))
    )
    means = []
    for shift in (0.0, 0.25, 0.5, 1.0):
        fitted = fit_image(image, 64, 96, "crop", shift=shift)
        means.append(fitted.image.mean())
        x0, y0, x1, y1 = fitted.box
        assert (x1 - x0) / (y1 - y0) == pytest.approx(96 / 64)
        assert x0 >= 0 and x1 <= width and y0 >= 0 and y1 <= height
    assert means == sorted(means) and means[0] < means[2] < means[3]
    middle = fit_image(image, 64, 96)
    assert np.array_equal(middle.image, fit_image(image, 64, 96, shift=0.5).image)
    assert "left" in fit_image(image, 64, 96, shift=0.0).summary() or height > width


def test_stretch_is_said_out_loud():
    assert "stretched 0.50 times" in fit_image(picture(100, 200), 100, 100, "stretch").summary()


def test_an_image_of_the_right_size_is_not_touched():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    assert np.array_equal(fit_image(image, 64, 96).image, image)


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["crop", "pad", "stretch"]))
def test_any_picture_fits_any_frame_and_its_mask_goes_with_it(height, width, mode):
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = 255
    fitted = fit_image(image, 32, 48, mode)
    assert fitted.image.shape == (32, 48, 3)
    mask = fitted.fit_mask(image[..., 0] > 127)
    bright, dark = fitted.image[..., 0] > 230, fitted.image[..., 0] < 25
    assert not (mask & dark).any() and not (~mask & bright).any()


def test_an_unknown_fit_and_a_wrong_array_are_refused():
    with pytest.raises(RequestError, match=r'"squeeze".*crop, pad, stretch'):
        fit_image(picture(8, 8), 8, 8, "squeeze")
    with pytest.raises(MediaError, match="float64"):
        fit_image(np.zeros((8, 8, 3)), 8, 8)


# masks and tokens -------------------------------------------------------------------------------


def test_a_token_counts_when_more_than_half_of_it_is_covered():
    mask = np.zeros((8, 8), bool)
    mask[:4, :2] = True  # half of the first token
    assert not mask_to_grid(mask, 2, 2).any()
    mask[0, 2] = True
    assert mask_to_grid(mask, 2, 2).tolist() == [[True, False], [False, False]]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_masks_that_do_not_overlap_stay_apart_on_the_grid(seed):
    one = np.random.default_rng(seed).random((16, 24)) < 0.5
    assert not (mask_to_grid(one, 4, 6) & mask_to_grid(~one, 4, 6)).any()


def test_a_grid_survives_the_way_to_pixels_and_back():
    grid = np.random.default_rng(0).random((2, 5, 4, 6)) < 0.5  # (N, F, h, w)
    assert np.array_equal(mask_to_grid(grid_to_mask(grid, 32, 48), 4, 6), grid)


@settings(deadline=None)
@given(st.integers(0, 15), st.integers(0, 15))
def test_a_square_of_the_smallest_size_fills_a_token_wherever_it_lies(y, x):
    sizes = ModelGeometry.from_configs(I2V_5B, VAE)
    side = sizes.smallest_object
    mask = np.zeros((sizes.height, sizes.width), bool)
    mask[100 + y : 100 + y + side, 100 + x : 100 + x + side] = True
    assert mask_to_grid(mask, sizes.grid_height, sizes.grid_width).any()


def test_a_mask_that_does_not_divide_into_tokens_is_refused():
    with pytest.raises(RequestError, match="3×3 tokens"):
        mask_to_grid(np.zeros((8, 8), bool), 3, 3)
