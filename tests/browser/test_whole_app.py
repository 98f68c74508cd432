"""The whole app as people use it: in two languages, two at a time, carelessly, by keys alone, and
through a power cut."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from serving import RunningApp
from visits import DESKTOP, PATIENCE, PHONE, ROOT, console_of, listens, lively, open_page
from walk import (
    QUICK,
    TABS,
    UNENDING,
    a_request,
    choose_motion,
    drop_request,
    example_boxes,
    fill_training,
    give_file,
    mark_two,
    middle,
    objects_are,
    open_tab,
    pick_example,
    set_steps,
    start,
    toast,
    video_is_there,
    video_plays,
    write_clip,
)

from motion_app.jobs.folder import JobRow, JobStore
from motion_app.library.library import Library
from motion_app.world.clips import load_clips

HELD = 45  # steps: long enough to be killed in


def jobs(app: RunningApp) -> list[JobRow]:
    store = JobStore(app.folder / "outputs" / "jobs.sqlite3")
    rows = store.list()
    store.close()
    return rows


def test_in_chinese_from_an_example_to_a_video_without_an_error_in_the_console(
    browser: Browser, app: RunningApp
) -> None:
    """In English ``test_transfer`` does it."""
    page = browser.known_page(viewport=DESKTOP)
    lively(page)
    faults = console_of(page)
    page.goto(app.url + "zh")
    listens(page)
    pick_example(page)
    mark_two(page)
    choose_motion(page, 1, "jump")
    choose_motion(page, 2, "rise")
    set_steps(page, QUICK)
    start(page)
    video_is_there(page)
    video_plays(page)
    assert faults == []


def test_two_browsers_see_nothing_of_each_other(
    browser: Browser, app: RunningApp, page: Page, tmp_path: Path
) -> None:
    for seed, method in ((4, "fleximmt"), (5, "none")):
        drop_request(page, seed=seed, steps=QUICK, method=method)
        start(page)
        video_is_there(page)
    open_tab(page, "study")
    results = page.locator("#study-tab input[type=checkbox]")
    expect(results).to_have_count(2, timeout=PATIENCE)
    for box in results.all():
        box.check()
    page.locator("#study-tab [data-testid=textbox]").first.fill("Secret study")
    page.locator("#study-create").click()
    expect(page.locator(".study-card")).to_have_count(1, timeout=PATIENCE)
    open_tab(page, "motions")
    fill_training(page, write_clip(tmp_path), name="secret leap", steps=200)
    page.locator("#train").click()
    expect(page.locator(".training")).to_have_count(1, timeout=PATIENCE)

    other = open_page(browser, app.url, DESKTOP)
    open_tab(other, "motions")
    expect(other.locator(".training")).to_have_count(0)
    assert "secret leap" not in other.locator("body").inner_text()
    page.locator("#training-cancel").click()
    expect(page.locator(".training.cancelled")).to_have_count(1, timeout=PATIENCE)
    open_tab(other, "transfer")
    expect(other.locator(".gallery-empty")).to_be_visible()
    expect(other.locator(".gallery-card")).to_have_count(0)
    expect(other.locator(".stage-empty")).to_be_visible()
    expect(other.locator(".object-row")).to_have_count(0)
    expect(other.locator("#video")).to_have_count(0)
    for job in page.locator(".gallery-card").all():
        assert job.get_attribute("data-id") not in other.content()
    open_tab(other, "study")
    expect(other.locator("#studies p").first).to_be_visible(timeout=PATIENCE)
    expect(other.locator(".study-card")).to_have_count(0)
    expect(other.locator("#study-tab input[type=checkbox]")).to_have_count(0)
    open_tab(other, "evaluate")
    expect(other.locator(".evaluate-card")).to_have_count(0)


def test_after_cancel_and_at_once_generate_two_jobs_never_share_the_device(
    app: RunningApp, page: Page
) -> None:
    drop_request(page, steps=UNENDING)
    start(page)
    expect(page.locator("#live img")).to_be_visible(timeout=PATIENCE)
    page.locator("#cancel").click()
    set_steps(page, QUICK)
    start(page)
    video_is_there(page)
    ran = sorted((row.started, row.finished) for row in jobs(app) if row.started is not None)
    assert len(ran) >= 2
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ran))


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """An app that may be killed, as long as it is started again."""
    with RunningApp(tmp_path_factory.mktemp("mortal")) as app:
        yield app


def test_the_page_opens_before_the_model_and_after_a_power_cut_it_has_its_jobs_again(
    browser: Browser, mortal: RunningApp
) -> None:
    page = open_page(browser, mortal.url, DESKTOP)
    banner = page.locator("#banner")
    expect(banner).to_contain_text(re.compile("loading|not measured yet"))
    pick_example(page)
    expect(banner).to_contain_text("not measured yet", timeout=2 * PATIENCE)
    drop_request(page, seed=1, steps=HELD)
    start(page)
    expect(page.locator("#live img")).to_be_visible(timeout=PATIENCE)
    drop_request(page, seed=2, steps=QUICK)
    start(page)
    mortal.kill()
    mortal.start()
    page.goto(mortal.url)
    listens(page)
    waited, interrupted = (page.locator(".gallery-card").nth(k) for k in (0, 1))
    expect(interrupted.locator(".state-interrupted")).to_be_visible(timeout=PATIENCE)
    expect(interrupted).to_contain_text("jump")
    expect(waited.locator(".state-done")).to_be_attached(timeout=2 * PATIENCE)
    interrupted.locator("[data-do=again]").click()
    expect(page.locator(".gallery-card .state-done")).to_have_count(2, timeout=2 * PATIENCE)
    page.locator(".gallery-card [data-do=show]").nth(1).click()
    expect(page.locator("#facts")).to_contain_text(str(HELD), timeout=PATIENCE)
    page.locator("#use-again").click()
    objects_are(page, 2)
    expect(page.locator("#seed input")).to_have_value("1")


@pytest.mark.long
def test_a_training_that_was_killed_is_resumed_and_comes_into_the_library(
    browser: Browser, mortal: RunningApp, tmp_path: Path
) -> None:
    page = open_page(browser, mortal.url, DESKTOP)
    open_tab(page, "motions")
    fill_training(page, write_clip(tmp_path), name="leap", steps=8)
    page.locator("#train").click()
    expect(page.locator("#training-status")).to_contain_text("of 8", timeout=PATIENCE)
    mortal.kill()
    mortal.start()
    page.goto(mortal.url)
    listens(page)
    open_tab(page, "motions")
    page.locator(".training.interrupted [data-what=again]").click(timeout=PATIENCE)
    expect(page.locator(".training.done")).to_have_count(1, timeout=3 * PATIENCE)
    card = page.locator(".motion-card h3").get_by_text("leap", exact=True)
    expect(card).to_be_visible(timeout=PATIENCE)
    open_tab(page, "transfer")
    pick_example(page)
    mark_two(page)
    open_tab(page, "motions")
    page.locator(".training.done [data-what=use]").click()
    expect(page.locator(".motion-dialog[open] .card:visible")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.locator(".motion-button[data-number='1']")).to_have_attribute(
        "data-motion", "leap", timeout=PATIENCE
    )


def said(page: Page) -> None:
    text = toast(page)
    assert len(text) > 30
    for secret in ("Traceback", "Unexpected error", "None", str(ROOT)):
        assert secret not in text, text


def test_every_mistake_ends_in_words(page: Page) -> None:
    page.locator("#generate").click()
    said(page)
    give_file(page, "#upload", "notes.png", b"no picture at all")
    said(page)
    give_file(page, "#upload", "empty.jpg", b"")
    said(page)
    pick_example(page)
    page.locator("#generate").click()
    said(page)
    spoiled = [b"{", b"[]", json.dumps(a_request() | {"steps": -5}).encode(), b"\x00" * 99]
    for content in spoiled:
        give_file(page, "#recipe-drop", "recipe.json", content)
        said(page)
    give_file(page, "#recipe-drop", "video.mp4", b"no video")
    said(page)
    objects_are(page, 0)  # nothing of all this came into the page
    open_tab(page, "motions")
    page.locator("#train").click()
    said(page)
    give_file(page, "#clip-upload", "clip.mp4", b"no clip")
    said(page)
    page.locator("#motion-import button").first.click()
    page.locator("#motion-import-button").click()
    said(page)
    give_file(page, "#motion-file", "x.safetensors", b"\xff" * 40)
    page.locator("#motion-import-button").click()
    said(page)
    open_tab(page, "study")
    page.locator("#study-create").click()
    said(page)
    open_tab(page, "evaluate")
    page.locator("#evaluate-score").click()
    said(page)
    give_file(page, "#verify-file", "video.mp4", b"no video")
    said(page)


def tab_to(page: Page, selector: str) -> None:
    """Tab on until what ``selector`` means has the focus."""
    for _ in range(150):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"the Tab key does not come to {selector}")


def test_the_keyboard_alone_goes_from_an_example_to_generate(page: Page) -> None:
    tab_to(page, "#examples button")
    page.keyboard.press("Enter")
    expect(page.locator(".stage-frame img").first).to_be_visible(timeout=PATIENCE)
    tab_to(page, ".stage-frame")
    at = (0.5, 0.5)
    for number, box in enumerate(example_boxes()[:2], start=1):
        if number > 1:
            page.keyboard.press("n")
            expect(page.locator(".object-row.selected")).to_have_count(0, timeout=PATIENCE)
        goal = middle(box)
        for here, there, keys in zip(at, goal, (("Right", "Left"), ("Down", "Up")), strict=True):
            for _ in range(abs(round((there - here) / 0.02))):
                page.keyboard.press("Arrow" + keys[there < here])
        at = tuple(h + 0.02 * round((g - h) / 0.02) for h, g in zip(at, goal, strict=True))
        page.keyboard.press("Enter")
        objects_are(page, number)
    for number, motion in ((1, "jump"), (2, "rise")):
        tab_to(page, f".motion-button[data-number='{number}']")
        page.keyboard.press("Enter")
        expect(page.locator(".motion-dialog")).to_be_visible()
        page.keyboard.type(motion)
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator(f".motion-button[data-number='{number}']")).to_have_attribute(
            "data-motion", motion, timeout=PATIENCE
        )
    tab_to(page, "#generate")
    page.keyboard.press("Enter")
    expect(page.locator(".gallery-card")).to_have_count(1, timeout=PATIENCE)
    tab_to(page, "#cancel")
    page.keyboard.press("Enter")


NAMELESS = """fields => fields.filter((field) => !(
  [...(field.labels ?? [])].some((label) => label.textContent.trim()) || field.ariaLabel
  || field.title || field.getAttribute('aria-labelledby')
)).map((field) => field.outerHTML.slice(0, 160))"""


NAMELESS_BUTTONS = """buttons => buttons.filter((button) => !(
  button.innerText.trim() || button.ariaLabel || button.title
  || button.querySelector('img[alt]:not([alt=""])')
)).map((button) => button.outerHTML.slice(0, 160))"""


@pytest.mark.parametrize(
    ("path", "viewport"),
    [
        pytest.param("", DESKTOP, id="en-desktop"),
        pytest.param("zh", PHONE, id="zh-phone"),
        pytest.param("zh", DESKTOP, id="zh-desktop", marks=pytest.mark.long),
        pytest.param("", PHONE, id="en-phone", marks=pytest.mark.long),
    ],
)
def test_everything_has_a_name_and_nothing_overflows_on_any_tab(
    browser: Browser, app: RunningApp, path: str, viewport: dict[str, int]
) -> None:
    page = open_page(browser, app.url + path, viewport)
    pick_example(page)
    mark_two(page)
    for tab in TABS:
        open_tab(page, tab)
        assert page.locator("img:visible:not([alt])").count() == 0, tab
        fields = page.locator("input:visible, textarea:visible, select:visible")
        assert fields.evaluate_all(NAMELESS) == [], tab
        nameless = page.locator("button:visible").evaluate_all(NAMELESS_BUTTONS)
        assert nameless == [], tab
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], tab


# Names, formats, keys and what the model itself reads: they are the same in every language.
NAMES = """
    An bird mp4 json
    FlexiMMT SynMotion I2VEdit CogVideoX SAM AI generated GB MP4 GIF JSON NPZ ZIP CSV LaTeX Markdown
    PNG px safetensors pt Ctrl Alt Shift pocket cpu cuda English HEIC tiger walks on snow
    red robot is moving Hugging Face Hub
