"""Whole generations and training steps of a model with random weights, timed from outside.

What runs is the engine's own: its pipeline, steering, propagation, caches and placements.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from motion_app.acceleration import STOCK, Acceleration
from motion_app.engine.backbone import Backbone
from motion_app.engine.layers import AttentionLayer, KeyValues
from motion_app.engine.prepared import PreparedScene
from motion_app.engine.propagation import MaskTrack, PropagationConfig
from motion_app.engine.run import GenerationRun
from motion_app.engine.runtime import Runtime
from motion_app.engine.steering import TrainingSample, TrainingSteering, steered
from motion_app.speed.caches import SETTLED_AT, computed_share
from motion_app.speed.clock import OutOfTime
from motion_app.speed.rivals import StepRivals, time_on

GUIDANCE = 6.0
PROMPT = "A robot is moving and a fox is moving."
# Of random weights no mask settles by itself: they are kept from a step on, the pocket's median.
SETTLING = PropagationConfig(warm_steps=SETTLED_AT - 1, alpha=float("inf"))


@dataclass(frozen=True)
class VideoTimes:
    """Seconds: of the whole, of reading the prompt, of a step (median of all but the first) and of
    decoding. ``attention`` and ``rest``: the share computed of each, 0 to 1. ``finite``: no number
    was lost on the way."""

    seconds: float
    text_seconds: float
    step_seconds: float
    decode_seconds: float
    steps: int
    attention: float
    rest: float
    finite: bool


def generate(
    backbone: Backbone,
    rivals: StepRivals,
    *,
    motions: int,
    steps: int,
    acceleration: Acceleration = STOCK,
    in_time: Callable[[], bool] = lambda: True,
) -> VideoTimes:
    """A video of ``motions`` objects, from a picture and a prompt to frames; 0 is the stock
    pipeline. OutOfTime as soon as ``in_time`` says no, asked after each step."""
    device, geometry = backbone.profile.device, backbone.geometry
    backbone.prompts.forget()
    began = time_on(device)
    runtime = Runtime(backbone, acceleration)
    scene = _scene(backbone, rivals, motions)
    run = GenerationRun(scene, SETTLING, runtime, None, steps=steps, guided=True)
    text = backbone.prompts.encode(PROMPT, guided=True)
    marks = [time_on(device)]
    late: list[int] = []

    def ended(step: int, clean: Tensor | None) -> bool:
        marks.append(time_on(device))
        going = run.step_ended(step, clean)
        if not in_time():
            late.append(step)
        return going and not late

    picture = np.full((geometry.height, geometry.width, 3), 127, dtype=np.uint8)
    picture[::2, ::2] = 90
    with (
        torch.no_grad(),
        runtime.installed(scene),
        computed_share(backbone.transformer, steps=steps, batch=2) as share,
    ):
        latents = backbone.denoise(
            picture, text, steps=steps, guidance=GUIDANCE, seed=0, on_step=ended
        )
    if late:
        raise OutOfTime(f"the minutes ran out after step {late[0]} of {steps}")
    denoised = time_on(device)
    backbone.decode(latents)
    ended_at = time_on(device)
    durations = np.diff(marks).tolist()
    return VideoTimes(
        seconds=ended_at - began,
        text_seconds=marks[0] - began,
        step_seconds=statistics.median(durations[1:] or durations),
        decode_seconds=ended_at - denoised,
        steps=steps,
        attention=share.attention,
        rest=share.rest,
        finite=bool(latents.isfinite().all()),
    )


def _scene(backbone: Backbone, rivals: StepRivals, motions: int) -> PreparedScene:
    """Half of every frame belongs to objects; RMPM takes it from there."""
    frames = backbone.geometry.grid_frames
    if not motions:
        nothing = torch.zeros(0, *backbone.geometry.grid[1:], dtype=torch.bool)
        return PreparedScene(MaskTrack.start(nothing.to(backbone.profile.device), frames))
    steering = rivals.steering(motions)
    return PreparedScene(MaskTrack.start(steering.object_masks[:, 0], frames), steering)


class MotionLesson:
    """Learning the tokens of one motion as the method does it, DMEM's masks included, on one
    random clip. ``checkpointing``: layers are computed again on the way back."""

    def __init__(self, backbone: Backbone, rivals: StepRivals, *, checkpointing: bool) -> None:
        geometry, device = backbone.geometry, backbone.profile.device
        self.backbone, self.device = backbone, device
        if checkpointing:
            backbone.transformer.enable_gradient_checkpointing()
        else:
            backbone.transformer.disable_gradient_checkpointing()
        layout, _ = rivals.scene_of(1)
        self.sample = TrainingSample(layout, noun=(5, 7))
        shape = (rivals.sizes.motion, rivals.sizes.width)
        self.tokens = nn.ParameterList(
            torch.empty(shape, device=device).uniform_(-0.003, 0.003)
            for _ in range(geometry.layers)
        )
        self.optimiser = torch.optim.AdamW(self.tokens.parameters(), lr=1e-3)
        self.steering = TrainingSteering(self._project, generator=torch.Generator().manual_seed(0))
        self.latents = rivals.latents[:1].float()
        self.condition, self.text = rivals.condition[:1].float(), rivals.text[:1].float()
        self.timesteps = rivals.timesteps[:1]

    def _project(self, layer: AttentionLayer) -> KeyValues:
        return layer.key_values(self.tokens[layer.number])

    def step(self) -> None:
        """One step: forward, backward, AdamW."""
        self.steering.begin([self.sample])
        noise = torch.randn_like(self.latents)
        with steered(self.backbone.attention_layers(), self.steering):
            miss, factor = self.backbone.velocity_miss(
                self.latents, noise, self.condition, self.text, self.timesteps
            )
            error = factor * miss
            delta = (2**0.5 * error[:, 1] - error[:, 0]).square().mean()
            (miss.square().mean() + delta).backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


class Memory:
    """What ``device`` holds, in GiB; a CPU tells nothing and cannot be capped."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.known = device, device.type == "cuda"

    def begin(self) -> None:
        """Peaks count from here."""
        if self.known:
            torch.cuda.reset_peak_memory_stats(self.device)

    def figures(self) -> dict[str, float]:
        """``peak_gib``: the most that tensors held since ``begin``; ``reserved_gib``: the most that
        was taken of the device for them."""
        if not self.known:
            return {}
        return {
            "peak_gib": torch.cuda.max_memory_allocated(self.device) / 2**30,
            "reserved_gib": torch.cuda.max_memory_reserved(self.device) / 2**30,
        }

    @contextmanager
    def capped(self, gibibytes: float) -> Iterator[int]:
        """As on a GPU of so much memory: what is taken outside of the allocator (the context, the
        kernels) counts too. Gives the bytes that are left for tensors."""
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self.device)
        outside = max(0, total - free - torch.cuda.memory_reserved(self.device))
        room = round(gibibytes * 2**30) - min(outside, 2**30)
        torch.cuda.set_per_process_memory_fraction(min(1.0, room / total), self.device)
        try:
            yield room
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)

    def give_back(self) -> None:
        """What no tensor needs any more."""
        if self.known:
            torch.cuda.empty_cache()
