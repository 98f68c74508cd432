"""Clips that go through the model beside the video: more items in front of its batch, whose
predictions are let go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from motion_app.engine.backbone import Backbone
from motion_app.engine.systems.inversion import Inverted


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
