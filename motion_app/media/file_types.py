"""The endings of the files this app reads, in one list for the page, the command line, evaluation
and studies. What a file is, its first bytes say (``decoders``); an ending only says what is worth
offering, and what a folder's other files are refused by."""

from __future__ import annotations

from mimetypes import guess_type
from pathlib import Path

PICTURE_FILES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jfif", ".webp", ".heic", ".heif", ".avif", ".bmp"),
    *(".tif", ".tiff", ".gif"),
)
CLIP_FILES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".webm", ".mkv", ".avi", ".ts", ".mts"),
    *(".m2ts", ".mpg", ".mpeg", ".gif", ".apng"),
)
CLIP_CHOICES = (*CLIP_FILES, ".webp")  # what is offered as a clip: a WebP may move, most do not
STILL_FILES = tuple(ending for ending in PICTURE_FILES if ending not in CLIP_FILES)
CLIP_KINDS = "MP4, MOV, WebM, MKV, AVI, MPEG, GIF, or a moving WebP or PNG"
PICTURE_KINDS = "PNG, JPEG, WebP, HEIC, AVIF, TIFF, BMP or GIF"


def is_picture(path: Path | str) -> bool:
    """Whether its ending, in whatever case, is that of a picture."""
    return Path(path).suffix.lower() in PICTURE_FILES


def is_clip(path: Path | str) -> bool:
    """Whether its ending, in whatever case, is that of a clip."""
    return Path(path).suffix.lower() in CLIP_FILES


def is_unread_video(path: Path | str) -> bool:
    """Whether its ending is that of a video of a kind this app does not read."""
    kind = guess_type(Path(path).name)[0] or ""
    return kind.startswith("video/") and not is_clip(path)
