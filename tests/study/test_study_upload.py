"""Items that come as a ZIP file: what is read, what is refused, what is never looked at."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from motion_app.errors import RequestError
from motion_app.settings import Limits
from motion_app.study.upload import MOST_FILES, read_upload, unpack

PNG = cv2.imencode(".png", np.full((32, 48, 3), 90, np.uint8))[1].tobytes()
ITEM = {
    "caption.txt": b"A ball rolls.",
    "first_frame.png": PNG,
    "reference.mp4": b"clip",
    "ours.mp4": b"clip",
    "theirs.mp4": b"clip",
}
TABLE = b"item,caption,first_frame,references,ours,theirs\n"
LIMITS = Limits(study_megabytes=1)


def packed(tmp_path: Path, files: dict[str, bytes]) -> Path:
    path = tmp_path / "items.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def folder_of(prefix: str = "", **changed: bytes) -> dict[str, bytes]:
    return {f"{prefix}fox/{name}": content for name, content in {**ITEM, **changed}.items()}


@pytest.mark.parametrize("prefix", ["", "items/", "a/b/"])
def test_folders_are_read_with_or_without_a_folder_around_them(tmp_path, prefix: str) -> None:
    files = {**folder_of(prefix), "__MACOSX/x/y": b"", f"{prefix}.DS_Store": b""}
    (item,) = read_upload(packed(tmp_path, files), tmp_path / "out", LIMITS)
    assert item.name == "fox" and set(item.videos) == {"ours", "theirs"}


@pytest.mark.parametrize("prefix", ["", "items/"])
def test_a_table_is_read_and_its_faults_are_told_by_line(tmp_path, prefix: str) -> None:
    files = {f"{prefix}f/{name}": content for name, content in ITEM.items()}
    rows = b"fox,A ball.,f/first_frame.png,f/reference.mp4,f/ours.mp4,f/theirs.mp4\n"
    files[f"{prefix}items.csv"] = TABLE + rows
    (item,) = read_upload(packed(tmp_path, files), tmp_path / "out", LIMITS)
    assert item.caption == "A ball."
    files[f"{prefix}items.csv"] = TABLE + rows + rows.replace(b"ours", b"gone")
    with pytest.raises(RequestError, match=r"line 3 .*gone"):
        read_upload(packed(tmp_path, files), tmp_path / "again", LIMITS)


def test_a_table_names_no_file_of_the_server(tmp_path) -> None:
    (tmp_path / "secret.png").write_bytes(PNG)
    for path in ("../secret.png", str(tmp_path / "secret.png"), "../not-there.png", "/etc/passwd"):
        row = f"fox,A.,{path},f/reference.mp4,f/ours.mp4,f/theirs.mp4\n".encode()
        files = {**{f"f/{name}": content for name, content in ITEM.items()}, "i.csv": TABLE + row}
        with pytest.raises(RequestError, match="is not in the file") as told:
            read_upload(packed(tmp_path, files), tmp_path / "out", LIMITS)
        assert "secret.png" not in str(told.value).replace(path, "")


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/../../out.txt", "C:/out.txt"])
def test_no_file_leaves_the_folder(tmp_path, name: str) -> None:
    with pytest.raises(RequestError, match="leads out"):
        unpack(packed(tmp_path, {name: b"x"}), tmp_path / "deep" / "out", most_bytes=100)
    assert not list(tmp_path.rglob("out.txt"))


def test_a_link_is_refused(tmp_path) -> None:
    entry = zipfile.ZipInfo("fox/first_frame.png")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "items.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(RequestError, match="leads out"):
        unpack(tmp_path / "items.zip", tmp_path / "out", most_bytes=100)


def test_a_file_that_swells_is_stopped_while_it_does(tmp_path) -> None:
    bomb = packed(tmp_path, {"fox/ours.mp4": bytes(5 * 2**20)})
    assert bomb.stat().st_size < 20_000
    with pytest.raises(RequestError, match="more than 1 MB"):
        read_upload(bomb, tmp_path / "out", LIMITS)
    assert (tmp_path / "out" / "fox" / "ours.mp4").stat().st_size <= 2**20 + 1
    many = packed(tmp_path, {f"{k}": b"" for k in range(MOST_FILES + 1)})
    with pytest.raises(RequestError, match=f"at most {MOST_FILES}"):
        read_upload(many, tmp_path / "again", LIMITS)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"no zip", "no ZIP file"), (b"", "no ZIP file"), (None, "holds no items")],
)
def test_what_is_no_archive_or_empty_is_told(tmp_path, content: bytes | None, said: str) -> None:
    empty = io.BytesIO()
    with zipfile.ZipFile(empty, "w"):
        pass
    path = tmp_path / "items.zip"
    path.write_bytes(empty.getvalue() if content is None else content)
    with pytest.raises(RequestError, match=said) as told:
        read_upload(path, tmp_path / "out", LIMITS)
    assert str(tmp_path) not in str(told.value)
