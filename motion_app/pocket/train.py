"""One command trains everything the pocket ships: VAE, backbone, SAM-2 and motions.

Each stage runs for its own minutes of wall time on a CPU or a GPU, saves as it goes under
``--runs``, and continues from there when called again. What is finished is written to ``--out``, an
ordinary diffusers folder.
"""

from __future__ import annotations

import argparse
import logging
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from diffusers import AutoencoderKLCogVideoX

from motion_app.errors import RequestError
from motion_app.jobs.models import Models
from motion_app.models.devices import device_named
from motion_app.pocket.backbone import BackboneTraining, TrainingRecord, train_backbone
from motion_app.pocket.measure import HeldBack
from motion_app.pocket.network import PocketNetwork, save_checkpoint
from motion_app.pocket.sam2 import Sam2Training, train_sam2
from motion_app.pocket.sam2_network import export_sam2
from motion_app.pocket.shipped import train_shipped_motions
from motion_app.pocket.vae import VaeTraining, encode_clips, read_clips, train_vae
from motion_app.settings import load_settings
from motion_app.training.inputs import METHODS
from motion_app.world.creatures import SHAPE_MOTIONS
from motion_app.world.world import SHIPPED_MOTIONS, WorldConfig

log = logging.getLogger(__name__)
STAGES = ("vae", "backbone", "sam2", "motions")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m motion_app pocket train``."""
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--runs", type=Path, default=Path("runs/pocket"), help="working folder")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/pocket"))
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: a GPU where there is one)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads in all")
    parser.add_argument(
        "--processes", type=int, default=1, help="for the backbone; on a CPU, one for each core"
    )
    parser.add_argument("--vae-minutes", type=float, default=20.0)
    parser.add_argument(
        "--backbone-minutes", type=float, default=480.0, help="at most, in this call"
    )
    parser.add_argument(
        "--samples", type=int, default=300_000, help="clips the backbone sees, earlier calls' too"
    )
    parser.add_argument(
        "--measure-every", type=float, default=30.0, help="minutes between held-back figures"
    )
    parser.add_argument("--sam2-minutes", type=float, default=15.0)
    parser.add_argument("--clips", type=int, default=20_000, help="clips the backbone learns from")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--head-dim", type=int, default=64, help="width is 4 times this")
    parser.add_argument("--level", type=int, choices=(0, 1), default=0, help="0: the easy world")
    drawn = (*SHIPPED_MOTIONS, *SHAPE_MOTIONS)
    parser.add_argument("--motions", nargs="+", choices=drawn, default=SHIPPED_MOTIONS)
    parser.add_argument(
        "--method", choices=tuple(METHODS), default="fleximmt", help="how motions are learned"
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
    models = Models(load_settings(), device=options.device, threads=options.threads)
    models.check()
    options.device = str(device_named(models.device))
    torch.set_num_threads(options.threads)
    options.runs.mkdir(parents=True, exist_ok=True)
    world = WorldConfig(level=options.level)
    vae_folder = options.runs / "vae"
    if "vae" in options.stages:
        training = VaeTraining(minutes=options.vae_minutes)
        vae = train_vae(options.runs, training, device=options.device, config=world)
        vae.save_pretrained(vae_folder)
    if "backbone" in options.stages:
        _train_backbone(options, vae_folder, world)
    if "sam2" in options.stages:
        training = Sam2Training(minutes=options.sam2_minutes)
        export_sam2(train_sam2(options.runs, training, device=options.device), options.out / "sam2")
    if "motions" in options.stages:
        train_shipped_motions(
            options.out,
            options.motions,
            models=models,
            out=options.motions_out,
            method=options.method,
            given=_given(options),
        )


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
    )
    processes = options.processes
    port = _free_port() if processes > 1 else 0
    spawned = mp.get_context("spawn")
    others = [
        spawned.Process(
            target=_backbone_process, args=(options, vae_folder, world, training, rank, port)
        )
        for rank in range(1, processes)
    ]
    for other in others:
        other.start()
    try:
        backbone, record = _backbone_process(options, vae_folder, world, training, 0, port)
    finally:
        for other in others:
            other.join(timeout=60)
            other.terminate()
    vae = AutoencoderKLCogVideoX.from_pretrained(vae_folder, torch_dtype=torch.float32)
    save_checkpoint(options.out, vae, backbone.to("cpu"))
    record.write(options.out)


def _backbone_process(
    options: argparse.Namespace,
    vae_folder: Path,
    world: WorldConfig,
    training: BackboneTraining,
    rank: int,
    port: int,
) -> tuple[PocketNetwork, TrainingRecord]:
    """One process: its share of the encoding, then its share of every batch."""
    processes = options.processes
    if rank:
        logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(max(1, options.threads // processes))
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
            shard=(rank, processes),
        )
    if processes > 1:
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=processes)
        dist.barrier()  # until all have encoded their share
    try:
        return train_backbone(
            options.runs,
            read_clips(*folders),
            training,
            device=options.device,
            process=rank,
            processes=processes,
            start_from=options.out,
            measure=None if rank else HeldBack(options.runs / "held-back", vae.cpu(), world),
            measure_every=options.measure_every,
        )
    finally:
        if processes > 1:
            dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main(argv: Sequence[str] | None = None) -> None:
    """``python -m motion_app.pocket.train``, for machines with nothing but torch installed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    train(parser.parse_args(argv))


if __name__ == "__main__":
    main()
