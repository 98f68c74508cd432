"""``speed``, ``bench`` and ``memory``: how fast and how large, measured or estimated here."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motion_app.cli.parser import (
    Result,
    add_command,
    add_group,
    add_model,
    make_bare,
    models_for,
    silence_loaders,
)
from motion_app.speed.gpu import PARTS

if TYPE_CHECKING:
    from motion_app.settings import Settings


def gpu(options: argparse.Namespace) -> Result:
    """Everything about speed that needs a GPU, in one go of so many minutes."""
    from motion_app.speed.gpu import GpuOptions, measure_gpu

    report = measure_gpu(
        options.out,
        minutes=options.minutes,
        options=GpuOptions(options.shape, options.device, options.dtype, tuple(options.parts)),
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(report.tables())
    return report.to_json()


def bench(options: argparse.Namespace, settings: Settings) -> Result:
    """Time one part, or all of them."""
    from motion_app.speed.parts import run_bench

    model = options.model or settings.model
    models = models_for(options, settings.model_copy(update={"model": model}))
    full_scale = {
        "layers": options.layers,
        "device": models.device,
        "dtype": options.dtype,
        "repeats": options.repeats,
        "out": options.out,
    }
    if options.motions:
        full_scale["motions"] = options.motions
    return run_bench(
        options.what,
        models=models,
        show=not options.json,
        shape=options.shape,
        **full_scale,
    )


def memory(options: argparse.Namespace, settings: Settings) -> Result:
    """What a checkpoint would need under each memory profile, and the one that is chosen: without
    reading its weights. ``free`` GB of a GPU make the choice as it would be there."""
    silence_loaders()

    from motion_app.engine.footprint import GIGABYTE, footprint
    from motion_app.engine.memory import PLACEMENTS, DeviceProfile, look_ahead
    from motion_app.jobs.models import Models
    from motion_app.models.checkpoint import Checkpoint

    checkpoint = Checkpoint.find(options.model or settings.model, on_bytes=_show_bytes)
    needs = footprint(checkpoint, item=2)
    models = Models(settings, device=options.device)
    acceleration = models.acceleration
    keep = {"keep_text_encoder": acceleration.keep_text_encoder}
    table = {
        name: {
            "device": round(placement.device_bytes(needs, **keep) / GIGABYTE, 2),
            "main_memory": round(placement.host_bytes(needs, **keep) / GIGABYTE, 2),
        }
        for name, placement in PLACEMENTS.items()
    }
    _, here = look_ahead(checkpoint, device=models.device, placement=acceleration.profile, **keep)
    result = {
        "model": str(checkpoint.folder),
        "gigabytes": table,
        "measured": False,
        "here": here.to_json(),
    }
    chosen = here.profile
    if options.free is not None:
        somewhere = DeviceProfile.choose(
            lambda item: needs,
            device="meta",
            placement=acceleration.profile,
            free=round(options.free * GIGABYTE),
            **keep,
        )
        chosen = somewhere.placement.name
    print(f"{'profile':<22}{'GPU':>8}{'main memory':>14}   GB in bfloat16, estimated")
    for name, row in table.items():
        mark = "  ← chosen" if name == chosen else ""
        print(f"{name:<22}{row['device']:>8.2f}{row['main_memory']:>14.2f}{mark}")
    print(f"here: {here}")
    return {**result, "chosen": chosen}


def _show_bytes(done: int, total: int) -> None:
    """A download's progress on standard error."""
    print(f"\r{done / 1e9:.2f} of {total / 1e9:.2f} GB", end="", file=sys.stderr)


def add_commands(actions: Any) -> None:
    """``speed``, ``bench`` and ``memory`` with their options."""
    speed = add_group(actions, "speed", "how fast a GPU is, in one go")
    parser = add_command(speed, "gpu", gpu, "all figures of a GPU, with random weights")
    parser.add_argument("--minutes", type=float, default=8.0, help="at most; what is left is named")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the report")
    parser.add_argument("--shape", default="5b", help="5b, or tiny for a dry run")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: a GPU where there is one)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: as it computes")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    make_bare(parser)
    parser = add_command(actions, "bench", bench, "measure speed on this machine")
    parser.add_argument(
        "what", nargs="?", choices=("attention", "generate", "train", "startup", "caches")
    )
    parser.add_argument("--json", action="store_true", help="only the JSON, no table")
    parser.add_argument(
        "--shape", help="generate: layers of this size on random weights: 5b, 1.5-5b, tiny"
    )
    parser.add_argument("--layers", type=int, default=1, help="how many layers of that size")
    parser.add_argument(
        "--motions",
        type=int,
        nargs="+",
        metavar="N",
        help="only these: 1 2 3 5 (2 with a dense mask)",
    )
    parser.add_argument("--dtype", help="float32 or bfloat16; default as the device computes")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each case")
    parser.add_argument(
        "--out",
        type=Path,
        help="a JSON file of the runs so far, which the same command goes on with",
    )
    add_model(parser)
    parser = add_command(actions, "memory", memory, "what a model needs under each memory profile")
    parser.add_argument("--free", type=float, metavar="GB", help="choose for a GPU with this free")
    add_model(parser)
