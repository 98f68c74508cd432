"""From frames to the arrays the metrics take, without any weights.

What stands in for a network is named for what it is: optical flow by DIS (OpenCV), point tracks
that follow it, masks carried along it. The networks themselves are in ``backbones``.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cv2
import numpy as np

from motion_app.errors import MotionAppError

FLOW_SIDE = 256  # pixels: smaller frames are enlarged first, or DIS sees too little of them
GRID_POINTS = 64  # tracked in an object, about
RELEASED_SIDE = 55  # points a side of the grid over the frame, in FlexiMMT's release
MOVING_CONTRAST = 20  # of 255, between a frame and the clip's median


@dataclass(frozen=True, eq=False)
class FlowPair:
    """Flow [T - 1, H, W, 2] (x, y) in pixels: ``forward`` from each frame to the next, at the
    earlier one's pixels, ``backward`` from the next to it, at the later one's."""

    forward: np.ndarray
    backward: np.ndarray


def dis_flow(frames: np.ndarray) -> FlowPair:
    """Dense flow of ``frames`` [T, H, W, 3] uint8 by DIS, both ways."""
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    height, width = frames.shape[1:3]
    scale = flow_enlargement(height, width)
    grey = [
        cv2.resize(
            cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), None, fx=scale, fy=scale,
            interpolation=cv2.INTER_CUBIC,
        )
        for frame in frames
    ]  # fmt: skip

    def flow(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        field = method.calc(start, stop, None) / scale
        return cv2.resize(field, (width, height), interpolation=cv2.INTER_AREA)  # (H, W, 2)

    pairs = list(itertools.pairwise(grey))
    return FlowPair(
        np.stack([flow(a, b) for a, b in pairs]), np.stack([flow(b, a) for a, b in pairs])
    )


def flow_enlargement(height: int, width: int) -> int:
    """How many times frames are enlarged before flow is looked for, so that the shorter side has
    FLOW_SIDE pixels."""
    return max(1, -(-FLOW_SIDE // min(height, width)))


def carried_masks(mask: np.ndarray, flow: FlowPair) -> np.ndarray:
    """(T, H, W) bool: the first frame's ``mask`` (H, W) bool carried along the flow."""
    soft = mask.astype(np.float32)
    rows, columns = np.indices(mask.shape, dtype=np.float32)
    masks = [mask.astype(bool)]
    for field in flow.backward:
        x, y = columns + field[..., 0], rows + field[..., 1]
        soft = cv2.remap(soft, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)
        masks.append(soft > 0.5)
    return np.stack(masks)


def grid_points(mask: np.ndarray, *, count: int = GRID_POINTS) -> np.ndarray:
    """Points [n, 2] (y, x) of a square grid inside ``mask`` (H, W) bool, ``count`` or a few more or
    less; the pixel nearest the middle where no grid point meets it."""
    rows, columns = np.nonzero(mask)
    step = max(1, int(np.sqrt(len(rows) / count)))
    top, left = rows.min() + step // 2, columns.min() + step // 2
    chosen = ((rows - top) % step == 0) & ((columns - left) % step == 0)
    if not chosen.any():
        chosen[np.hypot(rows - rows.mean(), columns - columns.mean()).argmin()] = True
    return np.stack([rows[chosen], columns[chosen]], axis=1).astype(float)


def box_points(mask: np.ndarray, *, side: int = RELEASED_SIDE) -> np.ndarray:
    """Points [n, 2] (y, x) of a ``side`` × ``side`` grid over the frame that lie in the bounding
    box of ``mask`` (H, W) bool, background and all: those that FlexiMMT's release tracks. The grid
    leaves a 64th of the width free at every border. MotionAppError where the box meets none."""
    height, width = mask.shape
    margin = width / 64
    y, x = (np.linspace(margin, length - margin, side) for length in (height, width))
    points = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)
    box = np.zeros_like(mask)
    if mask.any():
        rows, columns = np.nonzero(mask)
        # The release's box ends before the mask's last row and column.
        box[rows.min() : rows.max(), columns.min() : columns.max()] = True
    at = points.round().astype(int)
    chosen = points[box[at[:, 0], at[:, 1]]]
    if not len(chosen):
        raise MotionAppError(
            f"no point of the release's {side}×{side} grid lies in the box around the object's "
            f"{mask.sum()} pixels; use a larger object or video"
        )
    return chosen


@dataclass(frozen=True, eq=False)
class PointTracks:
    """``points`` [n, T, 2] in pixels (y, x); ``visible`` [n, T] bool."""

    points: np.ndarray
    visible: np.ndarray


def flow_tracks(flow: FlowPair, points: np.ndarray) -> PointTracks:
    """Tracks of ``points`` [n, 2] (y, x) of the first frame that follow the flow. A point is gone
    for good where the way back does not lead home, or at the border."""
    height, width = flow.forward.shape[1:3]
    at, seen = points.astype(float), np.ones(len(points), bool)
    tracks, visible = [at], [seen]
    for forward, backward in zip(flow.forward, flow.backward, strict=True):
        step = _sample(forward, at)
        after = at + step[:, ::-1]
        back = _sample(backward, after)
        astray = ((step + back) ** 2).sum(axis=1)
        length = (step**2).sum(axis=1) + (back**2).sum(axis=1)
        inside = ((after >= 0) & (after <= [height - 1, width - 1])).all(axis=1)
        seen = seen & inside & (astray < 0.05 * length + 0.5)  # the usual forward-backward test
        at = np.where(seen[:, None], after, at)
        tracks.append(at)
        visible.append(seen)
    return PointTracks(np.stack(tracks, axis=1), np.stack(visible, axis=1))


