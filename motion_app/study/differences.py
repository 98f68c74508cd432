"""Methods compared in pairs, with raters and items as the samples they are.

A test that takes every vote for independent finds differences where there are none: a rater's votes
resemble each other. Here an interval comes from drawing raters and items anew, and a p value from
what each rater as a whole would say were two methods exchangeable for everyone. McNemar's test of
single votes is here too, for comparison with work that reports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from motion_app.study.statistics import RESAMPLES, Interval, intervals, resampled_sums

EXACT_RATERS = 13  # up to here all 2 ** R ways are tried
FLIPS = 9999  # ways drawn where there are more
ROUNDING = 1e-9


@dataclass(frozen=True)
class Difference:
    """How much larger the share of ``first`` is than that of ``second`` among the ``screens`` that
    showed both, −1 to 1, with a two-way bootstrap interval; ``p`` of the rater-level permutation
    test and ``p_holm``, corrected for all pairs; None where no rater can tell."""

    first: str
    second: str
    screens: int
    interval: Interval
    p: float | None
    p_holm: float | None


def paired_differences(
    gains: np.ndarray,
    both: np.ndarray,
    methods: tuple[str, ...],
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> tuple[Difference, ...]:
    """Every pair of ``methods``, in the order of ``combinations``. ``gains`` (R, I, P) int: in how
    many screens of an item each rater chose the first of a pair less those with the second;
    ``both`` (R, I, P), or (R, I, 1) for all of them: in how many both were shown."""
    pairs = list(combinations(methods, 2))
    cells = np.concatenate([gains, both], axis=2).astype(float)  # (R, I, 2 P) or (R, I, P + 1)
    sums = resampled_sums(cells, rng=rng, resamples=resamples)
    ps = permutation_p(gains.sum(axis=1).T, rng=rng)
    told = [k for k, p in enumerate(ps) if p is not None]
    holm = dict(zip(told, _holm([p for p in ps if p is not None]), strict=True))
    found = []
    for k, (first, second) in enumerate(pairs):
        of_both = k if both.shape[2] > 1 else 0
        total, drawn_total = int(both[:, :, of_both].sum()), sums[:, len(pairs) + of_both]
        value = gains[:, :, k].sum() / total if total else 0.0
        hit = drawn_total > 0
        drawn = sums[hit, k] / drawn_total[hit]
        (interval,) = intervals(np.array([value]), drawn[:, None])
        found.append(Difference(first, second, total, interval, ps[k], holm.get(k)))
    return tuple(found)


def permutation_p(gains: np.ndarray, *, rng: np.random.Generator) -> list[float | None]:
    """Two-sided p values of ``gains`` (P, R) float: of each pair what each rater gave the first
    more than the second, in votes.

    Were the two exchangeable, each rater's whole sum could as well have the other sign (Fisher's
    randomisation test). All signs are tried where raters are few; else ``FLIPS`` drawn ones and
    those that were seen, so that p is never 0 (Phipson and Smyth, 2010). None without a gain.
    """
    raters = gains.shape[1]
    if raters <= EXACT_RATERS:
        signs = np.array(list(product((1, -1), repeat=raters))).reshape(-1, raters)  # (2 ** R, R)
    else:
        drawn = rng.integers(0, 2, (FLIPS, raters)) * 2 - 1
        signs = np.vstack([np.ones((1, raters), int), drawn])  # (FLIPS + 1, R)
    found: list[float | None] = []
    for row in gains:
        if not row.any():
            found.append(None)
            continue
        sums = np.abs(signs @ row)
        found.append(float(np.mean(sums >= abs(row.sum()) - ROUNDING)))
    return found


def _holm(ps: Sequence[float]) -> list[float]:
    return [float(p) for p in multipletests(ps, method="holm")[1]] if ps else []


def leader(
    shares: Sequence[float], differences: Sequence[Difference], names: Sequence[str]
) -> str | None:
    """The one of ``names`` with the largest of ``shares``, if the interval of its difference to the
    runner-up lies above 0; else None: then none is best."""
    first, second = sorted(range(len(names)), key=lambda k: -shares[k])[:2]
    for difference in differences:
        if (difference.first, difference.second) == (names[first], names[second]):
            return names[first] if difference.interval.low > 0 else None
        if (difference.second, difference.first) == (names[first], names[second]):
            return names[first] if difference.interval.high < 0 else None
    return None


@dataclass(frozen=True)
class PairTest:
    """McNemar's exact test of two methods: of the screens that showed both, ``first_votes`` chose
    the first and ``second_votes`` the second; ``p_holm`` is corrected for all pairs."""

    first: str
    second: str
    first_votes: int
    second_votes: int
    p: float
    p_holm: float


def mcnemar_pairs(wins: np.ndarray, methods: tuple[str, ...]) -> list[PairTest]:
    """McNemar's exact test for every pair of methods, with Holm's correction. ``wins`` (K, K) int:
    screens that showed both and chose the row's; those that chose a third one say nothing."""
    pairs = list(combinations(range(len(methods)), 2))
    ps = []
    for i, j in pairs:
        table = np.array([[0, wins[i, j]], [wins[j, i], 0]])
        ps.append(min(1.0, float(mcnemar(table, exact=True).pvalue)) if table.any() else 1.0)
    corrected = _holm(ps)
    return [
        PairTest(methods[i], methods[j], int(wins[i, j]), int(wins[j, i]), p, holm)
        for (i, j), p, holm in zip(pairs, ps, corrected, strict=True)
    ]
