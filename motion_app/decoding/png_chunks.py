"""Chunks of a PNG that are larger than pictures need: drawing programs and generators of pictures
keep whole workflows in its texts."""

from __future__ import annotations

import struct
import zlib

TEXT_BYTES = 2**20  # of all texts together, unpacked; more than enough for the XMP of a camera
PROFILE_BYTES = 8 * 2**20  # of a colour profile, unpacked
PNG_START = b"\x89PNG\r\n\x1a\n"  # before the first chunk
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
HEAD = struct.Struct(">I4s")  # before each chunk's content: its length and kind
CHECKSUM = 4  # bytes after it


def slimmed(content: bytes) -> tuple[bytes, bool]:
    """A PNG without texts beyond ``TEXT_BYTES`` and a profile beyond ``PROFILE_BYTES``; and whether
    a profile was left out. Nothing else of it is looked at, damaged or not."""
    kept, start, place, room, profile_left_out = [], 0, len(PNG_START), TEXT_BYTES, False
    while place + HEAD.size <= len(content):
        length, kind = HEAD.unpack_from(content, place)
        end = place + HEAD.size + length + CHECKSUM
        if end > len(content):
            break
        too_large = False
        if kind in TEXTS:
            size = _unpacked_size(kind, content[place + HEAD.size : end - CHECKSUM], TEXT_BYTES)
            too_large = size > room
            room -= 0 if too_large else size
        elif kind == b"iCCP":
            profile = content[place + HEAD.size : end - CHECKSUM]
            too_large = _unpacked_size(kind, profile, PROFILE_BYTES) > PROFILE_BYTES
            profile_left_out |= too_large
        if too_large:
            kept.append(content[start:place])
            start = end
        place = end
    return b"".join([*kept, content[start:]]), profile_left_out


def _unpacked_size(kind: bytes, body: bytes, most: int) -> int:
    """Bytes of a chunk once unpacked, up to ``most`` + 1; its own where it is not packed."""
    _, _, packed = body.partition(b"\0")
    if kind == b"iTXt":
        flags, words = packed[:2], packed[2:].split(b"\0", 2)
        if flags[:1] != b"\1" or len(words) < 3:
            return len(body)
        packed = words[2]
    elif kind == b"tEXt":
        return len(body)
    else:
        packed = packed[1:]
    try:
        return len(zlib.decompressobj().decompress(packed, most + 1))
    except zlib.error:
        return len(body)
