"""What runs in the child process of ``sandbox``: files of strangers become pixels.

What a header claims is checked against the limits before anything is decoded, only known formats
are opened, and a network address is never followed. Every function takes a path or a file's bytes
and plain options, and yields facts and arrays; MediaError for a file that cannot be used.
"""

from __future__ import annotations

import errno
import io
import logging
import math
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pillow_heif
from PIL import Image, ImageCms, ImageOps

from motion_app.errors import MediaError
from motion_app.settings import Limits
from motion_app.tone import tone_curve, toned

logger = logging.getLogger(__name__)

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "HEIF", "AVIF", "GIF", "BMP", "TIFF")
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError, MemoryError, struct.error),
    *(TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError, OverflowError),
    Image.DecompressionBombError,
)  # what Pillow and libheif raise on damaged files
# Demuxers by a file's first bytes. Left to guess, FFmpeg would also open playlists, whose entries
# name other files and addresses.
DEMUXERS = ((4, b"ftyp", "mov"), (0, b"\x1aE\xdf\xa3", "matroska"), (0, b"GIF8", "gif"))
NO_MEMORY = (errno.ENOMEM, errno.EAGAIN)  # the second where a thread finds no room for its stack
THREADS = 4  # more hold more frames at once, and memory is what is short
FRAMES_SHARE = 0.5  # of ``decode_megabytes``; the rest is the decoder's
MORE_FRAMES = 16  # than packets were counted, before a clip is refused
MOV_OPTIONS = {"enable_drefs": "0", "use_absolute_path": "0"}  # no other files


def prepare() -> None:
    """Load once what Pillow otherwise loads in every child: its plug-ins for formats."""
    Image.init()
    pillow_heif.register_heif_opener()


# Pictures ---------------------------------------------------------------------------------------


def decode_image(
    source: Path | bytes, *, name: str, limits: Mapping[str, Any]
) -> Iterator[dict[str, Any] | np.ndarray]:
    """A picture as (H, W, 3) uint8 sRGB, upright, transparency laid on white."""
    image = _open_image(source, name, Limits(**limits))
    try:
        pixels = np.asarray(_to_srgb(ImageOps.exif_transpose(image), name))
    except BROKEN as error:
        raise MediaError(f"{name} is damaged or no picture: {error}") from error
    yield {"shape": pixels.shape, "dtype": "u1"}
    yield pixels


def decode_mask(
    source: Path | bytes, *, name: str, limits: Mapping[str, Any]
) -> Iterator[dict[str, Any] | np.ndarray]:
    """A mask as (H, W) bool: true where the picture is brighter than half."""
    image = _open_image(source, name, Limits(**limits))
    try:
        image = _eight_bit(ImageOps.exif_transpose(image))
        if _has_alpha(image):
            image = image.convert("RGBA")
            ground = Image.new("L", image.size, 0)
            ground.paste(image.convert("L"), mask=image.getchannel("A"))
            image = ground
        grey = np.asarray(image.convert("L"))
    except BROKEN as error:
        raise MediaError(f"the mask {name} is damaged or no picture: {error}") from error
    mask = grey > 127
    if not mask.any() and grey.any():
        raise MediaError(
            f"the mask {name} has no pixel brighter than {int(grey.max())} of 255; "
            "the object must be white"
        )
    yield {"shape": mask.shape, "dtype": "?"}
    yield mask


def _open_image(source: Path | bytes, name: str, limits: Limits) -> Image.Image:
    """Header read, size checked, no pixel decoded."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with warnings.catch_warnings():
            # Pillow's own warning about size; the limit below decides.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=IMAGE_FORMATS)
    except Image.DecompressionBombError as error:  # Pillow's own limit, far above ours
        raise MediaError(
            f"{name} is far too large; at most {limits.image_megapixels:g} MP are allowed; "
            "scale it down"
        ) from error
    except (*BROKEN, Image.UnidentifiedImageError) as error:
        raise MediaError(
            f"{name} cannot be read as a picture; use PNG, JPEG, WebP or HEIC"
        ) from error
    megapixels = image.width * image.height / 1e6
    if megapixels > limits.image_megapixels:
        raise MediaError(
            f"{name} has {image.width}×{image.height} pixels ({megapixels:.0f} MP); "
            f"at most {limits.image_megapixels:g} MP are allowed; scale it down"
        )
    return image


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey, which Pillow's own conversion clips instead of scaling."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.uint32)
    return Image.fromarray((values >> 8 if values.max() > 255 else values).astype(np.uint8))


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _to_srgb(image: Image.Image, name: str) -> Image.Image:
    profile = image.info.get("icc_profile")
    alpha = None
    image = _eight_bit(image)
    if _has_alpha(image):
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    if profile:
        try:
            image = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
        except (ImageCms.PyCMSError, OSError) as error:
            logger.warning("colour profile of %s ignored, it cannot be used: %s", name, error)
    image = image.convert("RGB")
    if alpha is None:
        return image
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image, mask=alpha)
    return ground


# Clips ------------------------------------------------------------------------------------------


def decode_clip(
    source: Path, *, fps: float | None, short_side: int, limits: Mapping[str, Any]
) -> Iterator[dict[str, Any] | np.ndarray]:
    """A clip as (T, H, W, 3) uint8, frame by frame, and its ``fps``; see ``video.read_clip``."""
    bounds = Limits(**limits)
    demuxer = demuxer_of(source, bounds)
    try:
        with av.open(str(source), format=demuxer, options=_demuxer_options(demuxer)) as container:
            stream = _pictures(source.name, container)
            _check_clip(source.name, container, stream, bounds)
            packets, seconds = _survey(source.name, container, stream, bounds)
        with av.open(str(source), format=demuxer, options=_demuxer_options(demuxer)) as container:
            stream = _pictures(source.name, container)
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = THREADS
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            timed = _timed_frames(container, stream, rate, source.name, bounds)
            if fps is None:
                counted, most = ((frame, 1) for _, frame in timed), packets + MORE_FRAMES
            else:
                counted = frames_at(timed, fps, 1 / rate)
                most = math.ceil((seconds + 1 / rate) * fps) + MORE_FRAMES
            yield {"fps": rate if fps is None else float(fps)}
            aspect = stream.sample_aspect_ratio or Fraction(1)
            yield from _pixels(source.name, counted, most, aspect, short_side, bounds)
    except (av.FFmpegError, ValueError, OverflowError, ZeroDivisionError) as error:
        if getattr(error, "errno", None) in NO_MEMORY:
            raise MediaError(
                f"{source.name} needs more than {bounds.decode_megabytes} MB of memory to decode; "
                "use a smaller one"
            ) from error
        reason = getattr(error, "strerror", None) or error  # the whole text names the file's path
        raise MediaError(f"{source.name} is damaged or uses an unknown codec: {reason}") from error


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
    size = _shown_size(first[0], aspect, short_side, most, limits)
    matrix = _display_matrix(first[0])
    height, width = _upright(np.empty((size[1], size[0], 0), np.uint8), matrix).shape[:2]
    yield {"shape": (most, height, width, 3), "dtype": "u1"}
    sent = 0
    for frame, count in chain((first,), shown):
        sent += count
        if sent > most:
            raise MediaError(f"{name} holds more frames than its index says; save it anew")
        pixels = _upright(_rgb(frame, size), matrix)
        for _ in range(count):
            yield pixels


def demuxer_of(path: Path, limits: Limits) -> str:
    """The demuxer for a clip, by its first bytes; MediaError for another kind of file, or one over
    the limit in bytes."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(16)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MediaError(f"{path.name} cannot be read: {reason}") from error
    if size > limits.clip_megabytes * 2**20:
        raise MediaError(
            f"{path.name} has {size / 2**20:.0f} MB; "
            f"at most {limits.clip_megabytes:g} MB are allowed"
        )
    for offset, magic, demuxer in DEMUXERS:
        if start[offset : offset + len(magic)] == magic:
            return demuxer
    raise MediaError(f"{path.name} is no clip this app reads; use MP4, MOV, WebM, MKV or GIF")


