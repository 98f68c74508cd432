"""Where the weights live and in which precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

from motion_app.errors import CheckpointError

# The rest is for activations, the VAE's above all.
RESIDENT_SHARE = 0.7


@dataclass(frozen=True)
class DeviceProfile:
    """``device`` computes in ``dtype``; with ``offload`` only the model at work is on the device,
    the others wait in main memory (accelerate's model offload), and the VAE decodes in tiles."""

    device: torch.device
    dtype: torch.dtype
    offload: bool = False

    @classmethod
    def choose(
        cls,
        weight_bytes: int,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> DeviceProfile:
        """The profile for a checkpoint of ``weight_bytes`` on disk.

        ``device`` None takes the GPU where there is one. ``dtype`` None takes float32 on the CPU,
        whose half precision is slow, and bfloat16 elsewhere (CogVideoX-5B was trained in it).
        Models that would fill more than 70% of the GPU are offloaded. Raises CheckpointError for a
        device this machine lacks.
        """
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda" and not torch.cuda.is_available():
            raise CheckpointError(
                "the device cuda was asked for, but PyTorch finds no GPU here; use cpu"
            )
        dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
        offload = False
        if device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            offload = weight_bytes > RESIDENT_SHARE * total
        return cls(device, dtype, offload)

    def place(self, pipe: DiffusionPipeline) -> None:
        """Bring the pipeline's models where this profile wants them."""
        if self.offload:
            pipe.enable_model_cpu_offload(device=self.device)
            pipe.vae.enable_tiling()
        else:
            pipe.to(self.device)
