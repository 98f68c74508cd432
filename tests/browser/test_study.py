"""A rater's whole visit in a real browser, on a real study."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import postgres
import pytest
from daily import some_daily
from playwright.sync_api import Browser, BrowserContext, Page, expect
from tiny_study import SECRET, make_study, served
from visits import DESKTOP, PATIENCE, PHONE

from motion_app.media.files import write_video
from motion_app.study.answers import Study
from motion_app.study.links import Recruit
from motion_app.study.site import rater as rater_page
from motion_app.study.site.app import build_site
from motion_app.study.unblinding import answer_rows, overview, unblind


@pytest.fixture
def study(tmp_path: Path, database: str | None) -> Iterator[Study]:
    made = make_study(tmp_path / "study", database=database)
    yield made
    made.close()


@pytest.fixture
def address(study: Study) -> Iterator[str]:
    with served(build_site(study, admin_secret=SECRET)) as url:
        yield url


@pytest.fixture
def context(browser: Browser) -> BrowserContext:
    return browser.new_context(viewport=DESKTOP, locale="en-GB")


def visit(context: BrowserContext, address: str, token: str) -> Page:
    page = context.new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(f"{address}/r/{token}")
    return page


def begin(page: Page) -> None:
    page.locator("#agree").check()
    page.locator("#begin").click()
    expect(page.locator("#place")).to_have_text("Practice 1 of 2")


def watch(page: Page) -> None:
    expect(page.locator("#panel:not(.locked)")).to_be_visible(timeout=PATIENCE)
    expect(page.locator(".tile.watched")).to_have_count(page.locator(".tile").count())


def answer(page: Page, place: int) -> None:
    for row in page.locator(".choices").all():
        row.locator(f"input[value='{place}']").check(force=True)


def practise(page: Page, study: Study, token: str) -> None:
    """Both practice items, right at once, and on to the first item of the study."""
    rater = study.archive.links.rater(token)
    right = {item.candidates[item.answer] for item in study.archive.items.values() if item.answer}
    for number in (0, 1):
        expect(page.locator("#place")).to_have_text(f"Practice {number + 1} of 2")
        watch(page)
        shown = study.answers.trial(rater, number).candidates
        answer(page, next(k for k, name in enumerate(shown, start=1) if name in right))
        page.locator("#next").click()
        expect(page.locator("fieldset.right")).to_have_count(4)
        expect(page.locator("#next")).to_have_text("Continue")
        page.locator("#next").click()
    page.locator("#start-study").click()
    expect(page.locator("#place")).to_have_text("Item 1 of 2")


def after_practice(context: BrowserContext, study: Study, address: str) -> tuple[Page, str]:
    """The page of one who agreed and practised in another browser, at the study's first item; and
    the link's token."""
    token = study.raters.hand_out(1)[0]
    rater = study.raters.consent(study.raters.join(token).id).id
    for number in (0, 1):
        study.answers.practise(rater, number, dict.fromkeys(study.archive.config.asked, 1))
    page = visit(context, address, token)
    expect(page.locator("#place")).to_have_text("Item 1 of 2")
    return page, token


def fetched_ahead(page: Page, media: Sequence[str]) -> None:
    """Wait until the browser has all of ``media``."""
    page.wait_for_function(
        """names => {
          const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
          return names.every((name) => loaded.some((address) => address.endsWith(name)));
        }""",
        arg=list(media),
    )


@contextmanager
def one_item(folder: Path) -> Iterator[tuple[Study, str]]:
    """A study of one item without practice, and its address."""
    study = make_study(folder, items=1, practice=0)
    with served(build_site(study, admin_secret=SECRET)) as address:
        yield study, address
    study.close()


def answer_one_item(page: Page) -> None:
    page.locator("#agree").check()
    page.locator("#begin").click()
    watch(page)
    answer(page, 1)
    page.locator("#next").click()


