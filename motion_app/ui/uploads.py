"""The page's boxes for files: what each kind takes, and what is said of a file that it does not.

gradio would refuse that one itself, in English and with nothing but endings; the browser holds it
back before gradio hears of it (``uploads.js``) and says which file came to which kind of box.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from motion_app.media.file_types import CLIP_CHOICES, PICTURE_FILES
from motion_app.ui.boundary import listen
from motion_app.ui.markup import Texts, script

KINDS: Mapping[str, Sequence[str]] = {  # the endings that each takes
    "picture": PICTURE_FILES,
    "clip": CLIP_CHOICES,
    "recipe": (".json", ".mp4"),
    "motion": (".safetensors", ".pt"),
    "beside": (*CLIP_CHOICES, ".json"),
    "items": (".zip",),
}
MOST_NAMED, LONGEST_NAME = 3, 80


def upload_box(kind: str, label: str, **options: Any) -> gr.File:
    """A box for files of one of ``KINDS``."""
    return gr.File(
        label=label,
        file_types=list(KINDS[kind]),
        elem_classes=["takes", f"takes-{kind}"],
        **options,
    )


class Refusals:
    """Built with the page's ``header``, whose script hears of every file first; then ``wire``."""

    def __init__(self, header: str, texts: Texts) -> None:
        self.texts = texts
        self.header = gr.HTML(
            header,
            js_on_load=script("uploads"),
            apply_default_css=False,
            kinds={kind: list(endings) for kind, endings in KINDS.items()},
        )

    def wire(self) -> None:
        """Say what was refused."""
        listen(self.header.refused, self.tell)

    def tell(self, event: gr.EventData) -> None:
        """What came, what is taken there, and what to do."""
        data = dict(event._data or {})
        gr.Warning(
            html.escape(refusal(str(data.get("kind")), data.get("names") or (), self.texts)),
            title=self.texts("page.refused_title"),
        )


def refusal(kind: str, names: Sequence[Any], texts: Texts) -> str:
    """What is said of files called ``names`` that a box of ``kind`` does not take."""
    known = kind if kind in KINDS else next(iter(KINDS))
    named = ", ".join(str(name)[:LONGEST_NAME] for name in names[:MOST_NAMED])
    more = " …" if len(names) > MOST_NAMED else ""
    return texts("page.refused", names=named + more, kinds=texts(f"page.takes_{known}"))
