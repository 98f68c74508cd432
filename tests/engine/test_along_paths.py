"""Objects along paths that were drawn: what they are told, what holds them, and that nothing else
is changed by it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_systems import HEIGHT, WIDTH, engine, libraries, scene

from motion_app.engine.systems import placing
from motion_app.engine.systems import scene as systems_scene
from motion_app.engine.systems.paste import AlongPaths, PathSettings
from motion_app.engine.systems.placing import Course, drawn_object, pasted
from motion_app.engine.systems.scene import SystemScene, Together, Unsteered
from motion_app.engine.systems.table import build_system, chosen_settings
from motion_app.errors import CheckpointError
from motion_app.geometry import GenerationDefaults
from motion_app.library.library import Library
from motion_app.methods import CLIPS, METHOD_TABLE
from motion_app.request.paths import way_along
from motion_app.request.request import build_request, parse_request
from motion_app.scene import GenerationRequest

__all__ = ["engine", "libraries"]  # fixtures
RIGHT = ((0.2, 0.4), (0.5, 0.4), (0.5, 0.7))
LEARNED = ("fleximmt", "none", "concat", "flexiact", "i2vedit")
BY_CLIP = [name for name, method in METHOD_TABLE.items() if method.family == CLIPS]


@pytest.fixture
def motions(request, libraries):
    """Of the test's method where that has a kind of its own."""
    call = getattr(request.node, "callspec", None)
    method = None if call is None else call.params.get("method")
    return libraries.get(method, libraries["flexiact"])


def drawn(motions, *, method: str, motion: int | None = 1, **options) -> GenerationRequest:
    """The scene's first object along a path, its second with a motion or left to its words."""
    other = None if motion is None else motions[motion]
    request = scene([None, other], method=method, **options)
    first = replace(request.objects[0], path=RIGHT)
    return replace(request, objects=(first, request.objects[1]))


def told(engine, request: GenerationRequest) -> SystemScene:
    text = engine.backbone.prompts.encode("A red robot is moving.", guided=True)
    request = request.with_numbers(steps=4, guidance=6.0)
    return SystemScene.of(engine.backbone, request, text=text, features={})


def test_the_object_goes_from_its_own_place_along_the_line(engine):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4:20, 4:20] = True
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    thing = drawn_object(picture, mask, RIGHT, engine.geometry)
    count = engine.geometry.frames
    way = way_along(RIGHT, count, height=HEIGHT, width=WIDTH)
    assert Course.of(thing).path() == pytest.approx(np.array([11.5, 11.5]) + way)
    assert thing.clip.frames.shape == (count, HEIGHT, WIDTH, 3)
    assert np.array_equal(thing.clip.frames[0], picture)
    assert np.array_equal(thing.masks[0], mask)
    y, x = (part.mean() for part in np.nonzero(thing.masks[-1]))
    assert (x, y) == pytest.approx(np.array([11.5, 11.5]) + way[-1], abs=0.5)


def test_who_leaves_the_picture_keeps_its_size_and_its_way(engine):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4:20, 4:20] = True
    picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    thing = drawn_object(picture, mask, ((0.5, 0.5), (3.0, 0.5)), engine.geometry)
    course = Course.of(thing)
    assert not thing.masks[-1].any() and course.path()[-1, 0] > 2 * WIDTH
    assert set(course.sizes) == {16.0} and course.scale == 1


@pytest.mark.parametrize("method", LEARNED)
def test_beside_what_was_learned_the_path_acts_and_without_one_all_is_as_before(
    method, engine, motions
):
    plain = scene([None, motions[1]], method=method)
    before = engine.generate(plain)
    led = engine.generate(drawn(motions, method=method))
    assert np.isfinite(led.latents).all() and not np.array_equal(led.latents, before.latents)
    assert led.recipe["paths"] == {"start": 0.08, "hold": 0.75, "behind": 0.5}
    assert "paths" not in before.recipe and "path" not in before.recipe["objects"][0]
    after = engine.generate(plain)
    assert np.array_equal(after.latents, before.latents) and after.recipe == before.recipe
    assert engine.backbone.pipe.begin is None


