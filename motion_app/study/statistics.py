"""The study's statistics: numpy in, numbers out.

Votes of one question are a count tensor (R, I, K): raters × items × methods, where each cell counts
how often a rater chose a method for an item. Raters and items are both samples, so intervals come
from resampling both (the pigeonhole bootstrap of A. B. Owen, 2007); an interval that takes every
vote for independent is several times too narrow. A rater who is drawn twice agrees with himself,
which is no agreement between raters: such pairs do not count for κ and α.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import chisquare
from statsmodels.stats.contingency_tables import cochrans_q
from statsmodels.stats.proportion import proportion_confint

RESAMPLES = 4000
TOGETHER = 256  # resamples in memory at a time
LEVEL = 0.95
ROUNDS = 10_000  # of the Bradley–Terry iteration
PSEUDO_WINS = 0.5
NEARLY = 1e-12


@dataclass(frozen=True)
class Interval:
    """``low`` ≤ value ≤ ``high`` at ``LEVEL``."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class VoteShare:
    """A method's votes out of ``total``, with a two-way bootstrap interval of the share. For zero
    votes the rule of three gives the upper end: ``ceiling`` = 3 / total were all votes independent,
    ``cautious_ceiling`` = 3 / (the smaller of raters and items) as they are not; else None."""

    method: str
    votes: int
    total: int
    interval: Interval
    ceiling: float | None
    cautious_ceiling: float | None


@dataclass(frozen=True)
class Significance:
    """A test statistic and its p value; both None where there is nothing to test."""

    statistic: float | None
    p: float | None


