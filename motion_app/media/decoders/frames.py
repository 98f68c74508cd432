"""Decoded frames as a player shows them: without combs, with square pixels, upright, on white, in
sRGB.

When which frame of a clip is shown.

Clips with a high dynamic range, as this app sees them: brought to sRGB.

Both curves of Rec. ITU-R BT.2100 are undone per channel, a reference white of 203 cd/m² (BT.2408)
becomes the white of a screen, BT.2020's primaries become BT.709's, and what is brighter than three
quarters of white is bent towards it instead of cut off. A sane picture, not a master's grading.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import av
import cv2
import numpy as np

from motion_app.geometry import fit_image
from motion_app.settings import Limits

FRAMES_SHARE = 0.5  # of ``decode_megabytes``; the rest is the decoder's
DEINTERLACER = ("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
OVER = (av.BlockingIOError, av.EOFError)  # what a graph raises that has no frame now, or no more
PALETTE = "pal8"  # a pixel format whose colours may be transparent
UNEVEN = 0.25  # of the usual time between two frames: what differs more is no constant rate
MOSTLY = 0.8  # of the frames, whose usual time then is the rate of an uneven clip
FASTEST = 60.0  # frames per second that an uneven clip is given at most
USUAL_RATE = 25.0  # where a file tells none
PQ, HLG = 16, 18  # AVCOL_TRC_SMPTE2084 and AVCOL_TRC_ARIB_STD_B67 of FFmpeg
REFERENCE_WHITE, HLG_PEAK, HLG_GAMMA = 203.0, 1000.0, 1.2  # cd/m², cd/m², system gamma
KNEE = 0.75  # of white
BT2020_TO_BT709 = np.array(
    [
        [1.6605, -0.5876, -0.0728],
        [-0.1246, 1.1329, -0.0083],
        [-0.0182, -0.1006, 1.1187],
    ],
    np.float32,
)  # Rec. ITU-R BT.2087


def deinterlaced(timed: Iterable[TimedFrame]) -> Iterator[TimedFrame]:
    """The same frames at the same times, those marked as two fields made whole. The filter looks at
    the frames before and after, so the first such frame sends all later ones through it."""
    graph, waiting, kind = None, [], None
    for now in timed:
        now_kind = (now.frame.width, now.frame.height, now.frame.format.name)
        if graph is not None and now_kind != kind:  # the filter takes one kind
            graph.push(None)
            yield from _pulled(graph, waiting)
            graph = None
        if graph is None and now.frame.interlaced_frame:
            graph, waiting, kind = _deinterlacer(now.frame), [], now_kind
        if graph is None:
            yield now
            continue
        waiting.append(now)
        graph.push(now.frame)
        yield from _pulled(graph, waiting)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph, waiting)


def _deinterlacer(frame: Any) -> Any:
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or Fraction(1, 1000),
    )
    graph.link_nodes(source, graph.add(*DEINTERLACER), graph.add("buffersink")).configure()
    return graph


def _pulled(graph: Any, waiting: list[TimedFrame]) -> Iterator[TimedFrame]:
    """What the filter gives now: a frame for each of ``waiting``, in order."""
    while waiting:
        try:
            frame = graph.vpull()
        except OVER:
            return
        now = waiting.pop(0)
        yield TimedFrame(now.start, now.stop, frame)


def shown_size(
    frame: Any, aspect: Fraction, short_side: int, frames: int, limits: Limits
) -> tuple[int, int]:
    """(width, height) of a frame with square pixels, its shorter side at most ``short_side``, and
    small enough for ``frames`` of them to fit into their share of the memory. Not yet turned."""
    width = frame.width * max(aspect, Fraction(1))
    height = frame.height / min(aspect, Fraction(1))
    budget = FRAMES_SHARE * limits.decode_megabytes * 2**20
    fitting = math.sqrt(budget / (3 * frames * float(width * height)))
    scale = min(1.0, short_side / float(min(width, height)), fitting)
    return max(1, round(float(width) * scale)), max(1, round(float(height) * scale))


def rgb(frame: Any, size: tuple[int, int], stored: tuple[int, int]) -> np.ndarray:
    """One decoded frame as (H, W, 3) uint8 sRGB at ``size`` (width, height), transparency laid on
    white. ``stored``: the first frame's size; one of another shape gets black bars."""
    pixels = _on_white(frame)
    if (frame.width, frame.height) != stored:
        return fit_image(pixels, size[1], size[0], "pad").image
    if size != (frame.width, frame.height):
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    curve = tone_curve(frame.color_trc)
    return pixels if curve is None else toned(pixels, curve)


