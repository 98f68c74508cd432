"""Laws of what stands behind the page: overlays, examples, the model."""

from __future__ import annotations

import copy
import logging
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import numpy as np
import pytest
from PIL import Image

from motion_app.errors import MotionAppError, server_fault
from motion_app.host import ModelHost
from motion_app.library.library import Library
from motion_app.settings import ROOT, Limits, Settings
from motion_app.ui import markup, pictures
from motion_app.ui.boundary import CALL_SECONDS, GuardedBlocks
from motion_app.ui.evaluate.results import EvaluationState
from motion_app.ui.motions.form import TrainingState
from motion_app.ui.page import launch_options
from motion_app.ui.sessions import LEFT_SECONDS
from motion_app.ui.transfer.object_draft import NamedBox, noun_at
from motion_app.ui.transfer.picture import load_examples
from motion_app.ui.transfer.session import Session
from motion_app.ui.transfer.stream import FollowedJobs
from motion_app.ui.transfer.tab import TransferTab
from motion_app.ui.visitor import BrowserState, PageVisit

ROBOT = NamedBox("red robot", (10, 10, 40, 50))


def picture(height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_an_app_whose_page_takes_long_on_a_busy_machine_is_served_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gradio.networking.url_ok", lambda url: False)
    with gr.Blocks(analytics_enabled=False) as page:
        gr.Markdown("Here")
    _, url, _ = page.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options()
    )
    assert httpx.get(url).status_code == 200
    page.close()


# pictures ---------------------------------------------------------------------------------------


def test_the_eight_colours_differ_and_their_numbers_can_be_read() -> None:
    assert len({pictures.colour_of(slot) for slot in range(8)}) == 8
    for slot in range(8):
        assert contrast(pictures.css_colour(slot), pictures.ink_on(slot)) >= 4.5


def contrast(one: str, other: str) -> float:
    """WCAG 2.1 contrast ratio of two #rrggbb colours."""
    lights = sorted(luminance(colour) for colour in (one, other))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_an_overlay_leaves_what_is_far_from_every_object_alone() -> None:
    image = picture(128, 192)
    mask = np.zeros((1, 128, 192), dtype=bool)
    mask[0, 40:80, 40:80] = True
    drawn = pictures.draw_objects(image, mask, [0])
    assert np.array_equal(drawn[:, 110:], image[:, 110:])
    assert not np.array_equal(drawn[50:70, 50:70], image[50:70, 50:70])


def test_the_sheet_has_a_cell_for_every_token_frame() -> None:
    frames = np.zeros((13, 64, 96, 3), np.uint8)
    sheet = pictures.mask_sheet(frames, np.zeros((2, 7, 16, 24), dtype=bool), [0, 1], cell_width=96)
    assert sheet.shape == (2 * 64 + 6, 4 * 96 + 3 * 6, 3)
    assert [tuple(sheet[0, x]) for x in (0, 96)] == [(0, 0, 0), (255, 255, 255)]


def test_previews_are_looping_animations_with_all_frames() -> None:
    frames = np.stack([np.full((16, 24, 3), 40 * t, np.uint8) for t in range(5)])
    masks = np.zeros((1, 5, 4, 6), dtype=bool)
    masks[:, :, 1:3, 1:3] = True
    drawn = pictures.preview_frames(frames, masks, [0])
    assert drawn.shape == (5, 192, 288, 3)
    assert pictures.animation_uri(drawn, 8).startswith("data:image/webp;base64,")


# examples ---------------------------------------------------------------------------------------


def write_example(folder: Path, name: str, notes: str) -> None:
    Image.fromarray(picture()).save(folder / f"{name}.png")
    (folder / f"{name}.json").write_text(notes)


def test_an_example_is_a_picture_and_what_is_on_it(tmp_path: Path) -> None:
    notes = '{"title": "Two", "objects": [{"noun": "red robot", "box": [10, 10, 40, 50]}]}'
    write_example(tmp_path, "two", notes)
    (loaded,) = load_examples(tmp_path)
    assert (loaded.name, loaded.title, loaded.objects) == ("two", "Two", (ROBOT,))
    assert np.array_equal(loaded.picture, picture())


def test_every_shipped_example_names_what_is_on_it() -> None:
    examples = load_examples(ROOT / "assets" / "examples")
    assert len(examples) >= 3
    for example in examples:
        assert len(example.objects) >= 2
        for item in example.objects:
            x0, y0, x1, y1 = item.box
            assert noun_at(example.objects, (x0 + x1) / 2, (y0 + y1) / 2) == item.noun


@pytest.mark.parametrize("notes", ["{", "[]", '{"objects": [{"noun": "x"}]}', '{"objects": 3}'])
def test_a_broken_example_does_not_stop_the_others(tmp_path: Path, notes: str) -> None:
    write_example(tmp_path, "good", "{}")
    write_example(tmp_path, "bad", notes)
    assert [example.name for example in load_examples(tmp_path)] == ["good"]


