"""Videos that were made: the gallery, the comparison, those shipped.

A browser's own videos as a gallery, newest first. What it shows is made from the rows of the
jobs, which outlive a reload and a restart.

Below the four steps: a browser's own videos, two of them compared, the way back in for a recipe,
and videos that came with the app.

Videos that come with the app, to look at before the first one of one's own, and to take over:
``NAME.json``, the recipe, with the small moving ``NAME.webp`` beside it.
"""

from __future__ import annotations

import base64
import html
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from motion_app.errors import MotionAppError
from motion_app.jobs.folder import REPEATABLE, JobRow
from motion_app.request.request import parse_request
from motion_app.text_files import listed
from motion_app.ui.markup import MOUNT, Texts, script, title_of
from motion_app.ui.pictures import Thumbnail, picture_uri
from motion_app.ui.transfer.compare import SIDES, ComparePanel, differing_facts, method_words
from motion_app.ui.uploads import upload_box

logger = logging.getLogger(__name__)
MOST_SHOWN = 24
MOST_LABELS = 3  # of what differs, on a card
MINUTE, HOUR, DAY = 60, 3600, 86400  # s


def when(seconds_ago: float, texts: Texts) -> str:
    """How long ago, in the largest unit that fits."""
    for unit, key in ((DAY, "days_ago"), (HOUR, "hours_ago"), (MINUTE, "minutes_ago")):
        if seconds_ago >= unit:
            return texts(f"video.{key}", n=int(seconds_ago // unit))
    return texts("video.just_now")


@dataclass(frozen=True)
class GalleryView:
    """How the gallery is looked at. ``shown``: the id of the job in the player; ``compared``: those
    on the two sides; ``now`` in Unix seconds; ``lent``: videos are made only while
    the page is open."""

    now: float
    shown: str | None = None
    compared: tuple[str | None, str | None] = (None, None)
    lent: bool = False


def gallery_html(
    rows: Sequence[JobRow],
    thumbnail: Callable[[JobRow], Thumbnail | None],
    view: GalleryView,
    texts: Texts,
) -> str:
    """The gallery of ``rows``, which come newest first."""
    if not rows:
        words = texts("video.gallery_empty_lent" if view.lent else "video.gallery_empty")
        return f'<p class="gallery-empty">{words}</p>'
    sides = {row.id: row for row in rows if row.id in view.compared}
    cards = "".join(
        _card(row, thumbnail(row), _unlike(row, sides, view, texts), view, texts)
        for row in rows[:MOST_SHOWN]
    )
    return f'<ul class="gallery" aria-label="{texts("video.gallery")}">{cards}</ul>'


def _unlike(row: JobRow, sides: dict[str, JobRow], view: GalleryView, texts: Texts) -> str:
    """What differs between a finished video and the one chosen for a side, in a few words; "" where
    none is, and for the chosen one itself."""
    chosen = [(side, job) for side, job in zip(SIDES, view.compared, strict=True) if job in sides]
    if not chosen or row.state != "done" or row.id == chosen[0][1]:
        return ""
    side, job = chosen[0]
    labels = [label[:1].lower() + label[1:] for label in differing_facts(sides[job], row, texts)]
    if not labels:
        return texts("video.same_as", side=side.upper())
    more = " …" if len(labels) > MOST_LABELS else ""
    what = ", ".join(labels[:MOST_LABELS]) + more
    return texts("video.differs_from", side=side.upper(), what=what)


def _card(
    row: JobRow, picture: Thumbnail | None, unlike: str, view: GalleryView, texts: Texts
) -> str:
    title = html.escape(row.title or texts("video.untitled"))
    state = texts(f"video.state_{row.state}")
    current = ' aria-current="true"' if row.id == view.shown else ""
    facts = when(view.now - (row.finished or row.created), texts)
    facts += f" · {method_words(row, texts)}"
    if row.state == "done":
        facts += " · " + texts("video.seed_is", seed=row.outcome["seed"])
    return (
        f'<li class="gallery-card" data-id="{row.id}"{current}>'
        f'<button type="button" class="gallery-show" data-do="show"'
        f' aria-label="{texts("video.show", title=title)}, {state}">{_picture(picture)}'
        f'<span class="state state-{row.state}">{state}</span></button>'
        f'<p class="gallery-title" title="{title}">{title}</p>'
        f'<p class="gallery-facts quiet">{html.escape(facts)}</p>'
        + (f'<p class="gallery-unlike">{html.escape(unlike)}</p>' if unlike else "")
        + f'<div class="gallery-actions">{_actions(row, title, view, texts)}</div></li>'
    )


def _picture(picture: Thumbnail | None) -> str:
    if picture is None:
        return '<span class="gallery-blank" aria-hidden="true"></span>'
    return (
        f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{picture.still}">'
        f'<img src="{picture.moving}" alt=""></picture>'
    )


def _actions(row: JobRow, title: str, view: GalleryView, texts: Texts) -> str:
    buttons = ""
    if row.state == "done":
        for side, chosen in zip(SIDES, view.compared, strict=True):
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


class GalleryPanel:
    """The components; build it inside ``gr.Blocks``. ``html`` has the events ``act``
    (show, run again, stop), ``side`` (of the comparison) and ``remove``, each with ``id`` and
    ``action``; ``drop`` takes a recipe or a video; ``fps`` of the checkpoint's videos.
    ``showcase`` has the event ``act`` with the ``name`` of one of ``shipped``."""

    def __init__(self, texts: Texts, *, fps: float, shipped: Sequence[ShippedResult] = ()) -> None:
        self.shipped = {result.name: result for result in shipped}
        with gr.Column(elem_id="videos"):
            with gr.Row(elem_classes="videos-head"):
                gr.HTML(
                    f"<h2>{texts('video.gallery')}</h2>"
                    f'<p class="quiet">{texts("video.gallery_help")}</p>',
                    apply_default_css=False,
                )
                self.drop = upload_box(
                    "recipe",
                    texts("video.drop"),
                    height=84,
                    min_width=240,
                    elem_id="recipe-drop",
                )
            self.compare = ComparePanel(texts, fps=fps)
            self.html = gr.HTML(
                js_on_load=script("gallery"), apply_default_css=False, elem_id="gallery"
            )
            self.shipped_cards = gr.HTML(
                html_template=MOUNT,
                js_on_load=script("morph", "buttons"),
                elem_id="showcase",
                apply_default_css=False,
                markup=shipped_html(shipped, texts),
                visible=bool(shipped),
            )


@dataclass(frozen=True)
class ShippedResult:
    """``recipe``: its file; ``moving`` and ``still`` are ``data:`` addresses."""

    name: str
    title: str
    recipe: Path
    moving: str
    still: str


def shipped_results(folder: Path, *, model: str, texts: Texts) -> tuple[ShippedResult, ...]:
    """Those of ``folder`` that ``model`` made; broken ones are logged and left out."""
    found = []
    for file in listed(folder, "*.json"):
        try:
            recipe = json.loads(file.read_text(encoding="utf-8"))
            if recipe["model"] != model:
                continue
            moving = file.with_suffix(".webp")
            with Image.open(moving) as picture:
                still = picture_uri(np.asarray(picture.convert("RGB")))
            address = base64.b64encode(moving.read_bytes()).decode("ascii")
            title = title_of(parse_request(recipe["request"]), texts)
        except (OSError, ValueError, KeyError, TypeError, MotionAppError) as error:
            logger.warning("result left out: %s: %s", file.name, error)
            continue
        moving_uri = f"data:image/webp;base64,{address}"
        found.append(ShippedResult(file.stem, title, file, moving_uri, still))
    return tuple(found)


def shipped_html(results: Sequence[ShippedResult], texts: Texts) -> str:
    """A card for each; "" without one."""
    if not results:
        return ""
    cards = "".join(_shipped_card(result, texts) for result in results)
    return (
        f'<section class="showcase"><h3 class="motions-sub">{texts("video.showcase")}</h3>'
        f'<p class="quiet">{texts("video.showcase_help")}</p>'
        f'<ul class="showcase-list" aria-label="{texts("video.showcase")}">{cards}</ul></section>'
    )


def _shipped_card(result: ShippedResult, texts: Texts) -> str:
    title = html.escape(result.title)
    label = texts("video.take_over")
    return (
        f'<li class="showcase-card"><picture>'
        f'<source media="(prefers-reduced-motion: reduce)" srcset="{result.still}">'
        f'<img class="showcase-picture" src="{result.moving}" alt=""></picture>'
        f'<p class="showcase-title" title="{title}">{title}</p>'
        f'<button type="button" class="plain" data-act="take_over"'
        f' data-name="{html.escape(result.name)}" aria-label="{label}: {title}">{label}</button>'
        "</li>"
    )
