"""Learns the motion tokens of one motion from its reference clips (method.md, sections 4 and 5)."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from motion_app.engine.layout import SequenceLayout, Span
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.engine.pipeline import MotionEngine
from motion_app.engine.steering import TrainingSample, TrainingSteering, steered
from motion_app.errors import CheckpointError, GenerationCancelled, RequestError
from motion_app.library import read_motion
from motion_app.phrases import find_phrases
from motion_app.scene import NEUTRAL_PHRASE, Motion, SceneObject
from motion_app.training.clips import CachedViews, ViewConfig, cache_views
from motion_app.video import Clip, read_clip, write_video

log = logging.getLogger(__name__)
MASK_SOURCES = ("dmem", "given", "none")


@dataclass(frozen=True)
class MotionTraining:
    """How one motion is learned. Defaults are the authors' release for CogVideoX-5B-I2V; a
    checkpoint's ``generation.json`` overrides them under ``motion_training``.

    ``phrase`` are the motion words and ``noun`` the moving thing's words in the caption
    "A {noun} {phrase}.". ``tokens`` is M. ``init_distribution`` and ``init_scale``: uniform in
    ±0.003. AdamW at ``learning_rate`` with a cosine over ``steps``, gradients clipped at
    ``clip_norm``. Timesteps are uniform over the noisier ``noisy_share``. ``delta_weight`` weighs
    the released loss on adjacent latent frames (the paper does not print it), ``moving_weight``
    the squared error where the clip differs from its first frame. The caption is emptied and the
    first frame's latents are dropped with the probabilities given. ``mask``: who sees the tokens:
    "dmem" (section 4, ``mask_drop`` of it let go), "given" masks of the clip, or "none" (concat).
    """

    name: str
    phrase: str = NEUTRAL_PHRASE
    noun: str = "thing"
    steps: int = 2000
    batch: int = 1
    tokens: int = 226
    init_distribution: str = "uniform"
    init_scale: float = 0.003
    learning_rate: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    noisy_share: float = 1.0
    delta_weight: float = 1.0
    moving_weight: float = 1.0
    caption_dropout: float = 0.10
    image_dropout: float = 0.05
    mask: str = "dmem"
    mask_drop: float = 0.3
    views: int = 12
    zoom: tuple[float, float] = (1.0, 1.3)
    shift: float = 0.1
    permute_colours: bool = False
    checkpoint_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "tokens", "views", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.name.strip():
            raise RequestError("the motion has no name; give it one, for example --name jump")
        if not self.phrase.strip() or not self.noun.strip():
            raise RequestError("phrase and noun must not be empty: the caption needs both")
        if self.mask not in MASK_SOURCES:
            raise RequestError(f'unknown mask "{self.mask}"; choose {", ".join(MASK_SOURCES)}')

    @classmethod
    def for_checkpoint(cls, defaults: Mapping[str, Any], **given: Any) -> MotionTraining:
        """The checkpoint's own settings under what was ``given``; None means not given."""
        known = {entry.name for entry in fields(cls)}
        unknown = sorted((set(defaults) | set(given)) - known)
        if unknown:
            raise CheckpointError(f"unknown training settings {', '.join(unknown)}")
        chosen = {name: setting for name, setting in given.items() if setting is not None}
        merged = {**defaults, **chosen}
        for name in ("betas", "zoom"):
            if name in merged:
                merged[name] = tuple(merged[name])
        return cls(**merged)

    @property
    def caption(self) -> str:
        article = "An" if self.noun[0].lower() in "aeiou" else "A"
        return f"{article} {self.noun} {self.phrase}."


@dataclass(frozen=True)
class TrainingReport:
    """One step's news: ``step`` from 1 to ``steps``, its ``loss``, seconds so far and to go."""

    step: int
    steps: int
    loss: float
    seconds: float
    seconds_left: float


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


OnProgress = Callable[[TrainingReport], bool | None]


