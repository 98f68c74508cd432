"""Other methods' videos, by folder: one file for each case, named by its id."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from motion_app.benchmark.charts import png_bytes
from motion_app.benchmark.scenes import BenchmarkCase
from motion_app.errors import RequestError
from motion_app.jobs.results import write_json
from motion_app.media.file_types import CLIP_CHOICES, CLIP_KINDS, is_unread_video
from motion_app.media.files import write_video
from motion_app.media.results import make_folder, mask_png


@dataclass(frozen=True)
class ExternalMethod:
    """``name`` in the tables; ``folder`` holds ``{case id}.mp4`` and so on."""

    name: str
    folder: Path

    def find(self, case: str) -> Path | None:
        """The file of a case, None where there is none. RequestError where there are two, or where
        it is a video of a kind that is not read."""
        files = [file for file in sorted(self.folder.glob(f"{case}.*")) if file.stem == case]
        read = [file for file in files if file.suffix.lower() in CLIP_CHOICES]
        if len(read) > 1:
            names = " and ".join(file.name for file in read)
            raise RequestError(f"{self.name} has {names} for one scene; keep one of them")
        others = [file for file in files if is_unread_video(file)]
        if others and not read:
            raise RequestError(f"{others[0].name} is no clip this app reads; use {CLIP_KINDS}")
        return read[0] if read else None


def parse_external(text: str) -> ExternalMethod:
    """``NAME=FOLDER``; RequestError as ``parse_folder``."""
    return ExternalMethod(*parse_folder(text, example="--external AnyV2V=videos/anyv2v"))


def parse_folder(text: str, *, example: str) -> tuple[str, Path]:
    """``NAME=FOLDER`` as both; RequestError where it is not that, or the folder is not there."""
    name, sign, folder = text.partition("=")
    if not (name.strip() and sign and folder):
        raise RequestError(f'"{text}" is not NAME=FOLDER; write for example {example}')
    if not Path(folder).is_dir():
        raise RequestError(f"the folder {folder} of {name.strip()} does not exist; check the path")
    return name.strip(), Path(folder)


def write_inputs(cases: Iterable[BenchmarkCase], folder: Path, *, fps: float) -> None:
    """What another method needs to take part: of each case its picture, masks and words, and the
    reference clips, once each. What is there already is left alone."""
    for case in cases:
        place = folder / case.id
        if (place / "case.json").is_file():
            continue
        make_folder(place / "masks")
        (place / "first_frame.png").write_bytes(png_bytes(case.image))
        for k, thing in enumerate(case.objects):
            (place / "masks" / f"{k}.png").write_bytes(mask_png(thing.mask))
            _write_reference(thing.reference.frames, folder / _reference_name(thing.motion), fps)
        facts = case.facts()
        for entry, thing in zip(facts["objects"], case.objects, strict=True):
            entry["reference"] = f"../{_reference_name(thing.motion)}"
        write_json(place / "case.json", {**facts, "prompt": case.caption})


def _reference_name(motion: str) -> str:
    return f"references/{motion.replace(' ', '-')}.mp4"


def _write_reference(frames: np.ndarray, path: Path, fps: float) -> None:
    if not path.is_file():
        make_folder(path.parent)
        write_video(path, frames, fps)
