"""Learning on a GPU, as far as a CPU can show: clips that come while it runs, the batch that is
found, weights saved as small files and gone on with, minutes that are kept."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from motion_app.errors import RequestError
from motion_app.pocket import backbone, train
from motion_app.pocket.averaged import MOST_BYTES, TrainingRecord, saved_folders
from motion_app.pocket.backbone import BackboneRun, BackboneTraining, train_backbone
from motion_app.pocket.network import PocketNetwork
from motion_app.pocket.stream import Chunk, GrowingClips, drawn_ahead, first_clips
from motion_app.pocket.vae import chunk_scenes, clip_codes, encode_frames, scene_sentences
from motion_app.settings import ROOT
from motion_app.world.world import WorldConfig, render

POCKET = ROOT / "checkpoints" / "pocket"
SMALL = BackboneTraining(
    samples=8, batch=2, layers=1, heads=4, head_dim=16, bfloat16=False, minutes=10, pieces=True
)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLCogVideoX:
    torch.set_num_threads(1)
    return AutoencoderKLCogVideoX.from_pretrained(POCKET / "vae", torch_dtype=torch.float32).eval()


def drawn(number: int, count: int = 2) -> Chunk:
    scenes = chunk_scenes(7, number, WorldConfig(), count)
    clips = [render(scene) for scene in scenes]
    frames = np.stack([clip.frames for clip in clips])
    return frames, clip_codes(clips), [scene_sentences(scene) for scene in scenes]


@pytest.fixture(scope="module")
def chunks() -> list[Chunk]:
    return [drawn(number) for number in range(3)]


def coming(chunks: list) -> tuple[list, object]:
    waiting = list(chunks)
    return waiting, lambda wait: waiting.pop(0) if waiting else None


@pytest.fixture
def clips(vae, chunks) -> GrowingClips:
    _, source = coming(chunks)
    made = GrowingClips(vae, source, device="cpu", most=100)
    made.gather()
    return made


def test_clips_join_as_they_come_and_the_newest_take_the_place_of_the_oldest(vae, chunks):
    waiting, source = coming(chunks[:2])
    clips = GrowingClips(vae, source, device="cpu", most=5)
    first_clips(clips, least=2)
    assert len(clips) == 2 and len(waiting) == 1
    assert clips.gather() == 2 and clips.gather() == 0 and len(clips) == 4
    for frames, codes, said, place in ((*chunks[0], 0), (*chunks[1], 2)):
        latents, images, kept = clips.take(np.array([place, place + 1]))
        assert np.array_equal(kept, codes)
        expected, alone = encode_frames(vae, frames)
        assert np.allclose(latents.numpy(), expected, atol=2e-3)
        assert np.allclose(images.numpy(), alone, atol=2e-3)
        assert clips.sentences[place : place + 2] == said
    waiting.append(chunks[2])
    clips.gather()
    assert len(clips) == 5 and clips.sentences[4] == chunks[2][2][0]
    assert clips.sentences[0] == chunks[2][2][1], "the sixth took the first one's place"
    caption = clips.caption(2, np.random.default_rng(0), neutral_share=0.0)
    assert all(f"{subject} {words}." in caption.text for subject, words in chunks[1][2][0])


def test_other_processes_draw_what_this_one_would():
    with drawn_ahead(WorldConfig(), workers=1, seed=7, count=2) as source:
        assert source(0.0) is None  # nothing yet, and nobody waits
        frames, codes, sentences = source(120.0)
    expected, owned, said = drawn(0)
    assert np.array_equal(frames, expected) and sentences == said
    assert np.array_equal(codes, owned)


def test_the_batch_is_the_largest_that_fits_and_gains_by_its_size():
    def seconds(size: int) -> float:
        if size > 512:
            raise torch.OutOfMemoryError
        return 0.1 + size / 1000

    assert backbone.choose_batch(seconds) == (512, pytest.approx(512 / 0.612))
    assert backbone.choose_batch(lambda size: size / 1000 if size > 32 else 1.0)[0] == 64
    with pytest.raises(RequestError, match="32 clips"):
        backbone.choose_batch(lambda size: seconds(9999))
    assert [backbone.rate_for(batch) for batch in (8, 16, 36, 4096)] == [1.0, 1.0, 1.5, 2.0]


def test_a_run_without_a_batch_finds_one_without_moving_a_weight(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "SIZES", (2, 4))
    monkeypatch.setattr(backbone, "GAIN", 0.0)
    moved = []
    update = BackboneRun.update
    monkeypatch.setattr(
        BackboneRun, "update", lambda run, spent: moved.append(run.training) or update(run, spent)
    )
    fresh = BackboneRun(tmp_path, SMALL, "cpu")
    run = BackboneRun(tmp_path, replace(SMALL, batch=0, samples=0), "cpu")
    before = [p.clone() for p in run.model.parameters()]
    losses = []

    def step() -> torch.Tensor:
        loss = sum(p.square().sum() for p in run.model.parameters())
        losses.append(run.training.batch)
        return loss

    backbone._fit_to_device(run, clips, step, minutes=1.0)
    assert losses == [2, 2, 4, 4] and run.training.batch == 4 and run.training.samples > 0
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    assert all(p.grad is None for p in run.model.parameters())
    assert run.optimiser.rates == fresh.optimiser.rates  # 4 is not more than it was found at
    _, record = train_backbone(tmp_path, clips, replace(SMALL, batch=0))
    assert moved and moved[0].batch == 4 and record.samples == 8


def test_weights_are_saved_as_small_files_and_gone_on_with(clips, tmp_path, monkeypatch):
    monkeypatch.setattr("motion_app.pocket.averaged.MOST_BYTES", 200_000)
    trained, record = train_backbone(tmp_path, clips, SMALL)
    (folder,) = saved_folders(tmp_path, TrainingRecord.FILE)
    files = list(folder.iterdir())
    assert len(files) > 3 and all(file.stat().st_size < 2 * 200_000 for file in files)
    assert TrainingRecord.read(folder) == record and record.step == 4
    run = BackboneRun(tmp_path, SMALL, "cpu", start_from=POCKET)
    assert run.record == record and run.resumed_at == 4
    assert run.rate < 0.05, "a fresh optimiser warms up"
    pairs = zip(run.average.parameters(), trained.parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)
    _, more = train_backbone(tmp_path, clips, replace(SMALL, samples=12))
    (folder,) = saved_folders(tmp_path, TrainingRecord.FILE)
    assert more.step == 6 and folder.name == "saved-00000006", "the older one is gone"
    with pytest.raises(RequestError, match="another shape"):
        BackboneRun(tmp_path, replace(SMALL, layers=2), "cpu")
    (folder / TrainingRecord.FILE).unlink()
    assert saved_folders(tmp_path, TrainingRecord.FILE) == []  # half-written: it does not count


def test_of_one_file_and_pieces_the_one_that_saw_more_is_gone_on_with(clips, tmp_path):
    whole = replace(SMALL, pieces=False)
    train_backbone(tmp_path, clips, replace(whole, samples=4))
    assert (tmp_path / "backbone.pt").exists() and not list(tmp_path.glob("saved-*"))
    train_backbone(tmp_path, clips, SMALL)
    assert BackboneRun(tmp_path, whole, "cpu").record.samples == 8
    train_backbone(tmp_path, clips, replace(whole, samples=12))
    run = BackboneRun(tmp_path, whole, "cpu")
    assert run.record.samples == 12 and run.record.step == 6


def test_no_file_is_larger_than_16_mib_at_the_shipped_size():
    assert MOST_BYTES + 2**19 < 16 * 2**20


def options_of(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return parser.parse_args(words)


def test_what_is_not_said_is_left_to_a_gpu_and_stays_as_it_was_on_a_cpu():
    for device, expected in (
        ("cpu", (300_000, 20_000, 16, 30.0)),
        ("cuda", (0, train.GPU_CLIPS, 0, 0.0)),
    ):
        options = options_of("--device", device)
        train._fill_in(options)
        found = (options.samples, options.clips, options.batch, options.measure_every)
        assert found == expected
    given = options_of("--device", "cuda", "--batch", "64", "--measure-every", "5")
    train._fill_in(given)
    assert (given.batch, given.measure_every) == (64, 5.0)


def test_minutes_hold_for_all_stages_together():
    options = options_of("--minutes", "8")
    now = time.monotonic()
    assert train._minutes(options, 20.0, now - 120) == pytest.approx(6.0, abs=0.1)
    assert train._minutes(options, 3.0, now) == 3.0
    assert train._minutes(options, 3.0, now - 9 * 60) == 0.0
    assert train._minutes(options_of(), 20.0, now - 9999) == 20.0


def test_without_minutes_what_was_learned_becomes_a_checkpoint(clips, vae, tmp_path):
    vae.save_pretrained(tmp_path / "runs" / "vae")
    trained, record = train_backbone(tmp_path / "runs", clips, SMALL)
    words = ("--stages", "backbone", "--device", "cpu", "--minutes", "0", "--layers", "1")
    words += ("--head-dim", "16", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"))
    train.train(options_of(*words))
    made = PocketNetwork(layers=1, heads=4, head_dim=16)
    assert made.load_shipped(tmp_path / "out")
    pairs = zip(made.parameters(), trained.parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=2e-3, atol=1e-4) for a, b in pairs)
    assert TrainingRecord.read(tmp_path / "out") == record


def test_a_gpu_learns_while_clips_are_drawn(vae, chunks, tmp_path, monkeypatch):
    given = []

    @contextmanager
    def drawing(world, *, workers, seed) -> Iterator:
        given.append(workers)
        yield coming(chunks)[1]

    monkeypatch.setattr(train, "drawn_ahead", drawing)
    monkeypatch.setattr("motion_app.pocket.stream.CHUNK", 2)
    words = ("--device", "cpu", "--workers", "3", "--clips", "50", "--measure-every", "0")
    options = options_of(*words, "--runs", str(tmp_path), "--out", str(tmp_path / "none"))
    made, record = train.learn_while_drawing(
        options, POCKET / "vae", WorldConfig(), replace(SMALL, samples=6)
    )
    assert given == [3] and record.samples == 6
    assert len(saved_folders(tmp_path, TrainingRecord.FILE)) == 1
    assert not (tmp_path / "backbone.pt").exists()
    assert all(p.isfinite().all() for p in made.parameters())
