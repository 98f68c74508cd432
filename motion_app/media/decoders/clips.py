"""Clips of strangers: what is inside a file, before anything is decoded (the demuxer, the film
among the streams, how many frames it has and when they are shown); then the frames as they are
shown, by FFmpeg or, of moving WebPs and PNGs, by Pillow; and the tags of the file."""

from __future__ import annotations

import errno
import io
import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

from motion_app.errors import MediaError
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
from motion_app.media.decoders.pictures import BROKEN, PNG_START, slimmed
from motion_app.media.file_types import CLIP_KINDS
from motion_app.settings import Limits

NO_MEMORY = (errno.ENOMEM, errno.EAGAIN)  # the second where a thread finds no room for its stack
THREADS = 4  # more hold more frames at once, and memory is what is short
MORE_FRAMES = 16  # than packets were counted, before a clip is refused
# FFmpeg's own decoders leave the transparency of these out.
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
SHORTEST, UNSAID = 0.011, 0.1  # s: browsers show a frame of less than the first for the second
# Demuxers by a file's first bytes. Left to guess, FFmpeg would also open playlists, whose entries
# name other files and addresses.
DEMUXERS = (
    *((4, atom, "mov") for atom in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),
    (0, b"\x1aE\xdf\xa3", "matroska"),
    (0, b"GIF8", "gif"),
    (0, b"\0\0\1\xba", "mpeg"),
)
RIFF_KINDS = {b"AVI ": "avi", b"WEBP": "pillow"}
PILLOW = "pillow"  # moving WebPs and PNGs, which FFmpeg reads in part or not at all
TS_PACKETS = ((0, 188), (4, 192))  # where the first begins, and how long one is
SYNC = 0x47  # the first byte of each
START_BYTES = 400  # two packets of a transport stream
OPTIONS = {"mov": {"enable_drefs": "0", "use_absolute_path": "0"}}  # no other files
NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


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
        with _opened_image(source) as image:
            check_size(source.name, image.width, image.height, limits)
            times = [_animation_seconds(image) for _ in _positions(image, source.name, limits)]
    except BROKEN as error:
        raise MediaError(f"{source.name} is damaged or no clip: {error}") from error
    return _film_of_times(source.name, times, limits)


def animation_frames(source: Path, limits: Limits) -> Iterator[TimedFrame]:
    """Every frame whole, with its transparency."""
    try:
        with _opened_image(source) as image:
            start = 0.0
            for _ in _positions(image, source.name, limits):
                seconds = _animation_seconds(image)
                frame = av.VideoFrame.from_ndarray(np.asarray(image.convert("RGBA")), "rgba")
                yield TimedFrame(start, start + seconds, frame)
                start += seconds
    except BROKEN as error:
        raise MediaError(f"{source.name} is damaged or no clip: {error}") from error


def _opened_image(source: Path) -> Image.Image:
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


def _film_of_times(name: str, times: list[float], limits: Limits) -> Film:
    if not times:
        raise MediaError(f"{name} has no frames")
    seconds = sum(times)
    check_seconds(name, seconds, limits)
    told = len(times) / seconds if len(times) > 1 else USUAL_RATE
    rate, even = pace(times[:-1], times[-1], told)
    return Film(0, len(times), seconds, rate, even)


