"""The files of a demo study: what is rated, as JSON, and the media beside it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from motion_app.errors import RequestError
from motion_app.settings import ROOT
from motion_app.study.plan import StudyItem
from motion_app.study.records import VideoFormat
from motion_app.text_files import json_text, read_json

SHIPPED = ROOT / "assets" / "demo_study"
CONTENT_FILE = "demo.json"
SIMULATED = 7  # raters who answered before the visitor comes


@dataclass(frozen=True)
class DemoContent:
    """What is rated: as ``StudyArchive.create`` takes it. The media lie beside, in ``media``."""

    title: str
    methods: tuple[str, ...]
    items: tuple[StudyItem, ...]
    video: VideoFormat


def write_demo(folder: Path, content: DemoContent, media: Path, *, made_with: str) -> None:
    """``content`` with its files, from the folder ``media``; ``made_with``: the fingerprint of the
    model that made the videos."""
    shutil.copytree(media, folder / "media")
    told = {**asdict(content), "made_with": made_with}
    text = json_text(told, indent=1) + "\n"
    (folder / CONTENT_FILE).write_text(text, encoding="utf-8")


def read_demo(folder: Path = SHIPPED) -> DemoContent:
    """What ``write_demo`` wrote. RequestError where it is missing or broken."""
    told = read_json(folder / CONTENT_FILE)
    try:
        return DemoContent(
            title=told["title"],
            methods=tuple(told["methods"]),
            items=tuple(_item(entry) for entry in told["items"]),
            video=VideoFormat(**told["video"]),
        )
    except (KeyError, TypeError) as error:
        raise RequestError(f"{folder} holds no demo study: {error!r}") from error


def _item(entry: Mapping[str, Any]) -> StudyItem:
    return StudyItem(**{**entry, "references": tuple(entry["references"])})
