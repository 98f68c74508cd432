"""A study on a full disk: what was acknowledged stays, what is refused is told in a sentence, data
can be taken back, and it goes on where there is room again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from disk_faults import FullFrom, fill, small_disk, without_rights
from fastapi.testclient import TestClient
from test_study_items import draw_items
from tiny_study import METHODS, SECRET, Caller, make_study

from motion_app.errors import MotionAppError, server_fault
from motion_app.study.answers import Study
from motion_app.study.creation import create_study
from motion_app.study.site.app import (
    SECRET_FILE,
    StudySettings,
    build_study_app,
    open_site,
    study_secret,
)
from motion_app.study.site.app import logger as site_logger
from motion_app.study.sources import read_sources
from motion_app.study.unblinding import answer_rows, unblind

QUESTION, MOST_ANSWERS = "MF", 4000


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", 4096) as folder:
        yield folder


def enter(client: TestClient, study: Study) -> Caller:
    (token,) = study.raters.hand_out(1)
    caller = Caller(client, token)
    assert caller.post("/api/consent", {"agreed": True}).json()["consented"]
    return caller


def refused_in_a_sentence(response: httpx.Response, folder: Path) -> None:
    assert response.status_code == 503, response.text
    assert "send it again" in response.json()["error"]
    assert str(folder) not in response.text and "INSERT" not in response.text


def test_acknowledged_answers_stay_on_a_full_disk_and_data_can_be_deleted(full_disk: Path) -> None:
    folder = full_disk / "study"
    study = make_study(folder, raters=3)
    study.close()
    site = open_site(folder, StudySettings(folder, admin_secret=SECRET))
    study = Study.open(folder)  # the same database, as another program has it
    with TestClient(site, raise_server_exceptions=False) as client:
        first, second = enter(client, study), enter(client, study)
        assert first.answer(2, QUESTION, 1).status_code == 200
        assert second.answer(2, QUESTION, 2).status_code == 200
        ballast = fill(full_disk)
        kept = 1  # what the database's own files have room for is still taken
        for change in range(MOST_ANSWERS):
            response = first.answer(2, QUESTION, change % 3 + 1, changes=change)
            if response.status_code != 200:
                break
            kept = change % 3 + 1
        refused_in_a_sentence(response, full_disk)
        refused_in_a_sentence(first.answer(3, QUESTION, 1), full_disk)
        rater = study.raters.join(first.headers["Authorization"][6:]).id
        assert study.answers.trial(rater, 2).answers == {QUESTION: kept}
        assert client.get("/r/x").status_code == 200  # pages and clips are served all the same
        assert second.post("/api/delete", {"sure": True}).json() == {"deleted": 1}
        assert second.get("/api/session").status_code == 401
        ballast.unlink()
        assert first.answer(3, QUESTION, 1).status_code == 200
    study.close()
    again = Study.open(folder)  # a restart
    unblind(again.archive)
    rows = {(row.item, row.place) for row in answer_rows(again.archive)}
    assert {place for _, place in rows} == {kept, 1} and len(rows) == 2
    again.close()


def test_a_study_that_finds_no_room_is_refused_in_a_sentence_and_leaves_nothing(
    tmp_path: Path, full_disk: Path
) -> None:
    sources = read_sources(draw_items(tmp_path / "items", 1, methods=METHODS))
    folder = full_disk / "made"
    ballast = fill(full_disk)
    with pytest.raises((MotionAppError, OSError)) as told:
        create_study(folder, sources, title="T", raters=1, practice=0, gold=0)
    said = str(told.value)
    if isinstance(told.value, OSError):  # as the page tells it
        said = server_fault(site_logger, told.value)
        assert "disk is full" in said
    assert str(tmp_path) not in said
    assert not [path for path in folder.rglob("*") if path.is_file()]
    ballast.unlink()
    study = create_study(folder, sources, title="T", raters=1, practice=0, gold=0).study
    study.close()


def test_a_study_is_whole_or_not_there_at_whatever_moment_the_disk_is_full(tmp_path: Path) -> None:
    sources = read_sources(draw_items(tmp_path / "items", 1, methods=METHODS))
    for moment in (0, 1, 2, 4, 8, 16, 32, 64, 128):
        folder = tmp_path / f"made-{moment}"
        with FullFrom(folder, moment) as disk:
            try:
                create_study(folder, sources, title="T", raters=1, practice=0, gold=0).study.close()
            except (MotionAppError, OSError):
                assert disk.asked > moment
        if disk.asked <= moment:
            break
        assert not [path for path in folder.rglob("*") if path.is_file()], moment
    assert moment > 4 and Study.open(folder).archive.config.title == "T"


def test_a_folder_that_may_not_be_written_refuses_in_a_sentence() -> None:
    with TemporaryDirectory() as place:
        studies = Path(place) / "studies"
        study = make_study(studies / "one", raters=1)
        entry = {"open": study.archive.links.open_token(), "agreed": True}
        study.close()
        Path(place).chmod(0o755)
        for path in (studies, *studies.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)

        with (
            without_rights(),
            TestClient(
                build_study_app(StudySettings(studies, admin_secret=SECRET)),
                raise_server_exceptions=False,
            ) as client,
        ):
            answer = client.post("/one/api/enter", json=entry)
            assert answer.status_code == 503 and place not in answer.text
            assert len(answer.json()["error"]) > 10
            assert client.get("/").status_code == 200
        for path in (studies, *studies.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        with TestClient(build_study_app(StudySettings(studies, admin_secret=SECRET))) as client:
            assert client.post("/one/api/enter", json=entry).status_code == 200


def test_a_secret_is_whole_or_not_there_and_made_when_there_is_room(full_disk: Path) -> None:
    ballast = fill(full_disk)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            study_secret(full_disk)
        left = [path for path in full_disk.iterdir() if path != ballast]
        assert not [path for path in left if path.stat().st_size]
    ballast.unlink()
    secret = study_secret(full_disk)
    assert len(secret) > 12 and (full_disk / SECRET_FILE).read_text().strip() == secret
    fill(full_disk)
    assert study_secret(full_disk) == secret


def test_a_corrupt_study_among_others_hides_none(tmp_path: Path) -> None:
    study = make_study(tmp_path / "studies" / "good", raters=1)
    token = study.archive.links.open_token()
    study.close()
    for name, spoiled in (("torn", "study.json"), ("rotten", "study.sqlite")):
        shutil.copytree(tmp_path / "studies" / "good", tmp_path / "studies" / name)
        (tmp_path / "studies" / name / spoiled).write_bytes(b"\xff" * 5000)
    settings = StudySettings(tmp_path / "studies", admin_secret=SECRET)
    with TestClient(build_study_app(settings), raise_server_exceptions=False) as client:
        for name in ("torn", "rotten"):
            refused = client.post(f"/{name}/api/enter", json={"open": token})
            assert refused.status_code == 503 and str(tmp_path) not in refused.text
            assert "cannot be opened" in refused.json()["error"]
        assert client.post("/good/api/enter", json={"open": token}).status_code == 200
