"""The queue of jobs: handed in, run one after another on the device, watched by anyone who knows
their id, and found again after a restart.

    <folder>/jobs.sqlite3      the rows; never inside what the page serves
    <folder>/jobs/<id>/        a job's own folder: its input files and its results
    <folder>/queue.lock        held while a program works here; see ``folder``
"""

from __future__ import annotations

import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from motion_app.errors import MotionAppError, RequestError, one_line
from motion_app.jobs.folder import (
    DAMAGED,
    STAGING,
    ClaimedFolder,
    JobRow,
    JobStore,
    State,
    claim_folder,
    outlived,
    remove_orphans,
    size_of,
    write_files,
)
from motion_app.jobs.line import DeviceLock, Line
from motion_app.jobs.progress import (
    INTERRUPTED,
    POLL_SECONDS,
    JobProgress,
    Runner,
    Work,
    attempt,
    ended,
)
from motion_app.jobs.timings import Timings
from motion_app.settings import DEFAULT_LIMITS, Limits

logger = logging.getLogger(__name__)
DATABASE = "jobs.sqlite3"
FILES = "jobs"
TIDY_SECONDS = 600.0
HELD_UP_SECONDS = 5.0
STOP_SECONDS = 10.0  # a step may take longer on a large model; the job is then marked at next start
JOB_ID = re.compile(r"[0-9a-f]{32}")


