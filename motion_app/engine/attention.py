"""MDMA: who sees whom, computed exactly and without a mask over the video; and DMEM's masks from
words.

visibility (a table over token classes) → AttentionPlan (index sets) → attend, which the processor
calls. FlexiMMT sections 3.2 (equations 5 to 11) and 3.3.

Nearly all rows see the common keys, which depend on no mask: one plain call. What an object's rows
see beyond them, its phrase and its motion, is a small call of its own, and the two are merged by
their log-sum-exp, which is exact. The few rows that do not see all common keys (the phrases, which
see their own object) are computed under a mask. Nothing as large as the video is copied.

For compiled code the plans' shapes stay the same when masks change (``FixedShapes``). Parts are
filled up: spare rows are computed and dropped; spare keys carry a bias that leaves them no weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from motion_app.engine.kernels import TORCH_KERNEL, Kernel
from motion_app.engine.layout import SequenceLayout, Span, TokenClasses
from motion_app.engine.visibility import visibility_table
from motion_app.errors import RequestError

Attend = Callable[[Tensor, Tensor, Tensor, "AttentionPlan"], Tensor]
Index = slice | Tensor
NO_WEIGHT = -3000.0  # exp of it is 0 in every type, and eight times it still fits float16
MARGIN = 1.25  # room for masks to grow before shapes change


@dataclass(frozen=True, eq=False)
class OwnKeys:
    """What the query ``rows`` see beyond the common keys: ``keys``; both are slices where they are
    contiguous, else int64 positions. ``bias`` (keys,) float32 holds log strengths, None where all
    are 0. ``label`` is the rows' class, by which it is known when masks change."""

    rows: Index
    keys: Index
    bias: Tensor | None
    label: str


UNSEEN = OwnKeys(slice(0, 0), slice(0, 0), None, "")


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """Which query rows see which keys; built when masks change, for all layers.

    All rows but the ``narrow`` ones see the ``common`` keys, and no row is in two entries of
    ``own``. ``logits`` (narrow, keys) float32 is the log strength of what the narrow rows see, -inf
    where they see nothing.
    """

    layout: SequenceLayout
    common: slice
    own: tuple[OwnKeys, ...]
    narrow: Index
    logits: Tensor

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
        """Sort the query rows of ``layout`` by the keys they may see.

        ``object_masks``: (N, F, h, w) bool on the token grid. ``strengths``: per object, at least
        0, the factor on its motion keys' softmax weight (default 1; 0 drops the keys). ``device``:
        where the index sets live, default that of the masks. Raises RequestError.
        """
        if not layout.steered:
            without = ("infer_mask",)  # nobody takes part: the stock model, in either scope
        object_masks = torch.as_tensor(object_masks)
        device = object_masks.device if device is None else torch.device(device)
        classes = layout.classify(object_masks)
        table = visibility_table(layout.objects, classes.sets, scope=scope, without=without)
        bias = _strength_bias(layout, strengths)
        sights = _Sights(classes, torch.from_numpy(table), bias)
        seen_by_class = sights.by_class()
        common = _common_keys(layout, seen_by_class, weighed=bool(bias.any()))
        own, narrow = [], [torch.zeros(0, dtype=torch.long)]
        for rows, seen, row_class in seen_by_class:
            if not bool(seen[common].all()):
                narrow.append(rows)
                continue
            seen[common] = False
            keys = seen.nonzero().flatten()
            if len(keys):
                key_bias = bias[keys].to(device) if bool(bias[keys].any()) else None
                label = _class_name(row_class, layout.objects, classes.sets)
                own.append(OwnKeys(_index(rows, device), _index(keys, device), key_bias, label))
        few = torch.cat(narrow).sort().values
        logits = torch.where(sights.of(few), bias, -math.inf).to(device)
        return cls(layout, common, tuple(own), _index(few, device), logits)

    @cached_property
    def apart(self) -> tuple[tuple[RowsApart, ...], Tensor]:
        """All rows, by sets of those that see the same keys; and int64 (L + V,), which brings the
        sets, laid end to end, back to the rows' order."""
        device = self.logits.device
        sets = [RowsApart(positions(self.narrow, device), slice(0, self.layout.keys), self.logits)]
        common = torch.arange(self.common.start, self.common.stop)
        for part in self.own:
            keys = torch.cat([common, positions(part.keys, common.device)])
            bias = None if part.bias is None else F.pad(part.bias, (len(common), 0))
            sets.append(RowsApart(positions(part.rows, device), _index(keys, device), bias))
        plain = torch.ones(self.layout.queries, dtype=torch.bool, device=device)
        plain[torch.cat([one.rows for one in sets])] = False
        sets.append(RowsApart(plain.nonzero().flatten(), self.common, None))
        sets = [one for one in sets if len(one.rows)]
        return tuple(sets), torch.cat([one.rows for one in sets]).argsort()

    def to(self, device: torch.device) -> AttentionPlan:
        """The same with its index sets on ``device``."""

        def move(part: Index) -> Index:
            return part.to(device) if isinstance(part, Tensor) else part

        own = tuple(
            OwnKeys(
                move(part.rows),
                move(part.keys),
                None if part.bias is None else part.bias.to(device),
                part.label,
            )
            for part in self.own
        )
        return replace(self, own=own, narrow=move(self.narrow), logits=self.logits.to(device))


