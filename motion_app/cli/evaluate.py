"""``evaluate``: scores of videos, and ``evaluate benchmark``, its options as a campaign."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motion_app.benchmark.exchange import parse_external, parse_folder
from motion_app.benchmark.strata import STRATA
from motion_app.benchmark.variants import DEFAULT_WITHOUT, SuiteOptions, Variant, choose_variants
from motion_app.cli.parser import (
    add_command,
    add_group,
)
from motion_app.errors import RequestError
from motion_app.evaluation.catalogue import METRICS, default_ids
from motion_app.evaluation.scoring import ScoreProgress, Scores
from motion_app.evaluation.videos import EvaluationItem
from motion_app.jobs import kinds
from motion_app.jobs.models import Models
from motion_app.library.library import Library
from motion_app.media.results import make_folder
from motion_app.methods import METHODS, STOCK_METHOD, WAYS, methods_there
from motion_app.models.checkpoint import Checkpoint
from motion_app.models.stock_files import StockFiles, stock_name
from motion_app.request.request import parse_request
from motion_app.settings import Settings

if TYPE_CHECKING:  # it brings torch, which the other commands do without
    from motion_app.benchmark.campaign import Campaign
    from motion_app.benchmark.outcome import Outcome


MOST_OBJECTS = 3  # the renderer has colours and room for so many
REDUCED_EXAMPLE = '--reduced "mot + sub=motions/mot-sub"'


def evaluate_video(options: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """Score one video of any method. ``--json`` prints no table; ``--out`` writes report.csv,
    report.md and report.tex there."""
    for path in (options.request, *options.reference, *options.reference_mask):
        if path is not None and not path.is_file():
            raise RequestError(f"there is no file {path}; check the path")
    kept = options.video.with_name("frames.npz")
    request = options.request
    item = EvaluationItem(
        options.video.stem,
        options.method or (parse_request(request).options.method if request else "video"),
        options.video,
        frames=kept if kept.is_file() else None,
        request=request,
        references=tuple(options.reference),
        reference_masks=tuple(options.reference_mask),
        folder=None if request is None else request.parent,
    )
    models = Models(settings, device=options.device)
    judges = models.judges()
    ids = options.metrics.split(",") if options.metrics else default_ids(judges.store)
    scores = kinds.evaluate(
        item,
        ids,
        judges,
        library=Library(settings.motion_folders(options.model)),
        limits=settings.limits,
        mark_at=models.mark_at(options.model),
        on_progress=None if options.json else _show,
    )
    return _results(scores, options.out, quiet=options.json)


def _show(progress: ScoreProgress) -> bool:
    sys.stderr.write(f"{progress.done}/{progress.total}  {progress.item}  {progress.metric}\n")
    return True


def _results(scores: Scores, out: Path | None, *, quiet: bool) -> dict[str, Any]:
    report = scores.report
    if not quiet:
        sys.stdout.write(report.to_markdown())
    result = report.to_json()
    if out is not None:
        written = kinds.write_scores(report, out)
        result |= {ending: str(out / name) for ending, name in written.items()}
    return result


def _add_video_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``evaluate video``."""
    parser.add_argument("video", type=Path, metavar="VIDEO")
    parser.add_argument("--request", type=Path, metavar="REQUEST.json", help="or a recipe")
    parser.add_argument(
        "--reference",
        type=Path,
        action="append",
        default=[],
        metavar="CLIP",
        help="one for each object, in order; default: the library's clips of its motions",
    )
    parser.add_argument(
        "--reference-mask",
        type=Path,
        action="append",
        default=[],
        metavar="MASK.png",
        help="of each reference's first frame; default: one click on what moves",
    )
    parser.add_argument("--method", help="its name in the table; default: the request's own")
    parser.add_argument("--metrics", help=f"with commas between: {', '.join(METRICS)}")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for report.csv, .md and .tex")
    parser.add_argument("--json", action="store_true", help="only the JSON, no table")
    parser.add_argument("--model", help="the model whose motions and segmenter are used")
    parser.add_argument("--device", help="cpu, cuda … for networks (default: cpu)")


