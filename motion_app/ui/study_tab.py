"""The study tab: what a study is, how to make one here or on the command line, where its pages are.

The studies themselves run beside the page (``motion_app.study.site.app``), below ``/study``.
"""

from __future__ import annotations

import html
import logging
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from sqlalchemy.exc import SQLAlchemyError

from motion_app.errors import MotionAppError, RequestError, one_line
from motion_app.host import ModelHost
from motion_app.jobs.folder import JobRow
from motion_app.library.owners import LibraryUser
from motion_app.study.archive import StudyArchive
from motion_app.study.creation import create_study
from motion_app.study.site.app import study_secret
from motion_app.study.site.demo import NAME as DEMO
from motion_app.study.sources import (
    STUDY_ITEMS,
    ResultFolder,
    SourceItem,
    method_label,
    read_sources,
    sources_from_results,
)
from motion_app.study.unblinding import overview
from motion_app.study.upload import read_upload
from motion_app.text_files import STAGING, remove_staged
from motion_app.ui.boundary import in_one_line, listen
from motion_app.ui.form_faults import FormFaults
from motion_app.ui.markup import Texts, script
from motion_app.ui.study_form import LEAST_RESULTS, StudyForm, StudyRequest, read_form
from motion_app.ui.visitor import PageVisit

logger = logging.getLogger(__name__)
FOLDER = "studies"  # inside the outputs; the application mounted at /study serves it
OWNER_FILE = "owner"
STUDY_FILE = "study.json"
COMMAND = 'python -m motion_app study create ITEMS --out outputs/studies/NAME --title "…"'


@dataclass(frozen=True)
class MadeStudy:
    """A study of this browser. ``name`` is its folder's name and its address below ``/study``;
    ``secret`` opens its admin page."""

    name: str
    title: str
    created: float
    raters: int
    finished: int
    secret: str = field(repr=False)


