"""What SynMotion learned of one motion, as a file and in memory: semantic branch and adapter.

It lies in one safetensors file, folded, alone (method "synmotion") or beside motion tokens
("both"). The metadata entry "synmotion" is JSON: ``pieces`` (token ids of the motion words),
``apart`` (how they were read), ``heads`` of the refiner and ``scale`` of the adapter, which no
shape tells.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from motion_app.engine.adapters import PLACES, Adapter
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.engine.synmotion import Refiner, SemanticBranch, zero_conv
from motion_app.errors import MotionFileError
from motion_app.methods import PACK_METHODS
from motion_app.motion_files import PACK_PREFIX, read_header

ENTRY = "synmotion"  # of the metadata


@dataclass(frozen=True, eq=False)
class MotionPack:
    """``branch``: the semantic branch; ``adapter``: the visual one, None where none was learned;
    ``pieces``: token ids of the motion words; ``apart``: subject and motion are read alone, not in
    their sentence; ``metadata`` where it was loaded."""

    branch: SemanticBranch
    adapter: Adapter | None
    pieces: tuple[int, ...]
    apart: bool = False
    metadata: MotionMetadata | None = None

    def to(self, device: torch.device) -> MotionPack:
        """The same pack on ``device``."""
        adapter = None if self.adapter is None else self.adapter.to(device)
        return replace(self, branch=self.branch.to(device), adapter=adapter)

    def save(
        self,
        path: Path | str,
        metadata: MotionMetadata,
        *,
        layers: int,
        width: int,
        tokens: MotionTokens | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> MotionMetadata:
        """Write one motion file for a model of ``layers`` layers of ``width``; with ``tokens`` it
        has both. MotionFileError for numbers that are not finite, or tokens of another shape."""
        if tokens is not None and (len(tokens.layers), tokens.width) != (layers, width):
            raise MotionFileError(
                f"the motion tokens have {len(tokens.layers)} layers of width {tokens.width}, the "
                f"pack {layers} of {width}; join motions of one model"
            )
        metadata = replace(
            metadata,
            method="synmotion" if tokens is None else "both",
            tokens=0 if tokens is None else tokens.tokens,
            layers=layers,
            width=width,
        )
        tensors = {PACK_PREFIX + name: tensor for name, tensor in self._tensors().items()}
        if tokens is not None:
            for layer, drawn in enumerate(tokens.layers):
                tensors[f"layers.{layer}.motion_tokens"] = drawn
        tensors = {
            name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()
        }
        _check_finite(tensors, Path(path).name)
        said = {"pieces": list(self.pieces), "heads": self._heads, "scale": self._scale}
        if self.apart:  # unsaid in files of before there was a choice
            said["apart"] = True
        save_file(tensors, path, metadata={**metadata.to_strings(), ENTRY: json.dumps(said)})
        return metadata

    @property
    def _heads(self) -> int:
        refiner = self.branch.refiner
        return 0 if refiner is None else refiner.blocks[0].self_attn.num_heads

    @property
    def _scale(self) -> float:
        return 0.0 if self.adapter is None else self.adapter.scale

    def _tensors(self) -> dict[str, Tensor]:
        tensors = dict(self.branch.state_dict())
        if self.adapter is not None:
            for name in self.adapter.down:
                tensors[f"adapter.{name}.down"] = self.adapter.down[name]
                tensors[f"adapter.{name}.up"] = self.adapter.up[name]
        return tensors

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        transformer: nn.Module | None = None,
        text_width: int | None = None,
        base: str | None = None,
    ) -> MotionPack:
        """Read a pack, float32, strictly. ``transformer``, ``text_width`` and ``base`` are those of
        the model it shall steer; None leaves that check out. MotionFileError for a file without a
        pack, a missing, strange or misshapen tensor, numbers that are not finite, another base."""
        path = Path(path)
        header = read_header(path)
        metadata = MotionMetadata.from_strings(header.metadata, path.name)
        if metadata.method not in PACK_METHODS:
            raise MotionFileError(
                f"{path.name} holds motion tokens alone; learn it with --method synmotion too"
            )
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {entry.name: file.get_tensor(entry.name) for entry in header.pack()}
        except (SafetensorError, OSError) as error:
            raise MotionFileError(f"{path.name} cannot be read as safetensors: {error}") from error
        _check_finite(tensors, path.name)
        if base is not None and base != metadata.base:
            raise MotionFileError(
                f"{path.name} was made for the base model {metadata.base[:12] or '(unknown)'}, "
                f"this is {base[:12]}; train the motion for this model"
            )
        tensors = {name.removeprefix(PACK_PREFIX): t.float() for name, t in tensors.items()}
        try:
            pack = _assemble(tensors, json.loads(header.metadata.get(ENTRY, "")), metadata)
        except (
            ArithmeticError,
            KeyError,
            IndexError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as fault:
            raise MotionFileError(
                f"{path.name} is broken: what SynMotion learned does not fit together "
                f"({str(fault).strip().splitlines()[0][:100]}); get it again"
            ) from fault
        _check_text_width(pack.branch, text_width, path.name)
        if transformer is not None and pack.adapter is not None:
            pack.adapter.check_fits(transformer, file=path.name)
        return pack


def _check_finite(tensors: Mapping[str, Tensor], file: str) -> None:
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() and bool(torch.isfinite(tensor).all())):
            raise MotionFileError(f"{file}: {name} holds NaN or infinity; train the motion again")


def _check_text_width(branch: SemanticBranch, text_width: int | None, file: str) -> None:
    widths = {table.shape[1] for table in (branch.motion, branch.subject) if table is not None}
    if branch.refiner is not None:
        widths.add(branch.refiner.inward.in_features)
    if len(widths) > 1 or (text_width is not None and widths - {text_width}):
        raise MotionFileError(
            f"{file} is for text states of width {sorted(widths)}, the model has {text_width}; use "
            "a motion made for this model"
        )


def _assemble(
    tensors: dict[str, Tensor], said: Mapping[str, Any], metadata: MotionMetadata
) -> MotionPack:
    """The pack of checked tensors; any error of the standard kinds where they do not fit."""
    pieces = tuple(int(piece) for piece in said["pieces"])
    places = [name for name in PLACES if f"adapter.{name}.down" in tensors]
    down = {name: tensors.pop(f"adapter.{name}.down") for name in places}
    up = {name: tensors.pop(f"adapter.{name}.up") for name in places}
    adapter = Adapter(down, up, scale=float(said["scale"])) if places else None
    if adapter is not None and not math.isfinite(adapter.scale):
        raise ValueError("the adapter's scale is no number")
    for name in places:
        shapes = tuple(down[name].shape), tuple(up[name].shape)
        if (shapes[0][0], shapes[0][1]) != (shapes[1][0], shapes[1][2]):
            raise ValueError(f"adapter.{name} has the shapes {shapes}")
    refiner = z_ref = None
    if "z_ref.weight" in tensors:
        with torch.device("meta"):  # what a stranger's shapes ask for is not allocated
            refiner = _refiner(tensors, heads=int(said["heads"]))
            width = refiner.inward.in_features
            depthwise = tensors["z_ref.weight"].shape[1] == 1 and width > 1
            z_ref = zero_conv(width, "depthwise" if depthwise else "full")
    tables = [tensors.get(name) for name in ("motion", "subject")]
    if any(table is not None and table.ndim != 2 for table in tables):
        raise ValueError("a table of residuals has not two axes")
    branch = SemanticBranch(*tables, refiner, z_ref)
    branch.load_state_dict(tensors, strict=True, assign=True)
    if branch.motion is not None and len(branch.motion) != len(pieces):
        raise ValueError(f"{len(branch.motion)} rows came for {len(pieces)} motion words' pieces")
    apart = bool(said.get("apart", False))
    return MotionPack(branch.requires_grad_(False), adapter, pieces, apart, metadata)


def _refiner(tensors: Mapping[str, Tensor], *, heads: int) -> Refiner:
    """An empty refiner of the shapes that ``tensors`` have."""
    width, text_width = tensors["refiner.inward.weight"].shape
    layers = len({name.split(".")[2] for name in tensors if name.startswith("refiner.blocks.")})
    feed_forward = tensors["refiner.blocks.0.linear1.weight"].shape[0]
    if heads < 1 or width % heads:
        raise ValueError(f"{heads} heads do not divide the refiner's width {width}")
    return Refiner(text_width, width=width, layers=layers, heads=heads, feed_forward=feed_forward)
