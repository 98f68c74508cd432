"""Two finished videos side by side, on one clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from motion_app.jobs.store import JobRow
from motion_app.ui.pair import Side
from motion_app.ui.progress import note_html
from motion_app.ui.texts import Texts

COMPARE_JS = (Path(__file__).parent / "compare.js").read_text(encoding="utf-8")


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
                js_on_load=COMPARE_JS,
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
