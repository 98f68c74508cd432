"""Trains a low-rank adapter of the whole backbone, which a system needs beside it: the checkpoint's
weights stay as they are.

The gauge is a pair of losses on clips that nothing learns from. Of noise that moves: with the
clip's own and with another clip's; a model that does not look at how its noise moves has the same
for both. Of any frame in the first one's place: with the adapter and without.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from motion_app.engine.adapters import PLACES, Adapter, GatedAdapters, adapted
from motion_app.engine.backbone import Backbone
from motion_app.engine.lora_files import write_adapter
from motion_app.errors import RequestError
from motion_app.jobs.models import Models
from motion_app.models.adapters import FOLDER
from motion_app.pocket.adapter_lessons import AdapterLesson, WarpedNoise, draw_lesson
from motion_app.pocket.backbone import draw_timesteps, loss_weights
from motion_app.pocket.optim import keep_freed_memory
from motion_app.text_files import write_whole
from motion_app.training.tokens import NoisyViews
from motion_app.world.world import NEUTRAL_SHARE, WorldConfig

log = logging.getLogger(__name__)
GAUGE_LEVEL = 950  # of 1000: where the noise alone can tell how things go
GAUGE_BATCH = 8
GAUGE_CLIPS, GAUGE_SEED = 40, 555_000  # that nothing learns from


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
