"""Metrics give the values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from motion_app.errors import MotionAppError
from motion_app.evaluation.metrics import (
    adjacent_consistency,
    aesthetic_quality,
    appearance_consistency,
    assignment_similarity,
    bootstrap_interval,
    dynamic_degree,
    flow_fidelity,
    flow_score,
    frechet_distance,
    gaussian_distance,
    i2v_subject,
    imaging_quality,
    is_dynamic,
    mask_iou,
    motion_smoothness,
    subject_consistency,
    temporal_consistency,
    temporal_flickering,
    text_similarity,
    trajectory_fidelity,
)
from motion_app.evaluation.released_fidelity import (
    flow_fidelity_released,
    trajectory_fidelity_released,
)
from motion_app.evaluation.trackers import box_points

RELEASED = Path(__file__).parents[1] / "fixtures" / "released" / "fidelity_released.npz"
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


def moving_dots(steps: np.ndarray, points: int = 3) -> np.ndarray:
    """Tracks [points, T, 2] that all take ``steps`` [T - 1, 2], from different places."""
    path = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    return path[None] + 10.0 * np.arange(points)[:, None, None]


RIGHT = np.tile([0.0, 2.0], (6, 1))
DOWN = np.tile([2.0, 0.0], (6, 1))
TURN = np.concatenate([RIGHT[:3], DOWN[:3]])


def uniform_flow(x: float, y: float, pairs: int = 4) -> np.ndarray:
    """Flow [pairs, 8, 8, 2] that is the same everywhere."""
    return np.tile(np.array([x, y]), (pairs, 8, 8, 1))


EVERYWHERE = np.ones((4, 8, 8), bool)


def test_embeddings_turning_by_right_angles_give_the_means_worked_out_by_hand() -> None:
    turned = np.array([[3.0, 0], [0, 1], [2, 0], [0, 5]])
    assert np.isclose(appearance_consistency(turned), 1 / 3)  # 0, 1, 0
    assert np.isclose(temporal_consistency(turned), 2 / 6)  # two of six pairs agree
    assert np.isclose(adjacent_consistency(turned), 0)
    assert np.isclose(text_similarity(turned, np.array([7.0, 0])), 1 / 2)
    assert np.isclose(subject_consistency(turned), (0 + 1 + 0) / 3 / 2)


def test_identical_frames_are_wholly_consistent_whatever_the_scale() -> None:
    same = np.outer([1, 2, 3], [1.0, -2, 0.5])
    for metric in (appearance_consistency, temporal_consistency, adjacent_consistency):
        assert np.isclose(metric(same), 1)


def test_all_pairs_do_not_care_for_the_order_of_frames_and_neighbours_do() -> None:
    rng = np.random.default_rng(0)
    frames = np.cumsum(rng.normal(size=(9, 5)), axis=0)
    shuffled = frames[rng.permutation(9)]
    assert np.isclose(temporal_consistency(frames), temporal_consistency(shuffled))
    assert not np.isclose(adjacent_consistency(frames), adjacent_consistency(shuffled))


def test_one_frame_or_an_empty_embedding_is_refused_in_words() -> None:
    with pytest.raises(MotionAppError, match="longer video"):
        appearance_consistency(np.ones((1, 4)))
    with pytest.raises(MotionAppError, match="all zeros"):
        temporal_consistency(np.zeros((3, 4)))


def test_identical_tracks_have_fidelity_one_reversed_minus_one_and_a_right_angle_none() -> None:
    tracks = moving_dots(TURN)
    assert np.isclose(trajectory_fidelity(tracks, tracks + 50), 1)
    assert np.isclose(trajectory_fidelity(tracks, moving_dots(-TURN)), -1)
    assert np.isclose(trajectory_fidelity(moving_dots(RIGHT), moving_dots(DOWN)), 0)
    assert np.isclose(trajectory_fidelity(moving_dots(RIGHT), tracks), 0.5)  # half the steps agree


def test_a_static_video_has_no_trajectory_fidelity_on_either_side() -> None:
    still, moving = moving_dots(0 * RIGHT), moving_dots(RIGHT)
    assert trajectory_fidelity(still, moving) == 0
    assert trajectory_fidelity(moving, still) == 0
    assert trajectory_fidelity(still, still) == 0


def test_the_order_of_points_does_not_matter_and_the_best_reference_counts() -> None:
    mixed = np.concatenate([moving_dots(RIGHT, 2), moving_dots(DOWN, 1)])
    assert np.isclose(trajectory_fidelity(mixed, moving_dots(RIGHT)), 2 / 3)
    assert np.isclose(trajectory_fidelity(moving_dots(RIGHT), mixed), 1)
    assert trajectory_fidelity(mixed, mixed[::-1]) == trajectory_fidelity(mixed[::-1], mixed) == 1


def test_swapped_objects_lose_what_each_had_with_its_own_reference() -> None:
    objects, references = [RIGHT, DOWN], [moving_dots(RIGHT), moving_dots(DOWN)]
    own = [trajectory_fidelity(moving_dots(objects[k]), references[k]) for k in range(2)]
    swapped = [trajectory_fidelity(moving_dots(objects[1 - k]), references[k]) for k in range(2)]
    assert np.allclose(own, 1) and np.allclose(swapped, 0)


def test_steps_in_which_a_point_is_hidden_do_not_count() -> None:
    tracks, turned = moving_dots(RIGHT, 1), moving_dots(TURN, 1)
    seen = np.ones((1, 7), bool)
    seen[0, 4:] = False
    assert np.isclose(trajectory_fidelity(turned, tracks, visible=seen), 1)
    assert trajectory_fidelity(turned, tracks, visible=np.zeros((1, 7), bool)) == 0


def test_a_reference_of_another_length_is_read_over_the_same_time() -> None:
    slow = moving_dots(np.repeat(TURN, 2, axis=0) / 2)
    assert np.isclose(trajectory_fidelity(moving_dots(TURN), slow), 1)


def test_identical_flow_has_fidelity_one_and_speed_itself_does_not_count() -> None:
    rng = np.random.default_rng(1)
    flow = rng.normal(size=(4, 8, 8, 2))
    assert np.isclose(flow_fidelity(flow, EVERYWHERE, flow, EVERYWHERE), 1)
    assert np.isclose(flow_fidelity(3 * flow, EVERYWHERE, flow, EVERYWHERE), 1)


def test_reversed_flow_keeps_the_speeds_half_and_loses_the_directions_half() -> None:
    there, back = uniform_flow(2, 1), uniform_flow(-2, -1)
    assert np.isclose(flow_fidelity(there, EVERYWHERE, back, EVERYWHERE), 0.5)


def test_a_static_object_is_like_a_static_one_and_unlike_a_moving_one() -> None:
    still, moving = uniform_flow(0, 0), uniform_flow(1, 0)
    assert flow_fidelity(still, EVERYWHERE, still, EVERYWHERE) == 1
    assert flow_fidelity(still, EVERYWHERE, moving, EVERYWHERE) == 0


def test_only_flow_inside_the_masks_counts_and_pixels_have_no_order() -> None:
    flow, half = uniform_flow(1, 0), EVERYWHERE.copy()
    half[:, :, 4:] = False
    flow[:, :, 4:] = [-5, 3]
    assert np.isclose(flow_fidelity(flow, half, uniform_flow(1, 0), EVERYWHERE), 1)
    rng = np.random.default_rng(2)
    field, other = rng.normal(size=(2, 1, 8, 8, 2))
    mixed = field.reshape(1, 64, 2)[:, rng.permutation(64)].reshape(1, 8, 8, 2)
    one = EVERYWHERE[:1]
    assert np.isclose(flow_fidelity(field, one, other, one), flow_fidelity(mixed, one, other, one))


def test_half_of_the_pixels_turned_round_gives_the_root_of_one_half() -> None:
    flow = uniform_flow(1, 0.1)
    flow[:, :4] *= -1
    expected = (1 + np.sqrt(0.5)) / 2
    assert np.isclose(flow_fidelity(flow, EVERYWHERE, uniform_flow(1, 0.1), EVERYWHERE), expected)


def test_flow_without_a_single_marked_pixel_is_refused_in_words() -> None:
    flow = uniform_flow(1, 0)
    with pytest.raises(MotionAppError, match="mask is empty"):
        flow_fidelity(flow, EVERYWHERE & False, flow, EVERYWHERE)


def test_flickering_and_smoothness_are_exact_means_over_all_pixels() -> None:
    frames = np.zeros((5, 2, 2, 3), np.uint8)
    frames[1::2] = 51  # 51 / 255 = 0.2 between all neighbours
    assert np.isclose(temporal_flickering(frames), 0.8)
    assert temporal_flickering(0 * frames) == 1
    assert np.isclose(motion_smoothness(frames, frames[0:4:2]), 0.8)
    assert motion_smoothness(frames, frames[1:-1:2]) == 1


def test_flow_score_is_the_mean_length_and_dynamic_follows_the_rule() -> None:
    assert np.isclose(flow_score(uniform_flow(3, 4)), 5)
    field = np.zeros((15, 256, 256, 2))
    assert not is_dynamic(field)
    field[:4, :16, :, 0] = 7  # 6 % of the pixels in 4 of 16 frames' pairs, above 6 px at 256
    assert is_dynamic(field)
    assert not is_dynamic(field * 5.9 / 7)
    field[3] = 0
    assert not is_dynamic(field)
    assert dynamic_degree(np.array([True, False, False, False])) == 0.25


def test_i2v_subject_weighs_best_mean_and_least() -> None:
    features = np.array([[1.0, 0], [1, 0], [0, 1]])
    assert np.isclose(i2v_subject(features, np.array([0.0, 2])), 0.4 * 1 + 0.3 * 0.5 + 0.3 * 0)


def test_ratings_are_divided_by_their_scale() -> None:
    assert np.isclose(aesthetic_quality(np.array([5.0, 7])), 0.6)
    assert np.isclose(imaging_quality(np.array([50.0, 70])), 0.6)


def test_the_frechet_distance_of_gaussians_is_the_formula() -> None:
    one, four = np.eye(3), 4 * np.eye(3)
    assert np.isclose(gaussian_distance(np.zeros(3), one, np.array([3.0, 4, 0]), one), 25)
    assert np.isclose(gaussian_distance(np.zeros(3), one, np.zeros(3), four), 3 * (1 - 2) ** 2)
    turn = np.array([[0, 1.0, 0], [1, 0, 0], [0, 0, 1]])
    a, b = np.diag([1.0, 9, 4]), turn @ np.diag([1.0, 9, 4]) @ turn.T
    assert np.isclose(gaussian_distance(np.zeros(3), a, np.zeros(3), b), 2 * (1 - 3) ** 2)


def test_samples_of_known_gaussians_come_near_their_distance() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(20_000, 2)), rng.normal(size=(20_000, 2)) * 2 + [1, 0]
    assert np.isclose(frechet_distance(a, b), 1 + 2 * (1 - 2) ** 2, rtol=0.05)
    assert np.isclose(frechet_distance(a, a), 0, atol=1e-9)
    with pytest.raises(MotionAppError, match="two videos"):
        frechet_distance(a[:1], b)


def released(kind: str) -> list[tuple[str, dict[str, np.ndarray], float]]:
    """The release's cases of "tf" or "ff": name, inputs, score."""
    tracks, flow = ("tracks", "reference"), ("flow", "masks", "reference_flow", "reference_masks")
    names = tracks if kind == "tf" else flow
    with np.load(RELEASED) as file:
        cases = [key[: -len("_score")] for key in file.files if key.endswith("_score")]
        return [
            (case, {name: file[f"{case}_{name}"] for name in names}, float(file[f"{case}_score"]))
            for case in cases
            if case.startswith(kind)
        ]


