"""The page: banner, tabs, theme; the same one for every language, at an address of its own."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from motion_app.host import ModelHost
from motion_app.settings import ROOT
from motion_app.ui.api.files import checked_endpoint
from motion_app.ui.api.hub import HubEndpoints
from motion_app.ui.api.jobs import JobEndpoints, MotionEndpoints
from motion_app.ui.api.pictures import PictureEndpoints
from motion_app.ui.api.transfer import TransferEndpoint
from motion_app.ui.boundary import CALL_SECONDS, GuardedBlocks, listen
from motion_app.ui.evaluate.tab import EvaluateTab
from motion_app.ui.markup import LANGUAGES, Texts, host_banner, note_html, script
from motion_app.ui.motions.tab import MotionsTab
from motion_app.ui.pictures import Previews
from motion_app.ui.study_tab import StudyTab
from motion_app.ui.transfer.kept_drafts import KeptDrafts
from motion_app.ui.transfer.picture import Example, load_examples
from motion_app.ui.transfer.session import Session
from motion_app.ui.transfer.tab import TransferTab
from motion_app.ui.uploads import Refusals
from motion_app.ui.visitor import library_user, quota_address
from motion_app.world.clips import ExampleClip, load_clips

CLEAN_UP = (600, 3600)  # every 10 minutes, files older than an hour
COMPUTING = 4  # calls of one endpoint that compute at a time; the others wait without a thread
LOADING_TICK = 1.0  # seconds between looks at a model that is loading
CLIPS = ROOT / "assets" / "clips"
STYLE = Path(__file__).parent / "static" / "style.css"


def build_page(host: ModelHost, examples: Path, clips: Path = CLIPS) -> GuardedBlocks:
    """The whole app as gradio serves it: the first language at ``/``, each other one at its own
    path, and the endpoints of ``api`` once. ``examples`` and ``clips``: the folders of the example
    pictures and of clips to learn from."""
    first, *others = LANGUAGES
    known, learnable = load_examples(examples), load_clips(clips)
    with GuardedBlocks(
        title=Texts(first)("page.title"),
        delete_cache=CLEAN_UP,
        analytics_enabled=False,
        fill_width=True,
    ) as page:
        register_api(host)  # first: gradio gives a name to who comes first
        previews = Previews(host.settings.limits)
        kept = KeptDrafts(host.settings.outputs, host.settings.limits)
        LanguagePage(host, Texts(first), known, previews, kept, learnable).wire(page)
    for language in others:
        with page.route(LANGUAGES[language], f"/{language}", show_in_navbar=False):
            LanguagePage(host, Texts(language), known, previews, kept, learnable).wire(page)
    page.queue(api_open=False)  # every call takes its place in the line
    return page


def register_api(host: ModelHost) -> None:
    """Every action of the app as a named endpoint, under the method's own name: JSON in, JSON out,
    the JSON of the command line. Once, inside ``gr.Blocks``. With ``gradio_client``::

        from gradio_client import Client, handle_file

        client = Client("http://127.0.0.1:7860")
        client.predict(request, api_name="/generate")

    and, where the app was started with ``--mcp``, the same functions as tools of an MCP server. A
    file comes as an upload (``handle_file("clip.mp4")``) or as a ``data:`` URI; a path or an
    address of the server's is never read. A file goes out as one that ``gradio_client`` downloads.
    """
    pictures, jobs, motions = PictureEndpoints(host), JobEndpoints(host), MotionEndpoints(host)
    scenes, hub = TransferEndpoint(host), HubEndpoints(host)
    computing = (pictures.segment, pictures.find, pictures.verify, pictures.evaluate)
    computing += (scenes.transfer,)
    for endpoint in (
        *(pictures.model, pictures.segment, pictures.find, pictures.verify, pictures.evaluate),
        *(jobs.generate, jobs.submit, jobs.train_motion, scenes.transfer),
        *(jobs.job, jobs.cancel, jobs.again, jobs.delete_job),
        *(motions.motions, motions.import_motion, motions.export_motion),
        *(motions.rename_motion, motions.share_motion),
        *(motions.delete_motion, motions.restore_motion),
        *(hub.published_motions, hub.pull_motions, hub.push_motions),
    ):
        most = COMPUTING if endpoint in computing else None
        gr.api(checked_endpoint(endpoint), api_name=endpoint.__name__, concurrency_limit=most)


class LanguagePage:
    """All tabs in one language."""

    def __init__(
        self,
        host: ModelHost,
        texts: Texts,
        examples: Sequence[Example],
        previews: Previews,
        kept: KeptDrafts,
        clips: Sequence[ExampleClip],
    ) -> None:
        self.host, self.texts = host, texts
        most = int(host.settings.limits.session_megabytes * 2**20)
        self.session = gr.State(Session(most))
        # Kept by the browser, so that a reload finds what it had made; readable after a restart.
        self.browser = gr.BrowserState(
            "", storage_key="motion-transfer", secret=host.jobs.store.secret("browser")
        )
        self.tab = gr.Textbox(visible=False)  # the tab's own token
        gr.Navbar(visible=False)  # the header links the languages
        self.refusals = Refusals(header_html(texts), texts)
        gr.HTML(forgets_html(texts), js_on_load=script("forgets"), apply_default_css=False)
        self.banner = gr.HTML(host_banner(host, texts), apply_default_css=False, elem_id="banner")
        self.timer = gr.Timer(LOADING_TICK)
        self.calls = gr.Timer(CALL_SECONDS)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab(texts("page.tab_transfer"), id="transfer"):
                scenes = (examples, self.session, previews, kept, clips)
                self.transfer = TransferTab(host, texts, *scenes, timer=self.timer)
            with gr.Tab(texts("page.tab_motions"), id="motions"):
                self.motions = MotionsTab(host, texts, previews, clips)
            with gr.Tab(texts("page.tab_study"), id="study") as self.study_tab:
                self.study = StudyTab(host, texts)
            with gr.Tab(texts("page.tab_evaluate"), id="evaluate") as self.evaluate_tab:
                self.evaluate = EvaluateTab(host, texts, previews)

    def wire(self, page: GuardedBlocks) -> None:
        """Bind every event."""
        session, transfer = self.session, self.transfer
        self.refusals.wire()
        transfer.wire(self.banner)
        self.motions.wire(session, on_change=self._library_changed)
        learned = listen(
            transfer.video.learned.change,
            transfer.show_learned,
            inputs=[session],
            outputs=[transfer.objects],
        )
        changed = listen(
            transfer.objects.own,
            transfer.change_own,
            inputs=[session],
            outputs=[transfer.objects],
        )
        for event in (learned, changed):
            self.motions.show_library_after(event)
        self.study.wire(session, self.study_tab)
        self.evaluate.wire(session, tab=self.evaluate_tab)
        entered = listen(
            page.load,
            self.enter,
            inputs=[session, self.browser, self.tab],
            outputs=[session, self.browser],
            js=script("tab_token"),
        )
        transfer.restore_kept_on(entered.then)
        outputs = [self.banner, self.timer, transfer.objects, transfer.canvas]
        listen(entered.then, self.arrive, inputs=[session], outputs=outputs)
        listen(self.timer.tick, self.look, inputs=[session], outputs=outputs, queue=False)
        listen(self.calls.tick, page.still_here, queue=False)
        transfer.video.attach_on(entered.then)
        self.motions.attach(entered, session)

    def enter(
        self, session: Session, token: str, tab: str, request: gr.Request
    ) -> tuple[Session, str]:
        """The browser's own token: the one it kept, or a new one to keep."""
        owner = session.enter(token, tab)
        session.user = library_user(owner, request, self.host.settings)
        session.address = quota_address(request, self.host.settings)
        return session, owner

    def arrive(self, session: Session) -> list[Any]:
        """As ``look``, for a page that was just opened: whose motions there are is known by now."""
        banner, timer, _, canvas = self.look(session)
        return [banner, timer, self.transfer.library_update(session), canvas]

    def look(self, session: Session) -> list[Any]:
        """What a page needs to know of the model: the banner, the motions that fit it, and whether
        it knows the like of the picture."""
        waiting = self.host.status().state == "loading"
        # choices are left alone while someone may be looking through them
        motions = gr.skip() if waiting else self.transfer.library_update(session)
        canvas, judging = self.transfer.judged_late(session)
        timer = gr.Timer(active=waiting or judging)
        return [host_banner(self.host, self.texts), timer, motions, canvas]

    def _library_changed(self, event: Any) -> None:
        """After ``event`` the library may hold other motions: show them where they are chosen."""
        listen(
            event.then,
            self.transfer.library_update,
            inputs=[self.session],
            outputs=[self.transfer.objects],
        )


def forgets_html(texts: Texts) -> str:
    """What a browser that keeps nothing is checked_endpoint; hidden in all others."""
    return f'<div id="forgets" hidden>{note_html(texts("page.forgets"), kind="warning")}</div>'


def header_html(texts: Texts) -> str:
    """Name, one line of help, and the other languages."""
    links = " ".join(
        f'<a href="./{"" if language == "en" else language}" lang="{language}"'
        f' hreflang="{language}">{name}</a>'
        for language, name in LANGUAGES.items()
        if language != texts.language
    )
    return (
        f"<header><div><h1>{html.escape(texts('page.title'))}</h1>"
        f"<p>{html.escape(texts('page.tagline'))}</p></div>"
        f'<nav aria-label="{html.escape(texts("page.languages"))}">{links}</nav></header>'
    )


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
    options = {"theme": theme, "css_paths": [STYLE], "footer_links": []}
    options["head"] = "<script>" + script("first_shown") + "</script>"
    options["run_history"] = False  # else every call's values are kept in the browser
    # else gradio ends a server whose page takes longer than 3 s, as on a busy machine
    return {**options, "_frontend": False}
