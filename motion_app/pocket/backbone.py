"""Trains the pocket's transformer and text encoder together on encoded clips."""

from __future__ import annotations

import copy
import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from diffusers import CogVideoXDDIMScheduler
from torch import nn

from motion_app.errors import RequestError
from motion_app.pocket.averaged import (
    FOLDERS,
    AveragedRun,
    TrainingRecord,
    load_pieces,
    save_pieces,
    saved_folders,
)
from motion_app.pocket.grounding import Caption, grounded_bias
from motion_app.pocket.network import (
    SCHEDULER_CONFIG,
    TEXT_TOKENS,
    MatrixAttnProcessor,
    PocketNetwork,
    rotary_embedding,
)
from motion_app.pocket.optim import MuonAdam, keep_freed_memory, split_parameters
from motion_app.text_files import write_whole
from motion_app.world.world import NEUTRAL_SHARE

log = logging.getLogger(__name__)
SURE = 0.9  # of the pace that a few steps had: clips have to be taken in, too
SIZES = (32, 64, 128, 256, 512, 1024, 2048)
GAIN = 1.1  # a batch twice as large must be so much faster, or it only costs steps
FAMILIAR = 16  # the batch that the learning rates were found at
MOST_RATE = 2.0


def choose_batch(seconds_of: Callable[[int], float]) -> tuple[int, float]:
    """(clips, clips a second) of the largest of SIZES that fits and still gains by its size;
    ``seconds_of`` a step with so many raises OutOfMemoryError where they do not fit. RequestError
    where none does."""
    found: tuple[int, float] | None = None
    for size in SIZES:
        try:
            pace = size / seconds_of(size)
        except torch.OutOfMemoryError:
            break
        if found is not None and pace < GAIN * found[1]:
            break
        found = (size, pace)
    if found is None:
        raise RequestError(
            f"not even {SIZES[0]} clips fit into this device's memory; give a smaller --batch"
        )
    return found


def rate_for(batch: int) -> float:
    """The factor on the learning rates: the root of the batch over FAMILIAR, MOST_RATE at most."""
    return min(MOST_RATE, max(1.0, (batch / FAMILIAR) ** 0.5))


@dataclass(frozen=True)
class BackboneTraining:
    """``samples`` clips in all at ``batch`` a step, and at most ``minutes`` of wall time in one
    call. The rate is constant and falls to nothing over the last ``decay`` of the samples, so that
    a run cut short goes on undisturbed; its average of the weights is what ships meanwhile.

    ``moving_weight`` multiplies the loss where latents differ from the first frame's and
    ``first_weight`` on the first latent frame, which is given and has to be kept; ``text_dropout``
    empties captions for guidance, half the timesteps lie in the noisier ``noisy_share``. In a
    ``grounded_share`` of the clips each creature alone sees its motion words (``grounding``).
    ``empty_images``: the share of clips whose picture is not given, so that videos can be made from
    words alone; once they can, ``generation.json`` is to say so (``without_picture``).

    ``batch`` 0 is found on the device (``choose_batch``), the learning rates with it; ``samples`` 0
    are as many as the minutes allow then. ``pieces``: saved as ``save_pieces`` has it, else as one
    file with the optimiser; every ``save_seconds``."""

    samples: int = 300_000
    minutes: float = 480.0
    batch: int = 16
    layers: int = 6
    heads: int = 4
    head_dim: int = 64
    muon_lr: float = 2e-3
    adam_lr: float = 1.5e-3
    text_dropout: float = 0.1
    noisy_share: float = 0.65
    grounded_share: float = 0.6
    empty_images: float = 0.0
    moving_weight: float = 4.0
    first_weight: float = 2.0
    decay: float = 0.15
    bfloat16: bool = True
    seed: int = 0
    save_seconds: float = 120.0
    pieces: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.empty_images <= 1:
            raise RequestError(f"empty_images is {self.empty_images}; it is a share, 0 to 1")


def new_backbone(training: BackboneTraining) -> PocketNetwork:
    """A fresh one of the training's shape."""
    return PocketNetwork(layers=training.layers, heads=training.heads, head_dim=training.head_dim)


def draw_timesteps(rng: torch.Generator, batch: int, noisy_share: float) -> torch.Tensor:
    """(batch,) int64: half uniform over 1,000, half in the noisier ``noisy_share``."""
    uniform = torch.rand(batch, generator=rng)
    noisy = torch.rand(batch, generator=rng) < 0.5
    shifted = 1 - noisy_share + noisy_share * uniform
    return (torch.where(noisy, shifted, uniform) * 1000).long().clamp(max=999)


def loss_weights(latents: torch.Tensor, *, moving: float, first: float) -> torch.Tensor:
    """(B, F, 1, H', W'): ``moving`` where a latent differs from the first frame's, ``first`` on the
    first latent frame, 1 elsewhere, then scaled to a mean of 1."""
    moves = (latents - latents[:, :1]).abs().mean(dim=2, keepdim=True) > 0.2
    weights = 1 + (moving - 1) * moves.float()
    weights[:, 0] = first
    return weights / weights.mean()


