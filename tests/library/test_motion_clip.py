"""A motion keeps its reference clip and what moves in it, inside its one file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from motion_app.__main__ import main
from motion_app.engine.motion_tokens import MotionTokens
from motion_app.errors import MotionFileError
from motion_app.library.library import Library
from motion_app.library.motion_clip import MotionClip, read_motion_clip
from motion_app.library.motion_file import (
    check_motion_file,
    read_header,
    read_motion,
)
from motion_app.library.motion_parcel import replace_bytes
from motion_app.media.files import write_video
from motion_app.models.checkpoint import Checkpoint
from motion_app.world.world import render_reference

POCKET = Path(__file__).resolve().parents[2] / "checkpoints" / "pocket"


def clip(frames: int = 5, *, marked: bool = True) -> MotionClip:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (frames, 6, 9, 3), dtype=np.uint8)
    return MotionClip(pixels, 8.0, rng.random((frames, 6, 9)) > 0.5 if marked else None)


@pytest.fixture
def motion(tmp_path) -> Path:
    """A motion with tokens and no clip, as earlier versions wrote them."""
    path = Path(shutil.copy(POCKET / "motions" / "sway.safetensors", tmp_path / "sway.safetensors"))
    replace_bytes(path, {"clip.frames": None, "clip.masks": None}, {})
    return path


@pytest.mark.parametrize("marked", [True, False])
def test_a_clip_comes_back_bit_for_bit_and_the_tokens_stay(motion, marked):
    before = MotionTokens.load(motion)
    assert not read_motion(motion).has_clip
    kept = clip(marked=marked)
    kept.save_into(motion)
    found = read_motion(motion)
    assert found.has_clip and found.has_mover == marked
    again = read_motion_clip(motion, name="sway")
    assert np.array_equal(again.frames, kept.frames) and again.fps == kept.fps
    assert again.digest() == kept.digest()
    assert (again.masks is None) != marked
    after = MotionTokens.load(motion)
    assert all((a == b).all() for a, b in zip(before.layers, after.layers, strict=True))
    assert check_motion_file(motion).has_clip == found.has_clip


def test_another_clip_takes_the_place_of_the_first(motion):
    clip().save_into(motion)
    clip(3, marked=False).save_into(motion)
    assert len(read_motion_clip(motion, name="sway").frames) == 3
    assert not read_motion(motion).has_mover
    names = [entry.name for entry in read_header(motion).tensors]
    assert sum(name.startswith("clip.") for name in names) == 1


def test_a_clip_travels_inside_an_exported_motion(motion, tmp_path):
    clip().save_into(motion)
    parcel = Library([tmp_path]).export_file(read_motion(motion), tmp_path / "parcel")
    other = Library([tmp_path / "other"])
    brought = other.import_file(parcel)
    assert read_motion_clip(brought.path, name="sway").digest() == clip().digest()


def test_a_motion_without_one_says_how_it_gets_one(motion):
    with pytest.raises(MotionFileError, match="add-clip"):
        read_motion_clip(motion, name="sway")


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        ({}, {"frames": 10**6, "height": 10**4, "width": 10**4, "fps": 8}),
        ({}, {"frames": -5, "height": 6, "width": 9, "fps": 8}),
        ({}, {"frames": 6, "height": 6, "width": 9, "fps": 8}),
        ({}, {"frames": 5, "height": 6, "width": 9, "fps": "fast"}),
        ({"clip.frames": b"no zlib"}, None),
        ({"clip.masks": b""}, None),
    ],
)
def test_a_broken_clip_is_refused_and_never_brought_in(motion, tmp_path, parts, sizes):
    clip().save_into(motion)
    replace_bytes(motion, parts, {} if sizes is None else {"clip": json.dumps(sizes)})
    with pytest.raises(MotionFileError, match="get it again"):
        read_motion_clip(motion, name="sway")
    with pytest.raises(MotionFileError):
        Library([tmp_path / "other"]).import_file(motion)


def test_a_clip_is_cut_and_timed_as_the_model_wants_it():
    geometry = Checkpoint.read(POCKET).geometry
    frames = np.zeros((4, 128, 300, 3), np.uint8)
    masks = np.zeros((4, 128, 300), bool)
    masks[:, :, 140:160] = True
    fitted = MotionClip.fitted(frames, 8.0, geometry, masks=masks)
    assert fitted.frames.shape == (13, 64, 96, 3) and fitted.masks.shape == (13, 64, 96)
    assert fitted.masks[:, :, 44:52].all() and not fitted.masks[:, :, :40].any()
    assert fitted.for_model(geometry) is fitted


def test_every_shipped_motion_has_its_clip_and_who_moves_in_it():
    for motion in Library([POCKET / "motions"]).list():
        kept = read_motion_clip(motion.path, name=motion.name)
        truth = render_reference(motion.name).rendered
        assert np.array_equal(kept.frames, truth.frames)
        true = truth.masks[0]
        overlap = (kept.masks & true).sum() / (kept.masks | true).sum()
        assert 0.8 < overlap < 1.0, "followed from a click, not taken from the renderer"


def test_a_clip_is_added_from_the_command_line(motion, tmp_path, capsys):
    drawn = render_reference("sway").rendered
    write_video(tmp_path / "sway.mp4", drawn.frames, 8.0)
    y, x = drawn.tracks[0, 0] / drawn.frames.shape[1:3]
    asked = ["motions", "add-clip", str(motion), str(tmp_path / "sway.mp4")]
    assert main([*asked, "--mover", f"{x:.3f},{y:.3f}", "--model", str(POCKET)]) == 0
    assert json.loads(capsys.readouterr().out)["has_mover"]
    kept = read_motion_clip(motion, name="sway")
    assert (kept.masks & drawn.masks[0]).sum() > 0.8 * drawn.masks[0].sum()
