"""What runs in the child process of ``sandbox``: files of strangers become pixels.

What a header claims is checked against the limits before anything is decoded, only known formats
are opened, and a network address is never followed. Every function takes a path or a file's bytes
and plain options, and yields facts and arrays; MediaError for a file that cannot be used.
"""

from __future__ import annotations

import pillow_heif
from PIL import Image

from motion_app.media.decoders import (
    clips,  # noqa: F401  loaded for every child at once
    pictures,
)


def prepare() -> None:
    """Load once what Pillow otherwise loads in every child: its plug-ins for formats."""
    Image.init()
    pillow_heif.register_heif_opener()
    pictures.allow_profiles()
