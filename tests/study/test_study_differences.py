"""Laws of what compares methods and of what says how well raters agree."""

from __future__ import annotations

import numpy as np
import pytest

from motion_app.study import differences
from motion_app.study import statistics as stats
from motion_app.study.differences import leader, mcnemar_pairs, paired_differences, permutation_p
from motion_app.study.statistics import agreement_intervals, resampled_agreement


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def compared(labels: np.ndarray, methods: tuple[str, ...], **options: int):
    """``labels`` (R, I): the place in ``methods`` of what each rater chose for each item."""
    votes = np.eye(len(methods), dtype=int)[labels]
    pairs = [(a, b) for a in range(len(methods)) for b in range(a + 1, len(methods))]
    gains = np.stack([votes[:, :, a] - votes[:, :, b] for a, b in pairs], axis=2)
    both = np.ones((*labels.shape, 1), int)
    found = paired_differences(gains, both, methods, rng=seeded(), **options)
    return {(one.first, one.second): one for one in found}


def test_three_raters_by_hand() -> None:
    """Five items. Of A and B the raters choose 4:1, 3:2 and 2:3, so that they give A 3, 1 and −1
    more: (3 + 1 − 1) / 15 = 0.2. Of the eight ways to change signs six sum to 3 or more, or to −3
    or less: ±(3+1+1), ±(3+1−1), ±(3−1+1), and two do not, ±(3−1−1)."""
    labels = np.array([[0, 0, 0, 0, 1], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1]])
    (found,) = compared(labels, ("A", "B")).values()
    assert found.interval.value == pytest.approx(0.2)
    assert found.p == found.p_holm == 6 / 8
    assert found.screens == 15


