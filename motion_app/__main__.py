"""``python -m motion_app``: the command line. JSON in, JSON out, the same code path as the page.

The last line of standard output is one JSON object. A user's mistake is exit code 2 and one line on
standard error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Sequence

from motion_app.cli.parser import Parser, Result
from motion_app.errors import MotionAppError

# Whose warnings are for the person: what had to be done to a picture or a clip that came.
TOLD = ("motion_app.media.files", "motion_app.training.trainer")
# The files of commands, in the order of the list of help.
FILES = ("videos", "transfer", "motions", "pocket", "evaluate", "stock", "batch", "study", "speed")
# First words whose file alone is read: of their commands some go where little is installed.
ALONE = ("pocket", "speed")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a user's mistake, 130 for Ctrl-C, or the one
    that its result names."""
    said = sys.argv[1:] if argv is None else argv
    parser = build_parser(said)
    try:
        options, rest = parser.parse_known_args(said)
        if "takes_rest" in options:
            options.rest = rest
        elif rest:
            parser.error(f"unknown arguments {' '.join(rest)}")
        set_logging(verbose=options.verbose)
        result = options.run(options) if "bare" in options else _with_settings(options)
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


def _with_settings(options: argparse.Namespace) -> Result:
    from motion_app.settings import load_settings

    return options.run(options, load_settings())


def build_parser(said: Sequence[str] = ()) -> Parser:
    """Every command, as its own file declares it; where the first word ``said`` is one of
    ``ALONE``, those of its file only."""
    parser = Parser(prog="motion_app", description="Multi-object motion transfer.")
    parser.add_argument("--verbose", action="store_true", help="log what happens")
    actions = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    first = next((word for word in said if not word.startswith("-")), "")
    for name in (first,) if first in ALONE else FILES:
        importlib.import_module(f"motion_app.cli.{name}").add_commands(actions)
    return parser


if __name__ == "__main__":
    sys.exit(main())
