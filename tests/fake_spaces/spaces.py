"""What a hosted Space's package ``spaces`` does to a program, without a GPU: a decorated function
runs in a process forked at its first call, where it meets the arguments and sends its results
through pickle; closing a generator stops it after its current item; other errors than gradio's own
lose their text. What it was asked is written to the file FAKE_SPACES_LOG, one JSON a line.
"""

from __future__ import annotations

import functools
import inspect
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

assert "torch" not in sys.modules, "spaces must come before torch"

FORKING = multiprocessing.get_context("fork")


def GPU(task: Callable | None = None, *, duration: Any = None, size: str | None = None) -> Any:
    """The decorator, with and without options."""
    if task is None:
        return functools.partial(GPU, duration=duration, size=size)
    note(decorated=task.__name__, duration="callable" if callable(duration) else duration)
    assert inspect.isgeneratorfunction(task), "the app lends a GPU to one generator function"
    return Lent(task, duration)


def gradio_auto_wrap(task: Any) -> Any:
    """gradio gives every handler to it."""
    return task


def note(**entry: Any) -> None:
    with open(os.environ["FAKE_SPACES_LOG"], "a") as log:
        log.write(json.dumps({**entry, "pid": os.getpid()}) + "\n")


class Lent:
    """A decorated generator function and its worker, which is kept for the next call."""

    def __init__(self, task: Callable[..., Iterator[Any]], duration: Any) -> None:
        self.task, self.duration = task, duration
        self.worker: multiprocessing.Process | None = None
        self.lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with self.lock:
            seconds = self.duration(*args, **kwargs)
            note(asked=seconds)
            self._check(seconds)
            if self.worker is None:
                self.questions, self.answers = FORKING.SimpleQueue(), FORKING.SimpleQueue()
                self.stop = FORKING.Event()
                self.worker = FORKING.Process(target=self._serve, daemon=True)
                self.worker.start()
            self.questions.put((args, kwargs))
            yield from self._told()

    def _check(self, seconds: float) -> None:
        """A visitor's quota, where the test sets one."""
        import gradio as gr

        most = float(os.environ.get("FAKE_SPACES_MOST", "inf"))
        if seconds > most:
            raise gr.Error(
                f"The requested GPU duration ({seconds}s) is larger than the maximum allowed",
                title="ZeroGPU illegal duration",
                print_exception=False,
            )

    def _told(self) -> Iterator[Any]:
        import gradio as gr

        while True:
            kind, value = self.answers.get()
            if kind == "end":
                return
            if kind == "error":
                raise gr.Error(value, title="ZeroGPU worker error", print_exception=False)
            try:
                yield value
            except GeneratorExit:
                self.stop.set()
                while self.answers.get()[0] != "end":
                    continue
                raise

    def _serve(self) -> None:
        while True:
            args, kwargs = self.questions.get()
            self.stop.clear()
            thread = threading.Thread(target=self._iterate, args=(args, kwargs))
            thread.start()
            thread.join()
            self.answers.put(("end", None))

    def _iterate(self, args: Any, kwargs: Any) -> None:
        made = self.task(*args, **kwargs)
        while True:
            try:
                value = next(made)
            except StopIteration:
                return
            except Exception as error:
                self.answers.put(("error", type(error).__name__))
                return
            if self.stop.is_set():
                made.close()
                return
            self.answers.put(("value", value))
