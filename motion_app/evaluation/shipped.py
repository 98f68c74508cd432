"""The results that come with the app, made anew from their recipes after the model has changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from motion_app.assignment import build_request, parse_request
from motion_app.engine.pipeline import MotionEngine
from motion_app.leftovers import listed
from motion_app.library import Library
from motion_app.video import write_webp

MOVING_WIDTH = 288  # px of the small moving pictures


def renew_results(folder: Path, engine: MotionEngine, library: Library) -> list[Path]:
    """For every ``NAME.json`` of ``folder``, a recipe or a request complete in itself: the recipe
    of its video by ``engine`` with the motions of ``library``, and the video as ``NAME.webp``,
    small and moving. Returns those."""
    videos = []
    for file in listed(folder, "*.json"):
        request = build_request(
            parse_request(file),
            geometry=engine.geometry,
            library=library,
            base=engine.fingerprint,
            folder=folder,
        )
        video = engine.generate(request)
        file.write_text(json.dumps(video.recipe, ensure_ascii=False), encoding="utf-8")
        videos.append(file.with_suffix(".webp"))
        _write_moving(videos[-1], video.frames, video.fps)
    return videos


def _write_moving(path: Path, frames: np.ndarray, fps: float) -> None:
    height, width = frames.shape[1:3]
    size = (MOVING_WIDTH, round(height * MOVING_WIDTH / width))
    small = [Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in frames]
    write_webp(path, np.stack([np.asarray(frame) for frame in small]), fps, quality=82, method=6)
