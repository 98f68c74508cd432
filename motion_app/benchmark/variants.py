"""What is compared: methods, what each does without, and which cases are run by which.

A variant is a method, what it leaves out, and the files its motions come from; a suite is the main
table, the limits, RMPM's rules, or the methods that only some motions can be used with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from motion_app.benchmark.references import (
    BY_NOUN,
    LARGER,
    LEARNED,
    LIBRARY,
    MARKED,
    MIRRORED,
    SCRATCH,
    SHAPED,
    UNMASKED,
    WORDED,
)
from motion_app.benchmark.scenes import (
    BENCHMARK_SEED,
    HELD_OUT,
    TUNING,
    BenchmarkCase,
    Movement,
    draw_cases,
    movements,
    tuning_cases,
)
from motion_app.benchmark.strata import (
    BODIES,
    LIMBS,
    MIRROR_MOTIONS,
    MIX_MOTIONS,
    MIXED,
    MOVER_MOTIONS,
    MOVERS,
    SHAPES,
    STRATA,
    WORD_MOTIONS,
    larger_cases,
    larger_names,
    limbless_cases,
    mirrored_cases,
    mixed_cases,
    mover_cases,
    shape_cases,
    stretched_cases,
    worded_cases,
)
from motion_app.errors import RequestError
from motion_app.geometry import ModelGeometry
from motion_app.library.library import Library
from motion_app.methods import (
    ABLATIONS,
    CLIP_METHODS,
    CLIPS,
    ENCODED,
    METHOD_TABLE,
    METHODS,
    WAYS,
    methods_there,
)
from motion_app.scene import Motion

# The ablations of the papers that can show: "m2m" opens nothing that acts.
DEFAULT_WITHOUT = ("m2x", "t2x", "m2v", "t2m", "infer_mask", "rmpm")
UNMASKED_METHOD = "concat"  # learns, as it generates, without masks
PACK_METHOD = "synmotion"  # whose motion files may have been learned with less
PAPER_NAMES = MappingProxyType(  # rows of the papers' tables that show the same, where named else
    {
        "fleximmt": "full",
        "none": "CogVideoX-5B-I2V",
        "concat": "FlexiAct",
        "w/o m2x": "w/o M2X",
        "w/o t2x": "w/o T2X",
        "w/o m2v": "w/o M2V",
        "w/o m2m": "w/o M2M",
        "w/o t2v": "w/o T2V",
        "w/o t2t": "w/o T2T",
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
MAIN, PACKS, RULES = "main", "packs", "rules"
PACK_SEED = BENCHMARK_SEED + 4
PACK_COUNTS = {1: 4, 2: 12}
RULE_CASES = 10
REFERENCE_METHODS = ("fleximmt", "none", "concat")  # what a limit is compared by
TEXT_PARTS = ("t2x", "t2v", "t2t", "t2m")  # masks of the text: what it, and what sees it, may see
RULE_NAMES = ("paper", "released", "competing")


@dataclass(frozen=True)
class Variant:
    """One row of a table. ``tokens``: which set of motion files; ``rule``: RMPM's, "" for the
    checkpoint's own; ``stock``: a model of others that makes the videos, "" for the checkpoint, and
    ``note`` what is said of that in the row."""

    name: str
    method: str = "fleximmt"
    without: tuple[str, ...] = ()
    tokens: str = LIBRARY
    rule: str = ""
    stock: str = ""
    note: str = ""

    @property
    def reduced(self) -> bool:
        """Whether SynMotion learned its motion files with less than all of itself."""
        return self.method == PACK_METHOD and self.tokens != LIBRARY


FULL = Variant("fleximmt")


def choose_variants(
    methods: Sequence[str] = methods_there(METHODS, encoder=False),
    without: Sequence[str] = DEFAULT_WITHOUT,
    *,
    unmasked: bool = False,
    learn: bool = False,
    reduced: Sequence[str] = (),
    stock: Sequence[Variant] = (),
    usual: str = WAYS[0],
) -> tuple[Variant, ...]:
    """The rows of the main table, full FlexiMMT first, as all others are compared with it.

    ``unmasked``: there are motion files learned without masks; ``concat`` then takes those, and
    "w/o train mask" joins. ``learn``: what no library holds is learned first; those files are, too,
    where a method would take them or an ablation is asked for: who asks for neither waits for
    none. ``reduced``: names of sets that SynMotion learned with less than all of itself, a row
    "synmotion: NAME" each. ``stock``: the rows of models of others. ``usual``: how the library's
    motions come of their clips; where not from tokens that are drawn, as the papers have it,
    ``learn`` gives those a row, "from scratch". RequestError for an unknown method or ablation,
    and for one name twice.
    """
    for names, known, what in ((methods, METHODS, "method"), (without, ABLATIONS, "ablation")):
        for name in names:
            if name not in known:
                raise RequestError(f'unknown {what} "{name}"; choose from {", ".join(known)}')
    if learn:
        unmasked |= bool(without) or any(METHOD_TABLE[name].everywhere for name in methods)
    variants = [FULL]
    for method in dict.fromkeys(methods):
        if method != FULL.method:
            tokens = UNMASKED if unmasked and METHOD_TABLE[method].everywhere else LIBRARY
            variants.append(Variant(method, method, tokens=tokens))
    variants += [Variant(f"w/o {name}", FULL.method, (name,)) for name in dict.fromkeys(without)]
    if unmasked:
        variants.append(Variant("w/o train mask", FULL.method, tokens=UNMASKED))
    if learn and without and usual != WAYS[0]:
        variants.append(Variant(SCRATCH, FULL.method, tokens=SCRATCH))
    rows = [f"{PACK_METHOD}: {name}" for name in reduced]
    if len(set(rows)) < len(rows):
        raise RequestError(f"two reduced sets have one name among {', '.join(reduced)}; rename one")
    variants += [Variant(row, PACK_METHOD, tokens=row) for row in rows]
    variants += stock
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


def lessons(suites: Sequence[Suite]) -> list[tuple[str, str]]:
    """What the ``suites`` need that no library holds: sets of LEARNED and movements."""
    needed = (
        (variant.tokens, thing.motion)
        for suite in suites
        for variant in suite.variants
        if variant.tokens in LEARNED
        for case in suite.cases
        for thing in case.objects
    )
    return sorted(set(needed))


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


@dataclass(frozen=True, eq=False)
class Suite:
    """``cases`` × ``variants``, reported together; ``about`` in words."""

    name: str
    about: str
    cases: tuple[BenchmarkCase, ...]
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class SuiteOptions:
    """How much is run: scenes by their number of objects, strata by name, scenes in each; of which
    split the scenes are. Strata, packs and RMPM's rules are compared on the held-out one alone."""

    counts: Mapping[int, int]
    strata: tuple[str, ...] = ()
    strata_cases: int = 0
    split: str = HELD_OUT


