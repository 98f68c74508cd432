"""Pieces of work for the tests of the benchmark's workers; importable in another process."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from motion_app.errors import RequestError
from motion_app.jobs.kinds import WorkerConfig
from motion_app.jobs.workers import Workers, run_task
from motion_app.settings import Settings


def load(config: WorkerConfig) -> int:
    """What a task is done with: the worker's own process id."""
    return os.getpid()


@dataclass(frozen=True)
class Square:
    number: int

    def run(self, own: int) -> tuple[int, int]:
        if self.number < 0:
            raise RequestError(f"{self.number} is below 0")
        return self.number**2, own


@dataclass(frozen=True)
class Linger:
    """Leaves its process id in ``folder`` and takes its time."""

    folder: Path
    number: int

    def run(self, own: int) -> int:
        (self.folder / str(own)).touch()
        time.sleep(0.5)
        return own


if __name__ == "__main__":
    place = Path(sys.argv[1])
    with Workers([WorkerConfig(Settings())] * 2, load, run_task) as workers:
        list(workers.map([Linger(place, number) for number in range(200)]))
