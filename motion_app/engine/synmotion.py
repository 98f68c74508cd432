"""What SynMotion learns of a motion: the semantic branch, which adds to the prompt's text states,
and the file that holds it with the adapter.

    e  = [ e_mot + Z_mot(e^l_mot), e_sub + Z_sub(e^l_sub) ]        Z: a convolution born as zero
    e' = e + Z_ref(R(e))                                           R: the refiner
    (supplement, section 3.1)

Tokens keep their places and only subject and motion words are touched, so an instruction ("…, cut
paper style") and the padding stay as they are, to the bit. Each object's clause is enriched by its
own motion alone. Z_mot(e^l_mot) and Z_sub(e^l_sub) depend on no input: folded, they are tables.

A ``MotionPack`` lies in one safetensors file, folded, alone (method "synmotion") or beside motion
tokens ("both"). The metadata entry "synmotion" is JSON: ``pieces`` (token ids of the motion words),
``apart`` (how they were read), ``heads`` of the refiner, ``scale`` of the adapter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from motion_app.engine.adapters import PLACES, Adapter
from motion_app.engine.layers import AttentionLayer
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens, check_finite
from motion_app.errors import MotionFileError, RequestError, other_base
from motion_app.library.motion_file import PACK_PREFIX, read_header
from motion_app.methods import PACK_METHODS
from motion_app.scene import Clause

SUBJECT_ROLE, MOTION_ROLE = 0, 1
ENTRY = "synmotion"  # of the metadata


def zero_conv(width: int, kind: str = "full") -> nn.Conv1d:
    """A convolution over tokens with kernel 1 that gives zero until it is trained; "depthwise" has
    one factor a channel."""
    groups = {"full": 1, "depthwise": width}[kind]
    conv = nn.Conv1d(width, width, 1, groups=groups)
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


def _over_tokens(conv: nn.Conv1d, states: Tensor) -> Tensor:
    """``conv`` on states (n, width)."""
    return conv(states.T).T  # (n, width)


def _residuals(conv: nn.Conv1d | None, embedding: Tensor | None) -> Tensor | None:
    """``conv`` on ``embedding`` (n, width); None where they are not learned."""
    return None if conv is None or embedding is None else _over_tokens(conv, embedding)


def _parameters(part: nn.Module | nn.Parameter | None) -> list[nn.Parameter]:
    if part is None:
        return []
    return [part] if isinstance(part, nn.Parameter) else list(part.parameters())


class Refiner(nn.Module):
    """R: subject and motion words of one clause look at each other, without order and both ways.

    ``width``, ``layers``, ``heads`` and ``feed_forward`` are ours; the paper gives none.
    """

    def __init__(
        self, text_width: int, *, width: int, layers: int, heads: int, feed_forward: int
    ) -> None:
        super().__init__()
        self.heads = heads
        self.inward = nn.Linear(text_width, width)
        self.roles = nn.Embedding(2, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                heads,
                feed_forward,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )
        self.outward = nn.Linear(width, text_width)

    def forward(self, states: Tensor, roles: Tensor) -> Tensor:
        """``states`` (n, text width) of one clause, ``roles`` (n,) int64; the same shape."""
        mixed = (self.inward(states) + self.roles(roles))[None]  # (1, n, width)
        for block in self.blocks:
            mixed = block(mixed)
        return self.outward(mixed[0])  # (n, text width)


class SemanticBranch(nn.Module):
    """The branch as it is used: tables of residuals, the refiner and its zero-conv, each of which
    may be missing (None) where it was never learned.

    ``motion`` (L_m, text width): one row a piece of the motion words; ``subject`` (n, text width):
    for a subject of more pieces the last row stands for the rest.
    """

    def __init__(
        self,
        motion: Tensor | None,
        subject: Tensor | None,
        refiner: Refiner | None,
        z_ref: nn.Conv1d | None,
    ) -> None:
        super().__init__()
        self.motion: Tensor | None
        self.subject: Tensor | None
        self.register_buffer("motion", motion)
        self.register_buffer("subject", subject)
        self.refiner, self.z_ref = refiner, z_ref

    def forward(
        self,
        text: Tensor,
        clause: Clause,
        *,
        strength: float = 1.0,
        without: Collection[str] = (),
    ) -> Tensor:
        """``text`` (L, text width) with one clause enriched. ``without``: "mot", "sub", "refiner";
        ``strength`` scales all that is added, 0 gives ``text`` itself."""
        return enrich(
            text,
            clause,
            motion=None if "mot" in without else self.motion,
            subject=None if "sub" in without else self.subject,
            mixer=None if "refiner" in without else self.mixer,
            strength=strength,
        )

    @property
    def mixer(self) -> Mixer | None:
        """R and Z_ref; None where they were never learned."""
        return Mixer.of(self.refiner, self.z_ref)


class Mixer:
    """Z_ref(R(e)) of one clause."""

    @classmethod
    def of(cls, refiner: Refiner | None, z_ref: nn.Conv1d | None) -> Mixer | None:
        """None where one of the two is."""
        return None if refiner is None or z_ref is None else cls(refiner, z_ref)

    def __init__(self, refiner: Refiner, z_ref: nn.Conv1d) -> None:
        self.refiner, self.z_ref = refiner, z_ref

    def __call__(self, states: Tensor, roles: Tensor) -> Tensor:
        return _over_tokens(self.z_ref, self.refiner(states, roles))  # (n, text width)


def enrich(
    text: Tensor,
    clause: Clause,
    *,
    motion: Tensor | None,
    subject: Tensor | None,
    mixer: Mixer | None,
    strength: float = 1.0,
) -> Tensor:
    """e' of ``text`` (L, text width) for one clause; every row outside it is untouched."""
    positions, offsets, roles = [], [], []
    for span, table, role in (
        (clause.subject, subject, SUBJECT_ROLE),
        (clause.motion, motion, MOTION_ROLE),
    ):
        if span is None:
            continue
        rows = torch.arange(span[1] - span[0], device=text.device)
        positions.append(rows + span[0])
        roles.append(torch.full_like(rows, role))
        if table is None:
            offsets.append(torch.zeros(len(rows), text.shape[1], device=text.device))
        else:
            offsets.append(table[rows.clamp(max=len(table) - 1)].float())
    place, added = torch.cat(positions), torch.cat(offsets)  # (n,), (n, text width)
    if mixer is not None:
        added = added + mixer(text[place].float() + added, torch.cat(roles))
    return text.index_add(0, place, (strength * added).to(text.dtype))  # (L, text width)


