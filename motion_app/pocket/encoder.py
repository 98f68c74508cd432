"""Trains the motion encoder of a checkpoint, whose backbone stays as it is.

A step takes clips of one to three creatures. Another clip, in which other creatures do the same
motions, is the reference: the encoder looks at it once for each of them, and what it says is seen
in the prediction as a generation has it, each creature's tokens inside its own mask alone. The loss
is the backbone's own. The masks are true ones with a worn edge at first; later they are as RMPM has
them: the first frame's in all frames while there is nothing but noise, then behind the truth.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motion_app.engine.backbone import Backbone
from motion_app.engine.layers import AttentionLayer, KeyValues
from motion_app.engine.layout import SequenceLayout
from motion_app.engine.motion_encoder import EncoderConfig, MotionEncoder
from motion_app.engine.steering import TrainingSample, TrainingSteering, steered
from motion_app.errors import CheckpointError, RequestError
from motion_app.models.checkpoint import Checkpoint
from motion_app.pocket.averaged import AveragedRun, TrainingRecord
from motion_app.pocket.backbone import draw_timesteps
from motion_app.pocket.encoder_pairs import EncodedPairs, PairBatch
from motion_app.pocket.optim import MuonAdam, keep_freed_memory, split_parameters
from motion_app.request.phrases import find_phrases
from motion_app.scene import Motion, SceneObject
from motion_app.text_files import write_whole
from motion_app.training.config import MotionTraining
from motion_app.training.processes import ALONE, Share
from motion_app.training.tokens import NoisyViews, fast_bfloat16, weighted_error
from motion_app.wording import NEUTRAL_PHRASE

log = logging.getLogger(__name__)
FIRST_STEP = 0.95  # of the noise: above it a generation of 12 steps has the first frame's masks
GROWN, WORN = 0.5, 0.15  # the most of a mask's edge that joins it, and of it that is lost
LATE = 0.3  # how far a carried mask lags behind in full noise, as a share of the time
BLURRED = 0.4  # most of a reference's mask that is spread to its neighbours
Pairs = Mapping[int, Sequence[EncodedPairs]]  # chunks by their number of creatures


@dataclass(frozen=True)
class EncoderTraining:
    """``samples`` clips in all at ``batch`` a step, and at most ``minutes`` in one call; rates as
    ``BackboneTraining`` has them. ``word_share`` of sentences name their motion, the others are
    neutral; captions are emptied with ``caption_dropout``. Masks are true until ``true_until`` of
    the samples and as RMPM has them from ``carried_from`` on, and some of each in between."""

    samples: int = 40_000
    minutes: float = 120.0
    batch: int = 16
    muon_lr: float = 2e-3
    adam_lr: float = 1.5e-3
    noisy_share: float = 0.65
    moving_weight: float = 4.0
    word_share: float = 0.15
    caption_dropout: float = 0.1
    true_until: float = 0.1
    carried_from: float = 0.5
    decay: float = 0.25
    seed: int = 0
    save_seconds: float = 120.0


def new_encoder(checkpoint: Checkpoint) -> MotionEncoder:
    """A fresh one that gives as many tokens as the checkpoint's own learning, of that size."""
    own = MotionTraining.for_checkpoint(checkpoint.defaults.motion_training, name="motion")
    return MotionEncoder(EncoderConfig.of(checkpoint, tokens=own.tokens, scale=own.init_scale))


