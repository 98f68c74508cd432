"""The systems that are told a clip: laws that hold for every one of them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from motion_app.engine.adapters import PLACES, Adapter
from motion_app.engine.lora_files import write_adapter, write_motion_lora
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.engine.pipeline import MotionEngine
from motion_app.engine.systems.table import SYSTEMS, system_settings
from motion_app.errors import CheckpointError, GenerationCancelled, RequestError
from motion_app.geometry import GenerationDefaults
from motion_app.library.library import Library
from motion_app.library.motion_clip import MotionClip
from motion_app.library.motion_file import read_motion
from motion_app.methods import CLIP_METHODS, METHOD_TABLE
from motion_app.models.adapters import ADAPTERS
from motion_app.request.request import build_request, parse_request
from motion_app.scene import GenerationRequest, Options, SceneObject

HEIGHT, WIDTH, FRAMES = 32, 48, 13


@pytest.fixture(scope="module")
def engine(tiny_checkpoint, tmp_path_factory) -> MotionEngine:
    """With all weights that systems need beside the model's own."""
    folder = tmp_path_factory.mktemp("systems") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    engine = MotionEngine.load(folder, device="cpu")
    for name in ADAPTERS:
        write_adapter(folder / "adapters" / f"{name}.safetensors", some_adapter(engine, 1), {})
    return engine


