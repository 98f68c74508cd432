"""One command trains everything the pocket ships: VAE, backbone, SAM-2 and motions; and, where it
is asked for, a motion encoder for the backbone as it is, and adapters that some systems need.

Each stage runs for its own minutes of wall time on a CPU or a GPU, saves as it goes under
``--runs``, and continues from there when called again. What is finished is written to ``--out``, an
ordinary diffusers folder.

On a GPU the backbone learns while other processes still draw its clips, as many at once as pay, and
is saved every minute as files of at most 16 MiB. A machine for that needs OpenCV, which draws,
beside torch, diffusers and transformers.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKLCogVideoX

from motion_app.errors import RequestError
from motion_app.methods import LEARNED
from motion_app.models.devices import device_named
from motion_app.pocket.averaged import TrainingRecord
from motion_app.pocket.backbone import BackboneRun, BackboneTraining, train_backbone
from motion_app.pocket.network import PocketNetwork, save_checkpoint
from motion_app.pocket.side_by_side import Seat, side_by_side
from motion_app.pocket.stream import GrowingClips, drawn_ahead, first_clips
from motion_app.pocket.vae import VaeTraining, encode_clips, read_clips, train_vae
from motion_app.world.creatures import SHAPE_MOTIONS
from motion_app.world.world import SHIPPED_MOTIONS, SHIPPED_SHAPES, WorldConfig

if TYPE_CHECKING:
    from motion_app.jobs.models import Models
    from motion_app.pocket.measure import HeldBack

log = logging.getLogger(__name__)
USUAL_STAGES = ("vae", "backbone", "sam2", "motions")
ADAPTER_STAGES = ("warped-noise", "any-frame")
STAGES = ("vae", "backbone", "sam2", "encoder", "motions", *ADAPTER_STAGES)
CURVE = "training.svg"
CLIPS, SAMPLES, BATCH = 20_000, 300_000, 16  # on a CPU
GPU_CLIPS = 200_000  # 47 KB each, in its memory
ENCODER_SAMPLES, PAIRS = 40_000, 3_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m motion_app pocket train``."""
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(USUAL_STAGES))
    parser.add_argument("--runs", type=Path, default=Path("runs/pocket"), help="working folder")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/pocket"))
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: a GPU where there is one)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads in all")
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="for backbone and encoder; on a CPU, one for each core",
    )
    parser.add_argument(
        "--minutes", type=float, help="for all stages but the motions together, in this call"
    )
    parser.add_argument("--vae-minutes", type=float, default=20.0)
    parser.add_argument(
        "--backbone-minutes", type=float, default=480.0, help="at most, in this call"
    )
    parser.add_argument(
        "--samples",
        type=int,
        help=f"clips the backbone sees, earlier calls' too (default: {SAMPLES}; on a GPU as many "
        "as the minutes allow)",
    )
    parser.add_argument(
        "--measure-every",
        type=float,
        help="minutes between held-back figures (default: 30; on a GPU none are taken)",
    )
    parser.add_argument("--sam2-minutes", type=float, default=15.0)
    parser.add_argument("--encoder-minutes", type=float, default=180.0)
    parser.add_argument(
        "--encoder-samples",
        type=int,
        default=ENCODER_SAMPLES,
        help="clips the motion encoder sees, earlier calls' too",
    )
    parser.add_argument(
        "--adapter-minutes", type=float, default=240.0, help="of each adapter, in this call"
    )
    parser.add_argument("--adapter-steps", type=int, default=6000, help="of each adapter, in all")
    parser.add_argument("--adapter-clips", type=int, default=2000, help="adapters learn from")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of clips it learns from")
    parser.add_argument(
        "--clips",
        type=int,
        help=f"clips the backbone learns from (default: {CLIPS}; on a GPU the newest {GPU_CLIPS})",
    )
    parser.add_argument(
        "--batch", type=int, help=f"default: {BATCH}; on a GPU the largest that is worth it"
    )
    parser.add_argument(
        "--workers", type=int, help="on a GPU: processes that draw (default: one for each core)"
    )
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--head-dim", type=int, default=64, help="width is 4 times this")
    parser.add_argument(
        "--empty-images",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of clips the backbone sees without their picture, for videos from words alone",
    )
    parser.add_argument("--level", type=int, choices=(0, 1), default=0, help="0: the easy world")
    drawn, ships = (*SHIPPED_MOTIONS, *SHAPE_MOTIONS), (*SHIPPED_MOTIONS, *SHIPPED_SHAPES)
    parser.add_argument("--motions", nargs="+", choices=drawn, default=ships)
    parser.add_argument(
        "--method",
        choices=tuple(LEARNED),
        help="how motions are learned (default: as the checkpoint says that clips become motions)",
    )
    parser.add_argument(
        "--motions-out",
        type=Path,
        metavar="DIR",
        help="where motions go, if not among the shipped ones; what it already holds is left",
    )
    parser.add_argument("--parts", help="synmotion: what is learned, of mot,sub,refiner,lora")
    parser.add_argument("--alpha", type=float, help="synmotion: share of steps on the clip")
    parser.add_argument("--encoding", help="synmotion: phrases read jointly (joint) or apart")