def test_released_fidelities_are_those_of_the_authors_release() -> None:
    trajectories, flows = released("tf"), released("ff")
    assert len(trajectories) == 4 and len(flows) == 5
    for case, arrays, score in trajectories:
        found = trajectory_fidelity_released(arrays["tracks"], arrays["reference"])
        assert abs(found - score) < 1e-5, case
    for case, arrays, score in flows:
        found = flow_fidelity_released(
            arrays["flow"], arrays["masks"], arrays["reference_flow"], arrays["reference_masks"]
        )
        assert abs(found - score) < 1e-5, case


def test_our_fidelities_are_others_than_the_released_ones_where_they_say_so() -> None:
    """Still steps and jitter, speeds above the cap, lost objects, and clips of two lengths."""
    for case, arrays, score in released("tf"):
        ours = trajectory_fidelity(arrays["tracks"], arrays["reference"])
        differs = case in ("tf_still_30", "tf_jitter", "tf_longer_reference")
        assert (abs(ours - score) > 1e-3) == differs, case
    for case, arrays, score in released("ff"):
        ours = flow_fidelity(*(arrays[name] for name in arrays))
        assert abs(ours - score) > 1e-4, case


def test_released_fidelities_refuse_what_is_no_track_and_no_flow() -> None:
    with pytest.raises(MotionAppError, match=r"reference tracks have the shape \(3, 2\)"):
        trajectory_fidelity_released(np.zeros((4, 5, 2)), np.zeros((3, 2)))
    flow, masks = np.zeros((2, 4, 4, 2)), np.ones((2, 4, 4), bool)
    with pytest.raises(MotionAppError, match="of the reference do not fit"):
        flow_fidelity_released(flow, masks, flow, masks[:1])


def test_the_release_s_points_fill_the_object_s_box_and_leave_the_border_free() -> None:
    mask = np.zeros((110, 220), bool)
    mask[20:40, 50], mask[30, 50:100] = True, True  # an L: the box holds background too
    points = box_points(mask)
    assert points.min(axis=0).round().tolist() >= [20, 50]
    assert (points.round().max(axis=0) < [39, 99]).all()
    assert len(np.unique(points[:, 0])) * len(np.unique(points[:, 1])) == len(points)
    whole = box_points(np.ones((64, 64), bool))
    assert len(whole) == 54 * 54 and whole.min() == 1.0  # the box ends before the last row
    assert np.allclose(np.diff(np.unique(whole)), 62 / 54)
    with pytest.raises(MotionAppError, match="larger object"):
        box_points(np.zeros((64, 64), bool))