def demuxer_of(path: Path, limits: Limits) -> str:
    """The demuxer for a clip, by its first bytes; MediaError for another kind of file, or one over
    the limit in bytes."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(START_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MediaError(f"{path.name} cannot be read: {reason}") from error
    if size > limits.clip_megabytes * 2**20:
        raise MediaError(
            f"{path.name} has {size / 2**20:.0f} MB; "
            f"at most {limits.clip_megabytes:g} MB are allowed"
        )
    demuxer = _demuxer(start)
    if demuxer is None:
        raise MediaError(f"{path.name} is no clip this app reads; use {CLIP_KINDS}")
    return demuxer


def _demuxer(start: bytes) -> str | None:
    for offset, magic, demuxer in DEMUXERS:
        if start[offset : offset + len(magic)] == magic:
            return demuxer
    if start.startswith(PNG_START):
        return PILLOW
    if start.startswith(b"RIFF"):
        return RIFF_KINDS.get(start[8:12])
    for offset, length in TS_PACKETS:
        if len(start) > offset + length and start[offset] == start[offset + length] == SYNC:
            return "mpegts"
    return None


def opened(source: Path, demuxer: str, **options: Any) -> Any:
    """The container, which closes as a context."""
    return av.open(str(source), format=demuxer, options=OPTIONS.get(demuxer, {}), **options)


@dataclass
class _Packets:
    """Those of one stream that will be shown: when, and how long the ``latest`` of them is."""

    count: int = 0
    times: list[float] = field(default_factory=list)  # seconds
    latest: float = -math.inf
    last_seconds: float = 0.0


@dataclass(frozen=True)
class Film:
    """The stream that is the film, by its ``index`` in the file.

    ``packets`` of it are shown, over ``seconds``; ``rate`` and ``even`` as ``timing.pace``.
    """

    index: int
    packets: int
    seconds: float
    rate: float
    even: bool


def find_film(name: str, container: Any, limits: Limits) -> Film:
    """The film among a file's streams, and its frames as its packets tell them: headers lie, and
    recordings of browsers have neither length nor number. Nothing is decoded.

    Cover art and thumbnails are no film, nor is a single picture beside something that moves. Of
    several, the one the file calls its default; else the longest; else the largest. MediaError for
    none, and for what is over the limits.
    """
    streams = [s for s in container.streams.video if s.codec_context is not None]
    streams = [s for s in streams if not s.disposition & NO_FILM] or streams
    if not streams:
        raise MediaError(f"{name} has no pictures in it")
    found: dict[int, _Packets] = defaultdict(_Packets)
    for packet in container.demux(*streams):
        if packet.size and not packet.is_discard:
            _count(found[packet.stream_index], packet, limits)

    def worth(stream: Any) -> tuple[bool, bool, float, int]:
        packets, size = found[stream.index], stream.codec_context
        default = bool(stream.disposition & Disposition.default)
        return packets.count > 1, default, round(_span(packets), 1), size.width * size.height

    stream = max(streams, key=worth)
    film = _film(stream, found[stream.index])
    _check(name, stream, film, limits)
    return film


def _count(packets: _Packets, packet: Any, limits: Limits) -> None:
    packets.count += 1
    if packet.pts is None or packet.time_base is None or packets.count > _most_packets(limits):
        return
    time = float(packet.pts * packet.time_base)
    if time >= packets.latest:  # packets come in decoding order
        packets.latest = time
        packets.last_seconds = float((packet.duration or 0) * packet.time_base)
    packets.times.append(time)


def _most_packets(limits: Limits) -> int:
    return 2 * limits.clip_frames  # two fields may be packets of their own


def _span(packets: _Packets) -> float:
    return max(packets.times) - min(packets.times) if packets.times else packets.count / USUAL_RATE


def _film(stream: Any, packets: _Packets) -> Film:
    told = float(stream.average_rate or stream.guessed_rate or 0) or USUAL_RATE
    times = sorted(packets.times)
    gaps = [b - a for a, b in pairwise(times) if b > a]
    rate, even = pace(gaps, packets.last_seconds, told)
    seconds = _span(packets) + (packets.last_seconds or 1 / rate)
    return Film(stream.index, packets.count, seconds, rate, even)


def _check(name: str, stream: Any, film: Film, limits: Limits) -> None:
    """What the file claims, against the limits."""
    check_size(name, stream.codec_context.width, stream.codec_context.height, limits)
    check_seconds(name, film.seconds, limits)
    count = stream.frames if stream.frames > limits.clip_frames else film.packets
    if stream.frames > limits.clip_frames or film.packets > _most_packets(limits):
        raise MediaError(
            f"{name} has {count} frames; at most {limits.clip_frames} are allowed; trim it"
        )


def check_size(name: str, width: int, height: int, limits: Limits) -> None:
    """MediaError for a picture larger than ``limits`` allow of a clip."""
    longer, shorter = max(width, height), min(width, height)
    if longer > limits.clip_width or shorter > limits.clip_height:
        raise MediaError(
            f"{name} is {width}×{height}; "
            f"at most {limits.clip_width}×{limits.clip_height} are allowed"
        )


def check_seconds(name: str, seconds: float, limits: Limits) -> None:
    """MediaError for a clip longer than ``limits`` allow."""
    if seconds > limits.clip_seconds + 0.5:
        raise MediaError(
            f"{name} is {seconds:.1f} s long; "
            f"at most {limits.clip_seconds:g} s are allowed; trim it"
        )
