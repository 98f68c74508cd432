"""How a model is run: options that change its speed and its memory, not what it is asked.

A deployment's settings hold them, the engine acts on them, and neither needs the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from motion_app.errors import CheckpointError, RequestError

CACHES = ("first-block", "faster", "pab", "taylorseer", "mag")


@dataclass(frozen=True)
class StepCache:
    """Steps that reuse what earlier ones computed, by one of ``CACHES``. ``strength`` 0 to 1 says
    how much is skipped: a threshold for first-block and mag, a number of steps for the others; None
    is the library's own. ``ratios``: of mag alone, one a step, measured on this very model by
    ``step_cache.residual_ratios`` (diffusers ships none for it); the checkpoint's own where there
    are none here. ``warm_steps`` are computed in full where no masks are propagated."""

    kind: str
    strength: float | None = None
    ratios: Sequence[float] = ()
    warm_steps: int = 5

    def __post_init__(self) -> None:
        if self.kind not in CACHES:
            raise RequestError(f'unknown cache "{self.kind}"; choose one of {", ".join(CACHES)}')
        if self.strength is not None and not 0 < self.strength <= 1:
            raise RequestError(f"the cache's strength is {self.strength}; it lies above 0 up to 1")

    def for_model(self, ratios: Sequence[float], *, name: str) -> StepCache:
        """This cache for the checkpoint ``name``, whose own ``ratios`` mag takes. CheckpointError
        where mag has none."""
        if self.kind != "mag" or self.ratios:
            return self
        if len(ratios) < 2:
            raise CheckpointError(
                f"the cache mag needs magnitude ratios measured on the model, and {name} names "
                'none; put those of "python -m motion_app bench caches" into its generation.json '
                'as "mag_ratios", or choose first-block'
            )
        return replace(self, ratios=tuple(ratios))


@dataclass(frozen=True)
class Acceleration:
    """``profile``: a name of ``engine.memory.PLACEMENTS``, None chosen by what is free. ``kernel``:
    see ``engine.kernels.attention_kernel``. ``compiled``: torch.compile for the blocks and for
    attention over plans of fixed shape; ``compiler`` its backend. ``cache_steps``: one of
    ``CACHES`` by its name, or with settings of its own. ``second_device``: where the conditional
    half of guidance runs, None for one device. ``keep_text_encoder``: False loads it for every new
    prompt and drops it again. Whether all of it can be had is for ``engine.runtime`` to say."""

    profile: str | None = None
    kernel: str = "torch"
    compiled: bool = False
    compiler: str = "inductor"
    cache_steps: str | StepCache | None = None
    second_device: str | None = None
    keep_text_encoder: bool = True

    @property
    def cache(self) -> StepCache | None:
        """The step cache; RequestError for an unknown one."""
        chosen = self.cache_steps
        return StepCache(chosen) if isinstance(chosen, str) else chosen

    def for_model(self, ratios: Sequence[float], *, name: str) -> Acceleration:
        """These options with a cache for the checkpoint ``name``, as ``StepCache.for_model``."""
        if self.cache is None:
            return self
        return replace(self, cache_steps=self.cache.for_model(ratios, name=name))

    def changed(self) -> dict[str, Any]:
        """The options that are not at their defaults."""
        return {name: value for name, value in vars(self).items() if value != vars(STOCK)[name]}

    def to_json(self) -> dict[str, Any]:
        """What of it a recipe says: all that may change a video's numbers."""
        return {
            "kernel": self.kernel,
            "compiled": self.compiled,
            "cache": None if self.cache is None else asdict(self.cache),
            "second_device": self.second_device,
        }


STOCK = Acceleration()
