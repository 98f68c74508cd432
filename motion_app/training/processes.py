"""Several processes that learn one motion together: each takes its share of every batch.

Started by ``accelerate launch``. The effective batch is the batch of one process times their number
and is said so; the learning rate stays what it was asked to be. All draws are made for the whole
batch in every process, so that n processes learn what one would from a batch n times as large.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = timedelta(hours=2)  # others wait while the first process makes a validation video


@dataclass(frozen=True)
class Share:
    """Process ``rank`` of ``count``, computing on ``device``."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """This process's rows of ``count`` times ``batch``."""
        return slice(self.rank * batch, (self.rank + 1) * batch)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Every gradient becomes its mean over the processes."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = (flat / self.count).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def mean(self, value: float) -> float:
        """The mean of a number over the processes; not finite where one of them is not."""
        if self.count == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total) / self.count

    def decided(self, flag: bool) -> bool:
        """What the first process decided."""
        if self.count == 1:
            return flag
        told: Tensor = torch.tensor([int(flag)], device=self.device)
        dist.broadcast(told, src=0)
        return bool(told.item())


ALONE = Share()


def join_processes() -> Share:
    """This process's share, from what ``accelerate launch`` put into the environment; ``ALONE``
    where it did not start this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return ALONE
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    return Share(state.process_index, state.num_processes, str(state.device))