class OwnStudies:
    """Studies made in the page, each in a folder of its own below ``folder``. Whoever made one
    finds it by the browser's token and sees nobody else's."""

    def __init__(self, host: ModelHost) -> None:
        self.host = host
        self.folder = host.settings.outputs / FOLDER
        secret = host.settings.study_database
        self._database = None if secret is None else secret.get_secret_value()

    def results(self, owner: str) -> list[tuple[str, str]]:
        """(title, method and time; job id) of the videos this browser has made, newest first."""
        rows = self.host.jobs.rows(owner, kind="generate")
        return [(_result_title(row), row.id) for row in rows if row.state == "done"]

    def benchmarks(self, *, local: bool) -> list[str]:
        """The benchmark's runs below the outputs that left items of a study, by their folders'
        names: for who sits at this machine (``local``) alone."""
        outputs = self.host.settings.outputs
        found = (path.parent.name for path in outputs.glob(f"*/{STUDY_ITEMS}") if path.is_dir())
        return sorted(found) if local else []

    def create(self, owner: str, asked: StudyRequest, *, local: bool = False) -> MadeStudy:
        """A study from results of this browser, from a ZIP file or from a run of the benchmark.
        Scenes must have been made with the same methods.

        RequestError for no title, fewer than two results, another browser's, or a file that holds
        no items.
        """
        if not asked.title.strip():
            raise RequestError(Texts()("study.no_title"))
        folder = self.folder / secrets.token_hex(8)
        staged = folder.with_name(STAGING + folder.name)
        remove_staged(self.folder)
        with tempfile.TemporaryDirectory(prefix="study-items-") as unpacked:
            if asked.upload is not None:
                sources = read_upload(asked.upload, Path(unpacked), self.host.settings.limits)
            elif asked.benchmark:
                sources = self._of_benchmark(asked.benchmark, local=local)
            else:
                sources = self._of_results(owner, asked.jobs)
            try:
                staged.mkdir(parents=True)
                (staged / OWNER_FILE).write_text(owner, encoding="utf-8")
                made = create_study(
                    staged,
                    sources,
                    title=asked.title.strip(),
                    database=self._database,
                    limits=self.host.settings.limits,
                    **asked.options,
                )
                made.study.close()
                staged.rename(folder)  # whole, or not there
            except BaseException:
                shutil.rmtree(staged, ignore_errors=True)
                raise
        return self._made(folder)

    def _of_benchmark(self, name: str, *, local: bool) -> list[SourceItem]:
        if name not in self.benchmarks(local=local):  # a name of the list, never a path
            raise RequestError("that benchmark is not there any more; open the tab again")
        return read_sources(self.host.settings.outputs / name / STUDY_ITEMS)

    def _of_results(self, owner: str, jobs: Sequence[str]) -> list[SourceItem]:
        mine = {job for _, job in self.results(owner)}
        if len(jobs) < LEAST_RESULTS or not mine.issuperset(jobs):
            raise RequestError(Texts()("study.too_few_results", count=len(jobs)))
        folders = [ResultFolder(self.host.jobs.folder(job)) for job in jobs]
        library = self.host.library.seen_by(LibraryUser(owner))
        return sources_from_results(folders, reference=library.preview_of)

    def list(self, owner: str, *, local: bool = False) -> list[MadeStudy]:
        """The studies of this browser, newest first, and of who sits at this machine (``local``)
        those made on the command line; one that cannot be opened is logged and left out."""
        if not self.folder.is_dir():
            return []
        made = []
        for path in self.folder.iterdir():
            if path.name.startswith(STAGING):
                continue
            try:
                whose = self._owner(path)
                if whose == owner or (local and whose is None and (path / STUDY_FILE).is_file()):
                    made.append(self._made(path))
            except (OSError, ValueError, SQLAlchemyError, MotionAppError) as error:
                logger.warning("the study in %s is left out: %s", path.name, one_line(error))
        return sorted(made, key=lambda study: -study.created)

    def _owner(self, folder: Path) -> str | None:
        file = folder / OWNER_FILE
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def _made(self, folder: Path) -> MadeStudy:
        archive = StudyArchive.open(folder, database=self._database)
        try:
            raters = overview(archive).raters
            finished = sum(rater.finished is not None for rater in raters)
            return MadeStudy(
                name=folder.name,
                title=archive.config.title,
                created=archive.created,
                raters=len(raters),
                finished=finished,
                secret=study_secret(folder),
            )
        finally:
            archive.close()


def _result_title(row: JobRow) -> str:
    made = time.strftime("%m-%d %H:%M", time.localtime(row.created))
    return f"{row.title or row.id[:8]} · {method_label(row.inputs['request'])} · {made}"


class StudyTab:
    """Built inside a ``gr.Tab``; ``wire`` binds its events."""

    def __init__(self, host: ModelHost, texts: Texts) -> None:
        self.own, self.texts = OwnStudies(host), texts
        gr.HTML(about_html(texts), apply_default_css=False)
        gr.HTML(demo_html(texts), apply_default_css=False, elem_id="study-demo")
        with gr.Row(elem_id="study-tab"):
            with gr.Column(elem_classes="step"):
                gr.Markdown(f"### {texts('study.make')}")
                self.form = StudyForm(texts)
                self.create = gr.Button(
                    texts("study.create"), variant="primary", elem_id="study-create"
                )
            with gr.Column(elem_classes="step"):
                gr.Markdown(f"### {texts('study.yours')}")
                self.studies = gr.HTML(
                    js_on_load=script("in_view", "studies"),
                    apply_default_css=False,
                    elem_id="studies",
                )

    def wire(self, visit: gr.State, tab: gr.Tab) -> None:
        """``tab``: looked at whenever it is opened."""
        form = self.form
        form.wire()
        looked_at = [form.results, self.studies, form.benchmark]
        chosen = [form.results, form.benchmark]
        listen(tab.select, self._look, inputs=[visit, *chosen], outputs=looked_at)
        listen(
            self.create.click,
            self._create,
            inputs=[visit, *form.inputs],
            outputs=[self.studies, form.results, form.title, *form.notes.outputs],
        )

    def _look(self, visit: PageVisit, ticked: Sequence[str], run: str | None) -> list[Any]:
        """What can be chosen now; what was chosen and is gone is chosen no longer."""
        choices = self.own.results(visit.owner)
        runs = self.own.benchmarks(local=visit.user.local)
        there = {job for _, job in choices}
        left = [job for job in ticked if job in there]
        results = {} if len(left) == len(ticked) else {"value": left}
        benchmark = {} if run is None or run in runs else {"value": None}
        return [
            gr.CheckboxGroup(choices=choices, **results),
            self._shown(visit),
            gr.Dropdown(choices=runs, **benchmark),
        ]

    def _create(self, visit: PageVisit, *filled: Any) -> list[Any]:
        notes = self.form.notes
        try:
            asked = read_form(self.texts, *filled)
            made = self.own.create(visit.owner, asked, local=visit.user.local)
        except FormFaults as error:
            return [*[gr.skip()] * 3, *notes.shown(error.faults)]
        except MotionAppError as error:
            return [*[gr.skip()] * 3, *notes.shown({"all": in_one_line(error)})]
        emptied = [gr.CheckboxGroup(value=[]), gr.Textbox(value="")]
        return [self._shown(visit, new=made.name), *emptied, *notes.shown({})]

    def _shown(self, visit: PageVisit, *, new: str = "") -> str:
        mine = self.own.list(visit.owner, local=visit.user.local)
        return studies_html(mine, self.texts, new=new)