@pytest.mark.parametrize("database", postgres.one_every_day("postgresql"), indirect=True)
def test_a_whole_visit_ends_with_a_completion_code(
    context: BrowserContext, study: Study, address: str
) -> None:
    token = study.raters.hand_out(1)[0]
    page = visit(context, address, token)
    expect(page.locator("#begin")).to_be_disabled()
    begin(page)
    practise(page, study, token)
    for number in (1, 2):
        expect(page.locator("#place")).to_have_text(f"Item {number} of 2")
        expect(page.locator("#next")).to_be_disabled()
        watch(page)
        answer(page, number)
        page.locator("#next").click()
    code = page.locator("#code")
    expect(code).to_have_text(study.archive.links.completion_code(study.archive.links.rater(token)))
    expect(page.locator("#return")).to_be_hidden()  # nobody's recruit
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#copy-code").click()
    expect(page.locator("#copy-code")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == code.inner_text()
    expect(page.locator("#copy-code")).to_have_text("Copy the code")  # the note goes away
    unblind(study.archive)
    main = [row for row in answer_rows(study.archive) if row.role == "main"]
    assert [row.place for row in main] == [1] * 4 + [2] * 4
    assert min(row.coverage for row in main) >= 0.95
    assert len({row.sequence for row in main}) == len(main)  # the browser counts its answers
    assert page.faults == []


def test_a_vote_is_cast_ten_seconds_after_opening_the_link_with_three_clicks(
    browser: Browser, study: Study, address: str
) -> None:
    """On one screen what it is about and how it is done; meanwhile the first clips come."""
    item = next(item for item in study.archive.items.values() if item.kind == "practice")
    seconds = []
    for _ in range(3):  # a machine that has much else to do may be late once
        context = browser.new_context(viewport=PHONE, locale="en-GB")
        page = visit(context, address, study.archive.links.open_token())
        expect(page.locator("ol.steps li")).to_have_count(3)
        expect(page.locator("#consent-text")).to_be_visible()
        fetched_ahead(page, [*item.references, *item.candidates.values()])
        page.locator("#agree").check()
        page.locator("#begin").click()
        page.locator("#panel:not(.locked)").wait_for()
        page.locator("input[value='1']").first.check(force=True)
        expect(page.locator("#saved")).to_have_text("All saved")
        seconds.append(page.evaluate("performance.now()") / 1000)
        assert page.faults == []
        if seconds[-1] < 10:
            break
    clip = study.archive.folder / "media" / item.references[0]
    assert min(seconds) < 10 or min(seconds) < 5 * seconds_to_play(browser, clip), seconds


def seconds_to_play(browser: Browser, clip: Path) -> float:
    """What this machine, which may have much else to do, takes to open an empty page and to play a
    clip on it; on a free one two to three seconds."""
    began = time.monotonic()
    page = browser.new_context(viewport=PHONE).new_page()
    source = base64.b64encode(clip.read_bytes()).decode()
    page.set_content(f'<video muted autoplay src="data:video/mp4;base64,{source}"></video>')
    page.wait_for_function("document.querySelector('video').ended")
    return time.monotonic() - began


def test_questions_stay_shut_until_every_candidate_was_watched(
    context: BrowserContext, study: Study, address: str
) -> None:
    page = visit(context, address, study.raters.hand_out(1)[0])
    begin(page)
    expect(page.locator("#stage:not(.busy)")).to_be_visible()
    page.keyboard.press("Space")  # pause
    expect(page.locator("#play.playing")).to_have_count(0)
    for _ in range(6):  # seeking over the clip is not watching it
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(1500)
    expect(page.locator("#panel.locked")).to_be_visible()
    expect(page.locator("#questions")).to_have_js_property("inert", True)
    page.keyboard.press("Space")
    watch(page)


def test_practice_tells_what_was_right_and_lets_one_correct_it(
    context: BrowserContext, study: Study, address: str
) -> None:
    token = study.raters.hand_out(1)[0]
    page = visit(context, address, token)
    begin(page)
    watch(page)
    item = next(item for item in study.archive.items.values() if item.kind == "practice")
    shown = study.answers.trial(study.archive.links.rater(token), 0).candidates
    right = shown.index(item.candidates[item.answer]) + 1
    answer(page, right % 3 + 1)
    page.locator("#next").click()
    expect(page.locator(".wrong .note").first).to_have_text(
        f"Look again: here it is candidate {right}."
    )
    expect(page.locator("#next")).to_have_text("Check my answers")
    answer(page, right)
    page.locator("#next").click()
    expect(page.locator("fieldset.right")).to_have_count(4)
    expect(page.locator("#next")).to_have_text("Continue")


def test_the_keyboard_plays_seeks_enlarges_and_answers(
    context: BrowserContext, study: Study, address: str
) -> None:
    page = visit(context, address, study.raters.hand_out(1)[0])
    begin(page)
    watch(page)
    page.keyboard.press("Space")
    expect(page.locator("#play.playing")).to_have_count(0)
    page.keyboard.press("Home")
    expect(page.locator("#clock")).to_have_text("0.0 / 2.0 s")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#clock")).to_have_text("0.5 / 2.0 s")
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("#clock")).to_have_text(re.compile("0.6"))
    times = page.locator(".tile video").evaluate_all("videos => videos.map((v) => v.currentTime)")
    assert max(times) - min(times) < 0.01  # all show the same frame
    page.keyboard.press("2")
    expect(page.locator(".tile:visible")).to_have_count(1)
    expect(page.locator(".tile.enlarged")).to_have_attribute("data-place", "2")
    page.keyboard.press("Escape")
    expect(page.locator(".tile:visible")).to_have_count(3)
    page.keyboard.press("l")
    expect(page.locator("#loop")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("q")
    for _ in range(4):
        page.keyboard.press("Space")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Tab")
    checked = page.locator("#questions input:checked")
    expect(checked).to_have_count(4)
    assert checked.evaluate_all("inputs => inputs.map((input) => input.value)") == ["2"] * 4
    expect(page.locator("#next")).to_be_enabled()


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the element has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == name:
            return
    pytest.fail(f"Tab never reaches #{name}")


def test_a_whole_visit_needs_nothing_but_the_keyboard(
    context: BrowserContext, tmp_path: Path
) -> None:
    with one_item(tmp_path / "study") as (study, address):
        token = study.raters.hand_out(1)[0]
        page = visit(context, address, token)
        expect(page.locator("#agree")).to_be_visible()
        tab_to(page, "agree")
        page.keyboard.press("Space")
        tab_to(page, "begin")
        page.keyboard.press("Enter")
        watch(page)
        page.keyboard.press("q")
        for _ in range(4):
            page.keyboard.press("Space")
            page.keyboard.press("ArrowRight")
            page.keyboard.press("Tab")
        expect(page.locator("#next")).to_be_enabled()
        if page.evaluate("document.activeElement.id") != "next":
            tab_to(page, "next")
        page.keyboard.press("Enter")
        code = study.archive.links.completion_code(study.archive.links.rater(token))
        expect(page.locator("#code")).to_have_text(code)
        unblind(study.archive)
        assert [row.place for row in answer_rows(study.archive)] == [2] * 4
        assert page.faults == []


def test_full_screen_shows_the_stage_and_goes_away_again(
    context: BrowserContext, study: Study, address: str
) -> None:
    page = visit(context, address, study.raters.hand_out(1)[0])
    begin(page)
    expect(page.locator("#stage:not(.busy)")).to_be_visible()
    page.locator("#full-screen").click()
    expect(page.locator("#stage:fullscreen")).to_be_visible()
    expect(page.locator(".tile:visible")).to_have_count(3)
    expect(page.locator("#play")).to_be_in_viewport()
    page.keyboard.press("f")
    expect(page.locator(":fullscreen")).to_have_count(0)
    assert page.faults == []


def test_a_browser_that_does_not_tell_its_frames_can_take_part(
    context: BrowserContext, study: Study, address: str
) -> None:
    context.add_init_script("delete HTMLVideoElement.prototype.requestVideoFrameCallback")
    page = visit(context, address, study.raters.hand_out(1)[0])
    begin(page)
    expect(page.locator("#stage:not(.busy)")).to_be_visible()
    page.keyboard.press("Space")
    expect(page.locator("#play.playing")).to_have_count(0)
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(1500)
    expect(page.locator("#panel.locked")).to_be_visible()  # here, too, seeking is not watching
    page.keyboard.press("Space")
    watch(page)
    assert page.faults == []


def test_where_the_browser_gives_no_clipboard_copying_works_all_the_same(
    context: BrowserContext, tmp_path: Path
) -> None:
    context.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    with one_item(tmp_path / "short") as (study, address):
        page = visit(context, address, study.raters.hand_out(1)[0])
        answer_one_item(page)
        expect(page.locator("#code")).not_to_be_empty()
        page.locator("#copy-code").click()
        expect(page.locator("#copy-code")).to_have_text("Copied")
        assert page.evaluate("getSelection().toString()") == page.locator("#code").inner_text()


def test_a_break_is_offered_once_and_everything_goes_on_after_it(
    context: BrowserContext, study: Study, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rater_page, "BREAK_EVERY", 1)
    page, _ = after_practice(context, study, address)
    watch(page)
    answer(page, 1)
    page.locator("#next").click()
    expect(page.locator("#break-text")).to_contain_text("1 of 2 are done")
    page.locator("#after-break").click()
    expect(page.locator("#place")).to_have_text("Item 2 of 2")
    page.locator("#back").click()
    expect(page.locator("#place")).to_have_text("Item 1 of 2")
    watch(page)
    page.locator("#next").click()
    expect(page.locator("#place")).to_have_text("Item 2 of 2")  # not offered again
    assert page.faults == []


def test_a_reload_comes_back_to_the_same_place_with_what_was_done(
    context: BrowserContext, study: Study, address: str
) -> None:
    page, token = after_practice(context, study, address)
    watch(page)
    page.locator("input[name='MF'][value='3']").check(force=True)
    expect(page.locator("#saved")).to_have_attribute("data-state", "saved")
    page.reload()  # what was watched in the last second is not lost either
    expect(page.locator("#place")).to_have_text("Item 1 of 2")
    expect(page.locator("input[name='MF'][value='3']")).to_be_checked()
    expect(page.locator(".tile.watched")).to_have_count(3)
    other = context.browser.new_context(viewport=DESKTOP)  # another device: the server knows
    elsewhere = visit(other, address, token)
    expect(elsewhere.locator("#place")).to_have_text("Item 1 of 2")
    expect(elsewhere.locator("input[name='MF'][value='3']")).to_be_checked()


def test_one_may_go_back_and_change_an_answer(
    context: BrowserContext, study: Study, address: str
) -> None:
    page, _ = after_practice(context, study, address)
    expect(page.locator("#back")).to_be_disabled()  # the practice is over
    watch(page)
    answer(page, 1)
    page.locator("#next").dblclick()
    expect(page.locator("#place")).to_have_text("Item 2 of 2")
    page.locator("#back").click()
    expect(page.locator("#place")).to_have_text("Item 1 of 2")
    watch(page)
    page.locator("input[name='TC'][value='2']").check(force=True)
    expect(page.locator("#saved")).to_have_attribute("data-state", "saved")
    unblind(study.archive)
    changed = [
        row for row in answer_rows(study.archive) if row.question == "TC" and row.role == "main"
    ]
    assert [(row.place, row.revisions) for row in changed] == [(2, 1)]


def test_answers_given_offline_are_kept_shown_and_sent_later(
    context: BrowserContext, study: Study, address: str
) -> None:
    page, token = after_practice(context, study, address)
    watch(page)
    rater, screen = study.archive.links.rater(token), 3  # after two of practice and one item
    fetched_ahead(page, study.answers.trial(rater, screen).candidates)
    context.set_offline(True)
    answer(page, 2)
    expect(page.locator("#saved")).to_have_text(re.compile("No connection. 4 kept here"))
    page.locator("#next").click()
    expect(page.locator("#place")).to_have_text("Item 2 of 2")
    watch(page)  # it was fetched ahead of time
    answer(page, 3)
    expect(page.locator("#saved")).to_have_text(re.compile("8 kept here"))
    context.set_offline(False)
    expect(page.locator("#saved")).to_have_attribute("data-state", "saved", timeout=PATIENCE)
    page.locator("#next").click()
    expect(page.locator("#code")).not_to_be_empty()
    unblind(study.archive)
    places = [row.place for row in answer_rows(study.archive) if row.role == "main"]
    assert places == [2] * 4 + [3] * 4


def test_a_tab_closed_offline_loses_no_answer(
    context: BrowserContext, study: Study, address: str
) -> None:
    page, token = after_practice(context, study, address)
    watch(page)
    context.set_offline(True)
    answer(page, 2)
    expect(page.locator("#saved")).to_have_text(re.compile("4 kept here"))
    page.close()
    context.set_offline(False)
    again = visit(context, address, token)
    expect(again.locator("#place")).to_have_text("Item 2 of 2")


def test_a_recruit_comes_by_ids_and_goes_back_with_the_code(
    context: BrowserContext, tmp_path: Path
) -> None:
    with one_item(tmp_path / "short") as (study, address):
        link = f"{study.archive.links.open_token()}?PROLIFIC_PID=p1&STUDY_ID=s&SESSION_ID=x"
        page = visit(context, address, link)
        expect(page.locator("#agree")).to_be_visible()
        assert "p1" not in page.url and "/r/" in page.url
        page.reload()  # the ids are still known
        answer_one_item(page)
        expect(page.locator("#code")).not_to_be_empty()
        assert study.raters.find(Recruit("p1", session="x")) is not None
        again = visit(context, address, f"{study.archive.links.open_token()}?PROLIFIC_PID=p1")
        expect(again.locator("#code")).not_to_be_empty()  # in this browser, without a session too
        elsewhere = visit(context.browser.new_context(), address, link.replace("=x", "=y"))
        expect(elsewhere.locator("#problem-text")).to_contain_text("answered under your ID")
        code = page.locator("#code").inner_text()
        expect(page.locator("#return")).to_have_attribute("href", re.compile(f"cc={code}$"))


def test_the_address_after_consent_opens_the_place_in_this_browser_alone(
    context: BrowserContext, browser: Browser, study: Study, address: str
) -> None:
    (personal,) = study.raters.hand_out(1)
    for token in (personal, study.archive.links.open_token()):
        page = visit(context, address, token)
        expect(page.locator("#consent-heading")).to_be_visible()
        page.locator("#agree").check()
        page.locator("#begin").click()
        expect(page.locator("#instrument")).to_be_visible()
        assert "/r/here." in page.url and token not in page.url
        shared = page.url
        page.locator("#language").click()
        expect(page.locator("#place")).to_have_text("练习 1 / 2")
        page.close()
        again = context.new_page()
        again.goto(shared)
        expect(again.locator("#instrument")).to_be_visible()
        again.goto(f"{address}/r/{token}")  # the link itself goes on in the same place
        expect(again.locator("#instrument")).to_be_visible()
        assert again.url == shared
        friend = browser.new_context(viewport=DESKTOP, locale="en-GB").new_page()
        friend.goto(shared)
        expect(friend.locator("#problem-text")).to_contain_text("open the link you were given")
        assert study.answers.progress(study.archive.links.rater(personal)).done == 0
        friend.goto(f"{address}/r/{token}")
        mine = token == personal  # by a personal link on any device
        expect(friend.locator("#instrument" if mine else "#consent-heading")).to_be_visible()
        friend.context.close()
    taken = [rater for rater in overview(study.archive).raters if rater.joined is not None]
    assert len(taken) == 2


def test_without_site_data_a_reload_still_finds_the_place(
    context: BrowserContext, study: Study, address: str
) -> None:
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', "
        "{ get() { throw new DOMException('denied', 'SecurityError'); } })"
    )
    page = visit(context, address, study.archive.links.open_token())
    page.locator("#agree").check()
    page.locator("#begin").click()
    expect(page.locator("#instrument")).to_be_visible()
    page.locator("#language").click()
    expect(page.locator("#place")).to_have_text("练习 1 / 2")
    page.reload()
    expect(page.locator("#place")).to_have_text("练习 1 / 2")
    assert sum(rater.joined is not None for rater in overview(study.archive).raters) == 1
    assert page.faults == []


