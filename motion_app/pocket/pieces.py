"""A training's weights as files of at most 16 MiB, for machines that hand no larger ones back.

Half precision and no optimiser: whoever goes on from them begins with a fresh one and its short
warm-up, as from a shipped checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file
from torch import nn

MOST_BYTES = 15 * 2**20  # of a file's tensors; its header comes on top
FOLDERS = "saved-*"


def save_pieces(folder: Path, networks: Mapping[str, nn.Module]) -> None:
    """The weights of ``networks``, each under its name, into a new ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    weights = {
        f"{name}.{key}": (value.half() if value.is_floating_point() else value.clone()).cpu()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    split = split_torch_state_dict_into_shards(weights, max_shard_size=MOST_BYTES)
    for file, keys in split.filename_to_tensors.items():
        save_file({key: weights[key] for key in keys}, folder / file)


def load_pieces(folder: Path, networks: Mapping[str, nn.Module]) -> None:
    """What ``save_pieces`` wrote, into ``networks``; RuntimeError where their shapes differ."""
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    for name, network in networks.items():
        start = f"{name}."
        own = {key.removeprefix(start): w for key, w in weights.items() if key.startswith(start)}
        network.load_state_dict(own)


def saved_folders(runs: Path, complete: str) -> list[Path]:
    """The folders of pieces in ``runs`` that hold the file ``complete``, which is written last;
    the newest is the last one."""
    return [folder for folder in sorted(runs.glob(FOLDERS)) if (folder / complete).is_file()]
