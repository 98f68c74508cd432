"""The stage that trains a motion encoder: pairs of clips are drawn and encoded, or read where they
were before, then learned from, with the backbone of the checkpoint as it is.

How good it is meanwhile shows what it never learns from: references of a kind of creature that is
in none of its clips, doing motions that are in none of them either.
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from motion_app.engine.motion_encoder import MotionEncoder
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.engine.pipeline import MotionEngine
from motion_app.evaluation.metrics import assignment_similarity, follows_own
from motion_app.evaluation.trackers import colour_track
from motion_app.jobs.models import Models
from motion_app.library.motion_file import SUFFIX, read_motion
from motion_app.pocket.averaged import TrainingRecord
from motion_app.pocket.encoder import (
    EncoderTraining,
    PairLesson,
    encode_batch,
    train_encoder,
    write_encoder,
)
from motion_app.pocket.encoder_pairs import (
    FULL,
    UNSEEN_KIND,
    ClipPair,
    EncodedPairs,
    PairBatch,
    encode_pairs,
    pairs_folder,
    read_pairs,
)
from motion_app.pocket.measure import picked_frames
from motion_app.pocket.side_by_side import Seat, side_by_side
from motion_app.scene import GenerationRequest, Motion, Options, SceneObject
from motion_app.settings import load_settings
from motion_app.training.processes import Share
from motion_app.wording import NEUTRAL_PHRASE
from motion_app.world.creatures import MOTIONS
from motion_app.world.world import WorldConfig

log = logging.getLogger(__name__)
SEED = 730_000
PAIRS, SCENES, TOGETHER = 48, 10, 8
NOVEL = tuple(name for name, motion in MOTIONS.items() if motion.novel)


def train_encoder_stage(
    options: argparse.Namespace, world: WorldConfig, *, minutes: float
) -> TrainingRecord:
    """Into ``options.out``, whose backbone it is for, in at most ``minutes``, those of drawing
    among them."""
    training = replace(EncoderTraining(), samples=options.encoder_samples, minutes=minutes)
    return side_by_side(_encoder_process, options, world, training, count=options.processes)


def _encoder_process(
    options: argparse.Namespace, world: WorldConfig, training: EncoderTraining, seat: Seat
) -> TrainingRecord:
    """One process: its share of the encoding, then its share of every batch."""
    began = time.monotonic()
    seat.take(options.threads)
    threads = max(1, options.threads // seat.count)
    # On a CPU: all is small, and the clips are drawn there.
    engine = Models(load_settings(), device="cpu", threads=threads).engine(options.out)
    folder = pairs_folder(options.runs, options.out, world)
    encode_pairs(
        folder,
        engine.backbone.pipe.vae,
        count=options.pairs,
        config=world,
        geometry=engine.geometry,
        shard=(seat.rank, seat.count),
    )
    measure = None
    if seat.rank == 0 and options.measure_every:
        measure = EncoderHeldBack(engine, options.runs / "encoder-held-back", world)
    waited = (time.monotonic() - began) / 60
    log.info("%.1f minutes for what is learned from", waited)
    with seat.together():
        encoder, record = train_encoder(
            options.runs,
            read_pairs(folder),
            replace(training, minutes=max(0.0, training.minutes - waited)),
            engine.backbone,
            share=Share(seat.rank, seat.count),
            measure=measure,
            measure_every=options.measure_every,
        )
    if seat.rank == 0:
        write_encoder(encoder, record, options.out)
    return record


class EncoderHeldBack:
    """Call it with an encoder for its figures; it writes a contact sheet, of each scene the
    reference, the true clip and the generated one, into ``folder`` each time."""

    def __init__(self, engine: MotionEngine, folder: Path, config: WorldConfig) -> None:
        self.engine, self.folder = engine, folder
        self.lesson = PairLesson(engine.backbone)
        folder.mkdir(parents=True, exist_ok=True)
        self.pairs = [held_pair(number, config) for number in range(PAIRS)]
        vae = engine.backbone.pipe.vae
        self.encoded = EncodedPairs.encode(vae, self.pairs, engine.geometry)

    def __call__(self, encoder: MotionEncoder) -> dict[str, float]:
        """``loss``: velocity error with the tokens of each creature's own motion, and
        ``loss_exchanged`` with those of the other one's, at fixed noise. Of generated videos:
        ``own`` and ``other``, how a creature's way resembles that of its motion and of the other
        one; ``follow``, the share that follow their own."""
        own, exchanged = self._losses(encoder)
        rows, follows, sheet = [], [], []
        for number, pair in enumerate(self.pairs[:SCENES]):
            told, retold = pair.clips
            frames = self.engine.generate(self._request(number, encoder)).frames
            tracks = [colour_track(frames, mask) for mask in told.masks[:, 0]]
            alike = np.array(
                [[assignment_similarity(track, truth) for truth in told.tracks] for track in tracks]
            )  # (2, 2)
            for k in range(2):
                rows.append((alike[k, k], alike[k, 1 - k]))
                follows.append(follows_own(*rows[-1]))
            sheet += [retold.frames, told.frames, frames]
        count = len(list(self.folder.glob("sheet-*.png")))
        Image.fromarray(picked_frames(sheet)).save(self.folder / f"sheet-{count:03d}.png")
        mean_own, mean_other = np.mean(rows, axis=0)
        return {
            "loss": round(own, 5),
            "loss_exchanged": round(exchanged, 5),
            "own": round(float(mean_own), 3),
            "other": round(float(mean_other), 3),
            "follow": float(np.mean(follows)),
        }

    @torch.no_grad()
    def _losses(self, encoder: MotionEncoder) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(SEED)
        timesteps = torch.linspace(300, 999, PAIRS).long()
        errors: list[tuple[Tensor, Tensor]] = []
        for start in range(0, PAIRS, TOGETHER):
            picked = np.arange(start, start + TOGETHER)
            batch = PairBatch.take([self.encoded], picked, np.zeros(TOGETHER, int))
            noise = torch.randn(batch.latents.shape, generator=generator)
            draws = self.lesson.draws(batch, noise, timesteps[picked])
            said = self.lesson.say(
                [
                    [f"{subject} {NEUTRAL_PHRASE}." for subject, _ in told]
                    for told in batch.sentences
                ],
                [[NEUTRAL_PHRASE] * len(told) for told in batch.sentences],
            )
            first = batch.masks[:, :, :1].expand_as(batch.masks)
            tokens = encode_batch(encoder, batch)
            missed = [
                self.lesson.miss(batch, each, draws, first, said).square().mean()
                for each in (tokens, tokens.flip(1))
            ]
            errors.append((missed[0], missed[1]))
        own, exchanged = (float(torch.stack(part).mean()) for part in zip(*errors, strict=True))
        return own, exchanged

    def _request(self, number: int, encoder: MotionEncoder) -> GenerationRequest:
        """The first clip's picture, each creature with the motion of the second clip's."""
        told = self.pairs[number].clips[0]
        objects = tuple(
            SceneObject(
                told.masks[k, 0],
                creature.neutral_sentence,
                NEUTRAL_PHRASE,
                self._motion(number, k, encoder),
            )
            for k, creature in enumerate(told.scene.creatures)
        )
        return GenerationRequest(told.frames[0], objects, Options(seed=number))

    def _motion(self, number: int, k: int, encoder: MotionEncoder) -> Motion:
        latents = torch.from_numpy(self.encoded.latents[number, 1]).float()
        shares = torch.from_numpy(self.encoded.shares[number, 1, k]).float() / FULL
        file = self.folder / f"{number}-{k}{SUFFIX}"
        tokens: MotionTokens = encoder.encode(latents, shares)
        tokens.save(file, MotionMetadata(f"{number}-{k}", NEUTRAL_PHRASE, self.engine.fingerprint))
        return read_motion(file)


def held_pair(number: int, config: WorldConfig) -> ClipPair:
    """A scene of two with motions that were never learned, by its number alone; references of the
    kind that was never seen."""
    rng = np.random.default_rng([SEED, number])
    motions = [str(name) for name in rng.choice([*NOVEL, "free"], size=2, replace=False)]
    return ClipPair.draw(rng, config, motions, kinds=(UNSEEN_KIND,))
