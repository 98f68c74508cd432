"""How sure one is of raters' agreement: Fleiss' κ and Krippendorff's α with intervals.

Raters and items are both drawn anew. A rater who is drawn twice agrees with himself, which is no
agreement between raters: such pairs do not count.
"""

from __future__ import annotations

import numpy as np

from motion_app.study.statistics import (
    RESAMPLES,
    TOGETHER,
    Interval,
    fleiss_kappa,
    intervals,
    krippendorff_alpha,
    resampled_weights,
)

NEARLY = 1e-12


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
