"""Which kernel computes plain attention: PyTorch's own choice, or one that diffusers offers.

All calls are unmasked, so every kernel fits: flash, cuDNN, Sage. Parts of one softmax that were
computed apart are merged by their log-sum-exp, which the fast kernels know and return.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from motion_app.errors import CheckpointError

log = logging.getLogger(__name__)
aten: Any = torch.ops.aten
# Exact ones, the fastest first. Sage computes in eight bits: on request alone.
PREFERRED = ("_flash_3", "flash", "_native_cudnn")
TORCH_OWN = "torch"


class Kernel(Protocol):
    """Plain attention of query (B, heads, rows, d) over key and value (B, heads, keys, d);
    ``scale`` of the logits, 1/√d where None."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None
    ) -> Tensor:
        """(B, heads, rows, d)."""

    def with_sums(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, heads, rows, d), and the log-sum-exp of the logits, (B, heads, rows), float32 or
        wider. No gradient flows through either."""


class TorchKernel:
    """PyTorch's scaled_dot_product_attention, which picks among its own kernels."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None
    ) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, scale=scale)

    def with_sums(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None
    ) -> tuple[Tensor, Tensor]:
        if query.device.type == "cpu":
            return aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scale)
        if query.device.type != "cuda":
            return explicit_with_sums(query, key, value, scale=scale)
        if query.dtype not in (torch.float16, torch.bfloat16):
            found = aten._scaled_dot_product_efficient_attention(
                query, key, value, None, True, scale=scale
            )
        elif cudnn_takes(query, key, value):
            found = aten._scaled_dot_product_cudnn_attention(
                query, key, value, None, True, scale=scale
            )
        else:
            found = aten._scaled_dot_product_flash_attention(query, key, value, scale=scale)
        rows = query.shape[2]
        return found[0], found[1].reshape(*query.shape[:2], -1)[..., :rows]


def cudnn_takes(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether cuDNN's kernel is there, allowed, and fits these tensors on a GPU."""
    cuda = torch.backends.cuda
    asked = cuda.SDPAParams(query, key, value, None, 0.0, False, False)
    return cuda.cudnn_sdp_enabled() and cuda.can_use_cudnn_attention(asked)


def explicit_with_sums(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """``Kernel.with_sums`` by its definition, for devices whose kernels keep their sums."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (query.float() * scale) @ key.float().transpose(-1, -2)  # (B, heads, rows, keys)
    total = logits.logsumexp(-1)
    return ((logits - total[..., None]).exp() @ value.float()).to(value), total


TORCH_KERNEL = TorchKernel()


class DiffusersKernel:
    """One backend of diffusers, which lays tokens before heads. One that keeps its log-sum-exp to
    itself leaves ``with_sums`` to PyTorch."""

    def __init__(self, name: str) -> None:
        from diffusers.models.attention_dispatch import AttentionBackendName

        self.backend = AttentionBackendName(name)
        self.tells_sums = True

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None
    ) -> Tensor:
        return self._dispatched(query, key, value, scale).transpose(1, 2)  # (B, heads, rows, d)

    def with_sums(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None
    ) -> tuple[Tensor, Tensor]:
        if not self.tells_sums:
            return TORCH_KERNEL.with_sums(query, key, value, scale=scale)
        laid, sums = self._dispatched(query, key, value, scale, return_lse=True)
        heads_first = sums.shape[1] == query.shape[1]  # backends differ
        return laid.transpose(1, 2), sums if heads_first else sums.transpose(1, 2)

    def _dispatched(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, **wanted: bool
    ) -> Any:
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        return dispatch_attention_fn(
            query, key, value, scale=scale, backend=self.backend, attention_kwargs=wanted
        )


def attention_kernel(name: str = TORCH_OWN, *, device: torch.device | str = "cpu") -> Kernel:
    """The kernel ``name``: "torch", "auto" (the first of ``PREFERRED`` that runs on ``device``,
    else PyTorch's choice) or a backend of diffusers such as "flash", "sage", "_native_math". Tried
    once on a few numbers; CheckpointError where it cannot run here, with the names that can."""
    if name == TORCH_OWN:
        return TORCH_KERNEL
    device = torch.device(device)
    if name == "auto":
        working = (kernel for kernel in PREFERRED if runs(kernel, device))
        chosen = next(working, None) if device.type == "cuda" else None
        log.info("attention kernel on %s: %s", device, chosen or TORCH_OWN)
        return TORCH_KERNEL if chosen is None else diffusers_kernel(chosen, device)
    if not runs(name, device):
        raise CheckpointError(
            f'the attention kernel "{name}" does not run on {device}; choose one of '
            + ", ".join((TORCH_OWN, "auto", *kernels_of(device)))
        )
    return diffusers_kernel(name, device)


def kernels_of(device: torch.device | str) -> list[str]:
    """The backends of diffusers that run on ``device``; those that would be downloaded and those
    for packed sequences are left out."""
    from diffusers.models.attention_dispatch import AttentionBackendName

    named = (backend.value for backend in AttentionBackendName)
    plain = (name for name in named if "hub" not in name and "varlen" not in name)
    return [name for name in plain if runs(name, torch.device(device))]


def diffusers_kernel(name: str, device: torch.device) -> DiffusersKernel:
    """The backend ``name``, tried for its log-sum-exp on a few numbers."""
    kernel = DiffusersKernel(name)
    try:
        sums = kernel.with_sums(*few_tokens(device))[1]
        expected = TORCH_KERNEL.with_sums(*few_tokens(device))[1]
        told = sums.shape == expected.shape and torch.allclose(sums.float(), expected, atol=0.1)
    except Exception as error:  # each backend has its own way to say that it does not
        log.debug("attention kernel %s tells no sums: %s", name, error)
        told = False
    kernel.tells_sums = told
    return kernel


def runs(name: str, device: torch.device) -> bool:
    """Whether the backend gives what plain attention gives, on 32 tokens of 2 heads."""
    tokens = few_tokens(device)
    try:
        found = DiffusersKernel(name)(*tokens)
    except Exception as error:  # each backend has its own way to say that it is not there
        log.debug("attention kernel %s: %s", name, error)
        return False
    return bool(torch.allclose(found, TORCH_KERNEL(*tokens), atol=0.1, rtol=0.1))


def few_tokens(device: torch.device) -> Tensor:
    """Query, key and value (1, 2, 32, 64) to try a kernel on, in the type that it is used in."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 1, 2, 32, 64, generator=generator).to(device, dtype)
