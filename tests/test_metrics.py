"""Metrics give the values worked out by hand."""

from __future__ import annotations

import numpy as np

from motion_app.evaluation.metrics import assignment_similarity, bootstrap_interval, mask_iou

LINE = np.stack([np.zeros(5), np.arange(5) * 3.0], axis=1)  # 12 pixels to the right


def test_a_track_is_most_like_itself_wherever_it_starts_and_however_long() -> None:
    assert np.isclose(assignment_similarity(LINE, LINE + 40), 1)
    assert np.isclose(assignment_similarity(LINE, 2 * LINE[::2]), 1)


def test_the_opposite_track_is_minus_one_and_a_right_angle_zero() -> None:
    assert np.isclose(assignment_similarity(LINE, -LINE), -1)
    assert np.isclose(assignment_similarity(LINE, LINE[:, ::-1]), 0)


def test_a_still_track_is_like_nothing() -> None:
    assert assignment_similarity(LINE, np.full((5, 2), 7.0)) == 0
    assert assignment_similarity(0.05 * LINE, LINE) == 0


def test_iou_of_half_overlapping_masks_is_a_third() -> None:
    a, b = np.zeros((2, 4, 4), bool)
    a[:, :2], b[:, 1:3] = True, True
    assert np.isclose(mask_iou(a, b), 1 / 3)
    assert mask_iou(a & ~a, b & ~b) == 1


def test_the_bootstrap_interval_of_a_constant_is_the_constant() -> None:
    assert bootstrap_interval(np.full(9, 0.25)) == (0.25, 0.25)
    low, high = bootstrap_interval(np.r_[np.zeros(50), np.ones(50)])
    assert 0.38 < low < 0.45 and 0.55 < high < 0.62
