"""Pieces of work for the tests of the benchmark's workers; importable in another process."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from motion_app.errors import RequestError
from motion_app.jobs.workers import BenchSource, Crew
from motion_app.settings import Settings


def load(source: BenchSource) -> int:
    """A bench that is the worker's own process id."""
    return os.getpid()


@dataclass(frozen=True)
class Square:
    number: int

    def run(self, bench: int) -> tuple[int, int]:
        if self.number < 0:
            raise RequestError(f"{self.number} is below 0")
        return self.number**2, bench


@dataclass(frozen=True)
class Linger:
    """Leaves its process id in ``folder`` and takes its time."""

    folder: Path
    number: int

    def run(self, bench: int) -> int:
        (self.folder / str(bench)).touch()
        time.sleep(0.5)
        return bench


if __name__ == "__main__":
    place = Path(sys.argv[1])
    with Crew(BenchSource("", Settings()), load, processes=2) as crew:
        list(crew.run([Linger(place, number) for number in range(200)]))
