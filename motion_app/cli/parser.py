"""What the files of commands share: how a command is declared, arguments that more than one takes,
and the models that a command asks for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from motion_app.errors import RequestError
from motion_app.methods import METHODS, STOCK_METHOD

if TYPE_CHECKING:
    from motion_app.jobs.models import Models
    from motion_app.scene import Box, Click
    from motion_app.settings import Settings

Result = dict[str, Any]
Run = Callable[..., Result]  # of the parsed options and, unless the command is bare, the settings


class Parser(argparse.ArgumentParser):
    """argparse whose complaint is one line, as every other mistake's."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}; see {self.prog} --help")


def add_command(
    actions: Any, name: str, run: Run, about: str, **options: Any
) -> argparse.ArgumentParser:
    """A command under ``actions`` (of ``add_subparsers``) that ``run`` does: it takes the parsed
    options and the settings, and gives the JSON that is printed last."""
    parser = actions.add_parser(name, help=about, description=about, **options)
    parser.set_defaults(run=run)
    return parser


def make_bare(parser: argparse.ArgumentParser) -> None:
    """The command's ``run`` takes the options alone: it goes where nothing is installed that reads
    settings."""
    parser.set_defaults(bare=True)


def add_group(actions: Any, name: str, about: str) -> Any:
    """A command that only has commands of its own; gives their ``add_subparsers``."""
    parser = actions.add_parser(name, help=about)
    return parser.add_subparsers(dest="action", required=True, parser_class=Parser)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Which model, on which device."""
    parser.add_argument("--model", help="folder or hub id of a CogVideoX model")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: a GPU where there is one)")


def add_method(parser: argparse.ArgumentParser) -> None:
    """How the video is made, and by a model of others."""
    parser.add_argument("--method", help="one of " + ", ".join(METHODS))
    parser.add_argument(
        "--stock",
        metavar="MODEL",
        help="folder or hub id of a Wan or HunyuanVideo model that makes it, told no motion",
    )


def method_of(options: argparse.Namespace) -> dict[str, str | None]:
    """The method and the model of others that were asked for, by their names in a request; {} for
    neither. One of them chooses both anew."""
    if options.stock is not None:
        return {"method": options.method or STOCK_METHOD, "stock": options.stock}
    return {} if options.method is None else {"method": options.method, "stock": None}


def numbers(text: str, count: int) -> list[float]:
    """``count`` finite numbers with commas between."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise argparse.ArgumentTypeError(f'"{text}" is not {count} numbers with commas between')
    return numbers


def click(text: str) -> Click:
    """``x,y,1`` or ``x,y,0``, in pixels."""
    from motion_app.scene import Click

    x, y, label = numbers(text, 3)
    if label not in (0, 1):
        raise argparse.ArgumentTypeError(f'"{text}" must end in 1 (object) or 0 (not the object)')
    return Click(x, y, positive=label == 1)


def box(text: str) -> Box:
    """``x0,y0,x1,y1`` in pixels."""
    from motion_app.scene import Box

    return Box(*numbers(text, 4))


def shares(text: str, count: int) -> tuple[float, ...]:
    return tuple(numbers(text, count))


def models_for(
    options: argparse.Namespace, settings: Settings, *, device: str | None = None
) -> Models:
    """The models of a command, on ``device``, else ``--device``, else the settings' own. A setting
    that cannot hold is told now; loading says nothing on standard error."""
    silence_loaders()  # some of them talk while they are imported

    from motion_app.jobs.models import Models

    models = Models(settings, device=device or options.device)
    models.check()
    return models


def silence_loaders() -> None:
    """Standard error is for our own progress and the one line of a mistake."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()


def show_progress(step: int, steps: int, news: str) -> None:
    """One line on standard error, written over at every step."""
    print(f"\rstep {step}/{steps}  {news}", end="\n" if step == steps else "", file=sys.stderr)
