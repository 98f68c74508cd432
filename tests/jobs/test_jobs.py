"""Laws of the line of jobs: order, places, watchers, quotas, kills, tidying."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from motion_app.errors import MotionAppError, RequestError
from motion_app.jobs.folder import JobRow, JobStore
from motion_app.jobs.line import DeviceLock
from motion_app.jobs.progress import JobProgress, KeptInputs, Work
from motion_app.jobs.queue import JobQueue
from motion_app.jobs.timings import JobPart, JobSize, Measurement, Timings
from motion_app.settings import ROOT, Limits

ROOMY = Limits(jobs=1000, jobs_per_session=1000)
SOON = 60.0  # seconds after which a test gives up


class Steps:
    """A runner of ``inputs["steps"]`` steps. Each waits for ``go`` where ``free`` is False; it
    notes who ran and how many were inside at once."""

    def __init__(self, *, free: bool = False, pause: float = 0.0) -> None:
        self.go = threading.Semaphore(0)
        self.order: list[str] = []
        self.inside = 0
        self.most_inside = 0
        self.free = free
        self.pause = pause

    def check(
        self, inputs: Mapping[str, Any], files: Sequence[str], *, owner: str = ""
    ) -> KeptInputs:
        if "wrong" in inputs:
            raise RequestError("that is wrong; give something else")
        return KeptInputs(dict(inputs))

    def check_line(self, inputs: Mapping[str, Any], active: Sequence[JobRow]) -> None:
        if any(row.inputs.get("name", 0) == inputs.get("name") for row in active):
            raise RequestError("that name is taken; choose another")

    def parts(self, inputs: Mapping[str, Any]) -> tuple[JobPart, ...]:
        return (JobPart("steps", JobSize(inputs.get("steps", 1), objects=1)),)

    def run(self, work: Work) -> dict[str, Any]:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.order.append(work.row.id)
        try:
            work.enter("preparing")
            if "raises" in work.row.inputs:
                raise {"mistake": RequestError, "crash": RuntimeError, "exit": SystemExit}[
                    work.row.inputs["raises"]
                ]("no\nphrase")
            steps = work.size.steps
            for step in range(1, steps + 1):
                if not self.free:
                    assert self.go.acquire(timeout=SOON)
                time.sleep(self.pause)
                stage = "decoding" if step == steps else "denoising"
                if not work.stepped(None, step=step, steps=steps, seconds=0.5, stage=stage):
                    work.check_stop()
            return {"steps": steps}
        finally:
            self.inside -= 1


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def queue(tmp_path: Path, steps: Steps) -> Iterator[JobQueue]:
    queue = JobQueue(tmp_path, {"steps": steps}, limits=ROOMY)
    queue.start()
    yield queue
    steps.free = True
    steps.go.release(1000)
    queue.stop()


def submit(queue: JobQueue, **inputs: Any) -> str:
    return queue.submit("steps", inputs, owner="me").id


def end(queue: JobQueue, job: str) -> JobProgress:
    """The last progress of the job."""
    until = time.monotonic() + SOON
    for progress in queue.watch(job, every=0.05):
        assert time.monotonic() < until, progress
    return progress


def until_step(queue: JobQueue, job: str, step: int) -> JobProgress:
    return next(now for now in queue.watch(job, every=0.05) if now.step >= step)


# the device's line ------------------------------------------------------------------------------


def test_who_came_first_goes_first_and_everyone_sees_their_place() -> None:
    lock = DeviceLock()
    tickets = [lock.ticket() for _ in range(3)]
    assert [ticket.ahead for ticket in tickets] == [0, 1, 2]
    assert tickets[0].wait(0)
    assert not tickets[1].wait(0)
    tickets[1].release()  # gives up while waiting
    tickets[0].release()
    assert tickets[2].wait(0)
    assert len(lock) == 1


def test_jobs_wait_for_whoever_else_has_the_device(tmp_path: Path) -> None:
    lock, steps = DeviceLock(), Steps(free=True)
    queue = JobQueue(tmp_path, {"steps": steps}, limits=ROOMY, lock=lock)
    with lock.ticket():
        queue.start()
        job = submit(queue)
        time.sleep(0.3)
        assert queue.row(job).state == "queued"
    assert end(queue, job).row.state == "done"
    assert len(lock) == 0
    queue.stop()


# the line of jobs -------------------------------------------------------------------------------


def test_jobs_run_in_the_order_they_came_and_know_their_place(
    queue: JobQueue, steps: Steps
) -> None:
    jobs = [submit(queue) for _ in range(4)]
    until_running(queue, jobs[0])
    assert [next(queue.watch(job)).ahead for job in jobs] == [0, 1, 2, 3]
    steps.go.release(4)
    assert [end(queue, job).row.state for job in jobs] == ["done"] * 4
    assert steps.order == jobs
    assert steps.most_inside == 1


def until_running(queue: JobQueue, job: str) -> None:
    next(now for now in queue.watch(job, every=0.05) if now.row.state != "queued")


def test_a_job_tells_every_step_and_ends_with_its_outcome(queue: JobQueue, steps: Steps) -> None:
    job = submit(queue, steps=4)
    seen = []
    for progress in queue.watch(job, every=0.05):
        if progress.step not in seen:
            seen.append(progress.step)
            steps.go.release()  # once a step: it is told more than once where time passes
    assert seen == [0, 1, 2, 3, 4]
    assert (progress.stage, progress.row.state) == ("done", "done")
    assert progress.row.outcome == {"steps": 4}


def test_watchers_of_a_queued_job_hear_of_it_every_so_often(queue: JobQueue) -> None:
    submit(queue)
    waiting = queue.watch(submit(queue), every=0.1)
    started = time.monotonic()
    times = [next(waiting).elapsed for _ in range(6)]
    assert time.monotonic() - started < SOON  # though the job it waits for stands still
    assert times == sorted(times) and times[-1] > times[0]


def test_two_watchers_of_one_job_see_the_same_end(queue: JobQueue, steps: Steps) -> None:
    job = submit(queue, steps=3)
    ends: list[JobProgress] = []
    watchers = [threading.Thread(target=lambda: ends.append(end(queue, job))) for _ in range(5)]
    for watcher in watchers:
        watcher.start()
    steps.go.release()
    middle = until_step(queue, job, 1)
    assert middle.row.state == "running"
    late = queue.watch(job, every=0.05)  # attaches in the middle
    assert next(late).step >= 1
    steps.go.release(2)
    for watcher in watchers:
        watcher.join(SOON)
    assert [progress.row for progress in ends] == [queue.row(job)] * 5
    assert [progress.row.state for progress in late][-1] == "done"
    assert [progress.row.state for progress in queue.watch(job)] == ["done"]  # after the end: one


def test_a_cancelled_job_stops_within_its_step_and_the_next_one_begins(
    queue: JobQueue, steps: Steps
) -> None:
    job = submit(queue, steps=9)
    steps.go.release()
    until_step(queue, job, 1)
    queue.cancel(job)
    assert next(queue.watch(job)).stopping
    again = submit(queue)  # at once
    steps.go.release(2)
    stopped = end(queue, job)
    assert (stopped.row.state, stopped.step) == ("cancelled", 2)
    assert stopped.row.message == "stopped after step 2 of 9, as asked"
    assert end(queue, again).row.state == "done"
    assert steps.most_inside == 1


def test_a_waiting_job_is_cancelled_at_once_and_never_runs(queue: JobQueue, steps: Steps) -> None:
    first, second, third = (submit(queue) for _ in range(3))
    until_running(queue, first)
    assert queue.cancel(second).state == "cancelled"
    assert next(queue.watch(third)).ahead == 1
    steps.go.release(2)
    end(queue, third)
    assert steps.order == [first, third]
    assert queue.cancel(third).state == "done"  # one that has ended stays as it is


@pytest.mark.parametrize("seed", range(50))
def test_no_two_jobs_are_ever_on_the_device(seed: int, tmp_path: Path) -> None:
    """Cancelled and started again in any order, beside others who want the device too."""
    rng, lock = random.Random(seed), DeviceLock()
    steps = Steps(free=True, pause=0.0005)
    queue = JobQueue(tmp_path, {"steps": steps}, limits=ROOMY, lock=lock)
    queue.start()
    jobs: list[str] = []
    breaches = []

    def take_the_device() -> None:
        for _ in range(5):
            with lock.ticket() as ticket:
                assert ticket.wait(SOON)
                breaches.append(steps.inside)
                time.sleep(0.0005)

    other = threading.Thread(target=take_the_device)
    other.start()
    for _ in range(12):
        action = rng.choice(["submit", "submit", "cancel", "again"])
        if action == "submit" or not jobs:
            jobs.append(submit(queue, steps=rng.randint(1, 4)))
        elif action == "cancel":
            queue.cancel(rng.choice(jobs))
        else:
            job = rng.choice(jobs)
            try:
                queue.again(job)
            except RequestError:
                assert queue.row(job).state in ("queued", "running", "done")
        time.sleep(rng.random() * 0.002)
    ends = [end(queue, job).row.state for job in jobs]
    other.join(SOON)
    queue.stop()
    assert set(ends) <= {"done", "cancelled"}
    assert steps.most_inside == 1 and breaches == [0] * 5
    assert len(lock) == 0


@pytest.mark.parametrize("raises", ["mistake", "crash", "exit"])
def test_a_job_that_fails_says_why_and_the_line_goes_on(
    queue: JobQueue, steps: Steps, raises: str, caplog: pytest.LogCaptureFixture
) -> None:
    job, after = submit(queue, raises=raises), submit(queue)
    steps.go.release()
    failed = end(queue, job).row
    assert failed.state == "failed"
    if raises == "mistake":
        assert failed.message == "no phrase"
    else:
        mark = failed.message.split()[-1]
        assert "phrase" not in failed.message and mark in caplog.text
    assert end(queue, after).row.state == "done"


def test_a_full_device_memory_is_told_in_words(tmp_path: Path) -> None:
    class Full(Steps):
        def run(self, work: Work) -> dict[str, Any]:
            raise MemoryError

    queue = JobQueue(tmp_path, {"steps": Full()})
    queue.start()
    row = end(queue, submit(queue)).row
    queue.stop()
    assert row.state == "failed" and "ran out of memory" in row.message


def test_a_job_done_again_keeps_its_id_and_goes_to_the_end_of_the_line(
    queue: JobQueue, steps: Steps
) -> None:
    job = submit(queue, raises="mistake")
    end(queue, job)
    first, waiting = submit(queue), submit(queue)
    until_running(queue, first)
    with pytest.raises(RequestError, match="running already"):
        queue.again(first)
    row = queue.again(job)
    assert (row.id, row.state, row.message) == (job, "queued", "")
    assert next(queue.watch(job)).ahead == 2
    steps.go.release(2)
    end(queue, job)
    assert steps.order == [job, first, waiting, job]
    with pytest.raises(RequestError, match="is done"):
        queue.again(first)


def test_time_left_is_measured_and_counts_those_before(queue: JobQueue, steps: Steps) -> None:
    job = submit(queue, steps=2)
    assert next(queue.watch(job)).seconds_left is None
    steps.go.release()
    assert until_step(queue, job, 1).seconds_left == pytest.approx(0.5)
    steps.go.release()
    end(queue, job)
    jobs = [submit(queue, steps=3) for _ in range(3)]
    until_running(queue, jobs[0])
    left = [next(queue.watch(job)).seconds_left for job in jobs]
    for place, seconds in enumerate(left, start=1):
        assert seconds == pytest.approx(place * 1.5, abs=0.3)


def test_a_measurement_speaks_for_jobs_of_its_kind_objects_and_method_alone() -> None:
    timings = Timings()
    two = Measurement(seconds=10.0, steps=4, objects=2, step_seconds=2.0)
    timings.remember("generate", two)
    assert timings.last("generate") is two and timings.last("train") is None
    assert timings.nearest("generate", JobSize(steps=12, objects=2)) is two
    assert timings.nearest("generate", JobSize(steps=4, objects=3)) is None
    assert timings.nearest("generate", JobSize(steps=4, objects=2, method="anyv2v")) is None
    led = Measurement(40.0, steps=4, objects=2, step_seconds=9.0, method="anyv2v")
    timings.remember("generate", led)
    assert timings.nearest("generate", JobSize(steps=12, objects=2, method="anyv2v")) is led
    assert timings.nearest("generate", JobSize(steps=12, objects=2)) is two
    assert two.seconds_for(12) == pytest.approx(26.0)


def test_measurements_outlast_the_program_for_the_same_model_run_the_same_way(
    tmp_path: Path,
) -> None:
    file = tmp_path / "timings.json"
    two = Measurement(seconds=10.0, steps=4, objects=2, step_seconds=2.0, method="fleximmt")
    Timings(file, of="pocket on cpu").remember("generate", two)
    assert Timings(file, of="pocket on cpu").last("generate") == two
    assert Timings(file, of="pocket on cuda").last("generate") is None


@pytest.mark.parametrize("kept", ["", "[]", '{"of": "a", "measured": [{"kind": "train"}]}'])
def test_measurements_that_cannot_be_read_or_kept_are_made_again(kept: str, tmp_path: Path) -> None:
    file = tmp_path / "timings.json"
    file.write_text(kept)
    timings = Timings(file, of="a")
    assert timings.last("train") is None
    file.unlink()
    file.mkdir()  # cannot be replaced by a file
    one = Measurement(seconds=1.0, steps=1, objects=1, step_seconds=0.5)
    timings.remember("train", one)
    assert timings.last("train") is one


# handing in -------------------------------------------------------------------------------------


def test_more_jobs_than_allowed_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path, {"steps": Steps()}, limits=Limits(jobs=3, jobs_per_session=2))
    mine = [queue.submit("steps", {}, owner="a").id for _ in range(2)]
    with pytest.raises(RequestError, match="2 of your jobs .* 2 is the most"):
        queue.submit("steps", {}, owner="a", files={"clip.mp4": b"x"})
    queue.submit("steps", {}, owner="b")
    with pytest.raises(RequestError, match="3 jobs are waiting"):
        queue.submit("steps", {}, owner="c")
    assert len(list(queue.files.iterdir())) == 3
    queue.cancel(mine[0])
    queue.submit("steps", {}, owner="c")
    with pytest.raises(RequestError, match="3 jobs are waiting"):
        queue.again(mine[0])


def test_stopped_jobs_do_not_come_back_past_the_quota_of_an_address(tmp_path: Path) -> None:
    few = Limits(jobs_per_session=1, jobs_per_address=2)
    queue = JobQueue(tmp_path, {"steps": Steps()}, limits=few)
    here, there = "198.51.100.7", "203.0.113.9"
    jobs = []
    for owner in "abcd":  # who calls oneself something new each time
        jobs.append(queue.submit("steps", {}, owner=owner, address=here).id)
        queue.cancel(jobs[-1])
    queue.again(jobs[0], address=here)
    queue.again(jobs[1], address=here)
    for job in jobs[2:]:
        with pytest.raises(RequestError, match="2 jobs of your address"):
            queue.again(job, address=here)
    with pytest.raises(RequestError, match="2 jobs of your address"):
        queue.submit("steps", {}, owner="e", address=here)
    queue.again(jobs[2], address=there)


@pytest.mark.parametrize(
    ("kind", "inputs", "files"),
    [
        ("other", {}, {}),
        ("steps", {"wrong": 1}, {}),
        ("steps", {"name": "taken"}, {}),
        ("steps", {}, {"../clip.mp4": b""}),
        ("steps", {}, {"a/b": b""}),
        ("steps", {}, {".hidden": b""}),
        ("steps", {}, {"gone.mp4": Path("nowhere.mp4")}),
    ],
)
def test_a_refused_job_leaves_no_row_and_no_folder(
    queue: JobQueue, kind: str, inputs: dict[str, Any], files: dict[str, Any]
) -> None:
    submit(queue, name="taken")
    with pytest.raises(RequestError):
        queue.submit(kind, inputs, owner="x", files=files)
    assert queue.rows("x") == []
    assert len(list(queue.files.iterdir())) == 1


def test_what_comes_with_a_job_lies_in_its_folder(queue: JobQueue, tmp_path: Path) -> None:
    clip = tmp_path / "clip"
    clip.write_bytes(b"path")
    row = queue.submit("steps", {}, owner="me", files={"a.mp4": b"bytes", "b.mp4": clip})
    folder = queue.folder(row.id)
    assert (folder / "a.mp4").read_bytes() == b"bytes"
    assert (folder / "b.mp4").read_bytes() == b"path"


def test_submits_from_sixteen_threads_all_count_and_none_exceeds_the_quota(tmp_path: Path) -> None:
    steps = Steps(free=True)
    queue = JobQueue(tmp_path, {"steps": steps}, limits=Limits(jobs=40, jobs_per_session=4))
    made: list[JobRow] = []
    refused: list[RequestError] = []
    ready = threading.Barrier(16)

    def hand_in(owner: str) -> None:
        ready.wait(SOON)
        for _ in range(3):
            try:
                made.append(queue.submit("steps", {}, owner=owner, files={"a": b"1"}))
            except RequestError as error:
                refused.append(error)

    threads = [threading.Thread(target=hand_in, args=(f"owner {k % 8}",)) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    owners = [row.owner for row in made]
    assert len({row.id for row in made}) == len(made) == 8 * 4 and len(refused) == 16
    assert all(owners.count(owner) == 4 for owner in owners)
    queue.start()
    assert {end(queue, row.id).row.state for row in made} == {"done"}
    assert steps.order == [
        row.id for row in sorted(made, key=lambda row: steps.order.index(row.id))
    ]
    queue.stop()


def test_rows_are_the_owners_own_and_newest_first(queue: JobQueue) -> None:
    mine = [submit(queue, steps=1) for _ in range(3)]
    queue.submit("steps", {}, owner="you")
    assert [row.id for row in queue.rows("me")] == mine[::-1]
    assert [row.id for row in queue.rows("me", limit=1)] == mine[-1:]
    assert queue.rows("me", kind="train") == []


def test_a_deleted_job_is_gone_with_its_files(queue: JobQueue, steps: Steps) -> None:
    running, waiting = submit(queue), submit(queue)
    until_running(queue, running)
    with pytest.raises(RequestError, match="cancel it first"):
        queue.delete(running)
    queue.delete(waiting)
    for ask in (queue.row, queue.cancel, queue.again, queue.watch, queue.delete):
        with pytest.raises(RequestError, match="no job"):
            ask(waiting)
    assert not queue.folder(waiting).exists() and queue.folder(running).exists()


@pytest.mark.parametrize("job", ["..", "", "x" * 32, "/etc", "A" * 32])
def test_no_id_leads_out_of_the_folder(queue: JobQueue, job: str) -> None:
    with pytest.raises(RequestError, match="no job id"):
        queue.folder(job)


# tidying ----------------------------------------------------------------------------------------


def test_old_jobs_go_with_their_files_and_those_that_wait_stay(tmp_path: Path) -> None:
    steps = Steps(free=True)
    queue = JobQueue(tmp_path, {"steps": steps}, limits=ROOMY)
    queue.start()
    old, young = submit(queue), submit(queue)
    end(queue, young)
    queue.stop()
    store = JobStore(tmp_path / "jobs.sqlite3")
    store.update(old, finished=time.time() - 100 * 3600)
    orphan, staged = tmp_path / "jobs" / ("a" * 32), tmp_path / "jobs" / f".new-{'b' * 32}"
    for folder in (orphan, staged):
        folder.mkdir()
    os.utime(orphan, (0, 0))
    waiting = JobRow("c" * 32, "steps", "me", "queued", "", created=0.0)
    store.add(waiting)
    (tmp_path / "jobs" / waiting.id).mkdir()
    os.utime(tmp_path / "jobs" / waiting.id, (0, 0))
    store.close()
    queue = JobQueue(tmp_path, {"steps": steps}, limits=Limits(keep_hours=72))
    assert {row.id for row in queue.rows("me")} == {young, waiting.id}
    assert {path.name for path in queue.files.iterdir()} == {young, waiting.id}
    queue.stop()


def test_beyond_the_bytes_the_oldest_go_first(tmp_path: Path) -> None:
    steps = Steps(free=True)
    queue = JobQueue(tmp_path, {"steps": steps}, limits=ROOMY)
    queue.start()
    rows = [queue.submit("steps", {}, owner="me", files={"a": bytes(400_000)}) for _ in range(4)]
    for row in rows:
        end(queue, row.id)
    queue.stop()
    queue = JobQueue(tmp_path, {"steps": steps}, limits=Limits(keep_gigabytes=1_000_000 / 2**30))
    assert [row.id for row in queue.rows("me")] == [rows[3].id, rows[2].id]
    assert {path.name for path in queue.files.iterdir()} == {rows[2].id, rows[3].id}
    queue.stop()


# kills and other programs -----------------------------------------------------------------------

PROGRAM = """
import sys, time
from motion_app.jobs.queue import JobQueue
from tests.jobs.test_jobs import ROOMY, Steps
queue = JobQueue(sys.argv[1], {"steps": Steps(free=True, pause=float(sys.argv[2]))}, limits=ROOMY)
queue.start()
jobs = [queue.submit("steps", {"steps": 1000, "n": n}, owner="me", files={"clip": b"1"}).id
        for n in range(3)]