def train(options: argparse.Namespace) -> None:
    """Runs the stages asked for, in their order."""
    began = time.monotonic()
    models = None
    if options.device is None or {"motions", *ADAPTER_STAGES} & set(options.stages):
        models = _models(options)
        options.device = models.device
    options.device = str(device_named(options.device))
    torch.set_num_threads(options.threads)
    _fill_in(options)
    options.runs.mkdir(parents=True, exist_ok=True)
    world = WorldConfig(level=options.level)
    vae_folder = options.runs / "vae"
    if "vae" in options.stages:
        training = VaeTraining(minutes=_minutes(options, options.vae_minutes, began))
        vae = train_vae(options.runs, training, device=options.device, config=world)
        vae.save_pretrained(vae_folder)
    if "backbone" in options.stages:
        options.backbone_minutes = _minutes(options, options.backbone_minutes, began)
        _train_backbone(options, vae_folder, world)
    if "sam2" in options.stages:
        from motion_app.pocket.sam2 import Sam2Training, train_sam2
        from motion_app.pocket.sam2_network import export_sam2

        training = Sam2Training(minutes=_minutes(options, options.sam2_minutes, began))
        export_sam2(train_sam2(options.runs, training, device=options.device), options.out / "sam2")
    if "encoder" in options.stages:
        from motion_app.pocket.encoder_stage import train_encoder_stage

        minutes = _minutes(options, options.encoder_minutes, began)
        train_encoder_stage(options, world, minutes=minutes)
    if "motions" in options.stages:
        from motion_app.pocket.shipped import train_shipped_motions

        train_shipped_motions(
            options.out,
            options.motions,
            models=models,
            out=options.motions_out,
            method=options.method,
            given=_given(options),
        )
    for name in ADAPTER_STAGES:
        if name in options.stages:
            from motion_app.pocket.adapter import train_adapter_stage

            minutes = _minutes(options, options.adapter_minutes, began)
            train_adapter_stage(options, name, models=models, minutes=minutes)


def _models(options: argparse.Namespace) -> Models:
    """Those of the settings, which a machine that only trains need not have."""
    from motion_app.jobs.models import Models
    from motion_app.settings import load_settings

    models = Models(load_settings(), device=options.device, threads=options.threads)
    models.check()
    return models


def _fill_in(options: argparse.Namespace) -> None:
    """What was left to the device."""
    on_gpu = torch.device(options.device).type == "cuda"
    for name, on_cpu, there in (
        ("samples", SAMPLES, 0),
        ("clips", CLIPS, GPU_CLIPS),
        ("batch", BATCH, 0),
        ("measure_every", 30.0, 0.0),
        ("workers", 0, os.cpu_count() or 1),
    ):
        if getattr(options, name) is None:
            setattr(options, name, there if on_gpu else on_cpu)


