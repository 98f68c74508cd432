"""Previews: as a rater and as the administrator, saving nothing, using no place, blind."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from postgres import database_of_pages  # noqa: F401
from tiny_study import METHODS, SECRET, Caller, agreed, answer_everything, make_study

from motion_app.study.answers import Study
from motion_app.study.demo import preview_visits
from motion_app.study.site.app import build_site
from motion_app.study.unblinding import record


@pytest.fixture
def admin(client: TestClient) -> TestClient:
    assert client.post("/admin/login", data={"secret": SECRET}).status_code == 200
    return client


class PreviewRater(Caller):
    """Calls below the preview's own address."""

    def __init__(self, client: TestClient) -> None:
        page = client.post("/admin/preview/rater")
        assert page.status_code == 200 and 'data-for="consent"' in page.text
        self.home, _, token = page.url.path.partition("r/")
        super().__init__(client, token)

    def get(self, path: str):
        return super().get(self.home + path.lstrip("/"))

    def post(self, path: str, body: object):
        return super().post(self.home + path.lstrip("/"), body)


def test_a_rater_s_preview_is_the_rater_s_page_and_leaves_nothing(
    admin: TestClient, study: Study
) -> None:
    rater = PreviewRater(admin)
    session = rater.get("api/session").json()
    assert session["trial"] == "preview" and session["title"] == "Rolling balls"
    assert rater.post("api/consent", {"agreed": True}).status_code == 200
    answer_everything(rater)
    assert rater.post("api/finish", {}).json()["report"] == "report"
    shown = rater.get("report")
    assert shown.url.path == f"{rater.home}admin/"
    progress = admin.get("/admin/api/progress").json()
    assert progress["answers"] == progress["seats"]["joined"] == 0
    assert admin.get("/admin/api/links").json()["personal"] == [] and record(study.archive) == []
    assert [path.name for path in study.archive.folder.iterdir() if path.is_dir()] == ["media"]


def test_the_administrator_s_preview_shows_results_by_simulated_raters_with_other_names(
    admin: TestClient,
) -> None:
    page = admin.post("/admin/preview/admin")
    assert page.status_code == 200 and "nothing here is kept" in page.text
    home = page.url.path.removesuffix("admin/")
    assert admin.post(f"{home}admin/api/unblind", json={"confirm": "Rolling balls"}).is_success
    report = admin.get(f"{home}admin/api/results").json()
    assert sorted(report["methods"]) == ["Method 1", "Method 2", "Method 3"]
    assert len(report["raters"]) == 7
    told = json.dumps(report) + admin.get(f"{home}admin/api/progress").text
    assert not any(method in told for method in METHODS)
    assert admin.post(f"{home}admin/preview/rater").status_code == 404  # none of a preview
    assert admin.get("/admin/api/results").status_code == 403  # the study itself is blind


def test_nobody_but_the_administrator_begins_one(client: TestClient, study: Study) -> None:
    assert client.post("/admin/preview/rater").status_code == 401
    assert client.get("/~preview/").status_code == 404
    assert client.get(f"/~preview/{'0' * 32}/admin/api/results").status_code == 404
    agreed(client, study)
    assert client.post("/admin/preview/admin").status_code == 401


@pytest.mark.parametrize("form", ["single", "pair", "best_worst"])
def test_every_form_can_be_previewed_with_its_own_plan(tmp_path, form: str) -> None:
    study = make_study(tmp_path / "study", form=form, items=3, link_days=1)
    visits = preview_visits(study.archive)
    visit = visits.find(visits.begin())
    config = visit.study.archive.config
    assert config.form == form and config.link_days is None
    assert config.consent == study.archive.config.consent
    own, shown = study.archive.items, visit.study.archive.items
    assert set(shown) == set(own)
    for name, item in shown.items():
        assert set(item.candidates.values()) == set(own[name].candidates.values())
    visits.close()
    study.close()


def test_a_link_s_code_is_read_by_a_camera(admin: TestClient) -> None:
    address = "https://lab.example/study/0123/r/" + "a" * 32
    drawn = admin.post("/admin/api/qr", json={"address": address})
    assert drawn.headers["content-type"] == "image/svg+xml"
    side = int(drawn.text.split('viewBox="0 0 ')[1].split(" ")[0])
    picture = np.full((side, side), 255, np.uint8)
    for square in drawn.text.rsplit('<path d="', 1)[1].split("M")[1:]:
        x, y = square.split("h", 1)[0].split(" ")
        picture[int(y), int(x)] = 0
    large = cv2.copyMakeBorder(
        cv2.resize(picture, None, fx=6, fy=6, interpolation=cv2.INTER_NEAREST),
        *(40, 40, 40, 40),
        cv2.BORDER_CONSTANT,
        value=255,
    )
    assert cv2.QRCodeDetector().detectAndDecode(large)[0] == address
    assert admin.post("/admin/api/qr", json={"address": "x" * 501}).status_code == 400


def test_links_tell_their_place_and_when_they_end(tmp_path) -> None:
    study = make_study(tmp_path / "study", link_days=2)
    with TestClient(build_site(study, admin_secret=SECRET)) as client:
        client.post("/admin/login", data={"secret": SECRET})
        first, second = client.post("/admin/api/links", json={"count": 2}).json()["personal"]
        assert (first["number"], second["number"]) == (0, 1) and first["expires"] is None
        Caller(client, first["page"].removeprefix("r/")).get("/api/session")
        links = client.get("/admin/api/links").json()
    joined = study.raters.links()[0].joined
    assert links["personal"][0]["expires"] == joined + 2 * 86_400 and links["link_days"] == 2
    study.close()


def test_items_tell_their_votes_and_whose_each_video_is_once_unblinded(
    admin: TestClient, study: Study
) -> None:
    answer_everything(agreed(admin, study))
    assert admin.get("/admin/api/progress").json()["raters"][0]["coverage"] == 1.0
    admin.post("/admin/api/unblind", json={"confirm": "Rolling balls"})
    scenes = admin.get("/admin/api/results").json()["scenes"]
    assert [scene["name"] for scene in scenes] == ["scene 2", "scene 3"]
    by_name = {item.name: item for item in study.archive.items.values()}
    for scene in scenes:
        item = by_name[scene["name"]]
        assert scene["raters"] == 1 and all(sum(votes) == 1 for votes in scene["votes"].values())
        assert scene["candidates"] == [f"media/{item.candidates[method]}" for method in METHODS]