def evaluate_benchmark(options: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """Methods and ablations on scenes with ground truth. Standard error tells the progress."""
    from motion_app.cli.evaluate import run_benchmark

    return run_benchmark(options, settings)


def add_benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``evaluate benchmark``."""
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark"), metavar="DIR")
    parser.add_argument(
        "--split",
        choices=("held-out", "tuning"),
        default="held-out",
        help="scenes that nothing was chosen on, or those that settings were chosen on",
    )
    parser.add_argument(
        "--cases", default="1:20,2:40,3:20", help="objects:scenes (default: 1:20,2:40,3:20)"
    )
    parser.add_argument(
        "--methods", help=f"default: those that the model has, of {','.join(METHODS)}"
    )
    parser.add_argument(
        "--without",
        help='ablations of fleximmt, "" for none (default: m2x,t2x,m2v,t2m,infer_mask,rmpm)',
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--motions",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="one more folder of the library",
    )
    parser.add_argument(
        "--unmasked",
        type=Path,
        metavar="DIR",
        help="the same motions learned without masks, as concat learns them",
    )
    parser.add_argument(
        "--learn",
        action="store_true",
        help="what methods need and no library holds is learned first: the whole table at once",
    )
    parser.add_argument(
        "--reduced",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="the same motions learned by SynMotion with less, as the row synmotion: NAME",
    )
    parser.add_argument(
        "--movements", help="what drawn scenes show, with commas between (default: all there are)"
    )
    parser.add_argument(
        "--external",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="another method's videos, one file for each case id",
    )
    parser.add_argument(
        "--stock",
        action="append",
        default=[],
        metavar="MODEL",
        help="a Wan or HunyuanVideo model as a row: folder or hub id; each process loads it",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="the authors' benchmark instead of drawn scenes"
    )
    parser.add_argument(
        "--strata",
        default=",".join(STRATA),
        help=f"kinds of scenes run apart, or none (default: all, {','.join(STRATA)})",
    )
    parser.add_argument("--strata-cases", type=int, default=12, help="scenes of each kind")
    parser.add_argument(
        "--rmpm-cases", type=int, default=20, help="scenes on which RMPM's rules are compared"
    )
    parser.add_argument(
        "--study", type=int, default=0, metavar="SCENES", help="write so many as items of a study"
    )
    parser.add_argument("--steps", type=int, help="of denoising (default: the checkpoint's)")
    parser.add_argument("--training-steps", type=int, help="of motions learned for one")
    parser.add_argument("--model", help="folder or hub id of a CogVideoX image-to-video model")
    parser.add_argument("--device", help="cpu, cuda … (default: a GPU where there is one)")


def run_benchmark(options: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """Methods × ablations × scenes into ``options.out``; run again, it makes what is missing."""
    from motion_app.benchmark.campaign import run_campaign
    from motion_app.benchmark.outcome import seconds_by_row
    from motion_app.benchmark.report import write_report

    campaign = build_campaign(options, settings)
    Models(settings, device=options.device).check()
    started = time.monotonic()

    def show(done: int, total: int, what: str) -> None:
        sys.stderr.write(f"{time.monotonic() - started:7.0f} s  {done}/{total}  {what}\n")

    outcome = run_campaign(campaign, show)
    files = write_report(outcome, campaign.out)
    items = _study_items(outcome, campaign, options.study) if options.study else {}
    return items | {
        "report": files["report.md"],
        "files": files,
        "scenes": {suite.name: len(suite.cases) for suite in outcome.suites},
        "videos": len(outcome.videos),
        "not_measured": len(outcome.gaps),
        "seconds_a_video": seconds_by_row(outcome),
        "seconds": round(time.monotonic() - started, 1),
    }


def _study_items(outcome: Outcome, campaign: Campaign, scenes: int) -> dict[str, Any]:
    """The folder that ``study create`` takes, and how many scenes are in it."""
    from motion_app.benchmark.exchange import write_study_items
    from motion_app.models.checkpoint import Checkpoint
    from motion_app.study.sources import STUDY_ITEMS

    folder, fps = campaign.out / STUDY_ITEMS, Checkpoint.find_configs(campaign.model).geometry.fps
    count = write_study_items(outcome, folder, scenes, fps=fps, external=campaign.external)
    return {"study_items": str(folder), "study_scenes": count}


def build_campaign(options: argparse.Namespace, settings: Settings) -> Campaign:
    """The options as a campaign. RequestError for what cannot be run."""
    from motion_app.benchmark.campaign import Campaign

    for name in ("unmasked", "data"):
        path = getattr(options, name)
        if path is not None and not path.is_dir():
            raise RequestError(f"the folder {path} of --{name} does not exist; check the path")
    if options.study < 0:
        raise RequestError(f"--study is {options.study}; it is a number of scenes")
    for name in ("processes", "steps", "training_steps"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise RequestError(f"{name} is {getattr(options, name)}; at least 1 is needed")
    if options.movements and options.data is not None:
        raise RequestError("--movements chooses what drawn scenes show; leave it out with --data")
    if options.learn and options.data is not None:
        raise RequestError("--learn learns the motions of drawn scenes; leave it out with --data")
    model = options.model or settings.model
    reduced = [parse_folder(text, example=REDUCED_EXAMPLE) for text in options.reduced]
    checkpoint = Checkpoint.find_configs(model)
    methods = _own_methods(checkpoint) if options.methods is None else parse_names(options.methods)
    without = DEFAULT_WITHOUT if options.without is None else parse_names(options.without)
    variants = choose_variants(
        methods,
        without,
        unmasked=options.unmasked is not None,
        learn=options.learn,
        reduced=[name for name, _ in reduced],
        stock=[stock_row(source, settings) for source in options.stock],
        usual=checkpoint.ways[0],
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
        learn=options.learn,
    )


def stock_row(source: str, settings: Settings) -> Variant:
    """The row of a model of others, which says what it makes. CheckpointError."""
    files = StockFiles.find(source, among=settings.stock_models)
    own = files.model
    note = f"caption; {own.frames} frames at {own.fps:g}, resampled"
    return Variant(stock_name(files.name), STOCK_METHOD, stock=files.name, note=note)


def _own_methods(checkpoint: Checkpoint) -> tuple[str, ...]:
    """All methods that the model has, but for that by which its own motions come of their clips:
    they are what "fleximmt" is measured with."""
    there = methods_there(METHODS, encoder=checkpoint.has_encoder)
    return tuple(name for name in there if name == WAYS[0] or name != checkpoint.ways[0])


def _check_rows(names: Sequence[str]) -> None:
    """RequestError where two methods would share a row of the tables."""
    from motion_app.benchmark.outcome import STILL, TRUTH

    names = [*names, STILL, TRUTH]
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


def add_commands(actions: Any) -> None:
    """``evaluate …`` with its options."""
    scored = add_group(actions, "evaluate", "how good videos are, whoever made them")
    video = add_command(scored, "video", evaluate_video, "score one video")
    _add_video_arguments(video)
    benchmark = add_command(
        scored,
        "benchmark",
        evaluate_benchmark,
        "compare methods and ablations on scenes with ground truth",
    )
    add_benchmark_arguments(benchmark)
