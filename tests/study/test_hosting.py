"""Behind a proxy, below a path: a rater's whole way, and the page's, as a browser goes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from daily import some_daily
from example_requests import request_of
from fastapi import FastAPI
from fastapi.testclient import TestClient
from postgres import database_of_pages  # noqa: F401
from serving import ROOT, RunningApp
from starlette.routing import Mount
from tiny_proxy import Habits, TinyProxy
from tiny_study import SECRET, make_study, served

from motion_app.errors import RequestError
from motion_app.settings import OPTIONS, Limits, Settings
from motion_app.study.answers import Study
from motion_app.study.site.address import PublicAddress
from motion_app.study.site.app import StudySettings, build_site, build_study_app, study_secret

NAME, PREFIX, PUBLIC = "0123456789abcdef", "/motion", "http://lab.example"
# What a proxy does, and the least that must be set for it.
PROXIES = [
    pytest.param(Habits(PREFIX, strips, keeps_host, tells), root, id=name)
    for strips, way in ((True, "strips"), (False, "keeps"))
    for keeps_host, tells, root, name in (
        (True, False, PREFIX, f"{way}-path-keeps-host"),
        (False, True, PREFIX, f"{way}-path-tells-host"),
        (False, False, PUBLIC + PREFIX, f"{way}-path-hides-host"),
    )
]


class Browser:
    """Somebody who has typed ``http://lab.example/motion/…``, which a proxy at ``address`` serves;
    plain HTTP, over which browsers send ``Origin`` alone."""

    def __init__(self, address: str) -> None:
        self.client = httpx.Client(base_url=address, headers={"Host": "lab.example"}, timeout=120)
        self.page = PUBLIC + "/"

    def get(self, link: str, **headers: str) -> httpx.Response:
        url = urljoin(self.page, link)
        assert url.startswith(f"{PUBLIC}{PREFIX}/"), f"{link} leads out of the proxy"
        came = self.client.get(url.removeprefix(PUBLIC), headers=headers)
        if came.is_redirect:
            return self.get(urljoin(url, came.headers["location"]), **headers)
        return came

    def open(self, link: str) -> str:
        """A page; what follows is relative to its base."""
        came = self.get(link, Accept="text/html")
        assert came.status_code == 200, came.text
        self.page = urljoin(self.page, link)
        based = re.search(r'<base href="([^"]*)"', came.text)
        self.page = urljoin(self.page, based[1]) if based else self.page
        return came.text

    def post(self, link: str, body: object, **headers: str) -> httpx.Response:
        path = urljoin(self.page, link).removeprefix(PUBLIC)
        return self.client.post(path, json=body, headers={"Origin": PUBLIC, **headers})


def take_part(browser: Browser, study: Study, link: str) -> None:
    """Entrance, style and scripts, consent, media in parts, answers, code."""
    page = browser.open(link)
    for found in re.findall(r'(?:href|src)="(static/[^"]+)"', page):
        assert browser.get(found).status_code == 200, found
    script = browser.get("static/rater.js").text
    for name in re.findall(r'from "\./([\w.]+)"', script):
        assert browser.get(f"static/{name}").status_code == 200, name
    entry = {"open": link.rpartition("/")[2], "browser": "0" * 32}
    looked = browser.post("api/enter", entry)
    assert looked.status_code == 200 and looked.json()["token"] is None, looked.text
    token = browser.post("api/enter", {**entry, "agreed": True}).json()["token"]
    mine = {"Authorization": f"Rater {token}"}
    session = browser.get("api/session", **mine).json()
    for number in range(session["practice"] + session["items"]):
        item = browser.get(f"api/items/{number}", **mine).json()
        for media in (item["first_frame"], *item["references"], *item["candidates"]):
            whole, part = browser.get(media), browser.get(media, Range="bytes=4-11")
            assert whole.status_code == 200 and part.status_code == 206
            assert part.content == whole.content[4:12]
        answer = {"number": number, "item": item["id"], "choice": 1, "coverage": [1.0] * 3}
        for k, question in enumerate(session["questions"]):
            sent = {**answer, "id": f"{number:016x}{k:016x}", "question": question["id"]}
            assert browser.post("api/answers", sent, **mine).json()["saved"]
    code = browser.post("api/finish", {}, **mine).json()["code"]
    assert code == study.archive.links.completion_code(study.archive.links.rater(token))


def administer(browser: Browser, link: str, secret: str) -> None:
    browser.open(link)
    form = urljoin(browser.page, "admin/login").removeprefix(PUBLIC)
    signed_in = browser.client.post(form, data={"secret": secret}, headers={"Origin": PUBLIC})
    assert signed_in.status_code == 303
    assert urljoin(browser.page, signed_in.headers["location"]) == urljoin(browser.page, "admin/")
    cookie = signed_in.headers["set-cookie"].partition(";")[0]
    assert browser.get("admin/api/progress", Cookie=cookie).json()["seats"]["finished"] == 1


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    made = make_study(tmp_path / "studies" / NAME, items=1, practice=1)
    yield made
    made.close()


@pytest.mark.parametrize(("habits", "root"), PROXIES)
def test_the_studies_alone_behind_a_proxy_take_a_rater_from_entrance_to_code(
    study: Study, habits: Habits, root: str
) -> None:
    settings = StudySettings(
        study.archive.folder.parent, admin_secret=SECRET, public=PublicAddress.parse(root)
    )
    with (
        served(build_study_app(settings)) as server,
        served(TinyProxy(server, habits)) as address,
    ):
        browser = Browser(address)
        take_part(browser, study, f"{PREFIX}/{NAME}/r/{study.archive.links.open_token()}")
        administer(browser, f"{PREFIX}/{NAME}/admin", SECRET)
        assert "There is no such page" in browser.get(f"{PREFIX}/none/", Accept="text/html").text
        assert browser.get(f"{PREFIX}/{NAME}").status_code == 200  # by way of a redirection


@pytest.mark.parametrize(("habits", "root"), [case for case in PROXIES if case.values[1] == PREFIX])
def test_studies_mounted_in_an_app_that_only_knows_its_root_path_find_themselves(
    study: Study, habits: Habits, root: str
) -> None:
    outer = FastAPI()
    outer.root_path = root  # as gradio sets it: the path stays as the proxy sent it
    settings = StudySettings(study.archive.folder.parent, admin_secret=SECRET)
    outer.router.routes.insert(0, Mount("/study", build_study_app(settings)))
    with served(outer) as server, served(TinyProxy(server, habits)) as address:
        browser = Browser(address)
        take_part(browser, study, f"{PREFIX}/study/{NAME}/r/{study.archive.links.open_token()}")
        administer(browser, f"{PREFIX}/study/{NAME}/admin/", SECRET)


def make_video(browser: Browser) -> httpx.Response:
    """A video by the page's API, fetched from the address that it is said to be at."""
    call = "gradio_api/call/generate"
    request = request_of("circle", 0, steps=2)
    event = browser.post(call, {"data": [request, False]}).json()["event_id"]
    events = browser.get(f"{call}/{event}").text
    assert "event: complete" in events, events
    (made,) = json.loads(events.rpartition("data: ")[2])
    video = browser.get(made["video"]["url"], Range="bytes=4-7")
    assert video.status_code == 206 and video.content == b"ftyp"
    return video


