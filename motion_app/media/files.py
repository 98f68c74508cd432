"""Pictures, masks and clips in; browser-safe video out.

Files come from strangers: they are decoded in a child process (``sandbox``) that runs ``decoders``.
Generated videos leave through ``provenance.export_video``, which marks them; ``write_video`` is for
everything else.
"""

from __future__ import annotations

import base64
import gc
import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import imageio.v3 as iio
import numpy as np
from imageio.plugins.pyav import PyAVPlugin
from PIL import Image

from motion_app.errors import MediaError
from motion_app.media.sandbox import Decoded, decode
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.text_files import write_whole

BT709, LIMITED_RANGE = 1, 1  # AVCOL_*_BT709 and AVCOL_RANGE_MPEG of FFmpeg
CRF = "16"  # visually lossless: the small pictures are judged by their edges
logger = logging.getLogger(__name__)
NOTES = {
    "range": "its values are no ordinary 8 or 16 bits; {black:g} is shown as black and {white:g} "
    "as white",
    "profile": "its colour profile cannot be used and was left out; colours may be a little off",
}


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
    """A clip, upright, not mirrored and with square pixels, decoded in a guarded child process.

    ``fps`` None keeps every frame; otherwise the clip is sampled at i / fps seconds, taking the
    frame nearest in time (drops or repeats, never blends). Frames whose shorter side is above
    ``short_side`` pixels are scaled down to it, and further where all frames together would take
    more than half of ``limits.decode_megabytes``: 20 s of 4K fit in memory, 1,200 frames of
    1280×720 come back smaller. 10-bit video comes as 8, PQ and HLG as an approximation in sRGB.
    MediaError for a file that is unreadable or over the limits.
    """
    path = Path(source)
    options = {"fps": fps, "short_side": short_side, "limits": limits.model_dump()}
    decoded = decode(
        "motion_app.media.decoders.clips:decode_clip", path, options, name=path.name, limits=limits
    )
    return Clip(decoded.array, decoded.facts["fps"])


@contextmanager
def frozen_heap() -> Iterator[None]:
    """While videos are written: imageio's writer collects garbage twice for each, and with
    everything a program has loaded that takes ten times as long as encoding a short clip. A program
    that has frozen what it loaded, as the app does, stays so: it can only be thawed as a whole."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


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
    comment: str = "",
) -> None:
    """Write ``frames`` (T, H, W, 3) uint8, none of them generated, as ``encode_video`` does.

    ``size`` (width, height) in pixels upscales first; ``comment`` goes into the file's metadata and
    must hold nothing secret. MediaError for an odd size.
    """
    if size is not None:
        frames = upscale(frames, *size)
    encode_video(path, frames, fps, tags={"comment": comment} if comment else {})


def encode_video(
    path: Path | str, frames: np.ndarray, fps: float, *, tags: Mapping[str, str]
) -> None:
    """``frames`` (T, H, W, 3) uint8 as an MP4 that every browser plays while it loads: H.264,
    yuv420p, BT.709, index at the front, with ``tags`` that MP4 knows; all of it or, where there is
    no room, nothing. MediaError for an odd size.
    """
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise MediaError(f"a video of {width}×{height} cannot be written; both sides must be even")
    with frozen_heap():
        write_whole(Path(path), lambda part: _encode(part, frames, fps, tags), ending=".mp4")


def _encode(path: Path, frames: np.ndarray, fps: float, tags: Mapping[str, str]) -> None:
    with iio.imopen(path, "w", plugin=_BrowserVideo, options={"movflags": "+faststart"}) as video:
        video.container_metadata.update(tags)
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


def write_gif(path: Path | str, frames: np.ndarray, fps: float, *, comment: str = "") -> None:
    """Write ``frames`` (T, H, W, 3) uint8 as a looping GIF with a palette of its own; ``comment``
    in at most 255 bytes of ASCII. All of it or, where there is no room, nothing."""
    with frozen_heap():
        write_whole(Path(path), lambda part: _encode_gif(part, frames, fps, comment), ending=".gif")


def _encode_gif(path: Path, frames: np.ndarray, fps: float, comment: str) -> None:
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
    if comment:
        _comment_gif(path, comment.encode("ascii"))


def _comment_gif(path: Path, comment: bytes) -> None:
    """FFmpeg's writer has no comments: the extension goes before the trailer (GIF89a, 24)."""
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x21\xfe" + bytes([len(comment)]) + comment + b"\x00\x3b")


