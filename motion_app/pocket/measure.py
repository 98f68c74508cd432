"""Every figure the pocket's model card states, from one command, on scenes nothing was trained on:
a benchmark on the split "tuning", and figures of the VAE and of clicks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from motion_app.benchmark.campaign import Campaign, run_campaign
from motion_app.benchmark.propagation import NOISE_LEVELS
from motion_app.benchmark.report import write_report
from motion_app.benchmark.scenes import TUNING
from motion_app.benchmark.scores import Outcome, by_case, paired_difference, seconds_by_row
from motion_app.benchmark.suites import SuiteOptions
from motion_app.benchmark.variants import FULL, UNMASKED, Variant
from motion_app.engine.propagation import RULES
from motion_app.jobs.models import Models
from motion_app.pocket.sam2 import measure_sam2
from motion_app.pocket.vae import psnr, render_clips
from motion_app.world.world import WorldConfig

UNSEEN_SEED = 987_654
RMPM_CASES = 20


def measure_pocket(
    checkpoint: Path,
    out: Path,
    *,
    models: Models,
    cases: int = 40,
    processes: int = 2,
    unmasked: Path | None = None,
    stills: int = 200,
) -> dict[str, Any]:
    """Measures the VAE, the segmenter, RMPM and motion transfer; writes ``figures.json`` and the
    benchmark's report into ``out``. ``models``: of the deployment that is measured.

    ``unmasked``: a folder of the same motions learned without object masks, as ``concat`` would;
    its row is added where given. ``processes`` share the videos, one CPU thread each.
    """
    out.mkdir(parents=True, exist_ok=True)
    engine = models.engine(checkpoint)
    clips = render_clips(32, seed=UNSEEN_SEED, config=WorldConfig())
    figures: dict[str, Any] = {"vae_psnr_db": psnr(engine.backbone.pipe.vae, clips)}
    figures["one_click"] = asdict(measure_sam2(models.segmenter(checkpoint), stills))
    del engine
    variants = [FULL, Variant("concat", "concat"), Variant("none", "none")]
    if unmasked is not None:
        name = "concat, tokens learned without masks"
        variants.insert(2, Variant(name, "concat", tokens=UNMASKED))
    models.forget()
    outcome = run_campaign(
        Campaign(
            model=str(checkpoint),
            out=out,
            motions=(checkpoint / "motions",),
            settings=models.settings,
            options=SuiteOptions({2: cases}, split=TUNING),
            variants=tuple(variants),
            unmasked=unmasked,
            processes=processes,
            device=models.device,
            propagation_cases=min(cases, RMPM_CASES),
        )
    )
    write_report(outcome, out)
    figures["rmpm_iou"] = {
        f"{rule} at {level:g} of the noise": float(
            np.mean([found[rule][k] for found in outcome.propagation])
        )
        for k, level in enumerate(NOISE_LEVELS)
        for rule in RULES
    }
    figures["seconds_a_video"] = seconds_by_row(outcome)[FULL.name]
    figures["transfer"] = transfer(outcome)
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def transfer(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """Means of each row, and how far the first is ahead of the others, with 95% intervals."""
    suite, table = outcome.suites[0], {}
    margins = {
        variant.name: by_case(outcome, suite, variant.name, "own_minus_other[colour]")
        for variant in suite.variants
    }
    names = {"own": "own_motion", "other": "other_motion", "follows": "follows_own"}
    for name, margin in margins.items():
        row = table[name] = {
            key: _mean(by_case(outcome, suite, name, f"{metric}[colour]"))
            for key, metric in names.items()
        }
        row["own_minus_other"] = _mean(margin)
        ahead = paired_difference(margins[FULL.name], margin)
        if name != FULL.name and ahead is not None:
            row["first_is_ahead_by"] = ahead.mean
            row["interval"] = list(ahead.interval or (ahead.mean, ahead.mean))
    return table


def _mean(values: dict[str, float]) -> float:
    return float(np.mean(list(values.values())))


def summary(figures: dict[str, Any]) -> str:
    """The comparison as a Markdown table."""
    lines = [
        "| method | own | other | own − other | follow their own | fleximmt is ahead by |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in figures["transfer"].items():
        ahead = "–"
        if "interval" in row:
            low, high = row["interval"]
            ahead = f"{row['first_is_ahead_by']:.2f} [{low:.2f}, {high:.2f}]"
        lines.append(
            f"| {name} | {row['own']:.2f} | {row['other']:.2f} | {row['own_minus_other']:.2f} "
            f"| {row['follows']:.0%} | {ahead} |"
        )
    return "\n".join(lines)
