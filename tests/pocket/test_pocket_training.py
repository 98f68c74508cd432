"""The training of the pocket's backbone: what it learns from, and that nothing is lost on the
way."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler

from motion_app.errors import RequestError
from motion_app.pocket import measure
from motion_app.pocket.averaged import TrainingRecord
from motion_app.pocket.backbone import (
    BackboneRun,
    BackboneTraining,
    loss_weights,
    new_backbone,
    train_backbone,
    training_loss,
)
from motion_app.pocket.measure import HeldBack, HeldBackScene, HeldBackWords, training_curve
from motion_app.pocket.network import (
    SCHEDULER_CONFIG,
    PocketNetwork,
    rotary_embedding,
    save_checkpoint,
)
from motion_app.pocket.vae import CHUNK, LatentClips, encode_clips, encode_frames, read_clips
from motion_app.settings import ROOT
from motion_app.world.world import Scene, WorldConfig, draw_scene, render

POCKET = ROOT / "checkpoints" / "pocket"
SMALL = BackboneTraining(
    samples=8, batch=2, layers=1, heads=2, head_dim=16, bfloat16=False, minutes=10
)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX.from_pretrained(POCKET / "vae", torch_dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def clips() -> LatentClips:
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(2, CHUNK, 7, 8, 16, 24)).astype(np.float16)
    sentences = [[("A red cat", "jumps")], [("A blue robot", "sways"), ("A pink bird", "sinks")]]
    codes = rng.integers(4, size=(2, CHUNK, 7, 8, 12), dtype=np.uint8)
    return LatentClips(list(latents), list(latents[:, :, 0]), list(codes), sentences * CHUNK)


def weights(backbone: PocketNetwork) -> torch.Tensor:
    return torch.cat([p.flatten() for p in backbone.parameters()])


def test_a_killed_and_resumed_run_is_the_undisturbed_one(clips: LatentClips, tmp_path: Path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole, record = train_backbone(tmp_path / "whole", clips, SMALL)
    run = BackboneRun(tmp_path / "parts", SMALL, "cpu")
    scheduler = CogVideoXDDIMScheduler(**SCHEDULER_CONFIG)
    rotary = rotary_embedding(run.model.transformer, "cpu")
    for _ in range(2):
        training_loss(run, clips, scheduler, rotary).backward()
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        run.update(1.0)
    run.save()  # and the process is gone
    resumed, again = train_backbone(tmp_path / "parts", clips, SMALL)
    assert record.step == again.step == 4 and record.samples == again.samples == 8
    assert torch.allclose(weights(whole), weights(resumed), atol=1e-6)


def test_training_goes_on_from_shipped_weights_at_their_step(
    clips: LatentClips, vae: AutoencoderKLCogVideoX, tmp_path: Path
):
    shipped = tmp_path / "checkpoint"
    backbone = new_backbone(SMALL)
    save_checkpoint(shipped, vae, backbone)
    TrainingRecord(step=700, samples=6, spent=9.0, history=({"samples": 4, "loss": 0.5},)).write(
        shipped
    )
    figures = {"loss": 0.25, "follow": 1.0}
    _, record = train_backbone(
        tmp_path, clips, SMALL, start_from=shipped, measure=lambda backbone: figures
    )
    assert record.step == 701 and record.samples == 8, "one step of two clips was left"
    assert record.history == ({"samples": 4, "loss": 0.5}, {"samples": 8, **figures})
    record.write(shipped)
    assert TrainingRecord.read(shipped) == record
    assert json.loads((shipped / "training.json").read_text())["samples"] == 8


def test_of_a_share_of_the_clips_the_picture_is_not_given(clips: LatentClips, tmp_path: Path):
    seen: list[torch.Tensor] = []

    def given(share: float) -> int:
        """Of 64 clips, those whose picture the transformer saw."""
        training = replace(SMALL, batch=64, empty_images=share)
        run = BackboneRun(tmp_path, training, "cpu")
        hook = run.model.transformer.register_forward_pre_hook(
            lambda module, arguments, options: seen.append(options["hidden_states"]),
            with_kwargs=True,
        )
        scheduler = CogVideoXDDIMScheduler(**SCHEDULER_CONFIG)
        with torch.no_grad():
            training_loss(run, clips, scheduler, rotary_embedding(run.model.transformer, "cpu"))
        hook.remove()
        return int(seen[-1][:, 0, 8:].flatten(1).any(dim=1).sum())

    assert given(0.0) == 64 and given(1.0) == 0 and 20 < given(0.5) < 44
    assert all(torch.equal(seen[0][:, :, :8], other[:, :, :8]) for other in seen), "same noise"
    with pytest.raises(RequestError, match="empty_images is 15"):
        replace(SMALL, empty_images=15)


def test_from_words_alone_kind_and_colour_are_measured(
    vae: AutoencoderKLCogVideoX, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told = HeldBackWords.draw(0, WorldConfig())
    assert told.request.image is None and told.creature.noun in told.request.full_prompt()
    other = HeldBackWords.draw(1, WorldConfig()).creature
    for creature, right in ((told.creature, True), (other, False)):
        frames = render(Scene(WorldConfig(frames=2), 0, (creature,))).frames
        assert told.shown(frames) is right
    for name, count in (("CLIPS", 4), ("SCENES", 1), ("SHEET_SCENES", 1), ("WORDS", 2)):
        monkeypatch.setattr(measure, name, count)
    held_back = HeldBack(tmp_path, vae, WorldConfig(), without_picture=True)
    figures = held_back(new_backbone(SMALL))
    assert figures["words"] in (0.0, 0.5, 1.0) and figures["loss"] > 0


def test_the_figures_along_the_way_are_drawn_beside_the_weights():
    first = {"samples": 50_000, "loss": 0.14, "follow": 0.4, "rmpm_iou": 0.5, "frame1_db": 30.0}
    last = {"samples": 100_000, "loss": 0.12, "follow": 0.8, "rmpm_iou": 0.7, "frame1_db": 32.0}
    drawn = training_curve([first, last])
    for words in ("thousand clips seen", ">50<", ">100<", "follow their words", "velocity error"):
        assert words in drawn
    (points,) = re.findall(r'points="([^"]+)" fill="none" stroke="#[^"]+"[^>]*/>', drawn)[:1]
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points.split())
    assert x1 > x0 and y1 < y0, "more clips to the right, more that follow further up"


def test_weights_of_another_shape_start_afresh_and_from_nothing(
    vae: AutoencoderKLCogVideoX, tmp_path: Path
):
    save_checkpoint(tmp_path / "checkpoint", vae, new_backbone(replace(SMALL, layers=2)))
    TrainingRecord(step=700, samples=6).write(tmp_path / "checkpoint")
    run = BackboneRun(tmp_path, SMALL, "cpu", start_from=tmp_path / "checkpoint")
    assert run.record == TrainingRecord()


def test_the_rate_warms_up_after_every_fresh_optimiser_and_falls_at_the_end_alone(tmp_path: Path):
    run = BackboneRun(tmp_path, replace(SMALL, samples=1000, decay=0.2), "cpu")
    run.record, run.resumed_at = TrainingRecord(step=500, samples=400), 500
    assert run.rate == pytest.approx(1 / 50)
    run.resumed_at = 0
    assert run.rate == 1.0
    run.record = TrainingRecord(step=500, samples=900)
    assert run.rate == pytest.approx(0.5)


def test_the_average_follows_the_weights_the_closer_the_more_the_rates_have_fallen(tmp_path: Path):
    run = BackboneRun(tmp_path, replace(SMALL, samples=1000, decay=0.2), "cpu")
    mean, value = (next(part.parameters()) for part in (run.average, run.model))
    moved = {}
    for samples in (400, 900, 998):
        run.record = TrainingRecord(step=20_000, samples=samples)
        with torch.no_grad():
            mean.zero_()
            value.fill_(1.0)
        run.update_average()
        moved[samples] = float(mean.mean())
    assert moved[400] == pytest.approx(0.001, rel=0.01)
    assert moved[900] == pytest.approx(0.002, rel=0.01)
    assert moved[998] == pytest.approx(0.1, rel=0.01)


def test_the_loss_counts_what_moves_and_the_given_frame_more():
    latents = torch.zeros(1, 3, 8, 2, 2)
    latents[:, 1:, :, 0, 0] = 1.0  # one place in four moves in two frames of three
    weights_ = loss_weights(latents, moving=4.0, first=2.0)[0, :, 0]
    assert weights_.mean() == pytest.approx(1.0)
    still, moving, first = weights_[1, 1, 1], weights_[1, 0, 0], weights_[0, 0, 0]
    assert moving / still == pytest.approx(4.0) and first / still == pytest.approx(2.0)


def test_clips_are_taken_from_their_own_chunk_and_row(clips: LatentClips):
    latents, images, codes = clips.take(np.array([3, CHUNK + 7]))
    assert np.array_equal(codes[1], clips.codes[1][7])
    assert np.array_equal(latents[1].half().numpy(), clips.latents[1][7])
    assert np.array_equal(images[0].half().numpy(), clips.images[0][3])


def test_the_image_condition_is_the_first_frame_encoded_alone(
    vae: AutoencoderKLCogVideoX, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("motion_app.pocket.vae.CHUNK", 4)
    encode_clips(tmp_path, vae, count=4, seed=1, config=WorldConfig())
    stored = read_clips(tmp_path)
    rng = np.random.default_rng([1, 0])
    frames = np.stack([render(draw_scene(rng)).frames for _ in range(4)])
    alone = encode_frames(vae, frames[:, :1])[0][:, 0]
    assert len(stored) == 4
    assert np.allclose(stored.images[0], alone, atol=1e-2)
    assert not np.allclose(stored.images[0], stored.latents[0][:, 0], atol=1e-2)


def test_the_wide_world_lets_creatures_pass_and_the_easy_one_never():
    def nearest(level: int) -> tuple[float, float]:
        rng = np.random.default_rng(5)
        first, later = [], []
        for _ in range(60):
            a, b = draw_scene(rng, WorldConfig(level=level), objects=2).creatures
            reach = a.radius * a.path.scale_x.max() + b.radius * b.path.scale_x.max()
            distance = np.linalg.norm(a.centres() - b.centres(), axis=1) / reach
            first.append(distance[0])
            later.append(distance.min())
        return min(first), min(later)

    first, later = nearest(1)
    assert first >= 1.0, "the first frame's masks never touch"
    assert 0.5 <= later < 0.9
    assert nearest(0)[1] >= 1.0


def test_the_true_clip_follows_its_words_and_the_exchanged_one_does_not():
    told, exchanged = [], []
    for i in range(6):
        scene = HeldBackScene.draw(i, WorldConfig())
        told += scene.following(scene.rendered.frames)
        other = replace(scene, rendered=replace(scene.rendered, tracks=scene.rendered.tracks[::-1]))
        exchanged += other.following(scene.rendered.frames)
    assert sum(told) >= 11, "of twelve the tracker loses one purple bird beside a pink robot"
    assert not any(exchanged)
