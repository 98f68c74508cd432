"""``batch`` on the command line: a manifest of jobs, many workers, one or many machines."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from motion_app.cli.parser import (
    add_command,
    add_model,
)
from motion_app.errors import RequestError
from motion_app.jobs.batch import News, Patience, Pool, run_batch
from motion_app.jobs.content_keys import Ingredients
from motion_app.jobs.kinds import WorkerConfig, Workshop
from motion_app.jobs.manifest import Shard, read_manifest, shard_of
from motion_app.jobs.models import Models
from motion_app.jobs.results import Ledger
from motion_app.jobs.workers import Workers, attempt
from motion_app.media.results import make_folder
from motion_app.settings import Settings


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``batch``."""
    parser.add_argument("manifest", type=Path, metavar="MANIFEST.jsonl", help="one job a line")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="processes; default: one for each GPU, one where there is none",
    )
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="workers on a Ray cluster; auto: the one of this machine"
    )
    parser.add_argument(
        "--shard",
        metavar="K/N",
        help="only part K, from 0, of N; env: what SLURM, accelerate or SkyPilot say",
    )
    parser.add_argument("--retries", type=_count, default=3, help="of an item, on machine trouble")
    parser.add_argument("--deaths", type=_count, default=3, help="of its workers, to give one up")
    parser.add_argument("--check", action="store_true", help="check the manifest and run nothing")


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f'"{text}" is no whole number from 1 to 4096')
    return int(text)


def run(options: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """Check every line, then make what is missing; ``exit_code`` is 1 where an item was given up,
    130 or 143 where a signal stopped it."""
    given = {"model": options.model, "device": options.device}
    settings = settings.model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )
    if options.ray is None and not options.check:  # of a cluster each worker looks for itself
        Models(settings).check()
    out = options.out.resolve()
    hire = _hiring(options, settings, out)
    shard = Shard() if options.shard is None else shard_of(options.shard, os.environ)
    ingredients = Ingredients(settings, remembered=out / "digests.json")
    items = shard.take(read_manifest(options.manifest, ingredients))
    ledger = Ledger(out)
    make_folder(out)
    ingredients.save()
    if options.check:
        made = sum(ledger.record(item) is not None for item in items)
        return {"items": len(items), "kept": made, "left": len(items) - made}
    outcome = run_batch(
        items,
        ledger,
        hire,
        patience=Patience(retries=options.retries, deaths=options.deaths),
        on_news=_show,
    )
    return outcome.to_json(ledger)


def _hiring(options: argparse.Namespace, settings: Settings, out: Path) -> Callable[[int], Pool]:
    """What starts the workers that were asked for. The study's database is no worker's affair."""
    settings = settings.model_copy(update={"study_database": None})
    if options.ray is not None:
        try:
            from motion_app.jobs.ray_workers import RayWorkers
        except ImportError as error:
            raise RequestError(
                "--ray needs Ray, which is not installed; install this package's extra: ray"
            ) from error
        config, do = WorkerConfig(settings, settings.device), partial(attempt, out)
        return lambda missing: RayWorkers(
            options.ray, config, Workshop, do, workers=options.workers, most=missing
        )
    return partial(_local_workers, out, settings, options.workers)


def _local_workers(out: Path, settings: Settings, workers: int | None, missing: int) -> Workers:
    """No more processes than items are missing."""
    devices = [settings.device] if settings.device else _devices()
    count = min(workers or len(devices), missing)
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, (own or 1) // count)
    configs = [WorkerConfig(settings, devices[k % len(devices)], threads) for k in range(count)]
    return Workers(configs, Workshop, partial(attempt, out))


def _devices() -> list[str]:
    """The GPUs; where a launcher started one process for each of them, this one's alone."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        return ["cpu"]
    local = os.environ.get("LOCAL_RANK", "")
    if local.isdigit():
        return [f"cuda:{int(local) % count}"]
    return [f"cuda:{k}" for k in range(count)]


def _show(news: News) -> None:
    """One line on standard error for everything that happens."""
    logging.getLogger(__name__).info(news.text)
    sys.stderr.write(f"{news.done}/{news.total}  {news.text}\n")
    sys.stderr.flush()


def add_commands(actions: Any) -> None:
    """``batch`` with its options."""
    parser = add_command(actions, "batch", run, "make all that a manifest asks for")
    _add_arguments(parser)
    add_model(parser)
