"""MDMA: who sees whom, computed exactly and without a mask; and DMEM's masks from words.

visibility (a table over token classes) → AttentionPlan (index sets) → attend, which the processor
calls. FlexiMMT sections 3.2 (equations 5 to 11) and 3.3.

For compiled code the plans' shapes stay the same when masks change (``FixedShapes``). Groups are
filled up: spare rows repeat a real one and their outputs are dropped; spare keys carry a bias that
leaves them no weight. A group that has no rows any more stays, all spare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from motion_app.engine.kernels import Kernel, torch_kernel
from motion_app.engine.layout import SequenceLayout, Span
from motion_app.errors import RequestError
from motion_app.methods import ABLATIONS, SCOPES

Attend = Callable[[Tensor, Tensor, Tensor, "AttentionPlan"], Tensor]
Index = slice | Tensor
# The compound names of the paper's Table 4 and what they open.
OPENS: dict[str, frozenset[str]] = {
    "m2v": frozenset({"m2v"}),
    "m2m": frozenset({"m2m"}),
    "t2v": frozenset({"t2v"}),
    "t2t": frozenset({"t2t"}),
    "t2m": frozenset({"t2m"}),
    "m2x": frozenset({"m2v", "m2m"}),
    "t2x": frozenset({"t2v", "t2t", "t2m"}),
    "infer_mask": frozenset({"all"}),
    "rmpm": frozenset(),  # changes where the masks come from, not what they close
    "step0_mask": frozenset(),  # changes the first step alone: ``GenerationSteering``
}
NO_WEIGHT = -3000.0  # exp of it is 0 in every type, and eight times it still fits float16
MARGIN = 1.25  # room for masks to grow before shapes change
MOST_ENUMERATED = 10  # 2^10 video classes; a plan needs only the sets that occur


@dataclass(frozen=True, eq=False)
class AttentionGroup:
    """Query rows that may see the same keys. ``rows`` and ``keys`` are slices where contiguous,
    else int64 positions. ``bias`` (keys,) float32 holds log strengths, None where all are 0.
    ``label`` is the class of its first rows, by which a group is known when masks change."""

    rows: Index
    keys: Index
    bias: Tensor | None = None
    label: str = ""


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """Which query rows see which keys, as index sets; built when masks change, for all layers.

    ``order`` (L + V,) int64 brings the groups' outputs, laid end to end, back to the rows' order;
    None where they are in order already.
    """

    layout: SequenceLayout
    groups: tuple[AttentionGroup, ...]
    order: Tensor | None

    @classmethod
    def build(
        cls,
        layout: SequenceLayout,
        object_masks: Tensor,
        *,
        scope: str = "released",
        without: Collection[str] = (),
        strengths: Sequence[float] | None = None,
        device: torch.device | str | None = None,
    ) -> AttentionPlan:
        """Group the query rows of ``layout`` by the set of keys they may see.

        ``object_masks``: (N, F, h, w) bool on the token grid. ``strengths``: per object, at least
        0, the factor on its motion keys' softmax weight (default 1; 0 drops the keys). ``device``:
        where the index sets live, default that of the masks. Raises RequestError.
        """
        if not layout.steered:
            without = ("infer_mask",)  # nobody takes part: the stock model, in either scope
        object_masks = torch.as_tensor(object_masks)
        device = object_masks.device if device is None else torch.device(device)
        classes = layout.classify(object_masks)
        seen = visibility_table(layout.objects, classes.sets, scope=scope, without=without)
        table = torch.from_numpy(seen)[:, classes.keys.unique()]  # (classes, classes with keys)
        key_class = classes.keys.unique(return_inverse=True)[1]  # (L + ΣM + V,)
        bias = _strength_bias(layout, strengths)
        rows_of: dict[tuple[bool, ...], list[Tensor]] = {}
        label_of: dict[tuple[bool, ...], str] = {}
        for row_class in classes.queries.unique().tolist():
            rows = (classes.queries == row_class).nonzero().flatten()
            visible = tuple(table[row_class].tolist())
            rows_of.setdefault(visible, []).append(rows)
            label_of.setdefault(visible, _class_name(row_class, layout.objects, classes.sets))
        groups, laid = [], []
        for visible, parts in rows_of.items():
            rows = torch.cat(parts).sort().values
            open_keys = torch.tensor(visible, dtype=torch.bool)[key_class] & (bias > -math.inf)
            keys = open_keys.nonzero().flatten()
            key_bias = bias[keys].to(device) if bool(bias[keys].any()) else None
            index = (_index(rows, device), _index(keys, device))
            groups.append(AttentionGroup(*index, key_bias, label_of[visible]))
            laid.append(rows)
        order = torch.cat(laid).argsort() if laid else torch.zeros(0, dtype=torch.long)
        in_order = len(laid) <= 1 or bool((order[1:] > order[:-1]).all())
        return cls(layout, tuple(groups), None if in_order else order.to(device))


def _class_name(number: int, objects: int, sets: Sequence[frozenset[int]]) -> str:
    """The name ``visibility`` gives to a class that queries can have."""
    if number <= objects:
        return "free" if number == 0 else f"phrase_{number - 1}"
    return "video_{" + ",".join(map(str, sorted(sets[number - 1 - 2 * objects]))) + "}"


def _strength_bias(layout: SequenceLayout, strengths: Sequence[float] | None) -> Tensor:
    """Log strength of every key, (L + ΣM + V,) float32; -inf for keys to drop."""
    bias = torch.zeros(layout.keys)
    if strengths is None:
        return bias
    if len(strengths) != layout.objects:
        raise RequestError(f"{len(strengths)} strengths came for {layout.objects} objects")
    for k, strength in enumerate(strengths):
        if not 0 <= strength < math.inf:
            raise RequestError(
                f"the strength of object {k} is {strength}; it must be a number from 0 upwards"
            )
        bias[layout.motion_keys(k)] = math.log(strength) if strength else -math.inf
    return bias


def _index(positions: Tensor, device: torch.device) -> Index:
    """A slice where ``positions`` (sorted) are contiguous: slicing copies nothing."""
    if len(positions) == 0:
        return slice(0, 0)
    first, last = int(positions[0]), int(positions[-1])
    if last - first + 1 == len(positions):
        return slice(first, last + 1)
    return positions.to(device)


def _take(tokens: Tensor, index: Index) -> Tensor:
    """Tokens (B, heads, S, d) at ``index``."""
    return tokens[:, :, index] if isinstance(index, slice) else tokens.index_select(2, index)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: AttentionPlan,
    *,
    kernel: Kernel = torch_kernel,
) -> Tensor:
    """Attention in which every row sees exactly the keys the plan allows it.

    ``query``: (B, heads, L + V, d); ``key``, ``value``: (B, heads, L + ΣM + V, d), after QK norm
    and RoPE. Returns (B, heads, L + V, d). Per group one plain unmasked softmax attention over the
    group's keys, so it is exact (equal to a softmax whose closed logits are -inf); a group without
    keys gives zeros. ``kernel`` computes each. Raises ValueError for tensors that do not fit the
    plan's layout.
    """
    layout = plan.layout
    if query.shape[2] != layout.queries or key.shape[2] != layout.keys or key.shape != value.shape:
        raise ValueError(
            f"the plan is for {layout.queries} queries and {layout.keys} keys; got query "
            f"{tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
        )
    outputs = [
        _attend_group(
            *(_take(query, group.rows), _take(key, group.keys), _take(value, group.keys)),
            group.bias,
            kernel,
        )
        for group in plan.groups
    ]  # each (B, heads, rows, d)
    if len(outputs) == 1:
        return outputs[0]  # (B, heads, L + V, d)
    laid = torch.cat(outputs, dim=2)
    return laid if plan.order is None else laid.index_select(2, plan.order)  # (B, heads, L + V, d)


def _attend_group(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, kernel: Kernel
) -> Tensor:
    """Plain attention of (B, heads, rows, d) over (B, heads, keys, d).

    A bias on the logits rides along as one more channel, query 1 and key bias·√d: the dot product
    then is the biased logit itself, so the fast kernels need neither a mask nor their log-sum-exp.
    """
    if key.shape[2] == 0:
        return torch.zeros_like(query)
    if query.requires_grad and query.device.type == "cpu" and value.dtype == torch.bfloat16:
        return _explicit_attention(query.to(value), key.to(value), value, bias)
    if bias is None:
        return kernel(query, key, value)
    width = query.shape[-1]
    extra = 8  # one channel, padded: flash kernels want head sizes in multiples of 8
    column = F.pad((bias * math.sqrt(width))[:, None], (0, extra - 1)).to(key)  # (keys, 8)
    key = torch.cat([key, column.expand(*key.shape[:2], -1, -1)], dim=-1)  # (B, heads, keys, d + 8)
    query = F.pad(query, (0, extra))
    query[..., width] = 1.0
    value = F.pad(value, (0, extra))
    scale = 1 / math.sqrt(width)
    return kernel(query, key, value, scale=scale)[..., :width]


def _explicit_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Two matrix products and a softmax: for training in bfloat16 on a CPU, where forward and
    backward take a third of the fused kernel's time."""
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, heads, rows, keys)
    if bias is not None:
        logits = logits + bias.to(logits)
    return logits.softmax(-1) @ value


