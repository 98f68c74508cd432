"""The limits the papers name, as scenes of their own: bodies unlike the reference's, limbs the
reference has and the object lacks, and references in which several things move."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from motion_app.evaluation.cases import (
    BENCHMARK_SEED,
    BenchmarkCase,
    draw_cases,
    pocket_case,
    reference_of,
    world_of,
)
from motion_app.geometry import ModelGeometry, mask_to_grid
from motion_app.pocket.motions import MOTIONS
from motion_app.pocket.world import Creature, RenderedClip, Scene, draw_scene, render

BODIES, LIMBS, MOVERS = "bodies", "limbs", "movers"
STRATA = {
    BODIES: "bodies stretched to 1.5 times their width or height, as no training ever drew them",
    LIMBS: "ghosts, which have no limbs, with motions learned from creatures that have",
    MOVERS: "motions learned from clips in which another creature moves as well",
}
LIMBED = ("blob", "cat", "robot", "bird")  # arms or feet; a ghost has neither
STRETCH = 1.5  # one side longer by it, the other shorter, at about the same area
STRETCH_SEED, LIMB_SEED, MOVER_SEED = (BENCHMARK_SEED + n for n in (1, 2, 3))
# One that turns, one that goes up and down, one that goes away; beside each a plain walk.
MOVER_MOTIONS = ("circle", "jump", "sink")
BYSTANDERS = ("walk right", "walk left", "rise")


def stretched_cases(
    names: Sequence[str], count: int, *, geometry: ModelGeometry
) -> list[BenchmarkCase]:
    """``count`` scenes of two creatures, one much too wide and one much too tall."""
    config = world_of(geometry)
    cases = []
    for i in range(count):
        for attempt in itertools.count():
            rng = np.random.default_rng([STRETCH_SEED, i, attempt])
            picked = [names[j] for j in rng.permutation(len(names))[:2]]
            scene = draw_scene(rng, config, objects=2, motions=picked)
            wide = replace(
                scene,
                creatures=tuple(
                    stretched(creature, STRETCH if k == i % 2 else 1 / STRETCH)
                    for k, creature in enumerate(scene.creatures)
                ),
            )
            if has_room(wide, geometry):
                cases.append(pocket_case(f"bodies-{i:03d}", wide, i, picked))
                break
    return cases


def stretched(creature: Creature, factor: float) -> Creature:
    """``creature`` ``factor`` times as wide and as much less tall, in every pose."""
    path = creature.path
    longer = replace(path, scale_x=path.scale_x * factor, scale_y=path.scale_y / factor)
    return replace(creature, path=longer)


def has_room(scene: Scene, geometry: ModelGeometry) -> bool:
    """Whether every creature can do its own and every other's path inside the picture, none hides
    another, and each fills a token."""
    creatures = scene.creatures
    for own, other in itertools.product(creatures, creatures):
        moved = replace(own.path, dx=other.path.dx, dy=other.path.dy)
        if not replace(own, path=moved).stays_inside(scene.config):
            return False
    for a, b in itertools.combinations(creatures, 2):
        apart = np.abs(a.centres() - b.centres())  # (T, 2), x and y
        reach = [
            a.radius * a.path.scale_x.max() + b.radius * b.path.scale_x.max(),
            a.radius * a.path.scale_y.max() + b.radius * b.path.scale_y.max(),
        ]
        if not (apart > reach).any(axis=1).all():
            return False
    first = render(scene).masks[:, 0]
    grid = mask_to_grid(first, geometry.grid_height, geometry.grid_width)
    return bool(grid.any(axis=(1, 2)).all())


def limbless_cases(
    names: Sequence[str], count: int, *, geometry: ModelGeometry
) -> list[BenchmarkCase]:
    """``count`` scenes of two ghosts, with the movements whose reference has limbs."""
    config = world_of(geometry)
    limbed = [name for name in names if reference_of(name, config)[1] in LIMBED]
    return draw_cases(
        limbed, {2: count}, geometry=geometry, prefix="limbs-", kinds=("ghost",), seed=LIMB_SEED
    )


@dataclass(frozen=True, eq=False)
class CrowdedReference:
    """A clip of two creatures; the first does the movement ``name``, and is a ``noun``."""

    name: str
    noun: str
    rendered: RenderedClip


def crowded_reference(name: str, geometry: ModelGeometry) -> CrowdedReference:
    """The reference of ``name`` with a bystander that walks or rises; the same name draws the same
    clip."""
    beside = next(other for other in BYSTANDERS if other != name)
    rng = np.random.default_rng([MOVER_SEED, list(MOTIONS).index(name)])
    scene = draw_scene(rng, world_of(geometry), objects=2, motions=[name, beside])
    return CrowdedReference(name, scene.creatures[0].noun, render(scene))


def mover_cases(
    names: Sequence[str], count: int, *, geometry: ModelGeometry
) -> list[BenchmarkCase]:
    """``count`` scenes of two creatures with the movements of MOVER_MOTIONS that are there."""
    chosen = [name for name in MOVER_MOTIONS if name in names]
    return draw_cases(chosen, {2: count}, geometry=geometry, prefix="movers-", seed=MOVER_SEED)