def build_suites(
    variants: Sequence[Variant],
    roster: Roster,
    options: SuiteOptions,
    *,
    names: Sequence[str],
    geometry: ModelGeometry,
) -> list[Suite]:
    """The suites of a rendered benchmark. ``names``: the movements the renderer knows that full
    FlexiMMT can use. A method that lacks some of them stands in the suite of PACKS instead."""
    if not names:
        raise RequestError(
            "no motion of the library is one that the renderer draws and was learned on this "
            "model; learn them with: python -m motion_app pocket train --stages motions"
        )
    whole = [v for v in variants if set(names) <= set(roster.get((v.method, v.tokens), {}))]
    if options.split == TUNING:
        tuned = tuple(tuning_cases(names, options.counts, geometry=geometry))
        return [Suite(MAIN, "scenes on which settings were chosen", tuned, tuple(whole))]
    main = tuple(draw_cases(names, options.counts, geometry=geometry))
    suites = [Suite(MAIN, "scenes that nothing was trained or tuned on", main, tuple(whole))]
    suites += _strata(variants, options, names, geometry)
    packs = _packs([v for v in variants if v not in whole], variants, roster, names, geometry)
    suites += [] if packs is None else [packs]
    pairs = tuple(case for case in main if len(case.objects) == 2)[:RULE_CASES]
    if pairs:
        rules = tuple(Variant(f"RMPM {rule}", rule=rule) for rule in RULE_NAMES)
        suites.append(Suite(RULES, "RMPM's rules on the first scenes of two", pairs, rules))
    return suites


