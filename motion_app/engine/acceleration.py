"""How a checkpoint is run: options that change its speed and its memory, not what it is asked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from motion_app.engine.kernels import attention_kernel
from motion_app.engine.memory import placement_named
from motion_app.engine.step_cache import StepCache
from motion_app.errors import CheckpointError
from motion_app.models.devices import device_named
from motion_app.settings import Settings


@dataclass(frozen=True)
class Acceleration:
    """``profile``: a name of ``memory.PLACEMENTS``, None chosen by what is free. ``kernel``: see
    ``kernels.attention_kernel``. ``compiled``: torch.compile for the blocks and for attention over
    plans of fixed shape; ``compiler`` its backend. ``cache``: steps that reuse others.
    ``second_device``: where the conditional half of guidance runs, None for one device.
    ``keep_text_encoder``: False loads it for every new prompt and drops it again."""

    profile: str | None = None
    kernel: str = "torch"
    compiled: bool = False
    compiler: str = "inductor"
    cache: StepCache | None = None
    second_device: str | None = None
    keep_text_encoder: bool = True

    @classmethod
    def of(cls, settings: Settings) -> Acceleration:
        """What a deployment is set to."""
        return cls(
            profile=settings.profile,
            kernel=settings.kernel,
            compiled=settings.compiled,
            cache=None if settings.cache_steps is None else StepCache(settings.cache_steps),
            second_device=settings.second_device,
            keep_text_encoder=settings.keep_text_encoder,
        )

    def check(self, device: torch.device) -> None:
        """Refuse what cannot be had on ``device``, before any weight is read: an unknown memory
        profile, a kernel that does not run there, a second device this machine lacks, and options
        that exclude each other. Raises CheckpointError."""
        if self.profile is not None:
            placement_named(self.profile)
        attention_kernel(self.kernel, device=device)
        if self.second_device is None:
            return
        device_named(self.second_device)
        if self.cache is not None:
            raise CheckpointError(
                "a cache and a second device cannot be had together: the cache looks at both "
                "halves of the guidance; leave one of them out"
            )

    def to_json(self) -> dict[str, Any]:
        """What of it a recipe says: all that may change a video's numbers."""
        entries = asdict(self)
        return {name: entries[name] for name in ("kernel", "compiled", "cache", "second_device")}


STOCK = Acceleration()