def test_of_nested_boxes_the_smallest_gives_the_noun() -> None:
    boxes = [NamedBox("house", (0, 0, 90, 60)), NamedBox("cat", (10, 10, 20, 20))]
    assert [noun_at(boxes, 15, 15), noun_at(boxes, 50, 50), noun_at(boxes, 95, 63)] == [
        *("cat", "house", "")
    ]


def test_a_preview_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    read_clip = pictures.read_clip
    monkeypatch.setattr(
        pictures, "read_clip", lambda *args, **named: read.append(args) or read_clip(*args, **named)
    )
    motion = Library([ROOT / "checkpoints" / "pocket" / "motions"]).find("jump")
    previews = pictures.Previews(Limits())
    moving, still = previews.motion(motion), previews.motion(motion, still=True)
    assert moving.startswith("data:image/webp") and still.startswith("data:image/jpeg")
    assert (previews.motion(motion), previews.motion(motion, still=True)) == (moving, still)
    assert len(read) == 2


# words and files --------------------------------------------------------------------------------


def test_every_script_lies_in_static_and_is_loaded_by_its_name() -> None:
    package = Path(markup.__file__).parent
    written = "".join(file.read_text(encoding="utf-8") for file in package.rglob("*.py"))
    there = {file.stem for file in (package / "static").glob("*.js")}
    assert {name for name in there if f'"{name}"' not in written} == set()
    calls = re.findall(r"\bscript\(([^)]*)\)", written)
    asked = {name for call in calls for name in re.findall(r'"(\w+)"', call)}
    assert asked and asked <= there
    assert re.findall(r"\bjs(?:_on_load)?=(?!script\()[^,)]+", written) == []
    assert [name for name in there if not markup.script(name).startswith("// ")] == []


def test_nothing_waits_for_the_change_of_a_state() -> None:
    """gradio tells a page of none in what it answers outside its line, as to all who ask how a job
    goes on: a hidden field is heard instead."""
    for file in Path(markup.__file__).parent.rglob("*.py"):
        written = file.read_text(encoding="utf-8")
        for name in re.findall(r"self\.(\w+) = gr\.State\(", written):
            assert f"{name}.change" not in written, file.name


@pytest.mark.parametrize(
    "state", [PageVisit, Session, FollowedJobs, TrainingState, EvaluationState]
)
def test_each_browser_begins_with_a_state_of_its_own(state: type[BrowserState]) -> None:
    first = state()
    first.owner = "ann"
    second = copy.deepcopy(first)
    assert type(second) is state and second.__dict__.get("owner") != "ann"


def test_an_upload_whose_page_is_left_holds_up_nothing() -> None:
    """gradio takes each step of a generator on a thread of its own, and may never take the last."""
    tab = TransferTab.__new__(TransferTab)  # without its components
    tab.scene_outputs = []
    tab.actions = SimpleNamespace(picture=lambda session, path: None)
    tab._show = lambda session: []
    session = Session()
    steps = tab.upload_picture(session, "picture.png")
    thread = threading.Thread(target=lambda: [next(steps), next(steps)])
    thread.start()
    thread.join()
    assert session.lock.acquire(blocking=False)


@pytest.mark.parametrize(
    ("kept", "known"), [("0" * 32, True), ("", False), (None, False), ("0" * 31 + "/", False)]
)
def test_a_browser_is_known_by_the_token_it_kept(kept: object, known: bool) -> None:
    visit = PageVisit()
    assert visit.enter(kept) == visit.owner and (visit.owner == kept) is known


def test_a_fault_of_the_servers_is_told_by_the_mark_in_its_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    line = server_fault(logging.getLogger("motion_app"), ValueError("/a/path"), "a job failed,")
    mark = re.search(r"[0-9a-f]{8}$", line).group()
    assert f"a job failed, {mark}" in caplog.text and "/a/path" in caplog.text
    assert "/a/path" not in line


def test_a_model_that_is_not_there_is_told_to_whoever_needs_it(tmp_path: Path) -> None:
    host = ModelHost(Settings(model=str(tmp_path / "none"), outputs=tmp_path / "outputs"))
    host.start()
    with pytest.raises(MotionAppError, match="model_index"):
        host.engine()
    with pytest.raises(MotionAppError, match="model_index"):
        host.segmenter()
    assert host.status().state == "failed"
    host.stop()


def test_no_page_is_asked_to_keep_a_connection() -> None:
    with GuardedBlocks() as page:
        gr.State([])
    assert page.get_config_file()["connect_heartbeat"] is False
    assert CALL_SECONDS * 10 < LEFT_SECONDS  # an open page is not taken for one that was left
