from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from motion_app.media.files import Clip
from motion_app.world.movements import MOTIONS
from motion_app.world.world import RenderedClip, WorldConfig, draw_scene, render

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


@dataclass(frozen=True, eq=False)
class Reference:
    """A rendered clip of one creature doing one motion, and what its motion file says of it."""

    name: str
    noun: str
    rendered: RenderedClip

    @property
    def clip(self) -> Clip:
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
