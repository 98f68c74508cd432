"""Where a motion takes an object: the reference's mover carried over to it, frame by frame.

From each frame's mask of the mover come a place (its centroid) and a size (the root of its area).
The object goes the mover's way from its own place, in its own size, and grows as the mover grows.
A path that was drawn is told in the same way: its reference is the picture itself, with the object
moved along the path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from motion_app.geometry import ModelGeometry, mask_to_grid
from motion_app.library.motion_clip import MotionClip
from motion_app.request.paths import way_along
from motion_app.scene import DrawnPath

BEHIND = 3  # px that are filled in around an object: its edge is mixed with the background


@dataclass(frozen=True, eq=False)
class ToldObject:
    """An object and what it is told: its ``mask`` (H, W) bool in the picture, and what gives the
    ``clip`` of its motion, with masks, when it is first asked for, all in the model frame; the
    motion's ``file`` and the object's ``strength`` for who reads more of it. ``centres`` (T, 2)
    (x, y) in pixels are those of a path that was drawn: masks end at the frame."""

    mask: np.ndarray
    shown: Callable[[], MotionClip]
    file: Path = Path()
    strength: float = 1.0
    centres: np.ndarray | None = None

    @cached_property
    def clip(self) -> MotionClip:
        """The clip of its motion, with masks."""
        return self.shown()

    @property
    def masks(self) -> np.ndarray:
        """(T, H, W) bool: what moves in ``clip``."""
        return cast(np.ndarray, self.clip.masks)


@dataclass(frozen=True, eq=False)
class Course:
    """``centres`` (T, 2) (x, y) in pixels and ``sizes`` (T,) of the mover; ``centre`` and ``size``
    of the object in the picture."""

    centres: np.ndarray
    sizes: np.ndarray
    centre: np.ndarray
    size: float

    @classmethod
    def of(cls, thing: ToldObject) -> Course:
        """A frame without the mover holds what the one before had."""
        if thing.centres is not None:
            return cls.drawn(thing.mask, thing.centres)
        centres, sizes = [], []
        for mask in thing.masks:
            if mask.any():
                centres.append(_centre(mask))
                sizes.append(float(mask.sum()) ** 0.5)
            else:
                centres.append(centres[-1])
                sizes.append(sizes[-1])
        own = float(thing.mask.sum()) ** 0.5
        return cls(np.stack(centres), np.array(sizes), _centre(thing.mask), own)

    @classmethod
    def drawn(cls, mask: np.ndarray, centres: np.ndarray) -> Course:
        """Of an object that goes along ``centres`` (T, 2) itself, in its own size."""
        own = float(mask.sum()) ** 0.5
        return cls(centres, np.full(len(centres), own), _centre(mask), own)

    @property
    def scale(self) -> float:
        """Pixels of the object for one of the reference."""
        return self.size / self.sizes[0]

    def path(self) -> np.ndarray:
        """(T, 2) the object's centres (x, y) in pixels."""
        return self.centre + self.scale * (self.centres - self.centres[0])

    def from_object(self, t: int) -> np.ndarray:
        """(2, 3) affine: the picture's pixels of the object to where they are in frame ``t``."""
        return _similarity(self.sizes[t] / self.sizes[0], self.centre, self.path()[t])

    def from_reference(self) -> np.ndarray:
        """(2, 3) affine from any frame of the reference to the same frame of the video."""
        return _similarity(self.scale, self.centres[0], self.centre)


