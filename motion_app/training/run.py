"""One training: what its steps draw from, and its state, which can be saved and taken up again."""

from __future__ import annotations

import json
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from motion_app.engine.layout import SequenceLayout, Span
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.engine.pipeline import MotionEngine
from motion_app.engine.steering import TrainingSample, TrainingSteering, steered
from motion_app.errors import RequestError
from motion_app.phrases import find_phrases
from motion_app.scene import Motion, SceneObject
from motion_app.training.clips import CachedViews, ViewConfig, cache_views
from motion_app.training.config import ClipTraining, MotionTraining
from motion_app.training.parallel import ALONE, Share
from motion_app.training.velocity_error import draw_noise, velocity_miss, weighted_error
from motion_app.video import Clip

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Lesson:
    """Everything a step draws from, computed once. ``text`` and ``empty_text`` are (L, text
    width)."""

    views: CachedViews
    text: Tensor
    empty_text: Tensor
    layout: SequenceLayout
    noun: Span
    rotary: tuple[Tensor, Tensor] | None


def prepare_lesson(
    clips: Sequence[Clip],
    config: MotionTraining,
    engine: MotionEngine,
    *,
    masks: Sequence[np.ndarray] | None = None,
) -> Lesson:
    """Encodes views and captions once; the encoders are not needed afterwards."""
    geometry, pipe = engine.geometry, engine.pipe
    views = cache_views(
        pipe.vae,
        clips,
        geometry,
        ViewConfig(config.views, config.zoom, config.shift, config.permute_colours),
        seed=config.seed,
        masks=masks if config.mask == "given" else None,
    )
    subject = SceneObject(
        mask=np.ones((1, 1), bool),
        sentence=config.caption,
        phrase=config.phrase,
        motion=Motion(config.name, config.phrase, Path(), engine.fingerprint),
    )
    length = geometry.text_tokens
    phrase = find_phrases(config.caption, [subject], pipe.tokenizer, length)[0]
    named = replace(subject, phrase=config.noun)
    noun = find_phrases(config.caption, [named], pipe.tokenizer, length)[0]
    with torch.no_grad():
        text, empty = engine.prompts.encode(config.caption, guided=True)  # (1, L, text width) each
    layout = SequenceLayout(
        text=length, phrases=[phrase], motion=[config.tokens], grid=geometry.grid
    )
    return Lesson(views, text[0], empty[0], layout, noun, engine.rotary_embedding())


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
        engine: MotionEngine,
        out: Path,
        share: Share = ALONE,
    ) -> None:
        self.learned, self.config, self.engine, self.out = learned, config, engine, Path(out)
        self.share = share
        self.file = self.out.with_name(self.out.name + ".training")
        self.optimiser = torch.optim.AdamW(
            list(groups), betas=config.betas, weight_decay=config.weight_decay
        )
        self.generator = torch.Generator()
        self.step = 0
        self.losses: list[float] = []
        self._highest = [group["lr"] for group in groups]
        engine.pipe.transformer.requires_grad_(False)
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

    def held(self) -> Sequence[nn.Parameter]:
        """What the step at hand may not move."""
        return ()

    def save(self) -> None:
        """One file, replaced at once: a kill leaves the old or the new state, never half. Where
        several processes learn, the first writes it."""
        if not self.share.first:
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        state = {
            "config": self._settings(),
            "base": self.engine.fingerprint,
            "tokens": self.learned.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "losses": self.losses,
        }
        torch.save(state, partial)
        partial.replace(self.file)

    def _resume(self) -> None:
        state = torch.load(self.file, weights_only=True)
        # A setting that the file does not know yet is at its default: what was done before.
        settings = self.config.unchosen() | json.loads(state["config"])
        expected = (json.loads(self._settings()), self.engine.fingerprint)
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
        angle = math.pi * self.step / config.steps
        for group, highest in zip(self.optimiser.param_groups, self._highest, strict=True):
            group["lr"] = highest * 0.5 * (1 + math.cos(angle))
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
    """Motion tokens, learned with DMEM, given masks or none."""

    config: MotionTraining

    def __init__(
        self,
        lesson: Lesson,
        config: MotionTraining,
        engine: MotionEngine,
        out: Path,
        share: Share = ALONE,
    ) -> None:
        geometry = engine.geometry
        self.lesson = lesson
        self.tokens = MotionTokens.fresh(
            layers=geometry.layers,
            tokens=config.tokens,
            width=geometry.width_tokens,
            scale=config.init_scale,
            distribution=config.init_distribution,
            generator=torch.Generator().manual_seed(config.seed),
        ).to(engine.pipe.transformer.device)
        self._view = 0
        groups = [{"params": list(self.tokens.parameters()), "lr": config.learning_rate}]
        super().__init__(self.tokens, groups, config, engine, out, share)
        self.steering = TrainingSteering(
            self.tokens.project, drop=config.mask_drop, generator=self.generator
        )

    def installed(self) -> AbstractContextManager:
        return steered(self.engine.pipe.transformer, self.steering)

    def view_frames(self) -> np.ndarray:
        return self.lesson.views.frames[self._view]

    def view_mask(self) -> np.ndarray | None:
        if self.config.mask == "none":
            return None
        if self.config.mask == "given":
            return self.lesson.views.object_masks[self._view].numpy()
        return self.steering.layer_masks().cpu().numpy()

    def save_motion(self, path: Path, metadata: MotionMetadata) -> None:
        self.tokens.save(path, metadata, dtype=torch.float16)

    def loss(self) -> Tensor:
        """x0 error weighted 1 / (1 - ᾱ), which for v-prediction is the v error, plus the released
        delta term mean[(√2 e_{i+1} - e_i)²] on one adjacent latent-frame pair, e = x̂0 - x0."""
        config, lesson = self.config, self.lesson
        rng = np.random.default_rng([config.seed, self.step])
        self.generator.manual_seed(int(rng.integers(2**62)))
        whole, rows = config.batch * self.share.count, self.share.rows(config.batch)
        picked = rng.integers(len(lesson.views.latents), size=whole)
        draws = draw_noise(
            lesson.views, picked, config, self.engine, rng=rng, generator=self.generator
        ).rows(rows)
        spoken = (rng.random(whole) >= config.caption_dropout)[rows]
        picked = picked[rows]
        self._view = int(picked[0])
        text = torch.stack([lesson.text if said else lesson.empty_text for said in spoken])
        self.steering.begin([self._sample(int(i)) for i in picked])
        miss, kept = velocity_miss(draws, text, self.engine, rotary=lesson.rotary)
        error = -(1 - kept).sqrt() * miss  # x̂0 - x0
        pair = int(rng.integers(error.shape[1] - 1)) if error.shape[1] > 1 else None
        delta = error.new_zeros(())
        if pair is not None and config.delta_weight:
            delta = (math.sqrt(2) * error[:, pair + 1] - error[:, pair]).square().mean()
        return weighted_error(miss, draws, config) + config.delta_weight * delta

    def _sample(self, view: int) -> TrainingSample:
        lesson, masks = self.lesson, self.lesson.views.object_masks
        if self.config.mask == "given":
            return TrainingSample(lesson.layout, object_masks=masks[view][None])
        if self.config.mask == "dmem":
            return TrainingSample(lesson.layout, noun=lesson.noun)
        return TrainingSample(lesson.layout)
