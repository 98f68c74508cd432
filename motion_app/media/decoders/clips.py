"""Clips of strangers, frame by frame as they are shown, and the tags of their files.

Moving pictures that Pillow reads, WebP and PNG, as frames with their times.
"""

from __future__ import annotations

import errno
import io
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from motion_app.errors import MediaError
from motion_app.media.decoders.containers import (
    PILLOW,
    Film,
    check_seconds,
    check_size,
    demuxer_of,
    find_film,
    opened,
)
from motion_app.media.decoders.frames import (
    USUAL_RATE,
    TimedFrame,
    deinterlaced,
    display_matrix,
    frames_at,
    pace,
    rgb,
    shown_size,
    upright,
)
from motion_app.media.decoders.pictures import BROKEN, slimmed
from motion_app.settings import Limits

NO_MEMORY = (errno.ENOMEM, errno.EAGAIN)  # the second where a thread finds no room for its stack
THREADS = 4  # more hold more frames at once, and memory is what is short
MORE_FRAMES = 16  # than packets were counted, before a clip is refused
# FFmpeg's own decoders leave the transparency of these out.
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
SHORTEST, UNSAID = (
    0.011,
    0.1,
)  # seconds: browsers show a frame of less than the first for the second


def decode_clip(
    source: Path, *, fps: float | None, short_side: int, limits: Mapping[str, Any]
) -> Iterator[dict[str, Any] | np.ndarray]:
    """A clip as (T, H, W, 3) uint8, frame by frame, and its ``fps``; see
    ``media.files.read_clip``."""
    bounds = Limits(**limits)
    demuxer = demuxer_of(source, bounds)
    try:
        if demuxer == PILLOW:
            film = find_animation(source, bounds)
            timed = animation_frames(source, bounds)
            yield from _sampled(source.name, film, timed, Fraction(1), fps, short_side, bounds)
            return
        with opened(source, demuxer) as container:
            film = find_film(source.name, container, bounds)
        with opened(source, demuxer) as container:
            stream = container.streams[film.index]
            timed = deinterlaced(_decoded(source.name, container, stream, film, bounds))
            aspect = stream.sample_aspect_ratio or Fraction(1)
            yield from _sampled(source.name, film, timed, aspect, fps, short_side, bounds)
    except (av.FFmpegError, ValueError, OverflowError, ZeroDivisionError) as error:
        if getattr(error, "errno", None) in NO_MEMORY:
            raise MediaError(
                f"{source.name} needs more than {bounds.decode_megabytes} MB of memory to decode; "
                "use a smaller one"
            ) from error
        reason = getattr(error, "strerror", None) or error  # the whole text names the file's path
        raise MediaError(f"{source.name} is damaged or uses an unknown codec: {reason}") from error


def _sampled(
    name: str,
    film: Film,
    timed: Iterable[TimedFrame],
    aspect: Fraction,
    fps: float | None,
    short_side: int,
    limits: Limits,
) -> Iterator[dict[str, Any] | np.ndarray]:
    """The clip at ``fps`` frames per second; None for its own, at which an even clip gives each
    frame once."""
    rate = film.rate if fps is None else float(fps)
    if fps is None and film.even:
        counted, most = ((now.frame, 1) for now in timed), film.packets
    else:
        counted, most = frames_at(timed, rate, 1 / film.rate), math.ceil(film.seconds * rate)
    yield {"fps": rate}
    yield from _pixels(name, counted, most + MORE_FRAMES, aspect, short_side, limits)


def _pixels(
    name: str,
    counted: Iterable[tuple[Any, int]],
    most: int,
    aspect: Fraction,
    short_side: int,
    limits: Limits,
) -> Iterator[dict[str, Any] | np.ndarray]:
    """The shape that at most ``most`` frames have, then each frame as often as it is counted."""
    shown = ((frame, count) for frame, count in counted if count)
    first = next(iter(shown), None)
    if first is None:
        raise MediaError(f"{name} has no frames")
    stored = (first[0].width, first[0].height)
    size = shown_size(first[0], aspect, short_side, most, limits)
    matrix = display_matrix(first[0])
    height, width = upright(np.empty((size[1], size[0], 0), np.uint8), matrix).shape[:2]
    yield {"shape": (most, height, width, 3), "dtype": "u1"}
    sent = 0
    for frame, count in chain((first,), shown):
        sent += count
        if sent > most:
            raise MediaError(f"{name} holds more frames than its index says; save it anew")
        pixels = upright(rgb(frame, size, stored), matrix)
        for _ in range(count):
            yield pixels


def _decoded(
    name: str, container: Any, stream: Any, film: Film, limits: Limits
) -> Iterator[TimedFrame]:
    """Decoded frames with their times from the first; headers may lie, so the limits are kept here
    too."""
    decoder, first, before = _decoder(stream), None, 0.0
    count = 0
    for packet in container.demux(stream):
        for frame in decoder.decode(packet):
            check_size(name, frame.width, frame.height, limits)
            time = count / film.rate if frame.time is None else frame.time
            first = time if first is None else first
            start = before = max(before, time - first)
            if count >= limits.clip_frames or start > limits.clip_seconds + 0.5:
                raise MediaError(
                    f"{name} goes on after {count} frames, {start:.1f} s; at most "
                    f"{limits.clip_frames} frames and {limits.clip_seconds:g} s are allowed; "
                    "trim it"
                )
            yield TimedFrame(start, start + _seconds(frame, film), frame)
            count += 1


def _seconds(frame: Any, film: Film) -> float:
    """How long the file says that a frame is shown, which the limit on a clip's length bounds."""
    seconds = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
    return min(seconds, film.seconds) if seconds > 0 else 1 / film.rate


def _decoder(stream: Any) -> Any:
    """The stream's own decoder, or one that knows its transparency."""
    own = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and own.name in WITH_ALPHA:
        decoder = av.CodecContext.create(WITH_ALPHA[own.name], "r")
        decoder.extradata = own.extradata
    else:
        decoder = own
        decoder.thread_type = "AUTO"
    decoder.thread_count = THREADS
    return decoder


def decode_tags(
    source: Path, *, limits: Mapping[str, Any]
) -> Iterator[dict[str, Any] | np.ndarray]:
    """The container's tags as the fact ``tags``; no frame is decoded."""
    demuxer = demuxer_of(source, Limits(**limits))
    if demuxer == PILLOW:
        yield {"tags": {}}
        return
    try:
        with opened(source, demuxer, metadata_errors="replace") as container:
            yield {"tags": {str(key): str(value) for key, value in container.metadata.items()}}
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"{source.name} is damaged: {error}") from error


def find_animation(source: Path, limits: Limits) -> Film:
    """A moving picture's frames and times; see ``containers.find_film``. A still one has one."""
    try:
        with _opened(source) as image:
            check_size(source.name, image.width, image.height, limits)
            times = [_animation_seconds(image) for _ in _positions(image, source.name, limits)]
    except BROKEN as error:
        raise MediaError(f"{source.name} is damaged or no clip: {error}") from error
    return _film(source.name, times, limits)


def animation_frames(source: Path, limits: Limits) -> Iterator[TimedFrame]:
    """Every frame whole, with its transparency."""
    try:
        with _opened(source) as image:
            start = 0.0
            for _ in _positions(image, source.name, limits):
                seconds = _animation_seconds(image)
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


def _animation_seconds(image: Image.Image) -> float:
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
