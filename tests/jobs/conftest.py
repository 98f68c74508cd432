"""A tiny checkpoint that learns, a clip to learn from, and jobs whose program was killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from motion_app.media.files import write_video
from motion_app.settings import ROOT
from motion_app.world.world import WorldConfig, draw_scene, render

TINY = {"tokens": 3, "views": 3, "batch": 2, "learning_rate": 0.05, "checkpoint_every": 2}
HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with training settings of its own. Do not write into it."""
    folder = tmp_path_factory.mktemp("jobs") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    settings = {"name": "tiny", "steps": 3, "guidance": 3.0, "motion_training": TINY}
    (folder / "generation.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scene = draw_scene(
        np.random.default_rng(2), WorldConfig(height=32, width=48), objects=1, motions=["jump"]
    )
    path = tmp_path_factory.mktemp("clips") / "jump.mp4"
    write_video(path, render(scene).frames, 8.0)
    return path


@pytest.fixture(scope="session")
def killed_jobs(
    checkpoint: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, str]]:
    """The folder and the id of a job that was killed, by what it did: a "training" of a motion, and
    the second of two "lessons" before a video. Each is for one test."""
    folders = [tmp_path_factory.mktemp(name) for name in ("training", "lessons")]
    ended = subprocess.run(
        [sys.executable, HERE / "killed_jobs.py", checkpoint, clip, *folders],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}:{HERE.parent}"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert ended.returncode == 0, ended.stderr
    placed = zip(folders, ended.stdout.split(), strict=True)
    return dict(zip(("training", "lessons"), placed, strict=True))
