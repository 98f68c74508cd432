"""One run of one job, whatever comes of it: the line goes on."""

from __future__ import annotations

import logging
import secrets
from typing import Any

from motion_app.errors import GenerationCancelled, MotionAppError
from motion_app.jobs.work import Runner, Work

logger = logging.getLogger(__name__)

INTERRUPTED = "the program was stopped while this was being made; nothing that you chose is lost"
OUT_OF_MEMORY = (
    "the device ran out of memory; wait until nothing else uses it, or ask for fewer objects or a "
    "smaller checkpoint"
)


def attempt(runner: Runner, work: Work) -> dict[str, Any]:
    """Let ``runner`` do the job; returns how it ended, as changes of its row. Raises nothing."""
    try:
        return {"state": "done", "outcome": runner.run(work)}
    except GenerationCancelled as stopped:
        interrupted = work.ending == "interrupted"
        return {
            "state": work.ending,
            "message": INTERRUPTED if interrupted else one_line(stopped),
        }
    except MotionAppError as error:
        return {"state": "failed", "message": one_line(error)}
    except BaseException as error:  # also what would end a thread: the others' jobs wait
        if _is_out_of_memory(error):
            logger.error("job %s ran out of memory", work.row.id, exc_info=error)
            return {"state": "failed", "message": OUT_OF_MEMORY}
        mark = secrets.token_hex(4)
        logger.error("job %s failed, %s", work.row.id, mark, exc_info=error)
        message = f"something went wrong on the server; its log says what, under {mark}"
        return {"state": "failed", "message": message}


def _is_out_of_memory(error: BaseException) -> bool:
    """Python's own, PyTorch's for a GPU (by name: this runs without torch) and, which is a plain
    RuntimeError, that of its allocator for the CPU."""
    named = type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or named or "DefaultCPUAllocator" in str(error)


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())
