"""FlexiAct: what it adds to motion tokens that the whole picture sees."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_go_with_the_flow import a_random
from test_systems import scene

from motion_app.engine.adapters import GatedAdapters, adapted
from motion_app.engine.lora_files import read_adapter, write_adapter
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.engine.pipeline import MotionEngine
from motion_app.engine.systems.flexiact import FlexiActSettings
from motion_app.errors import RequestError
from motion_app.library.motion_file import read_motion
from motion_app.methods import METHOD_TABLE
from motion_app.scene import Motion


@pytest.fixture(scope="module")
def engine(tiny_checkpoint, tmp_path_factory) -> MotionEngine:
    folder = tmp_path_factory.mktemp("flexiact") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    engine = MotionEngine.load(folder, device="cpu")
    write_adapter(folder / "adapters" / "any-frame.safetensors", a_random(engine), {})
    return engine


@pytest.fixture(scope="module")
def motions(engine, tmp_path_factory) -> list[Motion]:
    """Two of tokens large enough to be heard."""
    folder, found = tmp_path_factory.mktemp("motions"), []
    for seed, name in enumerate(("right", "left")):
        tokens = MotionTokens.fresh(
            layers=2, tokens=4, width=32, scale=3.0, generator=torch.Generator().manual_seed(seed)
        )
        path = folder / f"{name}.safetensors"
        tokens.save(path, MotionMetadata(name=name, phrase=f"goes {name}", base=engine.fingerprint))
        found.append(read_motion(path))
    return found


def tuned(engine: MotionEngine, monkeypatch, **settings) -> None:
    monkeypatch.setitem(engine.defaults.systems, "flexiact", settings)


def test_the_bias_falls_as_a_cosine_between_its_levels():
    settings = FlexiActSettings()
    assert [settings.bias_at(level) for level in (999, 800, 700, 10)] == [1.0, 1.0, 0.0, 0.0]
    assert settings.bias_at(750) == pytest.approx(0.5)
    assert settings.bias_at(775) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_without_what_it_adds_it_is_the_concatenation_of_tokens(engine, motions, monkeypatch):
    plain = engine.generate(scene(motions, method="concat")).latents
    tuned(engine, monkeypatch, adapter=0.0, bias=0.0)
    assert np.array_equal(engine.generate(scene(motions, method="flexiact")).latents, plain)
    for added in ({"bias": 0.0}, {"adapter": 0.0}):
        tuned(engine, monkeypatch, **added)
        found = engine.generate(scene(motions, method="flexiact")).latents
        assert not np.allclose(found, plain, atol=1e-5), added
    assert np.array_equal(engine.generate(scene(motions, method="concat")).latents, plain)


def test_the_bias_weighs_the_motions_where_noise_is_strong_alone(engine, motions, monkeypatch):
    tuned(engine, monkeypatch, adapter=0.0, bias=math.log(2), full=1, none=0)
    request = scene(motions, method="flexiact")
    everywhere = engine.generate(request).latents
    twice = [replace(thing, strength=2.0) for thing in request.objects]
    plain = scene(motions, method="concat")
    doubled = engine.generate(replace(plain, objects=tuple(twice))).latents
    assert np.allclose(doubled, everywhere, atol=1e-5)
    assert not np.allclose(engine.generate(plain).latents, everywhere, atol=1e-4)
    tuned(engine, monkeypatch, adapter=0.0, bias=9.0, full=2000, none=1999)
    nowhere = engine.generate(scene(motions, method="flexiact")).latents
    assert np.array_equal(nowhere, engine.generate(scene(motions, method="concat")).latents)


def test_the_order_of_the_objects_changes_no_more_than_rounding(engine, motions):
    request = scene(motions, method="flexiact")
    request = request.with_options(prompt=request.full_prompt())
    turned = replace(request, objects=request.objects[::-1])
    one, other = engine.generate(request).latents, engine.generate(turned).latents
    assert np.allclose(one, other, atol=1e-4)


def test_only_a_share_of_the_adapter_acts(engine):
    layers = engine.backbone.attention_layers()
    file = engine.backbone.checkpoint.folder / "adapters" / "any-frame.safetensors"
    adapter, tokens = read_adapter(file, layers), torch.randn(1, 3, engine.geometry.width_tokens)
    plain = layers[0].linear("to_v")(tokens)
    with adapted(layers, GatedAdapters([adapter], share=0.7)):
        found = layers[0].linear("to_v")(tokens)
    assert torch.allclose(found - plain, 0.7 * adapter(0, "to_v", tokens), atol=1e-6)


def test_without_its_weights_it_says_where_they_are(tiny_checkpoint, motions):
    bare = MotionEngine.load(tiny_checkpoint, device="cpu")
    with pytest.raises(RequestError) as told:
        bare.generate(scene(motions, method="flexiact"))
    for word in ("FlexiAct", "shiyi0408/FlexiAct", "Apache 2.0", "any-frame"):
        assert word in str(told.value)
    assert METHOD_TABLE["flexiact"].family == METHOD_TABLE["concat"].family == "tokens"