# Each is a start of the whole app with its model; the studies' own half is held above for both.
@pytest.mark.parametrize("root", some_daily([PREFIX, PUBLIC + PREFIX], PUBLIC + PREFIX))
def test_the_app_behind_proxies_gives_addresses_that_lead_back_through_them(
    tmp_path: Path, root: str
) -> None:
    study = make_study(tmp_path / "outputs" / "studies" / NAME, items=1, practice=1)
    habits = [case.values[0] for case in PROXIES if case.values[1] == root]
    variable = {PREFIX: "GRADIO_ROOT_PATH", PUBLIC + PREFIX: "MOTION_APP_ROOT_PATH"}[root]
    named = {} if root == PUBLIC + PREFIX else {"MOTION_APP_HOSTS": "lab.example"}
    with RunningApp(tmp_path, **{variable: root}, **named) as app:
        for number, habit in enumerate(habits):
            with served(TinyProxy(app.url, habit)) as address:
                browser = Browser(address)
                page = browser.open(f"{PREFIX}/")
                config = re.search(r'"root":\s*"([^"]*)"', page)
                assert config is not None and config[1] == PUBLIC + PREFIX
                for asset in re.findall(r'(?:href|src)="(\./assets/[^"]+)"', page):
                    assert browser.get(asset).status_code == 200
                assert browser.get("./zh").status_code == 200
                assert browser.get(f"{PREFIX}/gradio_api/info").status_code == 200
                make_video(browser)
                if number == 0:
                    take_part(
                        browser, study, f"./study/{NAME}/r/{study.archive.links.open_token()}"
                    )
                    secret = study_secret(study.archive.folder)
                    administer(browser, f"{PREFIX}/study/{NAME}/admin/", secret)
    study.close()


def test_the_studies_alone_take_their_root_path_from_a_flag(tmp_path: Path) -> None:
    study = make_study(tmp_path / "outputs" / "studies" / NAME, items=1, practice=1)
    habits = Habits(PREFIX, strips=True, keeps_host=False)
    flags = ("--study-only", "--root-path", f"{PUBLIC}{PREFIX}/")
    with RunningApp(tmp_path, *flags) as app, served(TinyProxy(app.url, habits)) as address:
        take_part(Browser(address), study, f"{PREFIX}/{NAME}/r/{study.archive.links.open_token()}")
        assert f"* Studies on {PUBLIC}{PREFIX}/NAME/" in app.log.read_text()
    study.close()


