"""Moving pictures that Pillow reads, WebP and PNG, as frames with their times."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

from motion_app.decoding.containers import Film, check_seconds, check_size
from motion_app.decoding.damage import BROKEN
from motion_app.decoding.png_chunks import slimmed
from motion_app.decoding.timing import USUAL_RATE, TimedFrame, pace
from motion_app.errors import MediaError
from motion_app.settings import Limits

SHORTEST, UNSAID = (
    0.011,
    0.1,
)  # seconds: browsers show a frame of less than the first for the second


def find_animation(source: Path, limits: Limits) -> Film:
    """A moving picture's frames and times; see ``containers.find_film``. A still one has one."""
    try:
        with _opened(source) as image:
            check_size(source.name, image.width, image.height, limits)
            times = [_seconds(image) for _ in _positions(image, source.name, limits)]
    except BROKEN as error:
        raise MediaError(f"{source.name} is damaged or no clip: {error}") from error
    return _film(source.name, times, limits)


def animation_frames(source: Path, limits: Limits) -> Iterator[TimedFrame]:
    """Every frame whole, with its transparency."""
    try:
        with _opened(source) as image:
            start = 0.0
            for _ in _positions(image, source.name, limits):
                seconds = _seconds(image)
                frame = av.VideoFrame.from_ndarray(np.asarray(image.convert("RGBA")), "rgba")
                yield TimedFrame(start, start + seconds, frame)
                start += seconds
    except BROKEN as error:
        raise MediaError(f"{source.name} is damaged or no clip: {error}") from error


def _opened(source: Path) -> Image.Image:
    content, _ = slimmed(source.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit decides
        return Image.open(io.BytesIO(content), formats=("PNG", "WEBP"))


def _positions(image: Image.Image, name: str, limits: Limits) -> Iterator[int]:
    """Seeks to one frame after the other; a still PNG that stands for the moving one is none."""
    count = getattr(image, "n_frames", 1)
    if count > limits.clip_frames:
        raise MediaError(
            f"{name} has {count} frames; at most {limits.clip_frames} are allowed; trim it"
        )
    for position in range(count):
        image.seek(position)
        if count > 1 and position == 0 and getattr(image, "default_image", False):
            continue
        yield position


def _seconds(image: Image.Image) -> float:
    image.load()  # a WebP knows how long a frame is shown once it is decoded
    seconds = float(image.info.get("duration", 0)) / 1000
    return seconds if seconds >= SHORTEST else UNSAID


def _film(name: str, times: list[float], limits: Limits) -> Film:
    if not times:
        raise MediaError(f"{name} has no frames")
    seconds = sum(times)
    check_seconds(name, seconds, limits)
    told = len(times) / seconds if len(times) > 1 else USUAL_RATE
    rate, even = pace(times[:-1], times[-1], told)
    return Film(0, len(times), seconds, rate, even)
