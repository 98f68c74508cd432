"""Jobs that are done inside the call that follows them, where the device is lent to each call.

On ZeroGPU a call brings its visitor's own share of the GPU with it, and gives it back when it ends:
there is no line of ours, and no thread of ours that could work on after the visitor has left.
No gradio here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextvars import copy_context

from motion_app.errors import RequestError
from motion_app.jobs.progress import JobProgress, Work, attempt
from motion_app.jobs.queue import JobQueue

LEFT_ALONE_SECONDS = 120.0  # nobody waits before following: who has not come by then has left


class CallQueue(JobQueue):
    """A JobQueue without a worker: the first who follows a waiting job does it, in the context of
    their own call, and stops it by leaving."""

    def start(self) -> None:
        """Open the folder, so that a mistake is told now."""
        with self._changed:
            self._stopping = False
            self.store  # noqa: B018

    def follow(self, job_id: str, *, every: float = 1.0) -> Generator[JobProgress, None, None]:
        """Do the job if it waits, telling of it as ``watch`` does; closing the iterator stops the
        job within one step. One that somebody else does is only watched."""
        work = self._claim(job_id)
        if work is None:
            yield from self.watch(job_id, every=every)
            return
        # The caller's context says whose share of the GPU is used.
        context = copy_context()
        threading.Thread(target=context.run, args=(self._do, work), name="attended-job").start()
        try:
            yield from self.watch(job_id, every=every)
        finally:
            work.ask_to_stop("cancelled")  # nothing to one that has ended

    def check_unattended(self) -> None:
        """RequestError always: a job is done only while somebody follows it."""
        raise RequestError(
            "a GPU is lent to a call only while it is open, so that no job can run behind it; use "
            "generate, which waits for the video"
        )

    def _check_quota(self, owner: str, address: str = "") -> None:
        """Jobs that nobody came to follow make room first; no worker would ever take them."""
        with self._changed:
            self.store  # noqa: B018  what waits from before counts
            for work in list(self._works.values()):
                waited = work.progress(None).elapsed
                if work.row.state == "queued" and waited > LEFT_ALONE_SECONDS:
                    self._end(work, "interrupted", message="its page was left; run it again")
            super()._check_quota(owner, address)

    def _claim(self, job_id: str) -> Work | None:
        """The job, if it waits, as begun; None for any other."""
        with self._changed:
            row = self.row(job_id)
            work = self._works.get(job_id)
            if work is None or row.state != "queued" or self._stopping:
                return None
            work.begin(self.store.update(job_id, state="running", started=time.time()))
            return work

    def _do(self, work: Work) -> None:
        self._settle(work, attempt(self._runner(work.row.kind), work))

    def _moved(self) -> None:
        """Nobody waits for anybody else."""
        for work in self._works.values():
            if work.row.state == "queued":
                work.placed(0, self.timings)
        self._changed.notify_all()

    def _seconds_left(self, work: Work) -> float | None:
        return work.seconds_left()
