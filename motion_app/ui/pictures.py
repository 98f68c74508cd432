"""Pictures of the page: objects drawn onto frames as tints, outlines and numbers, and small looping
previews of motions and of finished videos."""

from __future__ import annotations

import base64
import io
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from motion_app.errors import MediaError
from motion_app.geometry import grid_to_mask
from motion_app.jobs.folder import JobRow
from motion_app.media.files import read_clip, upscale, write_webp
from motion_app.scene import Motion
from motion_app.settings import Limits

logger = logging.getLogger(__name__)
Made = TypeVar("Made")

# Okabe and Ito's palette: the eight colours stay apart for colour-blind eyes. Ordered so that the
# first ones also stand out from the cartoon creatures' own colours.
COLOURS: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (0, 0, 0),
)
TINT = 0.42  # of the colour inside a mask; the picture must stay readable
QUIET_TINT = 0.25  # of objects that are not selected
PREVIEW_SIDE = 288  # px, longer side of the animations sent while a video is made
SHEET_COLUMNS = 4
MIN_DISPLAY_WIDTH = 576  # px; smaller frames are shown enlarged
MOTION_WIDTH, VIDEO_WIDTH = 144, 168  # px of their previews
MOTION_FPS = 8.0
MOTIONS_KEPT, VIDEOS_KEPT = 512, 256  # previews, of some 20 and 30 KB each


def colour_of(slot: int) -> tuple[int, int, int]:
    """RGB of the object in this colour slot."""
    return COLOURS[slot % len(COLOURS)]


def css_colour(slot: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour_of(slot))


