"""What ships beside the checkpoint: results and the README's picture.

The results that come with the app, made anew from their recipes after the model has changed.

The moving picture at the top of the README: references on the left, what was made of them
right.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from motion_app.benchmark.propagation import draw_cases
from motion_app.engine.pipeline import MotionEngine
from motion_app.geometry import fit_frames
from motion_app.library.library import Library
from motion_app.media.files import write_gif, write_webp
from motion_app.request.request import build_request, parse_request
from motion_app.text_files import listed
from motion_app.world.references import (
    render_reference,
)

MOVING_WIDTH = 288  # px of the small moving pictures
GAP = 6  # pixels between pictures


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


def write_showcase(
    engine: MotionEngine, out: Path, *, cases: Sequence[int], enlarge: int = 3, columns: int = 2
) -> None:
    """Writes a GIF of the benchmark's ``cases``, by number: each shows its motions' reference
    clips, small, and the video that ``engine`` makes with its model's own motions."""
    drawn = draw_cases(
        Library([engine.backbone.checkpoint.folder / "motions"]).list(), max(cases) + 1
    )
    panels = []
    for number in cases:
        case = drawn[number]
        video = engine.generate(case.request()).frames  # (T, H, W, 3)
        references = [render_reference(motion.name).rendered.frames for motion in case.motions]
        panels.append(_panel(references, video, enlarge))
    rows = [np.concatenate(panels[i : i + columns], axis=2) for i in range(0, len(panels), columns)]
    frames = np.concatenate(rows, axis=1)
    pause = frames[-1:].repeat(4, axis=0)  # the last frame stands a while before it starts again
    write_gif(out, np.concatenate([frames, pause]), engine.geometry.fps)


def _panel(references: Sequence[np.ndarray], video: np.ndarray, enlarge: int) -> np.ndarray:
    """(T, H', W', 3): the references one above the other, then the video."""
    frames, height, width = video.shape[:3]
    tall = height * enlarge
    small = (tall - GAP * (len(references) - 1)) // len(references)
    column = np.full((frames, tall, small * width // height, 3), 255, np.uint8)
    for k, reference in enumerate(references):
        top = k * (small + GAP)
        column[:, top : top + small] = fit_frames(reference, small, column.shape[2], "pad")
    wide = _resize(video, width * enlarge, tall)
    gap = np.full((frames, tall, GAP, 3), 255, np.uint8)
    panel = np.concatenate([gap, column, gap, wide, gap], axis=2)
    return np.pad(panel, ((0, 0), (GAP, GAP), (0, 0), (0, 0)), constant_values=255)


def _resize(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    flags = cv2.INTER_CUBIC
    return np.stack([cv2.resize(frame, (width, height), interpolation=flags) for frame in frames])
