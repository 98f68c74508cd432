"""Steps that reuse what earlier steps computed: diffusers' caches, once the masks have settled.

Before that RMPM needs every layer's own output, and a cached one would hold the old masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor, nn

from motion_app.acceleration import StepCache


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