def two_way_bootstrap(
    values: np.ndarray,
    weights: np.ndarray,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> np.ndarray:
    """Resampled ratios Σ values / Σ weights.

    ``values`` (R, I, K) and ``weights`` (R, I) float. Each resample draws R raters and I items with
    replacement, and a cell counts by the product of both. Returns (resamples, K); resamples that
    hit no vote at all are left out.
    """
    kinds = values.shape[2]
    cells = np.concatenate([values, weights[:, :, None]], axis=2)  # (R, I, K + 1)
    sums = resampled_sums(cells, rng=rng, resamples=resamples)
    hit = sums[:, kinds] > 0
    return sums[hit, :kinds] / sums[hit, kinds:]


def resampled_sums(cells: np.ndarray, *, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Σ over raters and items of ``cells`` (R, I, C) float, resampled as ``two_way_bootstrap``
    does: (resamples, C)."""
    raters, items, kinds = cells.shape
    of_rater, of_item = resampled_weights(raters, items, rng=rng, resamples=resamples)
    sums = np.empty((resamples, kinds))
    flat = cells.reshape(raters, -1)  # (R, I * C)
    for start in range(0, resamples, TOGETHER):
        rows = slice(start, start + TOGETHER)
        summed = (of_rater[rows] @ flat).reshape(-1, items, kinds)  # (b, I, C)
        sums[rows] = np.einsum("bi,bik->bk", of_item[rows], summed)
    return sums


def resampled_weights(
    raters: int, items: int, *, rng: np.random.Generator, resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    """How often each rater (resamples, R) and each item (resamples, I) is drawn, ints."""
    of_rater = rng.multinomial(raters, np.full(raters, 1 / raters), size=resamples)
    return of_rater, rng.multinomial(items, np.full(items, 1 / items), size=resamples)


def intervals(value: np.ndarray, resampled: np.ndarray) -> list[Interval]:
    """Of each ``value`` (K,) from ``resampled`` ones (B, K): the percentiles at ``LEVEL``."""
    tail = (1 - LEVEL) / 2
    if not len(resampled):
        resampled = value[None, :]
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return [
        Interval(float(v), float(a), float(b)) for v, a, b in zip(value, low, high, strict=True)
    ]


def shares(
    votes: np.ndarray,
    shown: np.ndarray,
    methods: tuple[str, ...],
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> list[VoteShare]:
    """Each method's share of the votes where it was shown.

    ``votes`` and ``shown`` (R, I, K) int: how often a method was chosen, and how often it was among
    the candidates. With all methods in every screen ``shown`` is the same for each of them.
    """
    present = (shown.sum(axis=2) > 0).sum(axis=0)  # (I,) raters for each item
    raters = int((shown.sum(axis=(1, 2)) > 0).sum())
    clusters = max(1, min(raters, int((present > 0).sum())))
    found = []
    for k, method in enumerate(methods):
        total, count = int(shown[:, :, k].sum()), int(votes[:, :, k].sum())
        value = np.array([count / total if total else 0.0])
        resampled = two_way_bootstrap(
            votes[:, :, k : k + 1].astype(float),
            shown[:, :, k].astype(float),
            rng=rng,
            resamples=resamples,
        )  # (B, 1)
        zero = count == 0 and total > 0
        found.append(
            VoteShare(
                method,
                count,
                total,
                intervals(value, resampled)[0],
                min(1.0, 3 / total) if zero else None,
                min(1.0, 3 / clusters) if zero else None,
            )
        )
    return found


def cochran_q(chosen: np.ndarray) -> Significance:
    """Cochran's Q over screens; ``chosen`` (n, K) of 0 and 1. It takes screens for independent."""
    if len(chosen) == 0 or chosen.shape[1] < 2 or (chosen.sum(axis=1) % chosen.shape[1] == 0).all():
        return Significance(None, None)
    result = cochrans_q(chosen)
    return Significance(float(result.statistic), float(result.pvalue))


def fleiss_kappa(counts: np.ndarray) -> float | None:
    """Fleiss' κ; ``counts`` (I, K) int: raters of each item who chose each category. Items may have
    different numbers of raters (those with one say nothing); None where agreement is undefined."""
    counts = counts[counts.sum(axis=1) >= 2].astype(float)
    if not len(counts):
        return None
    n = counts.sum(axis=1)
    agreement = float(np.mean((counts * (counts - 1)).sum(axis=1) / (n * (n - 1))))
    chance = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    return None if chance >= 1 - 1e-12 else (agreement - chance) / (1 - chance)


def krippendorff_alpha(counts: np.ndarray) -> float | None:
    """Krippendorff's α for nominal categories; ``counts`` (I, K) as for ``fleiss_kappa``. None
    where fewer than two categories, or no item with two raters, occur.

    α = 1 − (n − 1) Σ_{c≠k} o_ck / Σ_{c≠k} n_c n_k, with the coincidences
    o_ck = Σ_items n_ic n_ik / (n_i − 1) and n_c = Σ_k o_ck (Krippendorff, 2011).
    """
    counts = counts[counts.sum(axis=1) >= 2].astype(float)
    sums = counts.sum(axis=0)  # (K,)
    total = sums.sum()
    expected = total**2 - (sums**2).sum()
    if not expected:
        return None
    raters = counts.sum(axis=1)  # (I,)
    observed = ((raters**2 - (counts**2).sum(axis=1)) / (raters - 1)).sum()
    return float(1 - (total - 1) * observed / expected)


def agreement(same: int, total: int) -> Interval | None:
    """Share of repeats answered as the first time, with Wilson's interval."""
    if total == 0:
        return None
    low, high = proportion_confint(same, total, alpha=1 - LEVEL, method="wilson")
    return Interval(same / total, float(low), float(high))


def position_bias(places: np.ndarray, shown: int) -> Significance:
    """χ² of the chosen places (n,) from 1 to ``shown`` against equal use. It is a fair comparison
    because the plan puts each method equally often in each place."""
    if len(places) == 0:
        return Significance(None, None)
    counts = np.bincount(places, minlength=shown + 1)[1:]
    result = chisquare(counts)
    return Significance(float(result.statistic), float(result.pvalue))


def best_worst_scores(
    best: np.ndarray,
    worst: np.ndarray,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> list[Interval]:
    """(times best − times worst) / times shown for each method, −1 to 1. ``best`` and ``worst``
    (R, I, K) int, of screens that answered both."""
    weights = best.sum(axis=2).astype(float)  # (R, I)
    values = (best - worst).astype(float)
    total = weights.sum()
    value = values.sum(axis=(0, 1)) / total if total else np.zeros(best.shape[2])
    return intervals(value, two_way_bootstrap(values, weights, rng=rng, resamples=resamples))


def bradley_terry(wins: np.ndarray) -> np.ndarray:
    """Strengths (K,) that sum to 1, from ``wins`` (K, K): how often the row beat the column.

    Minorisation–maximisation (Hunter, 2004). Half a win each way is added to the pairs that met
    where some group of methods never lost to the rest, as the maximum then lies at infinity. For
    two-way forced choice alone: with all candidates on one screen it is the share again.
    """
    wins = wins.astype(float).copy()
    np.fill_diagonal(wins, 0)
    met = wins + wins.T  # (K, K)
    if not _strongly_connected(wins > 0):
        wins += PSEUDO_WINS * (met > 0)
        met = wins + wins.T
    strength = np.full(len(wins), 1 / len(wins))
    for _ in range(ROUNDS):
        before = strength
        spread = met / (before[:, None] + before[None, :])  # (K, K)
        lost = spread.sum(axis=1)
        strength = np.where(lost > 0, wins.sum(axis=1) / np.where(lost > 0, lost, 1), before)
        strength = strength / strength.sum()
        if np.abs(strength - before).max() < 1e-12:
            break
    return strength


def _strongly_connected(edge: np.ndarray) -> bool:
    reach = edge | np.eye(len(edge), dtype=bool)
    for _ in range(len(edge)):
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    return bool(reach.all())


def agreement_intervals(
    votes: np.ndarray,
    item: np.ndarray,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> tuple[Interval | None, Interval | None]:
    """κ and α of ``votes`` (R, U, K) int: whether a rater chose each category for each unit;
    ``item`` (U,) int says which item a unit is of, and units of one item are drawn together. None
    where agreement is undefined; resamples in which it is undefined are left out."""
    counts = votes.sum(axis=0)  # (U, K)
    kappa, alpha = fleiss_kappa(counts), krippendorff_alpha(counts)
    of_rater, of_item = resampled_weights(
        len(votes), int(item.max(initial=0)) + 1, rng=rng, resamples=resamples
    )
    drawn = [
        resampled_agreement(
            votes, of_rater[start : start + TOGETHER], of_item[start : start + TOGETHER, item]
        )
        for start in range(0, resamples, TOGETHER)
    ]
    return tuple(  # type: ignore[return-value]
        None if value is None else _interval(value, np.concatenate([part[k] for part in drawn]))
        for k, value in enumerate((kappa, alpha))
    )


def _interval(value: float, drawn: np.ndarray) -> Interval:
    return intervals(np.array([value]), drawn[np.isfinite(drawn)][:, None])[0]


def resampled_agreement(
    votes: np.ndarray, of_rater: np.ndarray, of_unit: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """κ and α (B,) float, NaN where undefined, with raters counted ``of_rater`` (B, R) times and
    units ``of_unit`` (B, U) times."""
    raters, units, kinds = votes.shape
    flat = votes.reshape(raters, -1).astype(float)  # (R, U * K)
    counts = (of_rater @ flat).reshape(-1, units, kinds)  # (B, U, K)
    own = (of_rater**2 @ flat).reshape(-1, units, kinds)  # pairs of a rater with himself
    there = counts.sum(axis=2)  # (B, U)
    pairs = there**2 - own.sum(axis=2)  # (B, U) ordered, of different raters
    told = pairs > 0
    agreeing = (counts**2 - own).sum(axis=2)  # (B, U)
    agreed = np.divide(agreeing, pairs, out=np.zeros_like(pairs), where=told)
    weight = of_unit * told  # (B, U)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.einsum("bu,buk->bk", weight, counts)  # (B, K)
        total = share.sum(axis=1)  # (B,)
        chance = ((share / total[:, None]) ** 2).sum(axis=1)
        observed = (weight * agreed).sum(axis=1) / weight.sum(axis=1)
        kappa = np.where(chance < 1 - NEARLY, (observed - chance) / (1 - chance), np.nan)
        missed = (weight * there * (1 - agreed)).sum(axis=1)
        expected = total**2 - (share**2).sum(axis=1)
        alpha = np.where(expected > 0, 1 - (total - 1) * missed / expected, np.nan)
    return kappa, alpha
