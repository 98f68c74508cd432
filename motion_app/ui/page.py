"""The page: banner, tabs, theme."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from motion_app.ui.boundary import listen
from motion_app.ui.examples import Example
from motion_app.ui.host import ModelHost
from motion_app.ui.progress import host_banner
from motion_app.ui.session import Session
from motion_app.ui.transfer_tab import TransferTab

TITLE = "Motion transfer"
CLEAN_UP = (600, 3600)  # every 10 minutes, files older than an hour
LOADING_TICK = 1.0  # seconds between looks at a model that is loading
STYLE = Path(__file__).parent / "style.css"


def build_page(host: ModelHost, examples: Sequence[Example], folder: Path) -> gr.Blocks:
    """The whole page. ``folder``: where results are written, inside gradio's temporary folder."""
    with gr.Blocks(
        title=TITLE, delete_cache=CLEAN_UP, analytics_enabled=False, fill_width=True
    ) as page:
        gr.HTML(
            f"<header><h1>{TITLE}</h1><p>Click things in a picture, give each its own motion, "
            "get the video.</p></header>",
            apply_default_css=False,
        )
        banner = gr.HTML(host_banner(host), apply_default_css=False, elem_id="banner")
        timer = gr.Timer(LOADING_TICK)
        with gr.Tabs(), gr.Tab("Transfer", id="transfer"):
            transfer = TransferTab(host, examples, folder)
        transfer.wire(banner)

        def look(session: Session) -> list[Any]:
            """What a page needs to know of the model: the banner, and the motions that fit it."""
            waiting = host.status().state == "loading"
            # choices are left alone while someone may be looking through them
            motions = [gr.skip()] * len(transfer.rows) if waiting else transfer.library_updates()
            return [session, host_banner(host), gr.Timer(active=waiting), *motions]

        outputs = [transfer.session, banner, timer, *(row.motion for row in transfer.rows)]
        for event in (page.load, timer.tick):
            listen(event, look, inputs=[transfer.session], outputs=outputs)
    return page


def launch_options() -> dict[str, Any]:
    """What ``launch`` needs to make the page look as it should."""
    fonts = ("ui-sans-serif", "system-ui", "sans-serif")  # none is fetched: the page works offline
    mono = ("ui-monospace", "Consolas", "monospace")
    theme = gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="md",
        spacing_size="sm",
        font=fonts,
        font_mono=mono,
    ).set(
        # the hues' own steps are too pale for small text and white labels (WCAG asks 4.5 to 1)
        body_text_color_subdued="#51606e",
        body_text_color_subdued_dark="#a9b5c0",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        body_background_fill="#f4f6f7",
        body_background_fill_dark="#10161a",
        block_border_width="1px",
        block_shadow="none",
        block_title_text_size="13px",
        block_label_text_size="13px",
    )
    return {"theme": theme, "css_paths": [STYLE], "footer_links": []}
