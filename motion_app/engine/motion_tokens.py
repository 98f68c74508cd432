"""Motion tokens: one tensor per attention layer, learned from one reference motion.

They act only as extra keys and values (FlexiMMT section 3.2): each layer has its own tokens and
drops their outputs, so at inference keys and values are computed once per motion and layer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from motion_app.engine.backbone import PUBLISHED_NAME, PUBLISHED_TOKENS
from motion_app.engine.layers import AttentionLayer, KeyValues
from motion_app.errors import MotionFileError, other_base
from motion_app.library.motion_file import format_of, read_header

DISTRIBUTIONS = ("uniform", "normal")
MOST_MEGABYTES = 256.0  # of a published file


@dataclass(frozen=True)
class MotionMetadata:
    """What a motion file says about itself.

    ``phrase``: the motion words of its training captions; ``base``: fingerprint of the base model
    it was learned on; ``config``: the training configuration, plain JSON; ``track``: the
    reference's true centroid track [T, 2] in pixels (y, x) where known; ``noun``: what moved in the
    reference; ``preview``: file name of its preview clip beside it, ``preview_sha256`` its digest;
    ``created``: ISO time. ``tokens``, ``layers`` and ``width`` are M, the number of layers and D.
    ``clip_errors`` as ``Motion.clip_errors``.
    """

    name: str
    phrase: str
    base: str
    method: str = "fleximmt"
    config: Mapping[str, Any] = field(default_factory=dict)
    track: Sequence[Sequence[float]] | None = None
    noun: str = ""
    preview: str = ""
    preview_sha256: str = ""
    created: str = ""
    tokens: int = 0
    layers: int = 0
    width: int = 0
    clip_errors: Sequence[float] | None = None

    def to_strings(self) -> dict[str, str]:
        """The string pairs a safetensors header can hold."""
        entries = asdict(self)
        entries["config"] = json.dumps(dict(self.config), sort_keys=True)
        entries["track"] = "" if self.track is None else json.dumps(self.track)
        errors = self.clip_errors
        entries["clip_errors"] = "" if errors is None else json.dumps([list(errors)])
        texts = {name: str(entry) for name, entry in entries.items()}
        return {"format": format_of(self.method), **texts}

    @classmethod
    def from_strings(cls, entries: Mapping[str, str], file: str) -> MotionMetadata:
        """Read back ``to_strings``; MotionFileError for another format or a broken entry."""
        came, expected = entries.get("format"), format_of(entries.get("method", ""))
        if came != expected:
            raise MotionFileError(
                f'{file} has the format "{came or "none"}", expected "{expected}"; a published .pt '
                "file is converted with import-motion"
            )
        missing = sorted({"name", "phrase", "base", "tokens", "layers", "width"} - set(entries))
        if missing:
            raise MotionFileError(f"{file} lacks the metadata {', '.join(missing)}; save it again")
        known = {entry.name for entry in fields(cls)}
        texts: dict[str, Any] = {name: text for name, text in entries.items() if name in known}
        try:
            for name in ("tokens", "layers", "width"):
                texts[name] = int(texts[name])
            texts["config"] = json.loads(texts.get("config") or "{}")
            texts["track"] = json.loads(texts.get("track") or "null")
            texts["clip_errors"] = json.loads(texts.get("clip_errors") or "[null]")[0]
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise MotionFileError(f"{file} has broken metadata: {error}") from error
        return cls(**texts)


class MotionTokens(nn.Module):
    """A motion: ``layers``, one parameter [M, D] per attention layer; ``metadata`` where it has
    been saved or loaded."""

    def __init__(self, layers: Sequence[Tensor], metadata: MotionMetadata | None = None) -> None:
        super().__init__()
        self.layers = nn.ParameterList([nn.Parameter(tokens) for tokens in layers])
        self.metadata = metadata

    @property
    def tokens(self) -> int:
        """M."""
        return self.layers[0].shape[0]

    @property
    def width(self) -> int:
        """D."""
        return self.layers[0].shape[1]

    @classmethod
    def fresh(
        cls,
        *,
        layers: int,
        tokens: int,
        width: int,
        scale: float = 0.003,
        distribution: str = "uniform",
        generator: torch.Generator | None = None,
    ) -> MotionTokens:
        """Untrained tokens: uniform in ±``scale`` (released: ±0.003) or normal with standard
        deviation ``scale`` (the pocket: 1.0, the attention input being layer-normed)."""
        if distribution not in DISTRIBUTIONS:
            raise ValueError(f"unknown distribution {distribution!r}; one of {DISTRIBUTIONS}")
        draws = torch.empty(layers, tokens, width)  # (layers, M, D)
        if distribution == "uniform":
            draws.uniform_(-scale, scale, generator=generator)
        else:
            draws.normal_(0, scale, generator=generator)
        return cls(list(draws))

    def project(self, layer: AttentionLayer) -> KeyValues:
        """Keys and values of one layer, (1, heads, M, d) each. With gradient to the tokens."""
        return layer.key_values(self.layers[layer.number])

    @torch.no_grad()
    def key_values(self, layers: Sequence[AttentionLayer]) -> list[KeyValues]:
        """``project`` for all ``layers`` of a model, for use in all steps. Raises MotionFileError
        where their number or width differ."""
        self.check_fits(layers=len(layers), width=layers[0].width)
        return [self.project(layer) for layer in layers]

    def check_fits(self, *, layers: int, width: int) -> None:
        """MotionFileError for a model of another number of layers or another width."""
        if (len(self.layers), self.width) != (layers, width):
            raise MotionFileError(
                f"the motion has {len(self.layers)} layers of width {self.width}, the model "
                f"{layers} of width {width}; use a motion made for this model"
            )

    def save(
        self, path: Path | str, metadata: MotionMetadata, *, dtype: torch.dtype = torch.float32
    ) -> MotionMetadata:
        """Write one safetensors file; M, layers and width of ``metadata`` are filled in here.
        Raises MotionFileError for tokens that are not finite."""
        counts = {"tokens": self.tokens, "layers": len(self.layers), "width": self.width}
        self.metadata = MotionMetadata(**{**_shallow(metadata), **counts})
        tensors = {
            f"layers.{layer}.motion_tokens": tokens.detach().to("cpu", dtype).contiguous()
            for layer, tokens in enumerate(self.layers)
        }
        _check_tensors(tensors, self.metadata, Path(path).name)
        save_file(tensors, path, metadata=self.metadata.to_strings())
        return self.metadata

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        layers: int | None = None,
        width: int | None = None,
        base: str | None = None,
    ) -> MotionTokens:
        """Read a motion file, float32, strictly; a preview packed into it is left alone.

        ``layers``, ``width`` and ``base`` are those of the model it shall steer; None leaves that
        check out. Raises MotionFileError for a file that is no motion file, a missing or extra
        layer, a wrong width, numbers that are not finite, or another base model.
        """
        path = Path(path)
        header = read_header(path)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = MotionMetadata.from_strings(header.metadata, path.name)
                tensors = {entry.name: file.get_tensor(entry.name) for entry in header.layers()}
        except (SafetensorError, OSError) as error:
            raise MotionFileError(f"{path.name} cannot be read as safetensors: {error}") from error
        _check_tensors(tensors, metadata, path.name)
        if layers is not None and layers != metadata.layers:
            raise MotionFileError(
                f"{path.name} has {metadata.layers} layers, the model {layers}; "
                "use a motion made for this model"
            )
        if width is not None and width != metadata.width:
            raise MotionFileError(
                f"{path.name} has tokens of width {metadata.width}, the model has width {width}; "
                "use a motion made for this model"
            )
        if base is not None and base != metadata.base:
            raise other_base(path.name, metadata.base, base)
        ordered = [tensors[f"layers.{i}.motion_tokens"].float() for i in range(metadata.layers)]
        return cls(ordered, metadata)

    @classmethod
    def import_published(
        cls, path: Path | str, *, most_megabytes: float = MOST_MEGABYTES
    ) -> MotionTokens:
        """The authors' ``pytorch_model.pt``: ``PUBLISHED_TOKENS`` of every layer, [1, M, D] each,
        bf16 or fp32. Read with ``weights_only``, so that
        the pickle can run nothing. Raises MotionFileError for any other content."""
        path = Path(path)
        try:
            megabytes = path.stat().st_size / 2**20
        except OSError as error:
            raise MotionFileError(f"{path.name} cannot be read: {error.strerror}") from error
        if megabytes > most_megabytes:
            raise MotionFileError(
                f"{path.name} is {megabytes:.0f} MB; a motion file may have {most_megabytes:g} MB"
            )
        try:
            entries = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises a dozen kinds for a file that is not its own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise MotionFileError(f"{path.name} cannot be read as weights: {reason}") from error
        if not isinstance(entries, Mapping):
            raise MotionFileError(f"{path.name} holds a {type(entries).__name__}, no named tensors")
        tensors: dict[str, Tensor] = {}
        for name, tensor in entries.items():
            found = PUBLISHED_NAME.fullmatch(str(name))
            whole = isinstance(tensor, Tensor) and tensor.is_floating_point()
            if not found or not whole or tensor.ndim != 3 or len(tensor) != 1:
                raise MotionFileError(
                    f'{path.name} holds "{name}"; expected only {PUBLISHED_TOKENS.format("*")} '
                    "of shape [1, M, D], floating point"
                )
            tensors[f"layers.{int(found[1])}.motion_tokens"] = tensor[0].float()  # (M, D)
        if not tensors:
            raise MotionFileError(f"{path.name} holds no motion tokens")
        tokens, width = next(iter(tensors.values())).shape
        expected = MotionMetadata("", "", "", tokens=tokens, layers=len(tensors), width=width)
        _check_tensors(tensors, expected, path.name)
        return cls([tensors[f"layers.{i}.motion_tokens"] for i in range(len(tensors))])


def _shallow(metadata: MotionMetadata) -> dict[str, Any]:
    return {entry.name: getattr(metadata, entry.name) for entry in fields(metadata)}


def _check_tensors(tensors: Mapping[str, Tensor], metadata: MotionMetadata, file: str) -> None:
    """Raise MotionFileError unless ``tensors`` are exactly what ``metadata`` promises."""
    if metadata.layers < 1 or metadata.tokens < 1:
        raise MotionFileError(
            f"{file} claims {metadata.layers} layers of {metadata.tokens} tokens; "
            "a motion has at least one of each"
        )
    expected = {f"layers.{layer}.motion_tokens" for layer in range(metadata.layers)}
    missing, extra = sorted(expected - set(tensors)), sorted(set(tensors) - expected)
    if missing or extra:
        parts = [
            f"{word} {', '.join(names)}"
            for word, names in (("lacks", missing), ("has the unexpected", extra))
            if names
        ]
        raise MotionFileError(f"{file} {' and '.join(parts)}; it is broken, get it again")
    shape = (metadata.tokens, metadata.width)
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise MotionFileError(
                f"{file}: {name} is {tuple(tensor.shape)} of {tensor.dtype}, expected {shape} of "
                "floating point numbers"
            )
        check_finite({name: tensor}, file)


def check_finite(tensors: Mapping[str, Tensor], file: str) -> None:
    """MotionFileError unless all of ``tensors`` by their names in a motion ``file`` are finite
    floating point numbers."""
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() and bool(torch.isfinite(tensor).all())):
            raise MotionFileError(f"{file}: {name} holds NaN or infinity; train the motion again")


@torch.no_grad()
def convert_published(
    path: Path | str,
    out: Path,
    *,
    layers: int,
    width: int,
    base: str,
    name: str,
    phrase: str,
    noun: str = "",
    most_megabytes: float = MOST_MEGABYTES,
) -> MotionMetadata:
    """The authors' file at ``path`` as a motion file ``out``, bound to the model of that many
    ``layers``, that ``width`` and the fingerprint ``base``. Raises MotionFileError where it is
    none, or does not fit."""
    tokens = MotionTokens.import_published(path, most_megabytes=most_megabytes)
    tokens.check_fits(layers=layers, width=width)
    metadata = MotionMetadata(
        name=name,
        phrase=phrase,
        base=base,
        noun=noun,
        config={"source": Path(path).name},
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
    )
    return tokens.save(out, metadata)