def noun_mask(
    query: Tensor,
    key: Tensor,
    grid: tuple[int, int, int],
    noun: Span,
    *,
    drop: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """DMEM (FlexiMMT section 3.3): where one clip's object is, from the words that name it.

    ``query``: (heads, L + V, d) and ``key``: (heads, V, d) of the video tokens, both after QK norm
    and RoPE; ``noun``: text positions (start, stop). Raw dot products, mean over heads and over the
    noun's tokens; strictly above the latent frame's own mean is object. Then ``drop`` of the kept
    positions (released: 0.3) are let go at random. Returns (F, h, w) bool, detached.
    """
    with torch.no_grad():
        asked = query[:, slice(*noun)].float().mean(1)  # (heads, d)
        scores = torch.einsum("hd,hvd->v", asked, key.float()) / len(asked)  # (V,)
        frames = scores.view(grid[0], -1)  # (F, P)
        kept = (frames > frames.mean(1, keepdim=True)).flatten()  # (V,)
        if drop > 0:
            source = "cpu" if generator is None else generator.device
            draws = torch.rand(kept.shape, generator=generator, device=source).to(kept.device)
            ranks = draws.masked_fill(~kept, 2.0).argsort().argsort()  # kept ones first
            kept = kept & (ranks >= (drop * kept.sum()).long())
        return kept.view(grid)  # (F, h, w)


def visibility(
    objects: int, *, scope: str = "released", without: Collection[str] = ()
) -> tuple[tuple[str, ...], np.ndarray]:
    """The table of docs/method.md section 3 (FlexiMMT Eq. 5 to 11) for ``objects`` objects.

    Returns the class names in order, ``free``, ``phrase_0`` …, ``motion_0`` …, ``video_{}``, then
    ``video_{0}``, ``video_{0,1}`` … for every set of objects a video token may lie in (smaller sets
    first), and a symmetric bool array (classes, classes): True where one may attend to the other.
    ``without`` names ablations (``ABLATIONS``). Raises RequestError for an unknown name or scope.
    """
    if not 0 <= objects <= MOST_ENUMERATED:
        raise RequestError(
            f"the whole table can be listed for 0 to {MOST_ENUMERATED} objects, not {objects}; "
            "AttentionPlan.build has no such limit"
        )
    sets = [frozenset(c) for size in range(objects + 1) for c in combinations(range(objects), size)]
    names = (
        "free",
        *(f"phrase_{k}" for k in range(objects)),
        *(f"motion_{k}" for k in range(objects)),
        *("video_{" + ",".join(map(str, sorted(members))) + "}" for members in sets),
    )
    return names, visibility_table(objects, sets, scope=scope, without=without)


def check_ablations(without: Collection[str], scope: str = "released") -> frozenset[str]:
    """What the named ablations open; RequestError names the valid ones."""
    if scope not in SCOPES:
        raise RequestError(f'unknown scope "{scope}"; choose one of {", ".join(SCOPES)}')
    unknown = sorted(set(without) - set(OPENS))
    if unknown:
        raise RequestError(f'unknown ablation "{unknown[0]}"; choose from {", ".join(ABLATIONS)}')
    return frozenset().union(*(OPENS[name] for name in without))


def visibility_table(
    objects: int, sets: Sequence[frozenset[int]], *, scope: str, without: Collection[str]
) -> np.ndarray:
    """Bool (classes, classes) over free, phrases, motions and the given video sets."""
    opened = check_ablations(without, scope)
    kinds = ["free", *["phrase"] * objects, *["motion"] * objects, *["video"] * len(sets)]
    owners = np.zeros((len(kinds), objects), dtype=bool)  # (classes, N)
    owners[1 : 1 + 2 * objects] = np.tile(np.eye(objects, dtype=bool), (2, 1))
    for row, members in enumerate(sets, start=1 + 2 * objects):
        owners[row, sorted(members)] = True
    shared = (owners[:, None] & owners[None]).any(-1)  # (classes, classes): some object in common
    anything, nothing = np.ones_like(shared), np.zeros_like(shared)
    rules = {
        ("free", "free"): anything,
        ("free", "phrase"): anything,
        ("free", "motion"): anything if "t2m" in opened else nothing,
        ("free", "video"): anything if scope == "released" else nothing,
        ("phrase", "phrase"): anything if "t2t" in opened else shared,
        ("phrase", "motion"): anything if "t2m" in opened else shared,
        ("phrase", "video"): anything if "t2v" in opened else shared,
        ("motion", "motion"): anything if "m2m" in opened else shared,
        ("motion", "video"): anything if "m2v" in opened else shared,
        ("video", "video"): anything,
    }
    if "all" in opened:
        return anything
    kind = np.array(kinds)
    table = np.zeros_like(shared)
    for (one, other), rule in rules.items():
        block = (kind[:, None] == one) & (kind[None] == other)
        table |= rule & (block | block.T)
    return table


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
        for label, found in present.items():
            self.shapes[label] = self._shape(label, found, layout.queries, layout.keys)
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
