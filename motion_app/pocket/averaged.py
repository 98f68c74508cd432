"""A run of training whose weights are averaged as it goes, how far it has come, and its weights as
files of at most 16 MiB, for machines that hand no larger ones back.

Those files have half precision and no optimiser: whoever goes on from them begins with a fresh one
and its short warm-up, as from a shipped checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file
from torch import nn

from motion_app.pocket.optim import MuonAdam

WARM_STEPS = 50
MOST_BYTES = 15 * 2**20  # of a file's tensors; its header comes on top
FOLDERS = "saved-*"


@dataclass(frozen=True)
class TrainingRecord:
    """How far a network of a checkpoint was trained, kept beside its weights: ``step`` updates,
    ``samples`` clips seen, ``spent`` seconds, and the held-back figures along the way, each with
    its "samples"."""

    step: int = 0
    samples: int = 0
    spent: float = 0.0
    history: tuple[dict[str, float], ...] = ()

    FILE: ClassVar[str] = "training.json"

    @classmethod
    def read(cls, checkpoint: Path) -> TrainingRecord:
        """The record of a checkpoint folder; an empty one where there is none."""
        file = checkpoint / cls.FILE
        if not file.exists():
            return cls()
        entries = json.loads(file.read_text(encoding="utf-8"))
        return cls(**{**entries, "history": tuple(entries["history"])})

    def write(self, checkpoint: Path) -> None:
        text = json.dumps(asdict(self), indent=1)
        (checkpoint / self.FILE).write_text(text + "\n", encoding="utf-8")


class AveragedRun:
    """``model``, its ``average``, ``optimiser`` and ``record``; ``training`` says how many samples
    there will be, how many in a step, and over what share of the last ones the rates fall. The
    optimiser was fresh at step ``resumed_at``."""

    model: Any
    average: Any
    optimiser: MuonAdam
    training: Any
    record: TrainingRecord
    resumed_at: int

    def state(self) -> dict[str, Any]:
        """All of it, for one file."""
        record = asdict(self.record)
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": list(record.pop("history")),
            "record": record,
            "resumed_at": self.resumed_at,
        }

    def take_over(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was told."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.resumed_at = state["resumed_at"]
        self.record = TrainingRecord(**{**state["record"], "history": tuple(state["history"])})

    @property
    def rate(self) -> float:
        """The learning rates' factor: a warm-up of 50 steps after each fresh optimiser, then 1,
        then linear to 0 over the last ``decay`` of the samples."""
        warm = min(1.0, (self.record.step - self.resumed_at + 1) / WARM_STEPS)
        return min(warm, self._unsettled)

    @property
    def _unsettled(self) -> float:
        """1, then linear to 0 over the last ``decay`` of the samples."""
        left = 1 - self.record.samples / self.training.samples
        return max(0.0, min(1.0, left / self.training.decay))

    def update(self, seconds: float) -> None:
        """One optimiser step with the gradients there are, and the average after it."""
        self.optimiser.step(self.rate)
        record = self.record
        self.record = replace(
            record,
            step=record.step + 1,
            samples=record.samples + self.training.batch,
            spent=record.spent + seconds,
        )
        self.update_average()

    def update_average(self) -> None:
        """Exponential average over about the last tenth of the run, at most 1,000 steps; over fewer
        as the rates fall, when a step has less noise that an average takes away and what is older
        is only worse."""
        newest = max(0.001, 10 / (self.record.step + 20)) / max(0.01, self._unsettled)
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(value, min(1.0, newest))


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