class JobQueue:
    """Jobs of some kinds, one at a time. ``runners``: how each kind is done; ``lock``: the device's
    line, ``timings``: what jobs took before; each one of its own where None.

    The folder is claimed and the database opened at ``start``, or when first used: making one
    writes nothing. Every method may be called from any thread.
    """

    def __init__(
        self,
        folder: Path | str,
        runners: Mapping[str, Runner],
        *,
        limits: Limits = DEFAULT_LIMITS,
        lock: DeviceLock | None = None,
        timings: Timings | None = None,
    ) -> None:
        self.limits = limits
        self.lock = DeviceLock() if lock is None else lock  # an idle one has the length 0
        self.timings = Timings() if timings is None else timings
        self._asked_folder = Path(folder)
        self._runners = dict(runners)
        self._changed = threading.Condition(threading.RLock())
        self._opened: tuple[ClaimedFolder, JobStore] | None = None
        self._line = Line()
        self._worker: threading.Thread | None = None
        self._stopping = False

    # the folder

    @property
    def files(self) -> Path:
        """Where the jobs' folders lie: what a server may hand out, to who knows an id."""
        return self._open()[0].path / FILES

    @property
    def store(self) -> JobStore:
        """The database; opened when first asked for. MotionAppError where it cannot be."""
        return self._open()[1]

    def _open(self) -> tuple[ClaimedFolder, JobStore]:
        with self._changed:
            if self._opened is None:
                if self._stopping:
                    raise MotionAppError("the program is ending; start it again to see its jobs")
                claimed = claim_folder(self._asked_folder)
                try:
                    (claimed.path / FILES).mkdir(exist_ok=True)
                    self._opened = claimed, JobStore(claimed.path / DATABASE)
                except BaseException:
                    claimed.release()
                    raise
                self._recover()
            return self._opened

    def folder(self, job_id: str) -> Path:
        """The job's own folder, for its inputs and results; RequestError for what is no id."""
        if not JOB_ID.fullmatch(job_id):
            raise RequestError(f'"{job_id[:40]}" is no job id; it has 32 hexadecimal digits')
        return self.files / job_id

    def _recover(self) -> None:
        """After a restart: what ran was interrupted, what waited waits on."""
        store = self.store
        for row in store.list(states=("running",)):
            store.update(row.id, state="interrupted", finished=time.time(), message=INTERRUPTED)
        for row in store.line():
            try:
                if row.message == DAMAGED:
                    raise RequestError(DAMAGED)
                self._join(row)
            except MotionAppError as error:
                store.update(row.id, state="failed", message=one_line(error))
            except Exception as error:  # what an older or broken program kept
                logger.error("the job %s cannot wait on", row.id, exc_info=error)
                store.update(row.id, state="failed", message=DAMAGED)
        self._tidy(staged=True)

    # what people do

    def start(self) -> None:
        """Begin to run jobs."""
        with self._changed:
            self._stopping = False
            self.store  # noqa: B018  a mistake is told here, not on a thread
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="jobs", daemon=True)
                self._worker.start()

    def stop(self) -> None:
        """Interrupt the running job at its next step and let the folder go. ``again`` brings the
        job back after a restart, and those that wait run then by themselves."""
        with self._changed:
            self._stopping = True
            worker, self._worker = self._worker, None
            for work in self._line.running:
                work.ask_to_stop("interrupted")
            self._changed.notify_all()
        if worker is not None:
            worker.join(STOP_SECONDS)
        with self._changed:
            if self._opened is not None:
                claimed, store = self._opened
                store.close()
                claimed.release()
                self._opened = None
                self._line.clear()

    def submit(
        self,
        kind: str,
        inputs: Mapping[str, Any],
        *,
        owner: str,
        address: str = "",
        title: str = "",
        files: Mapping[str, bytes | Path] | None = None,
    ) -> JobRow:
        """A new job, before the second ones of others. ``files``: what goes into its folder, by
        file name, as bytes or as a path to copy. ``address``: where the owner comes from, for the
        quota alone and kept nowhere; "" for who sits at this machine.

        Raises RequestError for an unknown kind, over a quota or a wrong file name, and what the
        kind's runner refuses. Nothing is left behind then.
        """
        runner = self._runner(kind)
        self._check_quota(owner, address)  # before anything is read or copied
        kept = runner.check(inputs, list(files or ()), owner=owner)
        row = JobRow(
            id=secrets.token_hex(16),
            kind=kind,
            owner=owner,
            state="queued",
            title=title,
            created=time.time(),
            inputs=kept.row,
        )
        staged = self.files / (STAGING + row.id)
        try:
            write_files(staged, {**(files or {}), **kept.files})
            with self._changed:
                self._check_line(row, address)  # others may have been quicker
                staged.rename(self.folder(row.id))
                try:
                    self.store.add(row)
                except BaseException:
                    shutil.rmtree(self.folder(row.id), ignore_errors=True)
                    raise
                self._join(row, address)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        return row

    def row(self, job_id: str) -> JobRow:
        """The job as it is; RequestError where there is none."""
        with self._changed:
            work = self._line.find(job_id)
            return self.store.get(job_id) if work is None else work.row

    def rows(self, owner: str, *, kind: str | None = None, limit: int = 50) -> list[JobRow]:
        """The owner's jobs, newest first."""
        return self.store.list(owner=owner, kind=kind, limit=limit)

    def cancel(self, job_id: str) -> JobRow:
        """Stop a job: at once while it waits, else within its current step. One that has ended
        stays as it is."""
        with self._changed:
            row = self.row(job_id)
            work = self._line.find(job_id)
            if work is None:
                return row
            if row.state == "running":
                work.ask_to_stop("cancelled")
            elif row.state == "queued":
                row = self._end(work, "cancelled", message="stopped before it began, as asked")
            return row

    def again(self, job_id: str, *, address: str = "") -> JobRow:
        """A job that was interrupted, failed or cancelled back into the line, last, with the same
        id, inputs and files; what it had done already is not done again where its kind can go on.
        ``address`` as of ``submit``. RequestError for any other, and over a quota."""
        with self._changed:
            row = self.row(job_id)
            if row.active:
                raise RequestError(
                    "this job is waiting or running already; there is nothing to repeat"
                )
            if row.state == "done":
                raise RequestError("this job is done; hand it in as a new one to repeat it")
            if row.message == DAMAGED:
                raise RequestError(DAMAGED)
            self._check_line(row, address)
            row = self.store.update(
                job_id, state="queued", started=None, finished=None, message="", last_in_line=True
            )
            self._join(row, address)
            return row

    def delete(self, job_id: str) -> None:
        """The job and everything in its folder go. One that waits is cancelled first; RequestError
        for one that is running."""
        with self._changed:
            if self.row(job_id).state == "running":
                raise RequestError("this job is running; cancel it first, then delete it")
            self.cancel(job_id)
            # Row first: a kill between the two leaves a folder to tidy, not a job without files.
            self.store.remove(job_id)
            self._changed.notify_all()
        shutil.rmtree(self.folder(job_id), ignore_errors=True)
        self.store.hold_reserve()

    def watch(self, job_id: str, *, every: float = 1.0) -> Generator[JobProgress, None, None]:
        """A JobProgress now, at every change, and after ``every`` seconds without one; the last
        tells how the job ended. RequestError for an unknown id, and when the job is deleted."""
        self.row(job_id)
        return self._watch(job_id, every)

    def follow(self, job_id: str, *, every: float = 1.0) -> Generator[JobProgress, None, None]:
        """As ``watch``, for whoever waits for the job to be done."""
        return self.watch(job_id, every=every)

    def check_unattended(self) -> None:
        """RequestError where a job is done only while somebody follows it."""

    def _watch(self, job_id: str, every: float) -> Generator[JobProgress, None, None]:
        work: Work | None = None
        seen: int | None = -1
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._version(job_id) != seen, every)  # noqa: B023
                seen = self._version(job_id)
                at_work = self._line.find(job_id)
                work = at_work or work
                if at_work is not None:
                    now = at_work.progress(self._seconds_left(at_work))
                else:
                    now = ended(self.store.get(job_id), work)
            yield now
            if not now.row.active:
                return

    def _version(self, job_id: str) -> int | None:
        work = self._line.find(job_id)
        return None if work is None else work.version

    def _seconds_left(self, work: Work) -> float | None:
        return self._line.seconds_left(work)

    # rules

    def _runner(self, kind: str) -> Runner:
        runner = self._runners.get(kind)
        if runner is None:
            known = ", ".join(self._runners)
            raise RequestError(f'unknown kind of job "{kind}"; there are: {known}')
        return runner

    def _check_line(self, row: JobRow, address: str = "") -> None:
        with self._changed:
            self._check_quota(row.owner, address)
            self._runner(row.kind).check_line(row.inputs, self._line.rows)

    def _check_quota(self, owner: str, address: str = "") -> None:
        with self._changed:
            self.store  # noqa: B018  what waits from before counts
            self._line.check_quota(owner, address, self.limits)

    # the line

    def _join(self, row: JobRow, address: str = "") -> None:
        """Behind all others, then before those whose visitor has more before it."""
        with self._changed:
            parts = self._runner(row.kind).parts(row.inputs)
            work = Work(row, self.folder(row.id), parts, self._changed)
            self._line.join(work, address)
            self._moved()

    def _moved(self) -> None:
        """The line is another: everyone in it hears their new place."""
        self._line.take_turns(self.timings)
        self._changed.notify_all()

    def _end(self, work: Work, state: State, **changes: Any) -> JobRow:
        with self._changed:
            row = self.store.update(work.row.id, state=state, finished=time.time(), **changes)
            self._line.leave(row.id)
            work.row = row
            self._moved()
            return row

    # the thread

    def _work(self) -> None:
        tidied = time.monotonic()
        while not self._stopping:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._queued(), TIDY_SECONDS)
            try:
                if time.monotonic() - tidied >= TIDY_SECONDS:
                    self._tidy()
                    tidied = time.monotonic()
                self._run_next()
            except Exception:
                # A full disk, for example. Nobody would start this thread again.
                logger.exception("the line of jobs is held up; it tries again")
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, HELD_UP_SECONDS)

    def _queued(self) -> Work | None:
        return next(iter(self._line.waiting), None)

    def _run_next(self) -> None:
        with self._changed:
            if self._queued() is None:
                return
        with self.lock.ticket() as ticket:
            while not ticket.wait(POLL_SECONDS):
                if self._stopping:
                    return
            with self._changed:
                work = self._queued()  # not before its turn: until then it may be cancelled
                if work is None or self._stopping:
                    return
                work.begin(self.store.update(work.row.id, state="running", started=time.time()))
            ending = attempt(self._runner(work.row.kind), work)
        self._settle(work, ending)

    def _settle(self, work: Work, ending: dict[str, Any]) -> None:
        """What came of a job is written down, and what can be learned from it remembered."""
        if ending["state"] == "done":
            for kind, measured in work.measurements():
                self.timings.remember(kind, measured)
        self._insist(lambda: self._end(work, **ending))

    def _insist(self, write: Callable[[], Any]) -> None:
        """Write the end of a job, again and again while the database refuses: a job that is over
        and says "running" would keep its watchers for good."""
        while True:
            try:
                write()
                return
            except MotionAppError as error:
                logger.error("the end of a job cannot be written yet: %s", error)
                with self._changed:
                    if self._changed.wait_for(lambda: self._stopping, HELD_UP_SECONDS):
                        return

    def _tidy(self, *, staged: bool = False) -> None:
        """Delete what is too old or too much; ``staged`` as in ``remove_orphans``."""
        limits, files, store = self.limits, self.files, self.store
        jobs = [replace(job, bytes=job.bytes + size_of(files / job.id)) for job in store.ended()]
        going = outlived(
            jobs,
            now=time.time(),
            keep_hours=limits.keep_hours,
            keep_bytes=limits.keep_gigabytes * 2**30,
        )
        for job in going:
            with self._changed:
                if self._line.find(job.id) is not None:  # somebody has just pressed "again"
                    continue
                store.remove(job.id)
            shutil.rmtree(files / job.id, ignore_errors=True)
        store.hold_reserve()
        remove_orphans(files, store.ids(), keep_hours=limits.keep_hours, staged=staged)
