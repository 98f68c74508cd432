"""The stage that trains a motion encoder: pairs of clips are drawn and encoded, or read where they
were before, then learned from, with the backbone of the checkpoint as it is."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import replace

from motion_app.jobs.models import Models
from motion_app.pocket.averaged import TrainingRecord
from motion_app.pocket.encoder import EncoderTraining, train_encoder, write_encoder
from motion_app.pocket.encoder_figures import EncoderHeldBack
from motion_app.pocket.encoder_pairs import encode_pairs, pairs_folder, read_pairs
from motion_app.pocket.side_by_side import Seat, side_by_side
from motion_app.settings import load_settings
from motion_app.training.processes import Share
from motion_app.world.world import WorldConfig

log = logging.getLogger(__name__)


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
