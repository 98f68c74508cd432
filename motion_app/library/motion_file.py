"""A motion file seen as bytes: an 8-byte length, a JSON header, the numbers. No torch.

Files come from strangers, so nothing a header claims is believed before it was compared with the
file. A motion in the library has its preview clip beside it; one that travels carries it inside, as
the bytes of the tensor ``preview``, and taking that out again gives the first file byte for byte.

Here it is read and checked; ``motion_parcel`` writes it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from motion_app.errors import MotionFileError, other_base
from motion_app.methods import LORA_METHODS, PACK_METHODS
from motion_app.scene import Motion
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.text_files import file_digest

FORMAT = "motion-tokens/1"
PACK_FORMAT = "motion-pack/1"  # of a file with what SynMotion learned, with or without tokens
LORA_FORMAT = "motion-lora/1"  # of a file with a low-rank adapter of the whole model
PACK_PREFIX = "synmotion."
LORA_NAME = re.compile(r"lora\.(to_q|to_k|to_v|to_out)\.(down|up)")
PACK_NAME = re.compile(r"synmotion\.[a-z0-9_.]{1,100}")
MOST_DIMENSIONS = 3
SUFFIX = ".safetensors"
PREVIEW = "preview"
CLIP_FRAMES, CLIP_MASKS = "clip.frames", "clip.masks"  # of the reference, see ``motion_clip``
CLIP_SIZES = "clip"  # the metadata that tell their sizes
CLIP_OUTLINE = "outline"  # and the mover's outline, as ``motion_clip.outline`` has it
REQUIRED_KEYS = ("name", "phrase", "method", "base")
MAX_HEADER_BYTES = 8 * 2**20  # 42 layers need some 6 KB; a longer header is an attack or a mistake
MAX_LETTERS = {"name": 80, "phrase": 240, "noun": 240, "method": 40, "base": 80, "preview": 120}
OUTLINE = ("y", "x", "height", "width", "turned", "reshaped")  # of the mover in each frame
MAX_TRACK = 10_000  # points; a clip has 1,200 frames at most
ITEM_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
LAYER_NAME = re.compile(r"layers\.(0|[1-9]\d{0,3})\.motion_tokens")
BROKEN = "is not a safetensors file: broken header"


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a header: bytes ``start`` to ``stop`` after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class MotionHeader:
    """``metadata`` as it stands, ``tensors`` in the order of their bytes; ``length`` bytes of JSON,
    then ``payload`` bytes of numbers."""

    metadata: Mapping[str, str]
    tensors: tuple[TensorEntry, ...]
    length: int
    payload: int

    def layers(self) -> list[TensorEntry]:
        """The motion tokens, and whatever is neither pack, LoRA, clip nor preview."""
        others = {PREVIEW, CLIP_FRAMES, CLIP_MASKS, *(entry.name for entry in self.lora())}
        return [
            entry
            for entry in self.tensors
            if entry.name not in others and not entry.name.startswith(PACK_PREFIX)
        ]

    def pack(self) -> list[TensorEntry]:
        """What SynMotion learned."""
        return [entry for entry in self.tensors if entry.name.startswith(PACK_PREFIX)]

    def lora(self) -> list[TensorEntry]:
        """The low-rank adapter, "lora.PROJECTION.down" (layers, rank, D) and ".up" (layers, D,
        rank)."""
        return [entry for entry in self.tensors if LORA_NAME.fullmatch(entry.name)]

    def learned(self) -> list[TensorEntry]:
        """All that is neither clip nor preview."""
        return [*self.layers(), *self.pack(), *self.lora()]

    def named(self, name: str) -> TensorEntry | None:
        """The tensor of that name, None where there is none."""
        return next((entry for entry in self.tensors if entry.name == name), None)

    @property
    def preview(self) -> TensorEntry | None:
        return self.named(PREVIEW)


def read_header(path: Path | str, *, limits: Limits = DEFAULT_LIMITS) -> MotionHeader:
    """The header of a safetensors file, compared with the file's length.

    Raises MotionFileError for a file that is missing, too large, cut off, or no safetensors file.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > limits.motion_megabytes * 2**20:
            raise MotionFileError(
                f"{path.name} is {size / 2**20:.0f} MB; a motion file may have "
                f"{limits.motion_megabytes:g} MB"
            )
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise MotionFileError(f"{path.name} is not a safetensors file, or was cut off")
            header = json.loads(file.read(length))
    except OSError as error:
        raise MotionFileError(f"{path.name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise MotionFileError(f"{path.name} {BROKEN}") from error
    if not isinstance(header, dict):
        raise MotionFileError(f"{path.name} {BROKEN}")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise MotionFileError(f"{path.name} has metadata that are no texts; get it again")
    payload = size - 8 - length
    tensors = sorted(
        (_tensor_entry(path, name, entry) for name, entry in header.items()),
        key=lambda entry: (entry.start, entry.stop),
    )
    _check_layout(path, tensors, payload)
    return MotionHeader(metadata, tuple(tensors), length, payload)


def _tensor_entry(path: Path, name: str, entry: Any) -> TensorEntry:
    if not isinstance(entry, dict):
        raise MotionFileError(f"{path.name} {BROKEN}")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    whole = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
    counts = [*shape, *offsets] if whole else [None]
    if not isinstance(dtype, str) or not all(type(n) is int and 0 <= n < 2**62 for n in counts):
        raise MotionFileError(f"{path.name} {BROKEN}")
    return TensorEntry(name, dtype, tuple(shape), *offsets)


def _check_layout(path: Path, tensors: list[TensorEntry], payload: int) -> None:
    """A download that stopped half-way has a whole header and too few bytes after it."""
    promised = max((entry.stop for entry in tensors), default=0)
    if promised != payload:
        raise MotionFileError(
            f"{path.name} should hold {promised} bytes of tokens but holds {payload}; "
            "copy or download it again"
        )
    place = 0
    for entry in tensors:
        if entry.start != place or entry.stop < entry.start:
            raise MotionFileError(
                f"{path.name}: {entry.name[:60]} lies at bytes {entry.start} to {entry.stop}, but "
                f"the one before ends at {place}; the file is broken, get it again"
            )
        place = entry.stop


def read_motion(path: Path | str, *, limits: Limits = DEFAULT_LIMITS) -> Motion:
    """One motion file as the library lists it; MotionFileError where it is not one."""
    path = Path(path)
    header = read_header(path, limits=limits)
    try:
        return _motion(path, header)
    except OSError as error:  # it has just been deleted
        raise MotionFileError(f"{path.name} cannot be read: {error.strerror}") from error


def _motion(path: Path, header: MotionHeader) -> Motion:
    motion = motion_of(path, header.metadata, {entry.name for entry in header.tensors})
    preview_name = header.metadata.get("preview") or ""
    # Only a name beside the file: metadata comes from strangers and must not reach other folders.
    preview = path.parent / Path(preview_name).name if preview_name else None
    return replace(
        motion,
        preview=preview if preview is not None and preview.is_file() else None,
        digest=file_digest(path),
    )


def motion_of(path: Path, metadata: Mapping[str, str], tensors: Collection[str]) -> Motion:
    """The motion that a header with these ``metadata`` and names of ``tensors`` tells of, without
    preview and digest; ``path`` need not be on this machine. Raises MotionFileError."""
    came, expected = metadata.get("format"), format_of(metadata.get("method") or "")
    if came != expected:
        raise MotionFileError(
            f'{path.name} has the format "{(came or "none")[:40]}", expected "{expected}"; '
            "published .pt files come in through the import-motion command"
        )
    missing = [key for key in REQUIRED_KEYS if not metadata.get(key)]
    if missing:
        raise MotionFileError(f"{path.name} lacks the metadata {', '.join(missing)}")
    for key, most in MAX_LETTERS.items():
        check_words(path.name, key, metadata.get(key) or "", most)
    return Motion(
        name=metadata["name"],
        phrase=metadata["phrase"],
        path=path,
        base=metadata["base"],
        method=metadata["method"],
        track=_read_rows(path, "track", metadata.get("track") or "", ("y", "x")),
        outline=_read_rows(path, CLIP_OUTLINE, metadata.get(CLIP_OUTLINE) or "", OUTLINE),
        created=_read_time(path, metadata.get("created") or ""),
        noun=metadata.get("noun") or "",
        steps=_read_steps(path, metadata.get("config") or "{}"),
        has_clip=CLIP_FRAMES in tensors,
        has_mover=CLIP_MASKS in tensors,
        clip_errors=_read_errors(path, metadata.get("clip_errors") or ""),
    )


def format_of(method: str) -> str:
    """The format of a motion file by the method it was learned with."""
    if method in LORA_METHODS:
        return LORA_FORMAT
    return PACK_FORMAT if method in PACK_METHODS else FORMAT


def check_words(file: str, key: str, text: str, most: int) -> None:
    """Raise MotionFileError for a name or phrase that no line of a page can show."""
    if len(text) > most:
        raise MotionFileError(f"the {key} of {file} has {len(text)} characters; at most {most} fit")
    if not all(letter.isprintable() for letter in text):
        raise MotionFileError(f"the {key} of {file} holds unprintable characters; write it anew")


def _read_rows(
    path: Path, key: str, text: str, columns: Sequence[str]
) -> tuple[tuple[float, ...], ...] | None:
    """Of each frame the numbers ``columns``, from the JSON ``text`` of ``key``; None for ""."""
    if not text:
        return None
    try:
        rows = tuple(tuple(float(value) for value in row) for row in json.loads(text))  # (T, n)
        finite = all(math.isfinite(value) for row in rows for value in row)
        if len(rows) > MAX_TRACK or not finite or any(len(row) != len(columns) for row in rows):
            raise ValueError("too long, not finite, or of another width")
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        named = ", ".join(columns)
        raise MotionFileError(f'the "{key}" of {path.name} is not a list of [{named}]') from error
    return rows


def _read_errors(path: Path, text: str) -> tuple[float, float] | None:
    rows = _read_rows(path, "clip_errors", text, ("before", "after"))
    if rows is None:
        return None
    if len(rows) != 1 or min(rows[0]) <= 0:
        raise MotionFileError(f'the "clip_errors" of {path.name} are not two numbers above 0')
    before, after = rows[0]
    return before, after


def _read_time(path: Path, text: str) -> str:
    try:
        return "" if not text else datetime.fromisoformat(text).isoformat()
    except ValueError as error:
        raise MotionFileError(
            f'the "created" of {path.name} is "{text[:40]}", expected a time such as '
            "2026-01-31T12:00:00+00:00"
        ) from error


def _read_steps(path: Path, text: str) -> int:
    """Training steps from the training's settings; 0 where they do not say."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MotionFileError(f'the "config" of {path.name} is not JSON') from error
    if not isinstance(config, dict):
        raise MotionFileError(f'the "config" of {path.name} is no JSON object')
    steps = config.get("steps", 0)
    return steps if type(steps) is int and steps >= 0 else 0


def check_motion_file(
    path: Path | str,
    *,
    base: str | None = None,
    layers: int | None = None,
    width: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Motion:
    """``read_motion`` of a file from anywhere, with every number of it looked at.

    ``layers``, ``width`` and ``base`` are those of the loaded model; None leaves that check out.
    Raises MotionFileError that names what is wrong.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise MotionFileError(f"{path.name} is no {SUFFIX} file; choose an exported motion")
    header = read_header(path, limits=limits)
    motion = _motion(path, header)
    if base is not None and motion.base != base:
        raise other_base(f'the motion "{motion.name}"', motion.base, base)
    claimed = {key: _count(path, header.metadata, key) for key in ("layers", "width")}
    claimed["tokens"] = _count(path, header.metadata, "tokens") if motion.has_tokens else 0
    for key, wanted in (("layers", layers), ("width", width)):
        if wanted is not None and claimed[key] != wanted:
            raise MotionFileError(
                f"{path.name} has {key} {claimed[key]}, the model {wanted}; use a motion made for "
                "this model"
            )
    _check_tensors(path, header, claimed)
    _check_pack(path, header, motion)
    _check_lora(path, header, motion, claimed)
    _check_numbers(path, header)
    return motion


def _count(path: Path, metadata: Mapping[str, str], key: str) -> int:
    text = metadata.get(key) or ""
    if not re.fullmatch(r"[1-9]\d{0,6}", text):
        raise MotionFileError(
            f'the "{key}" of {path.name} is "{text[:40]}", expected a whole number above 0'
        )
    return int(text)


def _check_tensors(path: Path, header: MotionHeader, claimed: Mapping[str, int]) -> None:
    """Names, shapes and types are exactly what the metadata promise."""
    names = {entry.name for entry in header.layers()}
    layers = min(claimed["layers"], 9999) if claimed["tokens"] else 0
    expected = {f"layers.{layer}.motion_tokens" for layer in range(layers)}
    strange = sorted(names - expected)
    if strange:
        raise MotionFileError(
            f'{path.name} has the unexpected tensor "{strange[0][:60]}"; it is no motion of this '
            "app, or broken"
        )
    if len(names) != layers:
        raise MotionFileError(
            f"{path.name} promises {layers} layers and holds {len(names)}; get it again"
        )
    shape = (claimed["tokens"], claimed["width"])
    for entry in header.layers():
        size = ITEM_BYTES.get(entry.dtype, 0) * shape[0] * shape[1]
        if entry.shape != shape or not size or entry.stop - entry.start != size:
            raise MotionFileError(
                f"{path.name}: {entry.name} is {entry.shape} of {entry.dtype[:12]} in "
                f"{entry.stop - entry.start} bytes, expected {shape} of floating point numbers"
            )
    for name in (PREVIEW, CLIP_FRAMES, CLIP_MASKS):
        part = header.named(name)
        if part is not None and (part.dtype != "U8" or part.shape != (part.stop - part.start,)):
            raise MotionFileError(f"{path.name}: its {name} is no row of bytes; get it again")


def _check_pack(path: Path, header: MotionHeader, motion: Motion) -> None:
    """What SynMotion learned is there where the method says so, as plain numbers; whether its
    parts fit together is seen when it is loaded."""
    entries = header.pack()
    if bool(entries) != motion.has_pack:
        has = "holds" if entries else "lacks"
        raise MotionFileError(
            f'{path.name} {has} what SynMotion learns, and its method is "{motion.method}"; '
            "get it again"
        )
    for entry in entries:
        count = math.prod(entry.shape) if len(entry.shape) <= MOST_DIMENSIONS else 0
        size = ITEM_BYTES.get(entry.dtype, 0) * count
        if not PACK_NAME.fullmatch(entry.name) or not size or entry.stop - entry.start != size:
            raise MotionFileError(
                f"{path.name}: {entry.name[:60]} is {entry.shape} of {entry.dtype[:12]} in "
                f"{entry.stop - entry.start} bytes, expected floating point numbers"
            )


def _check_lora(
    path: Path, header: MotionHeader, motion: Motion, claimed: Mapping[str, int]
) -> None:
    """A LoRA is there where the method says so: both sides of each projection, of one rank."""
    found = {entry.name: entry for entry in header.lora()}
    if bool(found) != motion.has_lora:
        raise MotionFileError(
            f"{path.name} {'holds' if found else 'lacks'} a LoRA, and its method is "
            f'"{motion.method}"; get it again'
        )
    layers, width = claimed["layers"], claimed["width"]
    ranks = {entry.shape[1:2] for name, entry in found.items() if name.endswith(".down")}
    for place in {name.rpartition(".")[0] for name in found}:
        rank = next(iter(ranks), (0,))[0] if len(ranks) == 1 else 0
        for side, shape in (("down", (layers, rank, width)), ("up", (layers, width, rank))):
            entry = found.get(f"{place}.{side}")
            size = 0 if entry is None else ITEM_BYTES.get(entry.dtype, 0) * math.prod(shape)
            if (
                entry is None
                or entry.shape != shape
                or not size
                or size != entry.stop - entry.start
            ):
                came = "missing" if entry is None else f"{entry.shape} of {entry.dtype[:12]}"
                raise MotionFileError(
                    f"{path.name}: {place}.{side} is {came}, expected {shape} of floating point "
                    "numbers, of one rank in all of them; get it again"
                )


def _check_numbers(path: Path, header: MotionHeader) -> None:
    """No NaN and no infinity among what was learned; the preview is the one the metadata know."""
    for entry in header.learned():
        if not _finite(tensor_bytes(path, header, entry), entry.dtype):
            raise MotionFileError(
                f"{path.name}: {entry.name} holds NaN or infinity; train the motion again"
            )
    wanted = header.metadata.get("preview_sha256")
    if header.preview is not None and wanted:
        came = hashlib.sha256(tensor_bytes(path, header, header.preview)).hexdigest()
        if came != wanted:
            raise MotionFileError(f"the preview inside {path.name} was damaged; get it again")


def _finite(content: bytes, dtype: str) -> bool:
    if dtype == "BF16":  # an exponent of ones alone
        return not ((np.frombuffer(content, "<u2") & 0x7F80) == 0x7F80).any()
    kind = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]
    return bool(np.isfinite(np.frombuffer(content, kind)).all())


def tensor_bytes(path: Path, header: MotionHeader, entry: TensorEntry) -> bytes:
    """The numbers of one tensor as they lie in the file."""
    with path.open("rb") as file:
        file.seek(8 + header.length + entry.start)
        return file.read(entry.stop - entry.start)


def numbers_digest(path: Path) -> str:
    """sha256 of what was learned, hexadecimal: the same under any name, with its preview inside or
    beside it. Raises MotionFileError."""
    header = read_header(path)
    digest = hashlib.sha256()
    for entry in header.learned():
        digest.update(f"{entry.name} {entry.dtype} {entry.shape}".encode())
        digest.update(tensor_bytes(path, header, entry))
    return digest.hexdigest()