"""


def names_of_the_library(app: RunningApp) -> set[str]:
    """Of the motions that are there, and of the clips that one can learn from."""
    motions = Library([app.folder / "motions", ROOT / "checkpoints" / "pocket" / "motions"]).list()
    return {
        word
        for motion in motions
        for text in (motion.name, motion.phrase, motion.noun)
        for word in re.findall("[A-Za-z]+", text)
    } | {clip.name for clip in load_clips(ROOT / "assets" / "clips")}


# Lists of metrics and papers, by their names; and a command.
TAKE_AWAY = "all => all.forEach((part) => document.querySelector(part)?.remove())"


def test_nothing_is_left_in_english_on_the_chinese_page(browser: Browser, app: RunningApp) -> None:
    page = browser.known_page(viewport=DESKTOP, locale="zh-CN")
    page.goto(app.url + "zh")
    listens(page)
    pick_example(page)
    mark_two(page)
    trackers = page.get_by_test_id("status-tracker")
    hidden = "all => all.every((one) => getComputedStyle(one).visibility === 'hidden')"
    assert trackers.count() and trackers.evaluate_all(hidden)  # they hold gradio's own words
    known = {*NAMES.split()} | names_of_the_library(app)
    left: dict[str, set[str]] = {}
    for tab in TABS:
        open_tab(page, tab)
        page.evaluate(
            TAKE_AWAY, ["#evaluate-explained", "#evaluate-metrics", "#evaluate-paper", "code"]
        )
        text = page.locator("body").inner_text()
        left[tab] = set(re.findall(r"[A-Za-z]\w+", text, re.ASCII)) - known
    assert not any(left.values()), left
