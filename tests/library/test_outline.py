"""What a mover's masks say of its motion, held against clips of which everything is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from motion_app.errors import MotionFileError
from motion_app.library.motion_clip import MotionClip, outline, read_motion_clip
from motion_app.library.motion_file import CLIP_OUTLINE, OUTLINE, read_motion
from motion_app.library.motion_parcel import replace_bytes
from motion_app.settings import ROOT
from motion_app.ui.markup import Texts
from motion_app.ui.motion_cards import moves_how, path_key, shape_key
from motion_app.world.creatures import MOTIONS
from motion_app.world.world import WorldConfig, draw_scene, render

EN = Texts("en")
WIDE = WorldConfig(level=1)
SHAPES = {
    "spin": "spins",
    "bow": "leans",
    "grow": "grows",
    "shrink": "shrinks",
    "crouch": "ducks",
    "wave": "part",
}


def masks_of(name: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, list(MOTIONS).index(name)])
    return render(draw_scene(rng, WIDE, objects=1, motions=[name])).masks[0]


@pytest.mark.parametrize("name", MOTIONS)
def test_every_motion_of_the_world_is_told_by_its_shape_or_by_its_path(name: str) -> None:
    clips = [masks_of(name, seed) for seed in range(6)]
    seen = [masks for masks in clips if name != "wave" or (masks != masks[0]).any()]
    assert len(seen) >= 3  # an arm that waves before the body is in no mask
    assert [shape_key(outline(masks)) for masks in seen] == [SHAPES.get(name, "")] * len(seen)


def test_a_spin_is_measured_to_a_bin_and_to_its_side() -> None:
    for seed in range(6):
        turned = outline(masks_of("spin", seed))[:, 4]
        assert turned[0] == 0 and abs(turned[-1] - 2 * np.pi) < 0.4
        assert (np.diff(turned) > 0).all()
        assert outline(masks_of("spin", seed)[:, :, ::-1])[-1, 4] < -5  # in a mirror


def test_frames_without_anything_hold_what_was_seen_last_or_is_seen_first() -> None:
    masks = np.zeros((5, 20, 30), bool)
    masks[1, 4:10, 5:15] = masks[3, 6:12, 5:15] = True
    rows = outline(masks)
    assert rows.shape == (5, len(OUTLINE))
    assert rows[:, 0].tolist() == [6.5, 6.5, 6.5, 8.5, 8.5]
    assert rows[:, 2:4].tolist() == [[6, 10]] * 5
    assert outline(np.zeros((3, 8, 8), bool)).shape == (0, len(OUTLINE))


def test_a_motion_keeps_the_outline_of_its_mover_and_its_card_says_it(tmp_path: Path) -> None:
    shipped = ROOT / "checkpoints" / "pocket" / "motions" / "jump.safetensors"
    file = tmp_path / "spin.safetensors"
    file.write_bytes(shipped.read_bytes())
    rng = np.random.default_rng(3)
    clip = render(draw_scene(rng, WIDE, objects=1, motions=["spin"]))
    MotionClip(clip.frames, 8.0, clip.masks[0]).save_into(file)
    motion = read_motion(file)
    assert np.allclose(motion.outline, outline(clip.masks[0]), atol=0.01)
    assert moves_how(motion, EN) == f"{motion.noun}: spins on the spot"
    MotionClip(clip.frames, 8.0).save_into(file)  # of this one nobody knows what moves
    assert read_motion(file).outline is None
    assert read_motion_clip(file, name="spin").masks is None


def test_where_no_true_track_is_known_the_outline_tells_the_path(tmp_path: Path) -> None:
    file = tmp_path / "walk.safetensors"
    shipped = ROOT / "checkpoints" / "pocket" / "motions"
    file.write_bytes((shipped / "walk-left.safetensors").read_bytes())
    read_motion_clip(file, name="walk").save_into(file)
    replace_bytes(file, {}, {"track": ""})
    motion = read_motion(file)
    assert motion.track is None and path_key([row[:2] for row in motion.outline]) == "left"
    assert moves_how(motion, EN).endswith("goes to the left")


@pytest.mark.parametrize("rows", [[[1, 2]], [[0, 0, 1, 1, "a", 0]], 3, [[0, 0, 1, 1, 1e999, 0]]])
def test_a_broken_outline_is_refused_in_words(tmp_path: Path, rows: object) -> None:
    file = tmp_path / "jump.safetensors"
    shipped = ROOT / "checkpoints" / "pocket" / "motions" / "jump.safetensors"
    file.write_bytes(shipped.read_bytes())
    replace_bytes(file, {}, {CLIP_OUTLINE: json.dumps(rows)})
    with pytest.raises(MotionFileError, match="outline"):
        read_motion(file)
