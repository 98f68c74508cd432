"""Pictures and masks of strangers: upright, in sRGB, eight bits a channel, on white.

What the decoders raise on damaged files.

Chunks of a PNG that are larger than pictures need: drawing programs and generators of pictures
keep whole workflows in its texts.

Picture values of any number type as eight bits.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from motion_app.errors import MediaError
from motion_app.media.file_types import PICTURE_KINDS
from motion_app.settings import Limits

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "HEIF", "AVIF", "GIF", "BMP", "TIFF")
ORIENTATION = 0x0112  # of EXIF
Note = dict[str, Any]  # "key" and what belongs to it; in words in ``media``
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError, MemoryError, struct.error),
    *(TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError, OverflowError),
    Image.DecompressionBombError,
)  # Pillow and libheif
TEXT_BYTES = 2**20  # of all texts together, unpacked; more than enough for the XMP of a camera
PROFILE_BYTES = 8 * 2**20  # of a colour profile, unpacked
PNG_START = b"\x89PNG\r\n\x1a\n"  # before the first chunk
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
HEAD = struct.Struct(">I4s")  # before each chunk's content: its length and kind
CHECKSUM = 4  # bytes after it
SIXTEEN = 65535
NARROW = (SIXTEEN + 1) // 4  # 16-bit values all below it are the numbers of a smaller range


def allow_profiles() -> None:
    """Pillow refuses a PNG whose profile has more than a megabyte; ``slimmed`` decides here."""
    PngImagePlugin.MAX_TEXT_CHUNK = PROFILE_BYTES


def decode_image(
    source: Path | bytes, *, name: str, limits: Mapping[str, Any]
) -> Iterator[dict[str, Any] | np.ndarray]:
    """A picture as (H, W, 3) uint8 sRGB, upright, transparency laid on white, and ``notes`` on what
    had to be done to it that may be wrong."""
    notes: list[Note] = []
    image, content = _open_image(source, name, Limits(**limits), notes)
    try:
        pixels = np.asarray(_to_srgb(_plain(image, content, notes), image, notes))
    except BROKEN as error:
        raise MediaError(f"{name} is damaged or no picture: {error}") from error
    yield {"shape": pixels.shape, "dtype": "u1", "notes": notes}
    yield pixels


def decode_mask(
    source: Path | bytes, *, name: str, limits: Mapping[str, Any]
) -> Iterator[dict[str, Any] | np.ndarray]:
    """A mask as (H, W) bool: true where the picture is brighter than half."""
    notes: list[Note] = []
    image, content = _open_image(source, name, Limits(**limits), notes)
    try:
        image = _plain(image, content, notes)
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


def _open_image(
    source: Path | bytes, name: str, limits: Limits, notes: list[Note]
) -> tuple[Image.Image, bytes]:
    """Header read, size checked, no pixel decoded; and the file's bytes."""
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
        if content.startswith(PNG_START):
            content, profile_left_out = slimmed(content)
            if profile_left_out:
                notes.append({"key": "profile"})
        with warnings.catch_warnings():
            # Pillow's own warning about size; the limit below decides.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
    except Image.DecompressionBombError as error:  # Pillow's own limit, far above ours
        raise MediaError(
            f"{name} is far too large; at most {limits.image_megapixels:g} MP are allowed; "
            "scale it down"
        ) from error
    except (*BROKEN, Image.UnidentifiedImageError) as error:
        raise MediaError(f"{name} cannot be read as a picture; use {PICTURE_KINDS}") from error
    megapixels = image.width * image.height / 1e6
    if megapixels > limits.image_megapixels:
        raise MediaError(
            f"{name} has {image.width}×{image.height} pixels ({megapixels:.0f} MP); "
            f"at most {limits.image_megapixels:g} MP are allowed; scale it down"
        )
    return image, content


def _plain(image: Image.Image, content: bytes, notes: list[Note]) -> Image.Image:
    """The picture upright, and with eight bits a channel."""
    deep = image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(t[-1]) for t in image.tile)
    if deep and is_narrow(np.asarray(image)[..., : -1 if image.mode != "RGB" else None]):
        image = _deep_colours(image, content, notes)
    elif image.mode == "F" or image.mode.startswith("I"):
        values, reach = eight_bit(np.asarray(image))
        image = _upright_like(Image.fromarray(values), image)
        _note_reach(reach, notes)
    return ImageOps.exif_transpose(image)


