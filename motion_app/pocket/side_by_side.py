"""Processes of one machine that train one network: on a CPU several of one thread each are faster
than one of several threads, above all where something else runs too."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Outcome = TypeVar("Outcome")
PATIENCE = 60.0  # s for the others to end


@dataclass(frozen=True)
class Seat:
    """Process ``rank`` of ``count``; they meet at ``port`` of this machine."""

    rank: int = 0
    count: int = 1
    port: int = 0

    def take(self, threads: int) -> None:
        """Its part of so many ``threads`` in all; only the first one tells what happens, and none
        outlives it."""
        if self.rank:
            logging.basicConfig(level=logging.WARNING)
            end_with_parent()
        torch.set_num_threads(max(1, threads // self.count))

    @contextmanager
    def together(self) -> Iterator[None]:
        """One group while inside, once all have come this far."""
        if self.count == 1:
            yield
            return
        address = f"tcp://127.0.0.1:{self.port}"
        dist.init_process_group("gloo", init_method=address, rank=self.rank, world_size=self.count)
        dist.barrier()
        try:
            yield
        finally:
            dist.destroy_process_group()


def side_by_side(work: Callable[..., Outcome], *arguments: Any, count: int) -> Outcome:
    """What ``work(*arguments, seat)`` gives in the first of ``count`` processes, which is this
    one."""
    port = _free_port() if count > 1 else 0
    spawned = mp.get_context("spawn")
    others = [
        spawned.Process(target=work, args=(*arguments, Seat(rank, count, port)))
        for rank in range(1, count)
    ]
    for other in others:
        other.start()
    try:
        return work(*arguments, Seat(0, count, port))
    finally:
        for other in others:
            other.join(timeout=PATIENCE)
            other.terminate()


def end_with_parent() -> None:
    """Let this process end when the one that began it does, also where that was killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="end-with-parent", daemon=True).start()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
