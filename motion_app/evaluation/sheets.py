"""Pictures with words beside them: frames of several videos one above the other."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, QUIET = (255, 255, 255), (28, 32, 38), (110, 118, 128)
GAP = 4  # pixels between pictures
WORDS = 15  # pixels: the height of letters
MARGIN = 12


@dataclass(frozen=True, eq=False)
class SheetRow:
    """``name`` and, under it, ``note`` left of the ``pictures``, (H, W, 3) uint8 each."""

    name: str
    pictures: Sequence[np.ndarray]
    note: str = ""


def spread(frames: np.ndarray, columns: int) -> list[np.ndarray]:
    """``columns`` evenly spaced ones of ``frames`` (T, H, W, 3), first and last among them."""
    return list(frames[np.linspace(0, len(frames) - 1, columns).round().astype(int)])


def draw_sheet(
    rows: Sequence[SheetRow],
    *,
    title: str = "",
    heads: Sequence[str] = (),
    size: tuple[int, int] = (144, 96),
    words: int = 190,
) -> np.ndarray:
    """(H, W, 3) uint8: each row's words in ``words`` pixels, then its pictures at ``size`` (width,
    height). ``title`` stands above all, ``heads`` above the columns."""
    font, small = (ImageFont.load_default(s) for s in (WORDS, WORDS - 3))
    columns = max(len(row.pictures) for row in rows)
    top = MARGIN + (WORDS + 12 if title else 0) + (WORDS + 4 if heads else 0)
    width = MARGIN * 2 + words + columns * (size[0] + GAP) - GAP
    height = top + len(rows) * (size[1] + GAP) - GAP + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((MARGIN, MARGIN - 2), title, INK, font)
    for column, head in enumerate(heads):
        at = (MARGIN + words + column * (size[0] + GAP), top - WORDS - 4)
        pen.text(at, head, QUIET, small)
    for k, row in enumerate(rows):
        y = top + k * (size[1] + GAP)
        middle = y + size[1] // 2
        pen.text((MARGIN, middle - (WORDS if row.note else WORDS // 2)), row.name, INK, font)
        if row.note:
            pen.text((MARGIN, middle + 4), row.note, QUIET, small)
        for column, picture in enumerate(row.pictures):
            shown = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
            sheet.paste(Image.fromarray(shown), (MARGIN + words + column * (size[0] + GAP), y))
    return np.asarray(sheet)


def png_bytes(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as a PNG."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()
