"""Clips in, browser-safe video out: the moving half of ``media``, which exports these names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import imageio.v3 as iio
import numpy as np
from imageio.plugins.pyav import PyAVPlugin
from PIL import Image

from motion_app.errors import MediaError
from motion_app.settings import DEFAULT_LIMITS, Limits

# Demuxers by a file's first bytes. Left to guess, FFmpeg would also open playlists, whose entries
# name other files and addresses.
DEMUXERS = ((4, b"ftyp", "mov"), (0, b"\x1aE\xdf\xa3", "matroska"), (0, b"GIF8", "gif"))
GENERATED_COMMENT = "AI-generated video (motion transfer)"
BT709, LIMITED_RANGE = 1, 1  # AVCOL_*_BT709 and AVCOL_RANGE_MPEG of FFmpeg
CRF = "16"  # visually lossless: the small pictures are judged by their edges


@dataclass(frozen=True, eq=False)
class Clip:
    """``frames`` (T, H, W, 3) uint8 RGB, upright, square pixels, at ``fps`` frames per second."""

    frames: np.ndarray
    fps: float


def read_clip(
    source: Path | str,
    *,
    fps: float | None = None,
    short_side: int = 720,
    limits: Limits = DEFAULT_LIMITS,
) -> Clip:
    """A clip, upright and with square pixels.

    ``fps`` None keeps every frame; otherwise the clip is sampled at i / fps seconds, taking the
    frame nearest in time (drops or repeats, never blends). Frames whose shorter side is above
    ``short_side`` pixels are scaled down to it, so that 20 s of 4K fit in memory. MediaError for a
    file that is unreadable or over the limits.
    """
    path = Path(source)
    demuxer = _demuxer(path, limits)
    try:
        with av.open(str(path), format=demuxer) as container:
            if not container.streams.video:
                raise MediaError(f"{path.name} has no pictures in it")
            stream = container.streams.video[0]
            _check_clip(path.name, container, stream, limits)
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            timed = _timed_frames(container, stream, rate, path.name, limits)
            counted = ((f, 1) for _, f in timed) if fps is None else frames_at(timed, fps, 1 / rate)
            aspect = stream.sample_aspect_ratio or Fraction(1)
            frames = [
                pixels
                for frame, count in counted
                if count
                for pixels in [_upright(frame, aspect, short_side)] * count
            ]
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"{path.name} is damaged or uses an unknown codec: {error}") from error
    if not frames:
        raise MediaError(f"{path.name} has no frames")
    return Clip(np.stack(frames), rate if fps is None else float(fps))


def _demuxer(path: Path, limits: Limits) -> str:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise MediaError(f"{path.name} cannot be read: {error.strerror}") from error
    if size > limits.clip_megabytes * 2**20:
        raise MediaError(
            f"{path.name} has {size / 2**20:.0f} MB; "
            f"at most {limits.clip_megabytes:g} MB are allowed"
        )
    for offset, magic, demuxer in DEMUXERS:
        if start[offset : offset + len(magic)] == magic:
            return demuxer
    raise MediaError(f"{path.name} is no clip this app reads; use MP4, MOV, WebM, MKV or GIF")


def _check_clip(name: str, container: Any, stream: Any, limits: Limits) -> None:
    """What the header claims, against the limits."""
    width, height = stream.codec_context.width, stream.codec_context.height
    longer, shorter = max(width, height), min(width, height)
    if longer > limits.clip_width or shorter > limits.clip_height:
        raise MediaError(
            f"{name} is {width}×{height}; "
            f"at most {limits.clip_width}×{limits.clip_height} are allowed"
        )
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    else:
        seconds = (container.duration or 0) / av.time_base
    if seconds > limits.clip_seconds + 0.5:
        raise MediaError(
            f"{name} is {seconds:.1f} s long; "
            f"at most {limits.clip_seconds:g} s are allowed; trim it"
        )
    if stream.frames > limits.clip_frames:
        raise MediaError(
            f"{name} has {stream.frames} frames; at most {limits.clip_frames} are allowed; trim it"
        )


def _timed_frames(
    container: Any, stream: Any, rate: float, name: str, limits: Limits
) -> Iterator[tuple[float, Any]]:
    """Decoded frames with their time in seconds from the first; headers may lie, so the limits are
    kept here too."""
    start = None
    for count, frame in enumerate(container.decode(stream)):
        time = count / rate if frame.time is None else frame.time
        start = time if start is None else start
        if count >= limits.clip_frames or time - start > limits.clip_seconds + 0.5:
            raise MediaError(
                f"{name} goes on after {count} frames, {time - start:.1f} s; at most "
                f"{limits.clip_frames} frames and {limits.clip_seconds:g} s are allowed; trim it"
            )
        yield time - start, frame


def frames_at(
    timed: Iterable[tuple[float, Any]], fps: float, frame_seconds: float
) -> Iterator[tuple[Any, int]]:
    """Each frame with the number of times i / ``fps`` it is the nearest to, in order.

    ``timed``: (seconds, frame) with rising times; ``frame_seconds``: how long the last one is
    shown. However short the clip, one frame comes.
    """
    held: tuple[float, Any] | None = None
    shown = 0
    for time, frame in timed:
        if held is not None:
            due = _ticks_before((held[0] + time) / 2, fps)
            yield held[1], max(0, due - shown)
            shown = max(shown, due)
        held = (time, frame)
    if held is not None:
        due = max(1, _ticks_before(held[0] + frame_seconds, fps))
        yield held[1], max(0, due - shown)


def _ticks_before(seconds: float, fps: float) -> int:
    """How many i >= 0 have i / fps < seconds; a rounding error does not make one more."""
    return math.ceil(seconds * fps - 1e-6)


def _upright(frame: Any, aspect: Fraction, short_side: int) -> np.ndarray:
    """One decoded frame as (H, W, 3) uint8: square pixels, scaled down, turned as it is shown."""
    width = round(frame.width * max(aspect, Fraction(1)))
    height = round(frame.height / min(aspect, Fraction(1)))
    scale = min(1.0, short_side / min(width, height))
    pixels = frame.to_ndarray(format="rgb24")
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size != (frame.width, frame.height):
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    # The display matrix turns counter-clockwise, as rot90 does.
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


class _BrowserVideo(PyAVPlugin):
    """imageio's PyAV writer with what its arguments cannot say: quality and colour tags. Untagged
    video of this size is taken for BT.601 by some players and shown in other colours."""

    def init_video_stream(self, codec: str, **options: Any) -> None:
        super().init_video_stream(codec, **options)
        encoder = self._video_stream.codec_context
        encoder.options = {"crf": CRF, "preset": "medium"}
        encoder.color_primaries = encoder.color_trc = encoder.colorspace = BT709
        encoder.color_range = LIMITED_RANGE


def write_video(
    path: Path | str,
    frames: np.ndarray,
    fps: float,
    *,
    size: tuple[int, int] | None = None,
    comment: str = GENERATED_COMMENT,
) -> None:
    """Write ``frames`` (T, H, W, 3) uint8 as an MP4 that every browser plays while it loads: H.264,
    yuv420p, BT.709, index at the front. ``size`` (width, height) in pixels upscales first;
    ``comment`` goes into the file's metadata and must hold nothing secret. MediaError for an odd
    size.
    """
    if size is not None:
        frames = upscale(frames, *size)
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise MediaError(f"a video of {width}×{height} cannot be written; both sides must be even")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with iio.imopen(path, "w", plugin=_BrowserVideo, options={"movflags": "+faststart"}) as video:
        video.container_metadata["comment"] = comment
        video.write(
            frames,
            codec="libx264",
            fps=fps,
            out_pixel_format="yuv420p",
            filter_sequence=[
                _size_filter(frames, ":out_color_matrix=bt709:out_range=tv:flags=accurate_rnd"),
                ("format", "yuv420p"),
            ],
        )


def _size_filter(frames: np.ndarray, options: str = "") -> tuple[str, str]:
    """The size has to be said: imageio builds its filters before it has seen a frame, for 640×480
    in the output's format, and ``scale`` is the filter that adapts to what then comes."""
    height, width = frames.shape[1:3]
    return "scale", f"{width}:{height}{options}"


def write_gif(path: Path | str, frames: np.ndarray, fps: float) -> None:
    """Write ``frames`` (T, H, W, 3) uint8 as a looping GIF with a palette of its own."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    nodes = {
        "split": ("split", ""),
        "palette": ("palettegen", "stats_mode=diff"),
        "use": ("paletteuse", "dither=bayer:bayer_scale=4"),
    }
    edges = [
        ("video_in", "split", 0, 0),
        ("split", "palette", 1, 0),
        ("split", "use", 0, 0),
        ("palette", "use", 0, 1),
        ("use", "video_out", 0, 0),
    ]
    with iio.imopen(path, "w", plugin="pyav") as video:
        video.write(
            frames,
            codec="gif",
            fps=fps,
            out_pixel_format="pal8",
            filter_sequence=[_size_filter(frames), ("format", "rgb24")],
            filter_graph=(nodes, edges),
        )


def upscale(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    """``frames`` (T, H, W, 3) uint8 at ``width`` × ``height`` pixels by Lanczos: (T, H', W', 3)."""
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack(
        [
            np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))
            for frame in frames
        ]
    )