def _minutes(options: argparse.Namespace, own: float, began: float) -> float:
    """A stage's ``own`` minutes, or what is left of those for all."""
    if options.minutes is None:
        return own
    return max(0.0, min(own, options.minutes - (time.monotonic() - began) / 60))


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of SynMotion that were given; RequestError where another method learns, or they
    would replace what ships."""
    parts = None if options.parts is None else tuple(options.parts.split(","))
    settings = {"parts": parts, "alpha": options.alpha, "encoding": options.encoding}
    given = {name: setting for name, setting in settings.items() if setting is not None}
    if given and options.method != "synmotion":
        raise RequestError(
            f"--{next(iter(given))} belongs to --method synmotion, not to {options.method}; leave "
            "it out"
        )
    if options.method != "fleximmt" and options.motions_out is None:
        raise RequestError(
            f"--method {options.method} would replace the motions that ship; name another folder "
            "with --motions-out"
        )
    return given


def _train_backbone(options: argparse.Namespace, vae_folder: Path, world: WorldConfig) -> None:
    """Encodes clips and trains on them in ``--processes`` processes, then writes the checkpoint."""
    if not vae_folder.exists():  # a fresh clone trains on from what ships
        vae_folder = options.out / "vae"
    training = replace(
        BackboneTraining(),
        samples=options.samples,
        minutes=options.backbone_minutes,
        batch=options.batch,
        layers=options.layers,
        head_dim=options.head_dim,
        empty_images=options.empty_images,
    )
    if training.minutes <= 0:  # what there is, as a checkpoint
        run = BackboneRun(options.runs, training, options.device, start_from=options.out)
        backbone, record = run.average, run.record
    elif torch.device(options.device).type == "cuda":
        backbone, record = learn_while_drawing(options, vae_folder, world, training)
    else:
        backbone, record = side_by_side(
            _backbone_process, options, vae_folder, world, training, count=options.processes
        )
    vae = AutoencoderKLCogVideoX.from_pretrained(vae_folder, torch_dtype=torch.float32)
    save_checkpoint(options.out, vae, backbone.to("cpu"))
    record.write(options.out)
    _draw_curve(options.out, record)


def _draw_curve(checkpoint: Path, record: TrainingRecord) -> None:
    """The figures along the way beside the weights, once there are some."""
    if len(record.history) > 1:
        from motion_app.pocket.measure import training_curve

        (checkpoint / CURVE).write_text(training_curve(record.history), encoding="utf-8")


def learn_while_drawing(
    options: argparse.Namespace, vae_folder: Path, world: WorldConfig, training: BackboneTraining
) -> tuple[PocketNetwork, TrainingRecord]:
    """On one fast device: clips join those that are learned from as they are drawn; saved every
    minute, as pieces. Each call draws clips that no call before it drew."""
    began = time.monotonic()
    vae = AutoencoderKLCogVideoX.from_pretrained(vae_folder, torch_dtype=torch.float32)
    seed = int(time.time())
    with drawn_ahead(world, workers=options.workers, seed=seed) as chunks:
        clips = GrowingClips(vae, chunks, device=options.device, most=options.clips)
        first_clips(clips)
        log.info("%d clips after %.0f s", len(clips), time.monotonic() - began)
        waited = (time.monotonic() - began) / 60
        return train_backbone(
            options.runs,
            clips,
            replace(
                training,
                minutes=max(0.0, training.minutes - waited),
                pieces=True,
                save_seconds=60.0,
            ),
            device=options.device,
            start_from=options.out,
            measure=_held_back(options, vae, world),
            measure_every=options.measure_every,
        )


def _held_back(
    options: argparse.Namespace, vae: AutoencoderKLCogVideoX, world: WorldConfig
) -> HeldBack | None:
    """Of the easy world at every level, so that figures of one run are of the same scenes."""
    if not options.measure_every:
        return None
    from motion_app.pocket.measure import HeldBack

    return HeldBack(
        options.runs / "held-back",
        copy.deepcopy(vae).cpu(),
        replace(world, level=0),
        without_picture=options.empty_images > 0,
    )


def _backbone_process(
    options: argparse.Namespace,
    vae_folder: Path,
    world: WorldConfig,
    training: BackboneTraining,
    seat: Seat,
) -> tuple[PocketNetwork, TrainingRecord]:
    """One process on a CPU: its share of the encoding, which is all done before any is learned
    from, then its share of every batch."""
    seat.take(options.threads)
    vae = AutoencoderKLCogVideoX.from_pretrained(vae_folder, torch_dtype=torch.float32)
    folders = []
    for level in range(world.level + 1):  # the wide world is learned beside the easy one
        folders.append(options.runs / "latents" / f"level{level}")
        encode_clips(
            folders[-1],
            vae.to(options.device).eval(),
            count=options.clips,
            seed=1 + level,
            config=replace(world, level=level),
            device=options.device,
            shard=(seat.rank, seat.count),
        )
    with seat.together():
        return train_backbone(
            options.runs,
            read_clips(*folders),
            training,
            device=options.device,
            process=seat.rank,
            processes=seat.count,
            start_from=options.out,
            measure=None if seat.rank else _held_back(options, vae, world),
            measure_every=options.measure_every,
        )


def main(argv: Sequence[str] | None = None) -> None:
    """``python -m motion_app.pocket.train``, for machines with nothing but torch installed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    train(parser.parse_args(argv))


if __name__ == "__main__":
    main()