def train_motion(
    clips: Sequence[Path | Clip],
    config: MotionTraining,
    *,
    engine: MotionEngine,
    out: Path,
    masks: Sequence[np.ndarray] | None = None,
    track: Sequence[Sequence[float]] | None = None,
    on_progress: OnProgress | None = None,
) -> Motion:
    """Trains, writes ``out`` (safetensors) with a preview beside it, and returns the motion.

    ``clips`` are files, or clips already at the model's frame rate; ``masks`` their objects,
    (T', H0, W0) bool each, for ``mask="given"``; ``track`` the reference's true centroids where
    known. ``on_progress`` returning False stops with GenerationCancelled and keeps the checkpoint
    ``out`` + ".training", from which the next call with the same config continues: it ends with the
    same tokens as an undisturbed run.
    """
    if not clips:
        raise RequestError("no reference clip came; give at least one")
    if config.mask == "given" and masks is None:
        raise RequestError('mask "given" needs the object masks of every clip')
    fps = engine.geometry.fps
    read = [clip if isinstance(clip, Clip) else read_clip(clip, fps=fps) for clip in clips]
    lesson = prepare_lesson(read, config, engine, masks=masks)
    run = TrainingRun(lesson, config, engine, out)
    started, first = time.monotonic(), run.step
    with steered(engine.pipe.transformer, run.steering):
        while run.step < config.steps:
            loss = run.advance()
            seconds = time.monotonic() - started
            left = seconds / (run.step - first) * (config.steps - run.step)
            report = TrainingReport(run.step, config.steps, loss, seconds, left)
            stop = on_progress is not None and on_progress(report) is False
            if stop or run.step % config.checkpoint_every == 0:
                run.save()
            if stop:
                raise GenerationCancelled(
                    f"training stopped at step {run.step} of {config.steps}; start it again with "
                    "the same settings to go on"
                )
    return _finish(run, read[0], track)


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
        text, empty = pipe.encode_prompt(
            config.caption,
            "",
            do_classifier_free_guidance=True,
            max_sequence_length=length,
            device=pipe.transformer.device,
        )  # (1, L, text width) each
    layout = SequenceLayout(
        text=length, phrases=[phrase], motion=[config.tokens], grid=geometry.grid
    )
    return Lesson(views, text[0], empty[0], layout, noun, engine.rotary_embedding())


