"""What an ``Acceleration`` means for one loaded transformer, and for each generation on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from motion_app.engine.acceleration import Acceleration, compile_blocks, compiled_attention
from motion_app.engine.attention import Attend, attend
from motion_app.engine.guidance_split import GuidancePair
from motion_app.engine.kernels import TORCH_OWN, attention_kernel
from motion_app.engine.preparation import PreparedScene
from motion_app.engine.step_cache import CacheSwitch


class Runtime:
    """The attention, the compiled blocks, the copy for the second device and the cache's switch."""

    def __init__(
        self, transformer: nn.Module, acceleration: Acceleration, *, device: torch.device
    ) -> None:
        self.transformer, self.acceleration = transformer, acceleration
        self.attention = self._attention(device)
        self.pair: GuidancePair | None = None
        if acceleration.second_device is not None:
            self.pair = GuidancePair(transformer, acceleration.second_device)
        if acceleration.compiled:
            for model in [transformer] if self.pair is None else [transformer, self.pair.replica]:
                compile_blocks(model, compiler=acceleration.compiler)
        self.cache = CacheSwitch(transformer, acceleration.cache)

    def _attention(self, device: torch.device) -> Attend:
        options = self.acceleration
        if options.compiled:
            return compiled_attention(options.compiler)
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
                with scene.installed(self.transformer, attention=self.attention):
                    yield
        finally:
            self.cache.off()


def _halves_part(scene: PreparedScene) -> bool:
    """Whether the halves of the guidance can be computed apart: adapters hang on one model, and
    DMEM's masks of the conditional half rule both."""
    nouns = None if scene.steering is None else scene.steering.nouns
    return scene.adapters is None and nouns is None
