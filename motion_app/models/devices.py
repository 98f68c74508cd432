"""What computes: which device a name means on this machine, refused in the same words everywhere,
how many threads of the CPU, and that one model is read at a time."""

from __future__ import annotations

import threading

import torch

from motion_app.errors import CheckpointError

# transformers and diffusers change torch for the whole process while they read a model: of two that
# were read at once one would end up without weights.
READING = threading.RLock()


def device_named(name: str | torch.device | None) -> torch.device:
    """The device ``name`` ("cpu", "cuda", "cuda:1" …); None takes the GPU where there is one, else
    the CPU. CheckpointError for a word that names none, and for a device this machine lacks."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CheckpointError(f'unknown device "{name}"; choose cpu, cuda, cuda:1 …') from error
    if device.type == "cuda":
        _check_gpu(device)
    elif device.type != "cpu":
        _check_other(device)
    return device


def use_threads(count: int) -> None:
    """So many threads of the CPU for whatever PyTorch computes in this process."""
    torch.set_num_threads(count)


def _check_gpu(device: torch.device) -> None:
    if not torch.cuda.is_available():
        raise CheckpointError(
            f"the device {device} was asked for, but PyTorch finds no GPU here; use cpu"
        )
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise CheckpointError(
            f"the device {device} was asked for, but PyTorch finds {count} here, the last is "
            f"cuda:{count - 1}; choose another"
        )


def _check_other(device: torch.device) -> None:
    try:
        torch.empty(1, device=device)
    except Exception as error:  # each backend has its own way to say that it is not there
        raise CheckpointError(
            f"the device {device} was asked for, but PyTorch cannot use it here; use cpu"
        ) from error
