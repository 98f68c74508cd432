"""Laws of the clips that ship to try learning with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from motion_app.errors import MediaError
from motion_app.library.library import Library
from motion_app.media.files import read_clip
from motion_app.models.checkpoint import Checkpoint
from motion_app.settings import ROOT
from motion_app.training.suggestion import suggest_selection
from motion_app.world.clips import CLIPS, RESTS, load_clips, render_clips

SHIPPED = ROOT / "assets" / "clips"


def test_the_shipped_clips_are_small_and_what_the_code_draws(tmp_path: Path) -> None:
    drawn = render_clips(tmp_path)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 300_000
    assert {path.name for path in SHIPPED.iterdir()} == {path.name for path in tmp_path.iterdir()}
    for path in drawn:
        words = (SHIPPED / path.name).with_suffix(".json").read_text()
        assert path.with_suffix(".json").read_text() == words
        shipped, fresh = (read_clip(file).frames for file in (SHIPPED / path.name, path))
        assert np.abs(shipped.astype(int) - fresh.astype(int)).mean() < 1


def test_they_show_motions_that_the_library_has_not_and_move_in_their_middle() -> None:
    clips = load_clips(SHIPPED)
    assert {clip.name for clip in clips} == set(CLIPS.values())
    library = Library([ROOT / "checkpoints" / "pocket" / "motions"])
    geometry = Checkpoint.read(ROOT / "checkpoints" / "pocket").geometry
    for clip in clips:
        assert library.free_name(clip.name) == clip.name
        read = read_clip(clip.file, fps=geometry.fps)
        chosen = suggest_selection(clip.file, read, geometry)
        assert (chosen.start, chosen.stop) == (RESTS / 8, (RESTS + geometry.frames) / 8)
        assert chosen.box is not None and chosen.mover is None


def test_a_clip_without_its_words_is_told_by_name(tmp_path: Path) -> None:
    assert load_clips(tmp_path / "none") == ()
    (tmp_path / "hop.mp4").write_bytes(b"")
    with pytest.raises(MediaError, match="hop.json"):
        load_clips(tmp_path)