def _deep_colours(image: Image.Image, content: bytes, notes: list[Note]) -> Image.Image:
    """``image`` from its 16-bit colours, of which Pillow keeps the upper bytes alone: too few
    where they hold only a small part of the range."""
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)  # B, G, R(, A)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        return image
    colours, reach = eight_bit(values[..., 2::-1])
    _note_reach(reach, notes)
    if values.shape[2] == 4:
        alpha = (values[..., 3:] >> 8).astype(np.uint8)
        colours = np.concatenate([colours, alpha], axis=2)
    return _upright_like(Image.fromarray(colours), image)


def _upright_like(image: Image.Image, original: Image.Image) -> Image.Image:
    """``image`` with the orientation that ``original`` has."""
    turned = original.getexif().get(ORIENTATION)
    if turned is not None:
        image.getexif()[ORIENTATION] = turned
    return image


def _note_reach(reach: tuple[float, float] | None, notes: list[Note]) -> None:
    if reach is not None:
        notes.append({"key": "range", "black": reach[0], "white": reach[1]})


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _to_srgb(image: Image.Image, original: Image.Image, notes: list[Note]) -> Image.Image:
    """``image`` in sRGB on white; the profile is that of ``original``."""
    profile = original.info.get("icc_profile")
    alpha = None
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
        except (ImageCms.PyCMSError, OSError):
            notes.append({"key": "profile"})
    image = image.convert("RGB")
    if alpha is None:
        return image
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image, mask=alpha)
    return ground


def slimmed(content: bytes) -> tuple[bytes, bool]:
    """A PNG without texts beyond ``TEXT_BYTES`` and a profile beyond ``PROFILE_BYTES``; and whether
    a profile was left out. Nothing else of it is looked at, damaged or not."""
    kept, start, place, room, profile_left_out = [], 0, len(PNG_START), TEXT_BYTES, False
    while place + HEAD.size <= len(content):
        length, kind = HEAD.unpack_from(content, place)
        end = place + HEAD.size + length + CHECKSUM
        if end > len(content):
            break
        too_large = False
        if kind in TEXTS:
            size = _unpacked_size(kind, content[place + HEAD.size : end - CHECKSUM], TEXT_BYTES)
            too_large = size > room
            room -= 0 if too_large else size
        elif kind == b"iCCP":
            profile = content[place + HEAD.size : end - CHECKSUM]
            too_large = _unpacked_size(kind, profile, PROFILE_BYTES) > PROFILE_BYTES
            profile_left_out |= too_large
        if too_large:
            kept.append(content[start:place])
            start = end
        place = end
    return b"".join([*kept, content[start:]]), profile_left_out


def _unpacked_size(kind: bytes, body: bytes, most: int) -> int:
    """Bytes of a chunk once unpacked, up to ``most`` + 1; its own where it is not packed."""
    _, _, packed = body.partition(b"\0")
    if kind == b"iTXt":
        flags, words = packed[:2], packed[2:].split(b"\0", 2)
        if flags[:1] != b"\1" or len(words) < 3:
            return len(body)
        packed = words[2]
    elif kind == b"tEXt":
        return len(body)
    else:
        packed = packed[1:]
    try:
        return len(zlib.decompressobj().decompress(packed, most + 1))
    except zlib.error:
        return len(body)


def eight_bit(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Numbers of any shape as uint8, and which of them became black and white where that had to be
    guessed.

    Not guessed: integers up to 255 are taken as they are, and integers whose largest is between a
    quarter and the whole of 16 bits by that range. Floating point from 0 to 1 or 0 to 255 has those
    ends; everything else its own largest value, and its smallest where that is below 0. What is not
    finite counts as black.
    """
    whole = np.issubdtype(values.dtype, np.integer)
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if whole and low >= 0 and high <= 255:
        return values.astype(np.uint8), None
    if whole and low >= 0 and NARROW <= high <= SIXTEEN:
        return (values.astype(np.uint16) >> 8).astype(np.uint8), None
    if not whole and low >= 0 and high <= 255:
        high = 1.0 if high <= 1 else 255.0
    scaled = (values - low) * (255.0 / max(high - low, np.finfo(np.float64).tiny))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8), (low, high)


def is_narrow(upper: np.ndarray) -> bool:
    """Whether 16-bit values with these ``upper`` bytes lie in a small part of their range."""
    return bool(upper.max(initial=0) < NARROW >> 8)
