"""Where the judging networks' weights are, on this machine alone: nothing is ever fetched.

A source is looked for in the judges' folder (``Settings.judges``) under its own name, then where
its own library keeps what somebody fetched before.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class WeightSource:
    """``kind`` "hub": a folder as transformers saves it; "file": one file. ``name``: the hub id or
    the file's name. ``needs``: what a person must bring, in words."""

    name: str
    kind: Literal["hub", "file"]
    needs: str


CLIP = "clip"
DINO = "dino"
RAFT = "raft"
COTRACKER = "cotracker"
JUDGE = "judge"
RESNET3D = "resnet3d"
I3D = "i3d"
AMT = "amt"
AESTHETIC = "aesthetic"
MUSIQ = "musiq"

SOURCES = MappingProxyType(
    {
        CLIP: WeightSource("openai/clip-vit-base-patch32", "hub", "CLIP ViT-B/32"),
        DINO: WeightSource("facebook/dino-vitb16", "hub", "DINO ViT-B/16"),
        RAFT: WeightSource("raft_large_C_T_SKHT_V2-ff5fadd5.pth", "file", "RAFT of torchvision"),
        COTRACKER: WeightSource(
            "cotracker3_offline", "file", "CoTracker 3 as TorchScript (CC-BY-NC)"
        ),
        JUDGE: WeightSource("Qwen/Qwen2.5-VL-7B-Instruct", "hub", "Qwen2.5-VL"),
        RESNET3D: WeightSource("resnet-50-kinetics.pt", "file", "3D ResNet-50 as TorchScript"),
        I3D: WeightSource("i3d_torchscript.pt", "file", "I3D (Kinetics-400) as TorchScript"),
        AMT: WeightSource("amt-s.pt", "file", "AMT-S as TorchScript"),
        AESTHETIC: WeightSource(
            "aesthetic-vit-l-14.pt", "file", "CLIP ViT-L/14 with LAION's head as TorchScript"
        ),
        MUSIQ: WeightSource("musiq-spaq.pt", "file", "MUSIQ-SPAQ as TorchScript"),
    }
)


@dataclass(frozen=True)
class WeightStore:
    """``folder``: the judges' folder; it need not exist. ``caches`` False looks nowhere else."""

    folder: Path
    caches: bool = True

    def find(self, source: str) -> Path | None:
        """The folder or file of a key of SOURCES, or None where it is not on this machine."""
        wanted = SOURCES[source]
        own = self.folder / wanted.name.rpartition("/")[2]
        if own.exists():
            return own
        if not self.caches:
            return None
        return _hub_folder(wanted.name) if wanted.kind == "hub" else _torch_file(wanted.name)

    def missing(self, sources: tuple[str, ...]) -> tuple[str, ...]:
        """In words, which of ``sources`` are not here."""
        return tuple(SOURCES[name].needs for name in sources if self.find(name) is None)


def _hub_folder(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _torch_file(name: str) -> Path | None:
    """As ``torch.hub`` lays its folder out; asked without importing torch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    home = Path(os.environ.get("TORCH_HOME", cache / "torch"))
    path = home / "hub" / "checkpoints" / name
    return path if path.is_file() else None
