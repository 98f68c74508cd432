"""Clicks become masks: one encoding a picture, one decoding a click, clear words for mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from motion_app.errors import CheckpointError, MediaError, RequestError
from motion_app.models.clicks import ClickSegmenter, without_specks
from motion_app.pocket.sam2_network import export_sam2, new_sam2
from motion_app.scene import Box, Click


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sam2")
    export_sam2(new_sam2(), path)
    return path


@pytest.fixture(scope="module")
def loaded(folder) -> ClickSegmenter:
    return ClickSegmenter.load(folder, device="cpu")


@pytest.fixture
def segmenter(loaded) -> ClickSegmenter:
    return loaded.new_session()


def picture(seed: int = 0, height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("clicks", "box"),
    [
        ([Click(10, 10)], None),
        ([Click(10, 10), Click(20.5, 12), Click(90, 60, positive=False)], None),
        ([], Box(5, 5, 60, 40)),
        ([Click(10, 10), Click(2, 2, positive=False)], Box(5, 5, 60, 40)),
        ([Click(2, 2, positive=False)], Box(5, 5, 60, 40)),
    ],
)
def test_every_kind_of_prompt_gives_three_masks_at_the_pictures_size(segmenter, clicks, box):
    segmenter.set_image(picture())
    answer = segmenter.predict(clicks, box)
    assert answer.masks.shape == (3, 64, 96) and answer.masks.dtype == bool
    assert answer.scores.shape == (3,) and (answer.scores >= 0).all() and (answer.scores <= 1).all()
    assert answer.best == answer.scores.argmax()
    assert (answer.mask == answer.masks[answer.best]).all()
    assert answer.seconds > 0


def test_masks_come_back_at_the_size_of_a_larger_frame(segmenter):
    segmenter.set_image(picture(height=480, width=720))
    assert segmenter.predict([Click(719, 479)]).masks.shape == (3, 480, 720)


def test_the_picture_is_encoded_once_however_many_clicks_follow(segmenter):
    calls = []
    encoder = segmenter.model.vision_encoder
    hook = encoder.register_forward_hook(lambda *_: calls.append(1))
    segmenter.set_image(picture())
    for x in (10, 20, 30):
        segmenter.predict([Click(x, 10)])
    segmenter.set_image(picture())
    assert len(calls) == 1
    segmenter.set_image(picture(1))
    hook.remove()
    assert len(calls) == 2


def test_a_click_does_not_change_what_the_next_one_gives(segmenter):
    segmenter.set_image(picture())
    first = segmenter.predict([Click(10, 10)])
    segmenter.predict([Click(80, 50)])
    again = segmenter.predict([Click(10, 10)])
    assert (first.masks == again.masks).all() and (first.scores == again.scores).all()


def test_two_sessions_share_weights_but_not_pictures(segmenter):
    other = segmenter.new_session()
    assert other.model is segmenter.model
    segmenter.set_image(picture())
    with pytest.raises(RequestError, match="set_image"):
        other.predict([Click(10, 10)])
    other.set_image(picture(1, height=32, width=48))
    assert segmenter.predict([Click(90, 60)]).masks.shape == (3, 64, 96)
    assert other.predict([Click(40, 30)]).masks.shape == (3, 32, 48)


def test_a_box_means_the_same_from_whichever_corner_it_was_drawn(segmenter):
    segmenter.set_image(picture())
    a, b = segmenter.predict(box=Box(5, 6, 60, 40)), segmenter.predict(box=Box(60, 40, 5, 6))
    assert (a.scores == b.scores).all()


@pytest.mark.parametrize(
    ("clicks", "box", "words"),
    [
        ([], None, "no click"),
        ([Click(3, 3, positive=False)], None, "do(es)? not belong"),
        ([Click(96, 10)], None, "96 pixels wide and 64 high"),
        ([Click(10, -0.5)], None, "outside the picture"),
        ([Click(float("nan"), 5)], None, "outside the picture"),
        ([], Box(5, 5, 97, 40), "outside the picture"),
        ([], Box(float("nan"), 5, 60, 40), "outside the picture"),
        ([], Box(5, 5, 5, 40), "less than a pixel"),
    ],
)
def test_a_prompt_that_means_nothing_is_refused_in_one_line(segmenter, clicks, box, words):
    segmenter.set_image(picture())
    with pytest.raises(RequestError, match=words) as caught:
        segmenter.predict(clicks, box)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "image", [np.zeros((64, 96), np.uint8), np.zeros((64, 96, 4), np.uint8), np.zeros((8, 8, 3))]
)
def test_a_picture_of_another_kind_is_refused(segmenter, image):
    with pytest.raises(MediaError, match="uint8"):
        segmenter.set_image(image)


def test_a_folder_without_a_model_says_what_belongs_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        ClickSegmenter.load(tmp_path)


def test_a_folder_of_another_model_says_which(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="'bert'"):
        ClickSegmenter.load(tmp_path)


def test_a_folder_with_lost_weights_is_not_filled_with_chance(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights.pop("mask_decoder.iou_token.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="iou_token"):
        ClickSegmenter.load(tmp_path)


def test_a_damaged_weight_file_is_a_checkpoint_error_of_one_line(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError) as caught:
        ClickSegmenter.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_specks_go_and_the_pieces_of_an_object_stay() -> None:
    mask = np.zeros((40, 40), bool)
    mask[5:15, 5:15] = mask[20:26, 20:26] = True
    speckled = mask.copy()
    speckled[35, 35] = speckled[0, 39] = True
    assert np.array_equal(without_specks(speckled), mask)
    assert not without_specks(np.zeros((8, 8), bool)).any()