class BackboneRun(AveragedRun):
    """The state of a training run, saved and resumed as one file, or without the optimiser as
    pieces. Of both, what has seen more clips is gone on with."""

    def __init__(
        self,
        folder: Path,
        training: BackboneTraining,
        device: str,
        *,
        start_from: Path | None = None,
    ) -> None:
        torch.manual_seed(training.seed)
        self.folder, self.file = folder, folder / "backbone.pt"
        self.training, self.device = training, device
        self.model = new_backbone(training).to(device)
        self.record, self.resumed_at = TrainingRecord(), 0
        saved = saved_folders(folder, TrainingRecord.FILE)
        if (
            start_from is not None
            and not self.file.exists()
            and not saved
            and self.model.load_shipped(start_from)
        ):
            self.record = TrainingRecord.read(start_from)
            self.resumed_at = self.record.step
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimiser = MuonAdam(
            *split_parameters(self.model), muon_lr=training.muon_lr, adam_lr=training.adam_lr
        )
        if self.file.exists():
            self.take_over(torch.load(self.file, weights_only=True, map_location=device))
        if saved and TrainingRecord.read(saved[-1]).samples > self.record.samples:
            self._go_on_from(saved[-1])

    @property
    def _networks(self) -> dict[str, nn.Module]:
        return {"model": self.model, "average": self.average}

    def _go_on_from(self, pieces: Path) -> None:
        """Weights and record of a folder of pieces; the optimiser warms up afresh."""
        try:
            load_pieces(pieces, self._networks)
        except RuntimeError as error:
            raise RequestError(
                f"{pieces.name} holds a model of another shape than --layers and --head-dim say; "
                "give the same ones, or another --runs"
            ) from error
        self.record = TrainingRecord.read(pieces)
        self.resumed_at = self.record.step
        log.info("going on from %s, with a fresh optimiser", pieces.name)

    def _save_pieces(self) -> None:
        """A new folder, complete with its record; those before it go."""
        before = list(self.folder.glob(FOLDERS))
        folder = self.folder / f"saved-{self.record.step:08d}"
        save_pieces(folder, self._networks)
        self.record.write(folder)
        for other in before:
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)

    def save(self) -> None:
        if self.training.pieces:
            self._save_pieces()
            return
        state = self.state()
        write_whole(self.file, lambda part: torch.save(state, part))


