"""A motion from one look at a clip: what the network cannot see it cannot learn by heart, and where
nothing moves it has nothing to say. Its weights here are random; the laws hold for all."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from motion_app.engine.motion_encoder import (
    CONFIG_FILE,
    MOST_WEIGHTS,
    WEIGHTS_FILE,
    EncoderConfig,
    MotionEncoder,
    mover_shares,
)
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.errors import CheckpointError, RequestError
from motion_app.library.motion_file import check_motion_file
from motion_app.models.checkpoint import Checkpoint

FRAMES, CHANNELS, HEIGHT, WIDTH = 7, 4, 8, 12
SIZES = {"inner": 16, "heads": 2, "seeing": 1, "asking": 1}


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint, tmp_path_factory) -> Checkpoint:
    """One with an encoder of its own."""
    folder = tmp_path_factory.mktemp("encoder") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    read = Checkpoint.read(folder)
    assert not read.has_encoder
    new_encoder(read).save(folder)
    assert read.has_encoder
    return read


def new_encoder(checkpoint: Checkpoint) -> MotionEncoder:
    torch.manual_seed(3)
    config = EncoderConfig.of(checkpoint, tokens=5, scale=1.0)
    return MotionEncoder(replace(config, **SIZES))


@pytest.fixture(scope="module")
def encoder(checkpoint) -> MotionEncoder:
    return MotionEncoder.load(checkpoint)


def moving_clip(*, row: int = 2, step: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright square of 2×2 tokens that goes ``step`` tokens to the right each latent frame, from
    column 1; latents (F, C, H', W') and where it is, (F, h, w)."""
    latents = torch.zeros(FRAMES, CHANNELS, 2 * HEIGHT, 2 * WIDTH)
    mover = torch.zeros(FRAMES, HEIGHT, WIDTH, dtype=torch.bool)
    for frame in range(FRAMES):
        column = 1 + step * frame
        mover[frame, row : row + 2, column : column + 2] = True
    inside = mover.repeat_interleave(2, 1).repeat_interleave(2, 2)
    latents += 2.0 * inside[:, None]
    return latents, mover


def layers(tokens: MotionTokens) -> torch.Tensor:
    return torch.stack(list(tokens.layers)).detach()


def test_it_gives_every_layer_its_tokens(encoder, checkpoint):
    tokens = encoder.encode(*moving_clip())
    tokens.check_fits(layers=2, width=32)
    assert tokens.tokens == 5 and encoder.weights <= MOST_WEIGHTS
    assert EncoderConfig.of(checkpoint, tokens=5, scale=1.0).base == checkpoint.fingerprint


def test_clips_of_a_batch_are_looked_at_one_by_one(encoder):
    clips = [moving_clip(), moving_clip(row=4, step=0), moving_clip(row=5)]
    together = encoder(*(torch.stack(part).float() for part in zip(*clips, strict=True)))
    assert together.shape == (3, 2, 5, 32)
    for number, clip in enumerate(clips):
        assert torch.allclose(together[number], layers(encoder.encode(*clip)), atol=1e-5)


def test_all_still_clips_give_the_tokens_of_rest(encoder):
    draw = torch.Generator().manual_seed(0)
    rest = encoder.out(encoder.queries).detach().view(2, 5, 32)
    for place in (0, 3):
        picture = torch.randn(CHANNELS, 2 * HEIGHT, 2 * WIDTH, generator=draw)
        mover = torch.zeros(FRAMES, HEIGHT, WIDTH)
        mover[:, place : place + 3, place : place + 3] = 1.0
        mover[3, place] = 0.0  # a mask flickers where nothing moves
        held = picture.expand(FRAMES, -1, -1, -1)
        assert torch.allclose(layers(encoder.encode(held, mover)), rest, atol=1e-6)
    assert not torch.allclose(layers(encoder.encode(*moving_clip())), rest, atol=1e-2)


def test_what_moves_a_little_lies_between_rest_and_all_of_its_motion(encoder):
    latents, mover = moving_clip()
    rest = layers(encoder.encode(latents[:1].expand(FRAMES, -1, -1, -1), mover))
    sizes = []
    for strength in (0.05, 0.15, 0.5):
        faint = layers(encoder.encode(strength * latents, mover))
        sizes.append(float((faint - rest).abs().mean()))
    assert sizes[0] < sizes[1] < sizes[2] and sizes[0] < 1e-6


def test_clip_and_mask_shifted_together_give_the_same_motion(encoder):
    at_left = layers(encoder.encode(*moving_clip(row=2)))
    latents, mover = moving_clip(row=2)
    shifted = layers(encoder.encode(latents.roll((2, 4), (2, 3)), mover.roll((1, 2), (1, 2))))
    assert torch.allclose(at_left, shifted, atol=1e-5)
    other_way = layers(encoder.encode(latents.flip(0), mover.flip(0)))
    assert not torch.allclose(at_left, other_way, atol=1e-2), "where it goes is seen"