def _demuxer_options(demuxer: str) -> dict[str, str]:
    return MOV_OPTIONS if demuxer == "mov" else {}


def _pictures(name: str, container: Any) -> Any:
    if not container.streams.video:
        raise MediaError(f"{name} has no pictures in it")
    return container.streams.video[0]


def _check_clip(name: str, container: Any, stream: Any, limits: Limits) -> None:
    """What the header claims, against the limits."""
    _check_size(name, stream.codec_context.width, stream.codec_context.height, limits)
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


def _check_size(name: str, width: int, height: int, limits: Limits) -> None:
    longer, shorter = max(width, height), min(width, height)
    if longer > limits.clip_width or shorter > limits.clip_height:
        raise MediaError(
            f"{name} is {width}×{height}; "
            f"at most {limits.clip_width}×{limits.clip_height} are allowed"
        )


def _survey(name: str, container: Any, stream: Any, limits: Limits) -> tuple[int, float]:
    """Packets that will be shown, and seconds from the first to the last: counted, since headers
    lie and recordings of browsers have neither figure. Nothing is decoded."""
    count, times = 0, []
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard:
            continue
        count += 1
        if count > 2 * limits.clip_frames:  # two fields may be packets of their own
            raise MediaError(
                f"{name} has more than {limits.clip_frames} frames, the most allowed; trim it"
            )
        if packet.pts is not None and packet.time_base is not None:
            times.append(float(packet.pts * packet.time_base))
    seconds = max(times) - min(times) if times else count / 25
    return count, min(seconds, limits.clip_seconds + 1)  # what is longer is refused when decoded


def _timed_frames(
    container: Any, stream: Any, rate: float, name: str, limits: Limits
) -> Iterator[tuple[float, Any]]:
    """Decoded frames with their time in seconds from the first; headers may lie, so the limits are
    kept here too."""
    start = None
    for count, frame in enumerate(container.decode(stream)):
        _check_size(name, frame.width, frame.height, limits)
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


# Frames -----------------------------------------------------------------------------------------


def _shown_size(
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


def _rgb(frame: Any, size: tuple[int, int]) -> np.ndarray:
    """One decoded frame as (H, W, 3) uint8 sRGB at ``size`` (width, height)."""
    pixels = frame.to_ndarray(format="rgb24")
    if size != (frame.width, frame.height):
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    curve = tone_curve(frame.color_trc)
    return pixels if curve is None else toned(pixels, curve)


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """(a, b, c, d) of the matrix that carries a stored pixel to where it is shown:
    x' = a x + c y, y' = b x + d y, with y downward; one where the file has none."""
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(side_data)[:36])
    return a, b, c, d


def _upright(pixels: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Pixels (H, W, C) turned and mirrored as the display matrix says, to the nearest quarter."""
    a, b, c, d = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        across, down = a, d
    else:
        pixels, across, down = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])


def decode_tags(
    source: Path, *, limits: Mapping[str, Any]
) -> Iterator[dict[str, Any] | np.ndarray]:
    """The container's tags as the fact ``tags``; no frame is decoded."""
    demuxer = demuxer_of(source, Limits(**limits))
    try:
        with av.open(
            str(source),
            format=demuxer,
            options=_demuxer_options(demuxer),
            metadata_errors="replace",
        ) as container:
            yield {"tags": {str(key): str(value) for key, value in container.metadata.items()}}
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"{source.name} is damaged: {error}") from error
