"""How many places of a study one address takes by the open link, and who is not counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.types import ASGIApp
from tiny_study import SECRET, Caller, make_study
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from motion_app.study.answers import Study
from motion_app.study.links import new_id
from motion_app.study.site.app import StudySettings, build_site, build_study_app
from motion_app.study.site.guard import PLACES_SECONDS, TRIES, Crowded, Newcomers

MOST, PLACES = 3, 20
HERE, THERE = "198.51.100.7", "203.0.113.9"


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Study]:
    """A study with more places than one address may take."""
    study = make_study(tmp_path / "large", raters=PLACES)
    yield study
    study.close()


@pytest.fixture
def site(large: Study) -> ASGIApp:
    return build_site(large, admin_secret=SECRET, raters_per_address=MOST)


def come(
    site: ASGIApp, study: Study, address: str, *, agreed: bool = True, **more: str
) -> httpx.Response:
    """Somebody who was never there before opens the open link from ``address``."""
    entry = {"open": study.archive.links.open_token(), "browser": new_id(), "agreed": agreed}
    headers = {"X-Forwarded-For": more.pop("told")} if "told" in more else {}
    visitor = TestClient(site, client=(address, 50_000))
    return visitor.post("/api/enter", json={**entry, **more}, headers=headers)


def taken(study: Study) -> int:
    with study.archive.reading() as connection:
        free = len(connection.scalars(study.raters._free()).all())
    return PLACES - free


def test_one_visitor_takes_so_many_places_however_many_come_at_once(
    large: Study, site: ASGIApp
) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: come(site, large, HERE), range(16)))
    seated = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len({answer.json()["token"] for answer in seated}) == len(seated) == MOST
    assert taken(large) == MOST
    for answer in refused:
        assert (answer.status_code, answer.json()["reason"]) == (429, "crowded")
        assert 0 < int(answer.headers["retry-after"]) <= PLACES_SECONDS + 1
    looked = come(site, large, HERE, agreed=False)  # told before the consent is read
    assert (looked.status_code, looked.json()["reason"]) == (429, "crowded")
    assert come(site, large, THERE).status_code == 200


def test_who_came_before_and_who_has_a_link_of_ones_own_is_not_counted(
    large: Study, site: ASGIApp
) -> None:
    browsers = [new_id() for _ in range(MOST)]
    tokens = [come(site, large, HERE, browser=one).json()["token"] for one in browsers]
    assert come(site, large, HERE).status_code == 429
    again = [come(site, large, HERE, browser=one).json()["token"] for one in browsers]
    assert again == tokens
    for link in large.raters.hand_out(2 * MOST):
        caller = Caller(TestClient(site, client=(HERE, 50_000)), link)
        assert caller.post("/api/consent", {"agreed": True}).json()["consented"]


def test_two_tabs_of_a_browser_count_once(large: Study) -> None:
    newcomers, browser = Newcomers(2), new_id()
    take: Callable[[], str] = lambda: browser  # noqa: E731
    assert newcomers.seat(HERE, lambda: newcomers.seat(HERE, take)) == browser
    newcomers.check(HERE)
    newcomers.seat(HERE, new_id)
    with pytest.raises(Crowded):
        newcomers.check(HERE)


def test_an_address_takes_places_again_the_next_day_and_refusals_count_nothing() -> None:
    now = [0.0]
    newcomers = Newcomers(1, clock=lambda: now[0])

    def full() -> str:
        raise ValueError("no place")

    with pytest.raises(ValueError, match="no place"):
        newcomers.seat(HERE, full)
    newcomers.seat(HERE, new_id)
    now[0] = PLACES_SECONDS - 1
    with pytest.raises(Crowded) as told:
        newcomers.seat(HERE, new_id)
    assert told.value.seconds == 1 and HERE not in str(told.value)
    now[0] = PLACES_SECONDS
    newcomers.seat(HERE, new_id)


def test_of_ipv6_a_whole_network_is_one_visitor() -> None:
    newcomers = Newcomers(1)
    newcomers.seat("2001:db8::1", new_id)
    with pytest.raises(Crowded):
        newcomers.seat("2001:db8::ffff", new_id)
    newcomers.seat("2001:db8:0:1::1", new_id)


def test_places_taken_and_left_silent_come_back_for_others(tmp_path: Path) -> None:
    study = make_study(tmp_path / "small", raters=MOST, place_hours=2)
    site = build_site(study, admin_secret=SECRET, raters_per_address=MOST)
    assert [come(site, study, HERE).status_code for _ in range(MOST)] == [200] * MOST
    assert come(site, study, THERE).json()["reason"] == "full"
    start = study.archive.clock()
    study.archive.clock = lambda: start + 2.1 * 3600
    assert come(site, study, HERE).json()["reason"] == "crowded"  # not the one who left them
    assert [come(site, study, THERE).status_code for _ in range(MOST)] == [200] * MOST
    study.close()


def test_behind_a_named_proxy_the_forwarded_address_is_counted_and_no_other_header_is(
    large: Study, site: ASGIApp
) -> None:
    behind = ProxyHeadersMiddleware(site, trusted_hosts="10.0.0.0/8")
    for visitor in (HERE, THERE):
        answers = [come(behind, large, "10.0.0.1", told=visitor) for _ in range(MOST + 1)]
        assert [answer.status_code for answer in answers] == [200] * MOST + [429]
    # what a visitor wrote before the proxy added the address is not believed
    assert come(behind, large, "10.0.0.1", told=f"192.0.2.1, {HERE}").status_code == 429
    forged = [come(behind, large, "192.0.2.9", told=f"192.0.2.{n}") for n in range(MOST + 1)]
    assert [answer.status_code for answer in forged] == [200] * MOST + [429]


def test_an_administrator_behind_a_named_proxy_is_not_shut_out_by_other_visitors(
    site: ASGIApp,
) -> None:
    behind = ProxyHeadersMiddleware(site, trusted_hosts="10.0.0.0/8")

    def knock(visitor: str, secret: str, proxy: str = "10.0.0.1", scheme: str = "https") -> Any:
        headers = {"X-Forwarded-For": visitor, "X-Forwarded-Proto": scheme}
        client = TestClient(behind, client=(proxy, 50_000), follow_redirects=False)
        return client.post("/admin/login", data={"secret": secret}, headers=headers)

    assert [knock(HERE, "wrong").status_code for _ in range(TRIES)] == [403] * TRIES
    assert knock(HERE, SECRET).status_code == 429
    opened = knock(THERE, SECRET)
    assert opened.status_code == 303
    assert all("secure" in one.lower() for one in opened.headers.get_list("set-cookie"))
    # from anybody else the header is not believed: who forges it is one visitor, over plain HTTP
    for number in range(TRIES):
        assert knock(f"192.0.2.{number}", "wrong", proxy="192.0.2.9").status_code == 403
    assert knock("192.0.2.77", SECRET, proxy="192.0.2.9").status_code == 429


def test_the_deployments_setting_holds_for_every_study_of_a_folder(tmp_path: Path) -> None:
    study = make_study(tmp_path / "studies" / "one", raters=PLACES)
    settings = StudySettings(tmp_path / "studies", admin_secret=SECRET, raters_per_address=1)
    entry = {"open": study.archive.links.open_token(), "agreed": True}
    with TestClient(build_study_app(settings), client=(HERE, 50_000)) as client:
        codes = [client.post("/one/api/enter", json={**entry, "browser": new_id()}) for _ in "ab"]
    assert [answer.status_code for answer in codes] == [200, 429]
    study.close()