@pytest.mark.parametrize("method", BY_CLIP)
def test_methods_that_are_told_clips_are_told_the_path_as_one(method, engine, motions):
    stock = engine.generate(scene([None, None], method=method))
    alone = engine.generate(drawn(motions, method=method, motion=None))
    assert np.isfinite(alone.latents).all()
    assert not np.array_equal(alone.latents, stock.latents)
    assert "system" in alone.recipe and "paths" not in alone.recipe
    things = told(engine, drawn(motions, method=method)).objects
    assert sorted(thing.centres is not None for thing in things) == [False, True]


@pytest.mark.parametrize("method", ["fleximmt", "anyv2v"])
def test_an_object_is_pasted_into_a_clip_of_its_own_for_who_reads_it_alone_and_once(
    method, engine, motions, monkeypatch
):
    pastes = []

    def counted(image, placed, count):
        pastes.append(len(placed))
        return pasted(image, placed, count)

    monkeypatch.setattr(placing, "pasted", counted)
    asked = drawn(motions, method=method, motion=None)
    first = engine.generate(asked)
    assert pastes == [1] * (method in BY_CLIP)

    def eager(*given):
        thing = drawn_object(*given)
        assert thing.clip is thing.clip and thing.masks is thing.clip.masks
        return thing

    monkeypatch.setattr(systems_scene, "drawn_object", eager)
    second = engine.generate(asked)
    assert np.array_equal(second.latents, first.latents) and second.recipe == first.recipe
    assert len(pastes) == 1 + (method in BY_CLIP)


@pytest.mark.parametrize("method", ["fleximmt", "time-to-move"])
def test_a_recipe_with_a_path_replays(method, engine, motions):
    video = engine.generate(drawn(motions, method=method))
    request = build_request(
        parse_request(video.recipe),
        geometry=engine.geometry,
        library=Library([motions[0].path.parent]),
        base=engine.fingerprint,
    )
    assert request.objects[0].path == RIGHT
    again = engine.generate(request)
    assert np.array_equal(again.latents, video.latents) and again.recipe == video.recipe


def test_the_way_is_held_for_a_while_and_the_object_for_longer(engine, motions):
    things = told(engine, drawn(motions, method="fleximmt"))
    system = AlongPaths(things, PathSettings(start=0.25, behind=0.5, hold=0.75))
    noise = torch.randn(system.latents.shape)
    system.initial_latents(noise)
    latents = torch.randn(system.latents.shape)
    changed = [system.after_step(step, latents) != latents for step in range(4)]
    assert changed[0].all()
    for step, where in ((1, system.way), (2, system.inside)):
        assert torch.equal(changed[step], where.expand_as(latents))
    assert not changed[3].any()
    assert (system.way & ~system.inside).any() and not (system.inside & ~system.way).any()
    fox = torch.from_numpy(things.others[::2, ::2])  # its place, not the object's, is left free
    assert not (system.way & ~system.inside)[0, :, 0, fox].any()


def test_two_systems_act_one_after_the_other(engine, motions):
    class Adds(Unsteered):
        def __init__(self, number):
            self.number = number

        def initial_latents(self, noise):
            return 2 * noise + self.number

        def after_step(self, step, latents):
            return 3 * latents + self.number

    both = Together([Adds(1.0), Adds(5.0)])
    assert both.initial_latents(torch.ones(1)).item() == 11
    assert both.after_step(0, torch.ones(1)).item() == 17
    one = drawn(motions, method="fleximmt")
    assert isinstance(build_system(one, told(engine, one)), AlongPaths)
    assert build_system(scene(motions, method="fleximmt"), told(engine, one)) is None


def test_a_checkpoints_own_settings_of_paths_count_and_unknown_ones_are_refused(motions):
    request = drawn(motions, method="none")
    own = GenerationDefaults(systems={"paths": {"hold": 0.3}})
    assert chosen_settings(request, own) == {"paths": PathSettings(hold=0.3)}
    assert chosen_settings(scene(motions, method="none"), own) == {}
    with pytest.raises(CheckpointError, match='"paths" are wrong.*pull'):
        chosen_settings(request, GenerationDefaults(systems={"paths": {"pull": 1}}))
