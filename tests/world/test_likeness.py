"""Kind and colour of a creature are told by the drawing that is nearest to it."""

from dataclasses import replace

import numpy as np
import pytest

from motion_app.world.creatures import COLOURS, KINDS
from motion_app.world.likeness import likeliest_creature
from motion_app.world.world import Scene, WorldConfig, draw_scene, paint_background, render


@pytest.mark.parametrize("motion", ["jump", "crouch", "walk left"])
def test_every_creature_is_known_by_its_looks(motion):
    told, config = [], WorldConfig(frames=3)
    for i in range(10):
        scene = draw_scene(np.random.default_rng([3, i]), config, objects=1, motions=[motion])
        (creature,) = scene.creatures
        told.append((creature.colour, creature.kind))
        assert likeliest_creature(render(scene).frames) == told[-1]
    assert len({colour for colour, _ in told}) > 3 and len({kind for _, kind in told}) > 3


def test_the_wrong_ones_are_not_taken_for_it():
    """Each of all pairs has looks of its own."""
    config = WorldConfig(frames=1)
    scene = draw_scene(np.random.default_rng(4), config, objects=1, motions=["stand"])
    (creature,) = scene.creatures
    for colour in COLOURS:
        for kind in KINDS:
            other = replace(creature, colour=colour, kind=kind)
            drawn = render(Scene(config, scene.background, (other,)))
            assert likeliest_creature(drawn.frames) == (colour, kind)


def test_where_nothing_stands_out_there_is_none():
    assert likeliest_creature(paint_background(5, 64, 96)[None]) is None
