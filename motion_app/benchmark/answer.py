"""The right answer: the target's own creature doing the motion that it was given, as the renderer
draws it, the scene's other creatures too. Where a video has each object is found in the same way in
the video and in the answer, so that the answer is equal to itself.

A track tells only where something goes. Whether it crouches, grows or spins shows in its shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import cv2
import numpy as np

from motion_app.errors import MotionAppError
from motion_app.evaluation.metrics import mask_iou, resample_times
from motion_app.evaluation.trackers import MOVING_CONTRAST, colour_masks
from motion_app.world.world import RenderedClip, empty_scene

LIMB_REACH = 0.45  # of an object's larger side: how far from its body's colour its limbs may be


class RightAnswer:
    """The truth ``rendered`` of a scene whose objects have the first-frame ``masks`` (H, W) bool
    each, held against videos of it."""

    def __init__(self, rendered: RenderedClip, masks: Sequence[np.ndarray]) -> None:
        self.rendered, self.first = rendered, list(masks)

    @cached_property
    def background(self) -> np.ndarray:
        """(H, W, 3) uint8: the scene without creatures."""
        return empty_scene(self.rendered.scene)

    @cached_property
    def masks(self) -> np.ndarray:
        """(N, T, H, W) bool: where each object is found in the answer itself."""
        return self.found(self.rendered.frames)

    def found(self, frames: np.ndarray) -> np.ndarray:
        """(N, T, H, W) bool: where each object is in ``frames`` (T, H, W, 3) uint8: what is not
        background, each pixel with the object whose body's colour is nearest to it in the
        picture."""
        apart = np.abs(frames.astype(int) - self.background).max(axis=-1) > MOVING_CONTRAST
        bodies = _bodies(frames, self.first)  # (N, T, H, W)
        distances = np.stack([[_distance(frame) for frame in body] for body in bodies])
        nearest = distances.argmin(axis=0)  # (T, H, W)
        reach = LIMB_REACH * np.array([_side(mask) for mask in self.first])
        near = distances < reach[:, None, None, None]
        own = nearest == np.arange(len(self.first))[:, None, None, None]
        return apart & near & own

    def overlaps(self, frames: np.ndarray) -> tuple[float, ...]:
        """For each object of a video ``frames`` (T', H, W, 3) uint8: intersection over union with
        where the answer has it, the mean of frames 2 to T; 0 to 1."""
        found = self.found(self._timed(frames))
        pairs = zip(found[:, 1:], self.masks[:, 1:], strict=True)
        return tuple(frame_overlap(ours, true) for ours, true in pairs)

    def differences(self, frames: np.ndarray) -> tuple[float, ...]:
        """For each object: how far the colours of ``frames`` (T', H, W, 3) uint8 are from the
        answer's, 0 to 255, in the pixels where the object really is; the mean of frames 2 to T."""
        timed, true = self._timed(frames), self.rendered.frames
        change = np.abs(timed.astype(float) - true).mean(axis=-1)  # (T, H, W)
        return tuple(inside_mean(change[1:], mask[1:]) for mask in self.rendered.masks)

    def _timed(self, frames: np.ndarray) -> np.ndarray:
        """``frames`` over the same time span in as many frames as the answer, the nearest each."""
        count = len(self.rendered.frames)
        return frames[resample_times(len(frames), count)] if len(frames) != count else frames


def frame_overlap(masks: np.ndarray, truth: np.ndarray) -> float:
    """Mean over frames of the intersection over union of ``masks`` and ``truth`` (T, H, W) bool."""
    return float(np.mean([mask_iou(a, b) for a, b in zip(masks, truth, strict=True)]))


def inside_mean(values: np.ndarray, masks: np.ndarray) -> float:
    """Mean over frames of the mean of ``values`` (T, H, W) inside ``masks`` (T, H, W) bool; frames
    whose mask is empty do not count. MotionAppError where all are."""
    means = [value[mask].mean() for value, mask in zip(values, masks, strict=True) if mask.any()]
    if not means:
        raise MotionAppError("the object is hidden in every frame after the first")
    return float(np.mean(means))


def _bodies(frames: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """(N, T, H, W) bool: pixels of each object's median colour near its track, where no other
    object's is nearer to the pixel's."""
    colours = [np.median(frames[0][mask].astype(float), axis=0) for mask in masks]
    far = np.stack([np.linalg.norm(frames.astype(float) - c, axis=-1) for c in colours])
    best = far.argmin(axis=0) == np.arange(len(masks))[:, None, None, None]
    return np.stack([colour_masks(frames, mask) for mask in masks]) & best


def _distance(body: np.ndarray) -> np.ndarray:
    """(H, W): pixels from each pixel to the nearest one of ``body`` (H, W) bool; without any, all
    are out of reach."""
    if not body.any():
        return np.full(body.shape, np.inf, np.float32)
    return cv2.distanceTransform((~body).astype(np.uint8), cv2.DIST_L2, 5)


def _side(mask: np.ndarray) -> int:
    rows, columns = np.nonzero(mask)
    return int(max(np.ptp(rows), np.ptp(columns))) + 1
