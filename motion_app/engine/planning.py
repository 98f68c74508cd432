"""What loading a checkpoint is about to take, told before its weights are read."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from motion_app.engine.acceleration import STOCK, Acceleration
from motion_app.engine.footprint import GIGABYTE, Footprint, read_footprint
from motion_app.engine.memory import DeviceProfile, Placement, free_bytes

log = logging.getLogger(__name__)


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
    folder: Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    acceleration: Acceleration = STOCK,
    free: int | None = None,
) -> tuple[DeviceProfile, Outlook]:
    """The profile for the checkpoint in ``folder`` and what it takes, from the headers of its
    files; ``free`` bytes of the device, None for what it says. CheckpointError as
    ``DeviceProfile.choose``."""
    keep = {"keep_text_encoder": acceleration.keep_text_encoder}
    profile = DeviceProfile.choose(
        lambda item: read_footprint(folder, item=item),
        device=device,
        dtype=dtype,
        placement=acceleration.profile,
        free=free,
        **keep,
    )
    placement, on_cpu = profile.placement, profile.device.type == "cpu"
    needs = read_footprint(folder, item=profile.dtype.itemsize)
    if on_cpu:  # which decodes a clip twice over, see ``LatentDecoder``
        needs = replace(needs, decoding=2 * needs.decoding, decoding_tiled=2 * needs.decoding_tiled)
    main_free = psutil.virtual_memory().available
    if free is None:
        free = free_bytes(profile.device)
    device_bytes = placement.device_bytes(needs, **keep)
    outlook = Outlook(
        device=str(profile.device),
        profile=placement.name,
        device_bytes=device_bytes,
        device_free=main_free if free is None else free,
        main_bytes=device_bytes if on_cpu else _read_first(placement, needs, **keep),
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