@pytest.mark.parametrize(
    ("given", "path", "origin"),
    [
        ("", "", ""),
        ("/", "", ""),
        ("/motion/", "/motion", ""),
        ("/user/anna@lab.example/proxy/7860/", "/user/anna@lab.example/proxy/7860", ""),
        ("https://Lab.Example", "", "https://lab.example"),
        ("http://lab.example:8080/a/b-c", "/a/b-c", "http://lab.example:8080"),
    ],
)
def test_a_root_path_is_a_path_or_a_whole_address(given: str, path: str, origin: str) -> None:
    public = PublicAddress.parse(given)
    assert (public.path, public.origin, str(public)) == (path, origin, origin + path)


@pytest.mark.parametrize(
    "given", ["motion", "lab.example/motion", "/a/../b", "/a b", "/a?b", "ftp://lab.example"]
)
def test_a_root_path_that_is_none_is_refused_with_what_is_expected(given: str) -> None:
    with pytest.raises(RequestError, match="https://lab.example/motion"):
        PublicAddress.parse(given)


@pytest.mark.parametrize(
    ("proxies", "client", "believed"),
    [
        (None, "127.0.0.1", True),
        (None, "203.0.113.9", False),
        (None, "unix", False),
        ("10.0.0.0/8, 192.168.1.7", "10.2.3.4", True),
        ("10.0.0.0/8, 192.168.1.7", "192.168.1.7", True),
        ("10.0.0.0/8, 192.168.1.7", "127.0.0.1", False),
        ("*", "203.0.113.9", True),
        ("", "127.0.0.1", False),
    ],
)
def test_a_forwarded_host_is_believed_from_the_proxies_that_are_named(
    study: Study,
    monkeypatch: pytest.MonkeyPatch,
    proxies: str | None,
    client: str,
    believed: bool,
) -> None:
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    if proxies is not None:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", proxies)
    site = build_site(study, admin_secret=SECRET)
    entry = {"open": study.archive.links.open_token()}
    headers = {"Host": "127.0.0.1:7860", "Origin": PUBLIC, "X-Forwarded-Host": "lab.example"}
    with TestClient(site, client=(client, 50_000)) as caller:
        came = caller.post("/api/enter", json=entry, headers=headers)
        assert came.status_code == (200 if believed else 403)
        foreign = {**headers, "Origin": "http://evil.example"}
        refused = caller.post("/api/enter", json=entry, headers=foreign)
        assert refused.status_code == 403
        assert "http://evil.example is not 127.0.0.1:7860" in refused.json()["error"]
        for origin in ("http://evil.example", PUBLIC):  # over HTTPS the browser itself says so
            said = {**headers, "Origin": origin, "Sec-Fetch-Site": "cross-site"}
            assert caller.post("/api/enter", json=entry, headers=said).status_code == 403


def test_a_public_address_is_an_origin_of_the_studys_own_and_no_other_is(
    study: Study,
) -> None:
    public = PublicAddress.parse(f"{PUBLIC}{PREFIX}")
    with TestClient(build_site(study, admin_secret=SECRET, public=public)) as caller:
        for origin, status in (
            (PUBLIC, 200),
            ("http://testserver", 200),
            ("https://lab.example", 403),
            ("http://lab.example:81", 403),
            ("http://lab.example.evil.example", 403),
            ("null", 403),
        ):
            entry = {"open": study.archive.links.open_token()}
            came = caller.post("/api/enter", json=entry, headers={"Origin": origin})
            assert came.status_code == status, origin


def test_the_examples_of_the_guide_hold_the_settings_that_it_names() -> None:
    guide = (ROOT / "docs" / "hosting.md").read_text(encoding="utf-8")
    for name in ("MOTION_APP_ROOT_PATH", "GRADIO_ROOT_PATH", "--root-path", "FORWARDED_ALLOW_IPS"):
        assert name in guide
    named = {name.lower().partition("__") for name in re.findall(r"MOTION_APP_([A-Z_]+)", guide)}
    assert {field for field, _, _ in named} <= {*Settings.model_fields, *OPTIONS}
    # "MOTION_APP_LIMITS__" alone stands for all of them.
    limits = {limit for field, under, limit in named if under and limit}
    assert limits and limits <= set(Limits.model_fields)
    assert {field for field, under, _ in named if under} == {"limits"}


def test_the_table_of_what_is_promised_names_tests_and_limits_that_there_are() -> None:
    guide = (ROOT / "docs" / "hosting.md").read_text(encoding="utf-8")
    table = guide.partition("## What is promised, what limits it, what shows it")[2]
    tests = re.findall(r"`([\w/]+\.py)`", table)
    assert len(tests) > 40
    for name in tests:
        assert (ROOT / "tests" / name).is_file(), name
    rows = [line for line in table.splitlines() if line.startswith("| ") and "promised" not in line]
    assert all(row.rstrip(" |").endswith(("`", ")", "visitors")) for row in rows), (
        "a row has no test"
    )
    limits = {name: field.default for name, field in Limits.model_fields.items()}
    told = re.findall(r"`([a-z]+(?:_[a-z]+)+|jobs|sessions)`[a-z' ]*\(([\d ]+)\)", table)
    assert len(told) > 15
    for name, default in told:
        assert limits[name] == float(default.replace(" ", "")), name
