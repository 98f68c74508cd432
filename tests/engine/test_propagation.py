"""Masks of later frames from the first one, and when to stop asking."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from motion_app.engine.propagation import MaskTrack, PropagationConfig, anchors, change, propagate
from motion_app.errors import RequestError

RELEASED = Path(__file__).parents[1] / "fixtures" / "released" / "rmpm_released.npz"
ALL_RULES = ("released", "paper", "competing")
F, H, W = 5, 4, 6


def told_apart() -> torch.Tensor:
    """One frame whose tokens are all perpendicular to each other, (h, w, C)."""
    return torch.eye(H * W).view(H, W, H * W)


def boxes(*corners: tuple[int, int, int, int]) -> torch.Tensor:
    masks = torch.zeros(len(corners), H, W, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return masks


@pytest.mark.parametrize("rule", ALL_RULES)
@pytest.mark.parametrize("window", [1, 2, 3, 9])
def test_identical_features_in_all_frames_keep_the_mask(rule, window):
    first = boxes((0, 0, 2, 3), (1, 2, 4, 6), (3, 0, 4, 1))
    masks = propagate(told_apart().expand(F, -1, -1, -1), first, rule=rule, window=window)
    assert torch.equal(masks, first[:, None].expand(-1, F, -1, -1))


@pytest.mark.parametrize("rule", ALL_RULES)
def test_the_mask_goes_where_the_features_go(rule):
    frame, first = told_apart(), boxes((0, 0, 2, 2), (2, 3, 4, 5))
    features = torch.stack([frame.roll(step, dims=1) for step in range(F)])
    masks = propagate(features, first, rule=rule)
    expected = torch.stack([first.roll(step, dims=2) for step in range(F)], dim=1)
    assert torch.equal(masks, expected)


@pytest.mark.parametrize("rule", ["released", "paper"])
def test_each_object_is_judged_by_itself(rule):
    features = torch.randn(F, H, W, 8, generator=torch.Generator().manual_seed(1))
    first = boxes((0, 0, 2, 3), (1, 2, 4, 6))
    together = propagate(features, first, rule=rule)
    alone = torch.cat([propagate(features, mask[None], rule=rule) for mask in first])
    assert torch.equal(together, alone)


def test_competing_objects_never_claim_a_token_both_had_not_shared_before():
    features = torch.randn(F, H, W, 8, generator=torch.Generator().manual_seed(2))
    apart = propagate(features, boxes((0, 0, 2, 3), (2, 3, 4, 6)), rule="competing")
    assert not (apart[0] & apart[1]).any() and apart[:, 1:].any()


@pytest.mark.parametrize("rule", ALL_RULES)
def test_an_empty_mask_stays_empty_and_no_object_gives_no_mask(rule):
    features = torch.randn(F, H, W, 8, generator=torch.Generator().manual_seed(3))
    assert not propagate(features, boxes((0, 0, 0, 0)), rule=rule).any()
    assert propagate(features, boxes(), rule=rule).shape == (0, F, H, W)


@pytest.mark.parametrize("rule", ALL_RULES)
def test_half_precision_features_are_judged_in_full(rule):
    features = torch.randn(F, H, W, 8, generator=torch.Generator().manual_seed(4)).bfloat16()
    first = boxes((0, 0, 2, 3))
    assert torch.equal(
        propagate(features, first, rule=rule), propagate(features.float(), first, rule=rule)
    )


def test_the_paper_rule_is_its_equations_term_by_term():
    features = torch.randn(4, H, W, 8, generator=torch.Generator().manual_seed(5))
    first = boxes((1, 1, 3, 4))
    unit = torch.nn.functional.normalize(features.view(4, -1, 8), dim=-1)
    masks = [first[0].flatten()]
    for frame in range(1, 4):
        voting = sorted({0, *range(max(0, frame - 2), frame)})  # W = 3
        anchored = torch.cat([unit[a] * masks[a][:, None] for a in voting])
        labels = torch.cat([masks[a].float() for a in voting])
        scores = labels @ (unit[frame] @ anchored.T).T  # Eq. 12, 13
        masks.append(scores > scores.mean())
    expected = torch.stack(masks).view(1, 4, H, W)
    assert torch.equal(propagate(features, first, rule="paper", window=3), expected)


def test_the_released_rule_is_its_recipe_token_by_token():
    features = torch.randn(4, H, W, 6, generator=torch.Generator().manual_seed(6))
    first = boxes((0, 0, 3, 4))
    unit = torch.nn.functional.normalize(features.view(4, -1, 6), dim=-1).double()
    masks, labels = [first[0].flatten()], [first[0].flatten().double()]
    for frame in range(1, 4):
        voting = sorted({0, *range(max(0, frame - 2), frame)})
        known = torch.cat([labels[a] for a in voting])
        scores = []
        for token in unit[frame]:
            similarity = torch.exp(torch.cat([unit[a] for a in voting]) @ token / 0.013)
            best = similarity.argsort(descending=True)[:15]
            scores.append((known[best] * similarity[best]).sum() / similarity[best].sum())
        scores = torch.stack(scores)
        inside = scores[masks[-1]].sort().values
        cut = int(0.1 * len(inside))
        threshold = 0.5
        if len(inside):
            threshold = max(0.3, 0.98 * inside[cut : len(inside) - cut].mean().item())
        masks.append(scores > threshold)
        labels.append(scores)
    expected = torch.stack(masks).view(1, 4, H, W)
    assert torch.equal(propagate(features, first, window=3), expected)


def test_anchors_are_frame_one_and_the_nearest_before_each_once():
    assert [anchors(frame, 3) for frame in range(1, 6)] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 2, 3],
        [0, 3, 4],
    ]
    assert [anchors(frame, 1) for frame in (1, 4)] == [[0], [0]]


def test_change_is_measured_against_the_old_mask():
    old = torch.zeros(3, 1, 2, 4, dtype=torch.bool)
    new = old.clone()
    old[0, 0, 0], new[0, 0, 0, :3] = True, True
    new[1, 0, 0, 0] = True
    assert change(new, old).tolist() == [0.25, math.inf, 0.0]


def test_masks_settle_at_the_first_calm_step_after_the_warm_ones_and_stay():
    config, first = PropagationConfig(warm_steps=2), boxes((0, 0, 2, 3))
    still = told_apart().expand(F, -1, -1, -1)
    moving = torch.stack([told_apart().roll(step, dims=1) for step in range(F)])
    track, settled = MaskTrack.start(first, F), []
    for features in (still, still, moving, moving, still):
        track = track.after(features, config)
        settled.append(track.settled)
    assert settled == [False, False, False, True, True]
    assert torch.equal(track.masks, propagate(moving, first))


def test_without_the_dynamic_stop_masks_follow_the_last_step():
    config, first = PropagationConfig(warm_steps=0, dynamic_stop=False), boxes((0, 0, 2, 3))
    track = MaskTrack.start(first, F)
    for _ in range(3):
        track = track.after(told_apart().expand(F, -1, -1, -1), config)
    assert not track.settled


def test_features_come_from_thirty_of_forty_two_layers():
    config = PropagationConfig()
    assert [config.feature_layers(layers) for layers in (42, 4, 1)] == [30, 3, 1]


def test_what_cannot_be_propagated_is_refused():
    features, first = torch.randn(F, H, W, 3), boxes((0, 0, 2, 2))
    with pytest.raises(RequestError, match=r'"realesed".*released, paper, competing'):
        propagate(features, first, rule="realesed")
    with pytest.raises(RequestError, match="window is 0"):
        propagate(features, first, window=0)
    with pytest.raises(RequestError, match="do not belong together"):
        propagate(features[:, :3], first)
    with pytest.raises(RequestError, match="layer share 2"):
        PropagationConfig(layer_share=2)


def test_centring_hides_what_all_tokens_of_a_frame_share() -> None:
    features = torch.randn(3, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    shared = torch.randn(3, 1, 1, 8, generator=torch.Generator().manual_seed(1)) * 50
    config = PropagationConfig(centre=True)
    assert torch.allclose(config.prepare(features), config.prepare(features + shared), atol=1e-4)
    assert torch.equal(PropagationConfig().prepare(features), features)


def test_the_released_rule_finds_the_masks_of_the_authors_release_to_the_token():
    """18 clips of random features. The region once was the frame before's mask: where its threshold
    lay beside 0.5, 30 tokens came out otherwise."""
    with np.load(RELEASED) as released:
        count = int(released["count"])
        for i in range(count):
            features = torch.from_numpy(released[f"features_{i}"])
            first = torch.from_numpy(released[f"first_{i}"])
            masks = propagate(features, first[None], rule="released", window=3)
            assert np.array_equal(masks[0].numpy(), released[f"masks_{i}"]), f"clip {i}"
    assert count == 18
