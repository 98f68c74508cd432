"""Which classes of tokens attend to which, FlexiMMT Eq. 5 to 11 as a table, and its ablations."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations

import numpy as np

from motion_app.errors import RequestError
from motion_app.methods import ABLATIONS, SCOPES

# The compound names of the paper's Table 4 and what they open.
OPENS: dict[str, frozenset[str]] = {
    "m2v": frozenset({"m2v"}),
    "m2m": frozenset({"m2m"}),
    "t2v": frozenset({"t2v"}),
    "t2t": frozenset({"t2t"}),
    "t2m": frozenset({"t2m"}),
    "m2x": frozenset({"m2v", "m2m"}),
    "t2x": frozenset({"t2v", "t2t", "t2m"}),
    "infer_mask": frozenset({"all"}),
    "rmpm": frozenset(),  # changes where the masks come from, not what they close
    "step0_mask": frozenset(),  # changes the first step alone: ``GenerationSteering``
}
MOST_ENUMERATED = 10  # 2^10 video classes; a plan needs only the sets that occur


def visibility(
    objects: int, *, scope: str = "released", without: Collection[str] = ()
) -> tuple[tuple[str, ...], np.ndarray]:
    """The table of docs/method.md section 3 (FlexiMMT Eq. 5 to 11) for ``objects`` objects.

    Returns the class names in order, ``free``, ``phrase_0`` …, ``motion_0`` …, ``video_{}``, then
    ``video_{0}``, ``video_{0,1}`` … for every set of objects a video token may lie in (smaller sets
    first), and a symmetric bool array (classes, classes): True where one may attend to the other.
    ``without`` names ablations (``ABLATIONS``). Raises RequestError for an unknown name or scope.
    """
    if not 0 <= objects <= MOST_ENUMERATED:
        raise RequestError(
            f"the whole table can be listed for 0 to {MOST_ENUMERATED} objects, not {objects}; "
            "AttentionPlan.build has no such limit"
        )
    sets = [frozenset(c) for size in range(objects + 1) for c in combinations(range(objects), size)]
    names = (
        "free",
        *(f"phrase_{k}" for k in range(objects)),
        *(f"motion_{k}" for k in range(objects)),
        *("video_{" + ",".join(map(str, sorted(members))) + "}" for members in sets),
    )
    return names, visibility_table(objects, sets, scope=scope, without=without)


def check_ablations(without: Collection[str], scope: str = "released") -> frozenset[str]:
    """What the named ablations open; RequestError names the valid ones."""
    if scope not in SCOPES:
        raise RequestError(f'unknown scope "{scope}"; choose one of {", ".join(SCOPES)}')
    unknown = sorted(set(without) - set(OPENS))
    if unknown:
        raise RequestError(f'unknown ablation "{unknown[0]}"; choose from {", ".join(ABLATIONS)}')
    return frozenset().union(*(OPENS[name] for name in without))


def visibility_table(
    objects: int, sets: Sequence[frozenset[int]], *, scope: str, without: Collection[str]
) -> np.ndarray:
    """Bool (classes, classes) over free, phrases, motions and the given video sets."""
    opened = check_ablations(without, scope)
    kinds = ["free", *["phrase"] * objects, *["motion"] * objects, *["video"] * len(sets)]
    owners = np.zeros((len(kinds), objects), dtype=bool)  # (classes, N)
    owners[1 : 1 + 2 * objects] = np.tile(np.eye(objects, dtype=bool), (2, 1))
    for row, members in enumerate(sets, start=1 + 2 * objects):
        owners[row, sorted(members)] = True
    shared = (owners[:, None] & owners[None]).any(-1)  # (classes, classes): some object in common
    anything, nothing = np.ones_like(shared), np.zeros_like(shared)
    rules = {
        ("free", "free"): anything,
        ("free", "phrase"): anything,
        ("free", "motion"): anything if "t2m" in opened else nothing,
        ("free", "video"): anything if scope == "released" else nothing,
        ("phrase", "phrase"): anything if "t2t" in opened else shared,
        ("phrase", "motion"): anything if "t2m" in opened else shared,
        ("phrase", "video"): anything if "t2v" in opened else shared,
        ("motion", "motion"): anything if "m2m" in opened else shared,
        ("motion", "video"): anything if "m2v" in opened else shared,
        ("video", "video"): anything,
    }
    if "all" in opened:
        return anything
    kind = np.array(kinds)
    table = np.zeros_like(shared)
    for (one, other), rule in rules.items():
        block = (kind[:, None] == one) & (kind[None] == other)
        table |= rule & (block | block.T)
    return table
