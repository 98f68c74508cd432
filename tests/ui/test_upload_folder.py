"""The folder of uploads: bounded in age and in bytes, and gone when its program is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
from disk_faults import small_disk
from fastapi.testclient import TestClient
from gradio.routes import App
from serving import ROOT

from motion_app.errors import MotionAppError
from motion_app.settings import Limits
from motion_app.ui import launch
from motion_app.ui.bodies import UPLOAD, BodyLimit
from motion_app.ui.launch import UploadFolder

HOLD = """
import sys
from pathlib import Path
from motion_app.ui.launch import UploadFolder
with UploadFolder(Path(sys.argv[1]), most_bytes=1) as uploads:
    print(uploads.path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def uploads(tmp_path: Path) -> Iterator[UploadFolder]:
    with UploadFolder(tmp_path, most_bytes=1000) as made:
        yield made


def upload(uploads: UploadFolder, name: str, size: int) -> Path:
    path = uploads.path / name / "file.bin"
    path.parent.mkdir()
    path.write_bytes(b"x" * size)
    time.sleep(0.02)  # so that the next one is newer
    return path


def test_what_fits_and_is_young_stays(uploads: UploadFolder) -> None:
    paths = [upload(uploads, name, 400) for name in "ab"]
    uploads.tidy()
    assert all(path.is_file() for path in paths)


def test_over_the_cap_the_oldest_go_first_with_their_folders(uploads: UploadFolder) -> None:
    old, middle, new = (upload(uploads, name, 400) for name in "abc")
    uploads.tidy()
    assert not old.parent.exists()
    assert middle.is_file() and new.is_file()


def test_a_file_that_is_used_again_is_young_again(uploads: UploadFolder) -> None:
    old, middle, _ = (upload(uploads, name, 400) for name in "abc")
    os.utime(old)
    uploads.tidy()
    assert old.is_file() and not middle.exists()


def test_nothing_stays_longer_than_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with UploadFolder(tmp_path, most_bytes=1000, keep_seconds=3600) as uploads:
        old, new = (upload(uploads, name, 1) for name in "ab")
        between = sum(path.stat().st_ctime for path in (old, new)) / 2
        monkeypatch.setattr(launch, "time", SimpleNamespace(time=lambda: between + 3600))
        uploads.tidy()
        assert not old.exists() and new.is_file()


def test_what_every_page_shows_stays(uploads: UploadFolder) -> None:
    shown = upload(uploads, "a", 5000)
    uploads.start([str(shown)])
    uploads.tidy()
    assert shown.is_file()


def test_it_is_tidied_by_itself(uploads: UploadFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "TIDY_SECONDS", 0.01)
    big = upload(uploads, "a", 5000)
    uploads.start()
    began = time.monotonic()
    while big.exists():
        assert time.monotonic() - began < 30
        time.sleep(0.01)


def test_at_the_end_it_is_gone(tmp_path: Path) -> None:
    with UploadFolder(tmp_path, most_bytes=1000) as uploads:
        upload(uploads, "a", 10)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_programs_folder_goes_at_the_next_start_and_a_running_ones_stays(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with (
        subprocess.Popen(command, **pipes) as killed,
        subprocess.Popen(command, **pipes) as running,
    ):
        left, held = (Path(program.stdout.readline().strip()) for program in (killed, running))
        assert left.is_dir() and held.is_dir()
        killed.send_signal(signal.SIGKILL)
        killed.wait(timeout=30)
        with UploadFolder(tmp_path, most_bytes=1):
            assert not left.exists()
            assert held.is_dir()
        running.stdin.close()


def test_a_place_that_cannot_be_written_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(MotionAppError, match="MOTION_APP_CACHE"),
        UploadFolder(tmp_path / "file" / "cache", most_bytes=1),
    ):
        raise AssertionError("a folder below a file was made")


def test_an_upload_that_finds_no_room_is_refused_in_a_sentence_and_the_next_one_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[str, Sequence[str]]] = []
    with small_disk(tmp_path / "small", 1024) as folder:
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        with gr.Blocks() as page:
            gr.File()
        page.max_file_size = None  # as its launch sets it
        app = App.create_app(page)
        app.add_middleware(BodyLimit, limits=Limits(), heard=lambda *told: heard.append(told))
        client = TestClient(app)

        def give(size: int) -> httpx.Response:
            return client.post(UPLOAD, files={"files": ("clip.mp4", bytes(size), "video/mp4")})

        full = give(4_000_000)
        assert full.status_code == 507 and heard == []
        assert "disk is full" in full.json()["detail"] and str(tmp_path) not in full.text
        for left in (folder / "uploads").rglob("*"):
            assert left.is_dir() or left.stat().st_size == 0, "half an upload stays"
        assert give(1000).status_code == 200 and len(heard) == 1
