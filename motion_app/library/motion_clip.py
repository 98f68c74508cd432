"""The reference clip inside a motion file: what systems are told that learn nothing beforehand; and
what the masks of its mover say of the motion: where its middle is, how large it is, and how far it
has turned.

Frames and the masks of what moves lie in the file as rows of bytes, packed without loss, so that a
motion that is copied, sent or brought back has them. Files come from strangers: nothing is unpacked
beyond the sizes that the metadata name, and those have a bound.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from motion_app.errors import MotionFileError
from motion_app.geometry import ModelGeometry, fit_frames, fit_image
from motion_app.library.motion_file import (
    CLIP_FRAMES,
    CLIP_MASKS,
    CLIP_OUTLINE,
    CLIP_SIZES,
    OUTLINE,
    MotionHeader,
    TensorEntry,
    read_header,
    tensor_bytes,
)
from motion_app.library.motion_parcel import replace_bytes

MOST_BYTES = 2**29  # of the frames unpacked: 49 of 1920×1080 have 305 million
MISSING = (
    'the motion "{name}" has no reference clip in its file, as motions of earlier versions have '
    "none; give it one with: python -m motion_app motions add-clip"
)
BINS = 90  # directions that a silhouette is looked at in
MOST_TURN = np.pi / 3  # radians from one frame to the next


@dataclass(frozen=True, eq=False)
class MotionClip:
    """``frames`` (T, H, W, 3) uint8 RGB at ``fps``; ``masks`` (T, H, W) bool of what moves, None
    where nobody knows it."""

    frames: np.ndarray
    fps: float
    masks: np.ndarray | None = None

    @classmethod
    def fitted(
        cls,
        frames: np.ndarray,
        fps: float,
        geometry: ModelGeometry,
        *,
        masks: np.ndarray | None = None,
    ) -> MotionClip:
        """The first T of ``frames`` (T', H0, W0, 3) uint8 in the model frame, cut as pictures are,
        and ``masks`` (T', H0, W0) bool with them. A motion of fewer frames holds its last one."""
        height, width = geometry.height, geometry.width
        order = np.minimum(np.arange(geometry.frames), len(frames) - 1)  # (T,)
        cut = None
        if masks is not None:
            pairs = zip(frames[order], masks[order], strict=True)
            cut = np.stack([fit_image(f, height, width).fit_mask(m) for f, m in pairs])
        return cls(fit_frames(frames[order], height, width), fps, cut)

    def for_model(self, geometry: ModelGeometry) -> MotionClip:
        """The same in the frame and length of a model; itself where it has them."""
        size = (geometry.frames, geometry.height, geometry.width)
        if self.frames.shape[:3] == size:
            return self
        return MotionClip.fitted(self.frames, self.fps, geometry, masks=self.masks)

    def digest(self) -> str:
        """sha256 of frames and masks."""
        digest = hashlib.sha256(repr((self.frames.shape, self.fps)).encode())
        digest.update(np.ascontiguousarray(self.frames).tobytes())
        digest.update(b"" if self.masks is None else np.packbits(self.masks).tobytes())
        return digest.hexdigest()

    def save_into(self, motion_file: Path) -> None:
        """Keep it in the motion file, in the place of the one that is there."""
        frames, height, width = self.frames.shape[:3]
        sizes = {"frames": frames, "height": height, "width": width, "fps": self.fps}
        masks = None if self.masks is None else _packed(np.packbits(self.masks))
        parts = {CLIP_FRAMES: _packed(self.frames), CLIP_MASKS: masks}
        told = {CLIP_SIZES: json.dumps(sizes), CLIP_OUTLINE: ""}
        if self.masks is not None:
            told[CLIP_OUTLINE] = json.dumps(outline(self.masks).round(2).tolist())
        replace_bytes(motion_file, parts, told)


def read_motion_clip(motion_file: Path, *, name: str) -> MotionClip:
    """The clip in a motion file; MotionFileError where it has none or a broken one."""
    header = read_header(motion_file)
    frames = header.named(CLIP_FRAMES)
    if frames is None:
        raise MotionFileError(MISSING.format(name=name))
    shape, fps = _sizes(header, motion_file)
    pixels = _unpacked(motion_file, header, frames, math.prod(shape) * 3).reshape(*shape, 3)
    masks, entry = None, header.named(CLIP_MASKS)
    if entry is not None:
        count = math.prod(shape)
        bits = _unpacked(motion_file, header, entry, -(-count // 8))
        masks = np.unpackbits(bits, count=count).astype(bool).reshape(shape)
    return MotionClip(pixels, fps, masks)


def _sizes(header: MotionHeader, file: Path) -> tuple[tuple[int, int, int], float]:
    try:
        told: Any = json.loads(header.metadata.get(CLIP_SIZES) or "")
        shape = tuple(told[key] for key in ("frames", "height", "width"))
        fps = float(told["fps"])
        whole = all(type(side) is int and side > 0 for side in shape)
        if not whole or math.prod(shape) * 3 > MOST_BYTES or not 0 < fps < math.inf:
            raise ValueError(f"{shape} at {fps}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MotionFileError(
            f"the sizes of the reference clip in {file.name} are broken; get it again"
        ) from error
    return shape, fps


def _packed(array: np.ndarray) -> bytes:
    return zlib.compress(np.ascontiguousarray(array).tobytes(), 9)


def _unpacked(file: Path, header: MotionHeader, entry: TensorEntry, size: int) -> np.ndarray:
    """``size`` uint8 of the row of bytes ``entry``; never more memory than that."""
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(tensor_bytes(file, header, entry), size)
    except zlib.error as error:
        raise MotionFileError(f"{entry.name} of {file.name} is broken; get it again") from error
    if len(content) != size or unpacking.unconsumed_tail:
        raise MotionFileError(
            f"{entry.name} of {file.name} does not unpack to the {size} bytes that its sizes say; "
            "get it again"
        )
    return np.frombuffer(content, np.uint8).copy()


def outline(masks: np.ndarray) -> np.ndarray:
    """``masks`` (T, H, W) bool → (T, 6): the middle (y, x), height and width in pixels of the
    masks, by how much, in radians clockwise, it has turned since the first frame, and which share
    of it is not where it was, its middle held still. A frame without anything holds what the one
    before it has; (0, 6) where no frame has anything."""
    rows: list[tuple[float, ...]] = []
    first = before = None
    turned = 0.0
    for mask in masks:
        places = np.argwhere(mask)  # (n, 2)
        if not len(places):
            if rows:
                rows.append(rows[-1])
            continue
        middle = places.mean(0)
        sides = places.max(0) - places.min(0) + 1
        seen = _silhouette(places - middle)
        turned += 0.0 if before is None else _turn(before, seen)
        before = seen
        held = np.zeros([2 * side + 1 for side in mask.shape], bool)  # its middle in the middle
        held[tuple((np.round(places - middle).astype(int) + mask.shape).T)] = True
        first = held if first is None else first
        rows.append((*middle, *sides, turned, (first ^ held).sum() / (first | held).sum()))
    missing = len(masks) - len(rows)
    return np.array([*rows[:1] * missing, *rows], float).reshape(-1, len(OUTLINE))


def _silhouette(places: np.ndarray) -> np.ndarray:
    """How far it reaches from its middle in each direction, (BINS,), as a share of the mean."""
    angles = np.arctan2(places[:, 0], places[:, 1]) % (2 * np.pi)
    reach = np.zeros(BINS)
    np.maximum.at(reach, (angles * BINS / (2 * np.pi)).astype(int) % BINS, np.hypot(*places.T))
    known = np.flatnonzero(reach)
    reach = np.interp(np.arange(BINS), known, reach[known], period=BINS)
    return reach / max(reach.mean(), 1e-9)


def _turn(before: np.ndarray, after: np.ndarray) -> float:
    """The turn of at most ``MOST_TURN`` radians that makes ``before`` most like ``after``; of
    those that do so equally the smallest."""
    most = int(MOST_TURN / (2 * np.pi) * BINS)
    turns = sorted(range(-most, most + 1), key=abs)
    missed = [float(np.square(np.roll(before, turn) - after).mean()) for turn in turns]
    bar = 1.02 * min(missed)
    best = next(turn for turn, miss in zip(turns, missed, strict=True) if miss <= bar)
    return best * 2 * np.pi / BINS
