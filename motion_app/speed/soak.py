"""``make soak``: many videos for many clients from one fresh server, and many visitors who leave,
and what it holds meanwhile.

The server is ``python app.py`` with the pocket checkpoint and a folder of its own; the clients are
``gradio_client``, as programs use it. Kept to at the end: no failure, resident memory after the
first videos and after all within a tenth, temporary files under their cap.
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from motion_app.errors import MotionAppError
from motion_app.library.library import Library
from motion_app.media.files import encode_data_uri, read_image
from motion_app.settings import ROOT, Limits
from motion_app.speed.fresh_server import FreshServer
from motion_app.speed.strangers import LEAST, entertain

DRAFT_STEPS = 6  # half the pocket's own, as the page's draft
WARM = 10  # videos after which memory counts: caches and pools are filled by then
MOST_GROWTH = 0.10
MOTIONS = ("jump", "rise")


@dataclass
class Measured:
    """``seconds`` of each video, ``memory`` of the server and its children in bytes and
    ``temporary`` files in bytes after each; ``failures`` in words."""

    seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    temporary: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SoakReport:
    """Bytes as MB; ``broken`` names the laws that did not hold."""

    videos: int
    clients: int
    seconds: float
    median_seconds: float
    slowest_seconds: float
    memory_warm_mb: float
    memory_end_mb: float
    memory_growth: float
    temporary_peak_mb: float
    temporary_cap_mb: float
    failures: list[str]
    broken: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Soak; prints a table, then the report as one line of JSON. 1 where a law was broken."""
    parser = argparse.ArgumentParser(
        prog="motion_app.speed.soak", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--videos", type=int, default=60)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--strangers", type=int, default=300, help="visitors; 0: none")
    options = parser.parse_args(argv)
    if (options.videos and options.videos <= WARM) or options.clients < 1:
        parser.error(f"--videos must be 0 or more than {WARM} and --clients at least 1")
    if options.strangers and options.strangers < LEAST:
        parser.error(f"--strangers must be 0 or at least {LEAST}")
    parts = [
        *(
            [partial(soak, videos=options.videos, clients=options.clients)]
            if options.videos
            else []
        ),
        *([partial(entertain, options.strangers)] if options.strangers else []),
    ]
    broken = False
    for part in parts:
        try:
            report = part()
        except MotionAppError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
        for name, value in asdict(report).items():
            sys.stdout.write(f"{name:>20}  {value}\n")
        sys.stdout.write(json.dumps(asdict(report)) + "\n")
        broken = broken or bool(report.broken)
    return 1 if broken else 0


def soak(*, videos: int, clients: int) -> SoakReport:
    """``videos`` drafts of two objects, ``clients`` at a time. MotionAppError where the server does
    not start."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        server = FreshServer(Path(folder))
        try:
            server.start()
            began = time.monotonic()
            measured = _drive(server, videos, clients)
            return _report(measured, time.monotonic() - began, clients)
        finally:
            server.stop()


def _drive(server: FreshServer, videos: int, clients: int) -> Measured:
    """Every client takes the next video as soon as its last one is there."""
    seeds: queue.SimpleQueue[int] = queue.SimpleQueue()
    for seed in range(videos):
        seeds.put(seed)
    measured, lock, request = Measured(), threading.Lock(), draft_request()
    threads = [
        threading.Thread(target=_client, args=(server, seeds, request, measured, lock))
        for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return measured


def _client(
    server: FreshServer,
    seeds: queue.SimpleQueue[int],
    request: dict[str, Any],
    measured: Measured,
    lock: threading.Lock,
) -> None:
    from gradio_client import Client

    downloads = tempfile.mkdtemp(dir=server.folder)
    client = Client(server.url, verbose=False, download_files=downloads)
    while True:
        try:
            seed = seeds.get_nowait()
        except queue.Empty:
            return
        began, failure = time.monotonic(), ""
        try:
            made = client.predict({**request, "seed": seed}, False, api_name="/generate")
            if not Path(made["video"]).stat().st_size or made["seed"] != seed:
                failure = f"seed {seed}: no video, or another seed's"
        except Exception as error:  # whatever it is, it is a failure of the server's
            failure = f"seed {seed}: {type(error).__name__}: {error}"
        with lock:
            measured.seconds.append(time.monotonic() - began)
            measured.memory.append(server.memory())
            measured.temporary.append(server.temporary())
            if failure:
                measured.failures.append(failure)


def draft_request() -> dict[str, Any]:
    """The first example with its two objects as boxes, and a motion of the pocket's for each."""
    notes = sorted((ROOT / "assets" / "examples").glob("*.json"))[0]
    picture = read_image(notes.with_suffix(".png"))
    library = Library([ROOT / "checkpoints" / "pocket" / "motions"])
    objects = []
    for item, name in zip(json.loads(notes.read_text())["objects"], MOTIONS, strict=False):
        mask = np.zeros(picture.shape[:2], bool)
        x0, y0, x1, y1 = (round(side) for side in item["box"])
        mask[y0:y1, x0:x1] = True
        phrase = library.find(name).phrase
        objects.append(
            {
                "mask": encode_data_uri(mask),
                "sentence": f"A {item['noun']} {phrase}.",
                "phrase": phrase,
                "motion": name,
            }
        )
    return {"image": encode_data_uri(picture), "objects": objects, "steps": DRAFT_STEPS}


def _report(measured: Measured, seconds: float, clients: int) -> SoakReport:
    warm, end = measured.memory[WARM - 1], measured.memory[-1]
    growth = end / warm - 1
    cap, peak = Limits().upload_gigabytes * 2**30, max(measured.temporary)
    laws = {
        "no video fails": not measured.failures,
        f"memory stays within {MOST_GROWTH:.0%}": abs(growth) <= MOST_GROWTH,
        "temporary files stay under their cap": peak <= cap,
    }
    return SoakReport(
        videos=len(measured.seconds),
        clients=clients,
        seconds=round(seconds, 1),
        median_seconds=round(statistics.median(measured.seconds), 2),
        slowest_seconds=round(max(measured.seconds), 2),
        memory_warm_mb=round(warm / 2**20, 1),
        memory_end_mb=round(end / 2**20, 1),
        memory_growth=round(growth, 4),
        temporary_peak_mb=round(peak / 2**20, 2),
        temporary_cap_mb=round(cap / 2**20, 1),
        failures=measured.failures[:10],
        broken=[law for law, held in laws.items() if not held],
    )


if __name__ == "__main__":
    sys.exit(main())
