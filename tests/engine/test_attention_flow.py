"""MotionClone and its form for several objects: what attention says of movement, and its slope."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_anyv2v import sampled, scene, told

from motion_app.engine.backbone import Backbone
from motion_app.engine.pipeline import MotionEngine
from motion_app.engine.systems.attention_flow import (
    AttentionFlow,
    AttentionReader,
    CloneSettings,
    FlowSettings,
    MotionClone,
    cells_of,
    frame_maps,
    mean_flow,
)

GRID = (4, 6, 9)
SHIFTS = ((1, 0), (2, 1), (3, 2))  # x and y by the second, third and fourth frame, in tokens


@pytest.fixture(scope="module")
def engine(tiny_checkpoint) -> MotionEngine:
    return MotionEngine.load(tiny_checkpoint, device="cpu")


def planted(rows: torch.Tensor, shifts=SHIFTS) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and key (2, V, 32) in which what is at ``rows`` of the first frame goes by ``shifts``,
    and everything else stays."""
    frames, height, width = GRID
    cells = height * width
    draw = torch.Generator().manual_seed(0)
    words = torch.nn.functional.normalize(torch.randn(2, cells, 32, generator=draw), dim=-1)
    key = words.repeat(1, frames, 1) * 60
    for frame, (x, y) in enumerate(shifts, start=1):
        moved = rows + y * width + x
        key[:, frame * cells + rows] = 0
        key[:, frame * cells + moved] = words[:, rows] * 60
    return words.repeat(1, frames, 1) * 60, key


def test_a_planted_shift_is_found_exactly():
    rows = torch.tensor([11, 12, 20, 21])
    query, key = planted(rows)
    maps = frame_maps(query, key, rows, GRID, 1.0)
    assert maps.shape == (3, 4, 54)
    assert torch.allclose(maps.sum(-1), torch.ones(3, 4))
    assert torch.allclose(mean_flow(maps, rows, GRID), torch.tensor(SHIFTS).float(), atol=1e-4)
    others = torch.tensor([0, 5, 45])
    still = mean_flow(frame_maps(query, key, others, GRID, 1.0), others, GRID)
    assert torch.allclose(still, torch.zeros(3, 2), atol=1e-4)


def test_a_small_object_is_the_token_at_its_centre(engine):
    g = engine.geometry
    mask = np.zeros((g.height, g.width), bool)
    mask[8 : 8 + g.pixels_per_token, 8 : 8 + 2 * g.pixels_per_token] = True
    row, column = 8 // g.pixels_per_token, 8 // g.pixels_per_token
    first = row * g.grid_width + column
    assert cells_of(mask, g).tolist() == [first, first + 1]
    mask[:] = False
    mask[9, 8] = True
    assert cells_of(mask, g).tolist() == [first]


def test_what_moves_as_the_reference_has_nothing_to_be_corrected():
    rows = torch.tensor([11, 12, 20, 21])
    query, key = planted(rows)
    query.requires_grad_()
    flow = SimpleNamespace(
        grid=GRID, rows=[rows], flows=[torch.tensor(SHIFTS).float()], settings=FlowSettings()
    )
    flow._flow = lambda *read: AttentionFlow._flow(flow, *read)
    every = torch.arange(GRID[1] * GRID[2])
    largest = [frame_maps(query.detach(), key, every, GRID, 1.0).max(dim=-1)]
    clone = SimpleNamespace(grid=GRID, rows=every, largest=largest)
    for kind, system in ((AttentionFlow, flow), (MotionClone, clone)):
        miss = kind.miss(system, query, key)
        (slope,) = torch.autograd.grad(miss, query)
        assert miss < 1e-6 and slope.abs().max() < 1e-4
        turned = kind.miss(system, *planted(rows, [(-x, -y) for x, y in SHIFTS]))
        assert turned > 1e-3


def test_reading_stops_at_its_block_and_leaves_the_model_whole(engine):
    backbone, thing = engine.backbone, told(engine, 1)
    blocks = backbone.transformer.transformer_blocks
    ran = []
    hooks = [
        block.register_forward_hook(lambda *_, n=n: ran.append(n)) for n, block in enumerate(blocks)
    ]
    reader = AttentionReader(backbone, 0.0)
    assert reader.layer.number == 0
    system = AttentionFlow(scene(engine, thing), FlowSettings(depth=0.0))
    assert ran == [0] and backbone.transformer.transformer_blocks is blocks
    latents = torch.randn(1, *system_shape(engine))
    slope = system.gradient(latents, 0)
    assert slope.shape == latents.shape and slope.abs().max() > 0
    assert all(part.grad is None for part in backbone.transformer.parameters())
    for hook in hooks:
        hook.remove()


def system_shape(engine: MotionEngine) -> tuple[int, ...]:
    g = engine.geometry
    ratio = g.spatial_ratio
    return g.padded_latent_frames, g.latent_channels, g.height // ratio, g.width // ratio


def test_the_slope_is_the_same_where_blocks_are_computed_again(engine, monkeypatch):
    told_scene = scene(engine, told(engine, 1))
    system = AttentionFlow(told_scene, FlowSettings())
    latents = torch.randn(1, *system_shape(engine), generator=torch.Generator().manual_seed(1))
    plain = system.gradient(latents, 1)
    transformer = engine.backbone.transformer
    original = Backbone.shortened

    def recomputing(self, blocks):
        transformer.enable_gradient_checkpointing()
        return original(self, blocks)

    monkeypatch.setattr(Backbone, "shortened", recomputing)
    again = system.gradient(latents, 1)
    transformer.disable_gradient_checkpointing()
    assert torch.allclose(plain, again, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(MotionClone, CloneSettings(guided=0.5)), (AttentionFlow, FlowSettings(guided=0.5))],
)
def test_being_led_brings_the_attention_nearer_and_only_for_so_long(engine, kind, settings):
    told_scene = scene(engine, told(engine, 1))
    system = kind(told_scene, settings)
    latents = torch.randn(1, *system_shape(engine), generator=torch.Generator().manual_seed(1))

    def miss() -> float:
        level = told_scene.timesteps[0]
        system.gradient(latents, 0)  # the picture is read
        read = system.reader.read(led, system.condition, told_scene.text[0], level)
        return system.miss(*read).item()

    led = latents
    before = miss()
    led = latents - 1e-3 * system.gradient(latents, 0) / system.gradient(latents, 0).norm()
    assert miss() < before
    with engine.backbone.counted() as calls:
        sampled(engine, told_scene, system)
    a_step = 1 if kind is MotionClone else settings.iterations
    assert len(calls) == 4 + 2 * a_step and sum(calls) == 8 + 2 * a_step


def test_led_by_nothing_it_is_the_stock_video(engine):
    told_scene = scene(engine, told(engine, 1))
    plain = sampled(engine, told_scene, AttentionFlow(told_scene, FlowSettings(guided=0)))
    none = sampled(engine, told_scene, MotionClone(told_scene, CloneSettings(weight=0)))
    assert torch.equal(plain, none)
    led = sampled(engine, told_scene, AttentionFlow(told_scene, FlowSettings()))
    assert not torch.allclose(led, plain, atol=1e-3)
