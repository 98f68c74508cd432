"""A motion LoRA being learned: a low-rank adapter of the whole model from one clip, for I2VEdit.

Written from the descriptions of the methods. I2VEdit (arXiv 2405.16537) puts its LoRA into the
layers of a video model that see one place in all frames, so that it learns how things go and not
what they look like. Where one attention sees everything there are no such layers, and what
MotionDirector (arXiv 2310.08465) does is done instead: a first adapter learns the looks of single
frames, and while it acts, frozen, a second learns from the whole clip what the first leaves over.
The second is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motion_app.engine.adapters import Adapter, GatedAdapters, adapted
from motion_app.engine.backbone import Backbone
from motion_app.engine.layers import Attending
from motion_app.engine.lora_files import write_motion_lora
from motion_app.engine.motion_tokens import MotionMetadata
from motion_app.library.motion_clip import MotionClip
from motion_app.media.files import Clip
from motion_app.training.config import LoraTraining
from motion_app.training.tokens import LearningRun, draw_noise, weighted_error
from motion_app.training.views import CachedViews, ViewConfig, cache_views


@dataclass(frozen=True, eq=False)
class LoraLesson:
    """Everything a step draws from, computed once. ``text`` and ``empty_text`` are (L, text width);
    ``clip``: what a video is told beside the LoRA, kept in its file."""

    views: CachedViews
    text: Tensor
    empty_text: Tensor
    clip: MotionClip


def prepare_lora(
    clips: Sequence[Clip], clip: MotionClip, config: LoraTraining, backbone: Backbone
) -> LoraLesson:
    """Encodes views and captions once; the encoders are not needed afterwards."""
    views = cache_views(
        backbone,
        clips,
        ViewConfig(config.views, config.zoom, config.shift, config.permute_colours),
        seed=config.seed,
    )
    with torch.no_grad():
        text, empty = backbone.prompts.encode_all([config.caption, ""])  # (1, L, text width) each
    return LoraLesson(views, text[0], empty[0], clip)


def within_frames(frames: int) -> Attending:
    """Attention of single frames: a video token sees the text and its own of the ``frames``, a text
    token sees the text."""

    def attend(layer: int, tokens: tuple[Tensor, Tensor, Tensor], text: int) -> Tensor:
        asking, words, meanings = (part[:, :, :text] for part in tokens)  # (B, heads, L, d) each
        outputs = [F.scaled_dot_product_attention(asking, words, meanings)]
        of_frames = zip(*(part[:, :, text:].chunk(frames, dim=2) for part in tokens), strict=True)
        for query, key, value in of_frames:
            keys, values = torch.cat([words, key], dim=2), torch.cat([meanings, value], dim=2)
            outputs.append(F.scaled_dot_product_attention(query, keys, values))
        return torch.cat(outputs, dim=2)  # (B, heads, L + V, d)

    return attend


class LoraRun(LearningRun):
    """The LoRA of one motion, and before it the one of the clip's looks that is thrown away."""

    config: LoraTraining

    def __init__(
        self, lesson: LoraLesson, config: LoraTraining, backbone: Backbone, out: Path
    ) -> None:
        self.lesson = lesson
        generator = torch.Generator().manual_seed(config.seed)
        # The motion's is drawn first: it begins alike with and without the other.
        names = ("motion", "spatial") if config.spatial_steps else ("motion",)
        self.adapters = {
            name: Adapter.fresh(
                backbone.attention_layers(),
                rank=config.rank,
                alpha=config.lora_alpha,
                places=config.adapted,
                generator=generator,
            ).to(backbone.transformer.device)
            for name in names
        }
        learned = nn.ModuleDict(self.adapters)
        groups = [{"params": list(learned.parameters()), "lr": config.learning_rate}]
        self._view = 0
        super().__init__(learned, groups, config, backbone, out)

    @property
    def single_frames(self) -> bool:
        """Whether the step at hand is of those that learn what single frames look like."""
        return self.step < self.config.spatial_steps

    def annealed(self) -> float:
        """A cosine over the steps of either kind."""
        first = self.config.spatial_steps
        begun, steps = (0, first) if self.single_frames else (first, self.config.steps - first)
        return 0.5 * (1 + math.cos(math.pi * (self.step - begun) / steps))

    @contextmanager
    def installed(self) -> Iterator[None]:
        layers, alone = self.backbone.attention_layers(), self.single_frames
        acting = [self.adapters["spatial"]] if alone else list(self.adapters.values())
        for name, adapter in self.adapters.items():
            adapter.requires_grad_(name == ("spatial" if alone else "motion"))
        with ExitStack() as stack:
            stack.enter_context(adapted(layers, GatedAdapters(acting)))
            if alone:
                attend = within_frames(self.backbone.geometry.grid_frames)
                for layer in layers:
                    stack.enter_context(layer.attending(attend))
            yield

    def view_frames(self) -> np.ndarray:
        return self.lesson.views.frames[self._view]

    def view_mask(self) -> None:
        """The whole picture is learned from."""

    def save_motion(self, path: Path, metadata: MotionMetadata) -> None:
        write_motion_lora(path, self.adapters["motion"], metadata)
        self.lesson.clip.save_into(path)

    def loss(self) -> Tensor:
        """The v error (x0 error weighted 1 / (1 - ᾱ)) of one batch of views."""
        config, lesson = self.config, self.lesson
        rng = np.random.default_rng([config.seed, self.step])
        self.generator.manual_seed(int(rng.integers(2**62)))
        picked = rng.integers(len(lesson.views.latents), size=config.batch)
        self._view = int(picked[0])
        draws = draw_noise(
            lesson.views, picked, config, self.backbone, rng=rng, generator=self.generator
        )
        spoken = rng.random(config.batch) >= config.caption_dropout
        text = torch.stack([lesson.text if said else lesson.empty_text for said in spoken])
        miss, _ = draws.velocity_miss(text, self.backbone)
        return weighted_error(miss, draws, moving_weight=config.moving_weight)