def _strata(
    variants: Sequence[Variant],
    options: SuiteOptions,
    names: Sequence[str],
    geometry: ModelGeometry,
) -> list[Suite]:
    count = options.strata_cases
    plain = [v for v in variants if v.method in REFERENCE_METHODS and not (v.without or v.stock)]
    suites = []
    for stratum in options.strata if count else ():
        cases: Sequence[BenchmarkCase] = ()
        rows = tuple(plain)
        if stratum == BODIES and len(names) > 1:
            cases = stretched_cases(names, count, geometry=geometry)
        if stratum == LIMBS and len(names) > 1:
            cases = limbless_cases(names, count, geometry=geometry)
        if stratum == MOVERS and len(set(MOVER_MOTIONS) & set(names)) > 1:
            cases = mover_cases(names, count, geometry=geometry)
            learned = [Variant(tokens, tokens=tokens) for tokens in (MARKED, BY_NOUN)]
            rows = (FULL, *learned, *(v for v in plain if v.method == "none"))
        if stratum == SHAPES:
            cases, rows = shape_cases(count, geometry=geometry), learning(variants, SHAPED)
        if stratum == MIRRORED and len(set(MIRROR_MOTIONS) & set(names)) > 1:
            cases = mirrored_cases(names, count, geometry=geometry)
            rows = learning(variants, MIRRORED)
        if stratum == LARGER and len(larger_names(names, geometry)) > 1:
            cases = larger_cases(names, count, geometry=geometry)
            rows = learning(variants, LARGER)
        if stratum == WORDED and len(set(WORD_MOTIONS) & set(names)) > 1:
            cases = worded_cases(names, count, geometry=geometry)
            rows = (*learning(variants, WORDED), *_text_parts())
        if stratum == MIXED and set(MIX_MOTIONS) <= set(names):
            cases = mixed_cases(count, geometry=geometry)
            rows = (*learning(variants, WORDED), *_text_parts())
        if cases:
            suites.append(Suite(stratum, STRATA[stratum], tuple(cases), tuple(rows)))
    return suites


def learning(variants: Sequence[Variant], tokens: str) -> tuple[Variant, ...]:
    """Those of ``variants`` that are a method as it is, with motions of the set ``tokens``: a
    method that learns nothing beforehand is told their clips, and the stock model leaves them
    alone. SynMotion and I2VEdit, whose motion files are learned otherwise, are not among them."""
    told = (name for name in CLIP_METHODS if METHOD_TABLE[name].family == CLIPS)
    methods = (*REFERENCE_METHODS, *told, ENCODED)
    whole = (v for v in variants if v.method in methods and v.name == v.method)
    return tuple(replace(v, tokens=tokens) for v in whole)


def _text_parts() -> list[Variant]:
    return [Variant(f"w/o {part}", without=(part,), tokens=WORDED) for part in TEXT_PARTS]


def _packs(
    partial: Sequence[Variant],
    variants: Sequence[Variant],
    roster: Roster,
    names: Sequence[str],
    geometry: ModelGeometry,
) -> Suite | None:
    """The variants that only some movements have files for, on scenes of those; None without."""
    sets = {v: set(roster.get((v.method, v.tokens), {})) & set(names) for v in partial}
    usable = {variant: found for variant, found in sets.items() if found}
    shared = sorted(set.intersection(*usable.values())) if usable else []
    if not shared:
        return None
    counts = {n: count for n, count in PACK_COUNTS.items() if n <= len(shared)}
    cases = draw_cases(shared, counts, geometry=geometry, prefix="packs-", seed=PACK_SEED)
    methods = {"none"} | {variant.method for variant in usable}
    whole = (v for v in variants if v not in usable and not (v.without or v.stock))
    plain = [v for v in whole if v == FULL or v.method in methods]
    about = f"scenes of the motions that all of these have: {', '.join(shared)}"
    return Suite(PACKS, about, tuple(cases), (*plain, *usable))
