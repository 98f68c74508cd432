"""The administrator's page in a real browser, on a real study."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from tiny_study import SECRET, make_study, served
from visits import DESKTOP, PATIENCE, PHONE, check_accessible

from motion_app.study.answers import Study
from motion_app.study.links import new_id
from motion_app.study.records import Answer
from motion_app.study.site.app import build_site
from motion_app.study.synthetic_raters import DirectClient
from motion_app.study.unblinding import unblind

FILES = ("answers.csv", "answers.parquet", "results.json", "table.tex", "codebook.md")


@pytest.fixture
def study(tmp_path: Path, database: str | None) -> Iterator[Study]:
    made = make_study(tmp_path / "study", database=database)
    yield made
    made.close()


@pytest.fixture
def address(study: Study) -> Iterator[str]:
    with served(build_site(study, admin_secret=SECRET)) as url:
        yield url


def open_admin(browser: Browser, address: str, **options: object) -> Page:
    context = browser.new_context(**{"viewport": DESKTOP, "locale": "en-GB", **options})
    page = context.new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(f"{address}/admin/")
    return page


def sign_in(page: Page, secret: str = SECRET) -> None:
    page.locator("#secret").fill(secret)
    page.locator("button.primary").click()


def take_part(study: Study, *, screens: int | None = None) -> None:
    """A rater who chooses the first place on so many screens, or on all and finishes."""
    client = DirectClient(study)
    client.enter()
    for number in range(client.screens() if screens is None else screens):
        for step, question in enumerate(study.archive.config.asked, start=1):
            given = Answer(new_id(), number, question, 1, (1.0, 1.0, 1.0), shown_ms=5000 * step)
            client.answer(given)
    if screens is None:
        client.finish()


def test_only_the_right_secret_opens_the_page_until_one_signs_out(
    browser: Browser, address: str
) -> None:
    page = open_admin(browser, address)
    sign_in(page, "not the secret")
    expect(page.locator("#notice")).to_have_text("That is not the secret. Try again.")
    sign_in(page)
    expect(page.locator("#title")).to_have_text("Rolling balls")
    assert SECRET not in page.url and SECRET not in page.content()
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#secret")).to_be_visible()
    page.goto(f"{address}/admin/")
    expect(page.locator("#secret")).to_be_visible()
    assert page.faults == []


def test_links_are_made_copied_and_open_the_study(
    browser: Browser, address: str, study: Study
) -> None:
    page = open_admin(browser, address, permissions=["clipboard-read", "clipboard-write"])
    sign_in(page)
    expect(page.locator("#open-link")).to_have_value(re.compile(re.escape(address)))
    expect(page.locator("#recruiting-link")).to_have_value(
        re.compile(r"\?PROLIFIC_PID=\{\{%PROLIFIC_PID%\}\}&")
    )
    page.locator("#how-many").fill("2")
    page.get_by_role("button", name="Make links").click()
    expect(page.locator("#personal-links")).to_have_value(re.compile(r"^\S+\n\S+$"))
    page.locator("[data-copy=personal-links]").click()
    expect(page.locator("[data-copy=personal-links]")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()").split()
    assert copied == [f"{address}/r/{link.token}" for link in study.raters.links()]
    page.locator("#how-many").fill("9")
    page.get_by_role("button", name="Make links").click()
    expect(page.locator("#links-notice")).to_contain_text("1 slots are free")
    rater = page.context.new_page()
    rater.goto(copied[0])
    expect(rater.locator("#consent-heading")).to_be_visible()
    assert page.faults == []


def test_the_place_of_somebody_who_gave_up_is_released_after_a_question(
    browser: Browser, address: str, study: Study
) -> None:
    take_part(study)
    take_part(study, screens=3)
    page = open_admin(browser, address)
    sign_in(page)
    expect(page.locator("#finished")).to_have_text("1 finished")
    rows = page.locator("#raters tbody tr")
    expect(rows).to_have_count(3)
    expect(page.locator(".release")).to_have_count(1)  # not who finished, not who never came
    expect(rows.nth(1)).to_contain_text("just now")
    page.get_by_role("button", name="Release the place of rater 1").click()
    expect(page.locator("#release-text")).to_contain_text("(3 of 4 screens)")
    page.locator("#cancel-release").click()
    expect(rows.nth(1)).to_contain_text("taking part")
    page.get_by_role("button", name="Release the place of rater 1").click()
    page.locator("#release button.danger").click()
    expect(rows.nth(1)).to_contain_text("free")
    expect(page.locator("#record")).to_contain_text("A place was released · rater 1 · 12 answers")
    assert page.faults == []


def test_results_come_after_unblinding_with_figures_and_every_download(
    browser: Browser, address: str, study: Study
) -> None:
    take_part(study)
    page = open_admin(browser, address)
    sign_in(page)
    expect(page.locator("#blind")).to_be_visible()
    assert not [name for name in study.archive.config.methods if name in page.content()]
    page.locator("#open-unblind").click()
    page.locator("#confirm").fill("Rolling")
    page.locator("#unblind button.danger").click()
    expect(page.locator("#unblind-notice")).to_contain_text("type the study's title")
    page.locator("#confirm").fill("Rolling balls")
    page.locator("#unblind button.danger").click()
    expect(page.locator("#computing")).to_be_hidden(timeout=PATIENCE)
    expect(page.locator("#record")).to_contain_text("Unblinded")
    expect(page.locator("#results .question")).to_have_count(4)
    for name in study.archive.config.methods:
        expect(page.locator("#results .question").first).to_contain_text(name)
    drawn = page.locator("#results .plot .main-svg")
    expect(drawn.first).to_be_visible(timeout=PATIENCE)
    for name in FILES:
        with page.expect_download() as waiting:
            page.get_by_role("link", name=name).click()
        assert waiting.value.suggested_filename == name
        assert waiting.value.path().stat().st_size > 100
    assert page.faults == []


def test_who_is_counted_is_chosen_told_under_every_table_and_recorded(
    browser: Browser, address: str, study: Study
) -> None:
    take_part(study)
    take_part(study, screens=3)
    page = open_admin(browser, address)
    sign_in(page)
    told = page.locator("#analysis-told")
    expect(told).to_contain_text("Everybody who joined (as registered), 2 raters. 2 of 3 joined, 1")
    page.locator("#analysis-rule").select_option("finished")
    expect(told).to_contain_text("(chosen before unblinding; registered: Everybody who joined)")
    unblind(study.archive)
    expect(page.locator("#results .question")).to_have_count(4)
    expect(page.locator("#results .question > p")).to_have_text([re.compile("left out: 1")] * 4)
    check_accessible(page)
    page.locator("#analysis-rule").select_option("by hand")
    page.get_by_role("checkbox", name="Rater 0").uncheck()
    page.get_by_role("checkbox", name="Rater 1").check()
    page.get_by_role("button", name="Count these").click()
    expect(told).to_contain_text("Chosen by hand (chosen after unblinding")
    expect(page.locator("#results .question > p")).to_have_text([re.compile("left out: 0")] * 4)
    expect(page.locator("#record li")).to_have_count(3)
    expect(page.locator("#record")).to_contain_text("Chosen by hand · left out: 0")
    assert page.faults == []


def test_the_page_warns_of_active_raters_shows_codes_and_previews(
    browser: Browser, address: str, study: Study
) -> None:
    take_part(study)
    take_part(study, screens=3)
    page = open_admin(browser, address)
    sign_in(page)
    page.get_by_role("button", name="Make links").click()
    expect(page.locator("#link-rows tr")).to_have_count(1)
    page.locator("#link-rows").get_by_role("button", name="QR").click()
    expect(page.locator("#qr-heading")).to_have_text("Link of place 2")
    assert page.locator("#qr-picture").evaluate("image => image.naturalWidth") > 0
    check_accessible(page)
    page.locator("#qr button").click()
    with page.expect_popup() as popup:
        page.get_by_role("button", name="Preview as rater").click()
    expect(popup.value.locator("#trial")).to_have_text(re.compile("nothing is saved"))
    check_accessible(popup.value)
    with page.expect_popup() as popup:
        page.get_by_role("button", name="Preview results page").click()
    expect(popup.value.locator("#finished")).to_have_text("7 finished")
    page.locator("#open-unblind").click()
    expect(page.locator("#unblind-active")).to_contain_text("Raters taking part now: 1")
    page.locator("#confirm").fill("Rolling balls")
    page.locator("#unblind button.danger").click()
    scene = page.locator(".scene").first
    scene.locator("summary").click()
    expect(scene.locator("figcaption strong")).to_have_text(list(study.archive.config.methods))
    expect(scene).to_contain_text("MF 1")
    check_accessible(page)
    assert page.faults == []


def test_on_a_phone_the_page_fits_in_both_languages(
    browser: Browser, address: str, study: Study
) -> None:
    take_part(study, screens=1)
    for locale in ("en-GB", "zh-CN"):
        page = open_admin(browser, address, viewport=PHONE, locale=locale, color_scheme="dark")
        check_accessible(page)
        sign_in(page)
        expect(page.locator(".release")).to_have_count(1)
        check_accessible(page)
        for name in ("#open-unblind", ".release"):
            page.locator(name).click()
            check_accessible(page)
            page.keyboard.press("Escape")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert page.faults == []
