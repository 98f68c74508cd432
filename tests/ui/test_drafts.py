"""Laws of a scene that a person is describing: masks, words, the way back, and requests."""

from __future__ import annotations

import base64
import copy
import itertools
import json
import re
import zipfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from motion_app.errors import MediaError, MotionFileError, RequestError
from motion_app.geometry import ModelGeometry, grid_to_mask
from motion_app.library.library import Library
from motion_app.media.files import encode_data_uri, read_mask
from motion_app.request.paths import from_picture, to_picture
from motion_app.request.request import build_request, parse_request
from motion_app.request.written import request_to_json
from motion_app.scene import Box, Click, GenerationRequest, Motion, Options, SceneObject
from motion_app.settings import Limits
from motion_app.ui.markup import LANGUAGES, Texts
from motion_app.ui.transfer.actions import SceneActions
from motion_app.ui.transfer.canvas import canvas_html, mask_file, masks_file
from motion_app.ui.transfer.draft import SceneDraft, request_of
from motion_app.ui.transfer.object_draft import (
    NamedBox,
    Stroke,
    compose_sentence,
    moved_click,
    paint,
    rasterise,
    stroke_of,
)
from motion_app.ui.transfer.picture import Example, fit_words
from motion_app.ui.transfer.rows import marked_prompt, object_problems, prompt_fault, rows_html
from motion_app.ui.transfer.session import MOST_STEPS, Action, History, Session

GEOMETRY = ModelGeometry(
    *(64, 96, 13, 8.0, 7, 16, 24, 64, 2, 2, 16, 32, 4),
    spatial_ratio=2,
    temporal_ratio=2,
    patch_size=2,
)
JUMP = Motion("jump", "jumps", Path("jump.safetensors"), "base")
SPIN = Motion("spin", "spins fast", Path("spin.safetensors"), "base")
ROBOT = NamedBox("red robot", (10, 10, 40, 50))


def request_entries(draft: SceneDraft, **options: float) -> dict:
    """What is asked by the draft, as the JSON of a request file."""
    return request_to_json(request_of(draft, Options(**options)))


def square(
    image: np.ndarray, clicks: Sequence[Click], box: Box | None = None, *, side: int = 12
) -> SimpleNamespace:
    """A stand-in for SAM-2: three squares around the last click, or the box; the second is best."""
    masks = np.zeros((3, *image.shape[:2]), dtype=bool)
    for k in range(3):
        half = side // 2 + 2 * (k - 1)
        if box is None:
            x, y = int(clicks[-1].x), int(clicks[-1].y)
            area = max(0, x - half), max(0, y - half), x + half, y + half
        else:
            area = int(box.x0), int(box.y0), int(box.x1), int(box.y1) - k
        masks[k, area[1] : area[3], area[0] : area[2]] = True
    return SimpleNamespace(masks=masks, mask=masks[1], scores=np.array([0.5, 0.9, 0.7]), best=1)


