"""What a checkpoint says of itself, read once and handed on: JSON and the headers of its files.

No weight is read but for the fingerprint, and nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from motion_app.errors import CheckpointError
from motion_app.geometry import GenerationDefaults, ModelGeometry, read_config
from motion_app.methods import WAYS, methods_there
from motion_app.models.hub import (
    PARTS,
    OnBytes,
    checkpoint_folder,
    config_folder,
    weight_digests,
    weight_header,
)
from motion_app.text_files import file_digest, listed

BLOCK = re.compile(r"(.*?blocks?\.\d+)\.")  # of a tensor's name
FAMILIAR_FILE = "familiar.json"


@dataclass(frozen=True)
class PartWeights:
    """One model of a checkpoint: its number of weights, those of its largest block, and those that
    are in no block."""

    weights: int
    largest_block: int
    outside: int

    @classmethod
    def count(cls, numbers: Mapping[str, int]) -> PartWeights:
        """``numbers``: how many each tensor holds, by its name."""
        blocks: dict[str, int] = {}
        outside = 0
        for name, count in numbers.items():
            found = BLOCK.match(name)
            if found:
                blocks[found[1]] = blocks.get(found[1], 0) + count
            else:
                outside += count
        return cls(sum(numbers.values()), max(blocks.values(), default=0), outside)


@dataclass(frozen=True)
class FamiliarPictures:
    """How a model of a small world tells its own pictures from all others, of ``familiar.json``
    beside ``generation.json``; a model of any picture has no such file.

    ``reconstruction``: the most that its VAE misses of a picture, as a mean share, 0 to 1, of the
    range of a channel; ``confidence``: the least that its click model gives the best of many marks,
    0 to 1. Each lies between the values of the world's pictures and those of photographs.
    """

    reconstruction: float
    confidence: float

    @classmethod
    def read(cls, folder: Path) -> FamiliarPictures | None:
        """None where there is no such file; CheckpointError for one that says something else."""
        path = folder / FAMILIAR_FILE
        if not path.is_file():
            return None
        try:
            return cls(
                **{name: float(value) for name, value in json.loads(path.read_text()).items()}
            )
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f'{FAMILIAR_FILE} must hold the numbers "reconstruction" and "confidence": {error}'
            ) from error


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A diffusers folder of an image- or text-to-video model: where it is, and what its files say.

    ``transformer`` and ``vae``: the contents of their ``config.json``; ``defaults``: its own
    settings, of ``generation.json``; ``geometry``: the sizes that follow from the three. The
    weights need not be there for any of them.
    """

    folder: Path
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    defaults: GenerationDefaults
    geometry: ModelGeometry

    ENCODER: ClassVar[str] = "motion_encoder"  # the folder of the part that not all have

    @property
    def has_encoder(self) -> bool:
        """Whether a motion encoder comes with it."""
        return (self.folder / self.ENCODER / "config.json").is_file()

    @property
    def ways(self) -> tuple[str, ...]:
        """How a clip can become motion tokens, of ``methods.WAYS``; the first where nobody says
        how: its own ``learning``, where that needs no encoder or has one."""
        there = methods_there(WAYS, encoder=self.has_encoder)
        return tuple(sorted(there, key=lambda way: way != self.defaults.learning))

    @classmethod
    def read(cls, folder: Path | str) -> Checkpoint:
        """The checkpoint in ``folder``; CheckpointError for broken or missing files, and for sizes
        that do not go together."""
        folder = Path(folder)
        transformer, vae = read_config(folder, "transformer"), read_config(folder, "vae")
        defaults = GenerationDefaults.read(folder, transformer)
        if defaults.learning not in WAYS:
            raise CheckpointError(
                f'"learning" of {folder.name} is {str(defaults.learning)[:40]!r}; choose one of '
                f"{', '.join(WAYS)}"
            )
        geometry = ModelGeometry.from_configs(
            transformer,
            vae,
            height=defaults.height,
            width=defaults.width,
            frames=defaults.frames,
            fps=defaults.fps,
            without_picture=defaults.without_picture,
        )
        return cls(folder, transformer, vae, defaults, geometry)

    @classmethod
    def find(cls, path_or_hub_id: str | Path, *, on_bytes: OnBytes | None = None) -> Checkpoint:
        """A checkpoint with its weights, by folder or hub id; fetched where it is not cached yet.
        ``on_bytes`` hears (bytes so far, bytes in all). CheckpointError."""
        return cls.read(checkpoint_folder(path_or_hub_id, on_bytes=on_bytes))

    @classmethod
    def find_configs(cls, path_or_hub_id: str | Path) -> Checkpoint:
        """As ``find``, but of a hub id only the small files are fetched: enough for everything
        but ``fingerprint`` and ``weights``."""
        return cls.read(config_folder(path_or_hub_id))

    @cached_property
    def weights(self) -> Mapping[str, PartWeights]:
        """What each of ``PARTS`` holds, from its safetensors headers; CheckpointError for a broken
        file."""
        return {part: self._count(part) for part in PARTS}

    def _count(self, part: str) -> PartWeights:
        return PartWeights.count(
            {
                name: math.prod(entry["shape"])
                for file in listed(self.folder / part, "*.safetensors")
                for name, entry in weight_header(file).items()
            }
        )

    @cached_property
    def fingerprint(self) -> str:
        """What a motion belongs to: sha256 over the transformer, read when first asked for.

        Its config, keys sorted and diffusers' own notes (``_class_name`` …) left out, then the
        bytes of its weight file; of several files their sha256 in hexadecimal, in the order of
        their names, so that what the hub tells of them is enough (``base_of``). CheckpointError
        where there are none.
        """
        files = list(listed(self.folder / "transformer", "*.safetensors"))
        if not files:
            raise CheckpointError(
                "the checkpoint's transformer folder holds no safetensors weights; a motion cannot "
                "be tied to it. Save it with save_pretrained"
            )
        if len(files) > 1:
            return self._fingerprint_of([file_digest(path) for path in files])
        return file_digest(files[0], before=self._kept_config)

    @property
    def _kept_config(self) -> bytes:
        kept = {key: entry for key, entry in self.transformer.items() if not key.startswith("_")}
        return json.dumps(kept, sort_keys=True).encode()

    def _fingerprint_of(self, digests: Sequence[str]) -> str:
        return hashlib.sha256(self._kept_config + "".join(digests).encode()).hexdigest()

    @classmethod
    def base_of(cls, path_or_hub_id: str | Path) -> tuple[Checkpoint, str]:
        """A checkpoint and its fingerprint. Of one on the hub whose transformer lies in several
        files, as CogVideoX does, no weight is fetched, nor read where it is here. CheckpointError.
        """
        try:
            digests = weight_digests(path_or_hub_id, "transformer")
        except CheckpointError:
            digests = None  # the weights may be here all the same
        if digests is not None and len(digests) > 1:
            checkpoint = cls.find_configs(path_or_hub_id)
            return checkpoint, checkpoint._fingerprint_of(digests)
        checkpoint = cls.find(path_or_hub_id)
        return checkpoint, checkpoint.fingerprint

    def segmenter(self, *, default: str | None = None) -> str:
        """The SAM 2 model that the checkpoint names, which may be a folder inside it: a path or a
        hub id. ``default`` where it names none, and CheckpointError without one."""
        named = self.defaults.segmenter or default
        if named is None:
            raise CheckpointError(
                f"the model {self.folder.name} names no segmenter; choose one, for example "
                "facebook/sam2.1-hiera-large (--segmenter, or MOTION_APP_SEGMENTER)"
            )
        inside = self.folder / named
        return str(inside) if inside.is_dir() else named