def test_a_late_rater_whose_place_was_given_away_takes_another(
    context: BrowserContext, tmp_path: Path
) -> None:
    study = make_study(tmp_path / "late", raters=2, items=1, practice=0, place_hours=1)
    with served(build_site(study, admin_secret=SECRET)) as address:
        page = visit(context, address, f"{study.archive.links.open_token()}?lang=zh")
        page.locator("#agree").check()
        page.locator("#begin").click()
        watch(page)
        study.raters.enter()
        start = study.archive.clock()
        study.archive.clock = lambda: start + 7200
        assert study.raters.join(study.raters.enter()).number == 0
        page.locator("input[value='1']").first.check(force=True)
        expect(page.locator("#problem-text")).to_contain_text("此名额已分配给他人")
        page.locator("#again").click()
        expect(page.locator("#consent-heading")).to_be_visible()
        page.locator("#agree").check()
        page.locator("#begin").click()  # the other one who never answered makes way
        expect(page.locator("#instrument")).to_be_visible()
        assert page.faults == []
    study.close()


def test_a_link_without_an_id_says_so_and_how_to_get_one(
    context: BrowserContext, study: Study, address: str
) -> None:
    link = f"{study.archive.links.open_token()}?PROLIFIC_PID={{{{%PROLIFIC_PID%}}}}&STUDY_ID=x"
    page = visit(context, address, link)
    expect(page.locator("h1")).to_have_text("This link came without your ID")
    expect(page.locator("main")).to_contain_text("“{{%PROLIFIC_PID%}}”")
    assert len(study.raters.hand_out(3)) == 3


