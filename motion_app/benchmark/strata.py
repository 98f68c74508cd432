"""Scenes of other kinds than the main ones, each kind with a table of its own.

Limits that the papers name: bodies unlike the reference's, limbs that the reference has and the
object lacks, references in which several things move. What a method has to understand a motion for:
motions that change a shape and go nowhere, references whose way is mirrored or that are of another
size. And sentences that name each object's motion, which the main scenes' never do: only there have
the masks of the text something to keep apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from motion_app.benchmark.references import (
    LARGER,
    MIRRORED,
    MOVER_SEED,
    WORDED,
    fits_enlarged,
    reference_view,
)
from motion_app.benchmark.scenes import (
    BENCHMARK_SEED,
    BenchmarkCase,
    draw_cases,
    pocket_case,
    reference_of,
    visible_scene,
    world_of,
)
from motion_app.geometry import ModelGeometry, mask_to_grid
from motion_app.world.creatures import KINDS, MOTIONS, SHAPE_MOTIONS
from motion_app.world.retold import mirrored
from motion_app.world.world import Creature, Scene, draw_scene, render

BODIES, LIMBS, MOVERS = "bodies", "limbs", "movers"
SHAPES, MIXED = "shapes", "mixed"
LIMITS = {
    BODIES: "bodies stretched to 1.5 times their width or height, as no training ever drew them",
    LIMBS: "ghosts, which have no limbs, with motions learned from creatures that have",
    MOVERS: "motions learned from clips in which another creature moves as well",
}
STRATA = {
    **LIMITS,
    SHAPES: "motions that go nowhere and change the body's shape, its turn or an arm",
    MIRRORED: "motions learned from mirrored references, to be done as those show them",
    LARGER: "motions learned from references in which the creature is 1.5 times as large",
    WORDED: 'sentences that name each motion ("jumps"), and motions learned with these words',
    MIXED: "two creatures of one kind that walk to the left and to the right, as their sentences "
    "say: noun and verb are the same words in both",
}
LIMBED = ("blob", "cat", "robot", "bird")  # arms or feet; a ghost has neither
ARMED = tuple(kind for kind, body in KINDS.items() if any(part.arm for part in body()))
STRETCH = 1.5  # one side longer by it, the other shorter, at about the same area
STRETCH_SEED, LIMB_SEED = BENCHMARK_SEED + 1, BENCHMARK_SEED + 2
SHAPE_SEED, MIRROR_SEED, LARGER_SEED, WORD_SEED, MIX_SEED = (
    BENCHMARK_SEED + n for n in (11, 12, 13, 14, 15)
)
# One that turns, one that goes up and down, one that goes away; beside each a plain walk.
MOVER_MOTIONS = ("circle", "jump", "sink")
MIRROR_MOTIONS = ("circle", "hop left", "tilted loop")  # none is another one's mirror image
WORD_MOTIONS = ("jump", "rise", "sway", "walk left", "walk right")
MIX_MOTIONS = ("walk left", "walk right")


def stretched_cases(
    names: Sequence[str], count: int, *, geometry: ModelGeometry
) -> list[BenchmarkCase]:
    """``count`` scenes of two creatures, one much too wide and one much too tall."""

    def stretch(scene: Scene, i: int) -> Scene:
        wide = (STRETCH if k == i % 2 else 1 / STRETCH for k in range(len(scene.creatures)))
        return replace(scene, creatures=tuple(map(stretched, scene.creatures, wide)))

    drawn = roomy_scenes(names, count, geometry, seed=STRETCH_SEED, change=stretch)
    return [
        pocket_case(f"bodies-{i:03d}", scene, i, picked) for i, (scene, picked) in enumerate(drawn)
    ]


def roomy_scenes(
    names: Sequence[str],
    count: int,
    geometry: ModelGeometry,
    *,
    seed: int,
    change: Callable[[Scene, int], Scene],
) -> list[tuple[Scene, list[str]]]:
    """``count`` scenes of two creatures with movements of ``names``, each as ``change`` makes it
    and drawn again until ``has_room`` is true of that."""
    found = []
    for i in range(count):
        for attempt in itertools.count():
            rng = np.random.default_rng([seed, i, attempt])
            picked = [names[j] for j in rng.permutation(len(names))[:2]]
            scene = change(draw_scene(rng, world_of(geometry), objects=2, motions=picked), i)
            if has_room(scene, geometry):
                found.append((scene, picked))
                break
    return found


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


def mover_cases(
    names: Sequence[str], count: int, *, geometry: ModelGeometry
) -> list[BenchmarkCase]:
    """``count`` scenes of two creatures with the movements of MOVER_MOTIONS that are there."""
    chosen = [name for name in MOVER_MOTIONS if name in names]
    return draw_cases(chosen, {2: count}, geometry=geometry, prefix="movers-", seed=MOVER_SEED)


def shape_cases(count: int, *, geometry: ModelGeometry) -> list[BenchmarkCase]:
    """``count`` scenes of one and as many of two creatures with arms, each with another one of
    SHAPE_MOTIONS."""
    return draw_cases(
        SHAPE_MOTIONS,
        {1: count, 2: count},
        geometry=geometry,
        prefix="shapes-",
        kinds=ARMED,
        seed=SHAPE_SEED,
    )


def mirrored_cases(
    names: Sequence[str], count: int, *, geometry: ModelGeometry
) -> list[BenchmarkCase]:
    """``count`` scenes of two creatures that do those of MIRROR_MOTIONS that are there the other
    way round, as their references show it."""
    chosen = [name for name in MIRROR_MOTIONS if name in names]

    def turn(scene: Scene, i: int) -> Scene:
        return replace(scene, creatures=tuple(map(mirrored, scene.creatures)))

    drawn = roomy_scenes(chosen, count, geometry, seed=MIRROR_SEED, change=turn)
    view = partial(reference_view, MIRRORED)
    return [
        pocket_case(f"mirrored-{i:03d}", scene, i, picked, view=view)
        for i, (scene, picked) in enumerate(drawn)
    ]


def larger_cases(
    names: Sequence[str], count: int, *, geometry: ModelGeometry
) -> list[BenchmarkCase]:
    """``count`` scenes of two creatures with the movements whose reference has room at 1.5 times
    its size."""
    config = world_of(geometry)
    chosen = larger_names(names, geometry)
    cases = []
    for i in range(count):
        scene, picked = visible_scene(chosen, 2, config, geometry, [LARGER_SEED, i])
        view = partial(reference_view, LARGER)
        cases.append(pocket_case(f"larger-{i:03d}", scene, i, picked, view=view))
    return cases


def larger_names(names: Sequence[str], geometry: ModelGeometry) -> list[str]:
    """Those of ``names`` whose reference has room at 1.5 times its size."""
    return [name for name in names if fits_enlarged(name, world_of(geometry))]


def worded_cases(
    names: Sequence[str], count: int, *, geometry: ModelGeometry
) -> list[BenchmarkCase]:
    """``count`` scenes of two creatures whose sentences name those of WORD_MOTIONS that are there
    and that they are given."""
    chosen = [name for name in WORD_MOTIONS if name in names]
    drawn = draw_cases(chosen, {2: count}, geometry=geometry, prefix="worded-", seed=WORD_SEED)
    return [worded(case) for case in drawn]


def mixed_cases(count: int, *, geometry: ModelGeometry) -> list[BenchmarkCase]:
    """``count`` scenes of two creatures of one kind that walk apart or to each other, as their
    sentences say."""
    cases = []
    for i in range(count):
        config = world_of(geometry, kinds=(list(KINDS)[i % len(KINDS)],))
        scene, picked = visible_scene(MIX_MOTIONS, 2, config, geometry, [MIX_SEED, i])
        cases.append(worded(pocket_case(f"mixed-{i:03d}", scene, i, picked)))
    return cases


def worded(case: BenchmarkCase) -> BenchmarkCase:
    """``case`` with each object's motion named in its sentence."""
    objects = []
    for thing in case.objects:
        words = MOTIONS[thing.motion].words
        sentence = thing.sentence.replace(thing.phrase, words)
        objects.append(replace(thing, sentence=sentence, phrase=words))
    return replace(case, objects=tuple(objects))
