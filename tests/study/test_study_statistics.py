"""Laws of the study's statistics."""

import numpy as np
import pytest
from statsmodels.stats.inter_rater import fleiss_kappa as equal_fleiss_kappa

from motion_app.study import statistics as stats
from motion_app.study.differences import mcnemar_pairs

METHODS = ("A", "B", "C")


def one_hot(labels: np.ndarray, kinds: int) -> np.ndarray:
    """Labels (R, I) → votes (R, I, K)."""
    return np.eye(kinds, dtype=int)[labels]


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_intervals_hold_the_truth_when_raters_and_items_differ():
    """One-way intervals are several times too narrow for such votes; these are not."""
    hits, widths, naive = 0, [], []
    rounds = 60
    for seed in range(rounds):
        rng = seeded(seed)
        logit = rng.normal(0, 1, (20, 1)) + rng.normal(0, 1, (1, 40))  # mean share 1/2
        labels = (rng.random((20, 40)) < 1 / (1 + np.exp(-logit))).astype(int)
        votes = one_hot(labels, 2)
        share = stats.shares(votes, np.ones_like(votes), ("A", "B"), rng=rng, resamples=400)[1]
        hits += share.interval.low <= 0.5 <= share.interval.high
        widths.append(share.interval.high - share.interval.low)
        naive.append(2 * 1.96 * np.sqrt(0.25 / 800))
    assert hits >= 0.9 * rounds
    assert np.mean(widths) > 2 * np.mean(naive)


def test_shares_count_votes_exactly_and_intervals_lie_around_them():
    labels = np.array([[0, 0, 1, 2], [0, 1, 1, 0]])
    votes = one_hot(labels, 3)
    found = stats.shares(votes, np.ones_like(votes), METHODS, rng=seeded())
    assert [(s.votes, s.total) for s in found] == [(4, 8), (3, 8), (1, 8)]
    for share in found:
        assert share.interval.value == share.votes / share.total
        assert share.interval.low <= share.interval.value <= share.interval.high


def test_the_same_seed_gives_the_same_interval():
    votes = one_hot(seeded(3).integers(0, 3, (5, 9)), 3)
    found = [stats.shares(votes, np.ones_like(votes), METHODS, rng=seeded(7)) for _ in range(2)]
    assert found[0] == found[1]


def test_zero_votes_get_the_rule_of_three_and_others_none():
    votes = one_hot(np.zeros((20, 200), int), 2)
    some, none = stats.shares(votes, np.ones_like(votes), ("A", "B"), rng=seeded(), resamples=50)
    assert none.votes == 0 and none.ceiling == 3 / 4000 and none.cautious_ceiling == 3 / 20
    assert some.ceiling is None and some.cautious_ceiling is None


def test_cells_nobody_answered_count_nothing():
    votes = one_hot(np.array([[0, 1, 0], [1, 1, 0]]), 2)
    gaps = np.ones_like(votes)
    votes[1, 2] = gaps[1, 2] = 0
    share = stats.shares(votes, gaps, ("A", "B"), rng=seeded())[0]
    assert (share.votes, share.total) == (2, 5)


def test_cochran_q_of_single_choices_is_pearsons_statistic_of_the_counts():
    chosen = np.eye(3, dtype=int)[[0] * 10 + [1] * 5 + [2] * 3]
    result = stats.cochran_q(chosen)
    assert result.statistic == pytest.approx(((10 - 6) ** 2 + (5 - 6) ** 2 + (3 - 6) ** 2) / 6)
    assert 0 < result.p < 1
    assert stats.cochran_q(chosen[:0]).statistic is None


def test_mcnemar_is_the_binomial_test_of_the_votes_with_holms_correction():
    wins = np.array([[0, 9, 12], [1, 0, 6], [0, 5, 0]])
    found = {(p.first, p.second): p for p in mcnemar_pairs(wins, METHODS)}
    ab = found["A", "B"]
    assert (ab.first_votes, ab.second_votes) == (9, 1)
    assert ab.p == pytest.approx(22 / 2**10)  # two tails of 10 throws: 1 + 10 of 1,024 each
    assert found["A", "C"].p_holm == pytest.approx(3 * 2 / 2**12)
    assert found["A", "B"].p_holm == pytest.approx(2 * 22 / 2**10)
    assert found["B", "C"].p_holm == 1
    assert all(pair.p_holm >= pair.p for pair in found.values())


def test_methods_without_votes_do_not_differ():
    (pair,) = mcnemar_pairs(np.zeros((2, 2), int), ("A", "B"))
    assert pair.p == pair.p_holm == 1


