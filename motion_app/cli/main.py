"""The command line: JSON in, JSON out, the same code path as the page.

The last line of standard output is one JSON object. A user's mistake is exit code 2 and one line on
standard error.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from motion_app.cli import batch, motions, videos
from motion_app.cli import evaluate as evaluation_commands
from motion_app.cli import study as study_commands
from motion_app.errors import MotionAppError, RequestError
from motion_app.methods import ABLATIONS, METHODS, PACK_ABLATIONS
from motion_app.scene import Box, Click
from motion_app.settings import Settings, load_settings
from motion_app.training.inputs import METHODS as TRAINING_METHODS

# Whose warnings are for the person: what had to be done to a picture or a clip that came.
TOLD = ("motion_app.media.files", "motion_app.training.trainer")


class _Parser(argparse.ArgumentParser):
    """argparse whose complaint is one line, as every other mistake's."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a user's mistake, 130 for Ctrl-C, or the one
    that its result names."""
    parser = _parser()
    try:
        options, rest = parser.parse_known_args(argv)
        if options.run is videos.train_pocket:
            options.rest = rest
        elif rest:
            parser.error(f"unknown arguments {' '.join(rest)}")
        set_logging(verbose=options.verbose)
        result = options.run(options, load_settings())
    except MotionAppError as error:
        print(" ".join(f"error: {error}".split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: stopped", file=sys.stderr)
        return 130
    print(json.dumps(result, ensure_ascii=False))
    return result.get("exit_code", 0)


def set_logging(*, verbose: bool) -> None:
    """Errors on standard error, and what a person should know of the files that came."""
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR)
    for told in TOLD:
        logging.getLogger(told).setLevel(logging.INFO if verbose else logging.WARNING)


def _parser() -> _Parser:
    parser = _Parser(prog="motion_app", description="Multi-object motion transfer.")
    parser.add_argument("--verbose", action="store_true", help="log what happens")
    actions = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    for add in (
        *(_add_generate, _add_verify, _add_segment, _add_motions),
        *(_add_training, _add_pocket, _add_evaluation, _add_batch, _add_study, _add_bench),
    ):
        add(actions)
    return parser


def _command(
    actions: Any,
    name: str,
    run: Callable[[argparse.Namespace, Settings], dict[str, Any]],
    about: str,
    **options: Any,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=about, description=about, **options)
    parser.set_defaults(run=run)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="folder or hub id of a CogVideoX image-to-video model")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: a GPU where there is one)")


def _add_generate(actions: Any) -> None:
    parser = _command(actions, "generate", videos.generate, "make a video from a request")
    parser.add_argument("request", type=Path, metavar="REQUEST.json", help="a request or a recipe")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--steps", type=int, help="of denoising, 1 to 1000")
    parser.add_argument("--seed", type=int, help="0 or more")
    parts = ", ".join((*ABLATIONS, *PACK_ABLATIONS))
    parser.add_argument("--without", help=f"ablations, with commas between: {parts}")
    parser.add_argument("--method", help="one of " + ", ".join(METHODS))
    _add_model(parser)


def _add_verify(actions: Any) -> None:
    parser = _command(
        actions, "verify", videos.verify, "look for the marks of a video that was generated here"
    )
    parser.add_argument("video", type=Path, metavar="VIDEO")


def _add_segment(actions: Any) -> None:
    parser = _command(actions, "segment", videos.segment, "mask one object by clicks")
    parser.add_argument("image", type=Path)
    parser.add_argument(
        "--point",
        action="append",
        default=[],
        type=_click,
        metavar="x,y,1",
        help="in pixels of the picture; 1 on the object, 0 beside it",
    )
    parser.add_argument(
        "--box",
        type=_box,
        metavar="x0,y0,x1,y1",
        help="around the object, in pixels of the picture",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="MASK.png")
    parser.add_argument("--segmenter", help="folder or hub id of a SAM-2 model")
    _add_model(parser)


def _numbers(text: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise argparse.ArgumentTypeError(f'"{text}" is not {count} numbers with commas between')
    return numbers


def _click(text: str) -> Click:
    x, y, label = _numbers(text, 3)
    if label not in (0, 1):
        raise argparse.ArgumentTypeError(f'"{text}" must end in 1 (object) or 0 (not the object)')
    return Click(x, y, positive=label == 1)


def _box(text: str) -> Box:
    return Box(*_numbers(text, 4))


def _shares(text: str, count: int) -> tuple[float, ...]:
    return tuple(_numbers(text, count))


def _add_motions(actions: Any) -> None:
    parser = actions.add_parser("motions", help="the library of motions")
    listed = parser.add_subparsers(dest="action", required=True, parser_class=_Parser)
    listing = _command(listed, "list", motions.list_motions, "list the motions there are")
    listing.add_argument("--model", help="the model whose own motions are listed too")
    deleting = _command(listed, "delete", motions.delete_motion, "move a motion to the trash")
    deleting.add_argument("name")
    restoring = _command(listed, "restore", motions.restore_motion, "bring a deleted one back")
    restoring.add_argument("token", help="what delete answered")
    exporting = _command(
        listed, "export", motions.export_motion, "one file with the motion and its preview"
    )
    exporting.add_argument("name")
    exporting.add_argument("--out", type=Path, required=True, metavar="DIR")
    exporting.add_argument("--model", help="the model whose own motions are meant too")
    importing = _command(listed, "import", motions.import_exported, "bring in an exported motion")
    importing.add_argument("file", type=Path, metavar="FILE.safetensors")
    importing.add_argument("--name", help="another name, where its own is taken")
    _add_model(importing)
    parser = _command(
        actions, "import-motion", motions.import_motion, "convert a published motion file"
    )
    parser.add_argument("file", type=Path, metavar="pytorch_model.pt")
    parser.add_argument("--name", required=True)
    parser.add_argument("--phrase", required=True, help="its motion words, as in its captions")
    parser.add_argument("--noun", default="", help="what moves in its reference clip")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    _add_model(parser)


def _add_training(actions: Any) -> None:
    parser = _command(actions, "train-motion", motions.train_motion, "learn a motion from clips")
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument("--name", required=True)
    parser.add_argument("--phrase", required=True, help='the motion in words: "walks on snow"')
    parser.add_argument("--noun", required=True, help="what moves in the clips: tiger")
    parser.add_argument("--steps", type=int, help="of training, 1 to 20000")
    parser.add_argument(
        "--method",
        choices=tuple(TRAINING_METHODS),
        default="fleximmt",
        help="concat: without masks, for comparison; synmotion: embeddings and an adapter",
    )
    parser.add_argument(
        "--tokens",
        type=Path,
        metavar="FILE.safetensors",
        help="synmotion: motion tokens to keep in the same file, for the method both",
    )
    parser.add_argument(
        "--sample-latents",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="draw the clips' latents anew at every step, or learn from their means",
    )
    parser.add_argument("--alpha", type=float, help="synmotion: share of steps on the clips")
    parser.add_argument("--rank", type=int, help="synmotion: of the adapter")
    parser.add_argument("--parts", help="synmotion: what is learned, of mot,sub,refiner,lora")
    parser.add_argument("--encoding", help="synmotion: phrases read jointly (joint) or apart")
    parser.add_argument(
        "--spv", type=Path, metavar="DIR", help="synmotion: subject prior videos (make-spv)"
    )
    parser.add_argument("--start", type=float, default=0.0, help="seconds; of every clip")
    parser.add_argument("--stop", type=float, help="seconds; of every clip")
    parser.add_argument(
        "--box",
        type=functools.partial(_shares, count=4),
        metavar="x0,y0,x1,y1",
        help="the part of every clip that counts, as shares of its width and height, 0 to 1",
    )
    parser.add_argument(
        "--mover",
        type=functools.partial(_shares, count=2),
        metavar="x,y",
        help="a point on the moving thing in the first frame that counts, as shares of the whole "
        "picture's width and height, 0 to 1; where several things move",
    )
    parser.add_argument(
        "--still", action="store_true", help="the motion is to stand still; nothing moves in a clip"
    )
    parser.add_argument(
        "--validate-every", type=int, metavar="STEPS", help="write a short video on the way"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    _add_model(parser)
    parser = _command(actions, "make-spv", motions.make_spv, "subject prior videos for SynMotion")
    parser.add_argument(
        "pictures", type=Path, nargs="+", metavar="PICTURE", help="named by subject: polar-bear.jpg"
    )
    parser.add_argument("--actions", help='with commas between: "walks,runs,sits down"')
    parser.add_argument("--steps", type=int, help="denoising steps of each clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    _add_model(parser)


def _add_pocket(actions: Any) -> None:
    parser = actions.add_parser("pocket", help="the small world: render it, train its model")
    pocket = parser.add_subparsers(dest="action", required=True, parser_class=_Parser)
    render = _command(pocket, "render", videos.render_pocket, "draw a clip with its ground truth")
    render.add_argument("--seed", type=int, required=True)
    render.add_argument("--objects", type=int, choices=(1, 2, 3))
    render.add_argument("--motions", help="one for each object, with commas between")
    render.add_argument("--out", type=Path, required=True, metavar="DIR")
    measure = _command(
        pocket, "measure", videos.measure_pocket, "the figures of the model card, and sheets"
    )
    measure.add_argument("--out", type=Path, required=True, metavar="DIR")
    measure.add_argument("--cases", type=int, default=40, help="two-object scenes")
    measure.add_argument("--processes", type=int, default=2)
    measure.add_argument("--unmasked", type=Path, help="the motions learned without masks")
    _add_model(measure)
    renew = _command(
        pocket, "results", videos.renew_results, "make the results that come with the app anew"
    )
    renew.add_argument("--out", type=Path, default=videos.RESULTS, metavar="DIR")
    _add_model(renew)
    # Its options are the trainer's own: asking it for them would import torch for every command.
    train = _command(
        pocket, "train", videos.train_pocket, "train the pocket checkpoint", add_help=False
    )
    train.set_defaults(parser=train)


def _add_evaluation(actions: Any) -> None:
    parser = actions.add_parser("evaluate", help="how good videos are, whoever made them")
    scored = parser.add_subparsers(dest="action", required=True, parser_class=_Parser)
    video = _command(scored, "video", evaluation_commands.evaluate_video, "score one video")
    evaluation_commands.add_arguments(video)
    benchmark = _command(
        scored,
        "benchmark",
        evaluation_commands.evaluate_benchmark,
        "compare methods and ablations on scenes with ground truth",
    )
    evaluation_commands.add_benchmark_arguments(benchmark)


def _add_batch(actions: Any) -> None:
    parser = _command(actions, "batch", batch.run, "make all that a manifest asks for")
    batch.add_arguments(parser)
    _add_model(parser)


def _add_study(actions: Any) -> None:
    parser = actions.add_parser("study", help="ask people which video is best")
    study = parser.add_subparsers(dest="action", required=True, parser_class=_Parser)
    study_commands.add_arguments(study, _command)


def _add_bench(actions: Any) -> None:
    parser = _command(actions, "bench", videos.bench, "measure speed on this machine")
    parser.add_argument(
        "what", nargs="?", choices=("attention", "generate", "train", "startup", "caches")
    )
    parser.add_argument("--json", action="store_true", help="only the JSON, no table")
    parser.add_argument(
        "--shape", help="generate: layers of this size on random weights: 5b, 1.5-5b, tiny"
    )
    parser.add_argument("--layers", type=int, default=1, help="how many layers of that size")
    parser.add_argument(
        "--motions",
        type=int,
        nargs="+",
        metavar="N",
        help="only these: 1 2 3 5 (2 with a dense mask)",
    )
    parser.add_argument("--dtype", help="float32 or bfloat16; default as the device computes")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each case")
    parser.add_argument(
        "--out",
        type=Path,
        help="a JSON file of the runs so far, which the same command goes on with",
    )
    _add_model(parser)
    parser = _command(
        actions, "memory", videos.memory, "what a model needs under each memory profile"
    )
    parser.add_argument("--free", type=float, metavar="GB", help="choose for a GPU with this free")
    _add_model(parser)