class Clips(Protocol):
    """What is learned from, encoded: ``vae.LatentClips``, or ``stream.GrowingClips``."""

    def __len__(self) -> int: ...

    def take(self, picked: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Latents (B, F, C, H', W') and first frames (B, C, H', W'), float32, and whose each token
        is, (B, F, h, w) uint8."""

    def caption(self, index: int, rng: np.random.Generator, *, neutral_share: float) -> Caption:
        """One of a clip, drawn afresh."""

    def gather(self) -> int:
        """Take in what has come meanwhile; how many clips."""


def training_loss(
    run: BackboneRun,
    clips: Clips,
    scheduler: CogVideoXDDIMScheduler,
    rotary: tuple[torch.Tensor, torch.Tensor],
    *,
    process: int = 0,
    processes: int = 1,
) -> torch.Tensor:
    """Loss of one process's share of a step, drawn from (seed, step, process) alone: a resumed run
    repeats the undisturbed one."""
    training, device = run.training, run.device
    rng = np.random.default_rng([training.seed, run.record.step, process])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    batch = training.batch // processes
    picked = rng.integers(len(clips), size=batch)
    latents, image, codes = clips.take(picked)
    latents, image = latents.to(device), image.to(device)  # (B, F, C, H', W'), (B, C, H', W')
    captions = [
        Caption("")
        if rng.random() < training.text_dropout
        else clips.caption(int(i), rng, neutral_share=NEUTRAL_SHARE)
        for i in picked
    ]
    timesteps = draw_timesteps(generator, batch, training.noisy_share).to(device)
    if torch.device(device).type == "cpu":
        noise = torch.randn(latents.shape, generator=generator)
    else:  # so many numbers are drawn where they are used
        own = torch.Generator(device).manual_seed(generator.initial_seed())
        noise = torch.randn(latents.shape, generator=own, device=device)
    bias = grounded_bias(
        captions,
        codes,
        (timesteps / (scheduler.config.num_train_timesteps - 1)).tolist(),
        run.model.tokenizer,
        rng,
        share=training.grounded_share,
        text=TEXT_TOKENS,
        device=device,
    )
    if training.empty_images:
        given = torch.from_numpy(rng.random(batch) >= training.empty_images).to(image)
        image = image * given[:, None, None, None]
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=training.bfloat16):
        texts = [caption.text for caption in captions]
        prediction = run.model(texts, noisy, image, timesteps, rotary, bias)
    weights = loss_weights(latents, moving=training.moving_weight, first=training.first_weight)
    return (weights * (prediction.float() - target).square()).mean()


def _fit_to_device(
    run: BackboneRun, clips: Clips, step: Callable[[], torch.Tensor], *, minutes: float
) -> None:
    """Give a run without a batch one, found by a few steps that move nothing, and the samples that
    ``minutes`` allow where it has none."""
    asked = run.training

    def seconds_of(size: int) -> float:
        run.training = replace(asked, batch=size)
        try:
            for _ in range(2):  # the second one counts
                began = time_now(run.device)
                step().backward()
            return time_now(run.device) - began
        finally:
            run.model.zero_grad(set_to_none=True)

    batch, pace = choose_batch(seconds_of)
    allowed = round(SURE * pace * minutes * 60)
    samples = asked.samples or run.record.samples + allowed
    run.training = replace(asked, batch=batch, samples=max(1, samples))
    run.optimiser.rates = tuple(rate * rate_for(batch) for rate in run.optimiser.rates)
    log.info("%d clips at once, %.0f a second; %d in all", batch, pace, run.training.samples)


def time_now(device: str) -> float:
    """Seconds, once the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


def train_backbone(
    folder: Path,
    clips: Clips,
    training: BackboneTraining,
    *,
    device: str = "cpu",
    process: int = 0,
    processes: int = 1,
    start_from: Path | None = None,
    measure: Callable[[PocketNetwork], dict[str, float]] | None = None,
    measure_every: float = 30.0,
) -> tuple[PocketNetwork, TrainingRecord]:
    """Trains until ``training.samples`` were seen (earlier calls' count, the shipped weights' too)
    or ``training.minutes`` of this call are over, saving every two minutes; returns the averaged
    weights and the record.

    ``measure`` (given to the first process alone, the others wait) tells held-back figures of the
    average every ``measure_every`` minutes and at the end. With several ``processes`` (a gloo group
    that exists already) each takes its share of the batch: on a CPU one thread a process is faster
    than several threads in one, above all on a machine that also does something else.
    """
    keep_freed_memory()
    run = BackboneRun(folder, training, device, start_from=start_from)
    scheduler = CogVideoXDDIMScheduler(**SCHEDULER_CONFIG)
    rotary = rotary_embedding(run.model.transformer, device)
    log.info("backbone: %s, %d clips", json.dumps(asdict(training)), len(clips))
    log.info("from step %d, %d samples", run.record.step, run.record.samples)
    run.model.train()
    if training.bfloat16 and device == "cpu":
        run.model.transformer.set_attn_processor(MatrixAttnProcessor())
    began = time.monotonic()
    if not training.batch:
        step = partial(training_loss, run, clips, scheduler, rotary)
        _fit_to_device(run, clips, step, minutes=training.minutes)
        training = run.training
    start, losses = run.record, []
    end = run.record.spent + training.minutes * 60 - (time.monotonic() - began)
    saved, measured, mark = start.spent, start.spent, time.monotonic()
    while run.record.samples < training.samples and run.record.spent < end:
        clips.gather()
        share = {"process": process, "processes": processes}
        loss = training_loss(run, clips, scheduler, rotary, **share)
        loss.backward()
        now = time.monotonic()
        seconds, mark = now - mark, now
        if processes > 1:
            seconds = _average_gradients(run.model, seconds, processes)
        nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        run.update(seconds)
        losses.append(loss.detach())
        over = run.record.samples >= training.samples or run.record.spent >= end
        if over or run.record.spent - measured > measure_every * 60:
            measured = run.record.spent
            if measure is not None:
                _note_figures(run, measure)
            if processes > 1:
                dist.barrier()
            mark = time.monotonic()
        if run.record.spent - saved > training.save_seconds or over:
            if process == 0:
                run.save()
                _log_progress(run.record, start, float(torch.stack(losses).mean()))
            losses, saved = [], run.record.spent
    return run.average, run.record


def _note_figures(run: BackboneRun, measure: Callable[[PocketNetwork], dict[str, float]]) -> None:
    """Held-back figures of the average, logged and added to the record."""
    figures = {"samples": run.record.samples, **measure(run.average)}
    log.info("held back: %s", json.dumps(figures))
    run.record = replace(run.record, history=(*run.record.history, figures))


def _log_progress(record: TrainingRecord, start: TrainingRecord, loss: float) -> None:
    pace = (record.samples - start.samples) / max(1e-6, record.spent - start.spent)
    log.info(
        "step %d, %d samples, %.0f s, %.1f samples/s, loss %.4f",
        *(record.step, record.samples, record.spent, pace, loss),
    )


def _average_gradients(model: nn.Module, seconds: float, processes: int) -> float:
    """All processes' mean gradient, in place, and their mean of ``seconds`` (so that all stop
    together)."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    clock = torch.tensor([seconds], device=gradients[0].device)
    flat = torch.cat([gradient.flatten() for gradient in gradients] + [clock]) / processes
    dist.all_reduce(flat)
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
    return float(flat[-1])
