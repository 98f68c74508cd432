"""Laws of scenes that wait for their browser: what comes back is what was left, to its owner alone,
and not for ever."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_drafts import GEOMETRY, JUMP, draft_with, square

from motion_app.library.library import Library
from motion_app.scene import Box, Click, Motion
from motion_app.settings import Limits
from motion_app.ui.transfer.draft import SceneDraft
from motion_app.ui.transfer.kept_drafts import KeptDraft, KeptDrafts
from motion_app.ui.transfer.object_draft import Stroke

ANN, BOB = "a" * 32, "b" * 32
SETTINGS = {"lock": True, "badge": False, "seed": 7, "steps": 9, "guidance": 6.0}


class FewMotions(Library):
    """A library that holds these and nothing else."""

    def __init__(self, *motions: Motion) -> None:
        super().__init__([])
        self._motions = list(motions)

    def list(self) -> list[Motion]:
        return self._motions


@pytest.fixture
def kept(tmp_path: Path) -> KeptDrafts:
    return KeptDrafts(tmp_path, Limits(draft_hours=2))


def a_scene() -> SceneDraft:
    """Two objects: one clicked, painted on and with a motion, one hidden and in its own words."""
    draft = draft_with((20, 20), (80, 44)).moved_by(0, JUMP)
    draft = draft.changed(0, lambda item: item.painted(Stroke(((30.5, 20.0), (33.0, 24.5)), 2.5)))
    draft = draft.changed(1, lambda item: replace(item, shown=False, box=Box(70, 30, 90, 60)))
    return draft.with_prompt("A red robot jumps. It is green.").recoloured(1, 4)


def found(kept: KeptDrafts, owner: str, tab: str, *motions: Motion) -> KeptDraft | None:
    return kept.find(owner, tab, geometry=GEOMETRY, library=FewMotions(*motions))


def test_a_scene_comes_back_as_it_was_left(kept: KeptDrafts) -> None:
    before = a_scene()
    kept.keep(ANN, "tab", KeptDraft(before, SETTINGS))
    after = found(kept, ANN, "tab", JUMP)
    assert after.settings == SETTINGS and after.lost == ()
    draft = after.draft
    assert np.array_equal(draft.picture, before.picture)
    assert np.array_equal(draft.fitted.image, before.fitted.image)
    same = ("named", "selected", "prompt")
    assert [getattr(draft, name) for name in same] == [getattr(before, name) for name in same]
    for one, other in zip(draft.objects, before.objects, strict=True):
        assert np.array_equal(one.mask, other.mask) and np.array_equal(one.region, other.region)
        assert np.array_equal(one.candidates.packed, other.candidates.packed)
        assert one.candidates.scores == pytest.approx(other.candidates.scores)
        bare = {"mask": None, "region": None, "candidates": None}
        assert vars(one) | bare == vars(other) | bare
    assert draft.objects[0].choosing(0).mask.sum() != draft.objects[0].mask.sum()


def test_each_tab_has_its_own_and_a_new_one_takes_over_the_newest(kept: KeptDrafts) -> None:
    for tab, place in (("first", (20, 20)), ("second", (60, 30))):
        kept.keep(ANN, tab, KeptDraft(draft_with(place)))
        kept.write()
        time.sleep(0.02)
    clicks = [found(kept, ANN, tab).draft.objects[0].clicks[0].x for tab in ("first", "second")]
    assert clicks == [20, 60]
    assert found(kept, ANN, "third").draft.objects[0].clicks[0].x == 60
    assert found(kept, BOB, "first") is None


def test_sixteen_who_write_at_once_find_each_their_own(kept: KeptDrafts, tmp_path: Path) -> None:
    """Browsers with tabs of one name, tabs of one browser, and clips of one name."""
    clips = [tmp_path / f"{number}" / "clip.mp4" for number in range(4)]
    for number, clip in enumerate(clips):
        clip.parent.mkdir()
        clip.write_bytes(bytes([number]) * 50_000)

    def write(number: int) -> Path:
        browser, tab = f"{number % 4:032d}", f"tab {number // 4}"
        for times in range(3):
            draft = draft_with((10 + number, 20 + times))
            kept.keep(browser, tab, KeptDraft(draft, {"number": number}))
        return kept.keep_clip(browser, clips[number % 4], "clip.mp4")

    with ThreadPoolExecutor(16) as pool:
        files = list(pool.map(write, range(16)))
    kept.write()
    for number, file in enumerate(files):
        again = found(kept, f"{number % 4:032d}", f"tab {number // 4}")
        click = again.draft.objects[0].clicks[0]
        assert (again.settings, click.x, click.y) == ({"number": number}, 10 + number, 22)
        assert file.read_bytes() == clips[number % 4].read_bytes()
    assert len(set(files)) == 4


def test_what_is_forgotten_is_gone_and_nothing_else_takes_its_place(kept: KeptDrafts) -> None:
    kept.keep(ANN, "first", KeptDraft(a_scene()))
    kept.write()
    kept.keep(ANN, "second", KeptDraft(a_scene()))
    kept.forget(ANN, "second")
    assert found(kept, ANN, "second") is None
    assert found(kept, ANN, "first") is not None
    kept.forget(ANN, "first")
    assert not [path for path in kept.folder.rglob("*") if path.is_file()]


def test_a_scene_that_nobody_came_back_for_goes(kept: KeptDrafts) -> None:
    kept.keep(ANN, "tab", KeptDraft(a_scene()))
    kept.write()
    kept.tidy(now=time.time() + 3600)
    assert found(kept, ANN, "tab") is not None
    kept.tidy(now=time.time() + 3 * 3600)
    assert list(kept.folder.iterdir()) == []


def test_the_folders_names_tell_no_token(kept: KeptDrafts) -> None:
    kept.keep(ANN, BOB, KeptDraft(a_scene()))
    kept.write()
    assert not [path for path in kept.folder.rglob("*") if ANN in str(path) or BOB in str(path)]


def test_another_picture_leaves_one_file_and_a_lost_motion_is_named(kept: KeptDrafts) -> None:
    kept.keep(ANN, "tab", KeptDraft(a_scene()))
    kept.write()
    other = replace(a_scene(), picture=np.zeros((64, 96, 3), np.uint8))
    kept.keep(ANN, "tab", KeptDraft(other))
    after = found(kept, ANN, "tab")
    assert len(list(kept.folder.rglob("picture-*.png"))) == 1
    assert after.lost == ("jump",) and after.draft.objects[0].motion is None
    assert not after.draft.picture.any()


def test_a_crop_that_was_moved_comes_back_where_it_was(kept: KeptDrafts) -> None:
    wide = np.random.default_rng(1).integers(0, 255, (64, 300, 3), dtype=np.uint8)
    draft = SceneDraft.of(wide, "crop", GEOMETRY).clicked(Click(48, 32), square, most=8)
    moved = draft.refitted("crop", GEOMETRY, square, shift=0.4)
    assert moved.objects[0].clicks[0].x > draft.objects[0].clicks[0].x  # with what it was on
    kept.keep(ANN, "tab", KeptDraft(moved))
    assert np.array_equal(found(kept, ANN, "tab").draft.fitted.image, moved.fitted.image)


def test_with_another_model_masks_move_to_its_frame(kept: KeptDrafts) -> None:
    kept.keep(ANN, "tab", KeptDraft(draft_with((20, 20))))
    larger = replace(GEOMETRY, height=128, width=192)
    after = kept.find(ANN, "tab", geometry=larger, library=FewMotions()).draft
    assert after.fitted.image.shape == (128, 192, 3)
    assert after.objects[0].mask[40, 40] and not after.objects[0].mask[100, 100]


def test_a_damaged_scene_is_left_out(kept: KeptDrafts) -> None:
    kept.keep(ANN, "tab", KeptDraft(a_scene()))
    kept.write()
    (file,) = kept.folder.rglob("scene.npz")
    file.write_bytes(b"no scene")
    assert found(kept, ANN, "tab") is None
