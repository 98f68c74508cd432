"""Two finished videos against each other: which two, what differs between what they were made of,
and both on one clock, side by side or one wiped over the other."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gradio as gr
import numpy as np

from motion_app.jobs.folder import JobRow
from motion_app.jobs.runners import KEPT_REQUEST
from motion_app.ui.markup import Texts, method_text, note_html, script

Side = Literal["a", "b"]
SIDES: tuple[Side, ...] = ("a", "b")
MODES = ("side", "wipe")
NO_PICTURE = np.zeros((0, 0, 3), np.uint8)


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


def recipe_facts(row: JobRow, texts: Texts) -> dict[str, str]:
    """What a job's video is made of, in the words of the page: value by label, in order."""
    request: Mapping[str, Any] = row.inputs["request"]
    made = {name: row.outcome.get(name, request.get(name)) for name in ("seed", "steps")}
    guidance = row.outcome.get("guidance", request.get("guidance"))
    facts = {
        texts("video.method"): method_words(row, texts),
        texts("video.seed"): _shown(made["seed"], texts),
        texts("video.steps"): _shown(made["steps"], texts),
        texts("video.guidance"): _shown(guidance, texts),
    }
    if request.get("without"):
        facts[texts("video.without")] = ", ".join(request["without"])
    if request.get("scope", "released") != "released":
        facts[texts("video.scope")] = str(request["scope"])
    for number, item in enumerate(request["objects"], start=1):
        label = texts("video.object", n=number)
        without = "transfer.path_name" if item.get("path") else "transfer.no_motion_name"
        motion = item.get("motion") or texts(without)
        facts[f"{label}: {texts('transfer.cards')}"] = str(motion)
        facts[f"{label}: {texts('transfer.sentence')}"] = str(item.get("sentence") or "")
        if item.get("motion"):
            facts[f"{label}: {texts('transfer.strength')}"] = f"{item.get('strength', 1.0):g}"
    if request.get("prompt"):
        facts[texts("transfer.prompt")] = str(request["prompt"])
    return facts


def _shown(value: Any, texts: Texts) -> str:
    """A number; without one the checkpoint's own counts."""
    return texts("video.own_setting") if value is None else f"{value:g}"


def method_words(row: JobRow, texts: Texts) -> str:
    """The method of a job as the page's list names it, or the model of others that makes it."""
    request = row.inputs["request"]
    return request.get("stock") or method_text(request.get("method", "fleximmt"), texts)


def differing_facts(a: JobRow, b: JobRow, texts: Texts) -> dict[str, tuple[str, str]]:
    """What is not the same in the requests of two jobs: both values by label. "–" where one of them
    has no such thing."""
    one, other = recipe_facts(a, texts), recipe_facts(b, texts)
    labels = [*one, *(label for label in other if label not in one)]
    pairs = {label: (one.get(label, "–"), other.get(label, "–")) for label in labels}
    return {label: pair for label, pair in pairs.items() if pair[0] != pair[1]}


def differing_pixels(a: Path, b: Path) -> tuple[str, ...]:
    """Which of "picture" and "masks" are not the same in the kept requests of two jobs, by their
    folders; () where a file has gone."""
    kept = []
    for folder in (a, b):
        try:
            with np.load(folder / KEPT_REQUEST, allow_pickle=False) as file:
                picture = file.get("image", NO_PICTURE)
                kept.append({"picture": picture, "masks": file["masks"]})
        except (OSError, ValueError, KeyError):
            return ()
    return tuple(name for name in kept[0] if not np.array_equal(kept[0][name], kept[1][name]))


@dataclass(frozen=True)
class ComparedJob:
    """A finished job on one side: its row and its ``video``."""

    row: JobRow
    video: Path


def heads_html(a: ComparedJob, b: ComparedJob, texts: Texts) -> str:
    """Whose videos they are, by what method and seed."""
    heads = "".join(
        f'<div class="compare-head"><b class="side-letter">{side.upper()}</b>'
        f'<p><span class="compare-title">{html.escape(job.row.title)}</span> '
        f'<span class="quiet">{html.escape(_short(job.row, texts))}</span></p></div>'
        for side, job in zip(SIDES, (a, b), strict=True)
    )
    return f'<div class="compare-heads">{heads}</div>'


