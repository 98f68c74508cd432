"""Where the weights live and in which precision: profiles, from the fastest to the smallest.

The profile is chosen by comparing what each needs (``footprint``) with what is free, and when the
device runs out of memory all the same the next smaller one takes over, by name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from motion_app.engine.footprint import GIGABYTE, Footprint, footprint, tile_size
from motion_app.errors import CheckpointError
from motion_app.models.checkpoint import BLOCK, Checkpoint
from motion_app.models.devices import device_named

log = logging.getLogger(__name__)

RESERVE = 0.10  # of the device: its context, the kernels' own buffers, fragmentation
FEWER_BITS = {"int8": 1.0, "fp8": 1.0}  # bytes of a weight
GROUP_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")


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
        taken = needs(dtype.itemsize)
        room = (1 - RESERVE) * free
        fitting = (
            placed
            for placed in LADDER
            if placed.device_bytes(taken, keep_text_encoder=keep_text_encoder) <= room
        )
        return cls(device, dtype, next(fitting, LADDER[-1]))

    @property
    def smaller(self) -> DeviceProfile | None:
        """The next profile that needs less of the device; None after the last."""
        if self.placement not in LADDER:
            return None
        rest = LADDER[LADDER.index(self.placement) + 1 :]
        tried = self.placement.name
        return replace(self, placement=rest[0], too_large=tried) if rest else None

    def place(self, models: DiffusionPipeline) -> DeviceProfile:
        """Bring a pipeline's ``models`` where this profile wants them; where the device runs out
        of memory the next smaller profile is tried. Returns the one that holds."""
        try:
            Placing(models, self.device).apply(self.placement)
            return self
        except torch.OutOfMemoryError as error:
            return self.step_down(models, error)

    def step_down(self, models: DiffusionPipeline, error: Exception) -> DeviceProfile:
        """Place ``models`` by the next smaller profile after ``error``, and say so."""
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
        return smaller.place(models)


class Placing:
    """Moves a pipeline's models from one placement to another."""

    def __init__(self, models: DiffusionPipeline, device: torch.device) -> None:
        self.models: Any = models
        self.device = device

    def apply(self, placement: Placement) -> None:
        """Undo what was, then place."""
        self.release()
        models = self.models
        if placement.tiled:
            models.vae.enable_tiling(*tile_size(models.vae.config))
            models.vae.enable_slicing()
        if placement.weights is not None:
            store_in_fewer_bits(models.transformer, placement.weights)
        if placement.where == "resident":
            models.to(self.device)
        elif placement.where == "model" and self.device.type != "cpu":
            models.enable_model_cpu_offload(device=self.device)
        elif placement.where == "group":
            self._stream_blocks()

    def release(self) -> None:
        """Everything in main memory, without hooks that move it."""
        models = self.models
        models.remove_all_hooks()
        for part in self._parts:
            remove_group_hooks(part)
            part.to("cpu")
        models.vae.disable_tiling()
        models.vae.disable_slicing()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @cached_property
    def _parts(self) -> list[nn.Module]:
        parts = (self.models.transformer, self.models.text_encoder, self.models.vae)
        return [part for part in parts if part is not None]

    def _stream_blocks(self) -> None:
        """Blocks of the transformer and of the text encoder come one by one, on a stream of their
        own where the device has streams; the VAE is small and stays."""
        from diffusers.hooks import apply_group_offloading

        models = self.models
        options: dict[str, Any] = {
            "onload_device": self.device,
            "offload_type": "block_level",
            "num_blocks_per_group": 1,
            "use_stream": self.device.type == "cuda",
            "non_blocking": self.device.type == "cuda",
        }
        apply_group_offloading(models.transformer, **options)
        if models.text_encoder is not None:  # its blocks are the encoder's own children
            apply_group_offloading(models.text_encoder.encoder, **options)
        models.vae.to(self.device)