def test_fleiss_kappa_is_the_known_one_for_equal_numbers_and_lives_with_gaps():
    counts = seeded(1).multinomial(6, [0.5, 0.3, 0.2], size=25)
    assert stats.fleiss_kappa(counts) == pytest.approx(equal_fleiss_kappa(counts))
    assert stats.fleiss_kappa(np.vstack([counts, [[1, 0, 0]]])) == stats.fleiss_kappa(counts)
    assert stats.fleiss_kappa(np.array([[3, 0], [0, 3]])) == pytest.approx(1)
    assert stats.fleiss_kappa(np.array([[3, 0], [3, 0]])) is None
    assert stats.fleiss_kappa(np.zeros((1, 3), int)) is None


def test_fleiss_kappa_is_the_published_one_of_the_psychiatric_diagnoses():
    rows = (
        "00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 "
        "10050 11040 03300 10050 02031 00501 30012 51000 02040 10203 "
        "00006 01050 02013 20040 10041 05010 40002 02040 10500 00006"
    )  # Fleiss (1971), Table 1: of six psychiatrists how many gave each of 30 patients one of five
    counts = np.array([[int(count) for count in row] for row in rows.split()])
    assert counts.shape == (30, 5) and set(counts.sum(axis=1)) == {6}
    assert stats.fleiss_kappa(counts) == pytest.approx(0.430, abs=5e-4)
    assert stats.fleiss_kappa(counts) == pytest.approx(equal_fleiss_kappa(counts))


def test_krippendorff_alpha_of_four_coders_with_gaps_is_the_published_one():
    coders = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    units = ["".join(unit) for unit in zip(*coders, strict=True)]
    counts = np.array([[unit.count(kind) for kind in "12345"] for unit in units])  # (12, 5)
    assert stats.krippendorff_alpha(counts) == pytest.approx(0.743, abs=5e-4)  # his 2011, nominal


def test_krippendorff_alpha_reproduces_the_textbook_example():
    nan = np.nan
    labels = np.array(
        [
            [nan, nan, nan, nan, nan, 3, 4, 1, 2, 1, 1, 3, 3, nan, 3],
            [1, nan, 2, 1, 3, 3, 4, 3, nan, nan, nan, nan, nan, nan, nan],
            [nan, nan, 2, 1, 3, 4, 4, nan, 2, 1, 1, 3, 3, nan, 4],
        ]
    )  # Krippendorff's own (2011): 0.691, nominal
    counts = np.stack([(labels == kind).sum(axis=0) for kind in (1, 2, 3, 4)], axis=1)
    assert stats.krippendorff_alpha(counts) == pytest.approx(0.691, abs=5e-4)


def test_krippendorff_alpha_is_one_for_agreement_and_none_without_variety():
    assert stats.krippendorff_alpha(np.array([[3, 0], [0, 2]])) == 1
    assert stats.krippendorff_alpha(np.array([[1, 1], [1, 1]])) < 0
    assert stats.krippendorff_alpha(np.array([[3, 0], [2, 0]])) is None
    assert stats.krippendorff_alpha(np.array([[1, 0], [0, 1]])) is None


def test_places_chosen_evenly_show_no_bias_and_one_place_does():
    even = stats.position_bias(np.tile([1, 2, 3], 30), 3)
    assert even.statistic == 0 and even.p == 1
    assert stats.position_bias(np.ones(60, int), 3).p < 1e-9
    assert stats.position_bias(np.array([], int), 3).p is None


def test_self_agreement_has_wilsons_interval():
    found = stats.agreement(9, 10)
    assert found.value == 0.9
    assert (found.low, found.high) == (
        pytest.approx(0.596, abs=1e-3),
        pytest.approx(0.982, abs=1e-3),
    )
    assert stats.agreement(0, 0) is None


def test_best_worst_scores_run_from_minus_one_to_one():
    best = one_hot(np.zeros((4, 5), int), 3)
    worst = one_hot(np.full((4, 5), 2), 3)
    found = stats.best_worst_scores(best, worst, rng=seeded(), resamples=50)
    assert [score.value for score in found] == [1, 0, -1]


def test_bradley_terry_finds_the_strengths_that_made_the_wins():
    truth = np.array([0.5, 0.3, 0.15, 0.05])
    chance = truth[:, None] / (truth[:, None] + truth[None, :])
    np.fill_diagonal(chance, 0)
    assert stats.bradley_terry(1000 * chance) == pytest.approx(truth, abs=1e-6)


def test_bradley_terry_of_a_method_that_never_lost_is_finite():
    strengths = stats.bradley_terry(np.array([[0, 5, 5], [0, 0, 3], [0, 2, 0]]))
    assert np.isfinite(strengths).all() and strengths.sum() == pytest.approx(1)
    assert strengths[0] == strengths.max() < 1
