"""Weights that some methods need beside a checkpoint's own, and whether they are here.

Nothing is fetched: an adapter is looked for in the checkpoint's folder ``adapters`` under its own
name, and where the hub's client keeps what somebody fetched before. Without it the method is not
offered, and who asks for it all the same hears where it comes from and under which licence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from motion_app.errors import CheckpointError, RequestError
from motion_app.methods import METHOD_TABLE, METHODS, method_title, methods_there
from motion_app.models.checkpoint import Checkpoint
from motion_app.models.hub import weight_notes

FOLDER = "adapters"  # of a checkpoint


@dataclass(frozen=True)
class PublishedAdapter:
    """One that its authors published: ``file`` of the hub's ``repository``, for a transformer of so
    many ``layers`` of ``width``, which is ``model``. ``strength``: how much of it is taken, in the
    unit of its rank, where the file does not say. ``command`` trains one for the pocket."""

    repository: str
    file: str
    model: str
    layers: int
    width: int
    licence: str
    command: str
    strength: float | None = None


@dataclass(frozen=True)
class NeededAdapter:
    """``file`` of an adapter, and its ``strength`` where that does not say: None is its rank."""

    file: Path
    strength: float | None = None


ADAPTERS: Mapping[str, PublishedAdapter] = MappingProxyType(
    {
        "warped-noise": PublishedAdapter(
            repository="Eyeline-Research/Go-with-the-Flow",
            file="I2V5B_final_i38800_nearest_lora_weights.safetensors",
            model="CogVideoX-5B-I2V",
            layers=42,
            width=3072,
            licence="a modified Apache 2.0, whose section 10 asks for credit in productions",
            command="python -m motion_app pocket train --stages warped-noise",
        ),
        "any-frame": PublishedAdapter(
            repository="shiyi0408/FlexiAct",
            file="refnetlora_step40000_model.pt",
            model="CogVideoX-5B-I2V",
            layers=42,
            width=3072,
            licence="Apache 2.0",
            command="python -m motion_app pocket train --stages any-frame",
            strength=32.0,
        ),
    }
)


def find_adapter(checkpoint: Checkpoint, name: str) -> NeededAdapter | None:
    """The adapter ``name`` for ``checkpoint``; None where there is none. One that says of which
    base model it is belongs to that alone."""
    own = checkpoint.folder / FOLDER / f"{name}.safetensors"
    if own.is_file():
        try:
            base = weight_notes(own).get("base", "")
            return NeededAdapter(own) if base in ("", checkpoint.fingerprint) else None
        except CheckpointError:
            return None
    published, sizes = ADAPTERS[name], checkpoint.geometry
    if (published.layers, published.width) != (sizes.layers, sizes.width_tokens):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(published.repository, published.file)
    return NeededAdapter(Path(found), published.strength) if isinstance(found, str) else None


def needed_adapter(checkpoint: Checkpoint, method: str) -> NeededAdapter:
    """The adapter that ``method`` needs; RequestError with what to do where it is not here."""
    name = METHOD_TABLE[method].adapter
    found = find_adapter(checkpoint, name)
    if found is not None:
        return found
    published = ADAPTERS[name]
    raise RequestError(
        f'{method_title(method)} needs weights for "{checkpoint.defaults.name}" that are not here: '
        f"{FOLDER}/{name}.safetensors in its folder. For {published.model} its authors published "
        f"{published.file} in {published.repository} ({published.licence}): hf download "
        f"{published.repository} {published.file}. For the pocket: {published.command}"
    )


def offered_methods(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The methods that can be used with ``checkpoint`` as it is."""
    return tuple(
        name
        for name in methods_there(METHODS, encoder=checkpoint.has_encoder)
        if not METHOD_TABLE[name].adapter
        or find_adapter(checkpoint, METHOD_TABLE[name].adapter) is not None
    )
