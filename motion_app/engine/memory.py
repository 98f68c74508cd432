"""Where the weights live and in which precision: profiles, from the fastest to the smallest.

The profile is chosen by comparing what each needs (``footprint``) with what is free, and when the
device runs out of memory all the same the next smaller one takes over, by name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from diffusers import DiffusionPipeline
from torch import nn

from motion_app.engine.footprint import Footprint, tile_size
from motion_app.errors import CheckpointError
from motion_app.models.devices import device_named

log = logging.getLogger(__name__)

RESERVE = 0.10  # of the device: its context, the kernels' own buffers, fragmentation
FEWER_BITS = {"int8": 1.0, "fp8": 1.0}  # bytes of a weight
GROUP_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")
T = TypeVar("T")


@dataclass(frozen=True)
class Placement:
    """``where``: "resident", everything on the device; "model", only the model at work
    (accelerate's model offload); "group", only a few of its blocks, the next ones on their way
    (diffusers' group offload). ``weights``: "int8" (torchao) or "fp8" (stored in eight bits,
    computed in the model's own type) for the transformer. ``tiled``: the VAE works in tiles and
    slices."""

    name: str
    where: str
    weights: str | None = None
    tiled: bool = True

    def device_bytes(self, needs: Footprint, *, keep_text_encoder: bool = True) -> int:
        """The most the device holds at once. Where the text encoder is not kept, it is there, whole
        and beside what else stays, for a new prompt alone."""
        item = FEWER_BITS.get(self.weights or "", needs.item)
        decoding = needs.decoding_tiled if self.tiled else needs.decoding
        text, vae = needs.bytes_of("text_encoder"), needs.bytes_of("vae")
        transformer = needs.bytes_of("transformer", item)
        work = max(needs.denoising, decoding)
        if self.where == "resident":
            beside = text + work if keep_text_encoder else max(text, work)
            return vae + transformer + beside
        if self.where == "model":
            return max(text, transformer + needs.denoising, vae + decoding)
        streamed = needs.streamed_bytes("transformer", item)
        if keep_text_encoder:
            text = needs.streamed_bytes("text_encoder")
        return vae + max(text, streamed + needs.denoising, decoding)

    def host_bytes(self, needs: Footprint, *, keep_text_encoder: bool = True) -> int:
        """What waits in main memory; 0 where nothing does."""
        if self.where == "resident":
            return 0
        item = FEWER_BITS.get(self.weights or "", needs.item)
        text = needs.bytes_of("text_encoder") if keep_text_encoder else 0
        return needs.bytes_of("transformer", item) + text


# From the fastest to the smallest; all but the last give what the first gives.
LADDER = (
    Placement("resident", "resident", tiled=False),
    Placement("resident-tiled", "resident"),
    Placement("model-offload", "model"),
    Placement("group-offload", "group"),
    Placement("group-offload-fp8", "group", "fp8"),
)
# On request alone: fewer bits change the video a little.
OTHERS = (
    Placement("model-offload-int8", "model", "int8"),
    Placement("model-offload-fp8", "model", "fp8"),
    Placement("group-offload-int8", "group", "int8"),
)
PLACEMENTS = {placement.name: placement for placement in (*LADDER, *OTHERS)}


@dataclass(frozen=True)
class DeviceProfile:
    """``device`` computes in ``dtype``, with the weights placed by ``placement``. ``too_large``:
    the placement that was tried before, which ran out of memory; "" where none was."""

    device: torch.device
    dtype: torch.dtype
    placement: Placement = LADDER[0]
    too_large: str = ""

    @classmethod
    def choose(
        cls,
        needs: Callable[[int], Footprint],
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        placement: str | None = None,
        free: int | None = None,
        keep_text_encoder: bool = True,
    ) -> DeviceProfile:
        """The profile for a checkpoint whose footprint at so many bytes a number is ``needs``.

        ``device`` None takes the GPU where there is one. ``dtype`` None takes float32 on the CPU,
        whose half precision is slow, and bfloat16 elsewhere (CogVideoX-5B was trained in it).
        ``placement`` None takes the first of ``LADDER`` that fits into the ``free`` bytes of the
        device (None: asked of it), the last where none does. Raises CheckpointError for a device
        this machine lacks or an unknown placement.
        """
        device = device_named(device)
        dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
        if placement is not None:
            return cls(device, dtype, placement_named(placement))
        if free is None:
            free = free_bytes(device)
        if free is None:  # a CPU: the weights are in main memory wherever they are placed
            return cls(device, dtype)
        footprint = needs(dtype.itemsize)
        kept = {"keep_text_encoder": keep_text_encoder}
        room = (1 - RESERVE) * free
        fitting = (c for c in LADDER if c.device_bytes(footprint, **kept) <= room)
        return cls(device, dtype, next(fitting, LADDER[-1]))

    @property
    def smaller(self) -> DeviceProfile | None:
        """The next profile that needs less of the device; None after the last."""
        if self.placement not in LADDER:
            return None
        rest = LADDER[LADDER.index(self.placement) + 1 :]
        tried = self.placement.name
        return replace(self, placement=rest[0], too_large=tried) if rest else None

    def place(self, pipe: DiffusionPipeline) -> DeviceProfile:
        """Bring the pipeline's models where this profile wants them; where the device runs out of
        memory the next smaller profile is tried. Returns the one that holds."""
        try:
            Placing(pipe, self.device).apply(self.placement)
            return self
        except torch.OutOfMemoryError as error:
            return self.step_down(pipe, error)

    def step_down(self, pipe: DiffusionPipeline, error: Exception) -> DeviceProfile:
        """Place ``pipe`` by the next smaller profile after ``error``, and say so."""
        smaller = self.smaller
        if smaller is None:
            raise CheckpointError(
                f"{self.device} has too little memory even for the profile "
                f"{self.placement.name}; close what else uses it, or ask for a smaller video"
            ) from error
        log.warning(
            "%s ran out of memory with the profile %s; going on with %s",
            self.device,
            self.placement.name,
            smaller.placement.name,
        )
        return smaller.place(pipe)


class Placing:
    """Moves a pipeline from one placement to another."""

    def __init__(self, pipe: DiffusionPipeline, device: torch.device) -> None:
        self.pipe, self.device = pipe, device

    def apply(self, placement: Placement) -> None:
        """Undo what was, then place."""
        self.release()
        pipe = self.pipe
        if placement.tiled:
            pipe.vae.enable_tiling(*tile_size(pipe.vae.config))
            pipe.vae.enable_slicing()
        if placement.weights is not None:
            store_in_fewer_bits(pipe.transformer, placement.weights)
        if placement.where == "resident":
            pipe.to(self.device)
        elif placement.where == "model" and self.device.type != "cpu":
            pipe.enable_model_cpu_offload(device=self.device)
        elif placement.where == "group":
            self._stream_blocks()

    def release(self) -> None:
        """Everything in main memory, without hooks that move it."""
        pipe = self.pipe
        pipe.remove_all_hooks()
        for part in self._parts:
            remove_group_hooks(part)
            part.to("cpu")
        pipe.vae.disable_tiling()
        pipe.vae.disable_slicing()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @cached_property
    def _parts(self) -> list[nn.Module]:
        parts = (self.pipe.transformer, self.pipe.text_encoder, self.pipe.vae)
        return [part for part in parts if part is not None]

    def _stream_blocks(self) -> None:
        """Blocks of the transformer and of the text encoder come one by one, on a stream of their
        own where the device has streams; the VAE is small and stays."""
        from diffusers.hooks import apply_group_offloading

        options = {
            "onload_device": self.device,
            "offload_type": "block_level",
            "num_blocks_per_group": 1,
            "use_stream": self.device.type == "cuda",
            "non_blocking": self.device.type == "cuda",
        }
        apply_group_offloading(self.pipe.transformer, **options)
        if self.pipe.text_encoder is not None:  # its blocks are the encoder's own children
            apply_group_offloading(self.pipe.text_encoder.encoder, **options)
        self.pipe.vae.to(self.device)


def remove_group_hooks(module: nn.Module) -> None:
    """Undo diffusers' group offload in ``module`` and all below it."""
    for inner in module.modules():
        registry = getattr(inner, "_diffusers_hook", None)
        for name in GROUP_HOOKS if registry is not None else ():
            registry.remove_hook(name, recurse=False)


def store_in_fewer_bits(transformer: nn.Module, kind: str) -> None:
    """Keep the weights of the blocks in eight bits; computed is in the model's own type."""
    if getattr(transformer, "_stored_in", None) == kind:
        return
    if kind == "fp8":
        transformer.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=transformer.dtype
        )
    else:
        try:
            from torchao.quantization import Int8WeightOnlyConfig, quantize_
        except ImportError as error:
            raise CheckpointError(
                "int8 weights need torchao, which is not installed; install the extra "
                "(pip install motion-app[quantised]) or choose model-offload-fp8"
            ) from error
        quantize_(
            transformer,
            Int8WeightOnlyConfig(version=2),
            lambda module, name: isinstance(module, nn.Linear) and "transformer_blocks" in name,
        )
    transformer._stored_in = kind


def placement_named(name: str) -> Placement:
    """CheckpointError lists the names there are."""
    if name not in PLACEMENTS:
        raise CheckpointError(
            f'unknown memory profile "{name}"; choose one of {", ".join(PLACEMENTS)}'
        )
    return PLACEMENTS[name]


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU; None for a CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
