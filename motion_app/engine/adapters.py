"""Low-rank adapters on the attention's projections, and a gate that says which tokens they act on.

They hang on the linear layers as forward hooks: the model keeps its modules, its weights and its
processors, and whoever calls a layer, the stock processor or ours, gets the adapted projection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motion_app.engine.layers import AttentionLayer
from motion_app.engine.layout import Span
from motion_app.errors import MotionFileError

PLACES = ("to_q", "to_k", "to_v", "to_out")  # of an attention layer, as files name them


class Adapter(nn.Module):
    """LoRA (SynMotion's visual adapter): W + scale · up · down for some projections of every layer.

    ``down`` maps a name of ``PLACES`` to (layers, rank, D), ``up`` to (layers, D, rank), float32.
    """

    def __init__(
        self, down: Mapping[str, Tensor], up: Mapping[str, Tensor], *, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.down = nn.ParameterDict({name: nn.Parameter(w) for name, w in down.items()})
        self.up = nn.ParameterDict({name: nn.Parameter(w) for name, w in up.items()})
        self.scale = scale

    @classmethod
    def fresh(
        cls,
        layers: Sequence[AttentionLayer],
        *,
        rank: int,
        alpha: float,
        places: Sequence[str],
        generator: torch.Generator,
    ) -> Adapter:
        """``up`` zero, so that it changes nothing yet; ``down`` uniform in ±1/√D."""
        down, up = {}, {}
        for name in places:
            linear = layers[0].linear(name)
            bound = 1 / math.sqrt(linear.in_features)
            draws = torch.rand(len(layers), rank, linear.in_features, generator=generator)
            down[name] = (2 * draws - 1) * bound
            up[name] = torch.zeros(len(layers), linear.out_features, rank)
        return cls(down, up, scale=alpha / rank)

    def forward(self, layer: int, name: str, tokens: Tensor) -> Tensor:
        """What is added to one projection of ``tokens`` (..., D); same shape and dtype."""
        down, up = (side[name][layer].to(tokens.dtype) for side in (self.down, self.up))
        return F.linear(F.linear(tokens, down), up) * self.scale

    def check_fits(self, layers: Sequence[AttentionLayer], *, file: str) -> None:
        """MotionFileError unless every weight has its place in the ``layers`` of a model."""
        for name in self.down:
            linear = layers[0].linear(name)
            down, up = self.down[name], self.up[name]
            rank = down.shape[1]
            wanted = ((len(layers), rank, linear.in_features), (len(layers), linear.out_features))
            if tuple(down.shape) != wanted[0] or tuple(up.shape) != (*wanted[1], rank):
                raise MotionFileError(
                    f"{file}: its adapter of {name} is {tuple(down.shape)} and {tuple(up.shape)}, "
                    f"the model has {len(layers)} layers of width {linear.in_features}; use a "
                    "motion made for this model"
                )


def token_gates(
    object_masks: Tensor, words: Sequence[Sequence[Span]], *, text: int, everywhere: bool = False
) -> Tensor:
    """How much each of K adapters acts on each token: (K, L + V) float32.

    ``object_masks``: (K, F, h, w) bool; ``words``: the text positions that are each object's own.
    1 inside, 0 outside; a video token in several masks is shared equally. ``everywhere``: all
    tokens are, which for one adapter is the ordinary LoRA and for several their average.
    """
    masks = object_masks.flatten(1).float()  # (K, V)
    gates = torch.zeros(len(masks), text + masks.shape[1], device=masks.device)
    if everywhere:
        return gates + 1 / max(1, len(masks))
    gates[:, text:] = masks / masks.sum(0).clamp(min=1)
    for k, spans in enumerate(words):
        for span in spans:
            gates[k, slice(*span)] = 1.0
    return gates


class GatedAdapters:
    """The adapters of one generation, and where they act: y = Wx + Σ_k m_k ⊙ (B_k A_k x).

    ``gates``: (shares, K, S), per equal share of the batch, adapter and token; None for the plain
    LoRA of all tokens, of which ``share`` is taken.
    """

    def __init__(
        self, adapters: Sequence[Adapter], gates: Tensor | None = None, *, share: float = 1.0
    ) -> None:
        self.adapters = tuple(adapters)
        self.gates = gates
        self.share = share

    def added(self, layer: int, name: str, tokens: Tensor) -> Tensor | None:
        """What all adapters add to one projection of ``tokens`` (B, S, D); None for nothing."""
        total = None
        for k, adapter in enumerate(self.adapters):
            if name not in adapter.down:
                continue
            change = adapter(layer, name, tokens)  # (B, S, D)
            if self.share != 1:
                change = self.share * change
            if self.gates is not None:
                gate = self.gates[:, k, :, None].to(change)  # (shares, S, 1)
                change = change * gate.repeat_interleave(len(tokens) // len(gate), dim=0)
            total = change if total is None else total + change
        return total


@contextmanager
def adapted(layers: Sequence[AttentionLayer], adapters: GatedAdapters) -> Iterator[None]:
    """Let ``adapters`` act in all attention ``layers`` of a model; whatever happens inside, the
    model is as before on leaving."""
    handles = []
    try:
        for layer in layers:
            for name in dict.fromkeys(name for adapter in adapters.adapters for name in adapter.up):
                hook = _hook(adapters, layer.number, name)
                handles.append(layer.linear(name).register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(adapters: GatedAdapters, layer: int, name: str) -> Callable[..., Tensor]:
    def add(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        change = adapters.added(layer, name, arguments[0])
        return output if change is None else output + change.to(output.dtype)

    return add
