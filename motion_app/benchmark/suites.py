"""Which cases are run by which variants: the main table, the limits, RMPM's rules, and methods
that only some motions can be used with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from motion_app.benchmark.scenes import (
    BENCHMARK_SEED,
    BODIES,
    HELD_OUT,
    LIMBS,
    MOVER_MOTIONS,
    MOVERS,
    STRATA,
    TUNING,
    BenchmarkCase,
    draw_cases,
    limbless_cases,
    mover_cases,
    stretched_cases,
    tuning_cases,
)
from motion_app.benchmark.variants import FULL, Roster, Variant
from motion_app.errors import RequestError
from motion_app.geometry import ModelGeometry

MAIN, PACKS, RULES = "main", "packs", "rules"
PACK_SEED = BENCHMARK_SEED + 4
PACK_COUNTS = {1: 4, 2: 12}
RULE_CASES = 10
MARKED, BY_NOUN = "movers, marked", "movers, by noun"  # tokens learned from crowded references
REFERENCE_METHODS = ("fleximmt", "none", "concat")  # what a limit is compared by
RULE_NAMES = ("paper", "released", "competing")


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
    by_method = [v for v in variants if v.method in REFERENCE_METHODS and not v.without]
    suites += _strata(by_method, options, names, geometry)
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
    suites = []
    for stratum in options.strata if count else ():
        if stratum == BODIES and len(names) > 1:
            cases = stretched_cases(names, count, geometry=geometry)
            suites.append(Suite(stratum, STRATA[stratum], tuple(cases), tuple(variants)))
        if stratum == LIMBS and len(names) > 1:
            cases = limbless_cases(names, count, geometry=geometry)
            suites.append(Suite(stratum, STRATA[stratum], tuple(cases), tuple(variants)))
        if stratum == MOVERS and len(set(MOVER_MOTIONS) & set(names)) > 1:
            cases = mover_cases(names, count, geometry=geometry)
            learned = [Variant(tokens, tokens=tokens) for tokens in (MARKED, BY_NOUN)]
            compared = (FULL, *learned, *(v for v in variants if v.method == "none"))
            suites.append(Suite(stratum, STRATA[stratum], tuple(cases), compared))
    return suites


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
    whole = (v for v in variants if v not in usable and not v.without)
    plain = [v for v in whole if v == FULL or v.method in methods]
    about = f"scenes of the motions that all of these have: {', '.join(shared)}"
    return Suite(PACKS, about, tuple(cases), (*plain, *usable))
