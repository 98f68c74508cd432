"""What all attention layers share during one generation, or one training step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from motion_app.engine.adapters import Adapter, GatedAdapters, token_gates
from motion_app.engine.attention import Attend, AttentionPlan, FixedShapes, attend, noun_mask
from motion_app.engine.layers import AttentionLayer, KeyValues, Steering
from motion_app.engine.layout import SequenceLayout, Span

UNTOUCHED = ("t2v", "t2t")  # released: training closes motion-video and motion-text alone


@contextmanager
def steered(
    layers: Sequence[AttentionLayer], steering: Steering, *, attention: Attend = attend
) -> Iterator[None]:
    """Let motions act in all ``layers`` of a model, as ``steering`` has it; whatever happens
    inside, the model is as before on leaving. ``attention``: ``attend``, with a kernel of one's
    choice or compiled."""
    with ExitStack() as acting:
        for layer in layers:
            acting.enter_context(layer.steered(steering, attention))
        yield


class AdapterSteering:
    """SynMotion's adapters of one generation, which follow the masks.

    ``adapters``: one for each of the ``objects`` (numbers in the request's order); ``words``: each
    one's own text positions; ``strengths``: factors on them. ``halves``: for each share of the
    batch whether they act there. ``everywhere``: they act on all tokens alike, masks or not.
    """

    def __init__(
        self,
        adapters: Sequence[Adapter],
        objects: Sequence[int],
        words: Sequence[Sequence[Span]],
        *,
        strengths: Sequence[float],
        halves: Sequence[bool],
        text: int,
        everywhere: bool,
    ) -> None:
        self.bank = GatedAdapters(adapters)
        self.objects, self.words = list(objects), words
        self.strengths, self.halves = strengths, halves
        self.text, self.everywhere = text, everywhere

    def set_masks(self, object_masks: Tensor) -> None:
        """Act inside ``object_masks`` (N, F, h, w) bool of all objects from the next forward on."""
        gates = token_gates(
            object_masks[self.objects], self.words, text=self.text, everywhere=self.everywhere
        )  # (K, L + V)
        gates = gates * torch.tensor(self.strengths).to(gates)[:, None]
        acts = torch.tensor([float(half) for half in self.halves]).to(gates)
        self.bank.gates = acts[:, None, None] * gates  # (shares, K, L + V)


class GenerationSteering:
    """The one steering object of a generation.

    ``key_values``: per layer, the motions' keys and values (1, heads, ΣM, d). ``halves``: the
    motion strengths of each share of the batch, the conditional one last; shares with equal
    strengths use one plan. ``feature_layers``: how many of the first layers RMPM's features are
    averaged over.
    ``nouns``: give them to take DMEM's masks in every layer instead (ablation ``rmpm``).
    ``adapters`` are told of every change of the masks.

    ``object_masks`` hold on step 0. Ablation ``step0_mask`` has no region masks there, as the
    authors' release: until the first ``set_masks`` no video token sees a motion, whose phrase is
    then seen by all video; what phrases and motions see of each other stays closed.
    """

    def __init__(
        self,
        layout: SequenceLayout,
        object_masks: Tensor,
        key_values: Sequence[KeyValues],
        *,
        halves: Sequence[Sequence[float]],
        scope: str = "released",
        without: Collection[str] = (),
        feature_layers: int = 0,
        nouns: Sequence[Span | None] | None = None,
        adapters: AdapterSteering | None = None,
    ) -> None:
        self.layout = layout
        self.adapters = adapters
        self.scope, self.without = scope, tuple(without)
        self.halves = [tuple(half) for half in halves]
        self.factor = 1.0  # on all strengths
        self.feature_layers = feature_layers
        self.nouns = nouns
        self.recording = feature_layers > 0
        self._key_values = key_values
        self._shapes: dict[tuple[float, ...], FixedShapes] | None = None
        self._features: Tensor | None = None
        self._noun_masks: list[Tensor] = []
        self.object_masks = object_masks
        self.masked = "step0_mask" not in self.without
        self._install()

    def fix_shapes(self) -> None:
        """Keep the plans' shapes when masks change, for compiled attention."""
        self._shapes = {half: FixedShapes() for half in self.halves}
        self._install()

    def strengthen(self, factor: float) -> None:
        """Weigh the motions of all objects ``factor`` times as much from the next forward on."""
        if factor != self.factor:
            self.factor = factor
            self._install()

    @property
    def tracks_masks(self) -> bool:
        """Whether the masks may still change with the steps to come."""
        return self.recording or self.nouns is not None

    def set_masks(self, object_masks: Tensor) -> None:
        """Use ``object_masks`` (N, F, h, w) bool from the next forward on."""
        self.object_masks, self.masked = object_masks, True
        self._install()

    def _install(self) -> None:
        masks, without = self.object_masks, self.without
        if not self.masked:
            masks, without = torch.zeros_like(masks), (*without, "t2v")
        self._plans = self._build(masks, without)
        if self.adapters is not None:
            self.adapters.set_masks(masks)

    def begin_step(self) -> None:
        """Forget the features of the step before."""
        self._features = None
        self._noun_masks = []

    def features(self) -> Tensor:
        """RMPM's features of this step, (F, h, w, D) float32: the mean over the first layers."""
        if self._features is None:
            raise ValueError("no layer was observed in this step, so that it has no features")
        return (self._features / self.feature_layers).view(*self.layout.grid, -1)  # (F, h, w, D)

    def layer_masks(self) -> Tensor:
        """What most layers of this step took for the objects by DMEM, (N, F, h, w) bool. Adapters,
        which act before a layer's own masks are known, follow these."""
        masks = torch.stack(self._noun_masks).float().mean(0) > 0.5
        if self.adapters is not None:
            self.adapters.set_masks(masks)
        return masks

    def key_values(self, layer: AttentionLayer) -> KeyValues:
        return self._key_values[layer.number]

    def plans(self, layer: int, query: Tensor, key: Tensor) -> Sequence[AttentionPlan]:
        if self.nouns is None:
            return self._plans
        video = key[-1, :, self.layout.video_rows]  # (heads, V, d) of the conditional share
        nowhere = torch.zeros(self.layout.grid, dtype=torch.bool, device=key.device)
        masks = torch.stack(
            [
                nowhere if noun is None else noun_mask(query[-1], video, self.layout.grid, noun)
                for noun in self.nouns
            ]
        )  # (N, F, h, w)
        self._noun_masks.append(masks)
        return self._build(masks, self.without)

    def observe(self, layer: int, video: Tensor) -> None:
        if self.recording and layer < self.feature_layers:
            output = video[-1].detach().float()  # (V, D) of the conditional share
            self._features = output if self._features is None else self._features + output

    def _build(self, object_masks: Tensor, without: Collection[str]) -> list[AttentionPlan]:
        built = {
            strengths: AttentionPlan.build(
                self.layout,
                object_masks,
                scope=self.scope,
                without=without,
                strengths=[self.factor * strength for strength in strengths],
            )
            for strengths in dict.fromkeys(self.halves)
        }
        if self._shapes is not None:
            built = {half: self._shapes[half].fit(plan) for half, plan in built.items()}
        return list(built.values()) if len(built) == 1 else [built[half] for half in self.halves]


@dataclass(frozen=True, eq=False)
class TrainingSample:
    """One clip of a training batch, with its one object. Its motion tokens are seen by the motion
    phrase and, among video tokens, by those in ``object_masks`` (1, F, h, w) bool where given, else
    by DMEM's where ``noun`` (text positions) is given, else by everything (``concat``).

    With masks there may be several objects, (N, F, h, w). ``without``: ablations of who sees whom;
    () is as in a generation."""

    layout: SequenceLayout
    noun: Span | None = None
    object_masks: Tensor | None = None
    without: tuple[str, ...] = UNTOUCHED


class TrainingSteering:
    """The steering object of motion training; text-video and text-text stay as in the stock model.

    ``project``: layer → motion keys and values (1 or B, heads, ΣM, d), with gradient. ``drop``:
    the share of DMEM's positions let go at random (released: 0.3), drawn from ``generator``.
    Call ``begin`` before every forward pass.
    """

    def __init__(
        self,
        project: Callable[[AttentionLayer], KeyValues],
        *,
        drop: float = 0.3,
        generator: torch.Generator | None = None,
    ) -> None:
        self.key_values = project
        self.drop = drop
        self.generator = generator
        self._samples: Sequence[TrainingSample] = ()
        self._fixed: list[AttentionPlan | None] = []
        self._by_layer: dict[int, list[AttentionPlan]] = {}
        self._noun_masks: list[Tensor] = []

    def begin(self, samples: Sequence[TrainingSample]) -> None:
        """Set the batch, in order; its DMEM masks are drawn afresh in the forward pass to come."""
        self._samples = samples
        self._fixed = []
        self._by_layer = {}
        self._noun_masks = []

    def layer_masks(self) -> Tensor:
        """What most layers took for the first sample's object in the last forward pass, by DMEM and
        before the random drop, (F, h, w) bool."""
        return torch.stack(self._noun_masks).float().mean(0) > 0.5

    def plans(self, layer: int, query: Tensor, key: Tensor) -> Sequence[AttentionPlan]:
        if not self._fixed:
            self._fixed = [_fixed_plan(sample, query.device) for sample in self._samples]
        # Gradient checkpointing runs a layer again in the backward pass; it must meet the masks of
        # the first time, whose random drop cannot be drawn twice.
        if layer not in self._by_layer:
            self._by_layer[layer] = [
                fixed or self._noun_plan(sample.layout, sample.noun, query[b], key[b], first=b == 0)
                for b, (sample, fixed) in enumerate(zip(self._samples, self._fixed, strict=True))
            ]
        return self._by_layer[layer]

    def observe(self, layer: int, video: Tensor) -> None:
        """Training needs no features."""

    def _noun_plan(
        self, layout: SequenceLayout, noun: Span | None, query: Tensor, key: Tensor, *, first: bool
    ) -> AttentionPlan:
        """DMEM, from query and key (heads, L + V, d) of one sample; ``first``: of the batch."""
        if noun is None:
            raise ValueError("a sample without a noun has a plan that is the same in all layers")
        video = key[:, layout.video_rows]  # (heads, V, d)
        if first:
            self._noun_masks.append(noun_mask(query, video, layout.grid, noun))
        mask = noun_mask(query, video, layout.grid, noun, drop=self.drop, generator=self.generator)
        return AttentionPlan.build(layout, mask[None], without=UNTOUCHED)


def _fixed_plan(sample: TrainingSample, device: torch.device) -> AttentionPlan | None:
    """The plan of a sample that is the same in all layers; None where DMEM makes one per layer."""
    if sample.object_masks is not None:
        masks = sample.object_masks.to(device)
        return AttentionPlan.build(sample.layout, masks, without=sample.without)
    if sample.noun is not None:
        return None
    everywhere = torch.ones((1, *sample.layout.grid), dtype=torch.bool, device=device)
    return AttentionPlan.build(sample.layout, everywhere, without=("infer_mask",))