def picture(height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def draft_with(*places: tuple[float, float]) -> SceneDraft:
    """A draft with an object for each place."""
    draft = SceneDraft.of(picture(), "crop", GEOMETRY, [ROBOT])
    for x, y in places:
        draft = draft.changed_selection(None).clicked(Click(x, y), square, most=8)
    return draft


def moving(*motions: Motion) -> SceneDraft:
    """A draft with an object for each motion, side by side."""
    draft = draft_with(*((20 + 25 * k, 30) for k in range(len(motions))))
    for k, motion in enumerate(motions):
        draft = draft.moved_by(k, motion).changed(k, lambda item, k=k: item.renamed(f"fox{k}"))
    return draft


def notice_keys(draft: SceneDraft) -> list[list[str]]:
    problems = object_problems(draft, GEOMETRY)
    return [[problem.key.removeprefix("transfer.notice_") for problem in some] for some in problems]


# masks ------------------------------------------------------------------------------------------


def test_a_click_on_a_known_thing_names_the_object_and_writes_its_sentence() -> None:
    draft = draft_with((20, 20), (80, 20))
    assert [item.name for item in draft.objects] == ["red robot", ""]
    assert draft.objects[0].sentence == "A red robot is moving."
    assert draft.objects[1].sentence == "The object is moving."


def test_further_clicks_refine_the_selected_object() -> None:
    draft = draft_with((20, 20)).clicked(Click(30, 30, positive=False), square, most=8)
    assert len(draft.objects) == 1
    assert [click.positive for click in draft.objects[0].clicks] == [True, False]


def test_a_click_far_from_the_selected_object_begins_another_and_asks() -> None:
    one = draft_with((20, 20))
    two = one.clicked(Click(80, 44), square, most=8)
    assert (len(two.objects), two.selected, two.question.index) == (2, 1, 0)
    assert two.objects[0] is one.objects[0]
    more = two.more(square, most=8)  # the other answer: as if it had refined
    assert (len(more.objects), more.selected, more.question) == (1, 0, None)
    assert [(click.x, click.y) for click in more.objects[0].clicks] == [(20, 20), (80, 44)]
    with pytest.raises(RequestError, match="nothing to decide"):
        more.more(square, most=8)


def test_a_click_near_the_object_or_on_what_belongs_to_it_asks_nothing() -> None:
    one = draft_with((20, 20))
    near = one.clicked(Click(28, 20), square, most=8)
    assert (len(near.objects), near.question) == (1, None)
    whole = SimpleNamespace(masks=np.ones((3, 64, 96), bool), mask=np.ones((64, 96), bool))
    whole.scores, whole.best = np.ones(3), 0
    part = one.clicked(Click(80, 44), lambda *asked: whole, most=8)  # of the same thing
    assert (len(part.objects), part.question) == (1, None)
    excluded = one.clicked(Click(80, 44, positive=False), square, most=8)
    assert (len(excluded.objects), excluded.question) == (1, None)


def test_a_click_on_another_object_selects_it_and_a_far_box_is_another_thing() -> None:
    two = draft_with((20, 20), (80, 44))
    back = two.clicked(Click(20, 20), square, most=8)
    assert (back.selected, back.objects) == (0, two.objects)
    boxed = two.boxed(Box(2, 40, 20, 60), square, most=8)
    assert (len(boxed.objects), boxed.question.index) == (3, 1)
    assert len(two.boxed(Box(70, 30, 90, 60), square, most=8).objects) == 2
    full = two.clicked(Click(10, 55), square, most=2)  # no room for another
    assert (len(full.objects), full.question) == (2, None)


def test_the_next_action_leaves_the_question_behind_and_undo_takes_the_object_back() -> None:
    session = Session()
    session.put(draft_with((20, 20)), Action("transfer.did_picture"))
    session.put(session.draft.clicked(Click(80, 44), square, most=8), Action("transfer.did_point"))
    assert session.draft.question is not None
    assert "stage-question" in stage(session.draft)
    session.put(session.draft.moved_by(1, JUMP), Action("transfer.did_motion"))
    assert session.draft.question is None and len(session.draft.objects) == 2
    session.undo()
    session.undo()
    assert len(session.draft.objects) == 1


def stage(draft: SceneDraft) -> str:
    problems = object_problems(draft, GEOMETRY)
    more = {"problems": problems, "geometry": GEOMETRY, "texts": Texts()}
    return canvas_html(draft, history=History(), grid=False, drawn=1, **more)


def test_answers_that_are_all_but_the_same_are_shown_once() -> None:
    masks = np.zeros((3, 64, 96), bool)
    masks[0, 10:50, 10:50] = masks[1, 10:50, 10:49] = masks[2, 10:30, 10:30] = True
    answer = SimpleNamespace(masks=masks, mask=masks[1], scores=np.array([0.8, 0.9, 0.7]), best=1)
    draft = SceneDraft.of(picture(), "crop", GEOMETRY)
    draft = draft.clicked(Click(20, 20), lambda *asked: answer, most=8)
    assert draft.objects[0].candidates.told_apart() == [1, 2]  # 40 × 39 of 40 × 40 is 0.975
    assert re.findall(r'data-choice="(\d)"', stage(draft)) == ["1", "2"]
    answer.masks[2] = masks[0]
    draft = SceneDraft.of(picture(), "crop", GEOMETRY)
    assert "candidate" not in stage(draft.clicked(Click(20, 20), lambda *asked: answer, most=8))


def test_the_best_answer_is_taken_until_another_is_chosen() -> None:
    item = draft_with((40, 30)).objects[0]
    assert item.candidates.chosen == 1
    for k in range(3):
        assert np.array_equal(item.choosing(k).mask, square(picture(), item.clicks).masks[k])
    assert item.choosing(1) is item
    with pytest.raises(RequestError, match="no candidate 4"):
        item.choosing(3)


def test_a_box_marks_what_is_in_it_and_a_second_one_replaces_it() -> None:
    draft = SceneDraft.of(picture(), "crop", GEOMETRY).boxed(Box(10, 10, 30, 40), square, most=8)
    again = draft.boxed(Box(25, 10, 45, 40), square, most=8)
    assert len(again.objects) == 1
    assert draft.objects[0].mask[20, 20]
    assert not again.objects[0].mask[20, 20]
    assert again.objects[0].mask[20, 40]


def test_strokes_stay_on_top_of_what_later_clicks_find() -> None:
    draft = draft_with((20, 20)).painted(Stroke(((70, 50),), 4), most=8)
    draft = draft.clicked(Click(24, 24), square, most=8)
    assert draft.objects[0].mask[50, 70]
    assert draft.objects[0].mask[24, 24]


def test_a_click_adds_to_what_was_drawn_and_a_negative_one_takes_away() -> None:
    drawn = SceneDraft.of(picture(), "crop", GEOMETRY).painted(Stroke(((20, 20),), 6), most=8)
    more = drawn.clicked(Click(29, 22), square, most=8)
    assert more.objects[0].mask[20, 20]
    assert more.objects[0].mask[22, 32]
    less = more.clicked(Click(20, 20, positive=False), square, most=8)
    assert not less.objects[0].mask[20, 20]
    assert less.objects[0].mask[22, 32]


def test_only_a_brush_may_begin_an_object_and_an_eraser_needs_one() -> None:
    empty = SceneDraft.of(picture(), "crop", GEOMETRY)
    assert len(empty.painted(Stroke(((20, 20),), 6), most=8).objects) == 1
    with pytest.raises(RequestError, match="nothing to erase"):
        empty.painted(Stroke(((20, 20),), 6, add=False), most=8)
    with pytest.raises(RequestError, match="first click must include"):
        empty.clicked(Click(10, 10, positive=False), square, most=8)


def test_clearing_takes_the_mask_and_leaves_the_words() -> None:
    draft = moving(JUMP)
    cleared = draft.changed(0, lambda item: item.cleared())
    assert not cleared.objects[0].mask.any()
    assert cleared.objects[0].sentence == draft.objects[0].sentence
    assert cleared.objects[0].motion == JUMP
    assert notice_keys(cleared) == [["empty"]]


def test_one_object_more_than_allowed_is_refused() -> None:
    draft = draft_with((10, 10), (40, 40)).changed_selection(None)
    with pytest.raises(RequestError, match="2 is the most"):
        draft.clicked(Click(80, 20), square, most=2)


# strokes ----------------------------------------------------------------------------------------


def test_a_stroke_covers_the_pixels_within_its_radius_and_no_other() -> None:
    stroke = Stroke(((20.0, 30.0), (60.0, 30.0), (60.0, 50.0)), 5.0)
    covered = rasterise(stroke, 64, 96)
    y, x = np.mgrid[:64, :96] + 0.5
    along = np.hypot(x - np.clip(x, 20, 60), y - 30)
    down = np.hypot(x - 60, y - np.clip(y, 30, 50))
    assert np.array_equal(covered, np.minimum(along, down) <= 5)


def test_a_dot_is_a_disc_and_the_thinnest_brush_still_marks() -> None:
    disc = rasterise(Stroke(((48.0, 32.0),), 10.0), 64, 96)
    assert disc.sum() == pytest.approx(np.pi * 100, rel=0.03)
    assert rasterise(Stroke(((48.3, 32.8),), 0.01), 64, 96).sum() >= 1


def test_what_is_painted_and_erased_again_is_as_before() -> None:
    region = np.zeros((64, 96), dtype=bool)
    region[:20] = True
    line = ((10.0, 40.0), (80.0, 50.0))
    there = paint(region, [Stroke(line, 6)])
    assert there.sum() > region.sum()
    assert np.array_equal(paint(there, [Stroke(line, 6, add=False)]), region)
    assert not np.shares_memory(there, region)


def test_a_stroke_that_leaves_the_picture_is_cut_at_its_edge() -> None:
    covered = rasterise(Stroke(((-20.0, 10.0), (10.0, 10.0)), 3.0), 64, 96)
    assert covered[10, 0]
    assert not covered[:, 20:].any()


@pytest.mark.parametrize(
    ("points", "radius"),
    [
        ([], 0.1),
        ([(0.5,)], 0.1),
        ([(0.5, 7.0)], 0.1),
        ([(0.5, float("nan"))], 0.1),
        ([(0.5, 0.5)], 0.0),
        ([(0.5, 0.5)] * 5000, 0.1),
    ],
)
def test_a_stroke_that_no_pointer_draws_is_refused(points: list, radius: float) -> None:
    with pytest.raises(RequestError):
        stroke_of(points, radius, add=True, height=64, width=96)


# objects ----------------------------------------------------------------------------------------


def test_deleting_keeps_the_colours_of_the_others_and_frees_its_own() -> None:
    draft = draft_with((10, 10), (40, 40), (80, 20)).without(0)
    assert [item.slot for item in draft.objects] == [1, 2]
    again = draft.changed_selection(None).clicked(Click(10, 10), square, most=8)
    assert [item.slot for item in again.objects] == [1, 2, 0]
    assert len({item.key for item in again.objects}) == 3


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


def test_swapping_two_rows_swaps_their_motions_in_the_request() -> None:
    draft = moving(JUMP, SPIN)
    swapped = draft.reordered(0, 1)
    entries, other = (
        request_entries(item, seed=0, steps=1, guidance=1.0)["objects"] for item in (draft, swapped)
    )
    assert [item["motion"] for item in other] == ["spin", "jump"]
    assert other == entries[::-1]
    assert swapped.reordered(1, -1).objects == draft.objects
    assert swapped.objects[swapped.selected] is draft.objects[draft.selected]


def test_the_first_row_cannot_go_up_nor_the_last_one_down() -> None:
    draft = moving(JUMP, SPIN)
    assert draft.reordered(0, -1) is draft
    assert draft.reordered(1, 1) is draft


def test_two_objects_never_have_one_colour() -> None:
    draft = draft_with((10, 10), (40, 40), (80, 20))
    for index, slot in itertools.product(range(3), range(8)):
        slots = [item.slot for item in draft.recoloured(index, slot).objects]
        assert slots[index] == slot
        assert len(set(slots)) == 3


def test_a_sentence_follows_name_and_motion_until_it_is_edited() -> None:
    item = draft_with((20, 20)).objects[0].moved_by(JUMP)
    assert item.sentence == "A red robot jumps."
    assert item.renamed("orange cat").sentence == "An orange cat jumps."
    assert item.moved_by(None).sentence == "A red robot is moving."


def test_an_edit_that_changes_nothing_leaves_the_draft_itself() -> None:
    draft = moving(JUMP)
    item = draft.objects[0]
    assert draft.moved_by(0, JUMP) is draft
    for same in (item.renamed(item.name), item.rewritten(item.sentence), item.with_strength(1)):
        assert same is item
    assert draft.recoloured(0, item.slot) is draft
    assert draft.with_prompt(None) is draft


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


# the prompt -------------------------------------------------------------------------------------


def test_every_phrase_of_the_prompt_wears_its_objects_number() -> None:
    marked = marked_prompt(moving(JUMP, SPIN))
    assert "jumps<sup>1</sup></mark>" in marked
    assert "spins fast<sup>2</sup></mark>" in marked


def test_in_an_edited_prompt_a_new_motion_takes_the_place_of_the_old() -> None:
    draft = moving(JUMP, JUMP).with_prompt("First fox0 jumps, and then fox1 jumps too.")
    assert draft.moved_by(1, SPIN).prompt == "First fox0 jumps, and then fox1 spins fast too."


def test_an_edited_prompt_without_a_phrase_is_told_as_a_request_refuses_it() -> None:
    draft = moving(JUMP, SPIN).with_prompt("Fox0 jumps and fox1 sleeps.")
    fault = prompt_fault(draft)
    assert '"spins fast"' in fault
    assert '"Fox0 jumps and fox1 sleeps."' in fault
    assert prompt_fault(draft.with_prompt("Fox0 jumps and fox1 spins fast.")) == ""
    assert prompt_fault(draft.with_prompt(None)) == ""


def test_what_a_person_wrote_is_never_markup_in_the_rows() -> None:
    draft = draft_with((20, 20)).changed(0, lambda item: item.renamed('<b>"bold"</b>'))
    for edited in (None, "A <b>bold</b> prompt."):
        shown = rows_html(
            draft.with_prompt(edited),
            problems=object_problems(draft, GEOMETRY),
            heard=0,
            drawn=0,
            texts=Texts("en"),
        )
        assert "<b>bold" not in shown
        assert '"bold"' not in shown


# fits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(300, 200), (100, 400), (64, 96)])
@pytest.mark.parametrize("modes", itertools.permutations(("crop", "pad", "stretch"), 2))
def test_another_fit_keeps_clicks_on_what_they_marked(
    shape: tuple[int, int], modes: tuple[str, str]
) -> None:
    before, after = (SceneDraft.of(picture(*shape), mode, GEOMETRY).fitted for mode in modes)
    click = Click(48, 32)  # the middle is in every fit
    moved = moved_click(click, before, after)
    assert to_picture(after, moved.x, moved.y) == pytest.approx(to_picture(before, 48, 32))
    assert from_picture(before, *to_picture(before, 7, 9)) == pytest.approx((7, 9))


def test_another_fit_makes_masks_anew_and_drops_what_is_cut_off() -> None:
    draft = SceneDraft.of(picture(64, 300), "pad", GEOMETRY)
    for x in (2, 48):
        draft = draft.changed_selection(None).clicked(Click(x, 32), square, most=8)
    refitted = draft.refitted("crop", GEOMETRY, square)
    assert [item.slot for item in refitted.objects] == [1]
    assert refitted.objects[refitted.selected].key == draft.objects[draft.selected].key


def test_strokes_and_drawn_masks_move_with_the_picture() -> None:
    wide = SceneDraft.of(picture(64, 192), "stretch", GEOMETRY)  # twice as wide as the frame
    drawn = wide.painted(Stroke(((48.0, 32.0),), 8.0), most=8)
    masked = wide.masked(drawn.objects[0].mask, most=8)
    for draft in (drawn, masked):
        mask = draft.refitted("crop", GEOMETRY, square).objects[0].mask
        rows, columns = np.nonzero(mask)
        assert (rows.mean(), columns.mean()) == pytest.approx((31.5, 47.5), abs=1)
    wider = np.ptp(np.nonzero(masked.refitted("crop", GEOMETRY, square).objects[0].mask)[1])
    assert wider == pytest.approx(2 * 16, abs=2)


def test_a_box_moves_with_the_picture_and_is_cut_at_the_frame() -> None:
    draft = SceneDraft.of(picture(64, 192), "pad", GEOMETRY)
    boxed = draft.boxed(Box(0, 20, 60, 40), square, most=8).refitted("crop", GEOMETRY, square)
    box = boxed.objects[0].box
    assert (box.x0, box.x1) == pytest.approx((0, 72))
    assert boxed.objects[0].mask.any()


@pytest.mark.parametrize(
    ("shape", "fit", "words"),
    [
        ((64, 96), "crop", "undistorted"),
        ((64, 192), "crop", "48 px were cut off left and right"),
        ((192, 96), "crop", "64 px were cut off above and below"),
        ((64, 192), "pad", "0 px left and right, 16 px above and below"),
        ((64, 192), "stretch", "stretched 0.50 times in width"),
    ],
)
def test_the_note_says_what_the_fit_did(shape: tuple[int, int], fit: str, words: str) -> None:
    assert words in fit_words(SceneDraft.of(picture(*shape), fit, GEOMETRY).fitted, Texts("en"))


# warnings ---------------------------------------------------------------------------------------


def test_the_page_warns_of_exactly_the_masks_that_a_request_refuses() -> None:
    for side in range(2, 12, 2):
        draft = SceneDraft.of(picture(), "crop", GEOMETRY)
        draft = draft.clicked(Click(33, 33), lambda *given, s=side: square(*given, side=s), most=8)
        if not draft.objects[0].mask.any():
            continue
        entries = request_entries(draft, seed=0, steps=1, guidance=1.0)
        try:
            build_request(parse_request(entries), geometry=GEOMETRY, library=Library([]), base=None)
            refused = False
        except RequestError as error:
            refused = "too small" in str(error)
        assert refused == ("small" in notice_keys(draft)[0]), side


def test_objects_that_share_tokens_are_told_of_each_other_and_of_no_third() -> None:
    draft = draft_with((20, 20), (26, 20), (80, 50))
    assert notice_keys(draft) == [["overlap"], ["overlap"], []]
    first, second = (object_problems(draft, GEOMETRY)[k][0] for k in (0, 1))
    assert (first.values["number"], second.values["number"]) == (2, 1)
    assert first.values["tokens"] == second.values["tokens"] > 0
    assert not first.fatal


def test_masks_that_touch_only_between_tokens_are_not_told_to_overlap() -> None:
    tokens = np.zeros((16, 24), dtype=bool)
    tokens[4:8, 4:8] = True
    first = grid_to_mask(tokens, 64, 96)
    second = np.roll(first, 16, axis=1)
    draft = SceneDraft.of(picture(), "crop", GEOMETRY).masked(first, most=8)
    draft = draft.changed_selection(None).masked(second | np.roll(second, -1, axis=1), most=8)
    assert (draft.objects[0].mask & draft.objects[1].mask).any()
    assert notice_keys(draft) == [[], []]


def test_a_sentence_without_its_phrase_is_told_with_both_texts() -> None:
    draft = moving(JUMP).changed(0, lambda item: item.rewritten("A red robot sits."))
    (problem,) = object_problems(draft, GEOMETRY)[0]
    words = Texts("en")(problem.key, **problem.values)
    assert "“jumps”" in words
    assert "“A red robot sits.”" in words


# the way back -----------------------------------------------------------------------------------


def random_session(steps: int, seed: int) -> tuple[Session, list[SceneDraft | None]]:
    """A session after so many actions of all kinds, and the drafts it had on the way."""
    session, dice = Session(), np.random.default_rng(seed)
    drafts: list[SceneDraft | None] = [None]
    session.put(draft_with((20, 20), (60, 40)), Action("start"))
    drafts.append(session.draft)
    changes: list[Callable[[SceneDraft], SceneDraft]] = [
        lambda draft: draft.clicked(Click(*dice.uniform(0, 60, 2)), square, most=8),
        lambda draft: draft.painted(Stroke(((40.0, dice.uniform(0, 64)),), 5), most=8),
        lambda draft: draft.reordered(0, 1),
        lambda draft: draft.recoloured(0, (draft.objects[0].slot + 1) % 8),
        lambda draft: draft.changed(0, lambda item: item.renamed(f"fox {dice.integers(1e9)}")),
        lambda draft: draft.with_prompt(f"prompt {dice.integers(1e9)}"),
        lambda draft: draft.refitted(
            "pad" if draft.fitted.mode == "crop" else "crop", GEOMETRY, square
        ),
    ]
    for _ in range(steps):
        changed = changes[dice.integers(len(changes))](session.draft.changed_selection(0))
        session.put(changed, Action("step"))
        drafts.append(session.draft)
    return session, drafts


@pytest.mark.parametrize("seed", range(5))
def test_undo_goes_back_through_every_draft_and_redo_forth_again(seed: int) -> None:
    session, drafts = random_session(20, seed)
    for draft in drafts[-2::-1]:
        session.undo()
        assert session.draft is draft
    with pytest.raises(RequestError, match="nothing to undo"):
        session.undo()
    for draft in drafts[1:]:
        session.redo()
        assert session.draft is draft
    with pytest.raises(RequestError, match="nothing to redo"):
        session.redo()


def test_a_new_action_after_undo_forgets_what_was_undone() -> None:
    session, _ = random_session(3, 0)
    session.undo()
    session.put(session.draft.with_prompt("another way"), Action("prompt"))
    assert session.history.future == ()


def test_the_stack_is_bounded_and_loses_its_oldest_steps() -> None:
    history = History()
    for number in range(MOST_STEPS + 10):
        history = history.did(Action(str(number)), None)
    assert len(history.past) == MOST_STEPS
    assert history.past[-1].action.key == str(MOST_STEPS + 9)


def test_letters_typed_in_a_row_are_undone_at_once() -> None:
    session = Session()
    session.put(draft_with((20, 20)), Action("start"))
    for name in ("f", "fo", "fox"):
        draft = session.draft.changed(0, lambda item, name=name: item.renamed(name))
        session.put(draft, Action("name", burst="name 0 1"))
    session.undo()
    assert session.draft.objects[0].name == "red robot"


def test_to_select_is_no_step_of_its_own() -> None:
    session = Session()
    session.put(draft_with((20, 20), (60, 40)), Action("start"))
    steps = len(session.history.past)
    session.put(session.draft.changed_selection(0), Action("select"))
    assert session.draft.selected == 0
    assert len(session.history.past) == steps


def test_every_browser_begins_with_a_session_of_its_own() -> None:
    first = Session()
    first.put(draft_with((20, 20)), Action("start"))
    second = copy.deepcopy(first)
    assert second.draft is None
    assert second.history.past == ()
    assert second.lock is not first.lock
    assert second.owner != first.owner


# requests ---------------------------------------------------------------------------------------


class MotionShelf(Library):
    """A library of JUMP and SPIN, without files."""

    def list(self) -> list[Motion]:
        return [JUMP, SPIN]


class Host:
    """A host whose model is there and answers clicks with squares."""

    clicks_ready = True
    library = MotionShelf([])
    settings = SimpleNamespace(limits=Limits(objects=8))

    def geometry(self) -> ModelGeometry:
        return GEOMETRY

    def base(self) -> str:
        return "base"

    def knows_when_ready(self, image: np.ndarray) -> None:
        """It knows any picture."""

    def motions(self, user: object = None) -> list[Motion]:
        return [JUMP, SPIN]

    def segmenter(self) -> SimpleNamespace:
        image = picture()
        return SimpleNamespace(segment=lambda given, clicks, box: square(image, clicks, box))


def actions() -> SceneActions:
    return SceneActions(Host(), [Example("two", "Two", picture(), (ROBOT,))])


def after(*steps: dict[str, Any]) -> Session:
    """A session with an example, after these actions."""
    session = Session()
    for step in ({"kind": "example", "name": "two"}, *steps):
        actions().act(session, step)
    return session


POINT = {"kind": "point", "x": 0.25, "y": 0.4, "positive": True}


def full_session() -> Session:
    """Two objects with motions, strengths, strokes and an edited prompt."""
    stroke = {"kind": "stroke", "points": [[0.3, 0.5], [0.35, 0.6]], "radius": 0.03, "add": True}
    return after(
        POINT,
        {"kind": "motion", "object": 0, "motion": "jump"},
        {"kind": "fresh"},
        {"kind": "box", "x0": 0.6, "y0": 0.2, "x1": 0.8, "y1": 0.7},
        stroke,
        {"kind": "motion", "object": 1, "motion": "spin"},
        {"kind": "strength", "object": 1, "text": "0.6"},
        {"kind": "name", "object": 1, "text": "blue owl"},
        {"kind": "prompt_edit"},
        {"kind": "prompt", "text": "A red robot jumps while a blue owl spins fast."},
    )


def test_a_scene_restored_from_its_request_makes_the_very_same_request() -> None:
    session = full_session()
    entries = request_entries(session.draft, seed=3, steps=4, guidance=5.0)
    restored = Session()
    actions().restore(restored, parse_request(entries))
    assert request_entries(restored.draft, seed=3, steps=4, guidance=5.0) == entries
    assert entries["prompt"].startswith("A red robot jumps")
    restored.undo()
    assert restored.draft is None


def test_words_of_a_recipe_that_are_not_the_motions_own_survive() -> None:
    mask = np.zeros((64, 96), dtype=bool)
    mask[10:40, 10:40] = True
    item = SceneObject(mask, "A fox hops about.", "hops about", JUMP)
    draft = SceneDraft.of_request(GenerationRequest(picture(), (item,)), GEOMETRY)
    assert draft.objects[0].phrase == "hops about"
    assert notice_keys(draft) == [[]]
    assert draft.moved_by(0, SPIN).objects[0].sentence == "A fox spins fast."


def test_a_recipe_with_a_motion_that_is_not_there_changes_nothing() -> None:
    session = full_session()
    before = session.draft
    entries = request_entries(before, seed=0, steps=1, guidance=1.0)
    entries["objects"][0]["motion"] = "waltz"
    with pytest.raises(MotionFileError, match="waltz"):
        actions().restore(session, parse_request(entries))
    assert session.draft is before


def test_the_request_of_a_draft_holds_the_very_pixels_and_masks() -> None:
    draft = draft_with((20, 20), (80, 40))
    entries = request_entries(draft, seed=0, steps=3, guidance=2.0)
    request = build_request(
        parse_request(entries), geometry=GEOMETRY, library=Library([]), base=None
    )
    assert np.array_equal(request.image, draft.fitted.image)
    for made, item in zip(request.objects, draft.objects, strict=True):
        assert np.array_equal(made.mask, item.mask)
    chosen = request.options
    assert (chosen.seed, chosen.steps, chosen.guidance) == (0, 3, 2.0)


# what a browser may send ------------------------------------------------------------------------


def test_every_action_of_the_page_can_be_undone_to_the_draft_before() -> None:
    steps = [
        {"kind": "candidate", "choice": 0},
        {"kind": "sentence", "object": 0, "text": "It jumps."},
        {"kind": "colour", "object": 0, "slot": 5},
        {"kind": "move", "object": 0, "step": 1},
        {"kind": "shown", "object": 0},
        {"kind": "clear"},
        {"kind": "fit", "fit": "stretch"},
        {"kind": "prompt_compose"},
        {"kind": "delete", "object": 1},
        {"kind": "example", "name": "two"},
    ]
    for step in steps:
        session = full_session()
        if step["kind"] in ("candidate", "clear"):
            actions().act(session, {"kind": "select", "object": 0})
        before = session.draft
        actions().act(session, step)
        assert session.draft is not before, step
        actions().act(session, {"kind": "undo"})
        assert session.draft is before, step


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "launch"},
        {"kind": None},
        {**POINT, "x": 1.5},
        {**POINT, "x": float("nan")},
        {**POINT, "x": None},
        {"kind": "stroke", "points": "zigzag", "radius": 0.1},
        {"kind": "stroke", "points": [[0.5, 0.5]], "radius": 9},
        {"kind": "candidate", "choice": 7},
        {"kind": "colour", "object": 0, "slot": 8},
        {"kind": "name", "object": 0, "text": "x" * 100},
        {"kind": "strength", "object": 0, "text": "100"},
        {"kind": "motion", "object": 0, "motion": "../../secret.safetensors"},
        {"kind": "fit", "fit": "squash"},
        {"kind": "mask", "file": "/etc/passwd"},
        {"kind": "example", "name": "../two"},
    ],
)
def test_what_the_page_would_never_send_is_refused_and_changes_nothing(
    values: dict[str, Any],
) -> None:
    session = after(POINT)
    before = session.draft
    with pytest.raises((RequestError, MediaError, MotionFileError)):
        actions().act(session, values)
    assert session.draft is before