def write_webp(
    file: Path | BinaryIO, frames: np.ndarray, fps: float, *, quality: int, method: int
) -> None:
    """Write ``frames`` (T, H, W, 3) uint8 as a looping WebP; ``quality`` 0 to 100, ``method`` 0
    (fast) to 6 (small)."""
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(
        file,
        "WEBP",
        save_all=True,
        append_images=rest,
        duration=round(1000 / fps),
        loop=0,
        quality=quality,
        method=method,
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


@dataclass(frozen=True)
class PictureNote:
    """What had to be done to a picture and may be wrong: ``key`` of ``NOTES`` and its ``values``,
    "black" and "white" the numbers in the file that became so."""

    key: str
    values: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return NOTES[self.key].format(**self.values)


@dataclass(frozen=True, eq=False)
class Picture:
    """``pixels`` (H, W, 3) uint8 sRGB, upright, and the ``notes`` a person should see."""

    pixels: np.ndarray
    notes: tuple[PictureNote, ...] = ()


def read_picture(
    source: Path | str | bytes | np.ndarray, *, limits: Limits = DEFAULT_LIMITS
) -> Picture:
    """A picture as (H, W, 3) uint8 sRGB: turned upright by its EXIF tag, its colour profile
    applied, transparency laid on white, other numbers than 8 bits scaled to them. ``source``: a
    path, a file's bytes, or an array of that very form. MediaError for a file that is unreadable or
    over the limits."""
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8:
            raise MediaError(
                f"expected an image (H, W, 3) of uint8, got {source.shape} of {source.dtype}"
            )
        return Picture(source)
    decoded = _decoded("decode_image", source, limits)
    notes = [PictureNote(note.pop("key"), note) for note in decoded.facts["notes"]]
    return Picture(decoded.array, tuple(notes))


def read_image(
    source: Path | str | bytes | np.ndarray, *, limits: Limits = DEFAULT_LIMITS
) -> np.ndarray:
    """The pixels of ``read_picture``; its notes go to the log, which the command line shows."""
    picture = read_picture(source, limits=limits)
    name = Path(source).name if isinstance(source, (str, Path)) else "the picture"
    for note in picture.notes:
        logger.warning("%s: %s", name, note)
    return picture.pixels


def read_mask(
    source: Path | str | bytes | np.ndarray, *, limits: Limits = DEFAULT_LIMITS
) -> np.ndarray:
    """A mask as (H, W) bool: true where the picture is brighter than half; transparency counts as
    black. MediaError as ``read_image``, and where all of it is dark yet not black."""
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype != np.bool_:
            raise MediaError(f"expected a mask (H, W) of bool, got {source.shape} {source.dtype}")
        return source
    return _decoded("decode_mask", source, limits).array


def _decoded(decoder: str, source: Path | str | bytes, limits: Limits) -> Decoded:
    """Run a decoder of pictures in a child process, once the size of the file is in order."""
    if isinstance(source, bytes):
        name, size = "the picture", len(source)
    elif isinstance(source, (str, Path)):
        source = Path(source)
        name = source.name
        try:
            size = source.stat().st_size
        except FileNotFoundError as error:
            raise MediaError(f"{name} does not exist; check the path") from error
        except (OSError, ValueError) as error:
            raise MediaError(f"{name[:80]!r} cannot be read as a picture: {error}") from error
    else:
        raise MediaError(f"a picture is a path, bytes or an array, got {type(source).__name__}")
    if size > limits.image_megabytes * 2**20:
        raise MediaError(
            f"{name} has {size / 2**20:.0f} MB; at most {limits.image_megabytes:g} MB are allowed"
        )
    options = {"name": name, "limits": limits.model_dump()}
    decoder = f"motion_app.media.decoders.pictures:{decoder}"
    return decode(decoder, source, options, name=name, limits=limits)


def encode_data_uri(picture: np.ndarray) -> str:
    """An image (H, W, 3) uint8 or a mask (H, W) bool as a PNG inside a ``data:`` address."""
    pixels = picture.astype(np.uint8) * 255 if picture.dtype == np.bool_ else picture
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def decode_data_uri(text: str) -> bytes:
    """The file inside a base64 ``data:`` address; MediaError where there is none."""
    head, comma, body = text.partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64") and comma):
        raise MediaError(f'expected "data:image/png;base64,…", got {head[:40]!r}')
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise MediaError(f"the picture inside the data address is damaged: {error}") from error