for now in queue.watch(jobs[0], every=0.05):
    if now.step >= 2:
        print(queue.files, *jobs, flush=True)
        time.sleep(60)
"""


def program(folder: Path, pause: float = 0.05) -> tuple[subprocess.Popen[str], Path, list[str]]:
    """Another process in the middle of its first job, with two more in its line."""
    started = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(pause)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    files, *jobs = started.stdout.readline().split()
    return started, Path(files), jobs


def test_after_a_kill_what_ran_is_interrupted_and_what_waited_runs(tmp_path: Path) -> None:
    killed, _, jobs = program(tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.wait(SOON)
    queue = JobQueue(tmp_path, {"steps": Steps(free=True)}, limits=ROOMY)
    row = queue.row(jobs[0])
    assert (row.state, row.inputs) == ("interrupted", {"steps": 1000, "n": 0})
    assert "stopped" in row.message
    assert (queue.folder(row.id) / "clip").read_bytes() == b"1"
    queue.start()
    assert [end(queue, job).row.state for job in jobs[1:]] == ["done", "done"]
    assert queue.row(jobs[0]).state == "interrupted"
    queue.again(jobs[0])
    assert end(queue, jobs[0]).row.state == "done"
    queue.stop()


def test_a_second_program_has_a_line_of_its_own_and_finds_it_again(tmp_path: Path) -> None:
    first, files, jobs = program(tmp_path)
    try:
        second = JobQueue(tmp_path, {"steps": Steps(free=True)})
        assert (files, second.files) == (tmp_path / "jobs", tmp_path / "queue-2" / "jobs")
        job = submit(second)
        with pytest.raises(RequestError, match="no job"):
            second.row(jobs[0])
        second.stop()
        third = JobQueue(tmp_path, {"steps": Steps(free=True)})
        third.start()
        assert end(third, job).row.state == "done"
        third.stop()
    finally:
        first.kill()
        first.wait(SOON)
    with_first_gone = JobQueue(tmp_path, {"steps": Steps()})
    assert with_first_gone.files == files
    with_first_gone.stop()


def test_a_stopped_program_interrupts_its_job_and_leaves_the_line(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path, {"steps": Steps(free=True, pause=0.01)}, limits=ROOMY)
    queue.start()
    job, waiting = submit(queue, steps=1000), submit(queue)
    until_step(queue, job, 2)
    queue.stop()
    with pytest.raises(MotionAppError, match="program is ending"):
        queue.row(job)
    store = JobStore(tmp_path / "jobs.sqlite3")
    assert [store.get(job).state, store.get(waiting).state] == ["interrupted", "queued"]
    store.close()


def test_making_a_queue_writes_nothing(tmp_path: Path) -> None:
    JobQueue(tmp_path / "outputs", {"steps": Steps()})
    assert list(tmp_path.iterdir()) == []


# the database -----------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["text", "middle", "version"])
def test_a_damaged_database_is_named_with_what_to_do(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = JobStore(path)
    for k in range(200):
        store.add(JobRow(f"{k:032x}", "steps", "me", "done", "x" * 300, created=0.0))
    store.close()
    content = bytearray(path.read_bytes())
    if damage == "text":
        path.write_text("this is no database, it is a letter\n" * 100)
    elif damage == "middle":
        content[4096 : len(content) - 4096] = os.urandom(len(content) - 8192)
        path.write_bytes(content)
    else:
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 7")
    with pytest.raises(MotionAppError, match=r"jobs\.sqlite3 .*move (it|the file) away") as told:
        JobQueue(tmp_path, {"steps": Steps()}).start()
    assert "\n" not in str(told.value)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MotionAppError, match="MOTION_APP_OUTPUTS"):
        JobQueue(tmp_path / "file" / "outputs", {"steps": Steps()}).start()


def test_secrets_differ_and_stay(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite3")
    one, other = store.secret("one"), store.secret("other")
    assert one != other and len(one) == 64
    store.close()
    assert JobStore(tmp_path / "jobs.sqlite3").secret("one") == one


def test_a_row_comes_back_as_it_went_in(tmp_path: Path) -> None:
    row = JobRow(
        *("a" * 32, "steps", "me", "failed", "A tiger · 走"),
        created=1.5,
        started=2.5,
        finished=3.5,
        inputs={"a": [1, {"b": None}], "ü": "走"},
        outcome={"x": 0.1},
        message="why",
    )
    store = JobStore(tmp_path / "jobs.sqlite3")
    store.add(row)
    store.close()
    assert JobStore(tmp_path / "jobs.sqlite3").get(row.id) == row


def test_an_address_has_so_many_jobs_whatever_names_it_takes(tmp_path: Path) -> None:
    limits = Limits(jobs=40, jobs_per_session=4, jobs_per_address=3)
    queue = JobQueue(tmp_path, {"steps": Steps()}, limits=limits)
    rows = [queue.submit("steps", {}, owner=f"name-{n}", address="203.0.113.7") for n in range(3)]
    with pytest.raises(RequestError, match="of your address"):
        queue.submit("steps", {}, owner="another", address="203.0.113.7")
    queue.submit("steps", {}, owner="another", address="203.0.113.8")
    for number in range(4):
        queue.submit("steps", {}, owner=f"here-{number}", address="")  # at this machine
    queue.cancel(rows[0].id)
    queue.submit("steps", {}, owner="another", address="203.0.113.7")
    queue.stop()


def test_the_line_takes_each_visitors_first_job_before_anybodys_second(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path, {"steps": Steps()}, limits=ROOMY)
    first, second, third = (
        queue.submit("steps", {}, owner=f"name-{n}", address="203.0.113.7") for n in range(3)
    )
    neighbour = queue.submit("steps", {}, owner="neighbour", address="203.0.113.8")
    assert [next(queue.watch(row.id)).ahead for row in (first, neighbour, second, third)] == [
        *range(4)
    ]
    queue.cancel(first.id)
    assert next(queue.watch(second.id)).ahead == 0  # it came before the neighbour's
    queue.stop()
