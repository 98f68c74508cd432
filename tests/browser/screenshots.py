"""``make screenshots``: a real session in a real browser, a picture of each tab."""

from __future__ import annotations

import argparse
import io
import logging
import re
import sys
import tempfile
from pathlib import Path

from conftest import CHROMIUM, CHROMIUM_FLAGS
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from serving import ROOT, RunningApp
from visits import PATIENCE, open_page
from walk import (
    choose_motion,
    drop_request,
    fill_training,
    mark_two,
    open_tab,
    pick_example,
    start,
    video_is_there,
    write_clip,
)

from motion_app.study.answers import Study

logger = logging.getLogger("screenshots")

WIDTH = 1366
MOST_BYTES = 400_000
STUDY_TITLE = "Which video follows the motion?"


def main() -> int:
    """Write transfer.png, motions.png, study.png and evaluate.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "screenshots")
    out = parser.parse_args().out
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="screenshots-") as folder,
        RunningApp(Path(folder)) as app,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        page = open_page(browser, app.url, {"width": WIDTH, "height": 900})
        shoot_transfer(page, out / "transfer.png")
        shoot_evaluate(page, out / "evaluate.png")
        shoot_study(browser, page, app, out / "study.png")
        shoot_motions(page, Path(folder), out / "motions.png")
        browser.close()
    return 0


def shoot_transfer(page: Page, path: Path) -> None:
    """Two objects, two motions, and their video; below, one more by another method."""
    drop_request(page, seed=0, steps=12, method="none")
    start(page)
    video_is_there(page)
    page.get_by_role("button", name="Start over").click()
    expect(page.locator(".stage-empty")).to_be_visible(timeout=PATIENCE)
    page.reload()  # the settings as they are at first
    expect(page.locator(".gallery-card")).to_have_count(1, timeout=PATIENCE)
    pick_example(page)
    mark_two(page)
    choose_motion(page, 1, "jump")
    choose_motion(page, 2, "rise")
    start(page)
    video_is_there(page)
    page.mouse.move(0, 0)
    save(page, path, height=1100)


def shoot_evaluate(page: Page, path: Path) -> None:
    """Both videos scored."""
    open_tab(page, "evaluate")
    expect(page.locator(".evaluate-card")).to_have_count(2, timeout=PATIENCE)
    for card in page.locator(".evaluate-card").all():
        card.click()
        expect(card).to_have_attribute("aria-checked", "true", timeout=PATIENCE)
    page.locator("#evaluate-score").click()
    expect(page.locator("#evaluate-table table").first).to_be_visible(timeout=3 * PATIENCE)
    expect(page.locator("#evaluate-flow .js-plotly-plot")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#evaluate-tracks img")).to_be_visible(timeout=PATIENCE)
    page.locator("#evaluate-table").evaluate("table => table.scrollIntoView()")
    page.wait_for_timeout(1500)  # the plots move into place
    save(page, path, height=1500)


def shoot_study(browser: Browser, page: Page, app: RunningApp, path: Path) -> None:
    """The page of a rater in a study that was made from the two videos."""
    open_tab(page, "study")
    boxes = page.locator("#study-tab input[type=checkbox]")
    expect(boxes.first).to_be_visible(timeout=PATIENCE)
    for box in boxes.all():
        box.check()
    page.locator("#study-tab [data-testid=textbox]").first.fill(STUDY_TITLE)
    page.locator("#study-create").click()
    expect(page.locator(".study-card")).to_have_count(1, timeout=PATIENCE)
    (folder,) = (app.folder / "outputs" / "studies").iterdir()
    study = Study.open(folder)
    token = study.raters.hand_out(1)[0]
    rater = browser.new_context(viewport={"width": WIDTH, "height": 900}).new_page()
    rater.set_default_timeout(PATIENCE)
    rater.goto(f"{app.url}study/{folder.name}/r/{token}")
    rater.locator("#agree").check()
    rater.locator("#begin").click()
    practise(rater, study, token)
    study.close()
    watch(rater)
    save(rater, path, height=1000)
    rater.context.close()


def practise(rater: Page, study: Study, token: str) -> None:
    """The practice items, right at once, and on to the study."""
    right = {item.candidates[item.answer] for item in study.archive.items.values() if item.answer}
    person = study.archive.links.rater(token)
    for number in range(study.answers.progress(person).practice):
        watch(rater)
        shown = study.answers.trial(person, number).candidates
        place = next(k for k, name in enumerate(shown, start=1) if name in right)
        for row in rater.locator(".choices").all():
            row.locator(f"input[value='{place}']").check(force=True)
        for _ in ("Check my answers", "Continue"):
            expect(rater.locator("#next")).to_be_enabled(timeout=PATIENCE)
            rater.locator("#next").click()
    rater.locator("#start-study").click()


def watch(rater: Page) -> None:
    expect(rater.locator("#panel:not(.locked)")).to_be_visible(timeout=PATIENCE)
    expect(rater.locator(".tile.watched")).to_have_count(rater.locator(".tile").count())


def shoot_motions(page: Page, folder: Path, path: Path) -> None:
    """The library, and a training on its way."""
    open_tab(page, "motions")
    fill_training(page, write_clip(folder), name="leap", steps=150)
    page.locator("#train").click()
    status = page.locator("#training-status")
    expect(status).to_contain_text(re.compile(r"step (2\d|[3-9]\d|1\d\d) "), timeout=4 * PATIENCE)
    save(page, path, height=1200)
    page.locator("#training-cancel").click()
    expect(page.locator(".training.cancelled")).to_have_count(1, timeout=PATIENCE)


def save(page: Page, path: Path, *, height: int) -> None:
    """The page from its top, at most ``height`` pixels of it, as a PNG of less than MOST_BYTES."""
    page.evaluate("scrollTo(0, 0)")
    page.locator(".toast-close").evaluate_all("all => all.forEach((button) => button.click())")
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    shot = shot.crop((0, 0, shot.width, min(shot.height, height)))
    for colours in (None, 256, 128, 64):
        few = colours and shot.quantize(colours, Image.Quantize.MEDIANCUT)
        file = io.BytesIO()
        (few or shot).save(file, "PNG", optimize=True)
        if file.tell() < MOST_BYTES:
            break
    path.write_bytes(file.getvalue())
    logger.info("%s: %d KB", path, file.tell() // 1000)


if __name__ == "__main__":
    sys.exit(main())
