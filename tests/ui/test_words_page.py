"""The page without a picture: one row of words, and nothing to mark."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from test_drafts import GEOMETRY, JUMP, draft_with, square

from motion_app.errors import RequestError
from motion_app.library.library import Library
from motion_app.request.request import checked_request, parse_request
from motion_app.request.written import request_to_json
from motion_app.scene import Options
from motion_app.settings import Limits
from motion_app.ui.markup import Texts
from motion_app.ui.transfer.actions import SceneActions
from motion_app.ui.transfer.canvas import canvas_html
from motion_app.ui.transfer.compare import differing_pixels
from motion_app.ui.transfer.draft import SceneDraft, request_of
from motion_app.ui.transfer.kept_drafts import KeptDraft, KeptDrafts
from motion_app.ui.transfer.picture import fit_html
from motion_app.ui.transfer.rows import object_problems, rows_html
from motion_app.ui.transfer.session import History, Session

ABLE = replace(GEOMETRY, without_picture=True)
TEXTS = Texts("en")


def actions(geometry=ABLE, library=None) -> SceneActions:
    host = SimpleNamespace(
        settings=SimpleNamespace(limits=Limits()),
        knows_when_ready=lambda image: None,
        segmenter=lambda: SimpleNamespace(segment=square),
        geometry=lambda: geometry,
        library=library,
        base=lambda: None,
    )
    return SceneActions(host, ())


def begun(geometry=ABLE) -> tuple[SceneActions, Session]:
    """A scene without a picture."""
    acting, session = actions(geometry), Session()
    acting.act(session, {"kind": "words"})
    return acting, session


def test_a_name_and_a_motion_are_a_request_without_a_picture():
    acting, session = begun()
    acting.act(session, {"kind": "name", "object": 0, "text": "red fox"})
    draft = session.draft.moved_by(0, JUMP)
    request = request_of(draft, Options(method="synmotion"))
    assert request.image is None and request.full_prompt() == "A red fox jumps."
    (thing,) = request.objects
    assert thing.mask.all() and thing.motion is JUMP
    assert not any(problem.fatal for problem in object_problems(draft, ABLE)[0])
    still = request_of(session.draft, Options(method="none"))
    assert checked_request(still, geometry=ABLE) is still


def test_it_is_offered_where_the_model_can_and_refused_where_not():
    options = {"texts": TEXTS, "hours": 2}
    assert 'data-act="words"' in fit_html(None, "crop", ABLE, **options)
    assert "words" not in fit_html(None, "crop", GEOMETRY, **options)
    with pytest.raises(RequestError, match="begins with a picture"):
        begun(GEOMETRY)
    with pytest.raises(RequestError, match="takes no picture"):
        actions(replace(ABLE, with_picture=False)).picture(Session(), b"")


def test_nothing_can_be_marked_and_the_row_has_no_tools_for_it():
    acting, session = begun()
    for values in ({"kind": "point", "x": 0.5, "y": 0.5, "positive": True}, {"kind": "clear"}):
        with pytest.raises(RequestError, match="no picture to mark"):
            acting.act(session, values)
    draft, options = session.draft, {"drawn": 1, "texts": TEXTS}
    problems = object_problems(draft, ABLE)
    rows = rows_html(draft, problems=problems, heard=0, **options)
    assert 'data-field="name"' in rows and 'data-act="delete"' not in rows and "refine" not in rows
    marked = draft_with((20, 20))
    other = rows_html(marked, problems=object_problems(marked, ABLE), heard=0, **options)
    assert 'data-act="delete"' in other and 'data-act="select"' in other
    options |= {"history": History(), "grid": False, "problems": problems, "geometry": ABLE}
    stage = canvas_html(draft, **options)
    assert TEXTS("transfer.stage_words") in stage and "stage-frame" not in stage
    assert TEXTS("transfer.hint_picture") not in stage
    fits = fit_html(draft, "crop", ABLE, TEXTS, hours=2)
    assert 'aria-pressed="true"' in fits and 'type="radio"' not in fits
    acting.act(session, {"kind": "over"})  # what the pressed switch asks for
    assert session.draft is None


def test_a_reload_and_a_recipe_bring_it_back(tmp_path):
    _, session = begun()
    draft = session.draft.changed(0, lambda item: item.renamed("red fox"))
    kept = KeptDrafts(tmp_path, Limits(draft_hours=2))
    kept.keep("ann", "tab", KeptDraft(draft, {}))
    kept.write()
    time.sleep(0.01)
    found = kept.find("ann", "tab", geometry=ABLE, library=Library([tmp_path / "motions"])).draft
    assert found.from_words and found.objects[0].sentence == "A red fox is moving."
    entries = request_to_json(request_of(draft, Options(method="none")))
    acting, restored = actions(library=Library([tmp_path / "motions"])), Session()
    acting.restore(restored, parse_request(entries))
    assert restored.draft.from_words and restored.draft.objects[0].name == "red fox"
    alone = {"image": None, "prompt": "A blue cat sways.", "method": "none"}
    acting.restore(restored, parse_request(alone))
    again = request_of(restored.draft, Options(method="none"))
    assert again.image is None and again.full_prompt() == "A blue cat sways."
    assert SceneDraft.of_words(ABLE).objects[0].sentence == "The object is moving."


def test_two_videos_of_words_have_the_same_pixels_and_one_with_a_picture_others(tmp_path):
    for name, pictures in (("a", {}), ("b", {}), ("c", {"image": np.ones((2, 2, 3), np.uint8)})):
        (tmp_path / name).mkdir()
        masks = np.zeros((1, 2, 2), bool)
        np.savez(tmp_path / name / "request.npz", masks=masks, words="{}", **pictures)
    assert differing_pixels(tmp_path / "a", tmp_path / "b") == ()
    assert differing_pixels(tmp_path / "a", tmp_path / "c") == ("picture",)
