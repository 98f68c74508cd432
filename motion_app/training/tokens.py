"""Motion tokens being learned: what a step draws from and compares, and a training's state, which
can be saved and taken up again."""

from __future__ import annotations

import copy
import json
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motion_app.engine.backbone import Backbone
from motion_app.engine.layout import SequenceLayout, Span
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.engine.steering import TrainingSample, TrainingSteering, steered
from motion_app.errors import RequestError
from motion_app.media.files import Clip
from motion_app.request.phrases import find_phrases
from motion_app.scene import Motion, SceneObject
from motion_app.text_files import write_whole
from motion_app.training.config import ClipTraining, MotionTraining
from motion_app.training.processes import ALONE, Share
from motion_app.training.views import CachedViews, ViewConfig, cache_views, lagging

log = logging.getLogger(__name__)
MEASURED = 12  # noises at which a clip is predicted, to tell what refining gained


@dataclass(frozen=True, eq=False)
class Lesson:
    """Everything a step draws from, computed once. ``text`` and ``empty_text`` are (L, text
    width)."""

    views: CachedViews
    text: Tensor
    empty_text: Tensor
    layout: SequenceLayout
    noun: Span


def reaching(masks: Tensor, reach: str) -> Tensor:
    """Masks (n, F, h, w) bool as far as ``MotionTraining.mask_reach`` says, whatever the noise."""
    if reach == "swept":
        return masks.any(dim=1, keepdim=True).expand_as(masks)
    if reach == "grown":
        return F.max_pool2d(masks.float(), 3, stride=1, padding=1) > 0
    return masks


def prepare_lesson(
    clips: Sequence[Clip],
    config: MotionTraining,
    backbone: Backbone,
    *,
    masks: Sequence[np.ndarray] | None = None,
) -> Lesson:
    """Encodes views and captions once; the encoders are not needed afterwards."""
    geometry = backbone.geometry
    views = cache_views(
        backbone,
        clips,
        ViewConfig(config.views, config.zoom, config.shift, config.permute_colours),
        seed=config.seed,
        masks=masks if config.mask == "given" else None,
    )
    if views.object_masks is not None:
        views = replace(views, object_masks=reaching(views.object_masks, config.mask_reach))
    subject = SceneObject(
        mask=np.ones((1, 1), bool),
        sentence=config.caption,
        phrase=config.phrase,
        motion=Motion(config.name, config.phrase, Path(), backbone.checkpoint.fingerprint),
    )
    length, tokenizer = geometry.text_tokens, backbone.tokenizer
    phrase = find_phrases(config.caption, [subject], tokenizer, length)[0]
    named = replace(subject, phrase=config.noun)
    noun = find_phrases(config.caption, [named], tokenizer, length)[0]
    with torch.no_grad():
        text, empty = backbone.prompts.encode_all([config.caption, ""])  # (1, L, text width) each
    layout = SequenceLayout(
        text=length, phrases=[phrase], motion=[config.tokens], grid=geometry.grid
    )
    return Lesson(views, text[0], empty[0], layout, noun)


