"""A motion file written: packed with its preview for the way, unpacked on arrival, renamed.

What is written lies beside its place first and is moved there, so that nobody lists half a motion.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from motion_app.errors import MotionFileError
from motion_app.library.motion_file import PREVIEW, check_motion_file, read_header, tensor_bytes
from motion_app.scene import Motion
from motion_app.text_files import write_whole

ALIGNMENT = 8  # bytes to which a safetensors header is padded with spaces


def replace_bytes(
    path: Path, parts: Mapping[str, bytes | None], metadata: Mapping[str, str]
) -> None:
    """Write rows of bytes into the motion file at ``path``, by their names and in the place of what
    has these names; None takes one out. ``metadata`` are added. Raises MotionFileError."""
    source = read_header(path)
    header, payload = _read(path)
    kept = {entry.name: payload[entry.start : entry.stop] for entry in source.tensors}
    written: dict[str, Any] = {"__metadata__": {**header["__metadata__"], **metadata}}
    pieces: list[bytes] = []
    place = 0
    for name, content in {**kept, **parts}.items():
        if content is None:
            continue
        entry = header[name] if name not in parts else {"dtype": "U8", "shape": [len(content)]}
        written[name] = {**entry, "data_offsets": [place, place + len(content)]}
        pieces.append(content)
        place += len(content)
    _write(path, written, b"".join(pieces))


def pack_motion(motion: Motion, out: Path) -> Path:
    """Write ``motion`` to ``out`` with its preview clip inside; without one, the file as it is.
    Raises MotionFileError where it cannot be read."""
    header, payload = _read(motion.path)
    if motion.preview is not None and PREVIEW not in header:
        clip = _bytes_of(motion.preview)
        place = [len(payload), len(payload) + len(clip)]
        header[PREVIEW] = {"dtype": "U8", "shape": [len(clip)], "data_offsets": place}
        payload += clip
    _write(out, header, payload)
    return out


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:  # it has just been deleted
        raise MotionFileError(f"{path.name} cannot be read: {error.strerror}") from error


def unpack_motion(path: Path, out: Path, *, name: str | None = None) -> None:
    """Write the motion in ``path`` to ``out``, its preview beside it under the same stem.

    ``name`` gives it another one. Without, and with a preview of that stem, ``out`` is byte for
    byte what was packed. Raises MotionFileError.
    """
    source = read_header(path)
    header, payload = _read(path)
    clip = header.pop(PREVIEW, None)
    content = b""
    if clip is not None:
        content = tensor_bytes(path, source, source.preview)
        if source.preview.stop != source.payload:
            raise MotionFileError(f"{path.name}: its preview does not come last; export it again")
        payload = payload[: source.preview.start]
    metadata: dict[str, Any] = header["__metadata__"]
    if name is not None and name != metadata["name"]:
        metadata["name"] = name
    beside = out.with_suffix(".mp4").name if content else ""
    if (metadata.get("preview") or "") != beside:
        metadata["preview"] = beside
    if content:
        write_whole(out.with_name(beside), lambda part: part.write_bytes(content))
    _write(out, header, payload)
    check_motion_file(out)


def rename_motion(path: Path, name: str) -> None:
    """Give the motion in ``path`` another name, in place. Raises MotionFileError."""
    header, payload = _read(path)
    header["__metadata__"]["name"] = name
    _write(path, header, payload)


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header with its order kept, and the bytes after it, of a file that was checked."""
    length = read_header(path).length
    content = _bytes_of(path)
    header = json.loads(content[8 : 8 + length])
    header.setdefault("__metadata__", {})
    return header, content[8 + length :]


def _write(path: Path, header: Mapping[str, Any], payload: bytes) -> None:
    """Written beside and moved into place, so that nobody lists half a motion."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    content = struct.pack("<Q", len(text)) + text + payload
    try:
        write_whole(path, lambda part: part.write_bytes(content))
    except OSError as error:
        raise MotionFileError(f"{path.name} cannot be written: {error.strerror}") from error
