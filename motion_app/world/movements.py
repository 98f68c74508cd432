"""What a creature can do: every motion as a path of poses, nearly determined by its words.

A path is given in radii of the creature relative to its first pose, over time t from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TAU = 2 * np.pi


@dataclass(frozen=True)
class PosePath:
    """Arrays [T]: ``dx``, ``dy`` in radii (y down), ``rotation`` and ``arm`` in radians,
    ``scale_x`` and ``scale_y`` as factors about the feet."""

    dx: np.ndarray
    dy: np.ndarray
    rotation: np.ndarray
    scale_x: np.ndarray
    scale_y: np.ndarray
    arm: np.ndarray


def path(t: np.ndarray, **curves: np.ndarray | float) -> PosePath:
    """A path from the curves named; the others stand still."""
    rest = {"dx": 0.0, "dy": 0.0, "rotation": 0.0, "scale_x": 1.0, "scale_y": 1.0, "arm": 0.0}
    full = {name: np.broadcast_to(curves.get(name, rest[name]), t.shape).copy() for name in rest}
    return PosePath(**full)


def _jump(t: np.ndarray) -> PosePath:
    lift = np.abs(np.sin(TAU * t))
    return path(t, dy=-1.5 * lift, scale_y=0.94 + 0.12 * lift, scale_x=1.03 - 0.06 * lift)


def _walk(t: np.ndarray, direction: int) -> PosePath:
    return path(t, dx=direction * 2.6 * t, dy=-0.12 * np.abs(np.sin(2 * TAU * t)))


def _circle(t: np.ndarray) -> PosePath:
    return path(t, dx=np.sin(TAU * t), dy=np.cos(TAU * t) - 1)


def _squash(t: np.ndarray, depth: float) -> PosePath:
    low = np.sin(np.pi * t) ** 2
    return path(t, scale_y=1 - depth * low, scale_x=1 + 0.5 * depth * low)


def _resize(t: np.ndarray, end: float) -> PosePath:
    scale = 1 + (end - 1) * t
    return path(t, scale_x=scale, scale_y=scale)


def _figure_eight(t: np.ndarray) -> PosePath:
    return path(t, dx=1.1 * np.sin(TAU * t), dy=0.75 * np.sin(2 * TAU * t))


def _hop_left(t: np.ndarray) -> PosePath:
    return path(t, dx=-2.2 * t, dy=-1.0 * np.abs(np.sin(1.5 * TAU * t)))


def _tilted_loop(t: np.ndarray) -> PosePath:
    return path(
        t,
        dx=1.4 * t - 0.7 * np.sin(TAU * t),
        dy=0.9 * (1 - np.cos(TAU * t)),
        rotation=0.35 * np.sin(TAU * t),
    )


@dataclass(frozen=True)
class MotionKind:
    """A named motion: its ``words`` in a caption, its ``curve``, and the world it first appears in:
    ``level`` 0 translation and squash, 1 also rotation and limbs. ``novel`` ones are never
    trained."""

    words: str
    curve: Callable[[np.ndarray], PosePath]
    level: int = 0
    novel: bool = False


MOTIONS: dict[str, MotionKind] = {
    "jump": MotionKind("jumps", _jump),
    "walk left": MotionKind("walks left", lambda t: _walk(t, -1)),
    "walk right": MotionKind("walks right", lambda t: _walk(t, 1)),
    "rise": MotionKind("rises", lambda t: path(t, dy=-2.2 * t)),
    "sink": MotionKind("sinks", lambda t: path(t, dy=2.2 * t)),
    "circle": MotionKind("circles", _circle),
    "sway": MotionKind("sways", lambda t: path(t, dx=1.1 * np.sin(TAU * t))),
    "shake": MotionKind("shakes", lambda t: path(t, dx=0.4 * np.sin(3 * TAU * t))),
    "crouch": MotionKind("crouches", lambda t: _squash(t, 0.45)),
    "grow": MotionKind("grows", lambda t: _resize(t, 1.55)),
    "shrink": MotionKind("shrinks", lambda t: _resize(t, 0.6)),
    "stand": MotionKind("stands still", path),
    "spin": MotionKind("spins", lambda t: path(t, rotation=TAU * t), level=1),
    "bow": MotionKind("bows", lambda t: path(t, rotation=0.9 * np.sin(np.pi * t) ** 2), level=1),
    "wave": MotionKind("waves", lambda t: path(t, arm=-1.6 + 0.8 * np.cos(2 * TAU * t)), level=1),
    "figure eight": MotionKind("draws a figure eight", _figure_eight, novel=True),
    "hop left": MotionKind("hops left", _hop_left, novel=True),
    "tilted loop": MotionKind("loops with a tilt", _tilted_loop, novel=True),
}

DIRECTIONS = {"up": (0.0, -1.0), "down": (0.0, 1.0), "left": (-1.0, 0.0), "right": (1.0, 0.0)}


def worded_path(rng: np.random.Generator, t: np.ndarray) -> tuple[str, PosePath]:
    """A path said in words, "moves up, then left, then down": three legs of equal time and
    length."""
    names = list(DIRECTIONS)
    legs = [str(rng.choice(names))]
    while len(legs) < 3:
        step = str(rng.choice(names))
        if step != legs[-1]:
            legs.append(step)
    corners = np.concatenate([[(0.0, 0.0)], np.cumsum([DIRECTIONS[leg] for leg in legs], axis=0)])
    at = np.clip(t * 3, 0, 3)
    leg = np.minimum(at.astype(int), 2)
    share = (at - leg)[:, None]
    xy = 1.3 * (corners[leg] * (1 - share) + corners[leg + 1] * share)  # (T, 2)
    return f"moves {legs[0]}, then {legs[1]}, then {legs[2]}", path(t, dx=xy[:, 0], dy=xy[:, 1])


def free_path(rng: np.random.Generator, t: np.ndarray) -> PosePath:
    """A random smooth path with a little tilt and squash; words cannot say it."""

    def wave(scale: float) -> np.ndarray:
        a = rng.normal(size=3) / np.array([1.0, 1.4, 2.2])
        phase = rng.uniform(0, TAU, size=3)
        curve = sum(a[i] * np.sin(TAU * (0.5 + 0.5 * i) * t + phase[i]) for i in range(3))
        curve = curve - curve[0]
        return scale * curve / max(np.abs(curve).max(), 1e-6) * rng.uniform(0.5, 1.0)

    squash = wave(0.18) if rng.random() < 0.4 else np.zeros_like(t)
    tilt = wave(0.4) if rng.random() < 0.4 else np.zeros_like(t)
    return path(
        t, dx=wave(1.6), dy=wave(1.6), rotation=tilt, scale_y=1 + squash, scale_x=1 - 0.5 * squash
    )
