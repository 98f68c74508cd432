"""What an ``Acceleration`` means for one loaded model, and for each generation on it.

The two halves of classifier-free guidance may run on two devices, each with its copy of the
weights: the unconditional half where the pipeline is, the conditional one on the second device; a
GPU works while the next one is given its work, so both run at once. Diffusers' step caches reuse
what earlier steps computed once the masks have settled; before that RMPM needs every layer's own
output."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from motion_app.acceleration import Acceleration, StepCache
from motion_app.engine.attention import Attend, AttentionPlan, attend
from motion_app.engine.backbone import ATTENTION_NAMES, Backbone
from motion_app.engine.kernels import TORCH_OWN, attention_kernel
from motion_app.engine.layers import AttentionLayer, KeyValues, Steering
from motion_app.engine.memory import placement_named
from motion_app.engine.prepared import PreparedScene
from motion_app.engine.steering import steered
from motion_app.errors import CheckpointError
from motion_app.models.devices import device_named

HOOK = "guidance_split"


def diffusers_config(
    cache: StepCache,
    *,
    step: int,
    steps: int,
    guided: bool,
    timestep: Callable[[], int],
    attention: str,
) -> Any:
    """diffusers' configuration of ``cache`` for the ``steps`` - ``step`` steps that are left.
    ``guided``: a pass is a batch of both halves of the guidance. ``attention``: a pattern of the
    names that the attention layers have in the transformer."""
    import diffusers

    amount = 0.5 if cache.strength is None else cache.strength
    every = 2 + round(3 * amount)  # computed anew every so many steps
    if cache.kind == "first-block":
        return diffusers.FirstBlockCacheConfig(threshold=0.1 * amount)
    if cache.kind == "faster" and guided:
        return diffusers.FasterCacheConfig(
            spatial_attention_block_skip_range=every,
            unconditional_batch_skip_range=every,
            current_timestep_callback=timestep,
            attention_weight_callback=lambda module: 0.3,
            tensor_format="BFCHW",
        )
    if cache.kind in ("pab", "faster"):
        # Without guidance there is no half for faster to leave out, and diffusers' form of it
        # for such models looks at attention that it has not kept yet when it starts half-way.
        return diffusers.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=every, current_timestep_callback=timestep
        )
    if cache.kind == "taylorseer":
        return diffusers.TaylorSeerCacheConfig(
            cache_interval=every,
            disable_cache_before_step=2,
            max_order=1,
            cache_identifiers=[attention],
        )
    return diffusers.MagCacheConfig(
        threshold=0.12 * amount,
        retention_ratio=0.0,
        num_inference_steps=steps - step,
        mag_ratios=resampled(cache.ratios, steps)[step:],
    )


def resampled(ratios: Sequence[float], steps: int) -> list[float]:
    """The ratios of a schedule of ``steps`` steps from those measured on another number of them: a
    step over several of the measured ones takes their product. (diffusers takes the nearest, which
    calls long steps as harmless as short ones.)"""
    magnitudes = np.cumsum(np.log(ratios))  # in logarithms, at each measured step
    at = np.arange(steps) * len(ratios) / steps  # steps begin at the full noise and stop short of 0
    found = np.interp(at, np.arange(len(ratios)), magnitudes)
    return np.exp(np.diff(found, prepend=found[0])).tolist()


@contextmanager
def residual_ratios(blocks: Sequence[nn.Module]) -> Iterator[list[float]]:
    """A list that grows by a number with every forward pass of a transformer with these ``blocks``:
    how large what they all added to the video tokens is, against the pass before (the mean over
    tokens of the quotient of norms; 1 for the first). What MagCache calls magnitude ratios."""
    ratios: list[float] = []
    entered: list[Tensor] = []
    before: list[Tensor] = []

    def enter(block: nn.Module, arguments: tuple, options: dict[str, Any]) -> None:
        entered[:] = [options["hidden_states"]]

    def leave(block: nn.Module, arguments: tuple, output: tuple[Tensor, Tensor]) -> None:
        size = (output[0] - entered.pop()).float().norm(dim=-1)  # (B, V)
        ratios.append((size / (before[0] + 1e-8)).mean().item() if before else 1.0)
        before[:] = [size]

    hooks = (
        blocks[0].register_forward_pre_hook(enter, with_kwargs=True),
        blocks[-1].register_forward_hook(leave),
    )
    try:
        yield ratios
    finally:
        for hook in hooks:
            hook.remove()


class CacheSwitch:
    """Turns a cache on for what is left of one generation, and off again at its end.
    ``attention`` as ``diffusers_config`` has it."""

    def __init__(self, transformer: Any, cache: StepCache | None, *, attention: str) -> None:
        self.transformer, self.cache, self.attention = transformer, cache, attention
        self.started_at: int | None = None

    def step_ended(
        self,
        step: int,
        steps: int,
        *,
        masks_move: bool,
        guided: bool,
        timestep: Callable[[], int],
    ) -> None:
        """``step`` from 1 has ended; ``masks_move``: they may still change; ``guided`` and
        ``timestep``, of the pass under way, as the caches want them."""
        if self.cache is None or self.started_at is not None or masks_move or step >= steps:
            return
        if step < self.cache.warm_steps:
            return
        self.transformer.enable_cache(
            diffusers_config(
                self.cache,
                step=step,
                steps=steps,
                guided=guided,
                timestep=timestep,
                attention=self.attention,
            )
        )
        self.started_at = step

    def off(self) -> None:
        """The model as it was."""
        if self.started_at is not None:
            self.transformer.disable_cache()
            self.started_at = None


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
    """Whether the halves of the guidance can be computed apart: adapters and systems hang on one
    model, and DMEM's masks of the conditional half rule both."""
    nouns = None if scene.steering is None else scene.steering.nouns
    return scene.adapters is None and nouns is None and scene.system is None


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
            kept = self._moved[0] = (plan, plan.to(self.device))
        return kept[1]


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
