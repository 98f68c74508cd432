"""The script that shows the engine to programmers does what it shows."""

import logging
from pathlib import Path

import example_generate
import numpy as np
import pytest
import torch

from motion_app.__main__ import main
from motion_app.media.files import read_clip

ROOT = Path(__file__).resolve().parent.parent


def test_the_example_makes_a_video_that_its_recipe_replays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(ROOT)
    for name in ("MODEL", "MOTIONS"):
        monkeypatch.delenv(f"MOTION_APP_{name}", raising=False)
    with caplog.at_level(logging.INFO, logger="example"):
        saved = example_generate.generate(tmp_path / "made", steps=2)
    told = [record.getMessage() for record in caplog.records if record.name == "example"]
    assert len(told) == 2 and told[0].startswith("step 1 of 2")
    assert len(read_clip(saved.video).frames) == 13 and len(saved.masks) == 2

    assert main(["generate", str(saved.recipe), "--out", str(tmp_path / "again")]) == 0
    with np.load(saved.frames) as made, np.load(tmp_path / "again" / "frames.npz") as again:
        assert np.array_equal(made["frames"], again["frames"])
        assert np.array_equal(made["masks"], again["masks"])
        assert made["masks"][:, 0].any(axis=(1, 2)).all()