def test_the_interval_of_one_item_and_two_raters_by_hand() -> None:
    """One chooses A, the other B. Drawn anew they are twice the first (1 in 4: difference 1), twice
    the second (−1), or one of each (0)."""
    gains, both = np.array([[[1]], [[-1]]]), np.ones((2, 1, 1), int)
    (found,) = paired_differences(gains, both, ("A", "B"), rng=seeded(), resamples=4000)
    assert (found.interval.value, found.interval.low, found.interval.high) == (0, -1, 1)
    sums = stats.resampled_sums(gains.astype(float), rng=seeded(), resamples=4000)[:, 0] / 2
    shares = [float(np.mean(sums == value)) for value in (-1, 0, 1)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_pairs_are_corrected_together_and_a_pair_without_votes_has_no_p() -> None:
    labels = np.array([[0] * 8 + [1] * 2, *[[0] * 9 + [1]] * 5])
    found = compared(labels, ("A", "B", "C"))
    assert found["A", "B"].p == found["A", "C"].p == found["B", "C"].p == 2 / 2**6
    assert {one.p_holm for one in found.values()} == {3 * 2 / 2**6}
    nobody = compared(np.zeros((3, 4), int), ("A", "B", "C"))["B", "C"]
    assert nobody.p is None and nobody.p_holm is None and nobody.interval.value == 0


def test_with_many_raters_signs_are_drawn_and_p_is_never_0() -> None:
    gains = np.full((1, 30), 5.0)
    assert permutation_p(gains, rng=seeded()) == [1 / (differences.FLIPS + 1)]
    exact = permutation_p(gains[:, :10], rng=seeded())
    assert exact == [2 / 2**10]


def simulated(studies: int, raters: int, items: int, *, seed: int) -> np.ndarray:
    """(studies, raters, items): 1 for A, −1 for B. Every rater leans to one of them, as every item
    does for all, and neither is better."""
    rng = seeded(seed)
    lean = rng.normal(0, 1, (studies, raters, 1))
    chance = 1 / (1 + np.exp(-lean))
    return np.where(rng.random((studies, raters, items)) < chance, 1.0, -1.0)


def test_of_equal_methods_it_calls_one_in_twenty_different_and_mcnemar_far_more() -> None:
    votes = simulated(20_000, 20, 24, seed=5)
    ps = np.array(permutation_p(votes.sum(axis=2), rng=seeded()), float)
    assert 0.04 <= np.mean(ps <= 0.05) <= 0.06
    for_a = (votes > 0).sum(axis=(1, 2))[:300]
    naive = [mcnemar_pairs(np.array([[0, a], [480 - a, 0]]), ("A", "B"))[0].p for a in for_a]
    assert np.mean(np.array(naive) <= 0.05) > 0.2


def test_a_real_difference_is_found() -> None:
    rng = seeded(2)
    labels = (rng.random((20, 30)) > 0.7).astype(int)
    (found,) = compared(labels, ("A", "B")).values()
    assert found.p < 0.001 and found.interval.low > 0.2


def test_the_best_is_named_only_where_it_is_surely_ahead_of_the_runner_up() -> None:
    rng = seeded(3)
    close = (rng.random((8, 10)) > 0.52).astype(int)
    ahead = (rng.random((8, 10)) > 0.9).astype(int)
    for labels, expected in ((close, None), (ahead, "A"), (1 - ahead, "B")):
        found = list(compared(labels, ("A", "B")).values())
        shares = [float(np.mean(labels == k)) for k in (0, 1)]
        assert leader(shares, found, ("A", "B")) == expected


def agreeing(seed: int, raters: int = 6, items: int = 15, follow: float = 0.7) -> np.ndarray:
    """(R, U, 3) votes: a rater follows the item's own category, or chooses by lot."""
    rng = seeded(seed)
    own = rng.integers(0, 3, items)
    free = rng.integers(0, 3, (raters, items))
    labels = np.where(rng.random((raters, items)) < follow, own, free)
    return np.eye(3, dtype=int)[labels]


def test_counted_once_each_agreement_is_that_of_the_plain_formulas_with_gaps_too() -> None:
    votes = agreeing(0)
    votes[0, :4] = votes[1:, 7] = 0  # gaps, and a unit of one rater
    once = np.ones((1, len(votes)), int), np.ones((1, votes.shape[1]), int)
    kappa, alpha = resampled_agreement(votes, *once)
    assert kappa[0] == pytest.approx(stats.fleiss_kappa(votes.sum(axis=0)))
    assert alpha[0] == pytest.approx(stats.krippendorff_alpha(votes.sum(axis=0)))


def test_a_rater_drawn_twice_agrees_with_nobody() -> None:
    votes = np.eye(2, dtype=int)[np.array([[0, 1, 0], [1, 0, 1]])]
    once = np.ones((1, 3), int)
    kappa, _ = resampled_agreement(votes, np.array([[2, 0]]), once)
    assert np.isnan(kappa[0]) or kappa[0] == 0  # nobody to agree with
    both, _ = resampled_agreement(votes, np.array([[2, 2]]), once)
    plain, _ = resampled_agreement(votes, np.array([[1, 1]]), once)
    assert both[0] == pytest.approx(plain[0]) and plain[0] == pytest.approx(-1)


def test_intervals_of_agreement_hold_what_many_raters_and_items_would_give() -> None:
    truth = stats.fleiss_kappa(agreeing(99, raters=400, items=400).sum(axis=0))
    held = 0
    for seed in range(40):
        votes = agreeing(seed)
        kappa, alpha = agreement_intervals(
            votes, np.arange(votes.shape[1]), rng=seeded(seed), resamples=300
        )
        assert kappa.low <= kappa.value <= kappa.high and alpha.low <= alpha.value <= alpha.high
        held += kappa.low <= truth <= kappa.high
    assert held >= 34


def test_agreement_that_is_undefined_has_no_interval() -> None:
    alone = np.eye(2, dtype=int)[np.zeros((1, 3), int)]
    assert agreement_intervals(alone, np.arange(3), rng=seeded()) == (None, None)