def _on_white(frame: Any) -> np.ndarray:
    kind = frame.format
    if kind.name != PALETTE and not any(part.is_alpha for part in kind.components):
        return frame.to_ndarray(format="rgb24")
    pixels = frame.to_ndarray(format="rgba")
    colours, alpha = pixels[..., :3], pixels[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(colours)
    share = alpha.astype(np.float32) / 255
    return np.rint(255 + (colours.astype(np.float32) - 255) * share).astype(np.uint8)


def display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """(a, b, c, d) of the matrix that carries a stored pixel to where it is shown:
    x' = a x + c y, y' = b x + d y, with y downward; one where the file has none."""
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(side_data)[:36])
    return a, b, c, d


def upright(pixels: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Pixels (H, W, C) turned and mirrored as the display matrix says, to the nearest quarter."""
    a, b, c, d = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        across, down = a, d
    else:
        pixels, across, down = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])


@dataclass(frozen=True, eq=False)
class TimedFrame:
    """A ``frame`` and the seconds, from the clip's beginning, from ``start`` to ``stop``, between
    which it is shown. The next one's start counts before its own stop."""

    start: float
    stop: float
    frame: Any


def pace(gaps: Sequence[float], last: float, told: float) -> tuple[float, bool]:
    """Frames per second of a clip, and whether all of its frames are shown about equally long.

    ``gaps``: seconds from each frame to the next, all above 0; ``last``: for which the last is
    shown, 0 where that is not known. ``told``: the rate in the file's header, which an even clip
    has. An uneven one has that of most frames, or of the shortest, so that none is lost.
    """
    if not gaps:
        return told, True
    usual = sorted(gaps)[len(gaps) // 2]
    regular = [gap for gap in gaps if abs(gap - usual) <= UNEVEN * usual]
    if len(regular) == len(gaps) and last <= (1 + UNEVEN) * usual:
        return told, True
    if len(regular) >= MOSTLY * len(gaps):
        return min(len(regular) / sum(regular), FASTEST), False
    return min(1 / min(gaps), FASTEST), False


def frames_at(
    timed: Iterable[TimedFrame], fps: float, frame_seconds: float
) -> Iterator[tuple[Any, int]]:
    """Each frame with the number of times i / ``fps`` at which it is shown, in order.

    ``frame_seconds``: how long a frame of the clip usually is shown; a time is looked up half of
    that, or half of 1 / ``fps`` if it is less, later: of frames at a constant rate the nearest is
    taken, and whatever is held stays for its own time. However short the clip, one frame comes.
    """
    later = min(frame_seconds, 1 / fps) / 2
    held: TimedFrame | None = None
    shown = 0
    for now in timed:
        if held is not None:
            due = _ticks_before(now.start - later, fps)
            yield held.frame, max(0, due - shown)
            shown = max(shown, due)
        held = now
    if held is not None:
        due = max(1, _ticks_before(held.stop, fps))
        yield held.frame, max(0, due - shown)


def _ticks_before(seconds: float, fps: float) -> int:
    """How many i >= 0 have i / fps < seconds; a rounding error does not make one more."""
    return max(0, math.ceil(seconds * fps - 1e-6))


@cache
def tone_curve(transfer: int) -> np.ndarray | None:
    """Light in units of white for the 256 codes of a clip with that transfer characteristic (its
    number in FFmpeg and H.273), (256,) float32; None for one that needs no change."""
    codes = np.arange(256) / 255
    if transfer == PQ:
        m1, m2 = 2610 / 16384, 2523 / 4096 * 128
        c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        power = codes ** (1 / m2)
        nits = 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    elif transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - c) / a) + b) / 12)
        nits = HLG_PEAK * light**HLG_GAMMA
    else:
        return None
    return (nits / REFERENCE_WHITE).astype(np.float32)


def toned(pixels: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) uint8 of a clip with ``curve`` as (H, W, 3) uint8 sRGB."""
    light = np.maximum(curve[pixels] @ BT2020_TO_BT709.T, 0)
    over = 1 - np.exp(-np.maximum(light - KNEE, 0) / (1 - KNEE))
    light = np.where(light > KNEE, KNEE + (1 - KNEE) * over, light)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(np.clip(encoded, 0, 1) * 255).astype(np.uint8)
