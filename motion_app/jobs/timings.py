"""How long jobs take here, by what was measured on those before: never a guess."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from motion_app.text_files import write_whole

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobSize:
    """What a job's time depends on: how many ``steps`` of how many ``objects``, by which
    ``method``, "" where there is no choice."""

    steps: int
    objects: int
    method: str = ""


@dataclass(frozen=True)
class JobPart:
    """One part of a job: the ``kind`` of job it would be alone, by which its time is known, its
    ``size``, and in its ``title`` what it makes, "" where it is all of the job."""

    kind: str
    size: JobSize
    title: str = ""


@dataclass(frozen=True)
class Measurement:
    """How long a finished job took: ``seconds`` in all, ``step_seconds`` of them per step, and
    ``tail_seconds`` after the last step: decoding and saving."""

    seconds: float
    steps: int
    objects: int
    step_seconds: float
    tail_seconds: float = 0.0
    method: str = ""

    @property
    def rest_seconds(self) -> float:
        """Before the first step and after the last: reading the inputs, decoding."""
        return max(0.0, self.seconds - self.steps * self.step_seconds)

    def seconds_for(self, steps: int) -> float:
        """What a job of so many steps would take."""
        return self.rest_seconds + steps * self.step_seconds


class Timings:
    """The last measurement for each kind and size. Any thread may ask.

    ``file``: where they outlast the program, None for nowhere. ``of``: in words, what they depend
    on beside a job itself, the model and how it is run; those of anything else are let go.
    """

    def __init__(self, file: Path | None = None, *, of: str = "") -> None:
        self._lock = threading.Lock()
        self._file, self._of = file, of
        self._measured: dict[tuple[str, JobSize], Measurement] = {}
        for kind, measured in self._read():
            self._add(kind, measured)

    def remember(self, kind: str, measured: Measurement) -> None:
        with self._lock:
            self._add(kind, measured)
            self._write()

    def _add(self, kind: str, measured: Measurement) -> None:
        key = (kind, JobSize(measured.steps, measured.objects, measured.method))
        self._measured.pop(key, None)  # so that the newest is the last
        self._measured[key] = measured

    def _read(self) -> list[tuple[str, Measurement]]:
        """What an earlier run of the program measured of the same; nothing where that is not to be
        had, as it is measured again with the next job."""
        if self._file is None:
            return []
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            if kept["of"] != self._of:
                return []
            return [(entry.pop("kind"), Measurement(**entry)) for entry in kept["measured"]]
        except OSError:  # none yet; why a folder cannot be used is told by who claims it
            return []
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("%s cannot be read: %s", self._file.name, error)
            return []

    def _write(self) -> None:
        if self._file is None:
            return
        measured = [{"kind": key[0], **asdict(found)} for key, found in self._measured.items()]
        text = json.dumps({"of": self._of, "measured": measured}, indent=1)
        try:
            write_whole(self._file, lambda part: part.write_text(text + "\n", encoding="utf-8"))
        except OSError as error:  # a full disk: what was measured holds until the program ends
            logger.warning("%s cannot be written: %s", self._file.name, error.strerror)

    def last(self, kind: str) -> Measurement | None:
        """Of the job of that kind that ended last; None before the first."""
        return self._newest(lambda key: key[0] == kind)

    def nearest(self, kind: str, size: JobSize) -> Measurement | None:
        """Of a job of that kind and size, else of that kind with as many objects by that method,
        else None: more objects or another method make a step longer, so others would mislead."""
        with self._lock:
            exact = self._measured.get((kind, size))
        if exact is not None:
            return exact
        alike = (size.objects, size.method)
        return self._newest(lambda key: key[0] == kind and (key[1].objects, key[1].method) == alike)

    def _newest(self, fits: Callable[[tuple[str, JobSize]], bool]) -> Measurement | None:
        with self._lock:
            return next(
                (found for key, found in reversed(self._measured.items()) if fits(key)), None
            )
