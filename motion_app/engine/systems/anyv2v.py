"""AnyV2V: a video is made along another one's inner features, here on a model of one attention.

Written from the description of the method (arXiv 2403.14468). Each clip is taken back to noise and
goes through the model beside the video. The video starts from the clips' noise, and for a share of
the steps its tokens look at each other as the clips' tokens do: their queries and keys stand in for
its own. AnyV2V does so in layers that see one frame and in layers that see one place in all frames,
for different lengths of time; where one attention sees everything, these are the pairs of tokens of
the same frame and of different ones.

A clip is taken back by DDIM inversion: the deterministic sampler walks down its noise levels; here
the same steps are walked up. What is not known on the way, the prediction at the noisier end, is
taken from the latents that are there.

Told several clips, it averages their noise and their features (FlexiMMT, supplement A.2). The
second way, our own, carries each clip's to the place of its object and leaves the rest alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motion_app.engine.backbone import Backbone
from motion_app.engine.layers import AttentionLayer
from motion_app.engine.systems.placing import Region, ToldObject, everywhere, latent_times, regions
from motion_app.engine.systems.scene import SystemScene, Unsteered

Tokens = tuple[Tensor, Tensor, Tensor]  # query, key, value (B, heads, L + V, d)
NOTHING = 1e-6  # of the variance: the noisiest level of a schedule that ends in pure noise


@dataclass(frozen=True, eq=False)
class Inverted:
    """A clip at noise levels: ``latents`` by level and its first frame as the ``condition`` that
    goes with them, (1, F, C, H', W') float32 on the CPU each, padded."""

    latents: Mapping[int, Tensor]
    condition: Tensor


def inverted(
    scene: SystemScene,
    thing: ToldObject,
    *,
    steps: int,
    frames: np.ndarray | None = None,
    told: tuple = (),
) -> Inverted:
    """The clip of ``thing`` at all noise levels of the ``scene``; computed once a clip. ``steps``:
    at least so many, the scene's own among them. ``frames``: see ``invert``; ``told`` tells them,
    and whatever acts on the model, from others."""
    levels = finer_levels(scene, steps)
    base = scene.backbone.checkpoint.fingerprint
    key = ("inverted", base, thing.clip.digest(), levels, scene.timesteps, *told)
    if key not in scene.features:
        found = invert(scene.backbone, thing, levels, frames=frames)
        kept = {level: found.latents[level] for level in scene.timesteps}
        scene.features[key] = Inverted(kept, found.condition)
    return scene.features[key]


def finer_levels(scene: SystemScene, steps: int) -> tuple[int, ...]:
    """The noise levels of the ``scene`` with as many between as make ``steps``, noisiest first; as
    many as there are where that is fewer."""
    finer = scene.backbone.timesteps(min(steps, scene.backbone.training_steps))
    return tuple(sorted({*finer, *scene.timesteps}, reverse=True))


@torch.no_grad()
def invert(
    backbone: Backbone,
    thing: ToldObject,
    levels: tuple[int, ...],
    *,
    frames: np.ndarray | None = None,
) -> Inverted:
    """The clip of ``thing`` at ``levels``, noisiest first, with its own first frame as the picture
    and no words. ``frames`` (T, H, W, 3) are taken back in its place."""
    device = backbone.profile.device
    shown = thing.clip.frames if frames is None else frames
    latents = backbone.padded(backbone.encode_clip(shown)[0]).to(device)  # (1, F, C, H', W')
    picture = backbone.encode_clip(thing.clip.frames[:1])[0][:, 0].to(device)  # (1, C, H', W')
    condition = backbone.image_condition(picture, latents)
    text = backbone.prompts.encode("", guided=False)[0].to(device)
    found: dict[int, Tensor] = {}
    before: int | None = None
    for level in reversed(levels):
        timestep = torch.tensor([level], device=device)
        prediction = backbone.predict(latents, condition, text, timestep).float()
        clean = backbone.clean_estimate(latents, prediction, level)
        latents = _raised(latents, clean, here=backbone.kept(before), above=backbone.kept(level))
        found[level] = latents.cpu()
        before = level
    return Inverted(found, condition.cpu())


def _raised(latents: Tensor, clean: Tensor, *, here: float, above: float) -> Tensor:
    """``latents``, of which a share ``here`` of the variance is clean, at the share ``above``. The
    noise in them is what remains beside the estimate ``clean`` when they are read as of there;
    where nothing clean is left there, what remains beside it here."""
    if above < NOTHING:
        return (latents - here**0.5 * clean) / (1 - here) ** 0.5
    noise = (latents - above**0.5 * clean) / (1 - above) ** 0.5
    clean = (latents - (1 - here) ** 0.5 * noise) / here**0.5
    return above**0.5 * clean + (1 - above) ** 0.5 * noise


class Companions:
    """``clips`` at each step's own noise level, with no words; ``joining`` tells from the level
    whether they come along. ``present``: how many are in the pass under way."""

    def __init__(
        self, backbone: Backbone, clips: Sequence[Inverted], joining: Callable[[int], bool]
    ) -> None:
        self.backbone, self.clips, self.joining = backbone, clips, joining
        self.text = backbone.prompts.encode("", guided=False)[0]
        self.present = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """They come along while inside."""
        network = self.backbone.transformer
        hooks = (
            network.register_forward_pre_hook(self._enter, with_kwargs=True),
            network.register_forward_hook(self._leave),
        )
        try:
            yield
        finally:
            self.present = 0
            for hook in hooks:
                hook.remove()

    def _enter(
        self, module: nn.Module, arguments: tuple, options: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        level = int(options["timestep"].flatten()[0])
        self.present = len(self.clips) if self.joining(level) else 0
        if not self.present:
            return None
        states = [torch.cat([clip.latents[level], clip.condition], dim=2) for clip in self.clips]
        more = {
            "hidden_states": torch.cat(states),  # (K, F, 2C, H', W')
            "encoder_hidden_states": self.text.expand(self.present, -1, -1),
            "timestep": options["timestep"][:1].expand(self.present),
        }
        joined = {name: _before(part, options[name]) for name, part in more.items()}
        return arguments, {**options, **joined}

    def _leave(self, module: nn.Module, arguments: tuple, output: tuple) -> tuple:
        return (output[0][self.present :], *output[1:])


def _before(more: Tensor, part: Tensor) -> Tensor:
    return torch.cat([more.to(part), part])


@dataclass(frozen=True, eq=False)
class Stand:
    """Who stands in for the video tokens at ``targets`` (n,) int64 among the video's V: ``query``
    and ``key`` (1, heads, n, d)."""

    targets: Tensor
    query: Tensor
    key: Tensor


def attend_stood_in(
    tokens: Tokens,
    stands: Sequence[Stand],
    *,
    text: int,
    frames: int,
    same: bool,
    across: bool,
) -> Tensor:
    """Attention (B, heads, L + V, d) in which the logits of pairs of video tokens of one of
    ``stands`` are those of who stands in for them: pairs of the ``same`` of the ``frames``, those
    ``across`` two of them, or both. All other logits, and all values, are the tokens' own.

    Exact and without a mask: the own channels and those of who stands in lie side by side, and of
    each key one of the two is empty.
    """
    key = tokens[1]
    output = F.scaled_dot_product_attention(*tokens)
    if not (same or across):
        return output
    frame_of = torch.arange(key.shape[2] - text, device=key.device) // (
        (key.shape[2] - text) // frames
    )  # (V,)
    for stand in stands:
        frame = frame_of[stand.targets]  # (n,)
        # Where both kinds of pairs are stood in for, all rows see the same keys.
        parts = [slice(None)] if same and across else [frame == f for f in frame.unique()]
        for part in parts:
            rows = stand.targets[part]  # (r,)
            if same and across:
                replaced = torch.ones_like(frame, dtype=torch.bool)
            else:
                replaced = (frame == frame_of[rows[0]]) == same  # (n,)
            chosen = torch.arange(len(frame), device=key.device)[part]
            output[:, :, text + rows] = attend_rows(tokens, stand, chosen, replaced, text=text)
    return output


def attend_rows(
    tokens: Tokens, stand: Stand, chosen: Tensor, replaced: Tensor, *, text: int
) -> Tensor:
    """The attention (B, heads, r, d) of those of ``stand`` that are ``chosen`` (r,) int64; with
    those that are ``replaced`` (n,) bool, their logits are the ones of who stands in."""
    _, key, value = tokens
    own = tokens[0][:, :, text + stand.targets[chosen]]  # (B, heads, r, d)
    other = stand.query[:, :, chosen]
    at = text + stand.targets[replaced]
    mine = key.index_fill(2, at, 0.0)
    theirs = torch.zeros_like(key).index_copy(
        2, at, stand.key[:, :, replaced].to(key).expand(len(key), -1, -1, -1)
    )
    width = own.shape[-1]
    return F.scaled_dot_product_attention(
        torch.cat([own, other.to(own).expand_as(own)], dim=-1),
        torch.cat([mine, theirs], dim=-1),  # (B, heads, L + V, 2d)
        F.pad(value, (0, width)),
        scale=width**-0.5,
    )[..., :width]


@dataclass(frozen=True)
class InjectionSettings:
    """Shares of the steps for which the ``features`` of one block, the pairs within a frame
    (``same``) and the pairs ``across`` frames are the clips', as published. Of the depth, 0 to 1:
    the block whose ``features`` they are, and from where on pairs are. ``inversion_steps``: at
    least, where 500 are published. ``placed``: each clip at its object, see above."""

    features: float = 0.2
    same: float = 0.2
    across: float = 0.5
    features_at: float = 1 / 3
    pairs_from: float = 1 / 3
    inversion_steps: int = 50
    placed: bool = False


class AnyV2V(Unsteered):
    """``settings`` at work on ``scene``."""

    def __init__(self, scene: SystemScene, settings: InjectionSettings) -> None:
        self.scene, self.settings = scene, settings
        backbone, g = scene.backbone, scene.backbone.geometry
        self.clips = [
            inverted(scene, thing, steps=settings.inversion_steps) for thing in scene.objects
        ]
        self.times = latent_times(g)
        self.companions = Companions(
            backbone, self.clips, lambda level: bool(self._injected(level))
        )
        self.grid = self._regions(g.grid_frames, (g.grid_height, g.grid_width))
        self.features_layer = round(settings.features_at * (g.layers - 1))
        self.first_layer = round(settings.pairs_from * g.layers)

    def initial_latents(self, noise: Tensor) -> Tensor:
        """The clips' noise: their mean, or each at its object and ``noise`` elsewhere."""
        level = self.scene.timesteps[0]
        sources = [clip.latents[level].to(noise) for clip in self.clips]
        if not self.settings.placed:
            return torch.stack(sources).mean(dim=0)
        filled = _by_cell(noise).clone()  # (F·H'·W', C)
        frames, _, height, width = noise.shape[1:]
        places = self._regions(frames, (height, width))
        for source, region in zip(sources, places, strict=True):
            filled[region.targets] = _by_cell(source)[region.sources]
        return filled.unflatten(0, (frames, height, width)).movedim(-1, 1)[None]

    @contextmanager
    def installed(self, layers: Sequence[AttentionLayer]) -> Iterator[None]:
        with ExitStack() as acting:
            acting.enter_context(self.companions.installed())
            for layer in layers:
                acting.enter_context(layer.attending(self._attend))
            yield

    def _regions(self, frames: int, size: tuple[int, int]) -> list[Region]:
        if not self.settings.placed:
            return [everywhere(frames * size[0] * size[1])]
        step = len(self.times) // frames  # a token may span several latent frames
        return regions(self.scene.objects, self.times[step - 1 :: step], size)

    def _injected(self, level: int) -> frozenset[str]:
        """What is the clips' on the step at this noise level."""
        step = self.scene.timesteps.index(level)
        shares = ("features", "same", "across")
        return frozenset(
            name for name in shares if step < self.scene.share(getattr(self.settings, name))
        )

    def _attend(self, layer: int, tokens: Tokens, text: int) -> Tensor:
        present = self.companions.present
        if not present:
            return F.scaled_dot_product_attention(*tokens)
        query, key, value = tokens
        own = (query[present:], key[present:], value[present:])
        query, key, value = query[:present], key[:present], value[:present]
        kinds = self._injected(self.scene.backbone.current_timestep())
        seen = F.scaled_dot_product_attention(query, key, value)  # (K, heads, L + V, d)
        pairs = kinds if layer >= self.first_layer else frozenset()
        made = attend_stood_in(
            own,
            self._stands(query[:, :, text:], key[:, :, text:]),
            text=text,
            frames=self.scene.backbone.geometry.grid_frames,
            same="same" in pairs,
            across="across" in pairs,
        )
        if "features" in kinds and layer == self.features_layer:
            for targets, features in self._placed(seen[:, :, text:]):
                made[:, :, text + targets] = features
        return torch.cat([seen, made])

    def _stands(self, query: Tensor, key: Tensor) -> list[Stand]:
        pairs = zip(self._placed(query), self._placed(key), strict=True)
        return [Stand(targets, query, key) for (targets, query), (_, key) in pairs]

    def _placed(self, video: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What of the clips' ``video`` tokens (K, heads, V, d) goes where: positions (n,) int64 and
        the tokens (1, heads, n, d) for them."""
        shares = video.split(1) if self.settings.placed else (video.mean(dim=0, keepdim=True),)
        found = []
        for share, region in zip(shares, self.grid, strict=True):
            targets, sources = (
                torch.from_numpy(part).to(video.device) for part in (region.targets, region.sources)
            )
            found.append((targets, share[:, :, sources]))
        return found


def _by_cell(latents: Tensor) -> Tensor:
    """(1, F, C, H', W') → (F·H'·W', C)."""
    return latents[0].movedim(1, -1).flatten(0, 2)