class EncoderRun(AveragedRun):
    """The state of a run in ``folder``; without one it goes on from the encoder that the checkpoint
    has. What was learned on another base model is where a run for this one begins."""

    def __init__(self, folder: Path, training: EncoderTraining, backbone: Backbone) -> None:
        torch.manual_seed(training.seed)
        checkpoint = backbone.checkpoint
        self.file, self.training, self.checkpoint = folder / "encoder.pt", training, checkpoint
        self.model, self.record = new_encoder(checkpoint), TrainingRecord()
        state = torch.load(self.file, weights_only=True) if self.file.exists() else None
        if state is not None and state["base"] != checkpoint.fingerprint:
            self._begin_with(state["average"])
            log.info("beginning with what was learned on base model %s", state["base"][:12])
            state = None
        elif state is None and checkpoint.has_encoder:
            self._begin_with_shipped()
        self.resumed_at = self.record.step
        self.model.requires_grad_(True)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimiser = MuonAdam(
            *split_parameters(self.model), muon_lr=training.muon_lr, adam_lr=training.adam_lr
        )
        if state is not None:
            self.take_over(state)

    def _begin_with(self, weights: dict[str, Tensor]) -> None:
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            raise RequestError(
                f"{self.file} holds an encoder of another shape; move it away to start anew"
            ) from error

    def _begin_with_shipped(self) -> None:
        try:
            shipped = MotionEncoder.load(self.checkpoint)
        except CheckpointError as error:
            log.info("starting anew: %s", error)
            return
        self.model.load_state_dict(shipped.state_dict())
        self.record = TrainingRecord.read(self.checkpoint.folder / Checkpoint.ENCODER)

    def save(self) -> None:
        """One file, replaced at once."""
        state = {**self.state(), "base": self.checkpoint.fingerprint}
        write_whole(self.file, lambda part: torch.save(state, part))

    @property
    def carried_share(self) -> float:
        """How many of the masks are as RMPM has them, 0 to 1."""
        t = self.training
        done = self.record.samples / t.samples
        return min(1.0, max(0.0, (done - t.true_until) / (t.carried_from - t.true_until)))


class PairLesson:
    """What a batch of pairs misses of its clips when ``tokens`` act in it; nothing of the
    ``backbone`` is learned."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        backbone.transformer.requires_grad_(False)
        self._tokens: Tensor | None = None
        self._steering = TrainingSteering(self._project)

    def miss(
        self, batch: PairBatch, tokens: Tensor, draws: NoisyViews, masks: Tensor, said: Said
    ) -> Tensor:
        """Predicted minus true velocity (B, F, C, H', W'). ``tokens`` (B, N, layers, M, D) of each
        creature, seen inside its ``masks`` (B, N, F, h, w) bool."""
        self._tokens = tokens
        samples = [
            TrainingSample(
                SequenceLayout(
                    text=self.backbone.geometry.text_tokens,
                    phrases=phrases,
                    motion=[tokens.shape[3]] * tokens.shape[1],
                    grid=self.backbone.geometry.grid,
                ),
                object_masks=mask,
                without=(),
            )
            for phrases, mask in zip(said.phrases, masks, strict=True)
        ]
        self._steering.begin(samples)
        with steered(self.backbone.attention_layers(), self._steering):
            return draws.velocity_miss(said.text, self.backbone)[0]

    def _project(self, layer: AttentionLayer) -> KeyValues:
        """Keys and values of all creatures of each clip, (B, heads, N * M, d) each."""
        if self._tokens is None:
            raise ValueError("no batch has begun")
        tokens = self._tokens[:, :, layer.number].flatten(1, 2)  # (B, N * M, D)
        key, value = layer.key_values(tokens.flatten(0, 1))  # (1, heads, B * N * M, d) each
        key, value = (
            part[0].unflatten(1, tokens.shape[:2]).transpose(0, 1) for part in (key, value)
        )
        return key, value

    def say(self, sentences: Sequence[Sequence[str]], phrases: Sequence[Sequence[str]]) -> Said:
        """The states of each clip's ``sentences``, and where in them the ``phrases`` are."""
        backbone, found = self.backbone, []
        for told, words in zip(sentences, phrases, strict=True):
            things = [
                SceneObject(_ONE, sentence, phrase, motion=_SOME)
                for sentence, phrase in zip(told, words, strict=True)
            ]
            prompt, length = " ".join(told), backbone.geometry.text_tokens
            found.append(find_phrases(prompt, things, backbone.tokenizer, length))
        states = backbone.prompts.encode_all([" ".join(told) for told in sentences])
        return Said(torch.cat(states), found)

    def draws(self, batch: PairBatch, noise: Tensor, timesteps: Tensor) -> NoisyViews:
        """``batch`` on its way into the transformer."""
        latents = self.backbone.padded(batch.latents)
        condition = self.backbone.image_condition(batch.images, latents)
        return NoisyViews(latents, noise, condition, timesteps)


