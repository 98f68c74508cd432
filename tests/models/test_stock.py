"""Image-to-video models of others, run as they are."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_stock import SIZES

from motion_app.__main__ import main
from motion_app.errors import CheckpointError, GenerationCancelled, RequestError
from motion_app.media.files import read_clip
from motion_app.media.provenance import read_recipe, verify_video
from motion_app.models.stock import (
    StockGenerator,
    StockOptions,
    StockVideo,
    near_size,
    place,
)
from motion_app.models.stock_files import (
    BY_LAYER,
    HUNYUAN,
    WAN,
    WAN_DENSE,
    StockFiles,
    stock_folder,
    stock_model,
)

SMALL = StockOptions(seed=3, steps=2, height=32, width=48, frames=9, fps=16.0, guidance=3.0)
PROMPT = "A red robot jumps up."


@pytest.fixture(scope="module")
def wan(stock_models) -> Path:
    return stock_models[0]


@pytest.fixture(scope="module")
def generator(wan) -> StockGenerator:
    return StockGenerator.load(StockFiles.find(wan))


@pytest.fixture(scope="module")
def hunyuan(stock_models) -> StockGenerator:
    return StockGenerator.load(StockFiles.find(stock_models[1]))


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_a_folder_is_made_into_a_video_by_its_own_pipeline(generator, wan):
    seen = []
    video = generator.generate(picture(), PROMPT, SMALL, lambda *step: seen.append(step))
    assert video.frames.shape == (9, 32, 48, 3) and video.frames.dtype == np.uint8
    assert seen == [(1, 2), (2, 2)] and video.fps == 16.0
    again = generator.generate(picture(), PROMPT, SMALL)
    assert np.array_equal(again.frames, video.frames) and again.recipe == video.recipe
    assert video.recipe["kind"] == "WanImageToVideoPipeline" and video.recipe["seed"] == 3
    assert video.recipe["licence"] == WAN.licence and video.recipe["prompt"] == PROMPT
    assert video.frames.std() > 0 and video.calls == 4, "both halves of the guidance"


def test_the_other_pipeline_reads_picture_and_words_itself(hunyuan):
    assert hunyuan.multiple == 16
    video = hunyuan.generate(picture(), PROMPT, SMALL)
    assert video.frames.shape == (9, 32, 48, 3) and video.calls == 2, "its guidance costs nothing"
    assert video.recipe["licence"] == HUNYUAN.licence
    other = hunyuan.generate(picture(), "The fox is moving.", SMALL)
    assert not np.array_equal(video.frames, other.frames)


def test_picture_words_and_seed_all_count(generator):
    plain = generator.generate(picture(), PROMPT, SMALL).frames
    others = (
        generator.generate(picture()[::-1], PROMPT, SMALL),
        generator.generate(picture(), "A blue fox sinks.", SMALL),
        generator.generate(picture(), PROMPT, replace(SMALL, seed=4)),
    )
    assert all(not np.array_equal(other.frames, plain) for other in others)


def test_cancelling_stops_within_the_step(generator):
    passes = []
    hook = generator.pipe.transformer.register_forward_pre_hook(lambda *_: passes.append(1))
    with pytest.raises(GenerationCancelled, match="step 1 of 2"):
        generator.generate(picture(), PROMPT, SMALL, lambda step, steps: False)
    hook.remove()
    assert len(passes) == 2, "both halves of the guidance, of one step"
    assert generator.generate(picture(), PROMPT, SMALL).frames.any()


def test_layers_that_come_and_go_make_the_same_video(stock_models):
    for folder in stock_models:
        whole = StockGenerator.load(StockFiles.find(folder))
        video = whole.generate(picture(), PROMPT, SMALL)
        whole.pipe.vae.enable_tiling()  # as ``place`` does where room is short
        assert np.array_equal(whole.generate(picture(), PROMPT, SMALL).frames, video.frames)
        place(whole.pipe, BY_LAYER, torch.device("cpu"))
        assert np.array_equal(whole.generate(picture(), PROMPT, SMALL).frames, video.frames)


def test_sizes_are_near_the_models_own_in_the_pictures_shape(generator):
    assert near_size(832 / 480, 480 * 832, 16) == (480, 832)
    tall, wide = near_size(0.5, 480 * 832, 16)
    assert tall % 16 == wide % 16 == 0 and abs(tall * wide / (480 * 832) - 1) < 0.05
    assert generator.multiple == 16
    asked = generator._filled(StockOptions(frames=12), picture())
    assert asked.frames == 9, "one and a multiple of four"
    own = generator.model
    assert (asked.steps, asked.guidance, asked.fps) == (own.steps, own.guidance, own.fps)
    with pytest.raises(RequestError, match="multiples of 16"):
        generator.generate(picture(), PROMPT, StockOptions(height=33, width=48, frames=5, steps=1))
    with pytest.raises(RequestError, match="steps is 0"):
        StockOptions(steps=0)


def test_a_case_gets_its_own_rate_and_length_by_the_nearest_frame():
    frames = (
        np.arange(33, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(6, 2).repeat(3, 3)
    )
    video = StockVideo(frames, 16.0, {"seed": 0}).resampled(count=20, fps=8.0, height=4, width=6)
    assert video.frames[:, 0, 0, 0].tolist() == [min(2 * i, 32) for i in range(20)]
    assert video.fps == 8.0 and video.recipe["resampled"]["made_at_fps"] == 16.0


def test_what_is_no_such_model_is_refused_in_words(wan, tmp_path, tiny_checkpoint):
    assert replace(WAN, **SIZES) == stock_model(wan)
    for index, found in (
        ({"_class_name": "WanImageToVideoPipeline", "expand_timesteps": True}, WAN_DENSE),
        ({"_class_name": "HunyuanVideoImageToVideoPipeline"}, HUNYUAN),
    ):
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        assert stock_model(tmp_path) == found
    assert "South Korea" in HUNYUAN.licence
    with pytest.raises(CheckpointError, match="this program runs Wan"):
        stock_model(tiny_checkpoint)
    (tmp_path / "model_index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="one JSON object"):
        stock_model(tmp_path)
    with pytest.raises(CheckpointError, match=r"Apache 2\.0.*hf download"):
        stock_folder("nobody/nothing")


def test_the_command_makes_the_cases_of_a_benchmark_and_leaves_what_is_there(wan, tmp_path, capsys):
    cases, out = tmp_path / "cases", tmp_path / "videos"
    for name in ("one", "two"):
        (cases / name).mkdir(parents=True)
        (cases / name / "case.json").write_text(json.dumps({"prompt": PROMPT}))
        Image.fromarray(picture()).save(cases / name / "first_frame.png")
    options = [f"--{key}={getattr(SMALL, key)}" for key in ("steps", "height", "width", "frames")]
    said = ["stock", "--model", str(wan), "--cases", str(cases), "--case-frames", "5"]
    said += [*options, "--device", "cpu", "--out", str(out)]
    assert main(said) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["made"] == ["one", "two"] and not result["there_already"]
    clip = read_clip(out / "one.mp4")
    assert clip.frames.shape == (5, 40, 60, 3) and clip.fps == 8.0
    assert verify_video(out / "one.mp4").tagged
    assert read_recipe(out / "two.mp4")["model"] == str(wan)
    (out / "two.mp4").unlink()
    assert main(said) == 0
    assert json.loads(capsys.readouterr().out)["made"] == ["two"]
    assert main(["stock", "--model", str(wan), "--out", str(out)]) == 2
    assert "--cases" in capsys.readouterr().err
