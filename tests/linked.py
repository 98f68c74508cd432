"""The checkpoint that ships, with parts of it left to a test."""

from __future__ import annotations

from pathlib import Path

from serving import ROOT

POCKET = ROOT / "checkpoints" / "pocket"


def linked_pocket(folder: Path, *without: str) -> Path:
    """``folder``, made, with links to all of the checkpoint but what is named in ``without``."""
    folder.mkdir(parents=True)
    for item in POCKET.iterdir():
        if item.name not in without:
            (folder / item.name).symlink_to(item)
    return folder
