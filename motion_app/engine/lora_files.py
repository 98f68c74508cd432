"""Low-rank adapters of a whole model as files: those that others published, our own, and those
that learned one motion (method "i2vedit"), each the whole of a motion file.

They act beside the weights (``adapters``), so that nothing has to be taken out of them again and
they work with every way of placing the model.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from motion_app.engine.adapters import PLACES, Adapter
from motion_app.engine.backbone import LORA_NAME, WRITTEN_LORA
from motion_app.engine.layers import AttentionLayer
from motion_app.engine.motion_tokens import MotionMetadata, check_finite
from motion_app.errors import CheckpointError, MotionFileError, other_base
from motion_app.library.motion_file import read_header
from motion_app.methods import LORA_METHODS
from motion_app.models.hub import weight_notes

NAMES = {"q": "to_q", "k": "to_k", "v": "to_v", "proj": "to_out"}  # of FlexiAct
SIDES = {"A": "down", "down": "down", "B": "up", "up": "up", "alpha": "alpha"}
PICKLED = (".pt", ".pth", ".bin")  # read as weights alone
PEFT_NOTES = "lora_adapter_metadata"  # diffusers' own, with the rank and the strength
Weights = dict[tuple[int, str], dict[str, Tensor]]  # by layer and projection: down, up, alpha


def read_adapter(
    path: Path, layers: Sequence[AttentionLayer], *, strength: float | None = None
) -> Adapter:
    """The adapter in the file ``path`` (safetensors, or PyTorch's own) for the attention ``layers``
    of a model, in the file's own dtype; layers that it leaves out are not changed.

    ``strength``, in the unit of the rank, is that of a file that does not say its own; None is the
    rank. CheckpointError for a file that is broken, has weights for other places than these
    projections, or is for another model.
    """
    found = _sorted(_tensors(path), path.name)
    noted = strength if path.suffix in PICKLED else _noted_strength(path) or strength
    down: dict[str, Tensor] = {}
    up: dict[str, Tensor] = {}
    for place in PLACES:
        parts = {layer: sides for (layer, name), sides in found.items() if name == place}
        if not parts:
            continue
        linear = layers[0].linear(place)
        rank = max(len(sides["down"]) for sides in parts.values())
        like = next(iter(parts.values()))["down"]
        down[place] = like.new_zeros(len(layers), rank, linear.in_features)
        up[place] = like.new_zeros(len(layers), linear.out_features, rank)
        for layer, sides in parts.items():
            own = len(sides["down"])
            shapes = tuple(sides["down"].shape), tuple(sides["up"].shape)
            if layer >= len(layers) or shapes != (
                (own, linear.in_features),
                (linear.out_features, own),
            ):
                raise CheckpointError(
                    f"{path.name} is for another model: {place} of layer {layer} is {shapes[0]} "
                    f"and {shapes[1]}, this model has {len(layers)} layers of width "
                    f"{linear.in_features}; use one that was made for it"
                )
            said = float(sides["alpha"]) if "alpha" in sides else noted
            down[place][layer, :own] = sides["down"]
            up[place][layer, :, :own] = sides["up"] * (said / own if said else 1.0)
    return Adapter(down, up).requires_grad_(False)


def write_adapter(path: Path, adapter: Adapter, notes: Mapping[str, str]) -> None:
    """Write ``adapter`` as diffusers would, in half precision, with ``notes`` in its header."""
    tensors = {}
    for place, down in adapter.down.items():
        for layer in range(len(down)):
            up = adapter.scale * adapter.up[place][layer]
            for side, weights in (("A", down[layer]), ("B", up)):
                name = WRITTEN_LORA.format(layer, _written(place), side)
                tensors[name] = weights.detach().to("cpu", torch.float16).contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=dict(notes))


def write_motion_lora(path: Path, adapter: Adapter, metadata: MotionMetadata) -> MotionMetadata:
    """Write what was learned of one motion, in half precision; layers and width of ``metadata`` are
    filled in here. MotionFileError for numbers that are not finite."""
    tensors = {}
    for place, down in adapter.down.items():
        tensors[f"lora.{place}.down"] = down
        tensors[f"lora.{place}.up"] = adapter.scale * adapter.up[place]
    tensors = {
        name: w.detach().to("cpu", torch.float16).contiguous() for name, w in tensors.items()
    }
    check_finite(tensors, path.name)
    layers, _, width = next(iter(adapter.down.values())).shape
    metadata = replace(metadata, method=LORA_METHODS[0], tokens=0, layers=layers, width=width)
    save_file(tensors, path, metadata=metadata.to_strings())
    return metadata


def read_motion_lora(path: Path, layers: Sequence[AttentionLayer], *, base: str) -> Adapter:
    """The LoRA in a motion file, float32, strictly, for the attention ``layers`` of the model whose
    fingerprint is ``base``. MotionFileError for a file without one, a missing or misshapen side,
    numbers that are not finite, another base."""
    header = read_header(path)
    metadata = MotionMetadata.from_strings(header.metadata, path.name)
    names = {entry.name for entry in header.lora()}
    places = [place for place in PLACES if f"lora.{place}.down" in names]
    sides = {f"lora.{place}.{side}" for place in places for side in ("down", "up")}
    if metadata.method not in LORA_METHODS or not names or names != sides:
        raise MotionFileError(
            f"{path.name} holds no whole LoRA; learn it with --method {LORA_METHODS[0]}"
        )
    if metadata.base != base:
        raise other_base(path.name, metadata.base, base)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(names)}
    except (SafetensorError, OSError) as error:
        raise MotionFileError(f"{path.name} cannot be read as safetensors: {error}") from error
    check_finite(tensors, path.name)
    down, up = (
        {place: tensors[f"lora.{place}.{side}"].float() for place in places}
        for side in ("down", "up")
    )
    adapter = Adapter(down, up).requires_grad_(False)
    adapter.check_fits(layers, file=path.name)
    return adapter


def _written(place: str) -> str:
    return "to_out.0" if place == "to_out" else place


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix in PICKLED:
            read = torch.load(path, weights_only=True, map_location="cpu")
            if all(isinstance(part, Tensor) for part in read.values()):
                return dict(read)
            raise ValueError("it holds something else than weights")
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{path.name} cannot be read as weights: {error}") from error
    except UnpicklingError as error:
        raise CheckpointError(f"{path.name} is no file of weights alone; get it again") from error


def _sorted(tensors: Mapping[str, Tensor], file: str) -> Weights:
    """By layer, projection and side."""
    found: Weights = defaultdict(dict)
    for name, part in tensors.items():
        parts = LORA_NAME.search(name)
        if parts is None:
            raise CheckpointError(
                f"{file} has weights for {name}, which is no projection of this model's "
                "attention; use an adapter of those alone"
            )
        layer, place, side, alpha = parts.groups()
        found[int(layer), NAMES.get(place, place)][SIDES[side or alpha]] = part
    for (layer, place), sides in found.items():
        whole = {"down", "up"} <= set(sides)
        if not whole or not all(bool(torch.isfinite(part).all()) for part in sides.values()):
            raise CheckpointError(
                f"{file} is broken: {place} of layer {layer} lacks a side, or holds NaN or "
                "infinity; get it again"
            )
    if not found:
        raise CheckpointError(f"{file} holds no adapter; get it again")
    return found


def _noted_strength(path: Path) -> float | None:
    """The strength that the file notes for all of it, in the unit of its rank; None without."""
    try:
        noted = json.loads(weight_notes(path).get(PEFT_NOTES, "{}"))
        alpha = noted.get("transformer.lora_alpha", noted.get("lora_alpha"))
        return None if alpha is None else float(alpha)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path.name} notes a strength that is no number: {error}") from error
