"""Which motion file each variant takes for each movement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from motion_app.evaluation.cases import Movement, movements
from motion_app.evaluation.variants import LIBRARY, Variant
from motion_app.library import Library
from motion_app.scene import Motion

Sets = Mapping[tuple[str, str], Sequence[Movement]]  # by (method, tokens), as a Roster


def motion_sets(
    variants: Sequence[Variant], library: Sequence[Movement], reduced: Sequence[Path]
) -> dict[tuple[str, str], Sequence[Movement]]:
    """What every method may choose from: the ``library``, and for each reduced variant, in their
    order, its own folder of ``reduced``."""
    sets = {(variant.method, LIBRARY): library for variant in variants}
    learned = [variant for variant in variants if variant.reduced]
    for variant, folder in zip(learned, reduced, strict=True):
        sets[variant.method, variant.tokens] = movements(Library([folder]).list())
    return sets


def usable_files(
    sets: Sets, refusals: Mapping[tuple[Motion, str], str]
) -> tuple[dict[tuple[str, str], dict[str, Motion]], list[str]]:
    """For each set the first file of each movement that its method can use, and what is said of
    the movements that have none. ``refusals``: why a method cannot use a file, or ""."""
    roster: dict[tuple[str, str], dict[str, Motion]] = {}
    gaps = []
    for (method, tokens), moves in sets.items():
        chosen: dict[str, Motion] = {}
        reasons: dict[str, str] = {}
        for move in moves:
            _choose(move, method, refusals, chosen, reasons)
        roster[method, tokens] = chosen
        row = method if tokens == LIBRARY else tokens
        if not moves:
            gaps.append(f"{row}: its folder holds no motion")
        for reason in dict.fromkeys(reasons.values()):
            lost = [name for name, why in reasons.items() if why == reason]
            gaps.append(f"{row} cannot use {', '.join(lost)}: {reason}")
    return roster, gaps


def _choose(
    move: Movement,
    method: str,
    refusals: Mapping[tuple[Motion, str], str],
    chosen: dict[str, Motion],
    reasons: dict[str, str],
) -> None:
    for file in move.files:
        reason = refusals.get((file, method), "")
        if not reason:
            chosen[move.name] = file
            reasons.pop(move.name, None)
            return
        # One line for all motions that are refused alike: the names are in front of it.
        reasons[move.name] = reason.replace(f' "{file.name}" of object 1', "")
