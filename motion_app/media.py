"""Pictures and masks in. Clips and videos, part of the same stage, are in ``video``; what a
generated video carries when it leaves is in ``provenance``; all are exported here.

Files come from strangers: they are decoded in a child process (``sandbox``) that runs ``decoding``.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from motion_app.errors import MediaError
from motion_app.provenance import (
    Verification,
    export_gif,
    export_video,
    read_recipe,
    verify_video,
)
from motion_app.sandbox import Decoded, decode
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.video import Clip, read_clip, upscale, write_gif, write_video

__all__ = [
    "Clip",
    "Picture",
    "PictureNote",
    "Verification",
    "decode_data_uri",
    "encode_data_uri",
    "export_gif",
    "export_video",
    "read_clip",
    "read_image",
    "read_mask",
    "read_picture",
    "read_recipe",
    "upscale",
    "verify_video",
    "write_gif",
    "write_video",
]


logger = logging.getLogger(__name__)

NOTES = {
    "range": "its values are no ordinary 8 or 16 bits; {black:g} is shown as black and {white:g} "
    "as white",
    "profile": "its colour profile cannot be used and was left out; colours may be a little off",
}


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
    decoder = f"motion_app.decoding.pictures:{decoder}"
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
