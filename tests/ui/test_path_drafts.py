"""Laws of a path that is drawn on the picture: whose it is, what it takes the place of, the way
back, and where it is kept."""

from __future__ import annotations

import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from test_drafts import GEOMETRY, JUMP, draft_with, moving, request_entries, square
from test_kept_drafts import ANN, SETTINGS, found

from motion_app.errors import RequestError
from motion_app.request.paths import MOST_POINTS
from motion_app.request.request import parse_request
from motion_app.scene import Options
from motion_app.settings import Limits
from motion_app.ui.markup import Texts, title_of
from motion_app.ui.transfer.actions import SceneActions
from motion_app.ui.transfer.canvas import arrow_of, canvas_html
from motion_app.ui.transfer.draft import SceneDraft, request_of
from motion_app.ui.transfer.kept_drafts import KeptDraft, KeptDrafts
from motion_app.ui.transfer.rows import object_problems, rows_html
from motion_app.ui.transfer.session import Action, History, Session

ON_ONE, ON_TWO, AWAY = [20 / 96, 20 / 64], [80 / 96, 44 / 64], [0.5, 0.05]


def actions() -> SceneActions:
    host = SimpleNamespace(
        settings=SimpleNamespace(limits=Limits()),
        knows_when_ready=lambda image: None,
        segmenter=lambda: SimpleNamespace(segment=square),
        geometry=lambda: GEOMETRY,
    )
    return SceneActions(host, ())


def session_of(draft: SceneDraft) -> Session:
    session = Session()
    session.put(draft, Action("transfer.did_picture"))
    return session


def test_a_line_is_the_path_of_the_object_it_begins_on_else_of_the_selected_one() -> None:
    draft = draft_with((20, 20), (80, 44))
    assert draft.selected == 1
    one = draft.led([ON_ONE, AWAY])
    assert one.selected == 0
    assert np.array(one.objects[0].path) == pytest.approx(np.array([ON_ONE, AWAY]), abs=1e-4)
    assert one.objects[1].path is None
    two = draft.led([[0.5, 0.9], AWAY])
    assert two.selected == 1 and two.objects[1].path is not None
    with pytest.raises(RequestError, match="press on an object and drag"):
        draft.changed_selection(None).led([[0.5, 0.9], AWAY])
    with pytest.raises(RequestError, match="click on the thing first"):
        draft_with().led([ON_ONE, AWAY])


def test_a_press_without_a_line_selects_the_object_and_draws_nothing() -> None:
    draft = draft_with((20, 20), (80, 44))
    pressed = draft.led([ON_ONE, [ON_ONE[0] + 0.002, ON_ONE[1]]])
    assert pressed.selected == 0 and pressed.objects == draft.objects
    with pytest.raises(RequestError, match="press on an object and drag"):
        draft.led([[0.5, 0.9]])


def test_a_path_takes_the_place_of_a_motion_and_a_motion_of_a_path_in_one_step_each() -> None:
    act, session = actions().act, session_of(moving(JUMP))
    before = session.draft
    act(session, {"kind": "path", "points": [[0.2, 0.5], [0.8, 0.5]]})
    item = session.draft.objects[0]
    assert item.path is not None and item.motion is None and item.sentence == "A fox0 is moving."
    assert session.history.past[-1].action.key == "transfer.did_path"
    session.undo()
    assert session.draft is before
    session.redo()
    moved = session.draft.moved_by(0, JUMP)
    assert moved.objects[0].path is None and moved.objects[0].sentence == "A fox0 jumps."
    key = session.draft.objects[0].key
    act(session, {"kind": "path_remove", "object": key})
    assert session.draft.objects[0].path is None and session.draft.objects[0].motion is None
    session.undo()
    assert session.draft.objects[0].path == item.path