class DualEmbedding(nn.Module):
    """The branch as it is learned: e^l_mot, e^l_sub, three zero-convs and the refiner, float32.

    ``e_mot`` must not be zero, nor ``e_sub``: a zero-conv of zeros never learns. ``parts`` of
    "mot", "sub", "refiner" are there, the others missing.
    """

    def __init__(
        self,
        e_mot: Tensor,
        e_sub: Tensor,
        *,
        parts: Collection[str],
        kind: str,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
    ) -> None:
        super().__init__()
        text_width = e_mot.shape[1]
        has = {part: part in parts for part in ("mot", "sub", "refiner")}
        self.e_mot = nn.Parameter(e_mot.clone().float()) if has["mot"] else None
        self.z_mot = zero_conv(text_width, kind) if has["mot"] else None
        self.e_sub = nn.Parameter(e_sub.clone().float()) if has["sub"] else None
        self.z_sub = zero_conv(text_width, kind) if has["sub"] else None
        self.refiner = self.z_ref = None
        if has["refiner"]:
            self.refiner = Refiner(
                text_width, width=width, layers=layers, heads=heads, feed_forward=feed_forward
            )
            self.z_ref = zero_conv(text_width, kind)

    def tables(self) -> tuple[Tensor | None, Tensor | None]:
        """Z_mot(e^l_mot) and Z_sub(e^l_sub), with gradient."""
        return _residuals(self.z_mot, self.e_mot), _residuals(self.z_sub, self.e_sub)

    def forward(self, text: Tensor, clause: Clause, *, motion_residual: str = "learn") -> Tensor:
        """e' of ``text`` (L, text width). ``motion_residual``: "learn", "detach" (added, no
        gradient to it, neither directly nor through the refiner) or "omit"."""
        motion, subject = self.tables()
        if motion_residual == "omit":
            motion = None
        elif motion_residual == "detach" and motion is not None:
            motion = motion.detach()
        mixer = Mixer.of(self.refiner, self.z_ref)
        return enrich(text, clause, motion=motion, subject=subject, mixer=mixer)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """θ_mot, θ_sub and θ_ref, by the part they belong to."""
        parts: dict[str, tuple[nn.Module | nn.Parameter | None, ...]] = {
            "mot": (self.e_mot, self.z_mot),
            "sub": (self.e_sub, self.z_sub),
            "refiner": (self.refiner, self.z_ref),
        }
        return {
            name: [p for part in held for p in _parameters(part)] for name, held in parts.items()
        }

    @torch.no_grad()
    def fold(self) -> SemanticBranch:
        """The same branch with its input-free parts computed once."""
        return SemanticBranch(*self.tables(), self.refiner, self.z_ref)


def check_words(pieces: tuple[int, ...], came: tuple[int, ...], *, name: str, phrase: str) -> None:
    """RequestError unless the prompt's motion words are those the motion was learned with: its
    embedding has one row for each of their pieces."""
    if pieces != came:
        raise RequestError(
            f'the motion "{name}" was learned by SynMotion with the words "{phrase}"; write them '
            "as its phrase"
        )


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
        check_finite(tensors, Path(path).name)
        said = {"pieces": list(self.pieces), "heads": self._heads, "scale": self._scale}
        if self.apart:  # unsaid in files of before there was a choice
            said["apart"] = True
        save_file(tensors, path, metadata={**metadata.to_strings(), ENTRY: json.dumps(said)})
        return metadata

    @property
    def _heads(self) -> int:
        return 0 if self.branch.refiner is None else self.branch.refiner.heads

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
        layers: Sequence[AttentionLayer] | None = None,
        text_width: int | None = None,
        base: str | None = None,
    ) -> MotionPack:
        """Read a pack, float32, strictly. ``layers``, ``text_width`` and ``base`` are those of
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
        check_finite(tensors, path.name)
        if base is not None and base != metadata.base:
            raise other_base(path.name, metadata.base, base)
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
        if layers is not None and pack.adapter is not None:
            pack.adapter.check_fits(layers, file=path.name)
        return pack


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
    motion, subject = tensors.get("motion"), tensors.get("subject")
    if any(table is not None and table.ndim != 2 for table in (motion, subject)):
        raise ValueError("a table of residuals has not two axes")
    branch = SemanticBranch(motion, subject, refiner, z_ref)
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
