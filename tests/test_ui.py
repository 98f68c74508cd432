"""Laws of what stands behind the page: drafts, overlays, examples, the model."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motion_app.assignment import build_request, parse_request
from motion_app.errors import MotionAppError, RequestError
from motion_app.geometry import ModelGeometry
from motion_app.library import Library
from motion_app.scene import Click, Motion
from motion_app.settings import ROOT, Settings
from motion_app.ui import overlay
from motion_app.ui.examples import NamedBox, load_examples, noun_at
from motion_app.ui.host import ModelHost
from motion_app.ui.session import (
    SceneDraft,
    Session,
    compose_sentence,
    object_warning,
    request_entries,
    to_frame,
    to_picture,
)

GEOMETRY = ModelGeometry(
    *(64, 96, 13, 8.0, 7, 16, 24, 64, 2, 2, 16, 32, 4),
    spatial_ratio=2,
    temporal_ratio=2,
    patch_size=2,
)
JUMP = Motion("jump", "jumps", Path("jump.safetensors"), "base")
ROBOT = NamedBox("red robot", (10, 10, 40, 50))


def square(image: np.ndarray, clicks: Sequence[Click], *, side: int = 12) -> np.ndarray:
    """A stand-in for SAM-2: a square around the last click."""
    mask = np.zeros(image.shape[:2], dtype=bool)
    x, y = int(clicks[-1].x), int(clicks[-1].y)
    mask[max(0, y - side // 2) : y + side // 2, max(0, x - side // 2) : x + side // 2] = True
    return mask


def picture(height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def draft_with(*places: tuple[float, float]) -> SceneDraft:
    """A draft with an object for each place."""
    draft = SceneDraft.of(picture(), "crop", GEOMETRY, [ROBOT])
    for x, y in places:
        draft = draft.changed_selection(None).clicked(Click(x, y), square, most=8)
    return draft


# drafts -----------------------------------------------------------------------------------------


def test_a_click_on_a_known_thing_names_the_object_and_writes_its_sentence() -> None:
    draft = draft_with((20, 20), (80, 20))
    assert [item.name for item in draft.objects] == ["red robot", ""]
    assert draft.objects[0].sentence == "A red robot is moving."
    assert draft.objects[1].sentence == "The object is moving."


def test_further_clicks_refine_the_selected_object() -> None:
    draft = draft_with((20, 20)).clicked(Click(30, 30, positive=False), square, most=8)
    assert len(draft.objects) == 1
    assert [click.positive for click in draft.objects[0].clicks] == [True, False]


def test_undo_takes_clicks_back_in_their_order_whatever_they_were_on() -> None:
    draft = draft_with((20, 20), (80, 20)).changed_selection(0)
    draft = draft.clicked(Click(22, 22), square, most=8)
    counts = []
    for _ in range(3):
        draft = draft.undone()
        counts.append([len(item.marks) for item in draft.objects])
    assert counts == [[1, 1], [1], []]
    with pytest.raises(RequestError, match="no click"):
        draft.undone()


def test_undo_gives_the_mask_of_the_click_before() -> None:
    once = draft_with((20, 20))
    twice = once.clicked(Click(50, 30), square, most=8)
    assert np.array_equal(twice.undone().objects[0].mask, once.objects[0].mask)


def test_deleting_keeps_the_colours_of_the_others_and_frees_its_own() -> None:
    draft = draft_with((10, 10), (40, 40), (80, 20)).without(0)
    assert [item.slot for item in draft.objects] == [1, 2]
    again = draft.changed_selection(None).clicked(Click(10, 10), square, most=8)
    assert [item.slot for item in again.objects] == [1, 2, 0]


@pytest.mark.parametrize(("deleted", "selected"), [(0, 1), (1, 2), (2, None)])
def test_deleting_another_object_leaves_the_selection_on_the_same_one(
    deleted: int, selected: int | None
) -> None:
    draft = draft_with((10, 10), (40, 40), (80, 20))
    chosen = draft.objects[draft.selected]
    left = draft.without(deleted)
    if selected is None:
        assert left.selected is None
    else:
        assert left.objects[left.selected] is chosen


def test_one_object_more_than_allowed_is_refused() -> None:
    draft = draft_with((10, 10), (40, 40)).changed_selection(None)
    with pytest.raises(RequestError, match="2 is the most"):
        draft.clicked(Click(80, 20), square, most=2)


def test_an_object_does_not_begin_with_what_it_is_not() -> None:
    draft = draft_with()
    with pytest.raises(RequestError, match="first click must include"):
        draft.clicked(Click(10, 10, positive=False), square, most=8)


def test_a_sentence_follows_name_and_motion_until_it_is_edited() -> None:
    item = draft_with((20, 20)).objects[0].moved_by(JUMP)
    assert item.sentence == "A red robot jumps."
    assert item.renamed("orange cat").sentence == "An orange cat jumps."
    assert item.moved_by(None).sentence == "A red robot is moving."


def test_an_edit_that_changes_nothing_leaves_the_object_itself() -> None:
    item = draft_with((20, 20)).objects[0].moved_by(JUMP)
    assert item.moved_by(JUMP) is item
    assert item.renamed(item.name) is item
    assert item.rewritten(item.sentence) is item
    assert item.with_strength(1) is item


def test_in_an_edited_sentence_only_the_phrase_changes() -> None:
    draft = draft_with((20, 20))
    draft = draft.changed(0, lambda item: item.rewritten("Slowly the old robot is moving there."))
    item = draft.objects[0].moved_by(JUMP)
    assert item.sentence == "Slowly the old robot jumps there."
    assert item.renamed("ghost").sentence == item.sentence


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "The object is moving."),
        ("the moon", "The moon is moving."),
        ("  old   owl ", "An old owl is moving."),
    ],
)
def test_sentences_have_the_right_article(name: str, sentence: str) -> None:
    assert compose_sentence(name, "is moving") == sentence


@pytest.mark.parametrize("shape", [(300, 200), (100, 400), (64, 96)])
@pytest.mark.parametrize("modes", itertools.permutations(("crop", "pad", "stretch"), 2))
def test_another_fit_keeps_clicks_on_what_they_marked(
    shape: tuple[int, int], modes: tuple[str, str]
) -> None:
    before, after = (SceneDraft.of(picture(*shape), mode, GEOMETRY).fitted for mode in modes)
    click = Click(48, 32)  # the middle is in every fit
    moved = to_frame(after, before, click)
    assert to_picture(after, moved) == pytest.approx(to_picture(before, click))


def test_another_fit_makes_masks_anew_and_drops_what_is_cut_off() -> None:
    draft = SceneDraft.of(picture(64, 300), "pad", GEOMETRY)
    for x in (2, 48):
        draft = draft.changed_selection(None).clicked(Click(x, 32), square, most=8)
    refitted = draft.refitted("crop", GEOMETRY, square)
    assert [item.slot for item in refitted.objects] == [1]
    assert refitted.undone().objects == ()


def test_the_page_warns_of_exactly_the_masks_that_a_request_refuses() -> None:
    for side in range(1, 9):
        draft = SceneDraft.of(picture(), "crop", GEOMETRY)
        draft = draft.clicked(Click(33, 33), lambda i, c, s=side: square(i, c, side=s), most=8)
        if not draft.objects[0].mask.any():
            continue
        entries = request_entries(draft, seed=0, steps=1, guidance=1.0)
        try:
            build_request(parse_request(entries), geometry=GEOMETRY, library=Library([]), base=None)
            refused = False
        except RequestError as error:
            refused = "too small" in str(error)
        assert refused == ("too small" in object_warning(draft.objects[0], GEOMETRY)), side


def test_a_sentence_without_its_phrase_is_warned_of() -> None:
    draft = draft_with((20, 20)).changed(0, lambda item: item.moved_by(JUMP))
    draft = draft.changed(0, lambda item: item.rewritten("A red robot sits."))
    assert "jumps" in object_warning(draft.objects[0], GEOMETRY)


def test_the_request_of_a_draft_holds_the_very_pixels_and_masks() -> None:
    draft = draft_with((20, 20), (80, 40))
    entries = request_entries(draft, seed=0, steps=3, guidance=2.0)
    request = build_request(
        parse_request(entries), geometry=GEOMETRY, library=Library([]), base=None
    )
    assert np.array_equal(request.image, draft.fitted.image)
    for made, item in zip(request.objects, draft.objects, strict=True):
        assert np.array_equal(made.mask, item.mask)
    assert (request.seed, request.steps, request.guidance) == (0, 3, 2.0)


def test_every_browser_begins_with_a_session_of_its_own() -> None:
    first = Session()
    first.draft = draft_with((20, 20))
    second = copy.deepcopy(first)
    assert second.draft is None
    assert second.lock is not first.lock


# pictures ---------------------------------------------------------------------------------------


def test_the_eight_colours_differ_and_their_numbers_can_be_read() -> None:
    assert len({overlay.colour_of(slot) for slot in range(8)}) == 8
    for slot in range(8):
        assert contrast(overlay.css_colour(slot), overlay.ink_on(slot)) >= 4.5


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
    drawn = overlay.draw_objects(image, mask, [0])
    assert np.array_equal(drawn[:, 110:], image[:, 110:])
    assert not np.array_equal(drawn[50:70, 50:70], image[50:70, 50:70])


def test_a_picture_without_objects_is_only_enlarged() -> None:
    frame = picture()
    shown = overlay.picture_with_objects(frame, np.zeros((0, 64, 96), dtype=bool), [])
    assert shown.shape == (384, 576, 3)


def test_the_sheet_has_a_cell_for_every_token_frame() -> None:
    frames = np.zeros((13, 64, 96, 3), np.uint8)
    sheet = overlay.mask_sheet(frames, np.zeros((2, 7, 16, 24), dtype=bool), [0, 1], cell_width=96)
    assert sheet.shape == (2 * 64 + 6, 4 * 96 + 3 * 6, 3)
    assert [tuple(sheet[0, x]) for x in (0, 96)] == [(0, 0, 0), (255, 255, 255)]


def test_previews_are_looping_animations_with_all_frames() -> None:
    frames = np.stack([np.full((16, 24, 3), 40 * t, np.uint8) for t in range(5)])
    masks = np.zeros((1, 5, 4, 6), dtype=bool)
    masks[:, :, 1:3, 1:3] = True
    drawn = overlay.preview_frames(frames, masks, [0])
    assert drawn.shape == (5, 192, 288, 3)
    assert overlay.animation_uri(drawn, 8).startswith("data:image/webp;base64,")


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


# words and files --------------------------------------------------------------------------------


def test_the_page_is_built_without_torch() -> None:
    """Importing it takes longer than opening the page; the loading thread does that."""
    script = "import sys, motion_app.ui.page; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=240)


def test_a_model_that_is_not_there_is_told_to_whoever_needs_it(tmp_path: Path) -> None:
    host = ModelHost(Settings(model=str(tmp_path / "none"), outputs=tmp_path / "outputs"))
    host.start()
    with pytest.raises(MotionAppError, match="model_index"):
        host.engine()
    with pytest.raises(MotionAppError, match="model_index"):
        host.segmenter()
    assert host.status().state == "failed"
    host.stop()
