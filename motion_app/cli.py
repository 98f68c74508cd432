"""The command line: JSON in, JSON out, the same code path as the page.

The last line of standard output is one JSON object. A user's mistake is exit code 2 and one line on
standard error.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from motion_app import commands
from motion_app.assignment import ABLATIONS, METHODS
from motion_app.errors import MotionAppError, RequestError
from motion_app.scene import Box, Click
from motion_app.settings import Settings, load_settings


class _Parser(argparse.ArgumentParser):
    """argparse whose complaint is one line, as every other mistake's."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a user's mistake, 130 for Ctrl-C."""
    parser = _parser()
    try:
        options, rest = parser.parse_known_args(argv)
        if options.run is commands.train_pocket:
            options.rest = rest
        elif rest:
            parser.error(f"unknown arguments {' '.join(rest)}")
        logging.basicConfig(level=logging.INFO if options.verbose else logging.ERROR)
        result = options.run(options, load_settings())
    except MotionAppError as error:
        print(" ".join(f"error: {error}".split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: stopped", file=sys.stderr)
        return 130
    print(json.dumps(result, ensure_ascii=False))
    return 0


def _parser() -> _Parser:
    parser = _Parser(prog="motion_app", description="Multi-object motion transfer.")
    parser.add_argument("--verbose", action="store_true", help="log what happens")
    actions = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    for add in (_add_generate, _add_segment, _add_motions, _add_training, _add_pocket, _add_bench):
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
    parser = _command(actions, "generate", commands.generate, "make a video from a request")
    parser.add_argument("request", type=Path, metavar="REQUEST.json", help="a request or a recipe")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--without", help=f"ablations, with commas between: {', '.join(ABLATIONS)}")
    parser.add_argument("--method", help="one of " + ", ".join(METHODS))
    _add_model(parser)


def _add_segment(actions: Any) -> None:
    parser = _command(actions, "segment", commands.segment, "mask one object by clicks")
    parser.add_argument("image", type=Path)
    parser.add_argument(
        "--point",
        action="append",
        default=[],
        type=_click,
        metavar="x,y,1",
        help="in pixels of the picture; 1 on the object, 0 beside it",
    )
    parser.add_argument("--box", type=_box, metavar="x0,y0,x1,y1")
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


def _add_motions(actions: Any) -> None:
    parser = actions.add_parser("motions", help="the library of motions")
    listed = parser.add_subparsers(dest="action", required=True, parser_class=_Parser)
    listing = _command(listed, "list", commands.list_motions, "list the motions there are")
    listing.add_argument("--model", help="the model whose own motions are listed too")
    parser = _command(
        actions, "import-motion", commands.import_motion, "convert a published motion file"
    )
    parser.add_argument("file", type=Path, metavar="pytorch_model.pt")
    parser.add_argument("--name", required=True)
    parser.add_argument("--phrase", required=True, help="its motion words, as in its captions")
    parser.add_argument("--noun", default="", help="what moves in its reference clip")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    _add_model(parser)


def _add_training(actions: Any) -> None:
    parser = _command(actions, "train-motion", commands.train_motion, "learn a motion from clips")
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument("--name", required=True)
    parser.add_argument("--phrase", required=True, help='the motion in words: "walks on snow"')
    parser.add_argument("--noun", required=True, help="what moves in the clips: tiger")
    parser.add_argument("--steps", type=int)
    parser.add_argument(
        "--method",
        choices=("fleximmt", "concat"),
        default="fleximmt",
        help="concat: without masks, for comparison",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    _add_model(parser)


def _add_pocket(actions: Any) -> None:
    parser = actions.add_parser("pocket", help="the small world: render it, train its model")
    pocket = parser.add_subparsers(dest="action", required=True, parser_class=_Parser)
    render = _command(pocket, "render", commands.render_pocket, "draw a clip with its ground truth")
    render.add_argument("--seed", type=int, required=True)
    render.add_argument("--objects", type=int, choices=(1, 2, 3))
    render.add_argument("--motions", help="one for each object, with commas between")
    render.add_argument("--out", type=Path, required=True, metavar="DIR")
    measure = _command(
        pocket, "measure", commands.measure_pocket, "the figures of the model card, and sheets"
    )
    measure.add_argument("--out", type=Path, required=True, metavar="DIR")
    measure.add_argument("--cases", type=int, default=40, help="two-object scenes")
    measure.add_argument("--processes", type=int, default=2)
    measure.add_argument("--unmasked", type=Path, help="the motions learned without masks")
    _add_model(measure)
    # Its options are the trainer's own: asking it for them would import torch for every command.
    train = _command(
        pocket, "train", commands.train_pocket, "train the pocket checkpoint", add_help=False
    )
    train.set_defaults(parser=train)


def _add_bench(actions: Any) -> None:
    parser = _command(actions, "bench", commands.bench, "measure speed on this machine")
    parser.add_argument("what", nargs="?", choices=("attention", "generate", "train", "startup"))
    parser.add_argument("--json", action="store_true", help="only the JSON, no table")
    parser.add_argument("--model", help="folder or hub id of a CogVideoX image-to-video model")
