"""A page that waits leaves the processors to the model: it draws what has changed, nothing else. A
server that waits leaves them alone, too."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, expect
from serving import RunningApp
from visits import DESKTOP, PATIENCE, listens, lively
from walk import QUICK, UNENDING, drop_request, open_tab, start, video_is_there

# A frame that was asked for while a frame was drawn is one longer a chain than that one.
WATCHED = """
  window.watched = { chain: 0, changes: 0 };
  let drawn = 0;
  const frame = window.requestAnimationFrame;
  window.requestAnimationFrame = (draw) => {
    const chain = drawn + 1;
    watched.chain = Math.max(watched.chain, chain);
    return frame((moment) => {
      drawn = chain;
      try {
        draw(moment);
      } finally {
        drawn = 0;
      }
    });
  };
  new MutationObserver((changes) => { watched.changes += changes.length; }).observe(
    document, { subtree: true, childList: true, attributes: true, characterData: true });
"""
BEGIN = "Object.assign(watched, { chain: 0, changes: 0 }); performance.clearResourceTimings()"
SEEN = """() => ({ ...watched,
  answers: performance.getEntriesByType("resource").length,
  endless: document.getAnimations().filter((one) => one.playState === "running"
    && one.effect.getComputedTiming().endTime === Infinity).map((one) => one.animationName),
  playing: [...document.querySelectorAll("video")].filter((one) => !one.paused).length,
})"""
LOOKED = 2000  # ms
LOOKS = 20
CHAIN = 5  # frames; a clock that draws itself makes 120 in that time, or 20 on a busy machine
WAKES = 200  # a second; a look every millisecond makes 800
CHANGES = 12  # for an answer of the server


def watched_page(browser: Browser, app: RunningApp) -> Page:
    page = browser.known_page(viewport=DESKTOP)
    page.add_init_script(WATCHED)
    page.goto(app.url)
    listens(page)
    expect(page.locator("#banner .chip-ready")).to_be_visible()
    return page


def is_calm(page: Page) -> None:
    """What moves to its place comes there, and then it does next to nothing."""
    for _ in range(LOOKS):
        page.evaluate(BEGIN)
        page.wait_for_timeout(LOOKED)
        seen = page.evaluate(SEEN)
        drawn = seen["chain"] > CHAIN or seen["changes"] > CHANGES * (1 + seen["answers"])
        if not (drawn or seen["endless"] or seen["playing"]):
            return
    raise AssertionError(seen)


def test_a_page_draws_nothing_by_itself_while_it_waits_or_is_left_alone(
    browser: Browser, app: RunningApp
) -> None:
    page = watched_page(browser, app)
    lively(page)
    is_calm(page)
    drop_request(page, steps=UNENDING)
    start(page)
    expect(page.locator("#status .bar")).to_be_visible(timeout=PATIENCE)
    is_calm(page)
    page.locator("#cancel").click()
    expect(page.locator(".gallery-card .state")).to_have_text("stopped")
    drop_request(page, seed=4, steps=QUICK)
    start(page)
    video_is_there(page)
    playing = "document.querySelector('#video video').paused === false"
    page.wait_for_function(playing)
    open_tab(page, "evaluate")  # nobody sees the video
    is_calm(page)
    open_tab(page, "transfer")
    page.locator("#video video").scroll_into_view_if_needed()
    page.wait_for_function(playing)


def calls_of(app: RunningApp) -> list[tuple[dict[str, Any], str | None, str]]:
    """Each call of the page to the server, the element it begins at and the event's name."""
    config = httpx.get(f"{app.url}config").json()
    names = {one["id"]: one["props"].get("elem_id") for one in config["components"]}
    calls = [one for one in config["dependencies"] if one["backend_fn"] and one["targets"]]
    assert len(calls) > 40
    return [(one, names.get(one["targets"][0][0]), one["targets"][0][1]) for one in calls]


def wakes(process: int) -> dict[str, int]:
    """How often each of its threads has begun anew after it had waited."""
    counts = {}
    for file in Path(f"/proc/{process}/task").glob("*/status"):
        with suppress(OSError):  # one that has ended meanwhile
            found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", file.read_text(), re.M)
            counts[file.parent.name] = int(found[1])
    return counts


def test_a_server_whose_visitors_have_left_sleeps(browser: Browser, app: RunningApp) -> None:
    watched_page(browser, app).close()
    seen = []
    for _ in range(5):  # one of which something else may have filled
        before = wakes(app.process.pid)
        time.sleep(1)
        after = wakes(app.process.pid)
        seen.append(sum(count - before.get(name, 0) for name, count in after.items()))
    assert sorted(seen)[2] < WAKES, seen


def test_no_call_shows_the_overlay_that_redraws_itself(app: RunningApp) -> None:
    """But the one whose video is drawn meanwhile, which has no other words."""
    shown = {element for call, element, _ in calls_of(app) if call["show_progress_on"] != []}
    assert shown == {"overlay"}


def test_nothing_is_lost_of_what_a_person_does_before_the_last_answer_has_come(
    app: RunningApp,
) -> None:
    """Only the second press of a button is none."""
    once = {event for call, _, event in calls_of(app) if call["trigger_mode"] == "once"}
    assert once == {"click", "tick", "select", "load", "then", "success"}