def _sample(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """``field`` (H, W, 2) at ``points`` [n, 2] (y, x), between pixels linearly: [n, 2]."""
    y, x = points.astype(np.float32).T
    return cv2.remap(field, x[:, None], y[:, None], cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_REPLICATE)[:, 0]  # fmt: skip


def half_warp(frames: np.ndarray) -> np.ndarray:
    """Frames 2, 4, … of ``frames`` [T, H, W, 3] uint8 made from their neighbours alone: both warped
    half-way along the DIS flow between them and averaged, [(T - 1) // 2, H, W, 3] uint8."""
    made = []
    rows, columns = np.indices(frames.shape[1:3], dtype=np.float32)
    for t in range(1, len(frames) - 1, 2):
        around = frames[[t - 1, t + 1]]
        flow = dis_flow(around)
        halves = []
        # A pixel half-way comes from half a step back in the one and half a step on in the other.
        for frame, field in ((around[0], -flow.forward[0] / 2), (around[1], flow.forward[0] / 2)):
            x, y = columns + field[..., 0], rows + field[..., 1]
            halves.append(cv2.remap(frame, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
        made.append(np.mean(halves, axis=0).round().astype(np.uint8))
    return np.stack(made)


def moving_region(frames: np.ndarray) -> np.ndarray:
    """(H, W) bool: what of the first frame of ``frames`` [T, H, W, 3] uint8 is not there in the
    clip's median, in its larger pieces; all False where nothing moves. For a camera that stands
    still and something that leaves its place."""
    away = np.abs(frames[0].astype(float) - np.median(frames, axis=0)).max(axis=-1)
    found = cv2.morphologyEx(
        (away > MOVING_CONTRAST).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)
    )
    _, labels, facts, _ = cv2.connectedComponentsWithStats(found)
    areas = facts[1:, cv2.CC_STAT_AREA]
    if not len(areas):
        return np.zeros(found.shape, bool)
    return np.isin(labels, np.flatnonzero(areas > 0.1 * areas.max()) + 1)


def inner_point(mask: np.ndarray) -> tuple[float, float]:
    """The pixel (y, x) of ``mask`` (H, W) bool farthest from its border: where one would click."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    return float(y), float(x)


def colour_histogram(frame: np.ndarray, mask: np.ndarray, *, bins: int = 6) -> np.ndarray:
    """Share [bins³] of the pixels of ``frame`` (H, W, 3) uint8 inside ``mask`` by colour; the mask
    must not be empty."""
    levels = (frame[mask].astype(int) * bins) // 256
    index = levels @ np.array([bins * bins, bins, 1])
    return np.bincount(index, minlength=bins**3) / len(index)


def colour_track(
    frames: np.ndarray, mask: np.ndarray, *, reach: float = 70.0, window: float = 1.2
) -> np.ndarray:
    """Centroid track [T, 2] in pixels (y, x) of an object with one dominant colour.

    ``frames`` (T, H, W, 3) uint8, ``mask`` (H, W) bool in the first frame. In each frame the pixels
    within ``reach`` (RGB distance) of the object's median colour are averaged, searched around the
    last centroid within ``window`` times the object's larger side. Where fewer than a tenth of
    the first frame's pixels are found, the last centroid stands.
    """
    colour = np.median(frames[0][mask].astype(float), axis=0)
    rows, columns = np.nonzero(mask)
    side = max(np.ptp(rows), np.ptp(columns)) + 1
    centre = np.array([rows.mean(), columns.mean()])
    grid = np.stack(np.indices(mask.shape), axis=-1)  # (H, W, 2)
    track, first_count = [], None
    for frame in frames:
        near = np.linalg.norm(frame.astype(float) - colour, axis=-1) < reach
        near &= np.abs(grid - centre).max(axis=-1) < window * side
        if first_count is None:
            first_count = near.sum()
        if near.sum() > 0.1 * first_count:
            centre = grid[near].mean(axis=0)
        track.append(centre)
    return np.stack(track)


def colour_masks(frames: np.ndarray, mask: np.ndarray, *, reach: float = 70.0) -> np.ndarray:
    """(T, H, W) bool: pixels of the object's median colour near its track, holes not filled."""
    colour = np.median(frames[0][mask].astype(float), axis=0)
    rows, columns = np.nonzero(mask)
    side = max(np.ptp(rows), np.ptp(columns)) + 1
    grid = np.stack(np.indices(mask.shape), axis=-1)
    track = colour_track(frames, mask, reach=reach)
    near = np.linalg.norm(frames.astype(float) - colour, axis=-1) < reach  # (T, H, W)
    close = np.abs(grid[None] - track[:, None, None]).max(axis=-1) < 0.75 * side
    return near & close
