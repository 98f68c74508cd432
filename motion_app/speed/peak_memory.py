"""The most memory that a piece of work took: asked of a GPU, counted on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextmanager
def peak_bytes(device: torch.device) -> Iterator[list[int]]:
    """A list that on leaving holds the most bytes that ``device`` held at once, above what it held
    on entering."""
    found: list[int] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.append(torch.cuda.max_memory_allocated(device) - before)
        return
    with PeakMemory() as counter:
        yield found
    found.append(counter.peak)


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of every storage that is made while the mode is on: ``peak`` is the most of
    them that lived at once. What a kernel takes for itself and gives back is not seen, nor what
    lived before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._living: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        given = tree_leaves((args, kwargs or {}))
        old = {storage_key(t) for t in given if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if not isinstance(tensor, torch.Tensor):
                continue
            key = storage_key(tensor)
            if key in self._living or key in old:
                continue
            storage = tensor.untyped_storage()
            self._living[key] = (StorageWeakRef(storage), storage.nbytes())
        self._living = {key: entry for key, entry in self._living.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._living.values()))
        return result


def storage_key(tensor: torch.Tensor) -> int:
    """What two tensors on the same storage have in common while it lives."""
    return tensor.untyped_storage()._cdata
