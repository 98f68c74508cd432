"""The steps of a walk through the page, in any language: each waits until the page has answered."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from playwright.sync_api import FrameLocator, Page, expect
from visits import PATIENCE, ROOT

from motion_app.library.library import Library
from motion_app.media.files import write_video
from motion_app.ui.transfer.object_draft import compose_sentence
from motion_app.world.world import draw_scene, render

# of each tab what shows that it has come
TABS = {
    "transfer": "#generate",
    "motions": ".motion-card:visible",
    "study": "#demo-frame",
    "evaluate": "#evaluate-score",
}
QUICK, UNENDING = 2, 400  # steps; UNENDING: it ends because it is stopped, on whatever machine
Shares = tuple[float, float, float, float]
DROP = """([place, name, type, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type }));
  const node = document.querySelector(place);
  for (const kind of ["dragenter", "dragover", "drop"]) {
    node.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer }));
  }
}"""


def open_tab(page: Page, name: str) -> None:
    page.locator("#tabs button[role=tab]:visible").nth([*TABS].index(name)).click()
    expect(page.locator(TABS[name]).first).to_be_visible()


def example_boxes() -> list[Shares]:
    """The first example's objects, as shares of its width and height."""
    notes = sorted((ROOT / "assets" / "examples").glob("*.json"))[0]
    width, height = Image.open(notes.with_suffix(".png")).size
    boxes = [item["box"] for item in json.loads(notes.read_text())["objects"]]
    return [(x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in boxes]


def middle(box: Shares) -> tuple[float, float]:
    """A little below the middle: on the body, off the face."""
    return (box[0] + box[2]) / 2, 0.42 * box[1] + 0.58 * box[3]


def pick_example(page: Page) -> None:
    page.locator("#examples button").first.click()
    expect(page.locator(".stage-frame img").first).to_be_visible(timeout=PATIENCE)


def click_object(page: Page, box: Shares) -> None:
    stage = page.locator(".stage-frame")
    stage.scroll_into_view_if_needed()
    frame = stage.bounding_box()
    x, y = middle(box)
    stage.click(position={"x": x * frame["width"], "y": y * frame["height"]})


def objects_are(page: Page | FrameLocator, count: int) -> None:
    expect(page.locator(".object-row")).to_have_count(count, timeout=PATIENCE)


def mark_two(page: Page) -> None:
    for number, box in enumerate(example_boxes()[:2], start=1):
        if number > 1:
            page.locator(".stage-frame").press("n")
            expect(page.locator(".object-row.selected")).to_have_count(0, timeout=PATIENCE)
        click_object(page, box)
        objects_are(page, number)


def choose_motion(page: Page, number: int, motion: str) -> None:
    button = page.locator(f".motion-button[data-number='{number}']")
    button.click()
    page.locator(f".motion-dialog .card[data-name='{motion}']").click()
    expect(button).to_have_attribute("data-motion", motion, timeout=PATIENCE)


def set_steps(page: Page, steps: int) -> None:
    field = page.locator("#steps-count input[type=number]")
    if not field.is_visible():
        page.locator("#settings button").first.click()
    field.fill(str(steps))
    field.press("Tab")


def a_request(*, seed: int = 3, steps: int = 2, method: str = "fleximmt") -> dict[str, Any]:
    """The first example with its two objects as boxes and a motion for each."""
    notes = sorted((ROOT / "assets" / "examples").glob("*.json"))[0]
    picture = Image.open(notes.with_suffix(".png")).convert("RGB")
    library = Library([ROOT / "checkpoints" / "pocket" / "motions"])
    objects = []
    known = json.loads(notes.read_text())["objects"]
    for item, motion in zip(known, ("jump", "rise"), strict=False):
        mask = Image.new("L", picture.size)
        ImageDraw.Draw(mask).rectangle(item["box"], fill=255)
        phrase = library.find(motion).phrase
        sentence = compose_sentence(item["noun"], phrase)
        entry = {"mask": png_uri(mask), "sentence": sentence, "phrase": phrase, "motion": motion}
        objects.append({**entry, "name": item["noun"]})
    numbers = {"seed": seed, "steps": steps, "guidance": 6.0, "method": method}
    return {"image": png_uri(picture), "objects": objects, **numbers}


def png_uri(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def give_file(page: Page | FrameLocator, place: str, name: str, content: bytes) -> None:
    """Into the drop zone ``place``, a selector."""
    page.locator(f"{place} input[type=file]").set_input_files(
        {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    )


def drop_request(page: Page | FrameLocator, *, seed: int = 3, **options: Any) -> None:
    """Where one was dropped before, another ``seed`` tells that this one has come."""
    content = json.dumps(a_request(seed=seed, **options)).encode()
    give_file(page, "#recipe-drop", "request.json", content)
    expect(page.locator("#seed input")).to_have_value(str(seed))
    objects_are(page, 2)
    expect(page.locator("#restore-notes p").first).to_be_visible()


def toast(page: Page) -> str:
    """The newest toast's words; it is closed again."""
    message = page.locator(".toast-body:not(.info)").last  # the model may still be loading
    expect(message).to_be_visible()
    text = message.inner_text()
    message.locator(".toast-close").click()
    expect(message).to_have_count(0)  # it fades out
    return text


def start(page: Page) -> None:
    """Press Generate and wait until the job is in the gallery."""
    cards = page.locator(".gallery-card").count()
    page.locator("#generate").click()
    expect(page.locator(".gallery-card")).to_have_count(cards + 1, timeout=PATIENCE)


def video_is_there(page: Page) -> None:
    """The newest job is done and its video in the player."""
    expect(page.locator(".gallery-card").first.locator(".state-done")).to_be_attached(
        timeout=2 * PATIENCE
    )
    expect(page.locator("#video video")).to_be_visible(timeout=PATIENCE)


def video_plays(page: Page) -> None:
    player = "document.querySelector('#video video')"
    page.wait_for_function(f"{player}.duration > 0.5 && !{player}.paused")
    began = page.evaluate(f"{player}.currentTime")
    page.wait_for_function(f"began => {player}.currentTime !== began", arg=began)


def write_clip(folder: Path) -> Path:
    """A creature that jumps."""
    scene = draw_scene(np.random.default_rng(2), objects=1, motions=["jump"])
    path = folder / "jump.mp4"
    write_video(path, np.concatenate([render(scene).frames] * 2), 8.0)
    return path


def drop_clip(page: Page, place: str, clip: Path) -> None:
    """Let the clip's file fall on what ``place`` selects."""
    content = base64.b64encode(clip.read_bytes()).decode()
    page.evaluate(DROP, [place, clip.name, "video/mp4", content])


def upload_clip(page: Page, clip: Path) -> None:
    page.set_input_files("#clip-upload input[type=file]", str(clip))
    expect(page.locator(".clip")).to_have_count(1, timeout=PATIENCE)


def fill_training(page: Page, clip: Path, *, name: str, steps: int) -> None:
    """Everything on the Motions tab before Train."""
    upload_clip(page, clip)
    for field, words in (("name", name), ("noun", "cat"), ("phrase", "leaps")):
        page.locator(f"#motion-{field}").locator("input, textarea").fill(words)
    expect(page.locator("#motion-caption")).to_contain_text("A cat leaps.", timeout=PATIENCE)
    field = page.locator("#training-steps input[type=number]")
    if not field.is_visible():
        page.locator(".motions-training .label-wrap").first.click()
    field.fill(str(steps))
    field.press("Tab")
