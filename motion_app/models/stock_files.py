"""Image-to-video models of others, as their files say: which they are, under which licence, what
they make where nothing else is asked, and how much memory their weights take. No torch.

A deployment names those that are offered (``Settings.stock_models``). They are known by hub id, or
by their folder's name: where it lies is nobody's affair.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from motion_app.errors import CheckpointError
from motion_app.models.hub import SHA256, weight_header
from motion_app.text_files import file_digest, listed

OWN_SETTINGS = "generation.json"
GIGABYTE = 1e9
ROOM = 0.8  # of a device's free memory, that weights may take; activations need the rest
RESIDENT, BY_PART, BY_LAYER = "resident", "by part", "by layer"


@dataclass(frozen=True)
class StockModel:
    """What a published model makes where nothing else is asked: ``frames`` of ``height`` ×
    ``width`` px at ``fps`` in ``steps`` at ``guidance``. ``title`` and ``licence`` as people read
    them; ``rights``: the page's words for the licence, by key."""

    title: str
    height: int
    width: int
    frames: int
    fps: float
    steps: int
    guidance: float
    licence: str
    rights: str


APACHE = ("Apache 2.0", "apache")
WAN = StockModel("Wan 2.1 image-to-video", 480, 832, 81, 16.0, 50, 5.0, *APACHE)
WAN_DENSE = StockModel("Wan 2.2 TI2V", 704, 1280, 121, 24.0, 50, 5.0, *APACHE)
HUNYUAN = StockModel(
    *("HunyuanVideo image-to-video", 720, 1280, 129, 24.0, 50, 6.0),
    "Tencent Hunyuan Community, which does not hold in the EU, the UK and South Korea",
    "hunyuan",
)
STOCK_PIPELINES: Mapping[str, StockModel] = MappingProxyType(
    {"WanImageToVideoPipeline": WAN, "HunyuanVideoImageToVideoPipeline": HUNYUAN}
)
OWN = ("title", "height", "width", "frames", "fps", "steps", "guidance")


@dataclass(frozen=True)
class StockPart:
    """One network of a model: its number of weights, and those of its largest tensor."""

    weights: int
    largest: int

    @classmethod
    def count(cls, numbers: Sequence[int]) -> StockPart:
        """``numbers``: how many weights each tensor holds."""
        return cls(sum(numbers), max(numbers, default=0))


@dataclass(frozen=True)
class StockOutlook:
    """What a model is estimated to take. ``where``: RESIDENT, all of it on the device; BY_PART,
    only the network at work; BY_LAYER, only its layers at work. Bytes: ``device_bytes`` of
    ``device_free``, None on a CPU, whose memory is the main one; ``main_bytes`` of ``main_free``.
    """

    title: str
    where: str
    item: int
    device_bytes: int
    device_free: int | None
    main_bytes: int
    main_free: int

    @classmethod
    def of(
        cls,
        title: str,
        parts: Mapping[str, StockPart],
        *,
        item: int,
        device_free: int | None,
        main_free: int,
    ) -> StockOutlook:
        """By ``parts`` at ``item`` bytes a weight: the first of the three that leaves activations
        their room; the last where none does."""
        whole = item * sum(part.weights for part in parts.values())
        held = {
            RESIDENT: whole,
            BY_PART: item * max(part.weights for part in parts.values()),
            BY_LAYER: 2 * item * max(part.largest for part in parts.values()),  # one on its way
        }
        where = RESIDENT
        if device_free is not None:
            fitting = (name for name, taken in held.items() if taken < ROOM * device_free)
            where = next(fitting, BY_LAYER)
        return cls(title, where, item, held[where], device_free, whole, main_free)

    @property
    def fits(self) -> bool:
        """Whether it can be run."""
        if self.device_free is None:
            return self.main_bytes < ROOM * self.main_free
        return self.device_bytes < ROOM * self.device_free and self.main_bytes <= self.main_free

    def check(self) -> None:
        """CheckpointError where it cannot be run here."""
        if self.fits:
            return
        on_cpu = self.device_free is None
        room = ROOM * self.main_free if on_cpu else self.main_free
        taken, where = self.main_bytes, "main memory"
        if not on_cpu and self.main_bytes <= self.main_free:
            taken, room, where = self.device_bytes, ROOM * (self.device_free or 0), "the GPU"
        raise CheckpointError(
            f"{self.title} takes about {taken / GIGABYTE:.1f} GB of {where} at {8 * self.item} "
            f"bits a weight, and {room / GIGABYTE:.1f} GB can be had here; free some, choose a "
            "smaller model, or run it on a larger machine"
        )


