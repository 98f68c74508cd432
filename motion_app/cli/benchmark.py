"""``evaluate benchmark``: its options as a campaign, and what it prints."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from motion_app.benchmark.exchange import parse_external, parse_folder
from motion_app.benchmark.scenes import STRATA
from motion_app.benchmark.suites import SuiteOptions
from motion_app.benchmark.variants import DEFAULT_WITHOUT, choose_variants
from motion_app.errors import RequestError
from motion_app.jobs.models import Models
from motion_app.media.results import make_folder
from motion_app.methods import METHODS
from motion_app.settings import Settings

if TYPE_CHECKING:  # it brings torch, which the other commands do without
    from motion_app.benchmark.campaign import Campaign

MOST_OBJECTS = 3  # the renderer has colours and room for so many
REDUCED_EXAMPLE = '--reduced "mot + sub=motions/mot-sub"'


def run_benchmark(options: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """Methods × ablations × scenes into ``options.out``; run again, it makes what is missing."""
    from motion_app.benchmark.campaign import run_campaign
    from motion_app.benchmark.report import write_report
    from motion_app.benchmark.scores import seconds_by_row

    campaign = build_campaign(options, settings)
    Models(settings, device=options.device).check()
    started = time.monotonic()

    def show(done: int, total: int, what: str) -> None:
        sys.stderr.write(f"{time.monotonic() - started:7.0f} s  {done}/{total}  {what}\n")

    outcome = run_campaign(campaign, show)
    files = write_report(outcome, campaign.out)
    return {
        "report": files["report.md"],
        "files": files,
        "scenes": {suite.name: len(suite.cases) for suite in outcome.suites},
        "videos": len(outcome.videos),
        "not_measured": len(outcome.gaps),
        "seconds_a_video": seconds_by_row(outcome),
        "seconds": round(time.monotonic() - started, 1),
    }


def build_campaign(options: argparse.Namespace, settings: Settings) -> Campaign:
    """The options as a campaign. RequestError for what cannot be run."""
    from motion_app.benchmark.campaign import Campaign

    for name in ("unmasked", "data"):
        path = getattr(options, name)
        if path is not None and not path.is_dir():
            raise RequestError(f"the folder {path} of --{name} does not exist; check the path")
    for name in ("processes", "steps", "training_steps"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise RequestError(f"{name} is {getattr(options, name)}; at least 1 is needed")
    if options.movements and options.data is not None:
        raise RequestError("--movements chooses what drawn scenes show; leave it out with --data")
    model = options.model or settings.model
    reduced = [parse_folder(text, example=REDUCED_EXAMPLE) for text in options.reduced]
    variants = choose_variants(
        METHODS if options.methods is None else parse_names(options.methods),
        DEFAULT_WITHOUT if options.without is None else parse_names(options.without),
        unmasked=options.unmasked is not None,
        reduced=[name for name, _ in reduced],
    )
    external = tuple(parse_external(text) for text in options.external)
    _check_rows([variant.name for variant in variants] + [method.name for method in external])
    suites = SuiteOptions(
        parse_counts(options.cases),
        parse_strata(options.strata),
        options.strata_cases,
        options.split.replace("-", " "),
    )
    return Campaign(
        model=model,
        out=make_folder(options.out),
        motions=(*settings.motion_folders(model), *options.motions),
        settings=settings,
        options=suites,
        variants=variants,
        unmasked=options.unmasked,
        reduced=tuple(folder for _, folder in reduced),
        movements=tuple(parse_names(options.movements or "")),
        external=external,
        data=options.data,
        processes=options.processes,
        device=options.device,
        steps=options.steps,
        training_steps=options.training_steps,
        propagation_cases=options.rmpm_cases,
    )


def _check_rows(names: Sequence[str]) -> None:
    """RequestError where two methods would share a row of the tables."""
    from motion_app.benchmark.scores import TRUTH

    names = [*names, TRUTH]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(
            f'two rows of the tables would be called "{twice}"; give the method of --external '
            "another name"
        )


def parse_names(text: str) -> list[str]:
    """Names with commas between; "" is none."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_counts(text: str) -> dict[int, int]:
    """``1:20,2:40,3:20``: objects and scenes. RequestError for anything else."""
    counts: dict[int, int] = {}
    for part in parse_names(text):
        objects, sign, scenes = part.partition(":")
        if not (sign and objects.isdecimal() and scenes.isdecimal()):
            raise RequestError(f'"{part}" is not OBJECTS:SCENES; write for example 1:20,2:40,3:20')
        if not 1 <= int(objects) <= MOST_OBJECTS:
            raise RequestError(
                f'"{part}" asks for scenes of {objects} objects; there are 1 to {MOST_OBJECTS}'
            )
        counts[int(objects)] = int(scenes)
    if not sum(counts.values()):
        raise RequestError(f'"{text}" asks for no scene; write for example 2:4')
    return counts


def parse_strata(text: str) -> tuple[str, ...]:
    """Names of STRATA with commas between, or "none"."""
    names = [] if text == "none" else parse_names(text)
    for name in names:
        if name not in STRATA:
            raise RequestError(f'unknown stratum "{name}"; choose from {", ".join(STRATA)}, none')
    return tuple(dict.fromkeys(names))
