"""Decoded frames as a player shows them: without combs, with square pixels, upright, on white, in
sRGB."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np

from motion_app.decoding.timing import TimedFrame
from motion_app.geometry import fit_image
from motion_app.settings import Limits
from motion_app.tone import tone_curve, toned

FRAMES_SHARE = 0.5  # of ``decode_megabytes``; the rest is the decoder's
DEINTERLACER = ("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
OVER = (av.BlockingIOError, av.EOFError)  # what a graph raises that has no frame now, or no more
PALETTE = "pal8"  # a pixel format whose colours may be transparent


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