def test_an_edit_of_an_object_that_is_gone_is_nothing() -> None:
    session = after(POINT, {"kind": "delete", "object": 0})
    before = session.draft
    actions().act(session, {"kind": "name", "object": 0, "text": "late"})
    assert session.draft is before


# mask files -------------------------------------------------------------------------------------


def test_a_mask_that_was_saved_loads_as_the_very_same_mask() -> None:
    session = after(POINT)
    mask = session.draft.objects[0].mask
    name, address = mask_file(session.draft)
    assert name == "mask-1-red-robot.png"
    actions().act(session, {"kind": "fresh"})
    actions().act(session, {"kind": "mask", "file": address})
    assert len(session.draft.objects) == 2
    assert np.array_equal(session.draft.objects[1].mask, mask)


def test_the_zip_holds_a_mask_for_each_object() -> None:
    draft = full_session().draft
    _, address = masks_file(draft)
    archive = zipfile.ZipFile(BytesIO(base64.b64decode(address.partition(",")[2])))
    assert archive.namelist() == ["mask-1-red-robot.png", "mask-2-blue-owl.png"]
    for name, item in zip(archive.namelist(), draft.objects, strict=True):
        assert np.array_equal(read_mask(archive.read(name)), item.mask)


def test_a_mask_of_another_size_is_refused_with_both_sizes() -> None:
    session = after()
    wrong = encode_data_uri(np.ones((10, 20), dtype=bool))
    with pytest.raises(RequestError, match="20×10.*96×64"):
        actions().act(session, {"kind": "mask", "file": wrong})
    with pytest.raises(RequestError, match="empty"):
        actions().act(
            session, {"kind": "mask", "file": encode_data_uri(np.zeros((64, 96), dtype=bool))}
        )