class LearningRun(ABC):
    """``learned``, optimiser and step of one training; ``save`` and the constructor resume it.

    ``groups``: AdamW's parameter groups, each with its ``params`` and its highest ``lr``.
    ``share``: this process's part of every batch, where several learn together.
    """

    def __init__(
        self,
        learned: nn.Module,
        groups: Sequence[dict[str, Any]],
        config: ClipTraining,
        backbone: Backbone,
        out: Path,
        share: Share = ALONE,
    ) -> None:
        self.learned, self.config, self.backbone, self.out = learned, config, backbone, Path(out)
        self.share = share
        self.file = self.out.with_name(self.out.name + ".training")
        self.optimiser = torch.optim.AdamW(
            list(groups), betas=config.betas, weight_decay=config.weight_decay
        )
        self.generator = torch.Generator()
        self.step = 0
        self.losses: list[float] = []
        self._highest = [group["lr"] for group in groups]
        backbone.transformer.requires_grad_(False)
        if self.file.exists():
            self._resume()

    @abstractmethod
    def loss(self) -> Tensor:
        """The loss of one step, drawn from (seed, step) alone."""

    @abstractmethod
    def installed(self) -> AbstractContextManager:
        """What acts on the transformer in a step; whoever generates in between meets none of
        it."""

    @abstractmethod
    def view_frames(self) -> np.ndarray:
        """(F, H, W, 3) uint8: the first view of the last step, one frame per latent frame."""

    @abstractmethod
    def view_mask(self) -> np.ndarray | None:
        """(F, h, w) bool: who saw in it what is learned; None where all did."""

    @abstractmethod
    def save_motion(self, path: Path, metadata: MotionMetadata) -> None:
        """Write what is learned so far as a motion file."""

    def clip_errors(self) -> tuple[float, float] | None:
        """As ``Motion.clip_errors``; None where nothing was there before."""
        return None

    def annealed(self) -> float:
        """Which share of its highest learning rate the step at hand has: a cosine over all
        steps."""
        return 0.5 * (1 + math.cos(math.pi * self.step / self.config.steps))

    def held(self) -> Sequence[nn.Parameter]:
        """What the step at hand may not move."""
        return ()

    def save(self) -> None:
        """One file, replaced at once: a kill leaves the old or the new state, never half. Where
        several processes learn, the first writes it."""
        if not self.share.first:
            return
        state = {
            "config": self._settings(),
            "base": self.backbone.checkpoint.fingerprint,
            "tokens": self.learned.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "losses": self.losses,
        }
        write_whole(self.file, lambda part: torch.save(state, part))

    def _resume(self) -> None:
        state = torch.load(self.file, weights_only=True)
        # A setting that the file does not know yet is at its default: what was done before.
        settings = self.config.unchosen() | json.loads(state["config"])
        expected = (json.loads(self._settings()), self.backbone.checkpoint.fingerprint)
        if (settings, state["base"]) != expected:
            raise RequestError(
                f"{self.file.name} is an unfinished training with other settings or another base "
                "model; finish it with those, or delete it to start anew"
            )
        self.learned.load_state_dict(state["tokens"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.losses = list(state["losses"])
        log.info("%s: resumed at step %d", self.config.name, self.step)

    def learned_with(self) -> dict[str, Any]:
        """The settings on which what is learned depends; the effective batch among them where
        several processes share it."""
        settings = self.config.learned_with()
        if self.share.count > 1:
            settings |= {
                "processes": self.share.count,
                "effective_batch": self.share.count * self.config.batch,
            }
        return settings

    def _settings(self) -> str:
        return json.dumps(self.learned_with())

    def advance(self) -> float:
        """One optimiser step, drawn from (seed, step) alone; returns its loss. RequestError, with
        the state before it saved, where loss or gradient are not finite."""
        config = self.config
        annealed = self.annealed()
        for group, highest in zip(self.optimiser.param_groups, self._highest, strict=True):
            group["lr"] = highest * annealed
        with self.installed():
            loss = self.loss()
            if loss.requires_grad:  # where no caption was spoken, embeddings take no part
                loss.backward()
        self.share.average(self.learned.parameters())
        spent = self.share.mean(float(loss.detach()))
        for parameter in self.held():
            # None, not zero: else AdamW moves it on by momentum and decay.
            parameter.grad = None
        size = nn.utils.clip_grad_norm_(self.learned.parameters(), config.clip_norm)
        if not (math.isfinite(spent) and math.isfinite(float(size))):
            self.optimiser.zero_grad(set_to_none=True)
            self.save()
            raise RequestError(
                f"the training of {config.name} broke off in step {self.step + 1} of "
                f"{config.steps}: loss {spent:g}, gradient {float(size):g}; the "
                f"{self.step} good steps are kept in {self.file.name}; delete it and train with a "
                f"learning rate below {config.learning_rate:g}"
            )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.losses.append(spent)
        return self.losses[-1]


class TrainingRun(LearningRun):
    """Motion tokens, learned with DMEM, given masks or none; from ``start`` on, None draws it."""

    config: MotionTraining

    def __init__(
        self,
        lesson: Lesson,
        config: MotionTraining,
        backbone: Backbone,
        out: Path,
        share: Share = ALONE,
        *,
        start: MotionTokens | None = None,
    ) -> None:
        geometry = backbone.geometry
        self.lesson = lesson
        self.began_with = None if start is None else copy.deepcopy(start)
        if start is None:
            start = MotionTokens.fresh(
                layers=geometry.layers,
                tokens=config.tokens,
                width=geometry.width_tokens,
                scale=config.init_scale,
                distribution=config.init_distribution,
                generator=torch.Generator().manual_seed(config.seed),
            )
        self.tokens = start.to(backbone.transformer.device)
        self._view = 0
        self._mask: np.ndarray | None = None  # given, as that view's tokens were seen
        groups = [{"params": list(self.tokens.parameters()), "lr": config.learning_rate}]
        super().__init__(self.tokens, groups, config, backbone, out, share)
        self.steering = TrainingSteering(
            self.tokens.project, drop=config.mask_drop, generator=self.generator
        )

    def installed(self) -> AbstractContextManager:
        return steered(self.backbone.attention_layers(), self.steering)

    def view_frames(self) -> np.ndarray:
        return self.lesson.views.frames[self._view]

    def view_mask(self) -> np.ndarray | None:
        if self.config.mask == "dmem":
            return self.steering.layer_masks().cpu().numpy()
        return self._mask

    def save_motion(self, path: Path, metadata: MotionMetadata) -> None:
        self.tokens.save(path, metadata, dtype=torch.float16)

    def clip_errors(self) -> tuple[float, float] | None:
        if self.began_with is None or not self.step:
            return None
        before = self.began_with.to(self.backbone.transformer.device)
        return self.clip_error(before), self.clip_error(self.tokens)

    @torch.no_grad()
    def clip_error(self, tokens: MotionTokens) -> float:
        """The error of the velocity, weighted as in the loss, with ``tokens``: at noises and
        timesteps that are the same for any tokens and that no step draws, with caption and image
        and without DMEM's random drop."""
        config, lesson = replace(self.config, image_dropout=0.0), self.lesson
        rng = np.random.default_rng([config.seed, MEASURED, len(lesson.views.latents)])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        picked = np.arange(MEASURED) % len(lesson.views.latents)
        draws = draw_noise(
            lesson.views, picked, config, self.backbone, rng=rng, generator=generator
        )
        steering = TrainingSteering(tokens.project, drop=0.0, generator=generator)
        errors = []
        with steered(self.backbone.attention_layers(), steering):
            for k, view in enumerate(picked):
                one = draws.rows(slice(k, k + 1))
                own = np.random.default_rng([config.seed, MEASURED, k])
                steering.begin([self._sample(int(view), one.noise_shares(self.backbone)[0], own)])
                miss, _ = one.velocity_miss(lesson.text[None], self.backbone)
                errors.append(weighted_error(miss, one, moving_weight=config.moving_weight))
        return float(torch.stack(errors).mean())

    def loss(self) -> Tensor:
        """x0 error weighted 1 / (1 - ᾱ), which for v-prediction is the v error, plus the released
        delta term mean[(√2 e_{i+1} - e_i)²] on one adjacent latent-frame pair, e = x̂0 - x0."""
        config, lesson = self.config, self.lesson
        rng = np.random.default_rng([config.seed, self.step])
        self.generator.manual_seed(int(rng.integers(2**62)))
        whole, rows = config.batch * self.share.count, self.share.rows(config.batch)
        picked = rng.integers(len(lesson.views.latents), size=whole)
        draws = draw_noise(
            lesson.views, picked, config, self.backbone, rng=rng, generator=self.generator
        ).rows(rows)
        spoken = (rng.random(whole) >= config.caption_dropout)[rows]
        own = [np.random.default_rng([config.seed, self.step, k]) for k in range(whole)][rows]
        noises = draws.noise_shares(self.backbone)
        samples = [
            self._sample(int(view), noise, drawing)
            for view, noise, drawing in zip(picked[rows], noises, own, strict=True)
        ]
        self._view = int(picked[rows][0])
        if samples[0].object_masks is not None:
            self._mask = samples[0].object_masks[0].numpy()
        text = torch.stack([lesson.text if said else lesson.empty_text for said in spoken])
        self.steering.begin(samples)
        miss, factor = draws.velocity_miss(text, self.backbone)
        error = factor * miss  # x̂0 - x0
        pair = int(rng.integers(error.shape[1] - 1)) if error.shape[1] > 1 else None
        delta = error.new_zeros(())
        if pair is not None and config.delta_weight:
            delta = (math.sqrt(2) * error[:, pair + 1] - error[:, pair]).square().mean()
        return (
            weighted_error(miss, draws, moving_weight=config.moving_weight)
            + config.delta_weight * delta
        )

    def _sample(self, view: int, noise: float, rng: np.random.Generator) -> TrainingSample:
        """``noise`` from 0 to 1 of the view's step."""
        lesson, masks = self.lesson, self.lesson.views.object_masks
        if self.config.mask == "given":
            mask = masks[view]  # (F, h, w)
            if self.config.mask_reach == "lagging":
                mask = torch.from_numpy(lagging(mask.numpy(), noise, rng))
            return TrainingSample(lesson.layout, object_masks=mask[None])
        if self.config.mask == "dmem":
            return TrainingSample(lesson.layout, noun=lesson.noun)
        return TrainingSample(lesson.layout)


@dataclass(frozen=True, eq=False)
class NoisyViews:
    """A batch on its way into the transformer: ``latents``, ``noise`` and ``condition`` (the first
    frame's own latents, then zeros) are (B, F, C, H', W') float32, ``timesteps`` (B,) int64."""

    latents: Tensor
    noise: Tensor
    condition: Tensor
    timesteps: Tensor

    def rows(self, rows: slice) -> NoisyViews:
        """Some of the batch."""
        parts = (self.latents, self.noise, self.condition, self.timesteps)
        return NoisyViews(*(part[rows] for part in parts))

    def noise_shares(self, backbone: Backbone) -> list[float]:
        """How noisy each is, from 0 to 1."""
        return (self.timesteps / (backbone.training_steps - 1)).tolist()

    def velocity_miss(self, text: Tensor, backbone: Backbone) -> tuple[Tensor, Tensor]:
        """``Backbone.velocity_miss`` of the batch; ``text`` (B, L, text width)."""
        with fast_bfloat16(backbone.transformer):
            return backbone.velocity_miss(
                self.latents, self.noise, self.condition, text, self.timesteps
            )


def draw_noise(
    views: CachedViews,
    picked: np.ndarray,
    config: ClipTraining,
    backbone: Backbone,
    *,
    rng: np.random.Generator,
    generator: torch.Generator,
    image_noise: tuple[float, ...] = (),
) -> NoisyViews:
    """Latents of the ``picked`` views (B,) int64, noise, timesteps and image conditions, on the
    transformer's device. ``image_noise``: mean and deviation of ln σ of the noise on the images."""
    device = backbone.transformer.device
    drawing = generator if config.sample_latents else None
    latents = backbone.padded(views.latents.draw(picked, drawing))
    images = views.images.draw(picked, drawing)[:, 0]  # (B, C, H', W')
    noise = torch.randn(latents.shape, generator=generator)
    total = backbone.training_steps
    shares = 1 - config.noisy_share * torch.rand(len(latents), generator=generator)
    timesteps = (shares * total).long().clamp(0, total - 1)  # (B,)
    keep = torch.from_numpy(rng.random(len(latents)) >= config.image_dropout).to(latents)
    if image_noise:
        mean, deviation = image_noise
        sigma = (mean + deviation * torch.randn(len(latents), generator=generator)).exp()
        added = torch.randn(images.shape, generator=generator)
        images = images + sigma[:, None, None, None] * added
    condition = backbone.image_condition(images * keep[:, None, None, None], latents)
    return NoisyViews(*(part.to(device) for part in (latents, noise, condition, timesteps)))


def weighted_error(miss: Tensor, draws: NoisyViews, *, moving_weight: float) -> Tensor:
    """The mean square of ``miss``, places that differ from the first frame ``moving_weight`` times
    as heavy as others."""
    latents = draws.latents
    moving = (latents - latents[:, :1]).abs().mean(dim=2, keepdim=True) > 0.2
    weights = 1 + (moving_weight - 1) * moving.float()
    return (miss.square() * weights / weights.mean()).mean()


def fast_bfloat16(transformer: Any) -> AbstractContextManager:
    """bfloat16 where it is the fast type: a float32 model on a CPU with AVX-512 BF16 computes its
    matrix products four times as fast. Tokens and optimiser stay float32."""
    wanted = transformer.device.type == "cpu" and transformer.dtype == torch.float32
    if wanted and torch.cpu._is_avx512_bf16_supported():
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()
