"""Which folder a running program may call its own: two never work on one line of jobs."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from typing import IO

from motion_app.errors import MotionAppError

logger = logging.getLogger(__name__)

LOCK_NAME = "queue.lock"
MOST_QUEUES = 64


class ClaimedFolder:
    """``path`` belongs to this process until ``release``, or until the process is gone: the claim
    is the kernel's lock on a file, so a killed program leaves nothing behind."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self._lock = lock

    def release(self) -> None:
        self._lock.close()


def claim_folder(outputs: Path | str) -> ClaimedFolder:
    """``outputs`` itself or, where another program works in it, the first free one of
    ``outputs/queue-2``, ``outputs/queue-3``, … A second program on another port thus has its own
    jobs, and finds them again when it is started as the second the next time.

    Raises MotionAppError where no folder can be made.
    """
    outputs = Path(outputs)
    for number in range(1, MOST_QUEUES + 1):
        path = outputs if number == 1 else outputs / f"queue-{number}"
        claimed = _claim(path)
        if claimed is not None:
            if number > 1:
                logger.info("another program works in %s; this one uses %s", outputs, path)
            return claimed
    raise MotionAppError(
        f"{MOST_QUEUES} programs work in {outputs} already; stop one, or choose another folder "
        "with MOTION_APP_OUTPUTS"
    )


def _claim(path: Path) -> ClaimedFolder | None:
    """None where another program has it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / LOCK_NAME).open("a+")
    except OSError as error:
        raise MotionAppError(
            f"the folder {path} cannot be used: {error.strerror}; choose another with "
            "MOTION_APP_OUTPUTS"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()}\n")  # for a person who looks who it is
    lock.flush()
    return ClaimedFolder(path, lock)
