"""A short video with the tokens learned so far, on a picture that is not the reference.

A clip's own first frame says nothing: the picture alone suggests how it goes on. Mirrored and in
other colours it is a new picture, in which the moving thing's place is still known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from motion_app.engine.motion_tokens import MotionMetadata
from motion_app.engine.pipeline import MotionEngine
from motion_app.geometry import fit_image, mask_to_grid
from motion_app.library import read_motion
from motion_app.scene import GenerationRequest, SceneObject
from motion_app.training.config import ClipTraining, MotionTraining
from motion_app.video import Clip

HUE_TURN = 60  # of OpenCV's 180 hues: a third of the circle, red becomes green
STILL = 16.0  # of 255; a smaller change is the codec's noise


@dataclass(frozen=True, eq=False)
class ValidationScene:
    """``image`` (H, W, 3) uint8 and ``mask`` (H, W) bool of what shall move, in the model frame."""

    image: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class ValidationVideo:
    """``frames`` (T, H, W, 3) uint8 made with the tokens after ``step`` training steps."""

    step: int
    frames: np.ndarray
    fps: float


def held_out_scene(
    clip: Clip, engine: MotionEngine, *, mask: np.ndarray | None = None
) -> ValidationScene:
    """The clip's first frame mirrored, with its hues turned. ``mask`` (H0, W0) bool of the moving
    thing in that frame; None finds what moves away from where it was."""
    geometry = engine.geometry
    where = moving_region(clip.frames) if mask is None else mask
    fitted = fit_image(clip.frames[0], geometry.height, geometry.width, "crop")
    inside = fitted.fit_mask(where)
    if not mask_to_grid(inside, geometry.grid_height, geometry.grid_width).any():
        inside = np.ones_like(inside)
    hues = cv2.cvtColor(fitted.image, cv2.COLOR_RGB2HSV)
    hues[..., 0] = (hues[..., 0].astype(int) + HUE_TURN) % 180
    recoloured = cv2.cvtColor(hues, cv2.COLOR_HSV2RGB)
    return ValidationScene(
        np.ascontiguousarray(recoloured[:, ::-1]), np.ascontiguousarray(inside[:, ::-1])
    )


def moving_region(frames: np.ndarray) -> np.ndarray:
    """(H, W) bool: the largest patch of the first of ``frames`` (T, H, W, 3) uint8 that looks
    different in most later ones: what was there has moved away. All of it where nothing does, as
    under a moving camera everything does."""
    first = frames[0].astype(np.int16)
    changes = [np.abs(frame.astype(np.int16) - first).max(axis=-1) for frame in frames[1:]]
    change = np.median(np.stack(changes), axis=0) if changes else np.zeros(first.shape[:2])
    moved = (change > max(STILL, 0.3 * float(change.max()))).astype(np.uint8)  # (H, W)
    moved = cv2.morphologyEx(moved, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    _, pieces, figures, _ = cv2.connectedComponentsWithStats(moved)
    if len(figures) < 2:
        return np.ones(first.shape[:2], bool)
    return pieces == 1 + int(figures[1:, cv2.CC_STAT_AREA].argmax())


def make_validation(
    save: Callable[[Path, MotionMetadata], None],
    scene: ValidationScene,
    config: ClipTraining,
    engine: MotionEngine,
    *,
    step: int,
    file: Path,
) -> ValidationVideo:
    """Generates with what ``save`` writes, the same noise every time. ``file``: a path that may
    be written and is gone again afterwards. Every random number comes from a generator of its own,
    so the training goes on as if nothing had been."""
    metadata = MotionMetadata(name=config.name, phrase=config.phrase, base=engine.fingerprint)
    try:
        save(file, metadata)
        moving = SceneObject(
            mask=scene.mask,
            sentence=config.caption,
            phrase=config.phrase,
            motion=read_motion(file),
            name=config.noun,
        )
        request = GenerationRequest(
            image=scene.image,
            objects=(moving,),
            seed=config.seed,
            steps=config.validation_steps,
            method=validation_method(config),
        )
        video = engine.generate(request)
    finally:
        file.unlink(missing_ok=True)
    return ValidationVideo(step, video.frames, video.fps)


def validation_method(config: ClipTraining) -> str:
    """The method a video is made with to show what a training has learned."""
    if isinstance(config, MotionTraining) and config.mask == "none":
        return "concat"
    return config.method
