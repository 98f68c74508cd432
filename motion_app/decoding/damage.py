"""What the decoders raise on damaged files."""

from __future__ import annotations

import struct

from PIL import Image

BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError, MemoryError, struct.error),
    *(TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError, OverflowError),
    Image.DecompressionBombError,
)  # Pillow and libheif
