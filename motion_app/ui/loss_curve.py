"""The loss of a training as a drawing: every step faint, the mean of the last steps strong."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np

from motion_app.ui.texts import Texts

WIDTH, HEIGHT = 520, 190  # of the drawing's own units
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
MOST_POINTS = 300  # more than the picture has columns for
SMOOTHING = 25  # steps


def smoothed_losses(losses: Sequence[float], *, window: int = SMOOTHING) -> np.ndarray:
    """(n,) float64: the mean of each step and the up to ``window`` - 1 before it."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(losses, dtype=float))])
    stops = np.arange(1, len(losses) + 1)
    starts = np.maximum(0, stops - window)
    return (sums[stops] - sums[starts]) / (stops - starts)


def loss_curve_svg(losses: Sequence[float], *, steps: int, texts: Texts) -> str:
    """The losses of steps 1, 2, … on an axis of ``steps``; an empty frame before the first."""
    if not len(losses):
        return f'<div class="curve curve-empty">{html.escape(texts("motions.curve_empty"))}</div>'
    mean = smoothed_losses(losses)
    high = _round_up(float(np.quantile(losses, 0.98)))
    said = texts("motions.curve_alt", loss=f"{mean[-1]:.3f}", step=len(losses), steps=steps)
    marks = "".join(_mark(share, high) for share in (0.0, 0.5, 1.0))
    ends = (
        f'<text x="{LEFT}" y="{HEIGHT - 8}">1</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{steps}</text>'
    )
    last_x, last_y = _place(len(losses), float(mean[-1]), steps, high)
    return (
        f'<figure class="curve"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{html.escape(said)}">{marks}{ends}'
        f'<polyline class="curve-steps" points="{_points(losses, steps, high)}"/>'
        f'<polyline class="curve-mean" points="{_points(mean, steps, high)}"/>'
        f'<circle class="curve-now" cx="{last_x:.1f}" cy="{last_y:.1f}" r="4"/></svg>'
        f"<figcaption>{html.escape(texts('motions.curve_caption', n=SMOOTHING))}</figcaption>"
        "</figure>"
    )


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10 … at or above ``value``; 1 for nothing to see."""
    if not (math.isfinite(value) and value > 0):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= value * (1 - 1e-9))


def _place(step: int, loss: float, steps: int, high: float) -> tuple[float, float]:
    x = LEFT + (WIDTH - LEFT - RIGHT) * (step - 1) / max(1, steps - 1)
    y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(1.0, max(0.0, loss / high))
    return x, y


def _points(losses: Sequence[float], steps: int, high: float) -> str:
    shown = np.unique(np.linspace(0, len(losses) - 1, MOST_POINTS).round().astype(int))
    places = (_place(int(i) + 1, float(losses[i]), steps, high) for i in shown)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _mark(share: float, high: float) -> str:
    y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share
    return (
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share * high:g}</text>'
    )