def test_the_mask_decides_which_of_two_movers_is_meant(encoder):
    latents, mover = moving_clip(row=0)
    beside, other = moving_clip(row=6)
    still_there = latents + beside[:1]
    both = latents + beside.flip(0)
    alone, crowded = (layers(encoder.encode(clip, mover)) for clip in (still_there, both))
    assert torch.allclose(alone, crowded, atol=1e-5)
    meant = layers(encoder.encode(both, other.flip(0)))
    assert not torch.allclose(meant, crowded, atol=1e-2)


def test_a_mover_may_be_out_of_sight_in_some_frames_and_not_in_all(encoder):
    latents, mover = moving_clip()
    for gone in (slice(4, None), slice(0, 2)):
        hidden = mover.clone()
        hidden[gone] = False
        lost = layers(encoder.encode(latents, hidden))
        assert torch.isfinite(lost).all()
        assert not torch.allclose(lost, layers(encoder.encode(latents, mover)), atol=1e-3)
    with pytest.raises(RequestError, match="in no frame of the clip"):
        encoder.encode(latents, torch.zeros_like(mover))


def test_other_shapes_are_refused(encoder):
    latents, mover = moving_clip()
    for wrong in (latents[:-1], latents[:, :-1], latents[..., :-2]):
        with pytest.raises(ValueError, match=r"expected \(B, 7, 4, 16, 24\) and \(B, 7, 8, 12\)"):
            encoder.encode(wrong, mover)
    with pytest.raises(ValueError, match="expected"):
        encoder.encode(latents, mover[..., :-1])


def test_masks_become_the_share_of_each_token_in_the_frames_that_a_latent_frame_encodes(checkpoint):
    masks = np.zeros((13, 32, 48), bool)
    masks[0, :4, :2] = True  # half of a token of 4×4
    masks[1, :4, :4] = True  # all of it, in one of two frames
    shares = mover_shares(masks, checkpoint.geometry)
    assert shares.shape == (7, 8, 12) and shares.dtype == torch.float32
    assert shares[0, 0, 0] == 0.5 and shares[1, 0, 0] == 0.5
    assert shares.sum() == 1.0


def test_what_it_gives_is_an_ordinary_motion_file(encoder, checkpoint, tmp_path):
    path = tmp_path / "walk.safetensors"
    metadata = MotionMetadata("walk", "walks", checkpoint.fingerprint, method="encoded")
    tokens = encoder.encode(*moving_clip())
    tokens.save(path, metadata, dtype=torch.float16)
    motion = check_motion_file(path, base=checkpoint.fingerprint, layers=2, width=32)
    assert motion.method == "encoded" and motion.has_tokens and not motion.has_pack
    read = MotionTokens.load(path, layers=2, width=32, base=checkpoint.fingerprint)
    assert torch.allclose(layers(read), layers(tokens), atol=2e-3)


def changed(checkpoint, tmp_path, **entries) -> Checkpoint:
    """A copy whose encoder says otherwise of itself."""
    folder = tmp_path / checkpoint.folder.name
    shutil.copytree(checkpoint.folder, folder)
    file = folder / Checkpoint.ENCODER / CONFIG_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
    return Checkpoint.read(folder)


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"base": "e" * 64}, "was trained on the base model eeeeeeeeeeee, this is"),
        ({"layers": 3}, "is for layers 3, the model has 2"),
        ({"frames": 13}, "is for frames 13, the model has 7"),
        ({"tokens": 6}, "cannot be read: size mismatch"),
        ({"inner": 1 << 14}, "at most 4,000,000 are read"),
        ({"depth": 3}, "cannot be read: .*unexpected keyword argument 'depth'"),
    ],
)
def test_an_encoder_of_another_model_is_refused(checkpoint, tmp_path, entries, told):
    with pytest.raises(CheckpointError, match=told):
        MotionEncoder.load(changed(checkpoint, tmp_path, **entries))


def test_a_broken_or_missing_encoder_is_refused(checkpoint, tiny_checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match=r"has no motion encoder; .* --stages encoder"):
        MotionEncoder.load(Checkpoint.read(tiny_checkpoint))
    broken = changed(checkpoint, tmp_path)
    (broken.folder / Checkpoint.ENCODER / WEIGHTS_FILE).write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="cannot be read"):
        MotionEncoder.load(broken)
    sick = new_encoder(checkpoint)
    sick.out.bias.data[0] = torch.inf
    sick.save(broken.folder)
    with pytest.raises(CheckpointError, match="holds NaN or infinity"):
        MotionEncoder.load(broken)


def test_what_was_saved_comes_back(checkpoint, encoder):
    fresh = new_encoder(checkpoint)
    assert fresh.config == encoder.config
    for name, weight in fresh.state_dict().items():
        assert torch.allclose(weight, encoder.state_dict()[name], atol=2e-3), name
