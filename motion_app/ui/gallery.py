"""A browser's own videos as a gallery, newest first. What it shows is made from the rows of the
jobs, which outlive a reload and a restart."""

from __future__ import annotations

import html
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from motion_app.assignment import RequestFile
from motion_app.jobs.store import REPEATABLE, JobRow
from motion_app.ui.overlay import animation_uri, picture_uri
from motion_app.ui.texts import Texts

logger = logging.getLogger(__name__)

GALLERY_JS = (Path(__file__).parent / "gallery.js").read_text(encoding="utf-8")
MOST_SHOWN = 24
THUMBNAIL_WIDTH = 168  # px
THUMBNAILS_KEPT = 256  # some 30 KB each
MINUTE, HOUR, DAY = 60, 3600, 86400  # s


@dataclass(frozen=True)
class Thumbnail:
    """A video in small as ``data:`` addresses: one ``still`` frame, and all of it ``moving``."""

    still: str
    moving: str


class Thumbnails:
    """Thumbnails by the id of their job, made once from the lossless frames."""

    def __init__(self) -> None:
        self._made: OrderedDict[str, Thumbnail | None] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, row: JobRow, folder: Path) -> Thumbnail | None:
        """The thumbnail of a finished job whose files lie in ``folder``; None where there is
        none."""
        if row.state != "done":
            return None
        with self._lock:
            if row.id in self._made:
                self._made.move_to_end(row.id)
                return self._made[row.id]
        made = _thumbnail(folder / row.outcome["frames"])
        with self._lock:
            self._made[row.id] = made
            while len(self._made) > THUMBNAILS_KEPT:
                self._made.popitem(last=False)
        return made


def _thumbnail(frames_file: Path) -> Thumbnail | None:
    try:
        with np.load(frames_file) as saved:
            frames, fps = saved["frames"], float(saved["fps"])
    except (OSError, ValueError, KeyError) as error:
        logger.warning("no thumbnail, the frames cannot be read: %s", error)
        return None
    height, width = frames.shape[1:3]
    size = (THUMBNAIL_WIDTH, round(height * THUMBNAIL_WIDTH / width))
    way = cv2.INTER_AREA if width > THUMBNAIL_WIDTH else cv2.INTER_CUBIC
    small = np.stack([cv2.resize(frame, size, interpolation=way) for frame in frames])
    return Thumbnail(still=picture_uri(small[0]), moving=animation_uri(small, fps))


def title_of(request: RequestFile, texts: Texts) -> str:
    """What a video shows: "red fox: jump · blue cat: walk right"."""
    parts = []
    for number, item in enumerate(request.objects, start=1):
        name = item.name or texts("video.object", n=number)
        motion = item.motion and Path(item.motion).stem.replace("_", " ").replace("-", " ")
        parts.append(texts("video.title_part", name=name, motion=motion) if motion else name)
    return " · ".join(parts)


def when(seconds_ago: float, texts: Texts) -> str:
    """How long ago, in the largest unit that fits."""
    for unit, key in ((DAY, "days_ago"), (HOUR, "hours_ago"), (MINUTE, "minutes_ago")):
        if seconds_ago >= unit:
            return texts(f"video.{key}", n=int(seconds_ago // unit))
    return texts("video.just_now")


@dataclass(frozen=True)
class View:
    """How the gallery is looked at. ``shown``: the id of the job in the player; ``pair``: those on
    the two sides of the comparison; ``now`` in Unix seconds; ``lent``: videos are made only while
    the page is open."""

    now: float
    shown: str | None = None
    pair: tuple[str | None, str | None] = (None, None)
    lent: bool = False

    @classmethod
    def present(
        cls, shown: str | None = None, pair: tuple[str | None, str | None] = (None, None)
    ) -> View:
        return cls(time.time(), shown, pair)


def gallery_html(
    rows: Sequence[JobRow],
    thumbnail: Callable[[JobRow], Thumbnail | None],
    view: View,
    texts: Texts,
) -> str:
    """The gallery of ``rows``, which come newest first."""
    if not rows:
        words = texts("video.gallery_empty_lent" if view.lent else "video.gallery_empty")
        return f'<p class="gallery-empty">{words}</p>'
    cards = "".join(_card(row, thumbnail(row), view, texts) for row in rows[:MOST_SHOWN])
    return f'<ul class="gallery" aria-label="{texts("video.gallery")}">{cards}</ul>'


def _card(row: JobRow, picture: Thumbnail | None, view: View, texts: Texts) -> str:
    title = html.escape(row.title or texts("video.untitled"))
    state = texts(f"video.state_{row.state}")
    current = ' aria-current="true"' if row.id == view.shown else ""
    facts = when(view.now - (row.finished or row.created), texts)
    if row.state == "done":
        facts += " · " + texts("video.seed_is", seed=row.outcome["seed"])
    return (
        f'<li class="gallery-card" data-id="{row.id}"{current}>'
        f'<button type="button" class="gallery-show" data-do="show"'
        f' aria-label="{texts("video.show", title=title)}, {state}">{_picture(picture)}'
        f'<span class="state state-{row.state}">{state}</span></button>'
        f'<p class="gallery-title" title="{title}">{title}</p>'
        f'<p class="gallery-facts quiet">{facts}</p>'
        f'<div class="gallery-actions">{_actions(row, title, view, texts)}</div></li>'
    )


def _picture(picture: Thumbnail | None) -> str:
    if picture is None:
        return '<span class="gallery-blank" aria-hidden="true"></span>'
    return (
        f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{picture.still}">'
        f'<img src="{picture.moving}" alt=""></picture>'
    )


def _actions(row: JobRow, title: str, view: View, texts: Texts) -> str:
    buttons = ""
    if row.state == "done":
        for side, chosen in zip("ab", view.pair, strict=True):
            label = texts("video.compare_as", title=title, side=side.upper())
            pressed = "true" if chosen == row.id else "false"
            buttons += (
                f'<button type="button" class="side" data-do="side_{side}"'
                f' aria-pressed="{pressed}" title="{label}" aria-label="{label}">'
                f"{side.upper()}</button>"
            )
    if row.state in REPEATABLE:
        buttons += _button("again", texts("video.again"), title)
    if row.active:
        return buttons + _button("stop", texts("video.cancel"), title)
    sure = f' data-sure="{texts("video.delete_sure")}"'
    return buttons + _button("delete", texts("video.delete"), title, sure)


def _button(action: str, label: str, title: str, more: str = "") -> str:
    return (
        f'<button type="button" class="plain" data-do="{action}" aria-label="{label}: {title}"'
        f"{more}>{label}</button>"
    )