# what is shown ----------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_state_of_the_page_has_its_words_in_every_language(language: str) -> None:
    session, texts = full_session(), Texts(language)
    for draft in (None, draft_with(), session.draft, session.draft.changed_selection(None)):
        problems = [] if draft is None else object_problems(draft, GEOMETRY)
        options = {"problems": problems, "drawn": 1, "texts": texts}
        stage = canvas_html(draft, history=session.history, grid=True, geometry=GEOMETRY, **options)
        rows = rows_html(draft, heard=0, **options)
        assert not re.search(r"\{[a-z]+\}", stage + rows)  # a place that nothing filled


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_prompts_length_in_tokens_is_told_beside_it(language: str) -> None:
    draft, texts = moving(JUMP), Texts(language)
    options = {"problems": object_problems(draft, GEOMETRY), "heard": 0, "drawn": 0, "texts": texts}
    assert "token-count" not in rows_html(draft, **options)
    fits = rows_html(draft, counted=(226, 226), **options)
    assert texts("transfer.tokens", tokens=226, most=226) in fits and "alert" not in fits
    over = rows_html(draft, counted=(227, 226), **options)
    assert texts("transfer.tokens_over", tokens=227, most=226) in over and "alert" in over


def test_a_sentence_with_other_white_space_has_its_phrase_and_keeps_what_was_written() -> None:
    written = "Fox0\u00a0 jumps."
    draft = moving(JUMP).changed(0, lambda item: item.rewritten(written))
    assert object_problems(draft, GEOMETRY) == [[]] and draft.objects[0].sentence == written
    assert "<mark style" in marked_prompt(draft)
    spun = draft.moved_by(0, SPIN)
    assert spun.objects[0].sentence == "Fox0\u00a0 spins fast."
    odd = draft.changed(0, lambda item: item.rewritten("Fox0 jum\u0440s."))
    ((problem,),) = object_problems(odd, GEOMETRY)
    assert "U+0440 CYRILLIC SMALL LETTER ER" in Texts("zh")(problem.key, **problem.values)


def test_the_mirror_of_a_sentence_knows_its_phrase_and_colour() -> None:
    draft = moving(JUMP)
    shown = rows_html(
        draft, problems=object_problems(draft, GEOMETRY), heard=0, drawn=0, texts=Texts("en")
    )
    (marks,) = (
        json.loads(piece.split('"')[0].replace("&quot;", '"'))
        for piece in shown.split('data-marks="')[1:]
    )
    assert marks == [{"phrase": "jumps", "colour": "#e69f00", "number": 1}]
