"""The demo study: what ships, whose it is, what is left of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient
from tiny_study import Caller, answer_everything

from motion_app.errors import RequestError
from motion_app.media.files import read_clip
from motion_app.study.demo import TrialVisits, demo_visits
from motion_app.study.demo_content import SHIPPED, SIMULATED, read_demo
from motion_app.study.site.app import StudyHall, StudySettings, build_study_app
from motion_app.study.unblinding import answer_rows, overview

SHOWN = 6


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(build_study_app(StudySettings(folder))) as made:
        yield made


@pytest.fixture(scope="module")
def visits() -> Iterator[TrialVisits]:
    made = demo_visits(clock=Clock(), most=3)
    yield made
    made.close()


class Visitor(Caller):
    """Somebody who opened the demo; calls go below the visit's own address."""

    def __init__(self, client: TestClient) -> None:
        page = client.get("/~demo/?lang=en")
        assert page.status_code == 200 and 'data-for="consent"' in page.text
        self.home = re.search(r'<base href="([^"]+)"', page.text)[1]
        super().__init__(client, page.url.path.rpartition("/")[2])

    def get(self, path: str):
        return self.client.get(self.home + path.lstrip("/"), headers=self.headers)

    def post(self, path: str, body: object):
        return self.client.post(self.home + path.lstrip("/"), headers=self.headers, json=body)

    def answer(self, number: int, question: str, choice: int, /, **changed: object):
        return super().answer(number, question, choice, coverage=[1.0] * SHOWN, **changed)


def test_three_scenes_of_six_videos_ship_in_less_than_3_mb() -> None:
    content = read_demo()
    main = [item for item in content.items if item.kind == "main"]
    assert len(main) == 3 and all(len(item.candidates) == SHOWN for item in main)
    files = [file for file in SHIPPED.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 3e6
    named = {
        name
        for item in content.items
        for name in (item.first_frame, *item.references, *item.candidates.values())
    }
    assert named == {file.name for file in (SHIPPED / "media").iterdir()}
    video = content.video
    for name in main[0].candidates.values():
        clip = read_clip(SHIPPED / "media" / name)
        assert clip.frames.shape == (video.frames, video.height, video.width, 3)


def test_it_is_rated_blind_and_then_its_report_names_the_methods(
    client: TestClient, folder: Path
) -> None:
    visitor = Visitor(client)
    methods = read_demo().methods
    session = visitor.get("api/session").json()
    assert "Nothing that you answer is kept" in session["consent"]
    assert not visitor.get("report").url.path.endswith("/admin/")  # not before all is answered
    visitor.post("api/consent", {"agreed": True})
    told = [visitor.get(f"api/items/{number}") for number in range(4)]
    assert not any(method in came.text for method in methods for came in told)
    assert visitor.get(told[1].json()["candidates"][0]).headers["content-type"] == "video/mp4"
    answer_everything(visitor, choice=2)
    assert visitor.post("api/finish", {}).json()["report"] == "report"
    page = visitor.get("report?lang=zh")
    assert page.url.path == f"{visitor.home}admin/" and 'lang="zh-Hans"' in page.text
    report = visitor.get("admin/api/results").json()
    assert report["methods"] == list(methods) and len(report["raters"]) == SIMULATED + 1
    assert {share["total"] for share in report["questions"][0]["shares"]} == {3 * (SIMULATED + 1)}
    assert list(folder.iterdir()) == []  # nothing of it is where studies lie


def test_visitors_share_nothing_and_cannot_find_each_other(client: TestClient) -> None:
    one, other = Visitor(client), Visitor(client)
    assert one.home != other.home and one.headers != other.headers
    one.post("api/consent", {"agreed": True})
    assert one.answer(1, "MF", 3).status_code == 200
    assert other.get("api/session").json()["consented"] is False
    other.headers, other.home = one.headers, other.home
    assert other.get("api/session").status_code == 401  # a link of one opens nothing of another
    gone = client.get(urljoin(one.home, "../" + "0" * 32 + "/api/session"))
    assert gone.status_code == 404 and "visit is over" in gone.json()["error"]


def test_one_that_is_over_begins_anew_where_a_page_is_asked_for(client: TestClient) -> None:
    page = client.get(f"/~demo/{'0' * 32}/r/here.x", headers={"accept": "text/html"})
    assert page.status_code == 200 and 'data-for="consent"' in page.text


@pytest.mark.parametrize(
    ("frames", "policy"),
    [((), "frame-ancestors 'self'"), (("*",), "frame-ancestors *")],
)
def test_the_app_s_page_may_frame_it_and_no_study(
    folder: Path, frames: tuple[str, ...], policy: str
) -> None:
    with TestClient(build_study_app(StudySettings(folder, frames=frames))) as visitor:
        page = visitor.get("/~demo/")
        assert policy in page.headers["content-security-policy"]
        assert page.headers["x-frame-options"] == "SAMEORIGIN"
        own = visitor.get("/", headers={"accept": "text/html"})
        assert "frame-ancestors 'none'" in own.headers["content-security-policy"]


def test_seven_simulated_raters_have_answered_and_one_place_is_the_visitor_s(
    visits: TrialVisits,
) -> None:
    visit = visits.find(visits.begin())
    raters = overview(visit.study.archive).raters
    assert [rater.finished is not None for rater in raters] == [True] * SIMULATED + [False]
    with pytest.raises(RequestError, match="hidden until"):
        answer_rows(visit.study.archive)
    assert visit.study.raters.join(visit.token).number == SIMULATED


def test_few_visits_are_kept_and_those_that_rest_go(visits: TrialVisits) -> None:
    names = [visits.begin() for _ in range(3)]
    folders = [visits.find(name).folder for name in names]
    visits.clock.now += visits.seconds / 2
    assert visits.find(names[0]) is not None  # used just now
    newest = visits.begin()
    assert visits.find(names[1]) is None and not folders[1].exists()
    assert all(visits.find(name) is not None for name in (names[0], names[2], newest))
    visits.clock.now += visits.seconds + 1
    assert visits.find(newest) is None and not any(folder.exists() for folder in folders)


def test_where_the_demo_is_missing_studies_go_on(folder: Path, tmp_path: Path) -> None:
    hall = StudyHall(StudySettings(folder))
    hall.demo.hall.visits = demo_visits(tmp_path)
    visitor = TestClient(hall)
    refused = visitor.get("/~demo/")
    assert refused.status_code == 503 and str(tmp_path) not in refused.text
    assert visitor.get("/").status_code == 200
