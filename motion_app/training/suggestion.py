"""What of a clip a motion is best learned from, where nobody has chosen yet: as many frames as the
model has where most goes on, the picture cropped to the way of what moves in the shape of the
model's frame, and a point on the mover where another thing moves beside it.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np

from motion_app.geometry import ModelGeometry
from motion_app.media.files import Clip
from motion_app.training.inputs import ClipSelection
from motion_app.training.mover import CONTRAST, LOOKED_AT, inner_points, moving_areas, moving_region

MARGIN = 0.12  # of the longer side of a mover's way, left free around it
SMALLEST_CROP = 0.4  # of the largest crop of that shape: less would be a blur
WHOLE = 0.85  # IoU with the middle of the picture above which nothing is cropped
EVERYWHERE = 0.8  # of the picture: where so much moves, the camera does
CUT, SUDDEN = 0.5, 3.0  # of the picture that changes at once, so many times more than around it
AROUND = 4  # frames
DIGITS = 4  # of a share
Rectangle = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels


def suggest_selection(
    file: Path,
    clip: Clip,
    geometry: ModelGeometry,
    *,
    span: tuple[int, int] | None = None,
    point: tuple[float, float] | None = None,
) -> ClipSelection:
    """The part of ``clip``, which is ``file`` at any size, that a motion is best learned from.

    ``span``: the first frame and the one after the last, where they are chosen already; ``point``
    (x, y), shares of width and height, lies on the mover in the first frame, where a person said
    so: then it stays in the selection.
    """
    start, stop = span or liveliest_part(clip.frames, geometry.frames)
    frames = clip.frames[start:stop]
    box, alone = mover_crop(frames, geometry, point=point)
    mover = point
    if point is None and not alone:
        mover = _mover_point(frames, box)
    elif point is not None and box is not None and not _inside(point, box):
        box = None
    return ClipSelection(
        file,
        start=start / clip.fps,
        stop=None if stop >= len(clip.frames) else stop / clip.fps,
        box=box,
        mover=mover,
    )


def liveliest_part(frames: np.ndarray, count: int) -> tuple[int, int]:
    """The first of ``count`` frames in a row, and the one after the last, in which most of the
    picture changes from one of ``frames`` (T, H, W, 3) uint8 to the next; the first of several
    alike. Over a cut it goes only where there is no way around."""
    if len(frames) <= count:
        return 0, len(frames)
    changes = _changes(frames)  # (T - 1,)
    window = np.ones(max(1, count - 1))
    lively = np.convolve(changes, window, "valid")[: len(frames) - count + 1]
    cuts = np.convolve(_cuts(changes), window, "valid")[: len(frames) - count + 1].round()
    lively = np.where(cuts == cuts.min(), lively, -1.0)
    start = int(np.argmax(lively > lively.max() - 1e-3))
    return start, start + count


def _changes(frames: np.ndarray) -> np.ndarray:
    """(T - 1,) float: the share of the picture that changes from each frame to the next."""
    height, width = frames.shape[1:3]
    scale = min(1.0, LOOKED_AT / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
    return np.array(
        [
            (cv2.absdiff(one, other).max(axis=-1) > CONTRAST).mean()
            for one, other in itertools.pairwise(small)
        ]
    )


def _cuts(changes: np.ndarray) -> np.ndarray:
    """(T - 1,) float: 1 where another scene begins."""
    cuts = np.zeros(len(changes))
    for t, change in enumerate(changes):
        near = np.concatenate([changes[max(0, t - AROUND) : t], changes[t + 1 : t + 1 + AROUND]])
        usual = float(np.median(near)) if len(near) else change
        cuts[t] = change > CUT and change > SUDDEN * usual
    return cuts


def mover_crop(
    frames: np.ndarray, geometry: ModelGeometry, *, point: tuple[float, float] | None = None
) -> tuple[tuple[float, float, float, float] | None, bool]:
    """The box (x0, y0, x1, y1), in shares of width and height, in the shape of the model's frame,
    around the way of what moves in ``frames`` (T, H, W, 3) uint8: of what is nearest to ``point``,
    else of what takes most room. None for the middle of the picture, which is taken where nothing
    is chosen, and under a moving camera. And whether nothing else moves inside."""
    height, width = frames.shape[1:3]
    moved = moving_areas(frames)  # (H, W)
    if not moved.any() or moved.mean() > EVERYWHERE:
        return None, True
    _, pieces, figures, _ = cv2.connectedComponentsWithStats(moved.astype(np.uint8))
    mover = 1 + int(figures[1:, cv2.CC_STAT_AREA].argmax())
    if point is not None:
        mover = _nearest_piece(pieces, point[0] * width, point[1] * height)
    crop = _crop_around(figures[mover], (height, width), geometry.width / geometry.height)
    middle = _crop_around((0, 0, width, height), (height, width), geometry.width / geometry.height)
    inside = _cut_out(pieces, middle if _overlap(crop, middle) > WHOLE else crop)
    others = figures[1:, cv2.CC_STAT_AREA] > 0.1 * figures[mover, cv2.CC_STAT_AREA]
    others[mover - 1] = False
    alone = not np.isin(inside, 1 + np.flatnonzero(others)).any()
    if _overlap(crop, middle) > WHOLE:
        return None, alone
    x0, y0, x1, y1 = crop
    box = (x0 / width, y0 / height, x1 / width, y1 / height)
    return tuple(round(min(1.0, max(0.0, side)), DIGITS) for side in box), alone


def _nearest_piece(pieces: np.ndarray, x: float, y: float) -> int:
    rows, columns = np.nonzero(pieces)
    nearest = int(np.hypot(columns + 0.5 - x, rows + 0.5 - y).argmin())
    return int(pieces[rows[nearest], columns[nearest]])


def _crop_around(figure: tuple[int, ...], size: tuple[int, int], shape: float) -> Rectangle:
    """The rectangle of this ``shape``, width over height, around a thing at (left, top, width,
    height, …) with room at its sides, within a picture of ``size`` (height, width)."""
    left, top, wide, high = (float(value) for value in figure[:4])
    height, width = size
    room = MARGIN * max(wide, high)
    needed = max(wide + 2 * room, (high + 2 * room) * shape)
    largest = min(width, height * shape)
    crop_width = min(largest, max(needed, SMALLEST_CROP * largest))
    crop_height = crop_width / shape
    x0 = min(max(left + wide / 2 - crop_width / 2, 0.0), width - crop_width)
    y0 = min(max(top + high / 2 - crop_height / 2, 0.0), height - crop_height)
    return x0, y0, x0 + crop_width, y0 + crop_height


def _overlap(one: Rectangle, other: Rectangle) -> float:
    """Intersection over union."""
    wide = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    high = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (one, other)]
    return wide * high / (sum(areas) - wide * high)


def _inside(point: tuple[float, float], box: Rectangle) -> bool:
    return box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]


def _cut_out(picture: np.ndarray, crop: Rectangle) -> np.ndarray:
    x0, y0, x1, y1 = (round(side) for side in crop)
    return picture[y0:y1, x0:x1]


def _mover_point(frames: np.ndarray, box: Rectangle | None) -> tuple[float, float] | None:
    """A point well inside what moves in ``box`` of the first of ``frames``, as shares of the
    picture; None where nothing can be told from the rest."""
    height, width = frames.shape[1:3]
    x0, y0, x1, y1 = box or (0.0, 0.0, 1.0, 1.0)
    left, top = round(x0 * width), round(y0 * height)
    region = moving_region(frames[:, top : round(y1 * height), left : round(x1 * width)])
    if region.all():
        return None
    point = inner_points(region, count=1)[0]
    x, y = (left + point.x + 0.5) / width, (top + point.y + 0.5) / height
    return round(x, DIGITS), round(y, DIGITS)


def name_from(file_name: str) -> str:
    """What a motion that is learned from a file of this name may be called: "Dog_runs-2.MOV" is
    "Dog runs 2"."""
    words = "".join(letter if letter.isalnum() else " " for letter in Path(file_name).stem)
    return " ".join(words.split())[:60] or "clip"
