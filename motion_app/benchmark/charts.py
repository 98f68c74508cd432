"""Figures of a benchmark: charts as SVG, and frames side by side.

Charts as SVG, which a README shows and a browser draws without anything else.

Pictures with words beside them: frames of several videos one above the other.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from motion_app.evaluation.figures import COLOURS
from motion_app.evaluation.report import Average
from motion_app.geometry import fit_image

WIDTH, LABELS, NUMBERS = 760, 190, 150  # pixels: the whole, names left, figures right
ROW, TOP, FOOT = 26, 48, 40
QUIET = "#7a8793"  # readable on light and on dark
GRID = "#7a879344"
PAPER, INK, QUIET_COLOUR = (255, 255, 255), (28, 32, 38), (110, 118, 128)
GAP = 4  # pixels between pictures
WORDS = 15  # pixels: the height of letters
MARGIN = 12


def interval_chart(title: str, rows: Mapping[str, Average], *, axis: str) -> str:
    """A dot and its interval for each row, zero marked."""
    spans = [value for a in rows.values() for value in (a.mean, *(a.interval or ()))]
    low, high = min([0.0, *spans]), max([0.0, *spans])
    room = 0.06 * (high - low) or 1.0
    low, high = low - room, high + room
    left, right = LABELS, WIDTH - NUMBERS
    height = TOP + ROW * len(rows) + FOOT

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    parts = [_text(8, 22, title, size=15, weight=600)]
    for tick in _ticks(low, high):
        parts += [
            _line(x(tick), TOP - 6, x(tick), height - FOOT, GRID, 1.5 if tick == 0 else 1),
            _text(x(tick), height - FOOT + 16, f"{tick:g}", anchor="middle", colour=QUIET),
        ]
    for k, (name, value) in enumerate(rows.items()):
        y = TOP + ROW * k + ROW / 2
        parts.append(_text(8, y + 4, name))
        if value.interval:
            parts.append(_line(x(value.interval[0]), y, x(value.interval[1]), y, COLOURS[0], 2.5))
        parts.append(f'<circle cx="{x(value.mean):.1f}" cy="{y}" r="5" fill="{COLOURS[0]}"/>')
        parts.append(_text(right + 12, y + 4, value.words(2), colour=QUIET))
    parts.append(_text((left + right) / 2, height - 4, axis, anchor="middle", colour=QUIET))
    return _svg(height, parts)


def line_chart(
    title: str,
    at: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    *,
    axes: tuple[str, str],
    height: int = 330,
) -> str:
    """``lines`` over ``at``, which rises or falls, values from 0 to 1; each is named where it ends.
    Lines whose names begin alike, up to a comma, share a colour, the ones with more to say
    dashed."""
    left, right, bottom = 64, WIDTH - 170, height - FOOT - 8

    def x(value: float) -> float:
        return left + (value - at[0]) / (at[-1] - at[0]) * (right - left)

    def y(value: float) -> float:
        return bottom - value * (bottom - TOP)

    parts = [_text(8, 22, title, size=15, weight=600)]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_line(left, y(tick), right, y(tick), GRID, 1))
        parts.append(_text(left - 8, y(tick) + 4, f"{tick:g}", anchor="end", colour=QUIET))
    parts += [_text(x(v), bottom + 16, f"{v:g}", anchor="middle", colour=QUIET) for v in at]
    ends = _apart({name: y(values[-1]) for name, values in lines.items()})
    families = list(dict.fromkeys(name.partition(", ")[0] for name in lines))
    for name, values in lines.items():
        points = " ".join(f"{x(a):.1f},{y(v):.1f}" for a, v in zip(at, values, strict=True))
        family, _, kind = name.partition(", ")
        colour = COLOURS[families.index(family) % len(COLOURS)]
        dash = ' stroke-dasharray="6 4"' if kind else ""
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.2"{dash}/>'
        )
        parts.append(_text(right + 8, ends[name] + 4, name, colour=colour))
    parts.append(_text((left + right) / 2, height - 6, axes[0], anchor="middle", colour=QUIET))
    parts.append(_text(left, TOP - 8, axes[1], colour=QUIET, size=12))
    return _svg(height, parts)


def _apart(places: Mapping[str, float], *, room: float = 15) -> dict[str, float]:
    """The heights of labels, moved down where they would cover each other."""
    moved: dict[str, float] = {}
    last = float("-inf")
    for name, place in sorted(places.items(), key=lambda entry: entry[1]):
        last = max(place, last + room)
        moved[name] = last
    return moved


def _ticks(low: float, high: float) -> list[float]:
    steps = [s * 10.0**e for e in range(-4, 5) for s in (1, 2, 5)]
    step = next((s for s in steps if (high - low) / s <= 7), steps[-1])
    first, last = int(low / step) - 1, int(high / step) + 1
    return [k * step for k in range(first, last + 1) if low <= k * step <= high]


def _text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    size: int = 13,
    weight: int = 400,
    colour: str = "",
) -> str:
    fill = f' fill="{colour}"' if colour else ' class="ink"'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}"{fill}>{escape(words)}</text>'
    )


def _line(x0: float, y0: float, x1: float, y1: float, colour: str, width: float) -> str:
    return (
        f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour}" '
        f'stroke-width="{width}" stroke-linecap="round"/>'
    )


def _svg(height: float, parts: Sequence[str]) -> str:
    style = (
        ".ink{fill:#24292f}@media(prefers-color-scheme:dark){.ink{fill:#d0d7de}}"
        "text{font-family:system-ui,-apple-system,'Segoe UI',sans-serif}"
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" role="img">'
        f"\n<style>{style}</style>\n{body}\n</svg>\n"
    )


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
        pen.text(at, head, QUIET_COLOUR, small)
    for k, row in enumerate(rows):
        y = top + k * (size[1] + GAP)
        middle = y + size[1] // 2
        pen.text((MARGIN, middle - (WORDS if row.note else WORDS // 2)), row.name, INK, font)
        if row.note:
            pen.text((MARGIN, middle + 4), row.note, QUIET_COLOUR, small)
        for column, picture in enumerate(row.pictures):
            shown = fit_image(picture, size[1], size[0], "pad").image
            sheet.paste(Image.fromarray(shown), (MARGIN + words + column * (size[0] + GAP), y))
    return np.asarray(sheet)


def png_bytes(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as a PNG."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()
