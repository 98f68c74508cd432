"""What is inside a clip's file, before anything is decoded: the demuxer, the film among the
streams, how many frames it has and when they are shown."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from motion_app.errors import MediaError
from motion_app.media.decoders.frames import USUAL_RATE, pace
from motion_app.media.decoders.pictures import PNG_START
from motion_app.media.file_types import CLIP_KINDS
from motion_app.settings import Limits

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
