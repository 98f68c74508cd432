"""The optimiser all pocket networks share: Muon for weight matrices, AdamW for everything else."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def keep_freed_memory() -> None:
    """Tells glibc to keep large freed blocks: convolution backward on the CPU runs a fifth
    faster."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # not glibc: nothing to tune
        return
    m_trim_threshold, m_mmap_threshold = -1, -3
    libc.mallopt(m_mmap_threshold, 1 << 30)
    libc.mallopt(m_trim_threshold, 2**31 - 1)


class MuonAdam:
    """``torch.optim.Muon`` on ``matrices`` (any weight of two or more dimensions, seen as
    [out, rest]), ``AdamW`` on ``others``; one learning-rate factor scales both.

    Muon's update is RMS-matched to AdamW's (Liu et al. 2025, arXiv 2502.16982).
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        muon_lr: float,
        adam_lr: float,
        weight_decay: float = 0.01,
    ) -> None:
        self.matrices = list(matrices)
        # Muon takes 2-D parameters only: views that share the storage of the convolution weights.
        self.views = [nn.Parameter(p.data.view(p.shape[0], -1)) for p in self.matrices]
        self.muon = torch.optim.Muon(
            self.views, lr=muon_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self.adam = torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
        self.rates: tuple[float, ...] = (muon_lr, adam_lr)

    def step(self, factor: float) -> None:
        """One update at ``factor`` times the learning rates; clears the gradients."""
        for optimiser, rate in zip((self.muon, self.adam), self.rates, strict=True):
            optimiser.param_groups[0]["lr"] = float(rate * factor)
        for view, parameter in zip(self.views, self.matrices, strict=True):
            view.grad = None if parameter.grad is None else parameter.grad.view_as(view)
        self.muon.step()
        self.adam.step()
        for parameter in self.matrices:
            parameter.grad = None
        self.adam.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


def split_parameters(model: nn.Module, *, smallest: int = 4) -> tuple[list, list]:
    """(matrices, others): weights with at least ``smallest`` rows and columns are matrices."""
    matrices, others = [], []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        wide = parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= smallest
        (matrices if wide else others).append(parameter)
    return matrices, others