def some_adapter(engine: MotionEngine, seed: int, *, deviation: float = 0.02) -> Adapter:
    """One that changes something."""
    adapter = Adapter.fresh(
        engine.backbone.attention_layers(),
        rank=4,
        alpha=4,
        places=PLACES,
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        for up in adapter.up.values():
            up.normal_(std=deviation, generator=torch.Generator().manual_seed(seed))
    return adapter


def drifting(direction: int) -> MotionClip:
    """A bright square that drifts over noise."""
    rng = np.random.default_rng(direction + 5)
    frames = np.repeat(rng.integers(0, 90, (1, HEIGHT, WIDTH, 3), dtype=np.uint8), FRAMES, axis=0)
    masks = np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    for t in range(FRAMES):
        left = 18 + direction * t
        masks[t, 10:22, left : left + 12] = True
    frames[masks] = (250, 200, 40)
    return MotionClip(frames, 8.0, masks)


def write_learned(engine: MotionEngine, method: str, path: Path) -> None:
    """A motion file without a clip, of what ``method`` needs to have been learned."""
    name = path.stem
    told = MotionMetadata(name=name, phrase=f"goes {name}", base=engine.fingerprint)
    if METHOD_TABLE[method].lora:
        write_motion_lora(path, some_adapter(engine, len(name)), told)
    else:
        MotionTokens.fresh(layers=2, tokens=4, width=32).save(path, told)


@pytest.fixture(scope="module")
def libraries(engine, tmp_path_factory):
    """For each method three motions with a clip: to the right, to the left, and standing still."""
    kinds, found = {}, {}
    for method in SYSTEMS:
        kind = METHOD_TABLE[method].lora
        if kind not in kinds:
            folder = tmp_path_factory.mktemp("motions")
            paths = [folder / f"{name}.safetensors" for name in ("right", "left", "still")]
            for path, direction in zip(paths, (1, -1, 0), strict=True):
                write_learned(engine, method, path)
                drifting(direction).save_into(path)
            kinds[kind] = [read_motion(path) for path in paths]
        found[method] = kinds[kind]
    return found


@pytest.fixture
def motions(method, libraries):
    return libraries[method]


def scene(motions, **options) -> GenerationRequest:
    masks = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    masks[0, 4:20, 4:20], masks[1, 8:28, 28:44] = True, True
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    objects = (
        SceneObject(masks[0], "A red robot is moving.", motion=motions[0], name="robot"),
        SceneObject(masks[1], "A blue fox is moving.", motion=motions[1], name="fox"),
    )
    return GenerationRequest(picture, objects, Options(**{"seed": 5, **options}))


def test_the_table_of_methods_and_the_systems_are_one():
    assert set(CLIP_METHODS) < set(SYSTEMS) < set(METHOD_TABLE)
    assert all(METHOD_TABLE[name].told and not METHOD_TABLE[name].without for name in CLIP_METHODS)


@pytest.mark.parametrize("method", SYSTEMS)
def test_without_a_motion_it_is_the_stock_pipeline_bit_for_bit(method, engine, motions):
    stock = engine.generate(scene(motions, method="none")).latents
    unmoved = engine.generate(scene([None, None], method=method))
    assert np.array_equal(unmoved.latents, stock) and unmoved.calls == 6
    moved = engine.generate(scene(motions, method=method))
    assert np.isfinite(moved.latents).all() and not np.array_equal(moved.latents, stock)
    assert np.array_equal(engine.generate(scene([None, None], method=method)).latents, stock)


@pytest.mark.parametrize("method", CLIP_METHODS)
def test_the_order_in_which_objects_are_listed_says_nothing(method, engine, motions):
    request = scene(motions, method=method)
    request = request.with_options(prompt=request.full_prompt())
    turned = replace(request, objects=request.objects[::-1])
    one, other = engine.generate(request), engine.generate(turned)
    assert np.array_equal(one.latents, other.latents)
    assert np.array_equal(one.masks, other.masks[::-1])


@pytest.mark.parametrize("method", SYSTEMS)
def test_an_object_without_a_motion_takes_no_part(method, engine, motions):
    request = scene([motions[0], None], method=method)
    request = request.with_options(prompt=request.full_prompt())
    alone = replace(
        request.with_options(prompt="A red robot is moving. A blue fox."),
        objects=request.objects[:1],
    )
    beside = replace(request, objects=(request.objects[0],))
    beside = beside.with_options(prompt=alone.options.prompt)
    assert np.array_equal(engine.generate(beside).latents, engine.generate(alone).latents)


@pytest.mark.parametrize("method", SYSTEMS)
def test_cancelling_stops_within_the_step_and_leaves_nothing_behind(method, engine, motions):
    before = dict(engine.backbone.transformer.attn_processors)
    seen = []

    def stop(report) -> bool:
        seen.append(report.step)
        return report.step < 2

    with pytest.raises(GenerationCancelled, match="after step 2 of 3"):
        engine.generate(scene(motions, method=method), stop)
    assert seen == [1, 2]
    transformer = engine.backbone.transformer
    assert transformer.attn_processors == before and engine.backbone.pipe.begin is None
    assert not transformer._forward_hooks and not transformer._forward_pre_hooks
    assert all(not part.requires_grad or part.grad is None for part in transformer.parameters())


@pytest.mark.parametrize("method", SYSTEMS)
def test_a_recipe_replays_and_tells_the_settings(method, engine, motions):
    video = engine.generate(scene(motions, method=method))
    assert video.recipe["system"] == vars(system_settings(method, engine.defaults))
    library = Library([motions[0].path.parent])
    request = build_request(
        parse_request(video.recipe),
        geometry=engine.geometry,
        library=library,
        base=engine.fingerprint,
    )
    again = engine.generate(request)
    assert np.array_equal(again.latents, video.latents) and again.recipe == video.recipe


@pytest.mark.parametrize("method", CLIP_METHODS)
def test_a_motion_without_its_clip_is_refused_with_what_to_do(method, engine, motions, tmp_path):
    path = tmp_path / "bare.safetensors"
    write_learned(engine, method, path)
    with pytest.raises(RequestError, match=r'"bare" of object 1 lacks .*add-clip'):
        engine.generate(scene([read_motion(path), motions[1]], method=method))
    clip = drifting(1)
    MotionClip(clip.frames, clip.fps).save_into(path)
    with pytest.raises(RequestError, match="masks of what moves"):
        engine.generate(scene([read_motion(path), motions[1]], method=method))


def test_settings_of_a_checkpoint_that_no_system_has_are_refused():
    method = CLIP_METHODS[0]
    with pytest.raises(CheckpointError, match="sharpness"):
        system_settings(method, GenerationDefaults(systems={method: {"sharpness": 3}}))


@pytest.mark.parametrize("method", CLIP_METHODS)
def test_a_system_runs_on_the_cpu_without_gradients_left_on(method, engine, motions):
    engine.generate(scene(motions, method=method))
    assert torch.is_grad_enabled()
