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
from playwright.sync_api import Page, expect, sync_playwright
from serving import ROOT, RunningApp
from visits import PATIENCE, open_page
from walk import (
    choose_motion,
    click_object,
    drop_clip,
    drop_request,
    example_boxes,
    fill_training,
    mark_two,
    objects_are,
    open_tab,
    pick_example,
    start,
    video_is_there,
    write_clip,
)

logger = logging.getLogger("screenshots")

WIDTH = 1366
MOST_BYTES = 800_000


def main() -> int:
    """Write transfer.png, learning.png, motions.png, study.png and evaluate.png."""
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
        shoot_study(page, out / "study.png")
        shoot_motions(page, Path(folder), out / "motions.png")
        shoot_learning(page, Path(folder), out / "learning.png")
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
    save(page, path, height=1560)


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


def shoot_study(page: Page, path: Path) -> None:
    """The demo study, being rated in the tab."""
    open_tab(page, "study")
    frame = page.frame_locator("#demo-frame")
    frame.locator("#agree").check()
    frame.locator("#begin").click()
    expect(frame.locator(".tile.watched")).to_have_count(6)
    save(page, path, height=1000)


def shoot_learning(page: Page, folder: Path, path: Path) -> None:
    """A clip that was dropped on an object, to be learned from with the next video."""
    open_tab(page, "transfer")
    page.get_by_role("button", name="Start over").click()
    expect(page.locator(".stage-empty")).to_be_visible(timeout=PATIENCE)
    pick_example(page)
    click_object(page, example_boxes()[0])
    objects_are(page, 1)
    drop_clip(page, ".object-row", write_clip(folder))
    expect(page.locator(".lesson")).to_have_count(1, timeout=PATIENCE)
    page.wait_for_timeout(1500)  # the clip comes and plays
    save(page, path, height=900)


def shoot_motions(page: Page, folder: Path, path: Path) -> None:
    """The library, and a training on its way."""
    open_tab(page, "motions")
    fill_training(page, write_clip(folder), name="leap", steps=100)
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
