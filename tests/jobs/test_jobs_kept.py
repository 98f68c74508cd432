"""The line of jobs on a full disk, and with a row that is damaged."""

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from disk_faults import fill, small_disk, without_rights
from test_jobs import Steps, end, submit

from motion_app.errors import MotionAppError, RequestError, server_fault
from motion_app.jobs import folder as jobs_folder
from motion_app.jobs.folder import DAMAGED, JobRow, JobStore
from motion_app.jobs.progress import Work
from motion_app.jobs.queue import DATABASE, JobQueue
from motion_app.media.files import write_video
from motion_app.settings import Limits

WRITERS = 16


def test_on_a_full_disk_jobs_are_refused_in_a_sentence_and_deleted_and_the_rest_stays(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "small", 4096) as outputs:
        queue = JobQueue(outputs, {"steps": Steps(free=True)})
        clip = {"clip.mp4": bytes(500_000)}
        kept = [queue.submit("steps", {"steps": 1}, owner="me", files=clip).id for _ in range(3)]
        ballast = fill(outputs)
        for _ in range(2):
            with pytest.raises(MotionAppError) as told:
                queue.submit("steps", {"steps": 1}, owner="me", files={"clip.mp4": bytes(9000)})
            assert str(tmp_path) not in str(told.value)
        assert {row.id for row in queue.rows("me")} == set(kept)
        queue.delete(kept[0])
        assert {row.id for row in queue.rows("me")} == set(kept[1:])
        assert not (queue.files / kept[0]).exists()
        queue.stop()
        fill(outputs)
        again = JobQueue(outputs, {"steps": Steps(free=True)})  # a restart
        again.start()
        assert [end(again, job).row.state for job in kept[1:]] == ["done", "done"]
        again.delete(kept[1])
        ballast.unlink()
        assert end(again, submit(again, steps=1)).row.state == "done"
        again.stop()


def test_sixteen_jobs_of_one_name_keep_what_came_with_them(tmp_path: Path) -> None:
    """Files of one name, handed in at once, and half of the jobs deleted at once."""
    queue = JobQueue(tmp_path, {"steps": Steps(free=True)}, limits=Limits(jobs=32))
    owners = [f"{writer:032d}" for writer in range(WRITERS)]
    contents = [bytes([writer]) * 50_000 for writer in range(WRITERS)]

    def hand_in(writer: int) -> str:
        files = {"clip.mp4": contents[writer]}
        inputs = {"steps": 1, "writer": writer}
        row = queue.submit("steps", inputs, owner=owners[writer], title="The same", files=files)
        return row.id

    with ThreadPoolExecutor(WRITERS) as pool:
        jobs = list(pool.map(hand_in, range(WRITERS)))
        assert len(set(jobs)) == WRITERS
        for writer, job in enumerate(jobs):
            assert (queue.files / job / "clip.mp4").read_bytes() == contents[writer]
        list(pool.map(queue.delete, jobs[::2]))
    queue.stop()
    again = JobQueue(tmp_path, {"steps": Steps(free=True)})
    again.start()
    for writer, (owner, job) in enumerate(zip(owners, jobs, strict=True)):
        rows = again.rows(owner)
        assert [row.id for row in rows] == ([job] if writer % 2 else [])
        if writer % 2:
            ended = end(again, job).row
            assert (ended.state, ended.inputs["writer"]) == ("done", writer)
        else:
            assert not (again.files / job).exists()
    again.stop()


class Saving(Steps):
    """Saves a video as a job does."""

    def run(self, work: Work) -> dict[str, Any]:
        frames = np.random.default_rng(0).integers(0, 255, (25, 128, 192, 3), np.uint8)
        write_video(work.folder / "video.mp4", frames, 8.0)
        return {"video": "video.mp4"}


def test_a_video_that_finds_no_room_fails_in_a_sentence_and_the_next_is_made(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "small", 6144) as outputs:
        queue = JobQueue(outputs, {"steps": Saving(free=True)})
        full = queue.submit("steps", {"steps": 1}, owner="me").id
        ballast = fill(outputs)
        queue.start()
        ended = end(queue, full).row
        assert ended.state == "failed" and "disk is full" in ended.message
        assert str(tmp_path) not in ended.message
        assert not [file for file in (queue.files / full).rglob("*.mp4*") if file.stat().st_size]
        ballast.unlink()
        assert end(queue, submit(queue, steps=1)).row.state == "done"
        queue.delete(full)
        queue.stop()


def test_a_folder_that_may_not_be_written_refuses_jobs_in_a_sentence_and_the_line_goes_on() -> None:
    with without_rights(), TemporaryDirectory() as place:
        outputs = Path(place) / "outputs"
        queue = JobQueue(outputs, {"steps": Steps(free=True)})
        queue.start()
        before = submit(queue, steps=1)
        assert end(queue, before).row.state == "done"
        queue.files.chmod(0o555)
        with pytest.raises(RequestError, match="Permission denied") as told:
            queue.submit("steps", {"steps": 1}, owner="me", files={"clip.mp4": b"1"})
        assert place not in str(told.value)
        assert [row.id for row in queue.rows("me")] == [before]
        queue.files.chmod(0o755)
        assert end(queue, submit(queue, steps=1)).row.state == "done"
        queue.delete(before)
        queue.stop()


def broken(path: Path, job: str, column: str, value: object) -> None:
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE jobs SET {column} = ? WHERE id = ?", [value, job])
    database.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [("inputs", "{"), ("inputs", "[1]"), ("inputs", b"\xff"), ("outcome", ""), ("state", "?")],
)
def test_a_damaged_row_hides_no_other_and_can_be_deleted(
    tmp_path: Path, column: str, value: object
) -> None:
    queue = JobQueue(tmp_path, {"steps": Steps(free=True)})
    jobs = [submit(queue, steps=1) for _ in range(3)]
    queue.stop()
    broken(tmp_path / DATABASE, jobs[1], column, value)
    again = JobQueue(tmp_path, {"steps": Steps(free=True)})
    again.start()
    assert [end(again, job).row.state for job in (jobs[0], jobs[2])] == ["done", "done"]
    rows = {row.id: row for row in again.rows("me")}
    assert set(rows) == set(jobs)
    assert (rows[jobs[1]].state, rows[jobs[1]].message) == ("failed", DAMAGED)
    with pytest.raises(RequestError, match="damaged"):
        again.again(jobs[1])
    again.delete(jobs[1])
    assert {row.id for row in again.rows("me")} == {jobs[0], jobs[2]}
    again.stop()


def test_a_waiting_job_whose_inputs_mean_nothing_any_more_stops_nobody(tmp_path: Path) -> None:
    class Demanding(Steps):
        def parts(self, inputs):
            assert "unheard of" not in inputs
            return super().parts(inputs)

    store = JobStore(tmp_path / DATABASE)
    for number, inputs in enumerate(({"unheard of": 1}, {"steps": 1})):
        row = JobRow(str(number) * 32, "steps", "me", "queued", "", time.time(), inputs=inputs)
        store.add(row)
    store.close()
    queue = JobQueue(tmp_path, {"steps": Demanding(free=True)})
    queue.start()
    assert end(queue, "1" * 32).row.state == "done"
    assert queue.row("0" * 32).state == "failed"
    queue.stop()


def test_a_full_disk_is_named_wherever_it_comes_from(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 16) as folder:
        fill(folder)
        with pytest.raises(OSError) as told:
            (folder / "more").write_bytes(bytes(9000))
    line = server_fault(jobs_folder.logger, told.value)
    assert "disk is full" in line and str(tmp_path) not in line
