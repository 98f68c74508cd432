"""Trains a low-rank adapter of the whole backbone, which a system needs beside it: the checkpoint's
weights stay as they are.

The gauge is a pair of losses on clips that nothing learns from. Of noise that moves: with the
clip's own and with another clip's; a model that does not look at how its noise moves has the same
for both. Of any frame in the first one's place: with the adapter and without.

What is learned from is rendered clips with something beside. "warped-noise", of Go-with-the-Flow
(arXiv 2501.08331): the noise that is taken away from a clip moves along with it, by flow inside
each creature, and is mixed with ordinary noise by a share that is drawn. "any-frame", of FlexiAct
(arXiv 2505.03730): any frame of the clip stands in its first one's place.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor, nn

from motion_app.engine.adapters import PLACES, Adapter, GatedAdapters, adapted
from motion_app.engine.backbone import Backbone
from motion_app.engine.lora_files import write_adapter
from motion_app.engine.systems.go_with_the_flow import clip_flow
from motion_app.engine.systems.noise_warping import degraded, warped_noise
from motion_app.engine.systems.placing import latent_times
from motion_app.errors import RequestError
from motion_app.geometry import ModelGeometry
from motion_app.jobs.models import Models
from motion_app.models.adapters import FOLDER
from motion_app.pocket.backbone import draw_timesteps, loss_weights
from motion_app.pocket.optim import keep_freed_memory
from motion_app.pocket.vae import (
    CHUNK,
    LatentClips,
    chunk_scenes,
    encode_clips,
    encode_frames,
    read_clips,
)
from motion_app.text_files import write_whole
from motion_app.training.tokens import NoisyViews
from motion_app.world.world import NEUTRAL_SHARE, RenderedClip, WorldConfig, render

log = logging.getLogger(__name__)
GAUGE_LEVEL = 950  # of 1000: where the noise alone can tell how things go
GAUGE_BATCH = 8
GAUGE_CLIPS, GAUGE_SEED = 40, 555_000  # that nothing learns from
UNITS = 4  # flow is kept as whole quarters of a pixel, in one byte
SLIGHT = 0.2  # below this share of ordinary noise half of all samples are drawn
FINENESS = 2  # cells of noise along a pixel's side, see ``warped_noise``
FRAMES = 3  # of each clip, that stand in its first one's place
DrawBeside = Callable[[Sequence[RenderedClip], AutoencoderKLCogVideoX], np.ndarray]


class AdapterLesson(ABC):
    """``clips``, and ``beside``: per chunk what else is known of them, (n, ...) memory-mapped."""

    name: ClassVar[str]

    def __init__(
        self, clips: LatentClips, beside: Sequence[np.ndarray], geometry: ModelGeometry
    ) -> None:
        self.clips, self.beside, self.geometry = clips, beside, geometry

    def __len__(self) -> int:
        return len(self.clips)

    @abstractmethod
    def noise(self, picked: np.ndarray, rng: np.random.Generator, draw: torch.Generator) -> Tensor:
        """(B, F, C, H', W'), padded, for the clips ``picked``."""

    @abstractmethod
    def pictures(self, picked: np.ndarray, rng: np.random.Generator) -> Tensor:
        """What the model is given in their first frames' place, (B, C, H', W')."""

    def known(self, picked: np.ndarray) -> Tensor:
        """What ``beside`` has of the clips ``picked``, (B, ...)."""
        found = [divmod(int(i), CHUNK) for i in picked]
        return torch.from_numpy(np.stack([self.beside[chunk][row] for chunk, row in found]))

    def _shape(self, batch: int) -> tuple[int, ...]:
        g = self.geometry
        frame = (g.height // g.spatial_ratio, g.width // g.spatial_ratio)
        return (batch, g.padded_latent_frames, g.latent_channels, *frame)


class WarpedNoise(AdapterLesson):
    """``beside``: flow, (n, T - 1, H, W, 2) int8 in UNITS of a pixel, 0 where no creature is."""

    name = "warped-noise"

    def noise(self, picked: np.ndarray, rng: np.random.Generator, draw: torch.Generator) -> Tensor:
        moving = self.moving(picked, draw)
        fresh = torch.randn(moving.shape, generator=draw)
        return degraded(moving, fresh, draw_shares(rng, len(picked)))

    def pictures(self, picked: np.ndarray, rng: np.random.Generator) -> Tensor:
        return self.clips.take(picked)[1]

    def moving(self, picked: np.ndarray, draw: torch.Generator) -> Tensor:
        """Noise (B, F, C, H', W') that moves as the clips do."""
        g = self.geometry
        return warped_noise(
            self.known(picked).float() / UNITS,
            latent_times(g),
            channels=g.latent_channels,
            ratio=g.spatial_ratio,
            fineness=FINENESS,
            draw=draw,
        )


class AnyFrame(AdapterLesson):
    """``beside``: FRAMES frames of each clip, encoded alone, (n, FRAMES, C, H', W') float16."""

    name = "any-frame"

    def noise(self, picked: np.ndarray, rng: np.random.Generator, draw: torch.Generator) -> Tensor:
        return torch.randn(self._shape(len(picked)), generator=draw)

    def pictures(self, picked: np.ndarray, rng: np.random.Generator) -> Tensor:
        chosen = torch.from_numpy(rng.integers(FRAMES, size=len(picked)))
        return self.known(picked).float()[torch.arange(len(picked)), chosen]


LESSONS: dict[str, type[AdapterLesson]] = {
    lesson.name: lesson for lesson in (WarpedNoise, AnyFrame)
}


def draw_lesson(
    name: str,
    folder: Path,
    vae: AutoencoderKLCogVideoX,
    geometry: ModelGeometry,
    *,
    count: int,
    seed: int,
    config: WorldConfig,
) -> AdapterLesson:
    """The lesson ``name`` of at least ``count`` clips under ``folder``, drawn as ``encode_clips``
    draws them; what is there already is taken."""
    encode_clips(folder, vae, count=count, seed=seed, config=config)
    chunks = -(-count // CHUNK)
    files = [folder / f"{number:04d}-{name}.npy" for number in range(chunks)]
    for number, file in enumerate(files):
        if not file.exists():
            clips = [render(scene) for scene in chunk_scenes(seed, number, config, CHUNK)]
            found = DRAWN[name](clips, vae)
            write_whole(file, lambda part, found=found: np.save(part, found), ending=".npy")
            log.info("%s: %d clips", name, (number + 1) * CHUNK)
    known = read_clips(folder)
    clips = LatentClips(
        known.latents[:chunks],
        known.images[:chunks],
        known.codes[:chunks],
        known.sentences[: chunks * CHUNK],
    )
    return LESSONS[name](clips, [np.load(file, mmap_mode="r") for file in files], geometry)


def moving_parts(clips: Sequence[RenderedClip], vae: AutoencoderKLCogVideoX) -> np.ndarray:
    """Flow of ``clips`` inside their creatures, (n, T - 1, H, W, 2) int8 in UNITS of a pixel."""
    found = []
    for clip in clips:
        inside = clip.masks[:, :-1].any(axis=0)  # (T - 1, H, W)
        flow = clip_flow(clip.frames) * inside[..., None]
        found.append(np.clip(np.round(flow * UNITS), -127, 127).astype(np.int8))
    return np.stack(found)


def any_frames(clips: Sequence[RenderedClip], vae: AutoencoderKLCogVideoX) -> np.ndarray:
    """FRAMES frames of each of ``clips``, evenly spaced and the first not among them, each encoded
    alone: (n, FRAMES, C, H', W') float16."""
    found = []
    for clip in clips:
        chosen = np.linspace(0, len(clip.frames) - 1, FRAMES + 1).round().astype(int)[1:]
        found.append(encode_frames(vae, clip.frames[chosen][:, None])[1])
    return np.stack(found)


DRAWN: dict[str, DrawBeside] = {WarpedNoise.name: moving_parts, AnyFrame.name: any_frames}


def draw_shares(rng: np.random.Generator, count: int) -> Tensor:
    """Shares of ordinary noise (count, 1, 1, 1, 1) float32: half of them below SLIGHT, since that
    is where noise can be followed, the others anywhere."""
    slight = rng.random(count) < 0.5
    drawn = rng.random(count) * np.where(slight, SLIGHT, 1.0)
    return torch.from_numpy(drawn).float().view(-1, 1, 1, 1, 1)


@dataclass(frozen=True)
class AdapterTraining:
    """``steps`` in all of ``batch`` clips, and at most ``minutes`` of wall time in one call; rank
    and rate of the adapter, AdamW with a cosine over the steps. ``text_dropout``, ``noisy_share``,
    ``moving_weight`` and ``first_weight`` as the backbone's own training has them."""

    steps: int = 6000
    minutes: float = 240.0
    batch: int = 8
    rank: int = 96
    learning_rate: float = 1e-3
    text_dropout: float = 0.1
    noisy_share: float = 0.65
    moving_weight: float = 4.0
    first_weight: float = 2.0
    seed: int = 0
    save_seconds: float = 120.0
    gauge_every: int = 500

    def learned_with(self) -> dict[str, Any]:
        """The settings on which what is learned depends, as plain JSON."""
        watching = {"minutes", "save_seconds", "gauge_every"}
        return {name: value for name, value in asdict(self).items() if name not in watching}


class AdapterRun:
    """The state of one training, kept in ``file`` and gone on with where it is there; each step is
    drawn from (seed, step) alone, so that a resumed run repeats the undisturbed one."""

    def __init__(
        self, file: Path, lesson: AdapterLesson, training: AdapterTraining, backbone: Backbone
    ) -> None:
        self.file, self.lesson, self.training, self.backbone = file, lesson, training, backbone
        self.layers = backbone.attention_layers()
        backbone.transformer.requires_grad_(False)
        self.adapter = Adapter.fresh(
            self.layers,
            rank=training.rank,
            alpha=training.rank,
            places=PLACES,
            generator=torch.Generator().manual_seed(training.seed),
        ).to(backbone.transformer.device)
        self.optimiser = torch.optim.AdamW(
            self.adapter.parameters(), lr=training.learning_rate, betas=(0.9, 0.98)
        )
        self.step = 0
        self.losses: list[float] = []
        if file.exists():
            self._resume()

    def save(self) -> None:
        """One file, replaced at once."""
        state = {
            "settings": json.dumps(self.training.learned_with()),
            "base": self.backbone.checkpoint.fingerprint,
            "adapter": self.adapter.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "losses": self.losses,
        }
        write_whole(self.file, lambda part: torch.save(state, part))

    def _resume(self) -> None:
        state = torch.load(self.file, weights_only=True)
        known = (json.loads(state["settings"]), state["base"])
        if known != (self.training.learned_with(), self.backbone.checkpoint.fingerprint):
            raise RequestError(
                f"{self.file.name} is an unfinished training with other settings or for another "
                "base model; finish it with those, or delete it to start anew"
            )
        self.adapter.load_state_dict(state["adapter"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.losses = state["step"], list(state["losses"])

    def advance(self) -> float:
        """One optimiser step; its loss."""
        training = self.training
        rate = 0.5 * (1 + math.cos(math.pi * self.step / training.steps))
        self.optimiser.param_groups[0]["lr"] = rate * training.learning_rate
        loss = self._loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.losses.append(float(loss.detach()))
        return self.losses[-1]

    def _loss(self) -> Tensor:
        training, lesson = self.training, self.lesson
        rng = np.random.default_rng([training.seed, self.step])
        draw = torch.Generator().manual_seed(int(rng.integers(2**62)))
        picked = rng.integers(len(lesson), size=training.batch)
        captions = [
            ""
            if rng.random() < training.text_dropout
            else lesson.clips.caption(int(i), rng, neutral_share=NEUTRAL_SHARE).text
            for i in picked
        ]
        levels = draw_timesteps(draw, training.batch, training.noisy_share)
        noise, pictures = lesson.noise(picked, rng, draw), lesson.pictures(picked, rng)
        return self.missed(lesson.clips.take(picked)[0], noise, pictures, levels, captions)

    def missed(
        self,
        clean: Tensor,
        noise: Tensor,
        pictures: Tensor,
        levels: Tensor,
        captions: Sequence[str],
        *,
        share: float = 1.0,
    ) -> Tensor:
        """The loss of latents ``clean`` (B, F, C, H', W') with this ``noise`` at noise ``levels``
        (B,), given ``pictures`` (B, C, H', W'), with so large a ``share`` of the adapter."""
        training, backbone = self.training, self.backbone
        device = backbone.transformer.device
        latents = backbone.padded(clean)
        condition = backbone.image_condition(pictures, latents)
        text = torch.cat(backbone.encode_text(captions))  # (B, L, text width)
        parts = (part.to(device) for part in (latents, noise, condition, levels))
        with adapted(self.layers, GatedAdapters([self.adapter], share=share)):
            miss, _ = NoisyViews(*parts).velocity_miss(text.to(device), backbone)
        weights = loss_weights(
            latents, moving=training.moving_weight, first=training.first_weight
        ).to(miss)
        return (weights * miss.square()).mean()

    @torch.no_grad()
    def gauge(self, unseen: AdapterLesson) -> dict[str, float]:
        """Losses on ``unseen`` clips "with" what is learned and "without", and by what share, the
        "gap", the former is the smaller; see the module's head."""
        found: dict[str, list[float]] = {"with": [], "without": []}
        for start in range(0, GAUGE_CLIPS, GAUGE_BATCH):
            picked = np.arange(start, start + GAUGE_BATCH)
            rng, draw = np.random.default_rng(start), torch.Generator().manual_seed(start)
            levels = torch.full((GAUGE_BATCH,), GAUGE_LEVEL)
            captions = [unseen.clips.caption(int(i), rng, neutral_share=1.0).text for i in picked]
            clean, pictures = unseen.clips.take(picked)[0], unseen.pictures(picked, rng)
            if isinstance(unseen, WarpedNoise):
                own = unseen.moving(picked, draw)
                told = {"with": (own, 1.0), "without": (own.roll(1, dims=0), 1.0)}
            else:
                noise = unseen.noise(picked, rng, draw)
                told = {"with": (noise, 1.0), "without": (noise, 0.0)}
            for name, (noise, share) in told.items():
                loss = self.missed(clean, noise, pictures, levels, captions, share=share)
                found[name].append(float(loss))
        means = {name: float(np.mean(losses)) for name, losses in found.items()}
        return {**means, "gap": 1 - means["with"] / means["without"]}


def train_adapter_stage(
    options: argparse.Namespace, name: str, *, models: Models, minutes: float
) -> None:
    """The adapter ``name`` of the checkpoint in ``--out``, into its folder of adapters once all
    steps are done; the backbone's own clips are taken where they are under ``--runs``."""
    backbone = models.engine(options.out).backbone
    lesson, unseen = (
        draw_lesson(
            name,
            options.runs / "latents" / folder,
            backbone.pipe.vae,
            backbone.geometry,
            count=count,
            seed=seed,
            config=WorldConfig(),
        )
        for folder, count, seed in (
            ("level0", options.adapter_clips, 1),
            ("unseen", GAUGE_CLIPS, GAUGE_SEED),
        )
    )
    train_adapter(
        options.runs / f"{name}.pt",
        lesson,
        unseen,
        AdapterTraining(steps=options.adapter_steps, minutes=minutes),
        backbone,
        options.out / FOLDER / f"{name}.safetensors",
    )


def train_adapter(
    file: Path,
    lesson: AdapterLesson,
    unseen: AdapterLesson,
    training: AdapterTraining,
    backbone: Backbone,
    out: Path,
) -> dict[str, float] | None:
    """Train until ``training.steps``, or for its minutes; saved in ``file`` as it goes. Once all
    steps are done the adapter is written to ``out``, and its gauge is returned; None before."""
    keep_freed_memory()
    run = AdapterRun(file, lesson, training, backbone)
    log.info("%s: %s, from step %d", lesson.name, json.dumps(asdict(training)), run.step)
    began = saved = time.monotonic()
    while run.step < training.steps and time.monotonic() - began < training.minutes * 60:
        run.advance()
        if time.monotonic() - saved > training.save_seconds:
            saved = time.monotonic()
            run.save()
            log.info("step %d, loss %.4f", run.step, float(np.mean(run.losses[-50:])))
        if run.step % training.gauge_every == 0:
            log.info("step %d: %s", run.step, json.dumps(run.gauge(unseen)))
    run.save()
    gauge = run.gauge(unseen)
    log.info("at step %d of %d: %s", run.step, training.steps, json.dumps(gauge))
    if run.step < training.steps:
        return None
    notes = {
        "base": backbone.checkpoint.fingerprint,
        "trained": json.dumps({**training.learned_with(), **gauge}),
    }
    write_adapter(out, run.adapter, notes)
    return gauge
