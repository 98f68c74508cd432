"""``python app.py --study-only``: the studies alone, in a process as a person starts it."""

from __future__ import annotations

import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from serving import RunningApp
from tiny_study import SECRET, make_study

from motion_app.study.answers import Study
from motion_app.study.site.app import StudySettings, build_study_app

NAME = "0123456789abcdef"  # as the Study tab names a study's folder
HEAVY = ("torch", "gradio", "diffusers", "transformers", "plotly", "statsmodels")
START_SECONDS = 3.0  # of the processor's time; on a busy machine the clock's would be others' too


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """A study where the Study tab puts its own."""
    folder = tmp_path_factory.mktemp("app")
    made = make_study(folder / "outputs" / "studies" / NAME)
    yield made
    made.close()


def app(study: Study, **settings: str) -> RunningApp:
    return RunningApp(study.archive.folder.parents[2], "--study-only", **settings)


def fetch(address: str) -> tuple[int, str]:
    request = urllib.request.Request(address, headers={"Accept": "text/html"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_studies_made_in_the_app_are_served_and_nobody_is_told_which_there_are(
    study: Study,
) -> None:
    with app(study) as running:
        status, page = fetch(running.url)
        assert status == 200 and "Please use your own link" in page
        assert NAME not in page and study.archive.config.title not in page
        assert '<a class="secondary" href="~demo/">' in page
        status, page = fetch(f"{running.url}~demo/")
        assert status == 200 and 'data-for="consent"' in page
        status, page = fetch(f"{running.url}{NAME}/r/{study.raters.hand_out(1)[0]}")
        assert status == 200 and f'<base href="/{NAME}/">' in page
        assert fetch(f"{running.url}{NAME}/admin/")[0] == 200
        assert fetch(f"{running.url}elsewhere/")[0] == 404
        assert fetch(f"{running.url}favicon.ico")[0] == 200
    told = running.log.read_text()
    assert "Studies on" in told and "Traceback" not in told


def test_a_study_that_takes_the_name_of_one_that_was_deleted_answers_as_itself(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "studies" / "balls"
    folder.parent.mkdir()
    settings, titles = StudySettings(folder.parent, admin_secret=SECRET), []
    with TestClient(build_study_app(settings)) as client:
        for title in ("One", "Another"):
            study = make_study(folder, raters=1, title=title)
            entry = {"open": study.archive.links.open_token()}
            titles.append(client.post("/balls/api/enter", json=entry).json()["session"]["title"])
            study.close()
            shutil.rmtree(folder)
            assert client.post("/balls/api/enter", json=entry).status_code == 404
    assert titles == ["One", "Another"]


def test_it_starts_in_three_seconds_and_loads_neither_model_nor_page(study: Study) -> None:
    with app(study, PYTHONPROFILEIMPORTTIME="1") as running:
        fields = Path(f"/proc/{running.process.pid}/stat").read_text().rpartition(")")[2].split()
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        fetch(f"{running.url}{NAME}/r/x")
    loaded = set(re.findall(r"^import time:.*\|\s+([\w.]+)$", running.log.read_text(), re.M))
    assert "motion_app.study.site.app" in loaded and len(loaded) > 200
    assert sorted(loaded.intersection(HEAVY)) == []
    assert seconds < START_SECONDS