def test_deleting_ones_data_ends_the_link(
    context: BrowserContext, study: Study, address: str
) -> None:
    token = study.raters.hand_out(1)[0]
    page = visit(context, address, token)
    begin(page)
    page.locator("#open-delete").click()
    page.locator("#delete button[value=yes]").click()
    expect(page.locator("#deleted-heading")).to_be_visible()
    assert page.evaluate("Object.keys(localStorage).filter((k) => k.startsWith('study/'))") == []
    page.reload()
    expect(page.locator("#problem-text")).to_contain_text("not known any more")


def test_on_a_phone_enlarge_enlarges_and_shows_the_whole_clip(
    browser: Browser, study: Study, address: str
) -> None:
    context = browser.new_context(viewport=PHONE, locale="en-GB")
    page = visit(context, address, study.raters.hand_out(1)[0])
    begin(page)
    watch(page)
    small = page.locator(".tile video").first.bounding_box()["width"]
    for number in (2, 1):
        tile = page.locator(f".tile[data-place='{number}'] .frame")
        tile.click()
        expect(page.locator(".tile:visible")).to_have_count(1)
        assert tile.locator("video").bounding_box()["width"] > 0.9 * (PHONE["width"] - 20) > small
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        tile.click()
        expect(page.locator(".tile:visible")).to_have_count(3)


