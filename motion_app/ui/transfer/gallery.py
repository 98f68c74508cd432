"""Videos that were made: the gallery, the comparison, those shipped.

A browser's own videos as a gallery, newest first. What it shows is made from the rows of the
jobs, which outlive a reload and a restart.

Two finished videos side by side, on one clock.

Below the four steps: a browser's own videos, two of them compared, the way back in for a recipe,
and videos that came with the app.

Which two videos are compared.

Videos that come with the app, to look at before the first one of one's own, and to take over:
``NAME.json``, the recipe, with the small moving ``NAME.webp`` beside it.
"""

from __future__ import annotations

import base64
import html
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gradio as gr
import numpy as np
from PIL import Image

from motion_app.errors import MotionAppError
from motion_app.jobs.folder import REPEATABLE, JobRow
from motion_app.request.request import parse_request
from motion_app.text_files import listed
from motion_app.ui.markup import MOUNT, Texts, note_html, script, title_of
from motion_app.ui.pictures import Thumbnail, picture_uri

logger = logging.getLogger(__name__)
MOST_SHOWN = 24
MINUTE, HOUR, DAY = 60, 3600, 86400  # s
RECIPE_FILES = [".json", ".mp4"]
Side = Literal["a", "b"]


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
    cards = "".join(_card(row, thumbnail(row), view, texts) for row in rows[:MOST_SHOWN])
    return f'<ul class="gallery" aria-label="{texts("video.gallery")}">{cards}</ul>'


def _card(row: JobRow, picture: Thumbnail | None, view: GalleryView, texts: Texts) -> str:
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


def _actions(row: JobRow, title: str, view: GalleryView, texts: Texts) -> str:
    buttons = ""
    if row.state == "done":
        for side, chosen in zip("ab", view.compared, strict=True):
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


class ComparePanel:
    """Build it inside ``gr.Blocks``; hidden until two videos are chosen."""

    def __init__(self, texts: Texts, *, fps: float) -> None:
        self.texts = texts
        self.hint = gr.HTML(apply_default_css=False, elem_id="compare-hint")
        with gr.Column(visible=False, elem_id="compare") as self.box:
            with gr.Row(elem_classes="compare-pair"):
                self.a = self._player("a")
                self.b = self._player("b")
            gr.HTML(
                bar_html(texts, fps=fps),
                js_on_load=script("compare"),
                apply_default_css=False,
                elem_id="compare-bar",
            )

    def _player(self, side: Side) -> gr.Video:
        return gr.Video(
            label=side.upper(), autoplay=False, elem_id=f"compare-{side}", buttons=[], min_width=200
        )

    @property
    def outputs(self) -> list[Any]:
        """What ``updates`` updates."""
        return [self.hint, self.box, self.a, self.b]

    def updates(self, a: tuple[JobRow, Path] | None, b: tuple[JobRow, Path] | None) -> list[Any]:
        """``a``, ``b``: a finished job and its video, None where none is chosen."""
        shown = a is not None and b is not None
        half = not shown and (a is not None or b is not None)
        hint = self.texts("video.compare_one") if half else ""
        return [
            note_html(hint),
            gr.update(visible=shown),
            *(self._video(side, chosen) for side, chosen in zip("AB", (a, b), strict=True)),
        ]

    def _video(self, side: str, chosen: tuple[JobRow, Path] | None) -> Any:
        if chosen is None:
            return gr.update(value=None)
        row, path = chosen
        seed = self.texts("video.seed_is", seed=row.outcome["seed"])
        return gr.update(value=str(path), label=f"{side}: {row.title} · {seed}")


def bar_html(texts: Texts, *, fps: float) -> str:
    """The bar that drives both videos."""

    def button(part: str, sign: str, label: str, more: str = "") -> str:
        return (
            f'<button type="button" data-part="{part}" title="{label}" aria-label="{label}"{more}>'
            f'<span aria-hidden="true">{sign}</span></button>'
        )

    words = f' data-play="{texts("video.play")}" data-pause="{texts("video.pause")}"'
    return (
        f'<div class="compare-bar" role="group" aria-label="{texts("video.compare_bar")}"'
        f' data-frame="{1 / fps:.5f}">'
        + button("play", "", texts("video.play"), words)
        + button("back", "‹", texts("video.frame_back"))
        + button("on", "›", texts("video.frame_on"))
        + f'<input type="range" data-part="seek" min="0" max="1" step="any" value="0"'
        f' aria-label="{texts("video.seek")}">'
        + '<span class="quiet" data-part="time"></span>'
        + button("loop", "⟳", texts("video.loop"), ' aria-pressed="true"')
        + "</div>"
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
                self.drop = gr.File(
                    label=texts("video.drop"),
                    file_types=RECIPE_FILES,
                    height=84,
                    min_width=240,
                    elem_id="recipe-drop",
                )
            self.html = gr.HTML(
                js_on_load=script("gallery"), apply_default_css=False, elem_id="gallery"
            )
            self.compare = ComparePanel(texts, fps=fps)
            self.shipped_cards = gr.HTML(
                html_template=MOUNT,
                js_on_load=script("morph", "buttons"),
                elem_id="showcase",
                apply_default_css=False,
                markup=shipped_html(shipped, texts),
                visible=bool(shipped),
            )


@dataclass(frozen=True)
class ComparedVideos:
    """The ids of the jobs on the two sides, None where none is chosen yet."""

    a: str | None = None
    b: str | None = None

    @property
    def sides(self) -> tuple[str | None, str | None]:
        return (self.a, self.b)

    def chosen(self, side: Side, job: str) -> ComparedVideos:
        """``job`` on that side; pressed a second time it leaves it."""
        return replace(self, **{side: None if getattr(self, side) == job else job})

    def without(self, job: str) -> ComparedVideos:
        """``job`` deleted."""
        return ComparedVideos(*(None if side == job else side for side in self.sides))


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