@dataclass(frozen=True, eq=False)
class StockFiles:
    """A model on this machine. ``name``: what it is known by; ``kind``: diffusers' pipeline;
    ``model``: what its authors say of it, and its folder's own ``generation.json``."""

    name: str
    folder: Path
    kind: str
    model: StockModel

    @classmethod
    def find(cls, asked: str | Path, *, among: Sequence[str] = ()) -> StockFiles:
        """The model that ``asked`` means: the name of one of ``among``, a folder, or a hub id that
        was fetched. CheckpointError for what is not here, is none of ``STOCK_PIPELINES`` or not
        whole."""
        named = {stock_name(source): source for source in among}
        folder = stock_folder(named.get(str(asked), str(asked)), among=tuple(named))
        model = stock_model(folder)
        index = _index(folder)
        missing = [part for part in _parts(index) if not (folder / part).is_dir()]
        if missing:
            raise CheckpointError(f"{folder.name} lacks {', '.join(missing)}; fetch it again")
        return cls(str(asked), folder, index["_class_name"], model)

    @cached_property
    def parts(self) -> Mapping[str, StockPart]:
        """What each of its networks holds, from the safetensors headers. CheckpointError where
        there is none, or a file is broken."""
        found = {}
        for part in _parts(_index(self.folder)):
            headers = [weight_header(file) for file in listed(self.folder / part, "*.safetensors")]
            numbers = [math.prod(entry["shape"]) for each in headers for entry in each.values()]
            if numbers:
                found[part] = StockPart.count(numbers)
        if not found:
            raise CheckpointError(f"{self.folder.name} holds no weights (safetensors)")
        return found

    def outlook(self, *, item: int, device_free: int | None, main_free: int) -> StockOutlook:
        """See ``StockOutlook.of``."""
        return StockOutlook.of(
            self.model.title, self.parts, item=item, device_free=device_free, main_free=main_free
        )

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over its ``model_index.json`` and the sha256 of each of its weight files, which
        the hub's client has as their names; others are read, once."""
        digest = hashlib.sha256((self.folder / "model_index.json").read_bytes())
        for part in self.parts:
            for file in listed(self.folder / part, "*.safetensors"):
                digest.update(f"{part}/{file.name} {_digest(file)}\n".encode())
        return digest.hexdigest()


def stock_name(source: str | Path) -> str:
    """What a model is known by: its hub id, or the name of its folder."""
    return Path(source).resolve().name if Path(source).is_dir() else str(source)


def check_names(sources: Sequence[str]) -> None:
    """CheckpointError where two of ``sources`` would be known by one name."""
    names = [stock_name(source) for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CheckpointError(
            f'two of the models of others are called "{twice}"; rename the folder of one'
        )


def stock_folder(source: str | Path, *, among: Sequence[str] = ()) -> Path:
    """The folder of a model, by path or hub id; CheckpointError where it is not here, which names
    those ``among`` which it may be chosen."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError) as error:
        titles = " or ".join(f"{model.title} ({model.licence})" for model in (WAN, HUNYUAN))
        offered = f"choose one of {', '.join(among)}, or get" if among else "get"
        raise CheckpointError(
            f'"{source}" is no folder, and nobody fetched a model of that name; {offered} {titles} '
            "with: hf download, for example Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"
        ) from error


def stock_model(folder: Path) -> StockModel:
    """Which model a folder holds, with its own settings; CheckpointError for one that is not
    known."""
    index = _index(folder)
    kind = index.get("_class_name")
    if kind not in STOCK_PIPELINES:
        raise CheckpointError(
            f'{folder.name} is a "{kind}"; this program runs {", ".join(STOCK_PIPELINES)}'
        )
    model = WAN_DENSE if index.get("expand_timesteps") else STOCK_PIPELINES[kind]
    return _with_own(model, folder)


def _with_own(model: StockModel, folder: Path) -> StockModel:
    """``model`` with what ``generation.json`` in its folder says otherwise."""
    if not (folder / OWN_SETTINGS).is_file():
        return model
    own = _json(folder / OWN_SETTINGS)
    kinds = {name: type(getattr(model, name)) for name in OWN}
    for name, value in own.items():
        if name not in OWN:
            raise CheckpointError(
                f'{OWN_SETTINGS} of {folder.name} has the key "{name}"; known: {", ".join(OWN)}'
            )
        number = kinds[name] in (int, float)
        taken = (kinds[name], int) if kinds[name] is float else (kinds[name],)
        if type(value) not in taken or (number and not 0 < value < math.inf):
            raise CheckpointError(
                f'"{name}" in {OWN_SETTINGS} of {folder.name} is {value!r}; expected '
                + ("a number above 0" if number else "words")
            )
    return replace(model, **{name: kinds[name](value) for name, value in own.items()})


def _parts(index: Mapping[str, Any]) -> list[str]:
    """The folders that a ``model_index.json`` names; [null, null] is a part left out."""
    return [
        name
        for name, entry in index.items()
        if not name.startswith("_") and isinstance(entry, list) and entry and entry[0]
    ]


def _index(folder: Path) -> dict[str, Any]:
    return _json(folder / "model_index.json")


def _json(file: Path) -> dict[str, Any]:
    """One JSON object. CheckpointError for anything else."""
    folder = file.parent.name
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} has no {file.name} that can be read: {error}") from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"{file.name} of {folder} must hold one JSON object")
    return entries


def _digest(file: Path) -> str:
    kept = file.resolve()
    if SHA256.fullmatch(kept.name):
        return kept.name
    return file_digest(kept)