def demo_html(texts: Texts) -> str:
    """The demo study in a frame: the rater's own page, then its report."""
    address = f"./study/{DEMO}/?lang={texts.language}"
    return (
        f'<section class="demo" aria-labelledby="demo-heading"><div class="demo-bar">'
        f'<h3 id="demo-heading">{html.escape(texts("study.demo"))}</h3>'
        f'<p class="quiet">{html.escape(texts("study.demo_info"))}</p>'
        f'<a class="tool" href="{address}" target="_blank" rel="noopener">'
        f"{html.escape(texts('study.demo_alone'))}</a></div>"
        f'<iframe id="demo-frame" src="{address}" loading="lazy" allow="fullscreen"'
        f' title="{html.escape(texts("study.demo"))}"></iframe></section>'
    )


def about_html(texts: Texts) -> str:
    """What a study is, in three sentences, and the command that makes one."""
    return (
        f'<div class="step-heading"><h2>{html.escape(texts("study.heading"))}</h2>'
        f"<p>{html.escape(texts('study.about'))}</p>"
        f"<p>{html.escape(texts('study.command'))} <code>{html.escape(COMMAND)}</code></p></div>"
    )


def studies_html(studies: Sequence[MadeStudy], texts: Texts, *, new: str = "") -> str:
    """The studies as cards with the way to their admin pages; ``new``: the name of the one that was
    made just now, whose secret is shown at once."""
    if not studies:
        return f'<p class="quiet">{html.escape(texts("study.none"))}</p>'
    return "".join(_study_html(study, texts, is_new=study.name == new) for study in studies)


def _study_html(study: MadeStudy, texts: Texts, *, is_new: bool) -> str:
    count = html.escape(texts("study.count", finished=study.finished, raters=study.raters))
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(study.created))
    return (
        f'<article class="study-card"{" data-new" if is_new else ""}>'
        f"<h3>{html.escape(study.title)}</h3>"
        f'<p class="quiet">{made} · {count}</p>'
        f'<progress max="{study.raters}" value="{study.finished}" aria-label="{count}"></progress>'
        f'<form method="post" action="./study/{study.name}/admin/login?lang={texts.language}"'
        f' target="_blank"><input type="hidden" name="secret" value="{html.escape(study.secret)}">'
        f'<button class="tool primary">{html.escape(texts("study.admin"))}</button></form>'
        f"<details{' open' if is_new else ''}><summary>{html.escape(texts('study.secret'))}"
        f"</summary><code>{html.escape(study.secret)}</code>"
        f'<p class="note quiet">{html.escape(texts("study.secret_info"))}</p></details></article>'
    )
