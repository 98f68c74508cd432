"""How much time a video may take: three named pairs of steps and guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from motion_app.geometry import GenerationDefaults

PresetName = Literal["draft", "standard", "paper"]
DRAFT_SHARE = 2  # a draft takes one step where the checkpoint's own setting takes two


@dataclass(frozen=True)
class Preset:
    """``steps`` of denoising at ``guidance``, the scale of classifier-free guidance."""

    name: PresetName
    steps: int
    guidance: float


def presets(defaults: GenerationDefaults) -> tuple[Preset, ...]:
    """Draft (half the checkpoint's steps), standard (the checkpoint's own settings) and paper (what
    FlexiMMT's authors ran CogVideoX-5B-I2V with, the defaults of ``GenerationDefaults``)."""
    paper = GenerationDefaults()
    draft_steps = max(1, defaults.steps // DRAFT_SHARE)
    return (
        Preset("draft", draft_steps, defaults.guidance),
        Preset("standard", defaults.steps, defaults.guidance),
        Preset("paper", paper.steps, paper.guidance),
    )


def preset_of(known: Sequence[Preset], *, steps: float, guidance: float) -> PresetName | None:
    """The first of ``known`` with these numbers; None where a person chose others."""
    for preset in known:
        if (preset.steps, preset.guidance) == (steps, guidance):
            return preset.name
    return None
