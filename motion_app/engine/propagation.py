"""RMPM: object masks for later latent frames, propagated from the first one; and the stop rule.

FlexiMMT section 3.3 and Algorithm 1 (which, as printed, never computes once its window is full and
drops frame 1: a misprint). Anchors are frame 1 and the last W - 1 frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from motion_app.errors import RequestError

TEMPERATURE = 0.013  # released: similarity is exp(cosine / 0.013)
BEST_KEPT = 15  # released: anchor tokens that vote for a token
THRESHOLD_SHARE, TRIMMED, THRESHOLD_FLOOR, THRESHOLD_LOST = 0.98, 0.10, 0.3, 0.5  # released
REGION = 0.5  # released: soft score above which a token is of the region thresholds are taken from


@dataclass(frozen=True)
class PropagationConfig:
    """How masks are propagated during generation.

    ``rule``: "released", "paper" (Eq. 12 and 13) or "competing" (ours). ``window`` is W, in latent
    frames, frame 1 included (Table 5; the release: 3). The masks are computed anew on the first
    ``warm_steps`` steps (released: 5); after that, with ``dynamic_stop``, they are kept for good at
    the first step on which every object's mask changes by less than ``alpha`` of its size (Table
    6: 5%).
    ``layer_share``: the first layers whose attention outputs are averaged (released: 30 of 42).
    ``centre`` (ours) takes each frame's mean feature away first: on noisy steps most of a feature
    is shared by all of a frame's tokens and hides what tells them apart.
    """

    rule: str = "released"
    window: int = 3
    warm_steps: int = 5
    alpha: float = 0.05
    layer_share: float = 30 / 42
    dynamic_stop: bool = True
    centre: bool = False

    def __post_init__(self) -> None:
        check_rule(self.rule, self.window)
        if not 0 < self.layer_share <= 1 or self.warm_steps < 0 or self.alpha < 0:
            raise RequestError(
                f"RMPM with layer share {self.layer_share}, {self.warm_steps} warm steps and alpha "
                f"{self.alpha} cannot work; the share lies above 0 up to 1, the others from 0 up"
            )

    def prepare(self, features: Tensor) -> Tensor:
        """Features (F, h, w, C) as ``propagate`` shall compare them."""
        return features - features.mean(dim=(1, 2), keepdim=True) if self.centre else features

    def feature_layers(self, layers: int) -> int:
        """How many of ``layers`` layers the features are averaged over, at least one."""
        return max(1, round(layers * self.layer_share))


def check_rule(rule: str, window: int) -> None:
    """RequestError for an unknown rule or an impossible window."""
    if rule not in RULES:
        raise RequestError(f'unknown propagation rule "{rule}"; choose one of {", ".join(RULES)}')
    if window < 1:
        raise RequestError(f"the propagation window is {window} frames; it needs at least frame 1")


@torch.no_grad()
def propagate(
    features: Tensor, first_frame_masks: Tensor, *, rule: str = "released", window: int = 3
) -> Tensor:
    """Masks of all latent frames from those of the first.

    ``features``: (F, h, w, C) float; ``first_frame_masks``: (N, h, w) bool. Returns (N, F, h, w)
    bool on the features' device, frame 1 being ``first_frame_masks``. ``rule``: "released" and
    "paper" judge each object by itself; "competing" lets objects and background compete. Raises
    RequestError for an unknown rule or shapes that do not belong together.
    """
    check_rule(rule, window)
    first = torch.as_tensor(first_frame_masks, device=features.device).bool()
    if first.ndim != 3 or features.ndim != 4 or first.shape[1:] != features.shape[1:3]:
        raise RequestError(
            f"features {tuple(features.shape)} and first-frame masks {tuple(first.shape)} do not "
            "belong together; expected (F, h, w, C) and (N, h, w)"
        )
    if len(first) == 0:
        return first.new_zeros(0, *features.shape[:3])
    tokens = F.normalize(features.float().flatten(1, 2), dim=-1)  # (F, P, C)
    masks = RULES[rule](tokens, first.flatten(1), window)  # (N, F, P)
    return masks.view(len(first), *features.shape[:3])  # (N, F, h, w)


def anchors(frame: int, window: int) -> list[int]:
    """The frames that vote for ``frame`` (from 1): frame 0 and the ``window`` - 1 before it."""
    return [0, *range(max(1, frame - window + 1), frame)]


def _paper(tokens: Tensor, first: Tensor, window: int) -> Tensor:
    """Eq. 12 and 13: the summed cosine to the anchors' object tokens, above its own mean."""
    masks = [first]  # each (N, P)
    prototypes = [first.float() @ tokens[0]]  # each (N, C): the sum of an object's unit features
    for frame in range(1, len(tokens)):
        prototype = torch.stack([prototypes[a] for a in anchors(frame, window)]).sum(0)  # (N, C)
        scores = prototype @ tokens[frame].T  # (N, P)
        masks.append(scores > scores.mean(1, keepdim=True))
        prototypes.append(masks[-1].float() @ tokens[frame])
    return torch.stack(masks, dim=1)  # (N, F, P)