class TrainingRun:
    """Tokens, optimiser and step of one training; ``save`` and the constructor resume it."""

    def __init__(
        self, lesson: Lesson, config: MotionTraining, engine: MotionEngine, out: Path
    ) -> None:
        self.lesson, self.config, self.engine, self.out = lesson, config, engine, Path(out)
        self.file = self.out.with_name(self.out.name + ".training")
        geometry, device = engine.geometry, engine.pipe.transformer.device
        self.tokens = MotionTokens.fresh(
            layers=geometry.layers,
            tokens=config.tokens,
            width=geometry.width_tokens,
            scale=config.init_scale,
            distribution=config.init_distribution,
            generator=torch.Generator().manual_seed(config.seed),
        ).to(device)
        self.optimiser = torch.optim.AdamW(
            self.tokens.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self.step = 0
        self.generator = torch.Generator()
        self.steering = TrainingSteering(
            self.tokens.project, drop=config.mask_drop, generator=self.generator
        )
        engine.pipe.transformer.requires_grad_(False)
        if self.file.exists():
            self._resume()

    def save(self) -> None:
        """One file, replaced at once: a kill leaves the old or the new state, never half."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        state = {
            "config": json.dumps(asdict(self.config)),
            "base": self.engine.fingerprint,
            "tokens": self.tokens.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
        }
        torch.save(state, partial)
        partial.replace(self.file)

    def _resume(self) -> None:
        state = torch.load(self.file, weights_only=True)
        expected = (json.dumps(asdict(self.config)), self.engine.fingerprint)
        if (state["config"], state["base"]) != expected:
            raise RequestError(
                f"{self.file.name} is an unfinished training with other settings or another base "
                "model; finish it with those, or delete it to start anew"
            )
        self.tokens.load_state_dict(state["tokens"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        log.info("%s: resumed at step %d", self.config.name, self.step)

    def advance(self) -> float:
        """One optimiser step, drawn from (seed, step) alone; returns its loss."""
        config = self.config
        for group in self.optimiser.param_groups:
            angle = math.pi * self.step / config.steps
            group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(angle))
        loss = self.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self.tokens.parameters(), config.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return float(loss.detach())

    def loss(self) -> Tensor:
        """x0 error weighted 1 / (1 - ᾱ), which for v-prediction is the v error, plus the released
        delta term mean[(√2 e_{i+1} - e_i)²] on one adjacent latent-frame pair, e = x̂0 - x0."""
        config, lesson, pipe = self.config, self.lesson, self.engine.pipe
        transformer, scheduler = pipe.transformer, pipe.scheduler
        rng = np.random.default_rng([config.seed, self.step])
        self.generator.manual_seed(int(rng.integers(2**62)))
        picked = rng.integers(len(lesson.views.latents), size=config.batch)
        latents = lesson.views.latents[picked]  # (B, F, C, H', W')
        noise = torch.randn(latents.shape, generator=self.generator)
        total = scheduler.config.num_train_timesteps
        draws = 1 - config.noisy_share * torch.rand(config.batch, generator=self.generator)
        timesteps = (draws * total).long().clamp(0, total - 1)  # (B,)
        latents, noise = latents.to(transformer.device), noise.to(transformer.device)
        timesteps = timesteps.to(transformer.device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        keep = torch.from_numpy(rng.random(config.batch) >= config.image_dropout).to(latents)
        condition = torch.zeros_like(latents)
        condition[:, 0] = latents[:, 0] * keep[:, None, None, None]
        spoken = rng.random(config.batch) >= config.caption_dropout
        text = torch.stack([lesson.text if said else lesson.empty_text for said in spoken])
        self.steering.begin([self._sample(int(i)) for i in picked])
        with _fast_bfloat16(transformer):
            velocity = transformer(
                hidden_states=torch.cat([noisy, condition], dim=2).to(transformer.dtype),
                encoder_hidden_states=text.to(transformer.dtype),
                timestep=timesteps,
                image_rotary_emb=lesson.rotary,
                return_dict=False,
            )[0].float()  # (B, F, C, H', W')
        alpha = scheduler.alphas_cumprod.to(latents)[timesteps].view(-1, 1, 1, 1, 1)
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        squared = (velocity - target).square()
        moving = (latents - latents[:, :1]).abs().mean(dim=2, keepdim=True) > 0.2
        weights = 1 + (config.moving_weight - 1) * moving.float()
        error = -(1 - alpha).sqrt() * (velocity - target)  # x̂0 - x0
        pair = int(rng.integers(error.shape[1] - 1)) if error.shape[1] > 1 else None
        delta = error.new_zeros(())
        if pair is not None and config.delta_weight:
            delta = (math.sqrt(2) * error[:, pair + 1] - error[:, pair]).square().mean()
        return (squared * weights / weights.mean()).mean() + config.delta_weight * delta

    def _sample(self, view: int) -> TrainingSample:
        lesson, masks = self.lesson, self.lesson.views.object_masks
        if self.config.mask == "given":
            return TrainingSample(lesson.layout, object_masks=masks[view][None])
        if self.config.mask == "dmem":
            return TrainingSample(lesson.layout, noun=lesson.noun)
        return TrainingSample(lesson.layout)


def _fast_bfloat16(transformer: nn.Module) -> AbstractContextManager:
    """bfloat16 where it is the fast type: a float32 model on a CPU with AVX-512 BF16 computes its
    matrix products four times as fast. Tokens and optimiser stay float32."""
    wanted = transformer.device.type == "cpu" and transformer.dtype == torch.float32
    if wanted and torch.cpu._is_avx512_bf16_supported():
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


def _finish(run: TrainingRun, clip: Clip, track: Sequence[Sequence[float]] | None) -> Motion:
    """Writes the motion and its preview, then lets the checkpoint go."""
    config, out, engine = run.config, run.out, run.engine
    out.parent.mkdir(parents=True, exist_ok=True)
    preview = out.with_suffix(".mp4")
    export = engine.defaults.export
    size = (export.width // 2, export.height // 2) if export else None
    write_video(preview, clip.frames[: engine.geometry.frames], clip.fps, size=size)
    metadata = MotionMetadata(
        name=config.name,
        phrase=config.phrase,
        base=engine.fingerprint,
        config=asdict(config),
        track=None if track is None else [[float(y), float(x)] for y, x in track],
        noun=config.noun,
        preview=preview.name,
        preview_sha256=hashlib.sha256(preview.read_bytes()).hexdigest(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    run.tokens.save(out, metadata, dtype=torch.float16)
    run.file.unlink(missing_ok=True)
    return read_motion(out)
