"""Cartoon creatures as polygons, and what they can do.

Local coordinates are in units of the creature's radius, x right and y down, feet at y = +1. A
motion is a path of poses, in radii of the creature relative to its first pose, over time t from 0
to 1, nearly determined by its words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 58, 50),
    "orange": (244, 146, 40),
    "yellow": (246, 214, 62),
    "green": (66, 176, 84),
    "blue": (58, 108, 224),
    "purple": (146, 80, 200),
    "pink": (246, 132, 182),
}
TAU = 2 * np.pi


@dataclass(frozen=True)
class Part:
    """A polygon of a body: ``points`` (n, 2) in radii, ``role`` names its paint, ``arm`` says that
    it swings with the pose's arm angle about its first point."""

    points: np.ndarray
    role: str
    arm: bool = False


def _ellipse(x: float, y: float, rx: float, ry: float, n: int = 28) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)  # (n, 2)


def _superellipse(rx: float, ry: float, power: float, y: float = 0.0) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    x = rx * np.sign(c) * np.abs(c) ** (2 / power)
    return np.stack([x, y + ry * np.sign(s) * np.abs(s) ** (2 / power)], axis=1)  # (40, 2)


def _bar(x0: float, y0: float, x1: float, y1: float, half: float) -> np.ndarray:
    """A thick line from its pivot (x0, y0): the first point is the pivot itself."""
    along = np.array([x1 - x0, y1 - y0])
    side = np.array([-along[1], along[0]]) / np.linalg.norm(along) * half
    a, b = np.array([x0, y0]), np.array([x1, y1])
    return np.stack([a, a + side, b + side, b - side, a - side])  # (5, 2)


def _face(y: float, spread: float, eye: float) -> list[Part]:
    parts = []
    for x in (-spread, spread):
        parts.append(Part(_ellipse(x, y, eye, eye * 1.15, 18), "white"))
        parts.append(Part(_ellipse(x, y + 0.05, eye * 0.5, eye * 0.6, 12), "ink"))
    return parts


def _limbs(reach: float) -> list[Part]:
    feet = [Part(_ellipse(x, 0.86, 0.3, 0.16, 16), "shade") for x in (-0.4, 0.4)]
    left = Part(_bar(-reach, 0.1, -reach - 0.28, 0.5, 0.13), "shade")
    right = Part(_bar(reach, 0.1, reach + 0.28, 0.5, 0.13), "shade", arm=True)
    return [*feet, left, right]


def _blob() -> list[Part]:
    return [*_limbs(0.72), Part(_ellipse(0, 0, 0.86, 0.9), "body"), *_face(-0.2, 0.32, 0.24)]


def _cat() -> list[Part]:
    ears = [
        Part(np.array([[x, -0.45], [1.35 * x, -1.2], [0.3 * x, -0.75]]), "shade")
        for x in (-0.6, 0.6)
    ]
    body = Part(_ellipse(0, 0.05, 0.84, 0.84), "body")
    belly = Part(_ellipse(0, 0.42, 0.42, 0.34, 20), "light")
    return [*_limbs(0.7), *ears, body, belly, *_face(-0.22, 0.32, 0.2)]


def _robot() -> list[Part]:
    antenna = [
        Part(_bar(0, -0.7, 0, -1.15, 0.08), "shade"),
        Part(_ellipse(0, -1.15, 0.16, 0.16, 14), "light"),
    ]
    body = Part(_superellipse(0.8, 0.8, 6.0), "body")
    panel = Part(_superellipse(0.46, 0.18, 6.0, y=0.42), "light")
    return [*_limbs(0.78), *antenna, body, panel, *_face(-0.22, 0.34, 0.24)]


def _ghost() -> list[Part]:
    top = np.linspace(np.pi, 2 * np.pi, 24)
    dome = np.stack([0.8 * np.cos(top), -0.15 + 0.85 * np.sin(top)], axis=1)
    hem_x = np.linspace(0.8, -0.8, 17)
    hem = np.stack([hem_x, 0.84 + 0.14 * np.cos(hem_x * np.pi / 0.4)], axis=1)
    return [Part(np.concatenate([dome, hem]), "body"), *_face(-0.2, 0.3, 0.24)]


