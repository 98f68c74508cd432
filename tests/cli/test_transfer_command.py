"""The command ``transfer``: clicks, a clip or a motion for each, and the video."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import fail, folder, run, settings_of_this_test

from motion_app.library.library import Library
from motion_app.media.files import read_clip, read_picture
from motion_app.media.provenance import read_recipe
from motion_app.settings import ROOT

__all__ = ["folder", "settings_of_this_test"]  # fixtures

PICTURE = ROOT / "assets" / "examples" / "1-two-friends.png"
CLIP = ROOT / "assets" / "clips" / "spin.mp4"
SEGMENTER = ("--segmenter", ROOT / "checkpoints" / "pocket" / "sam2")
BIRD = json.loads(PICTURE.with_suffix(".json").read_text())["objects"][1]["box"]
ON_CAT, ON_BIRD = "95,290", f"{(BIRD[0] + BIRD[2]) // 2},{(BIRD[1] + BIRD[3]) // 2}"


def test_a_clip_is_learned_and_the_video_made_with_one_command(folder, capsys):
    made = run(
        capsys,
        *("transfer", PICTURE, *SEGMENTER, "--steps", 2, "--seed", 5, "--out", folder / "out"),
        *("--click", ON_CAT, "--thing", "cat", "--clip", CLIP, "--training-steps", 2),
        *("--noun", "red robot", "--phrase", "spins", "--training-method", "fleximmt"),
        *("--click", ON_BIRD, "--motion", "jump", "--strength", 0.5),
    )
    assert [item["name"] for item in made["learned"]] == ["spin"] and made["seed"] == 5
    assert read_clip(made["video"]).frames.shape[0] == 13
    learned = Library([folder / "library"]).find("spin")
    assert (learned.noun, learned.phrase, learned.steps) == ("red robot", "spins", 2)
    told = read_recipe(Path(made["recipe"]))["request"]["objects"]
    assert [item["motion"] for item in told] == ["spin", "jump"]
    assert told[0]["sentence"] == "A cat spins." and told[1]["strength"] == 0.5


def test_a_thing_goes_where_its_path_leads_from_the_click_on(folder, capsys):
    made = run(
        capsys,
        *("transfer", PICTURE, *SEGMENTER, "--steps", 2, "--out", folder / "out"),
        *("--click", ON_CAT, "--path", "95,200", "215,200", "--thing", "cat"),
    )
    told = read_recipe(Path(made["recipe"]))["request"]["objects"][0]
    height, width = read_picture(PICTURE).pixels.shape[:2]
    places = [(95, 290), (95, 200), (215, 200)]
    shares = [(x / width, y / height) for x, y in places]  # the picture has the frame's shape
    assert np.allclose(told["path"], shares, atol=1e-5) and not told.get("motion")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--motion", "jump"], "--motion comes before any --click"),
        ([], "nothing was clicked"),
        (["--click", "1"], "is not 2 numbers"),
        (["--click", ON_CAT, "--clip", "nothing.mp4"], "there is no file nothing.mp4"),
        (["--click", ON_CAT, "--clip", CLIP, "--motion", "jump"], "give it one of them"),
        (["--click", ON_CAT, "--path", "9,9", "--motion", "jump"], "give it one of them"),
        (["--click", ON_CAT, "--path", "9,9", "1e9,1"], "the path of thing 1: it leads nowhere"),
        (["--click", "9000,1", "--motion", "jump"], "outside the part of the picture"),
        (["--click", ON_CAT, "--clip", CLIP, "--training-method", "concat"], "learned by 'concat'"),
        (["--click", ON_CAT, "--motion", "fly"], 'no motion "fly"'),
        (["--click", ON_CAT, "--beside", "9000,1"], "outside the part of the picture"),
    ],
)
def test_what_cannot_be_transferred_is_one_line(folder, capsys, options, complaint):
    line = fail(capsys, "transfer", PICTURE, *SEGMENTER, "--out", folder / "out", *options)
    assert complaint in line
    assert not (folder / "out").exists()
