"""Laws of what a motion is learned from where nobody has chosen: the liveliest part, the mover."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from motion_app.media.files import Clip
from motion_app.models.checkpoint import Checkpoint
from motion_app.settings import ROOT
from motion_app.training.inputs import select
from motion_app.training.suggestion import (
    liveliest_part,
    mover_crop,
    name_from,
    suggest_selection,
)

GEOMETRY = Checkpoint.read(ROOT / "checkpoints" / "pocket").geometry  # 96 by 64, 13 frames at 8
FILE = Path("clip.mp4")


def frames_with(*ways: tuple[slice, tuple[int, int], tuple[int, int], int], size=(135, 240), n=40):
    """A grey picture on which squares go from (y, x) to (y, x) in a slice of ``n`` frames."""
    frames = np.full((n, *size, 3), 120, np.uint8)
    for when, (y0, x0), (y1, x1), side in ways:
        moving = range(n)[when]
        for t in range(n):
            share = min(1.0, max(0.0, (t - moving[0]) / (len(moving) - 1)))
            y, x = round(y0 + share * (y1 - y0)), round(x0 + share * (x1 - x0))
            frames[t, y : y + side, x : x + side] = (220, 40, 40)
    return frames


def test_the_part_is_as_long_as_the_model_sees_and_where_most_goes_on() -> None:
    frames = frames_with((slice(20, 33), (50, 20), (50, 180), 20))
    start, stop = liveliest_part(frames, GEOMETRY.frames)
    assert stop - start == GEOMETRY.frames and abs(start - 20) <= 1
    assert liveliest_part(frames[:9], GEOMETRY.frames) == (0, 9)  # too short: all of it
    still = np.repeat(frames[:1], 30, axis=0)
    assert liveliest_part(still, GEOMETRY.frames) == (0, GEOMETRY.frames)


def test_a_cut_is_no_movement() -> None:
    frames = frames_with((slice(25, 38), (50, 20), (50, 120), 14))
    frames[:10] = np.random.default_rng(0).integers(0, 255, frames.shape[1:], np.uint8)
    start, stop = liveliest_part(frames, GEOMETRY.frames)
    assert start >= 10 and (start, stop) != (0, GEOMETRY.frames) and abs(start - 25) <= 1


def test_the_crop_has_the_models_shape_and_holds_all_of_the_movers_way() -> None:
    frames = frames_with((slice(0, 13), (20, 150), (40, 200), 16), n=13)
    (x0, y0, x1, y1), alone = mover_crop(frames, GEOMETRY)
    assert alone
    wide, high = (x1 - x0) * 240, (y1 - y0) * 135
    assert wide / high == pytest.approx(GEOMETRY.width / GEOMETRY.height, rel=0.02)
    assert x0 * 240 < 150 and x1 * 240 > 216 and y0 * 135 < 20 and y1 * 135 > 56
    assert wide < 0.7 * 240  # and not much else


def test_what_fills_the_picture_or_moves_with_the_camera_is_not_cropped() -> None:
    wide = frames_with((slice(0, 13), (40, 20), (40, 180), 40), n=13)
    assert mover_crop(wide, GEOMETRY) == (None, True)
    noise = np.random.default_rng(1).integers(0, 255, (13, 135, 240, 3), np.uint8)
    assert mover_crop(noise, GEOMETRY) == (None, True)
    still = np.full((13, 135, 240, 3), 90, np.uint8)
    assert mover_crop(still, GEOMETRY) == (None, True)


def test_of_two_movers_the_larger_one_is_taken_unless_a_person_points() -> None:
    large = (slice(0, 13), (80, 20), (80, 60), 30)
    small = (slice(0, 13), (10, 190), (30, 205), 14)
    frames = frames_with(large, small, n=13)
    chosen = suggest_selection(FILE, Clip(frames, 8.0), GEOMETRY)
    x0, _, x1, y1 = chosen.box
    assert x0 * 240 < 20 and x1 * 240 > 90 and y1 * 135 > 110 and chosen.mover is None
    point = (197 / 240, 17 / 135)
    pointed = suggest_selection(FILE, Clip(frames, 8.0), GEOMETRY, span=(0, 13), point=point)
    x0, _, x1, _ = pointed.box
    assert x1 * 240 > 218 and x0 * 240 > 100 and pointed.mover == point


def test_a_mover_beside_another_in_the_crop_is_pointed_at() -> None:
    one = (slice(0, 13), (30, 40), (60, 60), 30)
    other = (slice(0, 13), (80, 110), (50, 130), 24)
    frames = frames_with(one, other, n=13)
    chosen = suggest_selection(FILE, Clip(frames, 8.0), GEOMETRY)
    x, y = chosen.mover
    assert 40 <= x * 240 <= 70 and 30 <= y * 135 <= 60  # on the larger one, in the first frame


def test_a_point_far_from_everything_takes_the_crop_away_and_stays() -> None:
    frames = frames_with((slice(0, 13), (20, 30), (30, 60), 16), n=13)
    chosen = suggest_selection(FILE, Clip(frames, 8.0), GEOMETRY, point=(0.95, 0.95))
    assert chosen.box is None and chosen.mover == (0.95, 0.95)


def test_what_is_suggested_can_be_selected_at_any_size() -> None:
    frames = frames_with((slice(8, 24), (20, 150), (40, 200), 16))
    chosen = suggest_selection(FILE, Clip(frames, 8.0), GEOMETRY)
    large = Clip(frames.repeat(2, axis=1).repeat(2, axis=2), 8.0)
    cut = select(large, chosen).clip.frames
    assert len(cut) == GEOMETRY.frames
    assert cut.shape[2] / cut.shape[1] == pytest.approx(1.5, rel=0.03)
    whole = replace(chosen, box=None, stop=None, start=0.0)
    assert select(large, whole).clip.frames.shape == large.frames.shape


@pytest.mark.parametrize(
    ("file", "name"),
    [("Dog_runs-2.MOV", "Dog runs 2"), ("猫跳.mp4", "猫跳"), (".mp4", "mp4"), ("___.webm", "clip")],
)
def test_a_motion_is_called_after_its_file(file: str, name: str) -> None:
    assert name_from(file) == name