def test_on_a_small_screen_the_way_on_is_always_there_and_hides_no_question(
    browser: Browser, study: Study, address: str
) -> None:
    small = {"width": 350, "height": 500}  # lower than the videos are
    page = visit(
        browser.new_context(viewport=small, locale="en-GB"), address, study.raters.hand_out(1)[0]
    )
    begin(page)
    watch(page)
    bar = page.locator(".steps-bar")
    for place in (0, 10_000):
        page.evaluate("place => scrollTo(0, place)", place)
        box = bar.bounding_box()
        assert box["y"] + box["height"] == small["height"]
        for name in ("#back", "#next"):
            expect(page.locator(name)).to_be_in_viewport(ratio=1)
    last = page.locator("#questions fieldset").last.bounding_box()
    assert last["y"] + last["height"] <= box["y"]
    page.evaluate("scrollTo(0, 0)")
    page.locator(".choices input").last.focus()
    chosen = page.locator(".choices label").last.bounding_box()
    assert chosen["y"] + chosen["height"] <= box["y"]


@pytest.mark.parametrize("viewport", some_daily([DESKTOP, PHONE], PHONE), ids=["desktop", "phone"])
def test_wide_and_tall_references_and_candidates_keep_their_shape(
    browser: Browser, study: Study, address: str, viewport: dict[str, int]
) -> None:
    media = study.archive.folder / "media"
    wide, tall = (np.zeros((16, *size, 3), np.uint8) for size in ((32, 160), (160, 48)))
    for item in study.archive.items.values():
        for number, name in enumerate((*item.references, *item.candidates.values())):
            write_video(media / name, tall if number % 2 else wide, 8)
    context = browser.new_context(viewport=viewport, locale="en-GB")
    page = visit(context, address, study.raters.hand_out(1)[0])
    begin(page)
    expect(page.locator("#fetching")).to_be_hidden()
    shapes = page.locator("#references video, #first-frame img, .tile video").evaluate_all(
        """all => all.map((one) => {
          const box = one.getBoundingClientRect();
          return { fit: getComputedStyle(one).objectFit, ratio: box.width / box.height,
            own: (one.videoWidth || one.naturalWidth) / (one.videoHeight || one.naturalHeight) };
        })"""
    )
    assert len(shapes) == 5 and {round(shape["own"], 1) for shape in shapes} >= {5.0, 0.3}
    for shape in shapes:
        assert shape["fit"] == "contain" or abs(shape["ratio"] / shape["own"] - 1) < 0.02


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_overflows_and_everything_is_labelled(
    browser: Browser, study: Study, address: str, scheme: str
) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme, locale="zh-CN")
    page = visit(context, address, study.raters.hand_out(1)[0])
    expect(page.locator("#consent-heading")).to_have_text("开始之前")
    page.locator("#agree").check()
    page.locator("#begin").click()
    watch(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    expect(page.locator("legend").first).to_contain_text("哪段视频")
    unnamed = "els => els.filter((e) => !(e.ariaLabel || e.labels?.length || e.textContent.trim()))"
    for kind in ("button:visible", "input", "video"):
        named = page.locator(kind)
        assert named.count() > 0
        assert named.evaluate_all(f"{unnamed}.map((e) => e.outerHTML)") == []
    assert page.locator("img:not([alt])").count() == 0


def test_on_a_laptop_all_videos_and_controls_fit_without_scrolling(
    context: BrowserContext, study: Study, address: str
) -> None:
    page = visit(context, address, study.raters.hand_out(1)[0])
    begin(page)
    watch(page)
    bottoms = page.locator("video, #play, #next").evaluate_all(
        "all => all.map((one) => one.getBoundingClientRect().bottom)"
    )
    assert max(bottoms) <= DESKTOP["height"]
    assert page.evaluate("document.documentElement.scrollHeight") <= DESKTOP["height"]