def remove_group_hooks(module: nn.Module) -> None:
    """Undo diffusers' group offload in ``module`` and all below it."""
    for inner in module.modules():
        registry: Any = getattr(inner, "_diffusers_hook", None)
        for name in GROUP_HOOKS if registry is not None else ():
            registry.remove_hook(name, recurse=False)


def store_in_fewer_bits(transformer: Any, kind: str) -> None:
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
            lambda module, name: isinstance(module, nn.Linear) and BLOCK.match(name) is not None,
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


@dataclass(frozen=True)
class Outlook:
    """Estimates in bytes. ``profile``: the name of the memory profile that is chosen for
    ``device``; ``device_bytes`` the most it holds at once, of ``device_free`` (a CPU's memory is
    the main memory). ``main_bytes``: of main memory, where all weights are read first, of
    ``main_free``."""

    device: str
    profile: str
    device_bytes: int
    device_free: int
    main_bytes: int
    main_free: int

    @property
    def short(self) -> bool:
        """Whether something is estimated not to suffice."""
        return self.device_bytes > self.device_free or self.main_bytes > self.main_free

    def to_json(self) -> dict[str, str | float]:
        """Plain JSON, bytes as GB."""
        return {
            "device": self.device,
            "profile": self.profile,
            "device_gb": round(self.device_bytes / GIGABYTE, 2),
            "device_free_gb": round(self.device_free / GIGABYTE, 2),
            "main_gb": round(self.main_bytes / GIGABYTE, 2),
            "main_free_gb": round(self.main_free / GIGABYTE, 2),
        }

    def __str__(self) -> str:
        words = (
            f"{self.device}: profile {self.profile}, about {self.device_bytes / GIGABYTE:.1f} GB "
            f"of {self.device_free / GIGABYTE:.1f} GB free"
        )
        if torch.device(self.device).type == "cpu":
            return words
        return words + (
            f"; main memory: about {self.main_bytes / GIGABYTE:.1f} GB of "
            f"{self.main_free / GIGABYTE:.1f} GB free"
        )


def look_ahead(
    checkpoint: Checkpoint,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    placement: str | None = None,
    keep_text_encoder: bool = True,
    free: int | None = None,
) -> tuple[DeviceProfile, Outlook]:
    """The profile for ``checkpoint`` and what it takes, from the headers of its files; ``free``
    bytes of the device, None for what it says. The others, and CheckpointError, as
    ``DeviceProfile.choose``."""
    profile = DeviceProfile.choose(
        lambda item: footprint(checkpoint, item=item),
        device=device,
        dtype=dtype,
        placement=placement,
        free=free,
        keep_text_encoder=keep_text_encoder,
    )
    import psutil  # here alone: whoever places what it has made needs none

    placed, on_cpu = profile.placement, profile.device.type == "cpu"
    needs = footprint(checkpoint, item=profile.dtype.itemsize)
    if on_cpu:  # which decodes a clip twice over, see ``Backbone.decode``
        needs = replace(needs, decoding=2 * needs.decoding, decoding_tiled=2 * needs.decoding_tiled)
    main_free = psutil.virtual_memory().available
    if free is None:
        free = free_bytes(profile.device)
    device_bytes = placed.device_bytes(needs, keep_text_encoder=keep_text_encoder)
    read_first = _read_first(placed, needs, keep_text_encoder=keep_text_encoder)
    outlook = Outlook(
        device=str(profile.device),
        profile=placed.name,
        device_bytes=device_bytes,
        device_free=main_free if free is None else free,
        main_bytes=device_bytes if on_cpu else read_first,
        main_free=main_free,
    )
    log.log(logging.WARNING if outlook.short else logging.INFO, "%s", outlook)
    return profile, outlook


def _read_first(placement: Placement, needs: Footprint, *, keep_text_encoder: bool) -> int:
    """Bytes of main memory while weights are on their way to a GPU."""
    text = needs.bytes_of("text_encoder")
    if keep_text_encoder:
        return needs.weight_bytes
    waiting = placement.host_bytes(needs, keep_text_encoder=False)
    return max(needs.weight_bytes - text, waiting + text)
