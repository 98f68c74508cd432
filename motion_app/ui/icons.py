"""Small pictures on buttons: lines on a 24 × 24 grid, in the colour of the text."""

from __future__ import annotations

from types import MappingProxyType

_PATHS = MappingProxyType(
    {
        "add": "M12 5v14M5 12h14",
        "remove": "M5 12h14",
        "box": "M4 4h4M16 4h4v4M20 16v4h-4M8 20H4v-4M4 8V4M11 4h2M20 11v2M13 20h-2M4 13v-2",
        "brush": "M20 3 10 13M10 13c-3 0-4 2-4 4s-1 3-3 3c5 2 10 1 10-4 0-2-1-3-3-3",
        "eraser": "M8 20h12M4 15l9-10 7 6-8 9H8z M9 10l7 6",
        "undo": "M8 5 4 9l4 4M4 9h9a6 6 0 0 1 0 12H9",
        "redo": "m16 5 4 4-4 4M20 9h-9a6 6 0 0 0 0 12h4",
        "clear": "M6 6l12 12M18 6 6 18",
        "import": "M12 16V4M7 9l5-5 5 5M4 20h16",
        "export": "M12 4v12M7 11l5 5 5-5M4 20h16",
        "grid": "M4 4h16v16H4zM4 12h16M12 4v16",
        "up": "m6 14 6-6 6 6",
        "down": "m6 10 6 6 6-6",
        "shown": "M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12zM12 9a3 3 0 1 1 0 6 3 3 0 0 1 0-6z",
        "hidden": "M4 4l16 16M9 5.4C10 5.1 11 5 12 5c6 0 10 7 10 7l-3 4M6 7c-3 2-4 5-4 5s4 7 10 7"
        "c2 0 4-.7 5-1.5",
        "delete": "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
        "colour": "M12 3s7 7 7 12a7 7 0 0 1-14 0c0-5 7-12 7-12z",
        "camera": "M4 8h4l2-3h4l2 3h4v11H4zM12 10a3.5 3.5 0 1 1 0 7 3.5 3.5 0 0 1 0-7z",
        "paste": "M9 4h6v3H9zM9 5H6v15h12V5h-3",
        "edit": "M4 20l1-5L16 4l4 4L9 19z",
        "search": "M11 4a7 7 0 1 1 0 14 7 7 0 0 1 0-14zM16 16l5 5",
    }
)


def icon(name: str) -> str:
    """The picture ``name`` as SVG, hidden from screen readers: words stand beside it."""
    return (
        '<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">'
        f'<path d="{_PATHS[name]}"/></svg>'
    )