def _bird() -> list[Part]:
    tail = Part(np.array([[-0.6, 0.1], [-1.25, -0.25], [-1.15, 0.35]]), "shade")
    beak = Part(np.array([[0.62, -0.3], [1.2, -0.08], [0.62, 0.12]]), "light")
    wing = Part(_ellipse(-0.18, 0.28, 0.42, 0.28, 20), "shade")
    feet = [Part(_bar(x, 0.7, x, 1.0, 0.09), "shade") for x in (-0.22, 0.22)]
    return [
        *feet,
        tail,
        beak,
        Part(_ellipse(0, 0, 0.82, 0.8), "body"),
        wing,
        *_face(-0.3, 0.3, 0.2),
    ]


KINDS: dict[str, Callable[[], list[Part]]] = {
    "blob": _blob,
    "cat": _cat,
    "robot": _robot,
    "ghost": _ghost,
    "bird": _bird,
}


def paint(colour: str) -> dict[str, tuple[int, int, int]]:
    """RGB of every role for a creature of this colour."""
    body = np.array(COLOURS[colour], dtype=float)
    return {
        "body": tuple(int(v) for v in body),
        "shade": tuple(int(v) for v in body * 0.68),
        "light": tuple(int(v) for v in body * 0.45 + 255 * 0.55),
        "white": (250, 250, 250),
        "ink": (28, 26, 34),
    }


def pose_matrix(
    *, x: float, y: float, radius: float, rotation: float, scale_x: float, scale_y: float
) -> np.ndarray:
    """(2, 3) affine from local radii to pixels: squash about the feet, then tilt about the
    centre."""
    cos, sin = np.cos(rotation), np.sin(rotation)
    squash = np.array([[scale_x, 0, 0], [0, scale_y, 1 - scale_y]])  # feet at local y = 1 stay
    turn = radius * np.array([[cos, -sin], [sin, cos]])
    matrix = turn @ squash  # (2, 3)
    matrix[:, 2] += (x, y)
    return matrix


def draw_creature(
    canvas: np.ndarray, kind: str, colour: str, matrix: np.ndarray, *, arm: float = 0.0
) -> np.ndarray:
    """Draws one creature on ``canvas`` (H, W, 3) uint8 in place; returns its (H, W) uint8 0/255
    cover.

    ``matrix`` is ``pose_matrix`` in canvas pixels, ``arm`` the right arm's angle in radians.
    """
    cover = np.zeros(canvas.shape[:2], dtype=np.uint8)
    colours = paint(colour)
    for part in KINDS[kind]():
        points = part.points
        if part.arm and arm:
            pivot = points[0]
            cos, sin = np.cos(arm), np.sin(arm)
            points = (points - pivot) @ np.array([[cos, sin], [-sin, cos]]) + pivot
        pixels = points @ matrix[:, :2].T + matrix[:, 2]  # (n, 2)
        fixed = np.round(pixels * 16).astype(np.int32)  # 4 fractional bits
        cv2.fillPoly(canvas, [fixed], colours[part.role], cv2.LINE_AA, shift=4)
        cv2.fillPoly(cover, [fixed], 255, cv2.LINE_8, shift=4)
    return cover


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


def _goes_nowhere(kind: MotionKind) -> bool:
    """Whether a motion moves something of the body, but not the body."""
    poses = kind.curve(np.linspace(0, 1, 13))
    turned = np.ptp([poses.rotation, poses.arm, poses.scale_x, poses.scale_y], axis=1)
    return not poses.dx.any() and not poses.dy.any() and bool(turned.any())


SHAPE_MOTIONS = tuple(name for name, kind in MOTIONS.items() if _goes_nowhere(kind))
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
