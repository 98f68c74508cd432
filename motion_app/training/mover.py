"""What moves in a reference clip: whether anything does, and one of several things followed.

A motion cannot be learned from a picture that is held. One of several moving things is followed
from one point on it: the mask of one frame is carried to the next by dense optical flow (OpenCV's
DIS), which keeps its identity; the segmenter then draws its edge anew from points inside it, so
that errors of the flow do not add up. A new mask that disagrees with the carried one is some other
thing, and is not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from motion_app.errors import MediaError, RequestError
from motion_app.scene import Click

Segment = Callable[[np.ndarray, Sequence[Click]], np.ndarray]
AGREEMENT = 0.5  # IoU with the carried mask below which the segmenter has found something else
GROWTH = 1.6  # most that a mask's area may differ from the carried one's
LOOKED_AT = 180  # px of the shorter side: noise of cameras and codecs is averaged away
CONTRAST = 8  # of 255, more than what codecs do to a picture that is held
STILL = 16.0  # of 255; a smaller change is the codec's noise
JOINED = 0.06  # of the width: changes so near to each other belong to one thing
LEAST = 0.001  # of the picture, a patch far smaller than a token


def follow_mover(
    frames: np.ndarray, point: tuple[float, float], segment: Segment, *, name: str = "the clip"
) -> np.ndarray:
    """Masks (T, H, W) bool of the thing at ``point``, (x, y) in pixels of the first frame.

    ``frames`` (T, H, W, 3) uint8; ``segment`` gives the mask (H, W) bool of some clicks on a
    picture. MediaError where nothing is at the point, or where it is lost on the way.
    """
    mask = segment(frames[0], [Click(*point)])
    if not mask.any():
        raise MediaError(
            f"nothing was found in {name} at ({point[0]:.0f}, {point[1]:.0f}); point at the middle "
            "of what moves"
        )
    masks = [mask]
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    channel = clearest_channel(frames[0], mask)
    greys = [np.ascontiguousarray(frame[..., channel]) for frame in frames]
    for t in range(1, len(frames)):
        carried = carry_mask(masks[-1], flow.calc(greys[t], greys[t - 1], None))
        if not carried.any():
            raise MediaError(
                f"the moving thing in {name} is lost after {t} of {len(frames)} frames; trim the "
                "clip to where it is in sight"
            )
        masks.append(_redrawn(frames[t], carried, segment))
    return np.stack(masks)


def follow_by_movement(frames: np.ndarray, segment: Segment | None = None) -> np.ndarray | None:
    """Masks (T, H, W) bool of the one thing that moves in ``frames`` (T, H, W, 3) uint8; None where
    it cannot be told from the rest, as under a moving camera, or is lost. ``segment`` draws its
    edge where it finds the thing that the movement is of; else it is carried by flow alone."""
    region = moving_region(frames)
    if region.all():
        return None
    nothing = np.zeros_like(region)
    middle = inner_points(region, count=1)[0]
    try:
        if segment is not None and (at := _moving_thing(frames, region, segment)) is not None:
            return follow_mover(frames, (at.x, at.y), segment)
        return follow_mover(
            frames,
            (middle.x, middle.y),
            lambda frame, clicks: region if np.shares_memory(frame, frames[0]) else nothing,
        )
    except MediaError:
        return None


def _moving_thing(frames: np.ndarray, region: np.ndarray, segment: Segment) -> Click | None:
    """A point of the first of ``frames`` at which ``segment`` finds the thing that the ``region``
    of movement (H, W) belongs to: most of that is in it, and most of it is where anything moves. Of
    two such things the larger: a wing moves with its bird. None where it finds none."""
    areas = moving_areas(frames)
    best, most = None, 0
    for click in (*inner_points(region, count=1), *inner_points(areas, count=1)):
        found = segment(frames[0], [click])
        holds = (found & region).sum() > AGREEMENT * region.sum()
        if holds and (found & areas).sum() > AGREEMENT * found.sum() and found.sum() > most:
            best, most = click, int(found.sum())
    return best


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


def moving_share(frames: np.ndarray, masks: np.ndarray) -> float:
    """The share, 0 to 1, of ``masks`` (T, H, W) bool that lies where anything moves in ``frames``
    (T, H, W, 3) uint8: within the outline of what changes over time. 1 for empty masks."""
    if not masks.any():
        return 1.0
    return float(moving_areas(frames)[np.nonzero(masks)[1:]].mean())


def moving_areas(frames: np.ndarray) -> np.ndarray:
    """(H, W) bool: where anything moves in ``frames`` (T, H, W, 3) uint8: within the outlines of
    what changes over time. All of the way of a thing is one area."""
    change = np.ptp(frames.astype(np.int16), axis=0).max(axis=-1)  # (H, W)
    moved = (change > STILL).astype(np.uint8)
    reach = max(3, round(frames.shape[2] * JOINED))
    moved = cv2.morphologyEx(moved, cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))
    outlines, _ = cv2.findContours(moved, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    # a plain body in place changes at its edges alone
    cv2.fillPoly(moved, [cv2.convexHull(outline) for outline in outlines], 1)
    return moved.astype(bool)


def clearest_channel(image: np.ndarray, mask: np.ndarray) -> int:
    """The colour of ``image`` (H, W, 3) uint8 in which ``mask`` (H, W) bool differs most from what
    is around it: a thing as bright as its background has no edge for a flow of brightness."""
    near = cv2.dilate(mask.astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool) & ~mask
    if not near.any():
        return 1
    return int(np.abs(image[mask].mean(axis=0) - image[near].mean(axis=0)).argmax())


def carry_mask(mask: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """``mask`` (H, W) bool of the frame before, moved to this frame by ``flow`` (H, W, 2) float32:
    pixel (x, y) of this frame was at (x, y) + flow."""
    height, width = mask.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    soft = mask.astype(np.float32)
    return cv2.remap(soft, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR) > 0.5


def _redrawn(frame: np.ndarray, carried: np.ndarray, segment: Segment) -> np.ndarray:
    """The segmenter's mask from points inside ``carried`` where it is the same thing."""
    found = segment(frame, inner_points(carried))
    overlap = (found & carried).sum() / max(1, (found | carried).sum())
    ratio = found.sum() / carried.sum()
    same = overlap >= AGREEMENT and 1 / GROWTH <= ratio <= GROWTH
    return found if same else carried


