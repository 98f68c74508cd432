"""One file for a motion and its preview: packed for the way, unpacked on arrival."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from motion_app.errors import MotionFileError
from motion_app.motion_files import PREVIEW, check_motion_file, read_header, tensor_bytes
from motion_app.scene import Motion

ALIGNMENT = 8  # bytes to which a safetensors header is padded with spaces


def pack_motion(motion: Motion, out: Path) -> Path:
    """Write ``motion`` to ``out`` with its preview clip inside; without one, the file as it is.
    Raises MotionFileError where it cannot be read."""
    header, payload = _read(motion.path)
    if motion.preview is not None and PREVIEW not in header:
        clip = motion.preview.read_bytes()
        place = [len(payload), len(payload) + len(clip)]
        header[PREVIEW] = {"dtype": "U8", "shape": [len(clip)], "data_offsets": place}
        payload += clip
    _write(out, header, payload)
    return out


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
    out.parent.mkdir(parents=True, exist_ok=True)
    if content:
        (out.parent / beside).write_bytes(content)
    _write(out, header, payload)
    check_motion_file(out)


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header with its order kept, and the bytes after it, of a file that was checked."""
    length = read_header(path).length
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + length])
    header.setdefault("__metadata__", {})
    return header, content[8 + length :]


def _write(path: Path, header: Mapping[str, Any], payload: bytes) -> None:
    """Written beside and moved into place, so that nobody lists half a motion."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(struct.pack("<Q", len(text)) + text + payload)
    partial.replace(path)