def ink_on(slot: int) -> str:
    """Black or white, whichever reads better on the slot's colour (WCAG relative luminance)."""
    linear = [(v / 255) ** 2.2 for v in colour_of(slot)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.18 else "#ffffff"


def display_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) in pixels at which a model frame is shown: a whole multiple that is at least
    MIN_DISPLAY_WIDTH wide."""
    factor = max(1, math.ceil(MIN_DISPLAY_WIDTH / width))
    return width * factor, height * factor


def enlarge_masks(masks: np.ndarray, width: int, height: int) -> np.ndarray:
    """Masks (N, H, W) bool with smooth edges at another size: (N, height, width) bool."""
    enlarged = np.zeros((len(masks), height, width), dtype=bool)
    for k, mask in enumerate(masks):
        soft = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        enlarged[k] = soft > 0.5
    return enlarged  # (N, height, width)


def draw_objects(
    image: np.ndarray,
    masks: np.ndarray,
    slots: Sequence[int],
    *,
    selected: int | None = None,
    numbered: bool = True,
    numbers: Sequence[int] | None = None,
) -> np.ndarray:
    """``image`` (H, W, 3) uint8 with masks (N, H, W) bool tinted and outlined in their slots'
    colours, the ``selected`` one more strongly, and each object's number beside it: those of
    ``numbers``, or from 1."""
    canvas = image.astype(np.float32)
    for k, (mask, slot) in enumerate(zip(masks, slots, strict=True)):
        tint = TINT if selected in (None, k) else QUIET_TINT
        canvas[mask] = canvas[mask] * (1 - tint) + np.array(colour_of(slot)) * tint
    drawn = canvas.astype(np.uint8)
    line = max(1, round(image.shape[1] / 280))
    for k, (mask, slot) in enumerate(zip(masks, slots, strict=True)):
        outline, _ = cv2.findContours(
            mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        extra = 1 if selected == k else 0
        cv2.drawContours(drawn, outline, -1, (255, 255, 255), 2 * (line + extra) + 1, cv2.LINE_AA)
        cv2.drawContours(drawn, outline, -1, colour_of(slot), line + extra, cv2.LINE_AA)
    if not numbered:
        return drawn
    return _numbered(drawn, masks, slots, numbers or range(1, len(masks) + 1))


def _numbered(
    image: np.ndarray, masks: np.ndarray, slots: Sequence[int], numbers: Sequence[int]
) -> np.ndarray:
    """Numbers on discs at the upper left of each mask."""
    height, width = image.shape[:2]
    radius = max(6, round(width / 42))
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=radius * 1.35)
    for mask, slot, number in zip(masks, slots, numbers, strict=True):
        if not mask.any():
            continue
        rows, columns = np.nonzero(mask)
        x = float(np.clip(columns.min(), radius + 1, width - radius - 2))
        y = float(np.clip(rows.min(), radius + 1, height - radius - 2))
        disc = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(disc, fill=colour_of(slot), outline="white", width=max(1, radius // 5))
        pen.text((x, y), str(number), fill=ink_on(slot), font=font, anchor="mm")
    return np.asarray(picture)


def mask_sheet(
    frames: np.ndarray, masks: np.ndarray, slots: Sequence[int], *, cell_width: int = 288
) -> np.ndarray:
    """The masks the model used, as a sheet of pictures in reading order.

    ``frames`` (T, H, W, 3) uint8, ``masks`` (N, F, h, w) bool on the token grid. Token frame f is
    drawn on the video frame at the same share of the clip.
    """
    height, width = frames.shape[1:3]
    count = masks.shape[1]
    moments = [round(t) for t in np.linspace(0, len(frames) - 1, count)]
    cell_height = round(height * cell_width / width)
    large = upscale(frames[moments], cell_width, cell_height)  # (F, cell_height, cell_width, 3)
    full = grid_to_mask(masks, height, width)  # (N, F, H, W)
    cells = [
        draw_objects(large[f], enlarge_masks(full[:, f], cell_width, cell_height), slots)
        for f in range(count)
    ]
    columns = min(SHEET_COLUMNS, count)
    rows = math.ceil(count / columns)
    gap = 6
    sheet = np.full(
        (rows * (cell_height + gap) - gap, columns * (cell_width + gap) - gap, 3), 255, np.uint8
    )
    for f, cell in enumerate(cells):
        top, left = f // columns * (cell_height + gap), f % columns * (cell_width + gap)
        sheet[top : top + cell_height, left : left + cell_width] = cell
    return sheet


def preview_frames(frames: np.ndarray, masks: np.ndarray, slots: Sequence[int]) -> np.ndarray:
    """A latent preview with the current masks outlined: (F, H', W', 3) uint8, PREVIEW_SIDE px on
    the longer side. ``frames`` (F', H, W, 3) uint8, ``masks`` (N, F, h, w) bool."""
    height, width = frames.shape[1:3]
    scale = PREVIEW_SIDE / max(height, width)
    size = (round(width * scale), round(height * scale))
    large = upscale(frames, *size)
    full = grid_to_mask(masks, height, width)  # (N, F, H, W)
    moments = np.linspace(0, masks.shape[1] - 1, len(frames)).round().astype(int)
    return np.stack(
        [
            draw_objects(large[t], enlarge_masks(full[:, f], *size), slots, numbered=False)
            for t, f in enumerate(moments)
        ]
    )


def picture_uri(image: np.ndarray) -> str:
    """(H, W, 3) uint8 as a JPEG inside a ``data:`` address: for the eye alone, the pixels that
    count stay on the server."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def animation_uri(frames: np.ndarray, fps: float) -> str:
    """(T, H, W, 3) uint8 as a looping WebP inside a ``data:`` address."""
    file = io.BytesIO()
    write_webp(file, frames, fps, quality=80, method=0)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Thumbnail:
    """A video in small as ``data:`` addresses: one ``still`` frame, and all of it ``moving``."""

    still: str
    moving: str


class Previews:
    """Small looping pictures of motions and of finished videos, each made once: the same for every
    browser, tab and language."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._motions: _Kept[str] = _Kept(MOTIONS_KEPT)
        self._videos: _Kept[Thumbnail | None] = _Kept(VIDEOS_KEPT)

    def motion(self, motion: Motion, *, still: bool = False) -> str:
        """The motion as a ``data:`` address: an animation, or one frame of it for those who want
        nothing to move; "" where it has no preview."""
        if motion.preview is None:
            return ""
        return self._motions((motion.digest, still), lambda: self._small_motion(motion, still))

    def _small_motion(self, motion: Motion, still: bool) -> str:
        try:
            clip = read_clip(motion.preview, fps=MOTION_FPS, limits=self._limits)
        except MediaError as error:
            logger.warning("no preview of %s: %s", motion.name, error)
            return ""
        height, width = clip.frames.shape[1:3]
        size = (MOTION_WIDTH, max(1, round(height * MOTION_WIDTH / width)))
        frames = upscale(clip.frames, *size)
        return picture_uri(frames[len(frames) // 2]) if still else animation_uri(frames, clip.fps)

    def video(self, row: JobRow, folder: Path) -> Thumbnail | None:
        """The thumbnail of a finished job whose files lie in ``folder``; None where there is
        none."""
        if row.state != "done":
            return None
        return self._videos(row.id, lambda: _thumbnail(folder / row.outcome["frames"]))


class _Kept(Generic[Made]):
    """What was made for a key; of more than ``most``, those that were asked for last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: OrderedDict[Hashable, Made] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: Hashable, make: Callable[[], Made]) -> Made:
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        made = make()
        with self._lock:
            self._made[key] = made
            while len(self._made) > self._most:
                self._made.popitem(last=False)
        return made


def _thumbnail(frames_file: Path) -> Thumbnail | None:
    """Of the lossless frames; None where they cannot be read."""
    try:
        with np.load(frames_file) as saved:
            frames, fps = saved["frames"], float(saved["fps"])
    except (OSError, ValueError, KeyError) as error:
        logger.warning("no thumbnail, the frames cannot be read: %s", error)
        return None
    height, width = frames.shape[1:3]
    size = (VIDEO_WIDTH, round(height * VIDEO_WIDTH / width))
    way = cv2.INTER_AREA if width > VIDEO_WIDTH else cv2.INTER_CUBIC
    small = np.stack([cv2.resize(frame, size, interpolation=way) for frame in frames])
    return Thumbnail(still=picture_uri(small[0]), moving=animation_uri(small, fps))