def test_what_a_hand_draws_is_thinned_and_stays_where_it_was_drawn() -> None:
    angles = np.linspace(0, 2 * np.pi, 3500)
    circle = np.stack([0.5 + 0.3 * np.cos(angles), 0.5 + 0.3 * np.sin(angles)], axis=1)
    path = np.array(draft_with((76, 32)).led(circle.tolist()).objects[0].path)
    assert 8 < len(path) < 200 < MOST_POINTS
    assert np.abs(np.hypot(*(path - 0.5).T) - 0.3).max() < 0.005
    for wrong in ([[0.1, float("inf")], [0.2, 0.2]], [[9, 9], [0.2, 0.2]], []):
        with pytest.raises(RequestError):
            draft_with((20, 20)).led(wrong)


def test_a_path_moves_with_the_picture_under_another_fit() -> None:
    draft = SceneDraft.of(np.zeros((64, 192, 3), np.uint8), "crop", GEOMETRY)
    mask = np.zeros((64, 96), bool)
    mask[20:40, 20:40] = True
    draft = draft.masked(mask, most=8).led([[0.3, 0.5], [0.7, 0.5]])
    padded = draft.refitted("pad", GEOMETRY, square)
    (x0, _), (x1, _) = padded.objects[0].path
    assert (x1 - x0) == pytest.approx(0.2, abs=1e-4) and (x0 + x1) / 2 == pytest.approx(
        0.5, abs=1e-4
    )
    back = padded.refitted("crop", GEOMETRY, square)
    assert np.array(back.objects[0].path) == pytest.approx(
        np.array(draft.objects[0].path), abs=1e-4
    )


def test_a_path_is_kept_with_its_scene_and_comes_back_from_a_request(tmp_path) -> None:
    kept = KeptDrafts(tmp_path, Limits(draft_hours=2))
    draft = draft_with((20, 20), (80, 44)).led([ON_ONE, AWAY])
    kept.keep(ANN, "tab", KeptDraft(draft, SETTINGS))
    kept.write()
    time.sleep(0.01)
    assert [item.path for item in found(kept, ANN, "tab").draft.objects] == [
        item.path for item in draft.objects
    ]
    request = request_of(draft, Options())
    assert SceneDraft.of_request(request, GEOMETRY).objects[0].path == draft.objects[0].path
    asked = request_entries(draft)["objects"]
    assert asked[0]["path"] == [list(point) for point in draft.objects[0].path]
    assert "path" not in asked[1]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_row_says_it_the_picture_shows_it_and_nothing_is_wrong_with_it(language) -> None:
    texts = Texts(language)
    draft = draft_with((20, 20), (80, 44)).led([ON_ONE, AWAY])
    problems = object_problems(draft, GEOMETRY)
    assert problems == [[], []]
    rows = rows_html(draft, problems=problems, heard=0, drawn=1, texts=texts)
    assert rows.count(texts("transfer.path_name")) == 2  # seen, and read to who does not see
    assert rows.count('data-act="path_remove"') == 1
    options = {"history": History(), "grid": False, "drawn": 1, "problems": problems}
    draw = partial(canvas_html, **options, geometry=GEOMETRY, texts=texts)
    shown = draw(draft)
    assert shown.count('data-key="path-0"') == 1 and 'data-tool="path"' in shown
    hidden = draft.changed(0, lambda item: item.toggled())
    assert "path-0" not in draw(hidden)


def test_a_videos_title_says_what_goes_along_a_path() -> None:
    draft = draft_with((20, 20), (80, 44)).led([ON_ONE, AWAY])
    asked = request_entries(draft)
    assert title_of(parse_request(asked), Texts()) == "red robot: a drawn path · object 2"
    assert title_of(request_of(draft, Options()), Texts("zh")).startswith("red robot")


def test_an_arrow_ends_where_the_line_ends() -> None:
    line, barbs = arrow_of([(0, 0), (10, 0), (10.2, 0.1)], 4).removeprefix("M").split(" M")
    assert line.split(" L")[-1] == "10.20 0.10"
    one, tip, other = (tuple(map(float, part.split())) for part in barbs.split(" L"))
    assert tip == (10.2, 0.1)
    assert all(x < 8 for x, _ in (one, other)) and one[1] * other[1] < 0
