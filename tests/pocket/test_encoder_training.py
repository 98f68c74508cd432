"""The training of the motion encoder: what it learns from, what each creature's tokens can reach,
and that nothing is lost on the way."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from motion_app.engine.motion_encoder import MotionEncoder
from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import RequestError
from motion_app.models.checkpoint import Checkpoint
from motion_app.pocket import encoder_pairs
from motion_app.pocket.averaged import TrainingRecord
from motion_app.pocket.encoder import (
    EncoderRun,
    EncoderTraining,
    PairLesson,
    encode_batch,
    train_encoder,
    training_loss,
    worn_masks,
    write_encoder,
)
from motion_app.pocket.encoder_pairs import (
    FULL,
    UNSEEN_KIND,
    EncodedPairs,
    PairBatch,
    chunk_pairs,
    encode_pairs,
    pairs_folder,
    read_pairs,
)
from motion_app.pocket.encoder_stage import NOVEL, held_pair
from motion_app.world.creatures import MOTIONS
from motion_app.world.world import WorldConfig

SMALL = EncoderTraining(samples=8, batch=2)
WORLD = WorldConfig(height=32, width=48)
SHORT = {"motion_training": {"tokens": 6, "init_distribution": "normal", "init_scale": 1.0}}


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> MotionEngine:
    folder = tmp_path_factory.mktemp("encoder") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    file = folder / "generation.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **SHORT}))
    return MotionEngine.load(folder, device="cpu")


def random_pairs(objects: int, *, seed: int = 0) -> EncodedPairs:
    """Noise, and one creature left of the other."""
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(3, 2, 7, 4, 16, 24)).astype(np.float16)
    shares = np.zeros((3, 2, objects, 7, 8, 12), np.uint8)
    for k in range(objects):
        shares[:, :, k, :, 2:5, 4 * k : 4 * k + 3] = FULL
    told = [("A red cat", "jumps"), ("A blue robot", "sways")][:objects]
    return EncodedPairs(latents, latents[:, :, 0], shares, [[told, told]] * 3)


@pytest.fixture(scope="module")
def pairs() -> dict[int, list[EncodedPairs]]:
    return {count: [random_pairs(count), random_pairs(count, seed=1)] for count in (1, 2)}


def weights(encoder: MotionEncoder) -> torch.Tensor:
    return torch.cat([p.flatten() for p in encoder.parameters()])


def test_a_killed_and_resumed_run_is_the_undisturbed_one(engine, pairs, tmp_path: Path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole, record = train_encoder(tmp_path / "whole", pairs, SMALL, engine.backbone)
    run, lesson = (
        EncoderRun(tmp_path / "parts", SMALL, engine.backbone),
        PairLesson(engine.backbone),
    )
    before = weights(run.model).clone()
    for _ in range(2):
        training_loss(run, pairs, lesson).backward()
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        run.update(1.0)
    run.save()  # and the process is gone
    resumed, again = train_encoder(tmp_path / "parts", pairs, SMALL, engine.backbone)
    assert record.step == again.step == 4 and record.samples == again.samples == 8
    assert torch.allclose(weights(whole), weights(resumed), atol=1e-5)
    assert not torch.allclose(weights(whole), before, atol=1e-4)
    assert not any(p.requires_grad for p in engine.backbone.transformer.parameters())


def test_what_was_learned_on_another_base_is_where_a_run_for_this_one_begins(engine, tmp_path):
    run = EncoderRun(tmp_path, SMALL, engine.backbone)
    run.record = TrainingRecord(step=9, samples=7)
    with torch.no_grad():
        for weight in run.average.parameters():
            weight += 1.0
    run.save()
    same = EncoderRun(tmp_path, SMALL, engine.backbone)
    assert same.record.step == 9
    torch.save({**torch.load(run.file), "base": "e" * 64}, run.file)
    other = EncoderRun(tmp_path, SMALL, engine.backbone)
    assert other.record == TrainingRecord()
    assert torch.equal(weights(other.model), weights(run.average))


def test_a_run_without_a_state_goes_on_from_what_the_checkpoint_has(engine, tmp_path: Path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(engine.backbone.checkpoint.folder, folder)
    fresh = EncoderRun(tmp_path, SMALL, engine.backbone)
    record = TrainingRecord(step=3, samples=6, history=({"samples": 6, "own": 0.5},))
    write_encoder(fresh.average, record, folder)
    backbone = MotionEngine.load(folder, device="cpu").backbone
    run = EncoderRun(tmp_path, SMALL, backbone)
    assert run.record == record and run.resumed_at == 3
    assert torch.allclose(weights(run.model), weights(fresh.average), atol=2e-3)
    assert run.model.queries.requires_grad


def test_without_pairs_there_is_nothing_to_learn_from(engine, tmp_path: Path):
    with pytest.raises(RequestError, match="--pairs"):
        train_encoder(tmp_path, {}, SMALL, engine.backbone)


def test_the_tokens_of_a_creature_are_seen_inside_its_mask_alone(engine, pairs):
    lesson = PairLesson(engine.backbone)
    batch = PairBatch.take(pairs[2], np.array([0, 4]), np.array([0, 1]))
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(0))
    draws = lesson.draws(batch, noise, torch.tensor([900, 500]))
    said = lesson.say(
        [["A red cat is moving.", "A blue fox is moving."]] * 2, [["is moving"] * 2] * 2
    )
    tokens = torch.randn(2, 2, 2, 6, 32, generator=torch.Generator().manual_seed(1))
    other = tokens.clone()
    other[0, 1] += 3.0  # of the second creature of the first clip
    nowhere = batch.masks.clone()
    nowhere[:, 1] = False

    def missed(tokens: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return lesson.miss(batch, tokens, draws, masks, said)

    one, two = missed(tokens, batch.masks), missed(other, batch.masks)
    assert not torch.allclose(one[0], two[0], atol=1e-4)
    assert torch.allclose(one[1], two[1], atol=1e-5), "another clip has nothing to do with it"
    words_apart = missed(tokens, nowhere), missed(other, nowhere)
    inside = (one[0] - two[0]).abs().mean()
    assert (words_apart[0][0] - words_apart[1][0]).abs().mean() < 0.3 * inside


def test_every_layer_of_tokens_learns(engine, pairs):
    lesson = PairLesson(engine.backbone)
    batch = PairBatch.take(pairs[1], np.array([1]), np.array([0]))
    draws = lesson.draws(batch, torch.randn(batch.latents.shape), torch.tensor([800]))
    said = lesson.say([["A red cat is moving."]], [["is moving"]])
    tokens = torch.randn(1, 1, 2, 6, 32, requires_grad=True)
    lesson.miss(batch, tokens, draws, batch.masks, said).square().mean().backward()
    assert (tokens.grad.abs().amax(dim=(0, 1, 3, 4)) > 0).all()


def test_each_creature_is_looked_at_in_the_other_clip_by_its_own_mask(engine, pairs):
    encoder = EncoderRun(Path("nowhere"), SMALL, engine.backbone).average
    batch = PairBatch.take(pairs[2], np.array([4]), np.array([1]))
    chunk = pairs[2][1]
    assert np.array_equal(batch.references[0].numpy(), chunk.latents[1, 0].astype(np.float32))
    assert np.array_equal(batch.latents[0].numpy(), chunk.latents[1, 1].astype(np.float32))
    tokens = encode_batch(encoder, batch)
    for k in range(2):
        alone = encoder.encode(batch.references[0], batch.shares[0, k])
        assert torch.allclose(tokens[0, k], torch.stack(list(alone.layers)), atol=1e-5)


def moving_mask() -> torch.Tensor:
    """(1, 1, 7, 8, 12) bool: 3×3 tokens that go a column a frame."""
    masks = torch.zeros(1, 1, 7, 8, 12, dtype=torch.bool)
    for frame in range(7):
        masks[0, 0, frame, 2:5, frame : frame + 3] = True
    return masks


def test_carried_masks_stand_in_the_noise_and_lag_after_it():
    masks = moving_mask().expand(40, -1, -1, -1, -1)
    draw = torch.Generator().manual_seed(0)
    at = torch.full((40,), 0.99)
    standing = worn_masks(masks, at, torch.ones(40, dtype=torch.bool), draw)
    column = torch.arange(12.0)

    def places(found: torch.Tensor) -> torch.Tensor:
        """Mean column of the last frame."""
        last = found[:, 0, -1].float()  # (40, h, w)
        return (last.sum(1) * column).sum(1) / last.sum((1, 2))

    assert (places(standing) < 3).all(), "the first frame's, wherever the truth is"
    lagging = places(worn_masks(masks, at * 0.6, torch.ones(40, dtype=torch.bool), draw))
    worn = worn_masks(masks, at, torch.zeros(40, dtype=torch.bool), draw)
    assert places(worn).mean() == pytest.approx(7, abs=0.15)
    assert 6.0 < lagging.mean() < places(worn).mean() - 0.2
    for found in (standing, worn):
        assert torch.equal(found[:, :, 0], masks[:, :, 0]), "what a person marked"


def test_masks_are_true_at_first_and_carried_later(engine, tmp_path: Path):
    run = EncoderRun(tmp_path, replace(SMALL, samples=1000), engine.backbone)
    shares = []
    for samples in (0, 100, 300, 500, 900):
        run.record = TrainingRecord(samples=samples)
        shares.append(run.carried_share)
    assert shares == pytest.approx([0, 0, 0.5, 1, 1])


def test_pairs_are_encoded_once_and_the_unseen_stays_unseen(
    engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(encoder_pairs, "CHUNK", 2)
    given = {"config": WORLD, "geometry": engine.geometry}
    vae = engine.backbone.pipe.vae
    encode_pairs(tmp_path, vae, count=2, **given)
    written = (tmp_path / "0000-latents.npy").stat().st_mtime_ns
    encode_pairs(tmp_path, vae, count=4, **given, shard=(0, 2))
    encode_pairs(tmp_path, vae, count=4, **given, shard=(1, 2))
    assert (tmp_path / "0000-latents.npy").stat().st_mtime_ns == written
    found = read_pairs(tmp_path)
    assert {count: len(chunks) for count, chunks in found.items()} == {1: 1, 2: 1}
    chunk, drawn = found[2][0], chunk_pairs(0, WORLD)
    assert chunk.latents.shape == (2, 2, 7, 4, 16, 24) and chunk.objects == 2
    masks = PairBatch.take([chunk], np.array([1]), np.array([1])).masks
    first = drawn[1].clips[1].masks[0, 0].reshape(8, 4, 12, 4).mean((1, 3)) > 0.5
    assert np.array_equal(masks[0, 0, 0].numpy(), first)
    cast = [c for pair in drawn for clip in pair.clips for c in clip.scene.creatures]
    assert UNSEEN_KIND not in {creature.kind for creature in cast}
    assert {creature.motion for creature in cast} <= {"free", "worded", *MOTIONS} - set(NOVEL)


def test_held_back_pairs_show_what_was_never_learned():
    told, retold = held_pair(3, WorldConfig()).clips
    assert {c.kind for c in retold.scene.creatures} == {UNSEEN_KIND}
    assert {c.motion for c in told.scene.creatures} <= {*NOVEL, "free"}
    again = held_pair(3, WorldConfig()).clips[1]
    assert np.array_equal(retold.frames, again.frames)


def test_another_vae_has_another_folder_of_pairs(engine, tmp_path: Path):
    checkpoint: Checkpoint = engine.backbone.checkpoint
    folder = pairs_folder(tmp_path, checkpoint.folder, WORLD)
    assert folder == pairs_folder(tmp_path, checkpoint.folder, WORLD)
    other = tmp_path / "other"
    (other / "vae").mkdir(parents=True)
    (other / "vae" / "a.safetensors").write_bytes(b"another one")
    assert pairs_folder(tmp_path, other, WORLD) != folder