def _votes(tokens: Tensor, frame: int, window: int, labels: list[Tensor]) -> Tensor:
    """Labels (K, P) of ``frame``: each token takes the mean of its best-matching anchor tokens'
    labels, weighted by exp(cosine / temperature). ``labels``: (K, P) of every earlier frame."""
    voting = anchors(frame, window)
    cosines = tokens[frame] @ tokens[voting].flatten(0, 1).T  # (P, A * P)
    best = cosines.topk(min(BEST_KEPT, cosines.shape[1]), dim=1)  # (P, 15)
    weights = (best.values / TEMPERATURE).softmax(1)  # (P, 15), max-shifted; each sums to 1
    known = torch.cat([labels[a] for a in voting], dim=1)  # (K, A * P)
    return (known[:, best.indices] * weights).sum(-1)  # (K, P)


def _trimmed_mean(scores: Tensor, region: Tensor) -> Tensor:
    """Mean of ``scores`` (N, P) inside ``region`` (N, P) bool without the lowest and the highest
    tenth, (N, 1); NaN where the region is empty."""
    inside = region.sum(1, keepdim=True)  # (N, 1)
    cut = (inside * TRIMMED).long()
    ordered = scores.masked_fill(~region, torch.inf).sort(1).values  # (N, P), the inside first
    rank = torch.arange(scores.shape[1], device=scores.device)
    kept = (rank >= cut) & (rank < inside - cut)
    return torch.where(kept, ordered, 0.0).sum(1, keepdim=True) / kept.sum(1, keepdim=True)


def _released(tokens: Tensor, first: Tensor, window: int) -> Tensor:
    """The authors' release: votes with soft labels. A frame's threshold comes from its scores in
    the region of the frame before, which is where that one's soft score, not its mask, says so."""
    masks, labels = [first], [first.float()]  # each (N, P)
    for frame in range(1, len(tokens)):
        scores = _votes(tokens, frame, window, labels)  # (N, P)
        region = labels[-1] > REGION  # (N, P)
        threshold = (THRESHOLD_SHARE * _trimmed_mean(scores, region)).clamp(min=THRESHOLD_FLOOR)
        threshold = threshold.nan_to_num(nan=THRESHOLD_LOST)  # the region before was empty
        masks.append(scores > threshold)
        labels.append(scores)
    return torch.stack(masks, dim=1)  # (N, F, P)


def _competing(tokens: Tensor, first: Tensor, window: int) -> Tensor:
    """Ours: every set of objects that occurs in frame 1, the empty one being background, is a
    label; labels vote as in the release and each token goes to the strongest. Sets, not objects,
    compete, so that objects that overlap do not drive each other out."""
    members = torch.cat([first, torch.zeros_like(first[:, :1])], dim=1).unique(dim=1)  # (N, K)
    labels = [(first[:, None] == members[:, :, None]).all(0).float()]  # (K, P)
    masks = [first]
    for frame in range(1, len(tokens)):
        labels.append(_votes(tokens, frame, window, labels))
        masks.append(members[:, labels[-1].argmax(0)])  # (N, P)
    return torch.stack(masks, dim=1)  # (N, F, P)


RULES: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "released": _released,
    "paper": _paper,
    "competing": _competing,
}


def change(new: Tensor, old: Tensor) -> Tensor:
    """How much each mask (N, F, h, w) bool changed, (N,) float: |new XOR old| / |old|; infinite for
    a mask that was empty and is no more."""
    changed = (new ^ old).flatten(1).sum(1).float()
    size = old.flatten(1).sum(1)
    return torch.where(changed == 0, 0.0, changed / size)


@dataclass(frozen=True, eq=False)
class MaskTrack:
    """Object masks over the denoising steps: ``masks`` (N, F, h, w) bool for the step to come,
    ``steps`` propagations done, ``settled`` once they are kept for good."""

    masks: Tensor
    steps: int = 0
    settled: bool = False

    @classmethod
    def start(cls, first_frame_masks: Tensor, frames: int) -> MaskTrack:
        """Step 0: the first frame's masks (N, h, w) in all ``frames`` latent frames (ours; the
        release has no region masks on step 0, which is the ablation ``step0_mask``)."""
        return cls(first_frame_masks[:, None].repeat(1, frames, 1, 1))  # (N, F, h, w)

    def after(self, features: Tensor, config: PropagationConfig) -> MaskTrack:
        """The track after a step with ``features`` (F, h, w, C), by the dynamic stop rule."""
        if self.settled:
            return self
        first = self.masks[:, 0]
        new = propagate(config.prepare(features), first, rule=config.rule, window=config.window)
        if config.dynamic_stop and self.steps >= config.warm_steps:
            changes = change(new, self.masks)
            if bool((changes < config.alpha).all()):
                return replace(self, settled=True)
        return MaskTrack(new, self.steps + 1)