@dataclass(frozen=True, eq=False)
class RowsApart:
    """Query ``rows``, int64, and all ``keys`` that they see; ``bias`` on the logits, (keys,) or
    (rows, keys) float32, None where it is 0."""

    rows: Tensor
    keys: Index
    bias: Tensor | None


class _Sights:
    """What the rows of each class see, as masks over the keys."""

    def __init__(self, classes: TokenClasses, table: Tensor, bias: Tensor) -> None:
        self.classes, self.table = classes, table
        self.weighed = bias > -math.inf  # (keys,)

    def of(self, rows: Tensor) -> Tensor:
        """Bool (rows, keys)."""
        return self.table[self.classes.queries[rows]][:, self.classes.keys] & self.weighed

    def by_class(self) -> list[tuple[Tensor, Tensor, int]]:
        """Rows int64, what each of them sees, bool (keys,), and their class; for every class."""
        found = []
        for row_class in self.classes.queries.unique().tolist():
            rows = (self.classes.queries == row_class).nonzero().flatten()
            found.append((rows, self.of(rows[:1])[0], row_class))
        return found


def _common_keys(
    layout: SequenceLayout, seen_by_class: Sequence[tuple[Tensor, Tensor, int]], *, weighed: bool
) -> slice:
    """The keys that all video rows see alike: everything where nobody is kept from anything and no
    motion is ``weighed``, else the video and, as the scope has it, the free text before it."""
    if not weighed and all(bool(seen.all()) for _, seen, _ in seen_by_class):
        return slice(0, layout.keys)
    video = [seen for rows, seen, _ in seen_by_class if rows[-1] >= layout.text]
    with_text = all(bool(seen[layout.free_keys].all()) for seen in video)
    return slice(0 if with_text else layout.video_keys.start, layout.video_keys.stop)


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
    """A slice where ``positions`` count up by one: slicing copies nothing."""
    if len(positions) == 0:
        return slice(0, 0)
    first = int(positions[0])
    if bool((positions == torch.arange(first, first + len(positions))).all()):
        return slice(first, first + len(positions))
    return positions.to(device)


def _take(tokens: Tensor, index: Index) -> Tensor:
    """Tokens (B, heads, S, …) at ``index``."""
    return tokens[:, :, index] if isinstance(index, slice) else tokens.index_select(2, index)


def _put(tokens: Tensor, index: Index, new: Tensor) -> None:
    """``new`` into tokens (B, heads, S, d) at ``index``."""
    if isinstance(index, slice):
        tokens[:, :, index] = new
    else:
        tokens.index_copy_(2, index, new)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: AttentionPlan,
    *,
    kernel: Kernel = TORCH_KERNEL,
) -> Tensor:
    """Attention in which every row sees exactly the keys the plan allows it.

    ``query``: (B, heads, L + V, d); ``key``, ``value``: (B, heads, L + ΣM + V, d), after QK norm
    and RoPE, in the layout's order of the keys. Returns (B, heads, L + V, d), equal to a softmax
    whose closed logits are -inf. ``kernel`` computes all but the narrow rows. Differentiable.
    Raises ValueError for tensors that do not fit the plan's layout.
    """
    layout = plan.layout
    if query.shape[2] != layout.queries or key.shape[2] != layout.keys or key.shape != value.shape:
        raise ValueError(
            f"the plan is for {layout.queries} queries and {layout.keys} keys; got query "
            f"{tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
        )
    if torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value)):
        return _attend_apart(query, key, value, plan, kernel)
    common = (query, key[:, :, plan.common], value[:, :, plan.common])
    if not plan.own:
        output = kernel(*common)  # (B, heads, L + V, d)
    else:
        output, total = kernel.with_sums(*common)  # …, (B, heads, L + V)
        for part in plan.own:
            _merge_own(output, total, (query, key, value), part, kernel)
    if size_of(plan.narrow):
        few = _take(query, plan.narrow)
        mask = plan.logits.to(few)
        _put(output, plan.narrow, F.scaled_dot_product_attention(few, key, value, attn_mask=mask))
    return output


def _merge_own(
    output: Tensor,
    total: Tensor,
    tokens: tuple[Tensor, Tensor, Tensor],
    part: OwnKeys,
    kernel: Kernel,
) -> None:
    """Into ``output``, over the common keys with log-sum-exp ``total``, what the rows of ``part``
    see beyond them; ``tokens`` are query, key and value."""
    query, key, value = tokens
    own_tokens = (_take(query, part.rows), _take(key, part.keys), _take(value, part.keys))
    own, own_total = _weighed(*own_tokens, part.bias, kernel)
    share = (own_total - _take(total, part.rows)).sigmoid()[..., None]  # (B, heads, rows, 1)
    merged = _take(output, part.rows).to(share).lerp_(own.to(share), share)
    _put(output, part.rows, merged.to(output))


