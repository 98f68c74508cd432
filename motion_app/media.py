"""Pictures and masks in. Clips and videos, part of the same stage, are in ``video``.

Files come from strangers: what a header claims is checked against the limits before anything is
decoded, only known formats are opened, and a network address is never followed.
"""

from __future__ import annotations

import base64
import io
import logging
import struct
import warnings
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image, ImageCms, ImageOps

from motion_app.errors import MediaError
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.video import Clip, read_clip, upscale, write_gif, write_video

__all__ = [
    "Clip",
    "decode_data_uri",
    "encode_data_uri",
    "read_clip",
    "read_image",
    "read_mask",
    "upscale",
    "write_gif",
    "write_video",
]

logger = logging.getLogger(__name__)

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "HEIF", "AVIF", "GIF", "BMP", "TIFF")
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError, MemoryError, struct.error),
    Image.DecompressionBombError,
)  # what Pillow and libheif raise on damaged files


def read_image(
    source: Path | str | bytes | np.ndarray, *, limits: Limits = DEFAULT_LIMITS
) -> np.ndarray:
    """A picture as (H, W, 3) uint8 sRGB: turned upright by its EXIF tag, its colour profile
    applied, transparency laid on white. ``source``: a path, a file's bytes, or an array of that
    very form. MediaError for a file that is unreadable or over the limits."""
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8:
            raise MediaError(
                f"expected an image (H, W, 3) of uint8, got {source.shape} of {source.dtype}"
            )
        return source
    image, name = _open_image(source, limits)
    try:
        return np.array(_to_srgb(ImageOps.exif_transpose(image), name))
    except BROKEN as error:
        raise MediaError(f"{name} is damaged or no picture: {error}") from error


def read_mask(
    source: Path | str | bytes | np.ndarray, *, limits: Limits = DEFAULT_LIMITS
) -> np.ndarray:
    """A mask as (H, W) bool: true where the picture is brighter than half; transparency counts as
    black. MediaError as ``read_image``, and where all of it is dark yet not black."""
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype != np.bool_:
            raise MediaError(f"expected a mask (H, W) of bool, got {source.shape} {source.dtype}")
        return source
    image, name = _open_image(source, limits)
    try:
        image = _eight_bit(ImageOps.exif_transpose(image))
        if _has_alpha(image):
            image = image.convert("RGBA")
            image = Image.composite(image, Image.new("RGBA", image.size, "black"), image)
        grey = np.asarray(image.convert("L"))
    except BROKEN as error:
        raise MediaError(f"the mask {name} is damaged or no picture: {error}") from error
    mask = grey > 127
    if not mask.any() and grey.any():
        raise MediaError(
            f"the mask {name} has no pixel brighter than {int(grey.max())} of 255; "
            "the object must be white"
        )
    return mask


def _open_image(source: Path | str | bytes, limits: Limits) -> tuple[Image.Image, str]:
    """Header read, size checked, no pixel decoded."""
    pillow_heif.register_heif_opener()  # idempotent
    name = "the picture" if isinstance(source, bytes) else Path(source).name
    try:
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        if size > limits.image_megabytes * 2**20:
            raise MediaError(
                f"{name} has {size / 2**20:.0f} MB; "
                f"at most {limits.image_megabytes:g} MB are allowed"
            )
        file = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
        with warnings.catch_warnings():
            # Pillow's own warning about size; the limit below decides.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=IMAGE_FORMATS)
    except FileNotFoundError as error:
        raise MediaError(f"{name} does not exist; check the path") from error
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
    return image, name


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
    return Image.composite(image, Image.new("RGB", image.size, "white"), alpha)


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
        raise MediaError(f'expected "data:image/png;base64,…", got "{head[:40]}"')
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise MediaError(f"the picture inside the data address is damaged: {error}") from error
