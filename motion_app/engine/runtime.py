"""What an ``Acceleration`` means for one loaded model, and for each generation on it.

The two halves of classifier-free guidance on two devices, each with its copy of the weights.

The unconditional half runs where the pipeline is, the conditional one on the second device; a GPU
works while the next one is given its work, so both run at once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from motion_app.acceleration import Acceleration
from motion_app.engine.attention import Attend, AttentionPlan, attend
from motion_app.engine.backbone import ATTENTION_NAMES, Backbone
from motion_app.engine.kernels import TORCH_OWN, attention_kernel
from motion_app.engine.layers import AttentionLayer, KeyValues, Steering
from motion_app.engine.memory import placement_named
from motion_app.engine.preparation import PreparedScene
from motion_app.engine.steering import steered
from motion_app.engine.step_cache import CacheSwitch
from motion_app.errors import CheckpointError
from motion_app.models.devices import device_named

HOOK = "guidance_split"


def check_acceleration(acceleration: Acceleration, device: torch.device) -> None:
    """Refuse what cannot be had on ``device``, before any weight is read: an unknown memory profile
    or cache, a kernel that does not run there, a second device this machine lacks, and options that
    exclude each other. Raises CheckpointError, and RequestError for the cache."""
    cache = acceleration.cache
    if acceleration.profile is not None:
        placement_named(acceleration.profile)
    attention_kernel(acceleration.kernel, device=device)
    if acceleration.second_device is None:
        return
    device_named(acceleration.second_device)
    if cache is not None:
        raise CheckpointError(
            "a cache and a second device cannot be had together: the cache looks at both "
            "halves of the guidance; leave one of them out"
        )


class Runtime:
    """The attention, the compiled blocks, the copy for the second device and the cache's switch."""

    def __init__(self, backbone: Backbone, acceleration: Acceleration) -> None:
        self.backbone, self.acceleration = backbone, acceleration
        self.attention = self._attention(backbone.profile.device)
        self.pair: GuidancePair | None = None
        if acceleration.second_device is not None:
            self.pair = GuidancePair(backbone, acceleration.second_device)
        if acceleration.compiled:
            for copied in (None,) if self.pair is None else (None, self.pair.replica):
                for part in backbone.parts_to_compile(copied):
                    part.compile(backend=acceleration.compiler)
        self.cache = CacheSwitch(
            backbone.transformer, acceleration.cache, attention=ATTENTION_NAMES
        )

    def _attention(self, device: torch.device) -> Attend:
        options = self.acceleration
        if options.compiled:  # for fixed shapes: a change of the masks compiles nothing anew
            return torch.compile(attend, backend=options.compiler, dynamic=False)
        if options.kernel == TORCH_OWN:
            return attend
        return partial(attend, kernel=attention_kernel(options.kernel, device=device))

    @contextmanager
    def installed(self, scene: PreparedScene) -> Iterator[None]:
        """What acts on the transformer during one generation; nothing is left of it."""
        steering = scene.steering
        if steering is not None and self.acceleration.compiled:
            steering.fix_shapes()
        try:
            if self.pair is not None and _halves_part(scene):
                with self.pair.installed(steering, attention=self.attention):
                    yield
            else:
                with scene.installed(self.backbone.attention_layers(), attention=self.attention):
                    yield
        finally:
            self.cache.off()


def _halves_part(scene: PreparedScene) -> bool:
    """Whether the halves of the guidance can be computed apart: adapters hang on one model, and
    DMEM's masks of the conditional half rule both."""
    nouns = None if scene.steering is None else scene.steering.nouns
    return scene.adapters is None and nouns is None


class HalfSteering:
    """What the processors of one device see of the generation's steering: one share of the batch.

    ``steering.plans`` answers for both halves; ``half`` 0 is the unconditional one. Only the
    conditional half is observed, as RMPM asks.
    """

    def __init__(self, steering: Steering, half: int, device: torch.device) -> None:
        self.steering, self.half, self.device = steering, half, device
        self._moved: dict[int, tuple[AttentionPlan, AttentionPlan]] = {}
        self._keys: dict[int, KeyValues] = {}

    def plans(self, layer: int, query: Tensor, key: Tensor) -> Sequence[AttentionPlan]:
        plans = self.steering.plans(layer, query, key)
        return [self._here(plans[self.half if len(plans) > 1 else 0])]

    def key_values(self, layer: AttentionLayer) -> KeyValues:
        if layer.number not in self._keys:
            key, value = self.steering.key_values(layer)
            self._keys[layer.number] = (key.to(self.device), value.to(self.device))
        return self._keys[layer.number]

    def observe(self, layer: int, video: Tensor) -> None:
        if self.half == 1:
            self.steering.observe(layer, video)

    def _here(self, plan: AttentionPlan) -> AttentionPlan:
        """``plan`` with its positions on this device; the newest one is kept."""
        kept = self._moved.get(0)
        if kept is None or kept[0] is not plan:
            kept = self._moved[0] = (plan, plan_on(plan, self.device))
        return kept[1]


def plan_on(plan: AttentionPlan, device: torch.device) -> AttentionPlan:
    """``plan`` with its index sets on ``device``."""

    def move(part: Any) -> Any:
        return part.to(device) if isinstance(part, Tensor) else part

    groups = tuple(
        replace(group, rows=move(group.rows), keys=move(group.keys), bias=move(group.bias))
        for group in plan.groups
    )
    return AttentionPlan(plan.layout, groups, move(plan.order))


class SplitHook(ModelHook):
    """Runs the first half of the batch in the model it hangs on, the second in ``replica``."""

    def __init__(self, replica: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.fn_ref: Any  # diffusers sets it where it registers the hook
        self.replica, self.device = replica, device

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        batch = len(kwargs["hidden_states"])
        if batch != 2:
            return self.fn_ref.original_forward(*args, **kwargs)

        def half(number: int, device: torch.device) -> dict[str, Any]:
            def cut(part: Any) -> Any:
                if not isinstance(part, Tensor):
                    return part
                return part.to(device, non_blocking=True)

            cuts = {
                name: part[number : number + 1]
                if name in ("hidden_states", "encoder_hidden_states", "timestep")
                else part
                for name, part in kwargs.items()
            }
            return tree_map(cut, cuts)

        here = kwargs["hidden_states"].device
        conditional = self.replica(**half(1, self.device))[0]
        unconditional = self.fn_ref.original_forward(*args, **half(0, here))[0]
        return (torch.cat([unconditional, conditional.to(here)]),)


class GuidancePair:
    """A model's transformer and its copy on ``device``."""

    def __init__(self, backbone: Backbone, device: torch.device | str) -> None:
        self.backbone, self.device = backbone, torch.device(device)
        self.replica = copy.deepcopy(backbone.transformer).to(self.device)

    @contextmanager
    def installed(self, steering: Steering | None, *, attention: Attend) -> Iterator[None]:
        """Split every call with both halves; ``steering`` None for stock attention."""
        transformer = self.backbone.transformer
        registry = HookRegistry.check_if_exists_or_initialize(transformer)
        registry.register_hook(SplitHook(self.replica, self.device), HOOK)
        try:
            if steering is None:
                yield
                return
            here = HalfSteering(steering, 0, transformer.device)
            there = HalfSteering(steering, 1, self.device)
            own, others = (self.backbone.attention_layers(of) for of in (None, self.replica))
            with (
                steered(own, here, attention=attention),
                steered(others, there, attention=attention),
            ):
                yield
        finally:
            registry.remove_hook(HOOK, recurse=False)
