"""What a person may do wrong, as exceptions whose message says what came, what was expected and
what to do. Every message is one line and safe to show in a browser. And what is said of a mistake
of the program's own: nothing but where its log has more."""

from __future__ import annotations

import logging
import secrets


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


def server_fault(
    logger: logging.Logger, error: BaseException, what: str = "unexpected error"
) -> str:
    """The line for an ``error`` that is nobody's but the program's, which is logged."""
    mark = log_under_mark(logger, error, what)
    return f"something went wrong on the server; its log says what, under {mark}"
