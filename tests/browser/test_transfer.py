"""Picture, objects and motions in a real browser, on the checkpoint and the examples that ship with
the app, up to the video that plays."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from pathlib import Path

import gradio
import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, expect
from serving import RunningApp
from visits import DESKTOP, PATIENCE, PHONE, console_of, listens, lively, open_page
from walk import (
    choose_motion,
    click_object,
    example_boxes,
    mark_two,
    middle,
    pick_example,
    set_steps,
    toast,
)

BADGES = ".object-row .badge"


def frame_of(page: Page) -> dict[str, float]:
    stage = page.locator(".stage-frame")
    stage.scroll_into_view_if_needed()
    return stage.bounding_box()


def drag(page: Page, start: tuple[float, float], stop: tuple[float, float]) -> None:
    """A press at one place of the picture, let go at another; shares of it."""
    frame = frame_of(page)
    places = [
        (frame["x"] + x * frame["width"], frame["y"] + y * frame["height"])
        for x, y in (start, stop)
    ]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=6)
    page.mouse.up()


def focused(page: Page) -> str:
    return page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.id")


def mask_sizes(page: Page) -> list[int]:
    """Pixels of every object's mask, from the file that holds them all."""
    with page.expect_download() as got:
        page.locator("#export_all").click()
    archive = zipfile.ZipFile(got.value.path())
    return [
        int((np.asarray(Image.open(io.BytesIO(archive.read(name)))) > 127).sum())
        for name in archive.namelist()
    ]


def masks_become(page: Page, sizes: list[int]) -> None:
    while mask_sizes(page) != sizes:  # what was painted is told in a call of its own
        page.wait_for_timeout(100)


def test_example_two_clicks_two_motions_and_the_video_plays_without_an_error_in_the_console(
    browser: Browser, server: str
) -> None:
    page = browser.known_page(viewport=DESKTOP)
    lively(page)
    faults = console_of(page)
    page.goto(server)
    listens(page)
    pick_example(page)
    mark_two(page)
    names = ["jump", "walk left"]
    for number, name in enumerate(names, start=1):
        choose_motion(page, number, name)
    set_steps(page, 4)
    page.locator("#generate").click()
    video = page.locator("#video video")
    expect(video).to_be_visible(timeout=2 * PATIENCE)
    page.wait_for_function("document.querySelector('#video video').duration > 0.5")
    expect(page.locator("#status")).to_contain_text("seed 0")
    with page.expect_download() as download:
        page.locator("#recipe").click()
    recipe = json.loads(Path(download.value.path()).read_text())
    assert [item["motion"] for item in recipe["request"]["objects"]] == names
    assert faults == []


def test_what_is_being_typed_when_generate_is_pressed_counts(page: Page) -> None:
    pick_example(page)
    click_object(page, example_boxes()[0])
    expect(page.locator(BADGES)).to_have_count(1, timeout=PATIENCE)
    choose_motion(page, 1, "jump")
    set_steps(page, 2)
    sentence = page.get_by_label("Sentence of object 1")
    sentence.fill("An <b>odd</b> thing.")
    page.locator("#generate").click()
    assert "<b>odd</b>" in toast(page)  # shown as written, not as markup
    expect(page.locator(".object-row .note.warning")).to_contain_text("exactly once")
    expect(sentence).to_have_value("An <b>odd</b> thing.")


