"""AnyV2V: a video is made along another one's inner features, here on a model of one attention.

Written from the description of the method (arXiv 2403.14468). Each clip is taken back to noise and
goes through the model beside the video. The video starts from the clips' noise, and for a share of
the steps its tokens look at each other as the clips' tokens do: their queries and keys stand in for
its own. AnyV2V does so in layers that see one frame and in layers that see one place in all frames,
for different lengths of time; where one attention sees everything, these are the pairs of tokens of
the same frame and of different ones.

Told several clips, it averages their noise and their features (FlexiMMT, supplement A.2). The
second way, our own, carries each clip's to the place of its object and leaves the rest alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from motion_app.engine.layers import AttentionLayer
from motion_app.engine.systems.companions import Companions
from motion_app.engine.systems.injection import Stand, Tokens, attend_stood_in
from motion_app.engine.systems.inversion import inverted
from motion_app.engine.systems.placing import Region, everywhere, latent_times, regions
from motion_app.engine.systems.scene import SystemScene, Unsteered


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
