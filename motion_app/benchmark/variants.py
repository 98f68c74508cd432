"""What is compared, and with which files.

What is compared: a method, what it does without, and which files its motions come from.

Which motion file each variant takes for each movement.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from motion_app.benchmark.scenes import BenchmarkCase, Movement, movements
from motion_app.errors import RequestError
from motion_app.library.library import Library
from motion_app.methods import ABLATIONS, METHODS
from motion_app.scene import Motion

# The ablations of the papers that can show: "m2m" opens nothing that acts.
DEFAULT_WITHOUT = ("m2x", "t2x", "m2v", "t2m", "infer_mask", "rmpm")
LIBRARY, UNMASKED = "library", "unmasked"  # the tokens' own name for where they come from
UNMASKED_METHOD = "concat"  # learns, as it generates, without masks
PACK_METHOD = "synmotion"  # whose motion files may have been learned with less
PAPER_NAMES = MappingProxyType(  # rows of the papers' tables that show the same
    {
        "fleximmt": "full",
        "none": "CogVideoX-5B-I2V",
        "concat": "FlexiAct",
        "w/o m2x": "w/o M2X",
        "w/o t2x": "w/o T2X",
        "w/o m2v": "w/o M2V",
        "w/o t2m": "w/o T2M",
        "w/o infer_mask": "w/o infer mask",
        "w/o rmpm": "w/o RMPM",
        "w/o train mask": "w/o train mask",
    }
)
SYNMOTION_NAMES = MappingProxyType(  # the same for the ablations of SynMotion's supplement
    {
        "none": "baseline",
        "synmotion": "SynMotion",
        "synmotion: mot": "B + mot",
        "synmotion: mot + sub": "B + mot + sub",
        "synmotion: mot + sub + R": "B + mot + sub + R",
        "synmotion: LoRA only": "B + LoRA only",
        "synmotion: w/o strategy": "w/o training strategy",
    }
)
# Which file each movement has, by (method, tokens).
Roster = Mapping[tuple[str, str], Mapping[str, Motion]]
Sets = Mapping[tuple[str, str], Sequence[Movement]]  # by (method, tokens), as a Roster


@dataclass(frozen=True)
class Variant:
    """One row of a table. ``tokens``: which set of motion files; ``rule``: RMPM's, "" for the
    checkpoint's own."""

    name: str
    method: str = "fleximmt"
    without: tuple[str, ...] = ()
    tokens: str = LIBRARY
    rule: str = ""

    @property
    def reduced(self) -> bool:
        """Whether SynMotion learned its motion files with less than all of itself."""
        return self.method == PACK_METHOD and self.tokens != LIBRARY


FULL = Variant("fleximmt")


def choose_variants(
    methods: Sequence[str] = METHODS,
    without: Sequence[str] = DEFAULT_WITHOUT,
    *,
    unmasked: bool = False,
    reduced: Sequence[str] = (),
) -> tuple[Variant, ...]:
    """The rows of the main table, full FlexiMMT first, as all others are compared with it.

    ``unmasked``: there are motion files learned without masks; ``concat`` then takes those, and
    "w/o train mask" joins. ``reduced``: names of sets that SynMotion learned with less than all of
    itself, a row "synmotion: NAME" each. RequestError for an unknown method or ablation, and for
    one name twice.
    """
    for names, known, what in ((methods, METHODS, "method"), (without, ABLATIONS, "ablation")):
        for name in names:
            if name not in known:
                raise RequestError(f'unknown {what} "{name}"; choose from {", ".join(known)}')
    variants = [FULL]
    for method in dict.fromkeys(methods):
        if method != FULL.method:
            tokens = UNMASKED if unmasked and method == UNMASKED_METHOD else LIBRARY
            variants.append(Variant(method, method, tokens=tokens))
    variants += [Variant(f"w/o {name}", FULL.method, (name,)) for name in dict.fromkeys(without)]
    if unmasked:
        variants.append(Variant("w/o train mask", FULL.method, tokens=UNMASKED))
    rows = [f"{PACK_METHOD}: {name}" for name in reduced]
    if len(set(rows)) < len(rows):
        raise RequestError(f"two reduced sets have one name among {', '.join(reduced)}; rename one")
    variants += [Variant(row, PACK_METHOD, tokens=row) for row in rows]
    return tuple(variants)


def files_for(case: BenchmarkCase, variant: Variant, roster: Roster) -> tuple[Motion, ...] | None:
    """The file of each object's motion for ``variant``; None where one of them has none."""
    files = roster.get((variant.method, variant.tokens), {})
    if any(thing.motion not in files for thing in case.objects):
        return None
    return tuple(files[thing.motion] for thing in case.objects)


def lacking(case: BenchmarkCase, variant: Variant, roster: Roster) -> Collection[str]:
    """The movements of ``case`` for which ``variant`` has no file."""
    files = roster.get((variant.method, variant.tokens), {})
    return sorted({thing.motion for thing in case.objects} - set(files))


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