def test_the_prompts_length_is_told_while_typing_and_too_much_is_refused(page: Page) -> None:
    pick_example(page)
    click_object(page, example_boxes()[0])
    expect(page.locator(BADGES)).to_have_count(1, timeout=PATIENCE)
    choose_motion(page, 1, "jump")
    sentence = page.get_by_label("Sentence of object 1")
    phrase = page.locator(".object-row .mirror mark")
    expect(phrase).to_have_count(1, timeout=PATIENCE)
    words = phrase.text_content()
    sentence.press_sequentially(" ")
    expect(page.locator(".token-count")).to_contain_text("of 64 tokens", timeout=PATIENCE)
    sentence.fill("红色的猫" + words.replace(" ", "\u00a0 ") + "。")
    expect(phrase).to_have_text(words.replace(" ", "\u00a0 "))
    expect(page.locator(".object-row .note.warning")).to_have_count(0, timeout=PATIENCE)
    sentence.fill(f"A cat {words}. " + "It is there. " * 16)
    over = page.locator(".token-count.warning")
    expect(over).to_contain_text("no more than 64", timeout=PATIENCE)
    page.locator("#generate").click()
    assert "the model reads 64; shorten it" in toast(page)


def test_mistakes_are_told_in_words_and_nothing_is_lost(page: Page) -> None:
    page.locator("#generate").click()
    assert "no picture yet" in toast(page)
    pick_example(page)
    page.locator("#generate").click()
    assert "nothing is marked yet" in toast(page).lower()
    mark_two(page)
    page.locator("#upload input[type=file]").set_input_files(
        {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture at all"}
    )
    assert "notes.png cannot be read as a picture" in toast(page)
    beside = page.locator("#upload-note .note")
    expect(beside).to_contain_text("notes.png cannot be read as a picture")
    expect(page.locator(BADGES)).to_have_count(2)
    expect(page.locator("#upload input[type=file]")).to_have_count(1, timeout=PATIENCE)
    pick_example(page)
    expect(beside).to_be_hidden()


def test_the_keyboard_alone_marks_moves_and_takes_back(page: Page) -> None:
    pick_example(page)
    box = example_boxes()[0]
    page.locator(".stage-frame").focus()
    for key, share in (("Arrow{}", (box[0] + box[2]) / 2), ("", 0.42 * box[1] + 0.58 * box[3])):
        presses = round((share - 0.5) / 0.02)
        towards = ("Right", "Left") if key else ("Down", "Up")
        for _ in range(abs(presses)):
            page.keyboard.press("Arrow" + towards[presses < 0])
    page.keyboard.press("Enter")
    expect(page.locator(BADGES)).to_have_count(1, timeout=PATIENCE)
    expect(page.locator(".stage-frame")).to_be_focused()
    page.get_by_label("Motion of object 1").focus()
    page.keyboard.press("Enter")
    page.keyboard.type("walk right")
    expect(page.locator(".motion-dialog .card:visible")).to_have_count(1)
    page.keyboard.press("Enter")
    button = page.get_by_label("Motion of object 1")
    expect(button).to_have_attribute("data-motion", "walk right", timeout=PATIENCE)
    expect(button).to_be_focused()
    page.locator(".stage-frame").focus()
    for _ in range(2):
        page.keyboard.press("Control+z")
    expect(page.locator(BADGES)).to_have_count(0, timeout=PATIENCE)
    expect(page.locator(".stage-frame")).to_be_focused()
    page.keyboard.press("Control+Shift+Z")
    expect(page.locator(BADGES)).to_have_count(1, timeout=PATIENCE)


def test_a_second_thing_is_a_second_object_unless_one_says_otherwise(page: Page) -> None:
    pick_example(page)
    one, other = example_boxes()[:2]
    click_object(page, one)
    expect(page.locator(BADGES)).to_have_count(1, timeout=PATIENCE)
    hint = page.locator("#hint").bounding_box()
    assert hint["y"] + hint["height"] < DESKTOP["height"]  # above the fold
    frame, (x, y) = frame_of(page), middle(other)
    for step in (0, 2):
        page.mouse.move(frame["x"] + x * frame["width"] + step, frame["y"] + y * frame["height"])
    foreseen = page.locator(".stage-foreseen")
    expect(foreseen).to_be_visible(timeout=PATIENCE)
    click_object(page, other)
    expect(page.locator(BADGES)).to_have_count(2, timeout=PATIENCE)
    expect(page.locator(".object-row.selected .badge")).to_have_text("2")
    page.get_by_role("button", name="More of object 1").click()
    expect(page.locator(BADGES)).to_have_count(1, timeout=PATIENCE)
    expect(page.locator(".stage-question")).to_have_count(0)
    page.locator("#undo").click()
    expect(page.locator(BADGES)).to_have_count(2, timeout=PATIENCE)
    choose_motion(page, 2, "jump")  # to go on is an answer too
    expect(page.locator(".stage-question")).to_have_count(0, timeout=PATIENCE)
    click_object(page, one)  # back to the first by a click on it
    expect(page.locator(".object-row.selected .badge")).to_have_text("1", timeout=PATIENCE)
    expect(page.locator(BADGES)).to_have_count(2)


def test_a_photograph_is_told_of_and_what_has_no_name_is_asked_for_one(page: Page) -> None:
    folder = Path(gradio.__file__).parent / "media_assets" / "images"
    page.locator("#upload input[type=file]").set_input_files(folder / "lion.jpg")
    expect(page.locator(".callout")).to_contain_text("--model", timeout=PATIENCE)
    frame_of(page)
    page.locator(".stage-frame").click(position={"x": 150, "y": 100})
    expect(page.locator(BADGES)).to_have_count(1, timeout=PATIENCE)
    page.locator("#generate").click()
    assert "press Generate once more" in toast(page)
    wanted = page.locator(".object-row .note.warning")
    expect(wanted).to_contain_text("Give it a name", timeout=PATIENCE)
    expect(page.locator(".gallery-card")).to_have_count(0)
    page.get_by_label("Name of object 1").fill("lion")
    expect(wanted).to_have_count(0, timeout=PATIENCE)
    pick_example(page)
    expect(page.locator(".callout")).to_have_count(0, timeout=PATIENCE)


def test_brush_eraser_box_and_answers_change_the_mask_and_undo_says_what(page: Page) -> None:
    pick_example(page)
    click_object(page, example_boxes()[0])
    expect(page.locator(BADGES)).to_have_count(1, timeout=PATIENCE)
    expect(page.locator(".candidate")).to_have_count(0)  # the answers are all but the same
    (clicked,) = mask_sizes(page)
    page.keyboard.press("d")
    drag(page, (0.6, 0.1), (0.9, 0.1))
    undo = page.locator("#undo")
    expect(undo).to_have_attribute("title", re.compile("stroke on object 1"), timeout=PATIENCE)
    (painted,) = mask_sizes(page)
    assert painted > clicked
    page.keyboard.press("e")
    for _ in range(6):
        page.keyboard.press("]")
    drag(page, (0.55, 0.1), (0.95, 0.1))
    redo = page.locator("#redo")
    masks_become(page, [clicked])
    undo.click()
    expect(redo).to_have_attribute("title", re.compile("stroke on object 1"), timeout=PATIENCE)
    assert mask_sizes(page) == [painted]
    page.keyboard.press("n")
    page.keyboard.press("b")
    expect(page.locator("#hint")).to_contain_text("Click on the next object", timeout=PATIENCE)
    x0, y0, x1, y1 = example_boxes()[1]
    drag(page, (x0, y0), (x1, y1))
    expect(page.locator(BADGES)).to_have_count(2, timeout=PATIENCE)
    expect(undo).to_have_attribute("title", re.compile("box around object 2"))
    page.keyboard.press("n")
    page.keyboard.press("p")
    expect(page.locator("#hint")).to_contain_text("Click on the next object", timeout=PATIENCE)
    click_object(page, (0.105, 0.77, 0.115, 0.77))  # where a tail ends: what is meant is not clear
    expect(page.locator(".candidate")).to_have_count(3, timeout=PATIENCE)
    page.locator(".stage-frame").focus()
    checked = page.locator(".candidate").evaluate_all(
        "all => all.map((one) => one.ariaChecked === 'true')"
    )
    place = checked.index(False)
    page.keyboard.press(str(place + 1))
    chosen = page.locator(".candidate").nth(place)
    expect(chosen).to_have_attribute("aria-checked", "true", timeout=PATIENCE)


def test_rows_keep_focus_while_they_are_renamed_moved_and_deleted(page: Page) -> None:
    pick_example(page)
    mark_two(page)
    page.get_by_label("Name of object 1").fill("old cat")
    page.keyboard.press("Enter")
    sentence = page.get_by_label("Sentence of object 1")
    expect(sentence).to_have_value("An old cat is moving.", timeout=PATIENCE)
    assert focused(page) == "Name of object 1"
    page.keyboard.press("Alt+ArrowDown")
    expect(page.get_by_label("Name of object 2")).to_have_value("old cat", timeout=PATIENCE)
    assert focused(page) == "Name of object 2"
    page.get_by_label("Delete object 2").click()
    expect(page.locator(BADGES)).to_have_count(1, timeout=PATIENCE)
    assert "Refine object 1" in focused(page)
    page.locator("#undo").click()
    expect(page.get_by_label("Name of object 2")).to_have_value("old cat", timeout=PATIENCE)


def test_letters_that_come_while_an_answer_is_on_its_way_stay(page: Page) -> None:
    pick_example(page)
    click_object(page, example_boxes()[0])
    expect(page.locator(BADGES)).to_have_count(1, timeout=PATIENCE)
    name = page.get_by_label("Name of object 1")
    name.fill("")
    name.press_sequentially("a very long name of a cat", delay=90)  # longer than the pause
    page.wait_for_timeout(1500)
    expect(name).to_have_value("a very long name of a cat")
    sentence = page.get_by_label("Sentence of object 1")
    expect(sentence).to_have_value("A very long name of a cat is moving.", timeout=PATIENCE)


def test_an_edited_prompt_that_lacks_a_phrase_is_told_at_once(page: Page) -> None:
    pick_example(page)
    click_object(page, example_boxes()[0])
    expect(page.locator(BADGES)).to_have_count(1, timeout=PATIENCE)
    choose_motion(page, 1, "jump")
    expect(page.locator("#prompt mark sup")).to_have_text("1")
    page.locator("#prompt button").click()
    page.get_by_label("Prompt", exact=True).fill("A cat sleeps.")
    warning = page.locator("#prompt .note.warning")
    expect(warning).to_contain_text('"A cat sleeps."', timeout=PATIENCE)
    page.locator("#prompt button").click()
    expect(warning).to_have_count(0, timeout=PATIENCE)
    expect(page.locator("#prompt mark sup")).to_have_text("1")


def test_a_picture_can_be_pasted_and_each_fit_shows_what_it_does(page: Page) -> None:
    file = io.BytesIO()
    Image.new("RGB", (400, 100), "teal").save(file, "PNG")
    page.evaluate(
        """async (body) => {
          const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
          const files = new DataTransfer();
          files.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
          const options = { clipboardData: files, bubbles: true, cancelable: true };
          document.body.dispatchEvent(new ClipboardEvent("paste", options));
        }""",
        base64.b64encode(file.getvalue()).decode("ascii"),
    )
    note = page.locator("#fit-note")
    expect(note).to_contain_text("cut off left and right", timeout=PATIENCE)
    expect(page.locator(".fit-option img")).to_have_count(3)
    for fit, words in (("Pad", "black bars"), ("Stretch", "stretched")):
        page.get_by_label(fit).check(force=True)
        expect(note).to_contain_text(words, timeout=PATIENCE)
    page.locator("#undo").click()
    expect(note).to_contain_text("black bars", timeout=PATIENCE)
    expect(page.get_by_label("Pad")).to_be_checked()


@pytest.mark.parametrize("size", [(720, 1280), (1920, 800), (500, 500)], ids=str)
def test_a_picture_of_any_shape_is_cut_and_never_stretched(
    page: Page, size: tuple[int, int]
) -> None:
    width, height = size
    radius = min(size) // 8
    picture = Image.new("RGB", size, "teal")
    disc = (width - radius, height - radius)  # at the far end of what overhangs
    corners = [disc[0] - radius, disc[1] - radius, disc[0] + radius, disc[1] + radius]
    ImageDraw.Draw(picture).ellipse(corners, fill="white")
    file = io.BytesIO()
    picture.save(file, "PNG")
    page.locator("#upload input[type=file]").set_input_files(
        {"name": "odd.png", "mimeType": "image/png", "buffer": file.getvalue()}
    )
    note = page.locator("#fit-note")
    expect(note).to_contain_text("were cut off", timeout=PATIENCE)
    slider = page.locator(".shift input")
    slider.fill("1")
    page.wait_for_function("document.querySelector('#fit-note').textContent.includes(' and 0 ')")
    source = page.locator(".stage-frame > img").first.get_attribute("src")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    rows, columns = np.nonzero(shown[..., 0] > 128)
    assert len(rows), "the disc was cut off"
    assert np.ptp(columns) == pytest.approx(np.ptp(rows), rel=0.12)


def test_a_finger_paints_as_a_mouse_does(browser: Browser, server: str) -> None:
    page = open_page(browser, server, PHONE)
    pick_example(page)
    page.locator('[data-tool="brush"]').click()
    frame = frame_of(page)
    page.evaluate(
        """([x, y]) => {
          const stage = document.querySelector(".stage-frame");
          const fire = (name, step) => stage.dispatchEvent(new PointerEvent(name, {
            pointerId: 1, pointerType: "touch", button: name === "pointermove" ? -1 : 0,
            clientX: x + step, clientY: y, bubbles: true, cancelable: true,
          }));
          stage.setPointerCapture = () => {};
          fire("pointerdown", 0);
          for (let step = 0; step < 60; step += 10) fire("pointermove", step);
          fire("pointerup", 60);
        }""",
        [frame["x"] + 0.5 * frame["width"], frame["y"] + 0.3 * frame["height"]],
    )
    expect(page.locator(BADGES)).to_have_count(1, timeout=PATIENCE)


def is_kept(app: RunningApp, sentence: str, steps: int) -> bool:
    """Whether a scene with that sentence and number of steps waits on the server's disk."""
    for file in (app.folder / "outputs" / "drafts").glob("*/*/scene.npz"):
        with np.load(file) as arrays:
            scene = json.loads(str(arrays["scene"]))
        sentences = [item["sentence"] for item in scene["objects"]]
        if sentence in sentences and scene["settings"].get("steps") == steps:
            return True
    return False


def test_a_reload_and_a_closed_tab_keep_the_scene_until_one_starts_over(
    page: Page, app: RunningApp
) -> None:
    pick_example(page)
    mark_two(page)
    choose_motion(page, 1, "jump")
    sentence = "A red bird is moving far away."
    page.get_by_label("Sentence of object 2").fill(sentence)
    expect(page.locator("#prompt")).to_contain_text("far away", timeout=PATIENCE)
    set_steps(page, 7)
    while not is_kept(app, sentence, 7):  # each field is told in a call of its own
        page.wait_for_timeout(50)

    def scene_is_there(tab: Page) -> None:
        expect(tab.locator(BADGES)).to_have_count(2, timeout=PATIENCE)
        motion = tab.get_by_label("Motion of object 1")
        expect(motion).to_have_attribute("data-motion", "jump", timeout=PATIENCE)
        assert tab.get_by_label("Sentence of object 2").input_value().endswith("far away.")
        tab.locator("#settings button").first.click()
        expect(tab.locator("#steps-count input[type=number]")).to_have_value("7", timeout=PATIENCE)

    sizes = mask_sizes(page)
    page.reload()
    scene_is_there(page)
    assert mask_sizes(page) == sizes
    again = page.context.new_page()
    page.close()
    again.goto(page.url)
    scene_is_there(again)
    again.get_by_role("button", name="Start over").click()
    expect(again.locator(".stage-empty")).to_be_visible(timeout=PATIENCE)
    again.reload()
    expect(again.locator(".stage-empty")).to_be_visible()
    again.wait_for_timeout(1000)
    expect(again.locator(BADGES)).to_have_count(0)
    expect(again.locator(".stage-empty")).to_be_visible()


def test_on_a_phone_the_steps_are_stacked_and_nothing_overflows(
    browser: Browser, server: str
) -> None:
    page = open_page(browser, server, PHONE)
    pick_example(page)
    mark_two(page)
    tops = page.locator("#steps > .step").evaluate_all(
        "steps => steps.map((step) => step.getBoundingClientRect().top)"
    )
    lefts = page.locator("#steps > .step").evaluate_all(
        "steps => steps.map((step) => step.getBoundingClientRect().left)"
    )
    assert tops == sorted(set(tops))
    assert len(set(lefts)) == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_on_a_phone_the_question_of_a_second_object_is_whole(browser: Browser, server: str) -> None:
    page = open_page(browser, server, PHONE)
    pick_example(page)
    for number, box in enumerate(example_boxes()[:2], start=1):
        click_object(page, box)
        expect(page.locator(BADGES)).to_have_count(number, timeout=PATIENCE)
    question = page.locator(".stage-question")
    expect(question).to_be_visible(timeout=PATIENCE)
    inner, outer = question.bounding_box(), frame_of(page)
    assert outer["x"] <= inner["x"]
    assert inner["x"] + inner["width"] <= outer["x"] + outer["width"]
    page.get_by_role("button", name="More of object 1").click()
    expect(page.locator(BADGES)).to_have_count(1, timeout=PATIENCE)


def test_on_a_phone_a_picked_picture_and_a_made_video_come_into_view(
    browser: Browser, server: str
) -> None:
    page = open_page(browser, server, PHONE)
    pick_example(page)
    seen = "([name]) => { const box = document.querySelector(name).getBoundingClientRect();"
    seen += " return box.top >= 0 && box.bottom <= innerHeight; }"
    page.wait_for_function(seen, arg=[".stage-frame"])
    mark_two(page)
    set_steps(page, 1)
    page.locator("#generate").click()
    expect(page.locator("#video video")).to_be_visible(timeout=2 * PATIENCE)
    page.wait_for_function(seen, arg=["#video video"])


def test_what_is_wrong_is_told_together_and_goes_when_it_is_mended(page: Page) -> None:
    pick_example(page)
    mark_two(page)
    for number in (1, 2):
        choose_motion(page, number, "jump")
        page.get_by_label(f"Sentence of object {number}").fill("It sleeps.")
    page.locator("#generate").click()
    told = toast(page)
    assert "object 1: " in told.lower() and "object 2: " in told.lower()
    expect(page.locator("#status .mistake")).to_be_visible()
    expect(page.locator(".row-notices .note.warning")).to_have_count(2, timeout=PATIENCE)
    late = "document.dispatchEvent(new CustomEvent('scene-answered', { detail: 'objects' }))"
    page.evaluate(late)  # the answer to what was typed before Generate was pressed mends nothing
    expect(page.locator("#status .mistake")).to_be_visible()
    page.get_by_label("Sentence of object 1").fill("It is moving.")
    page.get_by_label("Sentence of object 2").focus()
    expect(page.locator("#status .mistake")).to_be_hidden(timeout=PATIENCE)
    expect(page.locator(".row-notices .note.warning")).to_have_count(1, timeout=PATIENCE)


def test_the_other_language_has_the_same_tools_in_its_own_words(page: Page, server: str) -> None:
    keys = page.locator("[data-tool] kbd").all_inner_texts()
    words = page.locator("[data-tool] span").all_inner_texts()
    page.goto(f"{server}zh")
    listens(page)
    assert page.locator("[data-tool] kbd").all_inner_texts() == keys
    assert not set(page.locator("[data-tool] span").all_inner_texts()) & set(words)
