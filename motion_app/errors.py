"""What a person may do wrong, as exceptions whose message says what came, what was expected and
what to do. Every message is one line and safe to show in a browser. And what is said of a mistake
of the program's own: nothing but where its log has more."""

from __future__ import annotations

import errno
import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

DISK_TROUBLE = {
    errno.ENOSPC: "the server's disk is full: delete something, or try again in a while",
    errno.EDQUOT: "the server's disk is full: delete something, or try again in a while",
    errno.EROFS: "the server's disk cannot be written just now",
    errno.EACCES: "the server may not write where it must",
}


class MotionAppError(Exception):
    """A mistake the user can repair. The command line prints it and exits with 2; the page shows
    it."""


class MediaError(MotionAppError):
    """An image, clip or mask that cannot be used."""


class RequestError(MotionAppError):
    """A request that is incomplete or contradicts itself."""


class MotionFileError(MotionAppError):
    """A motion file that is broken, or made for another base model."""


class CheckpointError(MotionAppError):
    """A base model that cannot be loaded or does not fit what was asked of it."""


class GenerationCancelled(MotionAppError):
    """The person asked to stop; nothing is wrong."""


def log_under_mark(
    logger: logging.Logger, error: BaseException, what: str = "unexpected error"
) -> str:
    """Log ``error`` whole, with ``what`` and a mark before it; the mark, by which a line for people
    names it: 8 hexadecimal digits."""
    mark = secrets.token_hex(4)
    logger.error("%s %s", what, mark, exc_info=error)
    return mark


def disk_trouble(error: BaseException) -> str | None:
    """What an error of the disk's, or one that was made of it, means to a person, without a path;
    None for any other."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in DISK_TROUBLE:
            return DISK_TROUBLE[cause.errno]
        cause = cause.__cause__
    return None


def server_fault(
    logger: logging.Logger, error: BaseException, what: str = "unexpected error"
) -> str:
    """The line for an ``error`` that is nobody's but the program's, which is logged."""
    mark = log_under_mark(logger, error, what)
    trouble = disk_trouble(error)
    if trouble is not None:
        return f"{trouble}; its log says where, under {mark}"
    return f"something went wrong on the server; its log says what, under {mark}"


def fault_in_words(fault: Mapping[str, Any], known: Sequence[str]) -> str:
    """One of pydantic's faults as a person reads it; ``known``: the keys there are. What lies in a
    list is counted from 1."""
    place = list(fault["loc"])
    key = next((part for part in reversed(place) if isinstance(part, str)), "request")
    owner = ""
    if len(place) > 1 and place[0] == "objects":
        owner = f" of object {int(place[1]) + 1}"
        key = key if len(place) > 2 else "entry"
    if fault["type"] == "extra_forbidden":
        return f'unknown key "{key}"{owner}; known: {", ".join(known)}'
    if fault["type"] == "missing":
        return f'"{key}"{owner} is missing'
    reason = fault["msg"].removeprefix("Value error, ")
    shown = repr(fault["input"])
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return f'"{key}"{owner} is {shown}: {reason[0].lower()}{reason[1:]}'


def other_base(what: str, base: str, loaded: str) -> MotionFileError:
    """The refusal of ``what`` was learned on the model with the fingerprint ``base`` ("": nobody
    knows) where another one is ``loaded``."""
    return MotionFileError(
        f"{what} was learned on the base model {base[:12] or '(unknown)'}, this is {loaded[:12]}; "
        "load that model, or learn the motion again on this one"
    )


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())
