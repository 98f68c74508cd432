"""From a reference clip to a moving object on one screen, in a real browser. The app has the
weights that ship; a copy of their settings asks for few steps of training and of denoising, so that
all of it is done and nothing takes long."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from linked import POCKET, linked_pocket
from playwright.sync_api import Browser, Page, expect
from serving import RunningApp
from visits import DESKTOP, PATIENCE, PHONE, ROOT, check_accessible, lively, open_page
from walk import (
    click_object,
    drop_clip,
    example_boxes,
    objects_are,
    open_tab,
    pick_example,
    video_is_there,
    video_plays,
    write_clip,
)

from motion_app.engine.motion_encoder import EncoderConfig, MotionEncoder
from motion_app.models.checkpoint import Checkpoint

SPIN = ROOT / "assets" / "clips" / "spin.mp4"
MOST_ACTIONS = 8


def quick_checkpoint(folder: Path, *, training: int, steps: int) -> Path:
    """The pocket with other numbers of steps of its own, and without its encoder."""
    linked_pocket(folder, "generation.json", Checkpoint.ENCODER)
    told = json.loads((POCKET / "generation.json").read_text())
    learning = {**told["motion_training"], "steps": training}
    told |= {"steps": steps, "motion_training": learning, "refined_training": {"steps": 1}}
    (folder / "generation.json").write_text(json.dumps(told))
    return folder


def add_encoder(folder: Path) -> None:
    """A motion encoder of random weights for the checkpoint: it looks, and knows nothing."""
    torch.manual_seed(0)
    config = EncoderConfig.of(Checkpoint.find_configs(folder), tokens=5, scale=1.0)
    small = {"inner": 16, "heads": 2, "seeing": 1, "asking": 1}
    MotionEncoder(replace(config, still=0.0, moving=0.01, **small)).save(folder)


@pytest.fixture(scope="module")
def learning_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    folder = tmp_path_factory.mktemp("learning")
    model = quick_checkpoint(folder / "quick", training=5, steps=3)
    add_encoder(model)
    with RunningApp(folder, MOTION_APP_MODEL=str(model)) as running:
        yield running


@pytest.fixture
def page(browser: Browser, learning_app: RunningApp) -> Page:
    return ready_page(browser, learning_app, DESKTOP)


def ready_page(browser: Browser, app: RunningApp, viewport: dict[str, int]) -> Page:
    """A page with a model, so that no toast says that it is still loading."""
    page = open_page(browser, app.url, viewport)
    expect(page.locator("#banner .chip-ready")).to_be_visible(timeout=PATIENCE)
    return page


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips"))


def lessons_are(page: Page, count: int) -> None:
    expect(page.locator(".lesson")).to_have_count(count, timeout=PATIENCE)


def row(number: int) -> str:
    return f".object-row:nth-child({number})"


def test_photo_click_clip_click_clip_generate_takes_at_most_eight_actions(
    page: Page, clip: Path
) -> None:
    lively(page)
    actions: list[str] = []

    def does(what: str, action: Callable[[], None]) -> None:
        actions.append(what)
        action()

    does("picks a picture", lambda: pick_example(page))
    for number, (box, file) in enumerate(zip(example_boxes(), (clip, SPIN), strict=False), start=1):
        does("clicks a thing", lambda box=box: click_object(page, box))
        objects_are(page, number)
        does("drops a clip", lambda number=number, file=file: drop_clip(page, row(number), file))
        lessons_are(page, number)
    does("presses Generate", lambda: page.locator("#generate").click())
    parts = page.locator("#status .parts li")
    third = parts.nth(2).or_(page.locator("#video video")).first
    expect(third).to_be_visible(timeout=PATIENCE)
    page.reload()  # the job is found again, with its parts, and so is the scene
    expect(third).to_be_visible(timeout=PATIENCE)
    video_is_there(page)
    video_plays(page)
    assert len(actions) <= MOST_ACTIONS, actions
    lessons_are(page, 0)
    chosen = page.locator(".motion-button")
    names = [chosen.nth(k).get_attribute("data-motion") for k in range(2)]
    assert "jump" in names[0] and "spin" in names[1]
    page.locator("#tabs button[role=tab]:visible").nth(1).click()
    for name in names:
        expect(page.locator(".motion-card", has_text=name)).to_have_count(1, timeout=PATIENCE)


def test_the_panel_shows_what_is_learned_and_says_beside_its_fields_what_is_wrong(
    page: Page, clip: Path
) -> None:
    pick_example(page)
    click_object(page, example_boxes()[0])
    objects_are(page, 1)
    with page.expect_file_chooser() as chooser:
        page.locator(".learn-button").click()
    chooser.value.set_files(clip)
    lessons_are(page, 1)
    expect(page.locator(".lesson .clip-facts")).to_contain_text("13 frames", timeout=PATIENCE)
    frames = page.locator(".lesson .clip-stage")
    expect(frames).to_have_attribute("style", re.compile("data:image"), timeout=PATIENCE)
    check_accessible(page)
    whole = "list => list.scrollHeight <= list.clientHeight"
    assert page.locator(".object-list").evaluate(whole)  # nothing scrolls inside the column
    for name, words in (("noun", "green cat"), ("phrase", "leaps high"), ("name", "jump")):
        page.locator(f"[data-field=lesson_{name}]").fill(words)
    wrong = page.locator(".lesson-fields .note.warning")
    expect(wrong).to_contain_text("already", timeout=PATIENCE)  # the shipped one has that name
    expect(page.locator(".prompt-text")).to_contain_text("leaps high")
    page.locator("#generate").click()
    expect(page.locator("#status .mistake")).to_contain_text("already", timeout=PATIENCE)
    page.locator("[data-field=lesson_name]").fill("leap")
    expect(wrong).to_have_count(0, timeout=PATIENCE)
    page.locator(".clip-start").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".lesson .note.warning")).to_contain_text("too short", timeout=PATIENCE)
    page.locator("#undo").click()
    expect(page.locator(".lesson .clip-facts")).to_contain_text("13 frames", timeout=PATIENCE)
    page.reload()  # a scene that is kept has what is to be learned, too
    lessons_are(page, 1)
    expect(page.locator("[data-field=lesson_noun]")).to_have_value("green cat", timeout=PATIENCE)
    page.locator(".lesson > summary").click()
    page.locator(".lesson .clip-remove").click()
    lessons_are(page, 0)


def test_where_the_model_has_an_encoder_one_look_is_enough_and_is_refined_with_a_press(
    page: Page, clip: Path
) -> None:
    pick_example(page)
    click_object(page, example_boxes()[0])
    objects_are(page, 1)
    drop_clip(page, row(1), clip)
    lessons_are(page, 1)
    summary = page.locator(".lesson > summary")
    expect(summary).to_contain_text("is ready", timeout=PATIENCE)
    expect(page.locator(".lesson-look img")).to_be_visible(timeout=PATIENCE)
    ways = page.locator(".lesson-ways label")
    expect(ways).to_have_count(3)
    expect(ways.nth(2)).to_contain_text("5 steps")
    ways.filter(has_text="Learn from scratch").click()
    expect(summary).to_contain_text("5 steps", timeout=PATIENCE)
    ways.filter(has_text="At one look").click()
    expect(summary).to_contain_text("made in one look", timeout=PATIENCE)
    check_accessible(page)
    page.reload()  # how it is learned is kept with the scene, and so is what was seen
    expect(page.locator(".lesson-ways input").first).to_be_checked(timeout=PATIENCE)
    expect(page.locator(".lesson-look img")).to_have_count(1)
    page.locator("#generate").click()
    video_is_there(page)
    lessons_are(page, 0)
    page.locator("[data-act=lesson_refine]").click()
    expect(summary).to_contain_text("1 step", timeout=PATIENCE)
    page.locator("#generate").click()
    expect(page.locator("[data-key=gained]")).to_contain_text("Refining", timeout=PATIENCE)
    lessons_are(page, 0)
    open_tab(page, "motions")
    for method in ("Encoded", "Encoded and refined"):
        card = page.locator(".motion-card", has=page.get_by_text(method, exact=True))
        expect(card.first).to_be_visible(timeout=PATIENCE)


def test_a_video_on_the_picture_asks_for_whom_and_the_cards_take_one_too(
    browser: Browser, learning_app: RunningApp, clip: Path
) -> None:
    page = ready_page(browser, learning_app, PHONE)
    drop_clip(page, "#upload button", clip)  # the box for a picture
    dialog = page.locator(".clip-dialog")
    expect(dialog).to_be_visible(timeout=PATIENCE)
    expect(dialog).to_contain_text("it gets the video")
    page.keyboard.press("Escape")
    pick_example(page)
    click_object(page, example_boxes()[0])
    lessons_are(page, 1)  # it was kept for the first object
    page.locator(".lesson .clip-remove").click()
    lessons_are(page, 0)
    drop_clip(page, "#stage .stage-frame", clip)
    check_accessible(page)
    dialog.get_by_role("button", name="Object 1").click()
    lessons_are(page, 1)
    name = page.locator(".motion-button").get_attribute("data-motion")
    page.locator(".motion-button").click()
    with page.expect_file_chooser() as chooser:
        page.locator(".motion-dialog .card").first.click()
    chooser.value.set_files(
        {"name": "no.mp4", "mimeType": "video/mp4", "buffer": b"this is no video"}
    )
    refusal = re.compile(r"(?<![\w-])no\.mp4 is no clip")  # called as its owner calls it
    expect(page.locator(".toast-body")).to_contain_text(refusal, timeout=PATIENCE)
    assert page.locator(".motion-button").get_attribute("data-motion") == name
