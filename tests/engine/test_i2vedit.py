"""I2VEdit: noise where a clip is flat, attention that is the clip's, LoRAs that are averaged."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_systems import drifting, scene, some_adapter

from motion_app.engine.adapters import Adapter
from motion_app.engine.lora_files import read_motion_lora, write_motion_lora
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.engine.pipeline import MotionEngine
from motion_app.engine.systems.anyv2v import Inverted
from motion_app.engine.systems.i2vedit import (
    I2VEdit,
    attend_matched,
    difference,
    flat_areas,
    noise_in_flat_areas,
)
from motion_app.errors import MotionFileError, RequestError
from motion_app.library.motion_file import check_motion_file, read_motion
from motion_app.methods import METHOD_TABLE
from motion_app.scene import Motion

TEXT, FRAMES, CELLS, WIDTH = 3, 3, 4, 8
VIDEO = FRAMES * CELLS


@pytest.fixture(scope="module")
def engine(tiny_checkpoint) -> MotionEngine:
    return MotionEngine.load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def motions(engine, tmp_path_factory) -> list[Motion]:
    folder, found = tmp_path_factory.mktemp("loras"), []
    for seed, (name, direction) in enumerate((("right", 1), ("left", -1))):
        path = folder / f"{name}.safetensors"
        told = MotionMetadata(name=name, phrase="goes", base=engine.fingerprint)
        write_motion_lora(path, some_adapter(engine, seed, deviation=0.2), told)
        drifting(direction).save_into(path)
        found.append(read_motion(path))
    return found


def tuned(engine: MotionEngine, monkeypatch, **settings) -> None:
    monkeypatch.setitem(engine.defaults.systems, "i2vedit", settings)


def alone(motions, **options):
    request = scene([motions[0], None], method="i2vedit", **options)
    return request.with_options(prompt=request.full_prompt())


def test_noise_comes_where_nothing_is_to_be_seen_and_nowhere_else():
    frames = np.full((2, 30, 45, 3), 200, np.uint8)
    frames[:, :, 20:] = np.random.default_rng(0).integers(0, 256, (2, 30, 25, 3))
    frames[0, :, :4] = 0  # black is flat, too
    made = noise_in_flat_areas(frames, noise=0.02, flat=1e-3, seed=3)
    change = made - frames
    assert (change[:, :, 24:] == 0).all() and (change[:, :, 6:16] != 0).all()
    assert change[:, :, 6:16].std() == pytest.approx(0.02 * 255, rel=0.05)
    assert np.array_equal(made, noise_in_flat_areas(frames, noise=0.02, flat=1e-3, seed=3))
    assert np.array_equal(noise_in_flat_areas(frames, noise=0.0, flat=1e-3, seed=3), frames)
    slope = np.repeat(np.arange(0, 96, 2, dtype=np.uint8)[:, None, None], 40, 1).repeat(3, 2)
    assert flat_areas(slope, 1e-3).all(), "a slope along one side has one singular value"


def tokens(seed: int, batch: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, 2, TEXT + VIDEO, WIDTH, generator=generator) for _ in range(3))


def by_hand(own, query, key, *, across: bool, same: torch.Tensor) -> torch.Tensor:
    """``attend_matched`` from the whole matrix of logits; ``same`` (V,) bool."""
    logits = own[0] @ own[1].mT / WIDTH**0.5
    others = (query @ key.mT / WIDTH**0.5).expand(2, -1, -1, -1)
    frame = torch.arange(VIDEO) // CELLS
    alike = frame[:, None] == frame
    taken = (alike & same[:, None]) | (~alike & across)
    logits[:, :, TEXT:, TEXT:] = torch.where(taken, others, logits[:, :, TEXT:, TEXT:])
    return logits.softmax(dim=-1) @ own[2]


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("agree", [0.0, 0.4, 1.1])
def test_attention_is_the_clips_where_it_says_so(across, agree):
    own, other = tokens(0), tokens(1, batch=1)
    query, key = (part[:, :, TEXT:] for part in other[:2])
    maps = []
    for q, k in ((own[0][-1:, :, TEXT:], own[1][-1:, :, TEXT:]), (query, key)):
        parts = [
            (a @ b.mT / WIDTH**0.5).softmax(-1).mean((0, 1))
            for a, b in zip(q.chunk(FRAMES, 2), k.chunk(FRAMES, 2), strict=True)
        ]
        maps.append(torch.cat(parts))  # (V, CELLS)
    same = (maps[0] - maps[1]).abs().sum(-1) / 2 < agree
    assert 0 < same.sum() < VIDEO or agree != 0.4, "some agree and some do not"
    made = attend_matched(own, query, key, text=TEXT, frames=FRAMES, across=across, agree=agree)
    assert torch.allclose(made, by_hand(own, query, key, across=across, same=same), atol=1e-5)


def test_maps_differ_by_0_to_1():
    query, key = (part[:1, :, TEXT:] for part in tokens(2)[:2])
    assert difference(query, key, query, key).abs().max() == 0
    far = difference(50 * key, key, -50 * key, key)
    assert (far > 0.9).all() and (far <= 1 + 1e-6).all()


def test_one_object_starts_from_its_clips_noise_and_several_from_their_mean(engine, motions):
    noise = [torch.randn(1, 3, 4, 4, 6, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    system = I2VEdit.__new__(I2VEdit)
    system.scene = type("Scene", (), {"timesteps": (999,)})()
    clips = [
        Inverted({999: strength * n}, n) for strength, n in zip((0.9, 0.7), noise, strict=True)
    ]
    system.clips = clips[:1]
    assert torch.equal(system.initial_latents(noise[1]), 0.9 * noise[0])
    system.clips = clips
    mean = system.initial_latents(noise[1])
    assert mean.std().item() == pytest.approx(0.8, abs=0.03)
    direction = 0.9 * noise[0] + 0.7 * noise[1]
    assert torch.allclose(mean / mean.std(), direction / direction.std(), atol=1e-5)
    system.clips = [clips[0]] * 3
    assert torch.allclose(system.initial_latents(noise[1]), 0.9 * noise[0], atol=1e-6)


def test_two_of_one_motion_have_its_lora_once(engine, motions, monkeypatch):
    """Averaged, not added up; beside the attention, which several do not take over."""
    tuned(engine, monkeypatch, across=0.0, inner=0.0, same=0.0)
    one = engine.generate(alone(motions)).latents
    both = engine.generate(scene([motions[0], motions[0]], method="i2vedit")).latents
    assert np.allclose(one, both, atol=1e-4)


def test_attention_is_matched_for_one_object_alone(engine, motions, monkeypatch):
    one, two = alone(motions), scene(motions, method="i2vedit")
    matched, mixed = engine.generate(one), engine.generate(two)
    tuned(engine, monkeypatch, across=0.0, inner=0.0, same=0.0)
    own = engine.generate(one)
    assert not np.allclose(matched.latents, own.latents, atol=1e-4)
    again = engine.generate(two)
    assert np.array_equal(again.latents, mixed.latents)
    assert again.calls == own.calls == 6, "inversions are kept, and no clip runs beside"
    assert matched.calls > 6


def test_a_weaker_motion_has_less_of_its_lora(engine, motions, monkeypatch):
    tuned(engine, monkeypatch, across=0.0, inner=0.0, same=0.0)
    request = alone(motions)
    made = {}
    for strength in (0.0, 0.5, 1.0):
        weaker = replace(request.objects[0], strength=strength)
        told = replace(request, objects=(weaker, *request.objects[1:]))
        made[strength] = engine.generate(told).latents
    gaps = [np.abs(made[0.0] - made[s]).mean() for s in (0.5, 1.0)]
    assert 0 < gaps[0] < gaps[1]


def test_the_clip_is_taken_back_by_the_model_with_its_lora(engine, motions, tmp_path):
    """Another LoRA of the same clip begins from other noise."""
    path = tmp_path / "again.safetensors"
    told = MotionMetadata(name="again", phrase="goes", base=engine.fingerprint)
    write_motion_lora(path, some_adapter(engine, 7, deviation=0.2), told)
    drifting(1).save_into(path)
    kept = len(engine.features)
    engine.generate(alone(motions))
    first = {key: found for key, found in engine.features.items() if key[0] == "inverted"}
    engine.generate(alone([read_motion(path)]))
    now = {key: found for key, found in engine.features.items() if key[0] == "inverted"}
    (new,) = set(now) - set(first)
    (old,) = [key for key in first if key[:5] == new[:5]]
    level = max(now[new].latents)
    assert not torch.allclose(now[new].latents[level], first[old].latents[level], atol=1e-3)
    assert len(engine.features) > kept


def test_a_file_is_read_back_as_it_was_learned(engine, motions):
    layers = engine.backbone.attention_layers()
    adapter = some_adapter(engine, 0, deviation=0.2)
    read = read_motion_lora(motions[0].path, layers, base=engine.fingerprint)
    states = torch.randn(1, 5, engine.geometry.width_tokens)
    for place in adapter.down:
        assert torch.allclose(read(1, place, states), adapter(1, place, states), atol=1e-2)
    checked = check_motion_file(
        motions[0].path, base=engine.fingerprint, layers=len(layers), width=layers[0].width
    )
    assert checked.has_lora and not checked.has_tokens and not checked.has_pack


def test_a_file_of_another_model_or_shape_is_refused(engine, motions, tmp_path):
    layers = engine.backbone.attention_layers()
    with pytest.raises(MotionFileError, match="base model"):
        read_motion_lora(motions[0].path, layers, base="f" * 64)
    path = tmp_path / "odd.safetensors"
    told = MotionMetadata(name="odd", phrase="goes", base=engine.fingerprint)
    whole = some_adapter(engine, 0)

    def written(change) -> None:
        down, up = (
            {name: part.detach().clone() for name, part in side.items()}
            for side in (whole.down, whole.up)
        )
        change(down, up)
        write_motion_lora(path, Adapter(down, up), told)

    def shorter(down, up) -> None:
        for side in (down, up):
            side.update({name: part[:1] for name, part in side.items()})

    written(shorter)
    with pytest.raises(MotionFileError, match="has 2 layers"):
        read_motion_lora(path, layers, base=engine.fingerprint)
    with pytest.raises(MotionFileError, match="layers 1, the model 2"):
        check_motion_file(path, layers=2)
    written(lambda down, up: up.update(to_v=up["to_v"][:, :, :2]))
    for reading in (
        lambda: read_motion_lora(path, layers, base=engine.fingerprint),
        lambda: check_motion_file(path),
    ):
        with pytest.raises(MotionFileError, match="to_v"):
            reading()
    with pytest.raises(MotionFileError, match="NaN"):
        written(lambda down, up: down["to_q"].fill_(float("nan")))
    tokens = tmp_path / "tokens.safetensors"
    MotionTokens.fresh(layers=2, tokens=4, width=32).save(tokens, told)
    with pytest.raises(MotionFileError, match="no whole LoRA"):
        read_motion_lora(tokens, layers, base=engine.fingerprint)


def test_such_a_motion_is_for_this_method_alone(engine, motions, tmp_path):
    for method in METHOD_TABLE:
        needs = METHOD_TABLE[method]
        if not (needs.tokens or needs.pack) or needs.encoder:
            continue
        with pytest.raises(RequestError, match='"right" of object 1 lacks .*learned by "i2vedit"'):
            engine.generate(scene(motions, method=method))
    path = tmp_path / "tokens.safetensors"
    told = MotionMetadata(name="tokens", phrase="goes", base=engine.fingerprint)
    MotionTokens.fresh(layers=2, tokens=4, width=32).save(path, told)
    drifting(1).save_into(path)
    with pytest.raises(RequestError, match="needs a LoRA learned by I2VEdit"):
        engine.generate(alone([read_motion(path)]))