def inner_points(mask: np.ndarray, *, count: int = 3) -> list[Click]:
    """Up to ``count`` points well inside ``mask`` (H, W) bool, far from its edge and each other."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    deepest = depth.max()
    rows, columns = np.indices(mask.shape)
    clicks: list[Click] = []
    while len(clicks) < count and depth.max() > deepest / 2:
        y, x = np.unravel_index(int(depth.argmax()), mask.shape)
        clicks.append(Click(float(x), float(y)))
        depth[np.hypot(rows - y, columns - x) < 2 * deepest] = 0
    return clicks


def moves(frames: np.ndarray) -> bool:
    """Whether anything changes in ``frames`` (T, H, W, 3) uint8: whether more than ``LEAST`` of the
    picture takes values that lie more than ``CONTRAST`` apart."""
    height, width = frames.shape[1:3]
    scale = min(1.0, LOOKED_AT / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    low = high = None
    for frame in frames:
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        low = small if low is None else np.minimum(low, small)
        high = small if high is None else np.maximum(high, small)
    if low is None:
        return False
    return float(((high - low).max(axis=-1) > CONTRAST).mean()) > LEAST


def check_movement(frames: np.ndarray, name: str) -> None:
    """RequestError where nothing moves in ``frames`` (T, H, W, 3) uint8 of the clip ``name``."""
    if not moves(frames):
        raise RequestError(
            f"nothing moves in {name}, in the part of it that was chosen; choose another part or "
            "clip, or say that the motion is to stand still (--still, or the box on the page)"
        )
