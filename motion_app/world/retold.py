"""The same motions told again: by other creatures, elsewhere, of another size, looking the other
way. What two such clips share is the motions and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from motion_app.world.creatures import COLOURS, MOTIONS
from motion_app.world.world import (
    PLACEMENT_TRIES,
    Creature,
    RenderedClip,
    Scene,
    WorldConfig,
    apart,
    place,
    render,
)

SIZES = (0.75, 1.3)  # of another creature, as factors
SHRINK = 0.96  # where there is no room
FREE, WORDED, STILL = 0.45, 0.15, 0.06  # shares of motions; the others have names


def draw_motions(rng: np.random.Generator, count: int, config: WorldConfig) -> list[str]:
    """Names for ``draw_scene``: half of them paths that no word tells, and none that is novel."""
    named = [n for n, m in MOTIONS.items() if not m.novel and m.level <= config.level]
    chances = [FREE, WORDED, STILL, 1 - FREE - WORDED - STILL]
    kinds = rng.choice(["free", "worded", "stand", "named"], size=count, p=chances)
    return [str(rng.choice(named)) if kind == "named" else str(kind) for kind in kinds]


def retold(rng: np.random.Generator, scene: Scene, *, kinds: Sequence[str]) -> Scene:
    """A scene of other creatures, of ``kinds``, that move as those of ``scene`` do, in their
    order."""
    colours = rng.permutation(list(COLOURS))
    cast = [
        replace(
            creature,
            kind=str(rng.choice(kinds)),
            colour=str(colour),
            radius=creature.radius * rng.uniform(*SIZES),
            x=0.0,
            y=0.0,
        )
        for creature, colour in zip(scene.creatures, colours, strict=False)
    ]
    while True:
        for _ in range(PLACEMENT_TRIES):
            placed = [place(rng, scene.config, creature) for creature in cast]
            standing = [creature for creature in placed if creature is not None]
            if len(standing) == len(cast) and apart(standing):
                return Scene(scene.config, int(rng.integers(2**31)), tuple(standing))
        cast = [replace(creature, radius=creature.radius * SHRINK) for creature in cast]


def mirrored(creature: Creature) -> Creature:
    """``creature`` where it stands, going and turning the other way round."""
    path = creature.path
    return replace(creature, path=replace(path, dx=-path.dx, rotation=-path.rotation))


def render_looking_back(scene: Scene) -> RenderedClip:
    """``scene`` with every creature and the background drawn the other way round; they stand and go
    as in ``render``."""
    width, fine = scene.config.width, 1 / scene.config.supersample
    turned = tuple(replace(mirrored(c), x=width - c.x) for c in scene.creatures)
    drawn = render(replace(scene, creatures=turned))
    tracks = drawn.tracks * (1, -1) + (0, width - fine)  # (y, x) of the fine pixels drawn
    return RenderedClip(scene, drawn.frames[:, :, ::-1], drawn.masks[..., ::-1], tracks)
