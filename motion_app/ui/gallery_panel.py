"""Below the four steps: a browser's own videos, two of them compared, the way back in for a recipe,
and videos that came with the app."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from motion_app.ui.compare import ComparePanel
from motion_app.ui.gallery import GALLERY_JS
from motion_app.ui.scripts import MOUNT, script
from motion_app.ui.showcase import ShippedResult, showcase_html
from motion_app.ui.texts import Texts

RECIPE_FILES = [".json", ".mp4"]


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
            self.html = gr.HTML(js_on_load=GALLERY_JS, apply_default_css=False, elem_id="gallery")
            self.compare = ComparePanel(texts, fps=fps)
            self.showcase = gr.HTML(
                html_template=MOUNT,
                js_on_load=script("morph", "buttons"),
                elem_id="showcase",
                apply_default_css=False,
                markup=showcase_html(shipped, texts),
                visible=bool(shipped),
            )
