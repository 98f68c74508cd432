"""What a video says of its own making, for anyone who asks: the watermark, the tag, the recipe and
the signature."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from motion_app.errors import RequestError
from motion_app.media.file_types import CLIP_CHOICES
from motion_app.media.provenance import Verification, verify_video
from motion_app.media.watermark import DETECTED
from motion_app.settings import Limits
from motion_app.ui.boundary import listen
from motion_app.ui.markup import script
from motion_app.ui.texts import Texts


class VerifyPanel:
    """Build it inside ``gr.Blocks``, in any tab, then ``wire``."""

    def __init__(self, texts: Texts, *, limits: Limits) -> None:
        self.texts, self.limits = texts, limits
        with gr.Column(elem_id="verify"):
            gr.HTML(
                f"<h2>{texts('video.verify')}</h2>"
                f'<p class="quiet">{texts("video.verify_help")}</p>',
                apply_default_css=False,
            )
            self.file = gr.File(
                label=texts("video.verify_drop"),
                file_types=list(CLIP_CHOICES),
                height=100,
                elem_id="verify-file",
            )
            self.verdict = gr.HTML(
                js_on_load=script("announce"),
                apply_default_css=False,
                elem_id="verdict",
            )

    def wire(self) -> None:
        listen(self.file.upload, self.verify, inputs=[self.file], outputs=[self.file, self.verdict])

    def verify(self, path: str | None) -> Iterator[list[Any]]:
        """The verdict on an uploaded video. The box is emptied first, so that it takes another file
        even when this one is refused."""
        yield [None, ""]
        if path is None:
            raise RequestError("no file arrived; choose a video")
        found = verify_video(path, limits=self.limits)
        yield [None, verdict_html(found, Path(path).name, self.texts)]


def verdict_html(found: Verification, name: str, texts: Texts) -> str:
    """``found`` on the file ``name`` in words: a headline, then each piece of evidence."""
    known = found.detected or found.tagged or found.c2pa == "valid"
    rows = (
        (found.detected, "video.mark", _mark(found, texts)),
        (found.tagged, "video.tag", texts("video.tag_yes" if found.tagged else "video.tag_no")),
        (found.recipe, "video.recipe", _recipe(found, texts)),
        (found.c2pa == "valid", "video.c2pa", _signature(found, texts)),
    )
    lines = "".join(
        f'<div class="{"yes" if holds else "no"}"><dt>{texts(key)}</dt><dd>{words}</dd></div>'
        for holds, key, words in rows
    )
    headline = texts("video.verdict_yes" if known else "video.verdict_no")
    note = "" if known else f'<p class="quiet">{texts("video.verdict_doubt")}</p>'
    return (
        f'<section class="verdict"><h3>{headline}</h3>'
        f'<p class="quiet">{html.escape(name)}</p><dl>{lines}</dl>{note}</section>'
    )


def _mark(found: Verification, texts: Texts) -> str:
    z = f"{found.z:.1f}"
    if not found.detected:
        return texts("video.mark_no", z=z, needed=f"{DETECTED:g}")
    words = texts("video.mark_yes", z=z, needed=f"{DETECTED:g}")
    if found.payload is None:
        return words
    return f"{words} {texts('video.payload', payload=found.payload)}"


def _recipe(found: Verification, texts: Texts) -> str:
    if not found.recipe:
        return texts("video.recipe_no")
    fits = {True: "video.recipe_fits", False: "video.recipe_other", None: "video.recipe_yes"}
    return texts(fits[found.payload_fits])


def _signature(found: Verification, texts: Texts) -> str:
    return texts(f"video.c2pa_{found.c2pa}", signer=html.escape(found.signer or ""))
