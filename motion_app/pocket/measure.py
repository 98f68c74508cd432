"""Every figure the pocket's model card states, from one command, on scenes nothing was trained
on."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp
from PIL import Image

from motion_app.benchmark.propagation import (
    MethodFigures,
    ObjectScore,
    contact_sheet,
    draw_cases,
    measure_propagation,
    paired_interval,
    score_video,
)
from motion_app.jobs.models import Models
from motion_app.library.library import Library
from motion_app.pocket.sam2 import measure_sam2
from motion_app.pocket.vae import psnr, render_clips
from motion_app.settings import Settings
from motion_app.world.world import WorldConfig

log = logging.getLogger(__name__)
SHEET_CASES = 12
UNSEEN_SEED = 987_654


@dataclass(frozen=True)
class Row:
    """One line of the comparison: a method, and the folder its motion tokens come from."""

    name: str
    method: str
    motions: Path


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
    """Measures the VAE, the segmenter, RMPM and motion transfer; writes ``figures.json`` and
    contact sheets into ``out``. ``models``: of the deployment that is measured.

    ``unmasked``: a folder of the same motions learned without object masks, as ``concat`` would;
    its row is added where given. ``processes`` share the videos, one CPU thread each.
    """
    out.mkdir(parents=True, exist_ok=True)
    engine = models.engine(checkpoint)
    clips = render_clips(32, seed=UNSEEN_SEED, config=WorldConfig())
    figures: dict[str, Any] = {"vae_psnr_db": psnr(engine.backbone.pipe.vae, clips)}
    figures["one_click"] = asdict(measure_sam2(models.segmenter(checkpoint), stills))
    drawn = draw_cases(Library([checkpoint / "motions"]).list(), cases)
    propagation = measure_propagation(engine, drawn[: min(cases, 20)])
    figures["rmpm_iou"] = {
        f"{rule} at {level:g} of the noise": value for (rule, level), value in propagation.items()
    }
    started = time.perf_counter()
    engine.generate(drawn[0].request())
    figures["seconds_a_video"] = time.perf_counter() - started
    del engine
    rows = [
        Row("fleximmt", "fleximmt", checkpoint / "motions"),
        Row("concat", "concat", checkpoint / "motions"),
        Row("none", "none", checkpoint / "motions"),
    ]
    if unmasked is not None:
        rows.insert(2, Row("concat, tokens learned without masks", "concat", unmasked))
    models.forget()
    figures["transfer"] = compare_rows(
        checkpoint, rows, cases, processes=processes, out=out, models=models
    )
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def compare_rows(
    checkpoint: Path,
    rows: Sequence[Row],
    cases: int,
    *,
    processes: int,
    out: Path,
    models: Models,
) -> dict[str, Any]:
    """Means of each row, and how far the first is ahead of the others, with 95% intervals."""
    place = (models.settings.model_copy(update={"study_database": None}), models.device)
    shares = [(checkpoint, rows, cases, p, processes, out, *place) for p in range(processes)]
    if processes == 1:
        scored = [_score_share(*shares[0])]
    else:
        with mp.get_context("spawn").Pool(processes) as pool:
            scored = pool.starmap(_score_share, shares)
    methods: dict[str, MethodFigures] = {}
    for row in rows:
        scores = sorted((s for share in scored for s in share[row.name]), key=lambda s: s.case)
        methods[row.name] = MethodFigures.of(scores)
    first = methods[rows[0].name]
    table = {}
    for name, means in methods.items():
        table[name] = {"own": means.own, "other": means.other, "follows": means.follows}
        table[name]["own_minus_other"] = float(means.margins.mean())
        if means is not first:
            table[name]["first_is_ahead_by"] = float((first.margins - means.margins).mean())
            table[name]["interval"] = list(paired_interval(first, means, objects=2))
    return table


def _score_share(
    checkpoint: Path,
    rows: Sequence[Row],
    cases: int,
    process: int,
    processes: int,
    out: Path,
    settings: Settings,
    device: str | None,
) -> dict[str, list[ObjectScore]]:
    """Every ``processes``-th case by every row; the sheets of the first SHEET_CASES are written."""
    models = Models(settings, device=device, threads=max(1, 2 // processes))
    engine = models.engine(checkpoint)
    drawn = draw_cases(Library([checkpoint / "motions"]).list(), cases)[process::processes]
    scores: dict[str, list[ObjectScore]] = {row.name: [] for row in rows}
    named = {
        row.name: {motion.name: motion for motion in Library([row.motions]).list()} for row in rows
    }
    for case in drawn:
        sheet = [case.rendered.frames]
        for row in rows:
            video = engine.generate(case.with_motions(named[row.name]).request(method=row.method))
            scores[row.name] += score_video(case, video)
            sheet.append(video.frames)
        if case.seed < SHEET_CASES:
            names = "-and-".join(motion.name.replace(" ", "-") for motion in case.motions)
            picture = Image.fromarray(contact_sheet(sheet))
            picture.save(out / f"case-{case.seed:02d}-{names}.png")
    return scores


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
