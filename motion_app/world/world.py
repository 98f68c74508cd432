"""The pocket world: scenes of one to three cartoon creatures with complete ground truth.

``draw_scene`` decides everything from a random generator, ``render`` turns the decision into
pixels, masks of every frame and centroid tracks. Drawn at ``supersample`` times the size and
area-averaged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from motion_app.wording import NEUTRAL_PHRASE
from motion_app.world.creatures import (
    COLOURS,
    KINDS,
    MOTIONS,
    PosePath,
    draw_creature,
    free_path,
    pose_matrix,
    worded_path,
)

if TYPE_CHECKING:
    from motion_app.media.files import Clip

NEUTRAL_SHARE = 0.18  # of captions whose motion words are replaced by NEUTRAL_PHRASE
PLACEMENT_TRIES = 60
PASSING_SHARE = 0.35  # of the scenes of level 1 in which creatures may cover each other in part
PASSING_DISTANCE = 0.5  # of the sum of their radii: how near their centres may then come
BODY_SIDE, BODY_TOP, BODY_BOTTOM = 1.28, -1.35, 1.03  # the widest kinds' extent, in radii
SHIPPED_MOTIONS = (
    "jump",
    "walk left",
    "walk right",
    "rise",
    "sink",
    "circle",
    "sway",
    "figure eight",
    "hop left",
    "tilted loop",
)
# Shipped as well, beside those that the main scenes of a benchmark draw from: what goes nowhere
# has scenes of its own.
SHIPPED_SHAPES = ("crouch", "grow", "shrink", "wave")
REFERENCE_SEED = 77_000
EXAMPLE_SEED = 31_000
EXAMPLES: dict[str, tuple[str, ...]] = {
    "1-two-friends": ("jump", "circle"),
    "2-side-by-side": ("sway", "rise"),
    "3-out-for-a-walk": ("walk right", "jump"),
    "4-high-and-low": ("figure eight", "sink"),
    "5-three-in-a-row": ("jump", "sway", "rise"),
    "6-party": ("circle", "jump", "sway"),
}


@dataclass(frozen=True)
class WorldConfig:
    """``height``, ``width`` in pixels, ``frames`` at ``fps``; ``level`` 0 is the easy world, 1 adds
    rotation, limbs and creatures that pass in front of each other; ``kinds`` are the creatures
    drawn."""

    height: int = 64
    width: int = 96
    frames: int = 13
    fps: int = 8
    supersample: int = 3
    level: int = 0
    kinds: tuple[str, ...] = ("blob", "cat", "robot", "ghost", "bird")

    @property
    def times(self) -> np.ndarray:
        return np.linspace(0, 1, self.frames)  # (T,)


@dataclass(frozen=True, eq=False)
class Creature:
    """One creature of a scene. ``x``, ``y`` its first centre and ``radius`` in pixels; ``motion``
    is a name of MOTIONS, "worded" or "free"; ``phrase`` the caption's motion words."""

    kind: str
    colour: str
    radius: float
    x: float
    y: float
    motion: str
    words: str
    phrase: str
    path: PosePath

    @property
    def noun(self) -> str:
        return f"{self.colour} {self.kind}"

    @property
    def article(self) -> str:
        return "An" if self.noun[0] in "aeiou" else "A"

    @property
    def sentence(self) -> str:
        return f"{self.article} {self.noun} {self.phrase}."

    @property
    def neutral_sentence(self) -> str:
        return f"{self.article} {self.noun} {NEUTRAL_PHRASE}."

    def bounds(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 of every pose, in pixels."""
        r, p = self.radius, self.path
        side = BODY_SIDE * p.scale_x  # (T,)
        top, bottom = (1 - p.scale_y + edge * p.scale_y for edge in (BODY_TOP, BODY_BOTTOM))
        corners = np.stack([[x, y] for x in (-side, side) for y in (top, bottom)])  # (4, 2, T)
        cos, sin = np.cos(p.rotation), np.sin(p.rotation)
        x = self.x + r * (p.dx + cos * corners[:, 0] - sin * corners[:, 1])  # (4, T)
        y = self.y + r * (p.dy + sin * corners[:, 0] + cos * corners[:, 1])
        return x.min(), y.min(), x.max(), y.max()

    def stays_inside(self, config: WorldConfig) -> bool:
        x0, y0, x1, y1 = self.bounds()
        return x0 >= 0 and y0 >= 0 and x1 <= config.width and y1 <= config.height

    def centres(self) -> np.ndarray:
        """(T, 2) centres (x, y) in pixels, squash included."""
        r, p = self.radius, self.path
        return np.stack([self.x + r * p.dx, self.y + r * p.dy + r * (1 - p.scale_y)], axis=1)


@dataclass(frozen=True, eq=False)
class Scene:
    config: WorldConfig
    background: int
    creatures: tuple[Creature, ...]

    @property
    def caption(self) -> str:
        return " ".join(creature.sentence for creature in self.creatures)


@dataclass(frozen=True, eq=False)
class RenderedClip:
    """``frames`` (T, H, W, 3) uint8, ``masks`` (N, T, H, W) bool of the visible pixels, ``tracks``
    (N, T, 2) centroids (y, x) in pixels of the whole creature, hidden parts included."""

    scene: Scene
    frames: np.ndarray
    masks: np.ndarray
    tracks: np.ndarray


def draw_scene(
    rng: np.random.Generator,
    config: WorldConfig = WorldConfig(),
    *,
    objects: int | None = None,
    motions: Sequence[str] | None = None,
    neutral_share: float = NEUTRAL_SHARE,
) -> Scene:
    """A random scene of ``objects`` creatures (1 to 3; None draws it) that never leave the picture.

    ``motions`` fixes each creature's motion by name; then the creatures stand where every one of
    them has room for each of these motions, so that the place does not tell whose is whose. Raises
    ValueError for an unknown name.
    """
    passing = config.level > 0 and motions is None and rng.random() < PASSING_SHARE
    closest = PASSING_DISTANCE if passing else 1.0
    count = objects or int(rng.choice([1, 2, 3], p=[0.3, 0.5, 0.2]))
    unknown = [name for name in motions or () if name not in (*MOTIONS, "worded", "free")]
    if unknown:
        raise ValueError(f"unknown motions {unknown}: choose from {sorted(MOTIONS)}, worded, free")
    colours = rng.permutation(list(COLOURS))[:count]
    kinds = [str(rng.choice(config.kinds)) for _ in range(count)]
    shrink = 1.0
    while True:
        names = list(motions or (_draw_motion(rng, config) for _ in range(count)))
        creatures = [
            _draw_creature(rng, config, str(colours[k]), kinds[k], names[k], count, shrink)
            for k in range(count)
        ]
        creatures = [_reword(rng, creature, neutral_share) for creature in creatures]
        for _ in range(PLACEMENT_TRIES):
            placed = [place(rng, config, creature) for creature in creatures]
            if not (all(placed) and apart(placed, closest)):
                continue
            if motions is None or _swappable(placed, config):
                return Scene(config, int(rng.integers(2**31)), tuple(placed))
        shrink *= 0.96


def _draw_motion(rng: np.random.Generator, config: WorldConfig) -> str:
    if rng.random() < 0.4:
        return "worded" if rng.random() < 0.55 else "free"
    return str(
        rng.choice([n for n, m in MOTIONS.items() if not m.novel and m.level <= config.level])
    )


def _draw_creature(
    rng: np.random.Generator,
    config: WorldConfig,
    colour: str,
    kind: str,
    motion: str,
    count: int,
    shrink: float,
) -> Creature:
    low, high = {1: (11.0, 14.5), 2: (10.0, 12.5), 3: (8.0, 9.5)}[count]
    radius = shrink * rng.uniform(low, high) * config.height / 64
    if motion == "worded":
        words, path = worded_path(rng, config.times)
    elif motion == "free":
        words, path = NEUTRAL_PHRASE, free_path(rng, config.times)
    else:
        words, path = MOTIONS[motion].words, MOTIONS[motion].curve(config.times)
    return Creature(kind, colour, radius, 0.0, 0.0, motion, words, words, path)


def _reword(rng: np.random.Generator, creature: Creature, neutral_share: float) -> Creature:
    if rng.random() < neutral_share:
        return replace(creature, phrase=NEUTRAL_PHRASE)
    return creature


def place(rng: np.random.Generator, config: WorldConfig, creature: Creature) -> Creature | None:
    """The creature at a random place where its whole path stays in the picture, or None."""
    x0, y0, x1, y1 = creature.bounds()
    left, right, top, bottom = -x0, config.width - x1, -y0, config.height - y1
    if left >= right or top >= bottom:
        return None
    return replace(creature, x=rng.uniform(left, right), y=rng.uniform(top, bottom))


def _swappable(creatures: Sequence[Creature], config: WorldConfig) -> bool:
    """Could the creatures do each other's motions where they stand?"""
    paths = [creature.path for creature in creatures]
    for shift in range(1, len(paths)):
        swapped = [
            replace(creature, path=paths[(k + shift) % len(paths)])
            for k, creature in enumerate(creatures)
        ]
        inside = (creature.stays_inside(config) for creature in swapped)
        if not (all(inside) and apart(swapped)):
            return False
    return True


def apart(creatures: Sequence[Creature], closest: float = 1.0) -> bool:
    """No two creatures touch in the first frame (a little overlap of arms is allowed), and in none
    do their centres come nearer than ``closest`` times the sum of their radii."""
    for i, a in enumerate(creatures):
        for b in creatures[i + 1 :]:
            size_a, size_b = a.path.scale_x.max(), b.path.scale_x.max()
            distance = np.linalg.norm(a.centres() - b.centres(), axis=1)  # (T,)
            touching = a.radius * size_a + b.radius * size_b
            if distance[0] < touching or distance.min() < closest * touching:
                return False
    return True


def paint_background(seed: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: a pale meadow or room, decided by ``seed``."""
    rng = np.random.default_rng(seed)

    def pale(low: float, high: float) -> np.ndarray:
        grey = rng.uniform(low, high)
        return np.clip(grey + rng.uniform(-18, 18, size=3), 0, 255)

    top, bottom, floor = pale(175, 225), pale(175, 235), pale(130, 175)
    ramp = np.linspace(0, 1, height)[:, None, None]
    canvas = np.broadcast_to(top * (1 - ramp) + bottom * ramp, (height, width, 3)).copy()
    horizon = int(height * rng.uniform(0.6, 0.8))
    if rng.random() < 0.5:
        canvas[horizon:] = floor
    for _ in range(int(rng.integers(0, 3))):
        centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height * 0.6)))
        radius = int(height * rng.uniform(0.08, 0.2))
        cv2.circle(canvas, centre, radius, pale(160, 235).tolist(), -1, cv2.LINE_AA)
    return canvas.astype(np.uint8)


def render(scene: Scene) -> RenderedClip:
    """Draws every frame of ``scene``; later creatures stand in front of earlier ones."""
    config, scale = scene.config, scene.config.supersample
    tall, wide = config.height * scale, config.width * scale
    background = paint_background(scene.background, tall, wide)
    count = len(scene.creatures)
    frames = np.empty((config.frames, config.height, config.width, 3), np.uint8)
    masks = np.zeros((count, config.frames, config.height, config.width), bool)
    tracks = np.zeros((count, config.frames, 2))
    for t in range(config.frames):
        canvas = background.copy()
        covers = []
        for k, creature in enumerate(scene.creatures):
            cover = draw_creature(
                canvas,
                creature.kind,
                creature.colour,
                _matrix_at(creature, t) * scale,
                arm=float(creature.path.arm[t]),
            )
            moments = cv2.moments(cover, binaryImage=True)
            tracks[k, t] = moments["m01"] / moments["m00"], moments["m10"] / moments["m00"]
            covers.append(cover)
        frames[t] = cv2.resize(canvas, (config.width, config.height), interpolation=cv2.INTER_AREA)
        hidden = np.zeros((tall, wide), np.uint8)
        for k in range(count - 1, -1, -1):
            visible = cv2.subtract(covers[k], hidden)
            size = (config.width, config.height)
            masks[k, t] = cv2.resize(visible, size, interpolation=cv2.INTER_AREA) > 127
            hidden = cv2.max(hidden, covers[k])
    return RenderedClip(scene, frames, masks, tracks / scale)


def empty_scene(scene: Scene) -> np.ndarray:
    """(H, W, 3) uint8: what ``render`` draws behind the creatures of ``scene``."""
    return render(replace(scene, config=replace(scene.config, frames=1), creatures=())).frames[0]


def _matrix_at(creature: Creature, t: int) -> np.ndarray:
    p, r = creature.path, creature.radius
    return pose_matrix(
        x=creature.x + r * p.dx[t],
        y=creature.y + r * p.dy[t],
        radius=r,
        rotation=p.rotation[t],
        scale_x=p.scale_x[t],
        scale_y=p.scale_y[t],
    )


def vocabulary() -> list[str]:
    """Every word the captions use, in a fixed order."""
    words = [
        "A",
        "An",
        "a",
        "an",
        "the",
        "then",
        "moves",
        *NEUTRAL_PHRASE.split(),
        *COLOURS,
        *KINDS,
    ]
    words += ["up", "down", "left", "right"]
    for motion in MOTIONS.values():
        words += motion.words.split()
    return list(dict.fromkeys(words))


@dataclass(frozen=True, eq=False)
class Reference:
    """A rendered clip of one creature doing one motion, and what its motion file says of it."""

    name: str
    noun: str
    rendered: RenderedClip

    @property
    def clip(self) -> Clip:
        from motion_app.media.files import Clip  # here: who only draws reads no file

        return Clip(self.rendered.frames, float(self.rendered.scene.config.fps))


def render_reference(name: str, config: WorldConfig = WorldConfig()) -> Reference:
    """The reference clip of a motion in MOTIONS; the same name draws the same clip."""
    rng = np.random.default_rng([REFERENCE_SEED, list(MOTIONS).index(name)])
    rendered = render(draw_scene(rng, config, objects=1, motions=[name]))
    return Reference(name, rendered.scene.creatures[0].noun, rendered)


def render_examples(
    folder: Path, config: WorldConfig = WorldConfig(), *, enlarge: int = 6
) -> list[Path]:
    """Writes ``folder/NAME.png``, ``enlarge`` times the model's frame so that people see a crisp
    picture, and ``NAME.json`` with what is on it. The same code draws the same pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    large = replace(config, height=config.height * enlarge, width=config.width * enlarge, frames=1)
    written = []
    for number, (name, motions) in enumerate(EXAMPLES.items()):
        rng = np.random.default_rng([EXAMPLE_SEED, number])
        scene = draw_scene(rng, config, objects=len(motions), motions=motions)
        creatures = tuple(
            replace(c, radius=c.radius * enlarge, x=c.x * enlarge, y=c.y * enlarge)
            for c in scene.creatures
        )
        clip = render(replace(scene, config=large, creatures=creatures))
        path = folder / f"{name}.png"
        Image.fromarray(clip.frames[0]).save(path, optimize=True)
        notes = {"title": name[2:].replace("-", " ").capitalize(), "objects": _named_boxes(clip)}
        path.with_suffix(".json").write_text(json.dumps(notes, indent=2) + "\n")
        written.append(path)
    return written


def _named_boxes(clip: RenderedClip) -> list[dict]:
    boxes = []
    for creature, mask in zip(clip.scene.creatures, clip.masks[:, 0], strict=True):
        rows, columns = np.nonzero(mask)
        x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        boxes.append({"noun": creature.noun, "box": [int(x0), int(y0), int(x1), int(y1)]})
    return boxes