def _weighed(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, kernel: Kernel
) -> tuple[Tensor, Tensor]:
    """Attention with its log-sum-exp under a ``bias`` (keys,) on the logits, which rides along as
    one more channel, query 1 and key bias·√d: the dot product then is the biased logit itself, so
    that the fast kernels need no mask."""
    if bias is None:
        return kernel.with_sums(query, key, value)
    width = query.shape[-1]
    extra = 8  # one channel, padded: flash kernels want head sizes in multiples of 8
    column = F.pad((bias * math.sqrt(width))[:, None], (0, extra - 1)).to(key)  # (keys, 8)
    key = torch.cat([key, column.expand(*key.shape[:2], -1, -1)], dim=-1)  # (B, heads, keys, d + 8)
    query = F.pad(query, (0, extra))
    query[..., width] = 1.0
    value = F.pad(value, (0, extra))
    output, total = kernel.with_sums(query, key, value, scale=1 / math.sqrt(width))
    return output[..., :width], total


def _attend_apart(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, kernel: Kernel
) -> Tensor:
    """As ``attend``, by one call for each set of rows that see the same keys: kernels give no
    gradient of their log-sum-exp. Training has one object, whose keys lie beside the common ones.
    """
    sets, order = plan.apart
    outputs = []
    for one in sets:
        asked = query if len(sets) == 1 else query.index_select(2, one.rows)
        seen = (_take(key, one.keys), _take(value, one.keys))
        outputs.append(_differentiable(asked, *seen, one.bias, kernel))
    return outputs[0] if len(sets) == 1 else torch.cat(outputs, dim=2).index_select(2, order)


def _differentiable(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, kernel: Kernel
) -> Tensor:
    """Attention under a bias on the logits. In bfloat16 on a CPU by two matrix products and a
    softmax: forward and backward take a third of the fused kernel's time."""
    if query.device.type == "cpu" and value.dtype == torch.bfloat16:
        scaled = query.to(value) * query.shape[-1] ** -0.5
        logits = scaled @ key.to(value).transpose(-1, -2)  # (B, heads, rows, keys)
        return (logits if bias is None else logits + bias.to(logits)).softmax(-1) @ value
    if bias is None:
        return kernel(query, key, value)
    mask = bias.to(query).expand(query.shape[2], -1)  # (rows, keys)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


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


@dataclass(frozen=True)
class PartShape:
    """Places for ``rows`` and ``keys`` of one class."""

    rows: int
    keys: int


@dataclass
class FixedShapes:
    """The shapes of one generation's plans, by the label of each class. ``bucket``: sizes are
    multiples of it, which also suits the kernels. A shape only ever grows."""

    bucket: int = 256
    shapes: dict[str, PartShape] = field(default_factory=dict)

    def fit(self, plan: AttentionPlan) -> AttentionPlan:
        """``plan`` with every part at its fixed shape, those of classes that have no rows any more
        among them; attends exactly as ``plan`` does."""
        device = plan.logits.device
        present = {part.label: part for part in plan.own}
        for label, part in present.items():
            self.shapes[label] = self._shape(label, part, plan.layout)
        idle = self._idle(plan, device)
        own = []
        for label, shape in self.shapes.items():
            if label not in present and not len(idle):
                continue
            part = present.get(label, UNSEEN)
            rows, keys = positions(part.rows, device), positions(part.keys, device)
            bias = torch.full((shape.keys,), NO_WEIGHT, device=device)
            bias[: len(keys)] = 0.0 if part.bias is None else part.bias
            rows = filled(rows if len(rows) else idle, shape.rows)
            own.append(OwnKeys(rows, filled(keys, shape.keys), bias, label))
        return replace(plan, own=tuple(own))

    def _idle(self, plan: AttentionPlan, device: torch.device) -> Tensor:
        """A row that has no own keys, (1,); none where all have. Without weight on any key it comes
        out of the merge as it went in."""
        free = torch.ones(plan.layout.queries, dtype=torch.bool, device=device)
        for part in plan.own:
            free[part.rows] = False
        return free.nonzero().flatten()[:1]

    def _shape(self, label: str, part: OwnKeys, layout: SequenceLayout) -> PartShape:
        before = self.shapes.get(label, PartShape(0, 0))
        return PartShape(
            self._room(size_of(part.rows), before.rows, most=layout.queries),
            self._room(size_of(part.keys), before.keys, most=layout.keys),
        )

    def _room(self, size: int, before: int, *, most: int) -> int:
        if size <= before:
            return before
        roomy = math.ceil(size * MARGIN / self.bucket) * self.bucket
        return min(roomy, math.ceil(most / self.bucket) * self.bucket)


def size_of(index: Index) -> int:
    """How many positions an index holds."""
    return index.stop - index.start if isinstance(index, slice) else len(index)


def positions(index: Index, device: torch.device) -> Tensor:
    """An index as int64 positions."""
    if isinstance(index, slice):
        return torch.arange(index.start, index.stop, device=device)
    return index.to(device)


def filled(index: Tensor, size: int) -> Tensor:
    """``index`` with its first position (0 where it has none) repeated to make ``size``."""
    first = index[:1] if len(index) else index.new_zeros(1)
    return torch.cat([index, first.expand(size - len(index))])
