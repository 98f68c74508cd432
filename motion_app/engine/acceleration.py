"""How a checkpoint is run: options that change its speed and its memory, not what it is asked.

Attention plans whose shapes stay the same when masks change, for compiled code.

Groups are filled up: spare rows repeat a real one and their outputs are dropped; spare keys carry a
bias that leaves them no weight. A group that has no rows any more stays, all spare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from motion_app.engine.attention import Attend, AttentionGroup, AttentionPlan, Index, attend
from motion_app.engine.kernels import attention_kernel
from motion_app.engine.memory import placement_named
from motion_app.engine.step_cache import StepCache
from motion_app.errors import CheckpointError
from motion_app.models.devices import device_named
from motion_app.settings import Settings

NO_WEIGHT = -3000.0  # exp of it is 0 in every type, and eight times it still fits float16
MARGIN = 1.25  # room for masks to grow before shapes change


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


def compile_blocks(transformer: nn.Module, *, compiler: str = "inductor") -> None:
    """torch.compile what surrounds the attention of each block: modulation and feed-forward. They
    are alike in all blocks, so that each is compiled once. Attention has a compiled form of its
    own, since its processors differ from layer to layer."""
    for block in transformer.transformer_blocks:
        for part in (block.norm1, block.norm2, block.ff):
            part.compile(backend=compiler)


def compiled_attention(compiler: str) -> Attend:
    """``attend`` compiled for fixed shapes: a change of the masks compiles nothing anew."""
    return torch.compile(attend, backend=compiler, dynamic=False)


@dataclass(frozen=True)
class GroupShape:
    """Places for ``rows`` and ``keys`` of one group."""

    rows: int
    keys: int


@dataclass
class FixedShapes:
    """The shapes of one generation's plans, by the label of each group. ``bucket``: sizes are
    multiples of it, which also suits the kernels. A shape only ever grows."""

    bucket: int = 256
    shapes: dict[str, GroupShape] = field(default_factory=dict)

    def fit(self, plan: AttentionPlan) -> AttentionPlan:
        """``plan`` with every group at its fixed shape; attends exactly as ``plan`` does."""
        if len(plan.groups) == 1 and not self.shapes:
            return plan  # nobody is kept from anything: its shape is the layout's own
        layout = plan.layout
        device = next(
            (g.keys.device for g in plan.groups if isinstance(g.keys, Tensor)), torch.device("cpu")
        )
        present: Mapping[str, AttentionGroup] = {group.label: group for group in plan.groups}
        for label, group in present.items():
            self.shapes[label] = self._shape(label, group, layout.queries, layout.keys)
        groups, places = [], torch.zeros(layout.queries, dtype=torch.long)
        start = 0
        for label, shape in self.shapes.items():
            group = present.get(label)
            rows = positions(None if group is None else group.rows, device)
            keys = positions(None if group is None else group.keys, device)
            places[rows.cpu()] = start + torch.arange(len(rows))
            start += shape.rows
            bias = torch.full((shape.keys,), NO_WEIGHT, device=device)
            bias[: len(keys)] = 0.0 if group is None or group.bias is None else group.bias
            groups.append(
                AttentionGroup(filled(rows, shape.rows), filled(keys, shape.keys), bias, label)
            )
        return AttentionPlan(layout, tuple(groups), places.to(device))

    def _shape(self, label: str, group: AttentionGroup, rows: int, keys: int) -> GroupShape:
        before = self.shapes.get(label, GroupShape(0, 0))
        return GroupShape(
            self._room(size_of(group.rows), before.rows, most=rows),
            self._room(size_of(group.keys), before.keys, most=keys),
        )

    def _room(self, size: int, before: int, *, most: int) -> int:
        if size <= before:
            return before
        roomy = math.ceil(size * MARGIN / self.bucket) * self.bucket
        return min(roomy, math.ceil(most / self.bucket) * self.bucket)


def size_of(index: Index) -> int:
    """How many positions an index holds."""
    return index.stop - index.start if isinstance(index, slice) else len(index)


def positions(index: Index | None, device: torch.device) -> Tensor:
    """An index as int64 positions; none for None."""
    if index is None:
        return torch.zeros(0, dtype=torch.long, device=device)
    if isinstance(index, slice):
        return torch.arange(index.start, index.stop, device=device)
    return index


def filled(index: Tensor, size: int) -> Tensor:
    """``index`` with its first position (0 where it has none) repeated to make ``size``."""
    first = index[:1] if len(index) else index.new_zeros(1)
    return torch.cat([index, first.expand(size - len(index))])