_ONE = np.ones((1, 1), bool)
_SOME = Motion("motion", NEUTRAL_PHRASE, Path(), "")


@dataclass(frozen=True, eq=False)
class Said:
    """Captions of B clips: ``text`` (B, L, text width), and where the ``phrases`` of each one's
    creatures lie in it."""

    text: Tensor
    phrases: list[list[tuple[int, int] | None]]


def encode_batch(encoder: nn.Module, batch: PairBatch) -> Tensor:
    """Tokens (B, N, layers, M, D) of every creature's reference."""
    count = batch.shares.shape[1]
    references = batch.references.repeat_interleave(count, 0)  # (B * N, F, C, H', W')
    return encoder(references, batch.shares.flatten(0, 1)).unflatten(0, (-1, count))


def worn_masks(masks: Tensor, noise: Tensor, carried: Tensor, generator: torch.Generator) -> Tensor:
    """``masks`` (B, N, F, h, w) bool as they will be met. At ``noise`` (B,), 0 to 1, those that are
    ``carried`` (B,) bool are as RMPM has them: the first frame's as long as there is nothing else
    to see, then behind the truth. Some of an edge joins, some of a mask is lost; the first frame
    is what a person marked."""
    count, frames = len(masks), masks.shape[2]

    def drawn(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    late = LATE * noise * drawn(count) * carried  # (B,)
    behind = (torch.arange(frames) * (1 - late[:, None])).round().long()  # (B, F)
    at = behind[:, None, :, None, None].expand_as(masks)
    moved = masks.gather(2, at)
    first = masks[:, :, :1].expand_as(masks)
    moved = torch.where((carried & (noise > FIRST_STEP))[:, None, None, None, None], first, moved)
    near = F.max_pool2d(moved.flatten(0, 1).float(), 3, stride=1, padding=1) > 0
    near = near.view_as(moved)
    joins = drawn(*masks.shape) < GROWN * drawn(count, 1, 1, 1, 1)
    lost = drawn(*masks.shape) < WORN * drawn(count, 1, 1, 1, 1)
    worn = (moved & ~lost) | (near & ~moved & joins)
    worn[:, :, 0] = masks[:, :, 0]
    return worn


def blurred_shares(shares: Tensor, generator: torch.Generator) -> Tensor:
    """A reference's ``shares`` (B, N, F, h, w) as a follower's masks would have them."""
    blur = BLURRED * torch.rand(len(shares), 1, 1, 1, 1, generator=generator)
    spread = F.avg_pool2d(shares.flatten(0, 1), 3, stride=1, padding=1).view_as(shares)
    return shares.lerp(spread, blur)


def training_loss(
    run: EncoderRun, pairs: Pairs, lesson: PairLesson, *, share: Share = ALONE
) -> Tensor:
    """Loss of one process's share of a step, drawn from (seed, step) alone: a resumed run repeats
    the undisturbed one."""
    training = run.training
    rng = np.random.default_rng([training.seed, run.record.step])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    whole, rows = training.batch, share.rows(training.batch // share.count)
    counts = sorted(pairs)
    chances = np.array([len(pairs[count]) for count in counts], float)
    chunks = pairs[counts[int(rng.choice(len(counts), p=chances / chances.sum()))]]
    picked = rng.integers(sum(map(len, chunks)), size=whole)
    sides = rng.integers(2, size=whole)
    batch = PairBatch.take(chunks, picked[rows], sides[rows])
    timesteps = draw_timesteps(generator, whole, training.noisy_share)[rows]
    noise = torch.randn((whole, *batch.latents.shape[1:]), generator=generator)[rows]
    carried = torch.from_numpy(rng.random(whole) < run.carried_share)[rows]
    spoken = (rng.random(whole) >= training.caption_dropout)[rows]
    worded = (rng.random((whole, batch.masks.shape[1])) < training.word_share)[rows]
    generator.manual_seed(int(rng.integers(2**62)) + share.rank)
    masks = worn_masks(batch.masks, timesteps / 1000, carried, generator)
    batch = replace(batch, shares=blurred_shares(batch.shares, generator))
    said = _said(lesson, batch, worded=worded, spoken=spoken)
    with fast_bfloat16(lesson.backbone.transformer):
        tokens = encode_batch(run.model, batch).float()
    draws = lesson.draws(batch, noise, timesteps)
    miss = lesson.miss(batch, tokens, draws, masks, said)
    return weighted_error(miss, draws, moving_weight=training.moving_weight)


def _said(lesson: PairLesson, batch: PairBatch, *, worded: np.ndarray, spoken: np.ndarray) -> Said:
    """The captions of a batch: which creatures' motions are named, and which are spoken at all."""
    phrases = [
        [words if named else NEUTRAL_PHRASE for (_, words), named in zip(told, row, strict=True)]
        for told, row in zip(batch.sentences, worded, strict=True)
    ]
    sentences = [
        [f"{subject} {phrase}." for (subject, _), phrase in zip(told, words, strict=True)]
        for told, words in zip(batch.sentences, phrases, strict=True)
    ]
    said = lesson.say(sentences, phrases)
    empty = lesson.backbone.prompts.encode_all([""])[0]
    kept = torch.from_numpy(spoken)[:, None, None]
    return replace(said, text=torch.where(kept, said.text, empty))


def train_encoder(
    folder: Path,
    pairs: Pairs,
    training: EncoderTraining,
    backbone: Backbone,
    *,
    share: Share = ALONE,
    measure: Callable[[MotionEncoder], dict[str, float]] | None = None,
    measure_every: float = 30.0,
) -> tuple[MotionEncoder, TrainingRecord]:
    """Trains until ``training.samples`` were seen, earlier calls' too, or ``training.minutes`` of
    this call are over, saving every two minutes; returns the averaged encoder and the record.
    ``measure`` (of the first process alone, the others wait) tells held-back figures of the average
    every ``measure_every`` minutes and at the end; ``share`` as of several processes that learn one
    encoder."""
    if not pairs:
        raise RequestError("there are no pairs of clips to learn from; ask for some with --pairs")
    keep_freed_memory()
    run, lesson = EncoderRun(folder, training, backbone), PairLesson(backbone)
    log.info("encoder: %s, %d weights", json.dumps(asdict(training)), run.model.weights)
    log.info("from step %d, %d samples", run.record.step, run.record.samples)
    run.model.train()
    start, losses = run.record, []
    end = start.spent + training.minutes * 60
    saved = measured = start.spent
    mark = time.monotonic()
    while run.record.samples < training.samples and run.record.spent < end:
        loss = training_loss(run, pairs, lesson, share=share)
        loss.backward()
        share.average(run.model.parameters())
        nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        now = time.monotonic()
        seconds, mark = share.mean(now - mark), now
        run.update(seconds)
        losses.append(float(loss.detach()))
        over = run.record.samples >= training.samples or run.record.spent >= end
        if over or run.record.spent - measured > measure_every * 60:
            measured = run.record.spent
            _note_figures(run, measure, share)
            mark = time.monotonic()
        if run.record.spent - saved > training.save_seconds or over:
            if share.first:
                run.save()
                pace = (run.record.samples - start.samples) / (run.record.spent - start.spent)
                log.info(
                    "step %d, %d samples, %.0f s, %.1f samples/s, loss %.4f",
                    *(run.record.step, run.record.samples, run.record.spent, pace),
                    float(np.mean(losses)),
                )
            losses, saved = [], run.record.spent
    return run.average, run.record


def _note_figures(
    run: EncoderRun, measure: Callable[[MotionEncoder], dict[str, float]] | None, share: Share
) -> None:
    """Held-back figures of the average, logged and added to the record; the others wait."""
    if measure is not None:
        figures = {"samples": run.record.samples, **measure(run.average)}
        log.info("held back: %s", json.dumps(figures))
        run.record = replace(run.record, history=(*run.record.history, figures))
    share.decided(True)


def write_encoder(encoder: MotionEncoder, record: TrainingRecord, checkpoint: Path) -> None:
    """The averaged encoder and how it was trained into the folder of its checkpoint."""
    encoder.save(checkpoint)
    record.write(checkpoint / Checkpoint.ENCODER)
