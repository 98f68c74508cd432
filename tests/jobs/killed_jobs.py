"""Run as a program: one after the other, in processes forked from one loaded engine, jobs begin and
are killed while they learn. Prints their ids."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from test_job_runners import learn, line_of
from test_learning_first import hand_in, lesson

from motion_app.engine.pipeline import MotionEngine
from motion_app.jobs.queue import JobQueue


def die_over(begin: Callable[[JobQueue], str], queue: JobQueue, *, part: int) -> None:
    """Begin a job and die after a few steps of that part of it."""
    queue.start()
    job = begin(queue)
    sys.stdout.write(job + "\n")
    sys.stdout.flush()
    for progress in queue.watch(job, every=0.01):
        if progress.part == part and progress.step >= 5:
            os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(progress.row.message or "it ended first")


def main() -> None:
    checkpoint, clip, *folders = map(Path, sys.argv[1:])
    engine = MotionEngine.load(checkpoint, device="cpu")
    jobs: tuple[tuple[int, Callable[[JobQueue], str]], ...] = (
        (0, lambda queue: learn(queue, clip, steps=16)),
        (1, lambda queue: hand_in(queue, clip, lesson("hop"), lesson("leap", steps=16))),
    )
    for folder, (part, begin) in zip(folders, jobs, strict=True):
        child = os.fork()  # nothing was learned here yet: autograd refuses to in a fork then
        if child == 0:
            try:
                die_over(begin, line_of(engine, folder), part=part)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
            sys.exit(1)


if __name__ == "__main__":
    main()
