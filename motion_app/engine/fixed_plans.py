"""Attention plans whose shapes stay the same when masks change, for compiled code.

Groups are filled up: spare rows repeat a real one and their outputs are dropped; spare keys carry a
bias that leaves them no weight. A group that has no rows any more stays, all spare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from motion_app.engine.attention import AttentionGroup, AttentionPlan, Index

NO_WEIGHT = -3000.0  # exp of it is 0 in every type, and eight times it still fits float16
MARGIN = 1.25  # room for masks to grow before shapes change


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