def _short(row: JobRow, texts: Texts) -> str:
    return f"{method_words(row, texts)} · {texts('video.seed_is', seed=row.outcome['seed'])}"


def differences_html(a: ComparedJob, b: ComparedJob, texts: Texts) -> str:
    """A row for everything that differs; one line where nothing does."""
    facts = differing_facts(a.row, b.row, texts)
    pixels = differing_pixels(a.video.parent, b.video.parent)
    if not facts and not pixels:
        return f'<p class="note quiet compare-same">{html.escape(texts("video.no_difference"))}</p>'
    another = html.escape(texts("video.another"))
    rows = {
        texts(f"video.its_{name}"): f'<td colspan="2" class="quiet">{another}</td>'
        for name in pixels
    }
    for label, pair in facts.items():
        rows[label] = "".join(f"<td>{html.escape(value)}</td>" for value in pair)
    body = "".join(
        f'<tr><th scope="row">{html.escape(label)}</th>{cells}</tr>'
        for label, cells in rows.items()
    )
    title = html.escape(texts("video.what_differs"))
    return (
        f'<table class="compare-table"><caption>{title}</caption><thead><tr><td></td>'
        f'<th scope="col">A</th><th scope="col">B</th></tr></thead><tbody>{body}</tbody></table>'
    )


class ComparePanel:
    """Build it inside ``gr.Blocks``; hidden until two videos are chosen."""

    def __init__(self, texts: Texts, *, fps: float) -> None:
        self.texts = texts
        self.hint = gr.HTML(apply_default_css=False, elem_id="compare-hint")
        with gr.Column(visible=False, elem_id="compare") as self.box:
            self.heads = gr.HTML(apply_default_css=False, elem_id="compare-heads")
            with gr.Row(elem_classes="compare-pair"):
                self.a = self._player("a")
                self.b = self._player("b")
            gr.HTML(
                bar_html(texts, fps=fps),
                js_on_load=script("compare"),
                apply_default_css=False,
                elem_id="compare-bar",
            )
            self.differences = gr.HTML(apply_default_css=False, elem_id="compare-differences")

    def _player(self, side: Side) -> gr.Video:
        return gr.Video(
            label=side.upper(),
            show_label=False,
            autoplay=False,
            elem_id=f"compare-{side}",
            buttons=[],
            min_width=200,
        )

    @property
    def outputs(self) -> list[Any]:
        """What ``updates`` updates."""
        return [self.hint, self.box, self.heads, self.a, self.b, self.differences]

    def updates(self, a: ComparedJob | None, b: ComparedJob | None) -> list[Any]:
        """The videos on the two sides, None where none is chosen."""
        half = (a is None) != (b is None)
        hint = note_html(self.texts("video.compare_one") if half else "")
        if a is None or b is None:
            return [hint, gr.update(visible=False), "", None, None, ""]
        heads = heads_html(a, b, self.texts)
        videos = (str(a.video), str(b.video))
        return [hint, gr.update(visible=True), heads, *videos, differences_html(a, b, self.texts)]


def bar_html(texts: Texts, *, fps: float) -> str:
    """The bar that drives both videos, and the two ways of laying them against each other."""

    def button(part: str, sign: str, label: str, more: str = "") -> str:
        return (
            f'<button type="button" data-part="{part}" title="{label}" aria-label="{label}"{more}>'
            f'<span aria-hidden="true">{sign}</span></button>'
        )

    words = f' data-play="{texts("video.play")}" data-pause="{texts("video.pause")}"'
    modes = "".join(
        f'<button type="button" class="compare-mode" data-mode="{mode}" aria-pressed="'
        f'{str(mode == MODES[0]).lower()}">{html.escape(texts(f"video.compare_{mode}"))}</button>'
        for mode in MODES
    )
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
        + f'<span class="compare-modes" role="group" aria-label="{texts("video.compare_modes")}">'
        f"{modes}</span>"
        f'<input type="range" data-part="wipe" min="0" max="100" step="1" value="50" hidden'
        f' aria-label="{texts("video.wipe")}"></div>'
    )
