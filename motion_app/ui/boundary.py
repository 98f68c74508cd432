"""The one place where exceptions become what the browser shows."""

from __future__ import annotations

import functools
import html
import inspect
import logging
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from motion_app.errors import MotionAppError

logger = logging.getLogger(__name__)

MOST_TOLD = 1000  # characters of a message: it may quote what a stranger wrote


def in_one_line(error: Exception) -> str:
    """The message without line breaks, cut off where it is very long."""
    line = " ".join(str(error).split())
    return line if len(line) <= MOST_TOLD else line[: MOST_TOLD - 1] + "…"


def shown_error(error: Exception) -> gr.Error:
    """The toast for an exception: a MotionAppError's own line, or one that names where the log has
    more. gradio reads messages as HTML, and they may quote what a stranger wrote."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, MotionAppError):
        line = in_one_line(error)
        plain_word = line.split(" ")[0].isalpha()  # a file's name keeps its letters
        sentence = line[:1].upper() + line[1:] if plain_word else line
        return gr.Error(html.escape(sentence), title="That did not work", print_exception=False)
    mark = secrets.token_hex(4)
    logger.error("unexpected error %s", mark, exc_info=error)
    return gr.Error(
        f"Something went wrong on the server; its log says what, under {mark}. "
        "Your inputs are kept: try again.",
        title="Unexpected error",
        print_exception=False,
    )


def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """``handler``, a function or a generator, with its exceptions turned into toasts."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def generate(*arguments: Any) -> Iterator[Any]:
            try:
                yield from handler(*arguments)
            except Exception as error:
                raise shown_error(error) from error

        return generate

    @functools.wraps(handler)
    def answer(*arguments: Any) -> Any:
        try:
            return handler(*arguments)
        except Exception as error:
            raise shown_error(error) from error

    return answer


def listen(event: Callable[..., Any], handler: Callable[..., Any], **options: Any) -> Any:
    """Bind a guarded handler to an event. Public endpoints are those with an ``api_name``.

    gradio's own progress overlays are off: they cover what a person works on, and the page has its
    own words for what is going on.
    """
    if "api_name" not in options:
        options["api_visibility"] = "private"
    return event(guarded(handler), **{"show_progress": "hidden", **options})
