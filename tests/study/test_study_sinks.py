"""Laws of where answers go, and where a database may not lie."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import huggingface_hub
import pytest

from motion_app.errors import RequestError
from motion_app.study.archive import HubSink, JsonlSink
from motion_app.study.database import check_local_disk
from motion_app.text_files import read_text, records

MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
23 22 0:40 / /data rw,relatime shared:1 - {type} source rw
24 23 8:2 / /data/disk rw,relatime - xfs /dev/sdb1 rw
25 22 0:41 / /mnt/two\\040words rw,relatime - nfs4 host:/x rw
"""


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.s3fs", "fuse.hf-mount", "fuse"])
def test_sqlite_on_a_network_or_fuse_mount_is_refused(kind):
    with pytest.raises(RequestError, match=f"{kind} mount.*MOTION_APP_STUDY_DATABASE"):
        check_local_disk("/data/s/study.sqlite", mounts=MOUNTS.format(type=kind), environment={})


@pytest.mark.parametrize("kind", ["ext4", "overlay", "btrfs", "fuseblk", "tmpfs"])
def test_sqlite_on_a_disk_is_welcome(kind):
    check_local_disk("/data/study.sqlite", mounts=MOUNTS.format(type=kind), environment={})


def test_the_innermost_mount_decides():
    mounts = MOUNTS.format(type="nfs4")
    check_local_disk("/data/disk/study.sqlite", mounts=mounts, environment={})
    check_local_disk("/database/study.sqlite", mounts=mounts, environment={})
    with pytest.raises(RequestError, match="nfs4"):
        check_local_disk("/mnt/two words/study.sqlite", mounts=mounts, environment={})


def test_a_later_mount_covers_an_earlier_one():
    mounts = MOUNTS.format(type="ext4") + "26 22 0:50 / /data rw - nfs host:/y rw\n"
    with pytest.raises(RequestError, match="nfs mount"):
        check_local_disk("/data/study.sqlite", mounts=mounts, environment={})


def test_the_storage_of_a_space_is_refused_whatever_its_type():
    space = {"SPACE_ID": "somebody/demo"}
    with pytest.raises(RequestError, match="mounted storage"):
        check_local_disk("/data/study.sqlite", mounts="", environment=space)
    check_local_disk("/home/user/study.sqlite", mounts="", environment=space)
    check_local_disk("/data/study.sqlite", mounts="", environment={})


def test_this_machines_own_mounts_can_be_read(tmp_path):
    check_local_disk(tmp_path / "study.sqlite")


def test_lines_of_many_threads_stay_whole(tmp_path):
    sink = JsonlSink(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda k: sink.append({"k": k, "text": "é" * 500}), range(300)))
    sink.close()
    rows = [json.loads(line) for line in sink.path.read_text(encoding="utf-8").splitlines()]
    assert sorted(row["k"] for row in rows) == list(range(300))


def test_every_answer_is_one_line_whatever_its_texts_hold(tmp_path):
    sink = JsonlSink(tmp_path)
    rows = [{"item": f"a{letter}b"} for letter in ("\u2028", "\x85", "\n", "\ud83d", "红")]
    for row in rows:
        sink.append(row)
    lines = list(records(read_text(sink.path)))
    assert [(number, json.loads(line)) for number, line in lines] == list(enumerate(rows, 1))


def test_a_program_that_starts_again_writes_a_new_file(tmp_path):
    first, second = JsonlSink(tmp_path), JsonlSink(tmp_path)
    first.append({"k": 1})
    second.append({"k": 2})
    assert first.path != second.path and len(list(tmp_path.glob("*.jsonl"))) == 2


class Scheduler:
    """The interface of CommitScheduler that a sink relies on; uploads nothing."""

    made: list[Scheduler] = []  # noqa: RUF012

    def __init__(self, **options) -> None:
        self.options, self.lock, self.stopped, self.sent = options, threading.Lock(), False, 0
        self.made.append(self)

    def trigger(self) -> Future:
        self.sent += 1
        done: Future = Future()
        done.set_result(None)
        return done

    def stop(self) -> None:
        self.stopped = True


def test_the_hub_gets_a_private_data_set_from_the_first_answer_on(tmp_path, monkeypatch):
    monkeypatch.setattr(Scheduler, "made", [])
    monkeypatch.setattr(huggingface_hub, "CommitScheduler", Scheduler)
    sink = HubSink("somebody/answers", tmp_path / "answers")
    assert not Scheduler.made  # looking at a study uploads nothing
    sink.append({"k": 1})
    sink.append({"k": 2})
    (scheduler,) = Scheduler.made
    assert scheduler.options["repo_id"] == "somebody/answers" and scheduler.options["private"]
    assert scheduler.options["repo_type"] == "dataset"
    assert len(sink.path.read_text().splitlines()) == 2 and not scheduler.stopped
    sink.close()
    assert scheduler.sent == 1 and scheduler.stopped


def test_the_hubs_scheduler_has_what_the_sink_relies_on(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda *a, **k: _Address())
    monkeypatch.setattr(huggingface_hub.CommitScheduler, "_run_scheduler", lambda self: None)
    scheduler = huggingface_hub.CommitScheduler(
        repo_id="a/b",
        repo_type="dataset",
        folder_path=tmp_path,
        path_in_repo="answers",
        every=5,
        private=True,
    )
    with scheduler.lock:
        assert callable(scheduler.trigger)
    scheduler.stop()


class _Address(str):
    repo_id = "a/b"
