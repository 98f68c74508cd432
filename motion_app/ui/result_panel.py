"""A finished video: the player, its facts, its files, and the masks over it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import gradio as gr

from motion_app.media import read_recipe
from motion_app.ui.finished import DOWNLOADS, Result
from motion_app.ui.progress import in_words, note_html
from motion_app.ui.texts import Texts

FACTS_JS = """
// Over plain http from another machine a browser has no clipboard for pages: an old way is left.
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

element.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button || button.dataset.label) return;
  await copy(button.dataset.copy);
  button.dataset.label = button.textContent;
  button.textContent = button.dataset.done;
  setTimeout(() => {
    button.textContent = button.dataset.label;
    delete button.dataset.label;
  }, 1500);
});
"""


class ResultPanel:
    """The components; build it inside ``gr.Blocks``. Hidden until there is a result."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        with gr.Column(visible=False, elem_id="result") as self.box:
            self.player = gr.Video(
                label=texts("video.finished"),
                show_label=False,
                autoplay=True,
                loop=True,
                elem_id="video",
                buttons=[],
            )
            self.overlay = gr.Checkbox(
                value=False, label=texts("video.overlay"), container=False, elem_id="overlay"
            )
            self.facts = gr.HTML(js_on_load=FACTS_JS, apply_default_css=False, elem_id="facts")
            self.again = gr.Button(texts("video.use_again"), size="sm", elem_id="use-again")
            with gr.Row(elem_classes="downloads"):
                self.downloads = [
                    gr.DownloadButton(
                        texts(f"video.download_{key}"),
                        size="sm",
                        min_width=84,
                        elem_id=key.replace("_", "-") if key != "video" else "mp4",
                    )
                    for key in DOWNLOADS
                ]
            with gr.Accordion(texts("video.sheet"), open=False, elem_id="tracks") as self.tracks:
                gr.HTML(note_html(texts("video.sheet_note")), apply_default_css=False)
                self.sheet = gr.Image(
                    label=texts("video.sheet"),
                    show_label=False,
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id="sheet",
                    alt_text=texts("video.sheet_alt"),
                )

    @property
    def outputs(self) -> list[Any]:
        """What ``updates``, ``kept`` and ``hidden`` update."""
        return [
            *(self.box, self.player, self.overlay, self.facts, *self.downloads),
            *(self.tracks, self.sheet),
        ]

    def kept(self) -> list[Any]:
        """Nothing changes."""
        return [gr.skip()] * len(self.outputs)

    def hidden(self) -> list[Any]:
        return [gr.update(visible=False), *[gr.skip()] * (len(self.outputs) - 1)]

    def updates(self, result: Result) -> list[Any]:
        """``result`` on show. RequestError where its files have gone."""
        recipe = read_recipe(result.file("recipe"))
        sheet = result.frames().sheet(result.slots) if result.moving else None
        return [
            gr.update(visible=True),
            str(result.video),
            gr.update(value=False, visible=result.moving),
            facts_html(result.row.outcome, model=str(recipe.get("model", "")), texts=self.texts),
            *(str(result.file(key)) for key in DOWNLOADS),
            gr.update(visible=result.moving),
            sheet,
        ]


def facts_html(outcome: Mapping[str, Any], *, model: str, texts: Texts) -> str:
    """What made the video, in words and numbers, with a button that copies the seed."""
    seed = str(outcome["seed"])
    copy = (
        f'<button type="button" class="plain" data-copy="{seed}"'
        f' data-done="{texts("video.copied")}">{texts("video.copy_seed")}</button>'
    )
    facts = (
        ("video.seed", f"<b>{seed}</b> {copy}"),
        ("video.steps", str(outcome["steps"])),
        ("video.guidance", f"{outcome['guidance']:g}"),
        ("video.took", in_words(outcome["seconds"], texts)),
        ("video.model", html.escape(model)),
    )
    rows = "".join(f"<div><dt>{texts(key)}</dt><dd>{value}</dd></div>" for key, value in facts)
    return f'<dl class="facts">{rows}</dl>'
