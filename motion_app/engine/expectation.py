"""What a video will take, told before the first one was made here: from a table that was measured
on such a device where there is one, else estimated from how much there is to compute."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from motion_app.engine.footprint import Workload
from motion_app.models.checkpoint import Checkpoint

log = logging.getLogger(__name__)
MEASURED = Path(__file__).resolve().parents[2] / "docs" / "measured"
REPORT = "report.json"  # of ``speed gpu``
OURS = "videos/ours"  # in it: a whole video of two objects
SHAPE_5B = (42, 17_550, 3072)  # layers, video tokens and width of the shape "5b" there
# Operations a second of one core of a server's CPU, by the layer of docs/full_scale.md.
CORE = 1e11
WORTH_SAYING = 60.0  # s: of less a person sees the end soon enough


@dataclass(frozen=True)
class Expectation:
    """``rest_seconds`` before the first step and after the last one, ``step_seconds`` between them;
    ``measured_on``: the device whose table says so, "" where they are estimated."""

    rest_seconds: float
    step_seconds: float
    measured_on: str = ""

    def seconds_for(self, steps: int) -> float:
        """Of a video of so many steps."""
        return self.rest_seconds + steps * self.step_seconds

    def worth_saying(self, steps: int) -> bool:
        """Whether a video of so many steps is something to plan for."""
        return self.seconds_for(steps) >= WORTH_SAYING

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, device: torch.device, *, tables: Path = MEASURED
    ) -> Expectation:
        """Of videos by ``checkpoint`` on ``device``. CheckpointError for a broken weight file."""
        if device.type == "cuda":
            name = torch.cuda.get_device_name(device)
            table = measured_on(name, checkpoint, tables)
            if table is not None:
                step = table["step_seconds"]
                return cls(table["seconds"] - table["steps"] * step, step, name)
        on_gpu = device.type != "cpu"
        work = Workload.of(checkpoint, item=2 if on_gpu else 4)
        if on_gpu:
            return cls(work.rest_seconds, work.step_seconds)
        rate = CORE * torch.get_num_threads()
        return cls(work.decoding / rate, work.step / rate)


def measured_on(name: str, checkpoint: Checkpoint, tables: Path) -> dict[str, Any] | None:
    """The figures of a whole video from a report in a folder of ``tables`` that a device called
    ``name`` made, of the checkpoint's own shape; None where there is none."""
    g = checkpoint.geometry
    if (g.layers, g.video_tokens, g.width_tokens) != SHAPE_5B:
        return None
    for file in sorted(tables.glob(f"*/{REPORT}")):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            if (found["setting"]["device"], found["setting"]["shape"]) == (name, "5b"):
                return found["cases"].get(OURS)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is no report of speed gpu: %r", file, error)
    return None
