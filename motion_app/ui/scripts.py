"""The page's own JavaScript, put together for the components that run it."""

from __future__ import annotations

from pathlib import Path

MOUNT = '<div class="mount"></div>'  # the scripts draw a component's ``markup`` into it
_FOLDER = Path(__file__).parent


def script(*names: str) -> str:
    """The text of the files ``name``.js one after the other: they share their functions."""
    return "\n".join((_FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in names)
