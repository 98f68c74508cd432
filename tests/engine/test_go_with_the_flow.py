"""Go-with-the-Flow: noise that is white and moves, and the adapter of a model that follows it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_anyv2v import sampled, scene, told

from motion_app.engine.adapters import PLACES, Adapter
from motion_app.engine.lora_files import read_adapter, write_adapter
from motion_app.engine.pipeline import MotionEngine
from motion_app.engine.systems.go_with_the_flow import (
    FlowNoiseSettings,
    GoWithTheFlow,
    clip_flow,
    placed_flow,
)
from motion_app.engine.systems.noise_warping import Canvas, degraded, links, warped, warped_noise
from motion_app.engine.systems.placing import ToldObject, latent_times
from motion_app.engine.systems.scene import Unsteered
from motion_app.errors import CheckpointError, RequestError
from motion_app.library.motion_clip import MotionClip
from motion_app.models import adapters
from motion_app.models.adapters import (
    NeededAdapter,
    PublishedAdapter,
    find_adapter,
    offered_methods,
)
from motion_app.models.checkpoint import Checkpoint
from motion_app.settings import ROOT
from motion_app.world.world import render_reference

POCKET = Checkpoint.read(ROOT / "checkpoints" / "pocket").geometry
TIMES = tuple(range(0, 13, 2))


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wild_flow(batch: int = 6) -> torch.Tensor:
    """Smooth flow that goes everywhere, grows and shrinks, and leaves the picture: 12 steps."""
    coarse = torch.randn(batch * 12, 2, 4, 6, generator=drawing(3)) * 3
    fine = torch.nn.functional.interpolate(coarse, size=(32, 48), mode="bilinear")
    return fine.movedim(1, -1).unflatten(0, (batch, 12))


def noise_of(flow: torch.Tensor, *, seed: int = 0, fineness: int = 2) -> torch.Tensor:
    draw = drawing(seed)
    return warped_noise(flow, TIMES, channels=8, ratio=4, fineness=fineness, draw=draw)


def test_warped_noise_is_unit_normal_and_white_in_every_frame():
    noise = noise_of(wild_flow())  # (6, 7, 8, 8, 12)
    for frame in (noise[:, 0], noise[:, 3], noise[:, -1]):
        count = frame.numel()
        few = 4 / count**0.5  # four deviations of a mean of so many
        assert abs(frame.mean()) < few
        assert abs(frame.square().mean() - 1) < few * 2**0.5
        assert abs(frame.pow(4).mean() - 3) < few * 96**0.5
        for neighbours in (
            frame[..., 1:] * frame[..., :-1],
            frame[..., 1:, :] * frame[..., :-1, :],
            frame[:, 1:] * frame[:, :-1],
        ):
            assert abs(neighbours.mean()) < 4 / neighbours.numel() ** 0.5


def test_what_stands_still_keeps_its_noise_exactly():
    noise = noise_of(torch.zeros(1, 12, 32, 48, 2))
    assert all(torch.equal(noise[:, 0], noise[:, f]) for f in range(7))
    part = torch.zeros(1, 12, 32, 48, 2)
    part[:, :, :16, :16, 0] = 0.5
    beside = noise_of(part)
    far = beside[..., 5:, :]
    assert torch.allclose(far, far[:, :1].expand_as(far), atol=1e-5)


@pytest.mark.parametrize("fineness", [1, 2])
def test_noise_goes_where_the_flow_goes(fineness):
    flow = torch.zeros(1, 12, 32, 48, 2)
    flow[..., 0], flow[..., 1] = 2.0, 1.0  # two frames: a latent to the right, half one down
    noise = noise_of(flow, fineness=fineness)
    shifted = noise[:, 4, :, 2:, 4:]  # frame 8: 16 px to the right, 8 down
    assert torch.allclose(shifted, noise[:, 0, :, :-2, :-4], atol=1e-5)
    assert (noise[:, 4] * noise[:, 0]).mean().abs() < 0.1


def test_flow_moves_what_is_inside_and_leaves_new_noise_behind():
    flow = torch.zeros(1, 12, 32, 48, 2)
    for t in range(12):
        flow[:, t, 8:24, 4 + 2 * t : 20 + 2 * t, 0] = 2.0
    noise = noise_of(flow)
    together = [
        (noise[0, 0, :, 2:6, 1:5] * noise[0, f, :, 2:6, 1 + f : 5 + f]).mean() for f in (2, 6)
    ]
    stayed = (noise[0, 0, :, 2:6, 1:5] * noise[0, 6, :, 2:6, 1:5]).mean()
    assert min(together) > 0.9 > 0.3 > abs(stayed)


def test_links_reach_every_cell_that_flow_from_inside_can():
    flow = torch.zeros(1, 4, 6, 2)
    flow[..., 0] = 2.0
    sources, targets = links(flow)
    pairs = set(zip(sources.tolist(), targets.tolist(), strict=True))
    assert {(0, 2), (1, 3), (2, 4), (3, 5)} <= pairs and len(pairs) == 4 * 4
    canvas = warped(Canvas.fresh((1, 4, 6), 1, drawing()), flow, drawing(1))
    assert torch.isfinite(canvas.noise).all() and (canvas.weights > 0).all()


def test_degradation_keeps_the_noise_unit_and_ends_in_the_fresh_one():
    warm, fresh = torch.randn(2, 50_000, generator=drawing())
    assert torch.equal(degraded(warm, fresh, 1.0), fresh)
    assert torch.equal(degraded(warm, fresh, 0.0), warm)
    for share in (0.3, 0.5, 0.7):
        assert abs(degraded(warm, fresh, share).std() - 1) < 0.02


def test_each_object_gets_its_movers_flow_in_its_own_size():
    drawn = render_reference("walk right").rendered
    clip = MotionClip(drawn.frames, 8.0, drawn.masks[0])
    mask = np.zeros((64, 96), bool)
    mask[40:48, 10:18] = True
    thing = ToldObject(mask, lambda: clip)
    flow = placed_flow([thing], POCKET)
    assert flow.shape == (12, 64, 96, 2)
    inside = np.abs(flow).sum(axis=-1) > 0
    scale = (mask.sum() / drawn.masks[0, 0].sum()) ** 0.5
    true = np.diff(drawn.tracks[0], axis=0)[:, ::-1] * scale  # (12, 2), x and y
    found = np.stack([step[where].mean(axis=0) for step, where in zip(flow, inside, strict=True)])
    assert np.abs(found - true).max() < 0.5
    assert inside[0, mask].mean() > 0.6 and not inside[0, :30].any()
    other = replace(thing, mask=np.roll(mask, -30, axis=0))
    both = placed_flow([thing, other], POCKET)
    assert np.array_equal(both[:, 36:], flow[:, 36:])


def test_flow_of_a_clip_is_in_pixels_a_frame():
    drawn = render_reference("walk left").rendered
    flow = clip_flow(drawn.frames)
    for t in (0, 5, 11):
        step = (drawn.tracks[0, t + 1] - drawn.tracks[0, t])[::-1]
        assert np.abs(flow[t][drawn.masks[0, t]].mean(axis=0) - step).max() < 0.7


# the adapter -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tiny_checkpoint, tmp_path_factory) -> MotionEngine:
    folder = tmp_path_factory.mktemp("warped") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    engine = MotionEngine.load(folder, device="cpu")
    write_adapter(folder / "adapters" / "warped-noise.safetensors", a_random(engine), {})
    return engine


def a_random(engine: MotionEngine, rank: int = 4) -> Adapter:
    layers = engine.backbone.attention_layers()
    adapter = Adapter.fresh(layers, rank=rank, alpha=2 * rank, places=PLACES, generator=drawing())
    with torch.no_grad():
        for up in adapter.up.values():
            up.normal_(std=0.02, generator=drawing(1))
    return adapter


def test_an_adapter_comes_back_from_its_file(engine, tmp_path):
    adapter = a_random(engine)
    write_adapter(tmp_path / "own.safetensors", adapter, {"base": engine.fingerprint})
    back = read_adapter(tmp_path / "own.safetensors", engine.backbone.attention_layers())
    tokens = torch.randn(3, engine.geometry.width_tokens, generator=drawing())
    for layer in range(engine.geometry.layers):
        for place in PLACES:
            ours, theirs = adapter(layer, place, tokens), back(layer, place, tokens)
            assert torch.allclose(ours, theirs, atol=2e-3) and theirs.abs().max() > 0


def test_other_programs_names_are_read_too_and_their_strength(engine, tmp_path):
    file = tmp_path / "own.safetensors"
    write_adapter(file, a_random(engine), {})
    own = {name: part.float() for name, part in load_file(file).items()}
    layers = engine.backbone.attention_layers()
    tokens = torch.randn(3, engine.geometry.width_tokens, generator=drawing())
    expected = read_adapter(file, layers)(1, "to_k", tokens)

    def said(names, *, factor, metadata=None) -> torch.Tensor:
        other = tmp_path / "other.safetensors"
        save_file(names, other, metadata=metadata)
        return read_adapter(other, layers)(1, "to_k", tokens) / factor

    kohya = {}
    for name, part in own.items():
        stem, _, side = name.removesuffix(".weight").rpartition(".lora_")
        flat = "lora_unet_" + stem.removeprefix("transformer.").replace(".", "_")
        kohya[f"{flat}.lora_{'down' if side == 'A' else 'up'}.weight"] = part
        kohya[f"{flat}.alpha"] = torch.tensor(2.0)
    assert torch.allclose(said(kohya, factor=0.5), expected, atol=1e-4)
    peft = {name.replace(".weight", ".default.weight"): part for name, part in own.items()}
    noted = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8})}
    assert torch.allclose(said(peft, factor=2.0, metadata=noted), expected, atol=1e-4)
    flexiact = {}
    for name, part in own.items():
        stem, _, side = name.removesuffix(".weight").rpartition(".lora_")
        base, _, place = (
            stem.removeprefix("transformer.").replace("to_out.0", "to_proj").rpartition(".")
        )
        place = place.removeprefix("to_")
        flexiact[f"{base}.processor.lora_{place}.{'down' if side == 'A' else 'up'}.weight"] = part
    torch.save(flexiact, tmp_path / "theirs.pt")
    theirs = read_adapter(tmp_path / "theirs.pt", layers, strength=2.0)
    assert torch.allclose(theirs(1, "to_k", tokens) / 0.5, expected, atol=1e-4)
    assert theirs.down.keys() == set(PLACES)
    only = {name: part for name, part in own.items() if ".1." in name}
    half = said(only, factor=1.0)
    assert torch.allclose(half, expected, atol=1e-4)
    save_file(only, tmp_path / "part.safetensors")
    part = read_adapter(tmp_path / "part.safetensors", layers)
    assert not part(0, "to_k", tokens).any(), "what the file leaves out is not changed"


def test_a_file_that_does_not_fit_is_refused_in_words(engine, tmp_path):
    layers, file = engine.backbone.attention_layers(), tmp_path / "odd.safetensors"
    write_adapter(file, a_random(engine), {})
    good = load_file(file)
    first = next(iter(good))
    for change, words in (
        ({"transformer.proj_out.lora_A.weight": torch.zeros(4, 4)}, "no projection"),
        ({first: torch.zeros(4, 7)}, "another model"),
        ({first.replace("blocks.0", "blocks.9"): good[first].clone()}, "lacks a side"),
        ({first: torch.full_like(good[first], float("nan"))}, "NaN"),
    ):
        save_file({**good, **change}, file)
        with pytest.raises(CheckpointError, match=words):
            read_adapter(file, layers)
    for name, words in (("cut.safetensors", "cannot be read"), ("cut.pt", "cut.pt")):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(CheckpointError, match=words):
            read_adapter(tmp_path / name, layers)
    torch.save({"weights": {"more": torch.zeros(2)}}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match="something else"):
        read_adapter(tmp_path / "odd.pt", layers)


def test_only_noise_is_told_and_at_full_degradation_nothing(engine):
    told_scene = scene(engine, told(engine, 1))
    stock = sampled(engine, told_scene, Unsteered())
    undone = GoWithTheFlow(told_scene, FlowNoiseSettings(degradation=1.0))
    assert torch.equal(sampled(engine, told_scene, undone), stock)
    calls: list[int] = []
    system = GoWithTheFlow(told_scene, FlowNoiseSettings())
    moving = sampled(engine, told_scene, system, calls)
    assert not torch.allclose(moving, stock, atol=1e-3)
    assert sum(calls) == 2 * told_scene.steps, "it costs no further model call"
    assert torch.equal(sampled(engine, told_scene, Unsteered()), stock)


def test_the_noise_it_starts_from_goes_the_movers_way(engine):
    thing, g = told(engine, 1), engine.geometry
    told_scene = scene(engine, thing)
    system = GoWithTheFlow(told_scene, FlowNoiseSettings(degradation=0.0))
    ratio = g.spatial_ratio
    shape = (1, g.padded_latent_frames, g.latent_channels, g.height // ratio, g.width // ratio)
    start = system.initial_latents(torch.randn(shape, generator=drawing()))
    expected = warped_noise(
        torch.from_numpy(placed_flow([thing], g))[None],
        latent_times(g),
        channels=g.latent_channels,
        ratio=ratio,
        fineness=2,
        draw=told_scene.generator(1),
    )
    assert torch.equal(start, expected)
    other = sampled(engine, replace(told_scene, seed=1), system)
    assert torch.isfinite(other).all()


# whether it is here ------------------------------------------------------------------------------


def test_without_its_weights_it_is_not_offered_and_who_asks_hears_where_they_are(
    engine, tiny_checkpoint, monkeypatch
):
    bare = MotionEngine.load(tiny_checkpoint, device="cpu")
    assert "go-with-the-flow" not in offered_methods(bare.backbone.checkpoint)
    assert "go-with-the-flow" in offered_methods(engine.backbone.checkpoint)
    assert {"fleximmt", "none", "time-to-move"} <= set(offered_methods(bare.backbone.checkpoint))
    with pytest.raises(RequestError) as told_of:
        GoWithTheFlow(scene(bare, told(bare, 1)), FlowNoiseSettings())
    for word in ("Eyeline-Research/Go-with-the-Flow", "Apache 2.0", "pocket train", '"tiny"'):
        assert word in str(told_of.value)


def test_an_adapter_of_another_base_is_not_taken(engine, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(engine.backbone.checkpoint.folder, folder)
    file = folder / "adapters" / "warped-noise.safetensors"
    for base, found in (("0" * 64, None), (engine.fingerprint, file), ("", file)):
        write_adapter(file, a_random(engine), {"base": base})
        there = find_adapter(Checkpoint.read(folder), "warped-noise")
        assert there == (None if found is None else NeededAdapter(found))
    file.write_bytes(b"cut")
    assert find_adapter(Checkpoint.read(folder), "warped-noise") is None


def test_the_published_file_is_taken_from_the_hubs_cache_by_a_model_of_its_size(
    tiny_checkpoint, monkeypatch
):
    checkpoint = Checkpoint.read(tiny_checkpoint)
    asked = []

    def cached(repository: str, file: str) -> str:
        asked.append((repository, file))
        return "/there/" + file

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    assert find_adapter(checkpoint, "warped-noise") is None and not asked
    g = checkpoint.geometry
    sizes = {"layers": g.layers, "width": g.width_tokens}
    own = PublishedAdapter(
        "a/b", "c.pt", "x", **sizes, licence="free", command="train", strength=8.0
    )
    monkeypatch.setattr(adapters, "ADAPTERS", {"warped-noise": own})
    assert find_adapter(checkpoint, "warped-noise") == NeededAdapter(Path("/there/c.pt"), 8.0)
    assert asked == [("a/b", "c.pt")]
