"""Which kernel computes a group's attention: PyTorch's own choice, or one that diffusers offers.

Every group is plain unmasked attention, so all of them fit: flash, cuDNN, Sage.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from motion_app.errors import CheckpointError

log = logging.getLogger(__name__)

# query, key, value (B, heads, S, d) and the scale of the logits (None: 1/√d) → (B, heads, S, d)
Kernel = Callable[..., Tensor]
# Exact ones, the fastest first. Sage computes in eight bits: on request alone.
PREFERRED = ("_flash_3", "flash", "_native_cudnn")
TORCH_OWN = "torch"


def torch_kernel(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None
) -> Tensor:
    """PyTorch's scaled_dot_product_attention, which picks among its own kernels."""
    return F.scaled_dot_product_attention(query, key, value, scale=scale)


def attention_kernel(name: str = TORCH_OWN, *, device: torch.device | str = "cpu") -> Kernel:
    """The kernel ``name``: "torch", "auto" (the first of ``PREFERRED`` that runs on ``device``,
    else PyTorch's choice) or a backend of diffusers such as "flash", "sage", "_native_math". Tried
    once on a few numbers; CheckpointError where it cannot run here, with the names that can."""
    if name == TORCH_OWN:
        return torch_kernel
    device = torch.device(device)
    if name == "auto":
        working = (kernel for kernel in PREFERRED if runs(kernel, device))
        chosen = next(working, None) if device.type == "cuda" else None
        log.info("attention kernel on %s: %s", device, chosen or TORCH_OWN)
        return torch_kernel if chosen is None else diffusers_kernel(chosen)
    if not runs(name, device):
        raise CheckpointError(
            f'the attention kernel "{name}" does not run on {device}; choose one of '
            + ", ".join((TORCH_OWN, "auto", *kernels_of(device)))
        )
    return diffusers_kernel(name)


def kernels_of(device: torch.device | str) -> list[str]:
    """The backends of diffusers that run on ``device``; those that would be downloaded and those
    for packed sequences are left out."""
    from diffusers.models.attention_dispatch import AttentionBackendName

    named = (backend.value for backend in AttentionBackendName)
    plain = (name for name in named if "hub" not in name and "varlen" not in name)
    return [name for name in plain if runs(name, torch.device(device))]


def diffusers_kernel(name: str) -> Kernel:
    """One backend of diffusers, which lays tokens before heads."""
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

    backend = AttentionBackendName(name)

    def attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None) -> Tensor:
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        laid = dispatch_attention_fn(query, key, value, scale=scale, backend=backend)
        return laid.transpose(1, 2)  # (B, heads, S, d)

    return attend


def runs(name: str, device: torch.device) -> bool:
    """Whether the backend gives what plain attention gives, on 32 tokens of 2 heads."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(3, 1, 2, 32, 64, generator=generator)
    query, key, value = draws.to(device, dtype)
    try:
        found = diffusers_kernel(name)(query, key, value)
    except Exception as error:  # each backend has its own way to say that it is not there
        log.debug("attention kernel %s: %s", name, error)
        return False
    return bool(torch.allclose(found, torch_kernel(query, key, value), atol=0.1, rtol=0.1))