def moved(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``pixels`` (H, W) or (H, W, C) of float32 at the places to which ``matrix`` (2, 3) takes
    them, 0 elsewhere."""
    height, width = pixels.shape[:2]
    return cv2.warpAffine(pixels, matrix, (width, height), flags=cv2.INTER_LINEAR)


def pasted(
    image: np.ndarray, placed: Sequence[tuple[np.ndarray, Course]], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The crude video (``count``, H, W, 3) uint8 of ``image`` (H, W, 3) uint8 in which the object
    of each mask (H, W) bool goes its course over what is filled in behind, and (``count``, H, W)
    bool where objects are. The picture itself comes first; the object listed last is in front."""
    every = np.any([mask for mask, _ in placed], axis=0)
    around = cv2.dilate(every.astype(np.uint8), np.ones((2 * BEHIND + 1,) * 2, np.uint8))
    behind = cv2.inpaint(image, around, BEHIND, cv2.INPAINT_TELEA).astype(np.float32)
    picture = image.astype(np.float32)
    frames = np.empty((count, *picture.shape), np.float32)
    masks = np.zeros((count, *picture.shape[:2]), bool)
    for t in range(count):
        frame = behind
        for mask, course in placed:
            matrix = course.from_object(t)
            cover = moved(mask.astype(np.float32), matrix)  # (H, W), soft at its edge
            frame = np.where(cover[..., None] > 0, _over(frame, picture, cover, matrix), frame)
            masks[t] |= cover > 0.5
        frames[t] = frame
    frames[0] = picture
    return frames.round().clip(0, 255).astype(np.uint8), masks


def _over(
    frame: np.ndarray, picture: np.ndarray, cover: np.ndarray, matrix: np.ndarray
) -> np.ndarray:
    share = cover[..., None]
    return share * moved(picture, matrix) + (1 - share) * frame


def drawn_object(
    image: np.ndarray, mask: np.ndarray, path: DrawnPath, geometry: ModelGeometry
) -> ToldObject:
    """The object of ``mask`` (H, W) bool in ``image`` (H, W, 3) uint8 as one whose motion's clip is
    the picture with it going along ``path``. It is pasted for who reads the clip alone: most
    methods are told ``centres``."""
    height, width = mask.shape
    way = way_along(path, geometry.frames, height=height, width=width)  # (T, 2)
    centres = _centre(mask) + way

    def shown() -> MotionClip:
        frames, masks = pasted(image, [(mask, Course.drawn(mask, centres))], geometry.frames)
        return MotionClip(frames, geometry.fps, masks)

    return ToldObject(mask, shown, centres=centres)


def moved_mask(mask: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``mask`` (H, W) bool where ``matrix`` (2, 3) takes it."""
    return moved(mask.astype(np.float32), matrix) > 0.5


def _centre(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()])


def _similarity(scale: float, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    shift = target - scale * source
    return np.array([[scale, 0.0, shift[0]], [0.0, scale, shift[1]]])


def latent_times(geometry: ModelGeometry) -> list[int]:
    """The frame at which each latent frame ends, (F,), those that repeat the first among them."""
    spare = geometry.spare_latent_frames
    return [
        max(0, i - spare) * geometry.temporal_ratio for i in range(geometry.padded_latent_frames)
    ]


@dataclass(frozen=True, eq=False)
class Region:
    """Cells of a video's grid that an object takes over from its motion's clip: ``targets`` (n,)
    int64 in the video, ``sources`` (n,) int64 in the clip, both as positions in F·h·w."""

    targets: np.ndarray
    sources: np.ndarray


def everywhere(cells: int) -> Region:
    """Each of so many cells from its own place."""
    return Region(np.arange(cells), np.arange(cells))


def regions(
    things: Sequence[ToldObject], times: Sequence[int], size: tuple[int, int]
) -> list[Region]:
    """Where each of ``things`` would be if it moved as its motion's mover does, on a grid of
    ``size`` (h, w) over the frames at ``times`` (F,): the mover's masks, carried over to the
    object. Where two meet, the one listed last is in front."""
    owners = np.full((len(times), *size), -1)
    sources = np.zeros((len(times), *size), np.int64)
    for number, thing in enumerate(things):
        matrix = Course.of(thing).from_reference()
        back = _cells_of(matrix, thing.mask.shape, size)  # (h, w)
        for frame, t in enumerate(times):
            inside = mask_to_grid(moved_mask(thing.masks[t], matrix), *size)
            owners[frame][inside] = number
            sources[frame][inside] = frame * back.size + back[inside]
    flat, origin = owners.ravel(), sources.ravel()
    found = [np.flatnonzero(flat == number) for number in range(len(things))]
    return [Region(targets, origin[targets]) for targets in found]


def _cells_of(matrix: np.ndarray, frame: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """For each cell of the grid the cell (h, w) that ``matrix`` takes to its centre, by number."""
    side = np.array([frame[1] / size[1], frame[0] / size[0]])  # a cell's width and height, px
    rows, columns = np.indices(size)
    centres = (np.stack([columns, rows], axis=-1) + 0.5) * side - 0.5  # (h, w, 2) x and y
    origin = ((centres - matrix[:, 2]) / np.diag(matrix[:, :2]) + 0.5) / side  # (h, w, 2)
    column, row = (np.clip(origin.astype(int), 0, np.array(size[::-1]) - 1)).transpose(2, 0, 1)
    return row * size[1] + column
