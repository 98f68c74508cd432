"""Which creature a video shows: the one of all kinds and colours whose drawing is nearest, pixel by
pixel."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from motion_app.world.creatures import COLOURS, KINDS, draw_creature, pose_matrix

VIVID = 45  # between the largest and the smallest channel: more than in any background
SMALLEST = 6  # pixels on a side: what is smaller is no creature
SIDE = 160  # of a drawing, in pixels
PALE = 200  # of the grey behind it


def likeliest_creature(frames: np.ndarray) -> tuple[str, str] | None:
    """(colour, kind) of the one creature in ``frames`` (T, H, W, 3) uint8, upright or squashed;
    None where in no frame anything of a creature's colours stands out."""
    misses = [miss for frame in frames if (miss := _misses(frame)) is not None]
    if not misses:
        return None
    total = np.sum(misses, axis=0)  # (colours, kinds)
    colour, kind = np.unravel_index(total.argmin(), total.shape)
    return list(COLOURS)[colour], list(KINDS)[kind]


def _misses(frame: np.ndarray) -> np.ndarray | None:
    """How far every drawing is from what stands out in ``frame``: (colours, kinds)."""
    found = _standing_out(frame)
    if found is None:
        return None
    x0, y0, x1, y1 = found
    seen = frame[y0:y1, x0:x1].astype(float)
    behind = np.median(_rim(frame, found), axis=0)
    misses = np.empty((len(COLOURS), len(KINDS)))
    for i, colour in enumerate(COLOURS):
        for j, kind in enumerate(KINDS):
            drawing, cover = _drawing(colour, kind)
            size = (x1 - x0, y1 - y0)
            pixels = cv2.resize(drawing, size, interpolation=cv2.INTER_AREA).astype(float)
            share = cv2.resize(cover, size, interpolation=cv2.INTER_AREA)[..., None] / 255
            told = share * pixels + (1 - share) * behind
            misses[i, j] = np.abs(told - seen).mean()
    return misses


@cache
def _drawing(colour: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """A creature's picture (h, w, 3) and cover (h, w), uint8, cut out as ``_standing_out`` finds
    it, so that both are laid on one another."""
    canvas = np.full((SIDE, SIDE, 3), PALE, np.uint8)
    still = {"rotation": 0.0, "scale_x": 1.0, "scale_y": 1.0}
    matrix = pose_matrix(x=SIDE / 2, y=SIDE / 2, radius=SIDE / 4, **still)
    cover = draw_creature(canvas, kind, colour, matrix)
    found = _standing_out(canvas)
    if found is None:
        raise ValueError(f"a {colour} {kind} does not stand out")
    x0, y0, x1, y1 = found
    return canvas[y0:y1, x0:x1], cover[y0:y1, x0:x1]


def _standing_out(frame: np.ndarray) -> tuple[int, int, int, int] | None:
    """The box (x0, y0, x1, y1) of the largest connected vivid part, None where it is tiny."""
    vivid = np.ptp(frame.astype(np.int16), axis=2) > VIVID  # (H, W)
    _, _, boxes, _ = cv2.connectedComponentsWithStats(vivid.astype(np.uint8), connectivity=8)
    parts = boxes[1:]  # without the background
    if not len(parts):
        return None
    x, y, width, height, _ = (int(v) for v in parts[parts[:, cv2.CC_STAT_AREA].argmax()])
    return None if min(width, height) < SMALLEST else (x, y, x + width, y + height)


def _rim(frame: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """The pixels around ``box``, (n, 3), for what lies behind."""
    x0, y0, x1, y1 = box
    around = np.zeros(frame.shape[:2], bool)
    around[max(0, y0 - 2) : y1 + 2, max(0, x0 - 2) : x1 + 2] = True
    around[y0:y1, x0:x1] = False
    return frame[around] if around.any() else frame.reshape(-1, 3)
