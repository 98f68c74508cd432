"""Motions from one look by a checkpoint's own encoder, as they are and refined. Its weights
are random: what is tested is the way from the clip to the video."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from motion_app.engine.motion_encoder import EncoderConfig, MotionEncoder, encode_clip
from motion_app.engine.motion_tokens import MotionTokens
from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import CheckpointError, GenerationCancelled, RequestError
from motion_app.library.library import Library
from motion_app.library.motion_clip import read_motion_clip
from motion_app.library.motion_file import read_motion
from motion_app.media.files import Clip
from motion_app.methods import ENCODED, LEARNED, REFINED
from motion_app.request.request import build_request, parse_request
from motion_app.request.written import request_to_json
from motion_app.scene import GenerationRequest, Motion, Options, SceneObject
from motion_app.training.config import MotionTraining, own_steps
from motion_app.training.processes import ALONE, Share
from motion_app.training.tokens import TrainingRun
from motion_app.training.trainer import train_motion

OWN = {"steps": 10, "tokens": 9, "views": 2, "batch": 1, "learning_rate": 0.01}
WORDS = {"name": "slide", "phrase": "is moving", "noun": "cat"}
SIZES = {"inner": 16, "heads": 2, "seeing": 1, "asking": 1}


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> MotionEngine:
    """One whose checkpoint has an encoder of 5 tokens a layer."""
    folder = tmp_path_factory.mktemp("encoded") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    file = folder / "generation.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "motion_training": OWN}))
    engine = MotionEngine.load(folder, device="cpu")
    torch.manual_seed(5)
    config = EncoderConfig.of(engine.backbone.checkpoint, tokens=5, scale=1.0)
    MotionEncoder(replace(config, still=0.0, moving=0.01, **SIZES)).save(folder)
    return engine


def sliding(*, rows: tuple[int, int] = (8, 20), step: int = 2) -> tuple[Clip, np.ndarray]:
    """A red square that goes to the right, and where it is."""
    frames = np.full((13, 32, 48, 3), 200, np.uint8)
    masks = np.zeros((13, 32, 48), bool)
    for t in range(13):
        masks[t, slice(*rows), 4 + step * t : 16 + step * t] = True
    frames[masks] = (220, 40, 30)
    return Clip(frames, 8.0), masks


def learned(
    engine: MotionEngine, out: Path, method: str, *, share: Share = ALONE, **given
) -> Motion:
    clip, masks = sliding()
    own = engine.defaults.training_of(method)
    config = MotionTraining.by(method, own, mask="given", **WORDS, **given)
    return train_motion([clip], config, engine=engine, out=out, masks=[masks], share=share)


def tokens_of(motion: Motion) -> torch.Tensor:
    return torch.stack([layer.detach() for layer in MotionTokens.load(motion.path).layers])


@pytest.fixture(scope="module")
def encoded(engine: MotionEngine, tmp_path_factory: pytest.TempPathFactory) -> Motion:
    return learned(engine, tmp_path_factory.mktemp("motions") / "slide.safetensors", ENCODED)


def test_a_motion_at_one_look_is_a_file_with_its_clip_and_what_moved(engine, encoded):
    assert (encoded.method, encoded.steps) == (ENCODED, 0)
    assert encoded.has_tokens and encoded.has_clip and encoded.has_mover and encoded.preview
    clip = read_motion_clip(encoded.path, name=encoded.name)
    said = encode_clip(engine.backbone, clip, {})
    assert torch.allclose(tokens_of(encoded), torch.stack(list(said.layers)), atol=2e-3)
    assert said.tokens == 5, "as many as the encoder gives, whatever learning takes"


def test_refining_begins_where_the_look_ended(engine, encoded, tmp_path: Path):
    assert own_steps(REFINED, engine.defaults.training_of(REFINED)) == 2
    refined = learned(engine, tmp_path / "slide.safetensors", REFINED)
    drawn = learned(engine, tmp_path / "drawn.safetensors", "fleximmt", steps=2, tokens=5)
    assert (refined.method, refined.steps) == (REFINED, 2)
    moved = (tokens_of(refined) - tokens_of(encoded)).abs().mean()
    assert 0 < moved < 0.2 * (tokens_of(drawn) - tokens_of(encoded)).abs().mean()


def test_refining_tells_what_it_gained_at_the_same_noise(engine, encoded, tmp_path: Path):
    """With nothing learned there is no gain, and measuring changes nothing that is learned."""
    own = {**OWN, "steps": 40}
    refined = learned(engine, tmp_path / "slide.safetensors", REFINED, steps=own["steps"])
    before, after = refined.clip_errors
    assert 0 < after < before
    assert (
        learned(engine, tmp_path / "again.safetensors", REFINED, steps=1).clip_errors[0] == before
    )
    assert encoded.clip_errors is None
    assert learned(engine, tmp_path / "drawn.safetensors", "fleximmt", steps=1).clip_errors is None
    moved = Library([tmp_path]).list()
    assert {motion.clip_errors for motion in moved} >= {(before, after), None}


class Apart(Share):
    """One of two processes that does not wait for the other."""

    def average(self, parameters):
        pass

    def mean(self, value):
        return value

    def decided(self, flag):
        return flag


def test_of_several_that_refine_together_the_one_that_writes_measures(
    engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain, measured = TrainingRun.clip_error, []

    def clip_error(run, tokens):
        measured.append(run.share.rank)
        return plain(run, tokens)

    monkeypatch.setattr(TrainingRun, "clip_error", clip_error)
    file = tmp_path / "slide.safetensors"
    first, second = (learned(engine, file, REFINED, share=Apart(rank, 2)) for rank in (0, 1))
    assert measured == [0, 0]  # before and after
    assert first.clip_errors and second.clip_errors == first.clip_errors


def test_what_an_encoder_cannot_do_is_told(engine, tiny_checkpoint, tmp_path: Path):
    clip, masks = sliding()
    config = MotionTraining.by(ENCODED, {}, **WORDS)
    with pytest.raises(RequestError, match="looks at one clip, 2 came"):
        train_motion([clip] * 2, config, engine=engine, out=tmp_path / "a.safetensors")
    held = Clip(np.repeat(clip.frames[:1], 13, axis=0), 8.0)
    with pytest.raises(RequestError, match="point at it"):
        train_motion([held], config, engine=engine, out=tmp_path / "a.safetensors")
    bare = MotionEngine.load(tiny_checkpoint, device="cpu")
    with pytest.raises(CheckpointError, match="has no motion encoder"):
        train_motion([clip], config, engine=bare, out=tmp_path / "a.safetensors", masks=[masks])
    with pytest.raises(RequestError, match="steps is 0"):
        MotionTraining(**WORDS, steps=0)


def asked(motion: Motion, method: str) -> GenerationRequest:
    mask = np.zeros((32, 48), bool)
    mask[6:22, 10:30] = True
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    thing = SceneObject(mask, "A cat is moving.", "is moving", motion, name="cat")
    return GenerationRequest(picture, (thing,), Options(seed=2, steps=2, method=method))


def test_the_method_looks_at_the_clip_of_any_motion(engine, encoded, tmp_path: Path):
    """A motion that was learned otherwise moves as its clip does; one that was encoded is taken as
    it is."""
    other = learned(engine, tmp_path / "slide.safetensors", "fleximmt", steps=1)
    looked, plain, kept = (
        engine.generate(asked(motion, method)).frames
        for motion, method in ((other, ENCODED), (other, "fleximmt"), (encoded, ENCODED))
    )
    assert np.abs(looked.astype(int) - kept).mean() < 0.5, "the same clip, the same motion"
    assert np.abs(looked.astype(int) - plain).mean() > np.abs(looked.astype(int) - kept).mean()
    assert np.array_equal(kept, engine.generate(asked(encoded, "fleximmt")).frames)


def test_a_recipe_of_it_replays(engine, encoded, tmp_path: Path):
    video = engine.generate(asked(encoded, ENCODED))
    request = build_request(
        parse_request(request_to_json(asked(encoded, ENCODED))),
        geometry=engine.geometry,
        library=Library([encoded.path.parent]),
        base=engine.fingerprint,
    )
    assert request.options.method == ENCODED
    assert np.array_equal(engine.generate(request).frames, video.frames)


def test_the_methods_need_what_they_are_told(engine, encoded, tmp_path: Path):
    with pytest.raises(
        RequestError, match='needs a motion that was learned so, the motion "slide"'
    ):
        engine.generate(asked(encoded, REFINED))
    bare = replace(encoded, method="fleximmt", has_clip=False)
    with pytest.raises(RequestError, match="needs the reference clip, which the motion"):
        engine.generate(asked(bare, ENCODED))


def test_an_unfinished_refining_goes_on(engine, tmp_path: Path):
    clip, masks = sliding()
    config = MotionTraining.by(REFINED, OWN, mask="given", **WORDS)
    given = {"engine": engine, "masks": [masks]}
    whole = train_motion([clip], config, out=tmp_path / "whole.safetensors", **given)
    with pytest.raises(GenerationCancelled):
        train_motion(
            [clip], config, out=tmp_path / "cut.safetensors", on_progress=lambda r: False, **given
        )
    cut = train_motion([clip], config, out=tmp_path / "cut.safetensors", **given)
    assert torch.allclose(tokens_of(whole), tokens_of(cut), atol=2e-3)
    assert read_motion(cut.path).method == REFINED and REFINED in LEARNED
