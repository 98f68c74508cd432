"""FlexiAct: motion tokens that the whole picture sees, in a model that takes any picture.

Written from the description of the method (arXiv 2505.03730) and of its release. Motion tokens are
learned and used without masks, as the row ``concat`` has them. Two things are added: an adapter of
the whole model, trained on any frame of a clip in its first one's place, so that a picture need not
look as a clip begins; and a bias of the video's attention to motion tokens while noise is strong,
where a video decides how things go and not yet what they look like.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from motion_app.engine.adapters import Adapter, GatedAdapters, adapted
from motion_app.engine.layers import AttentionLayer
from motion_app.engine.systems.model_adapter import model_adapter
from motion_app.engine.systems.scene import SystemScene, Unsteered

METHOD = "flexiact"


@dataclass(frozen=True)
class FlexiActSettings:
    """``adapter``: how much of it, as released. ``bias`` of the logits of motion tokens at noise
    levels from ``full`` on, of 1000; it falls as a cosine and is none below ``none``, as published
    (the release leaves it out)."""

    adapter: float = 0.7
    bias: float = 1.0
    full: int = 800
    none: int = 700

    def bias_at(self, level: int) -> float:
        """Of the logits at a noise ``level``, 0 to ``bias``."""
        share = min(1.0, max(0.0, (level - self.none) / (self.full - self.none)))
        return self.bias * 0.5 * (1 - math.cos(math.pi * share))


class FlexiAct(Unsteered):
    """The adapter at work, and the motions' strength from step to step."""

    def __init__(self, scene: SystemScene, settings: FlexiActSettings) -> None:
        if scene.steering is None:
            raise ValueError("the scene has no motion tokens to strengthen")
        self.scene, self.settings, self.steering = scene, settings, scene.steering
        self.adapter: Adapter = model_adapter(scene, METHOD)

    def initial_latents(self, noise: Tensor) -> Tensor:
        self._strengthen(0)
        return noise

    @contextmanager
    def installed(self, layers: Sequence[AttentionLayer]) -> Iterator[None]:
        with adapted(layers, GatedAdapters([self.adapter], share=self.settings.adapter)):
            yield

    def after_step(self, step: int, latents: Tensor) -> Tensor:
        if step + 1 < self.scene.steps:
            self._strengthen(step + 1)
        return latents

    def _strengthen(self, step: int) -> None:
        bias = self.settings.bias_at(self.scene.timesteps[step])
        self.steering.strengthen(math.exp(bias))
