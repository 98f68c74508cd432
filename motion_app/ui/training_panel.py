"""A training as it goes: stage, loss, the video so far, who saw the tokens; and the ones before."""

from __future__ import annotations

import html
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import gradio as gr
import numpy as np

from motion_app.geometry import grid_to_mask
from motion_app.jobs.store import REPEATABLE, JobRow
from motion_app.jobs.work import JobProgress
from motion_app.ui.loss_curve import loss_curve_svg
from motion_app.ui.overlay import animation_uri, draw_objects, enlarge_masks, picture_uri
from motion_app.ui.progress import in_words
from motion_app.ui.texts import Texts
from motion_app.video import upscale

ROWS_JS = (Path(__file__).parent / "training_rows.js").read_text(encoding="utf-8")
VALIDATION_WIDTH = 288  # px
SHEET_COLUMNS = 4
CELL_WIDTH = 132  # px of one frame in the picture of masks


def new_rows() -> gr.HTML:
    """Events ``job`` with ``what`` ("show", "again", "delete" or "use") and the job's ``id``."""
    return gr.HTML("", js_on_load=ROWS_JS, elem_id="training-rows", apply_default_css=False)


def status_html(progress: JobProgress, texts: Texts) -> str:
    """Stage, place in the line, step, time left and a bar; at its end how the job ended."""
    row = progress.row
    title = html.escape(row.title)
    if progress.stage == "done":
        note = html.escape(row.message) if row.state == "failed" else ""
        said = html.escape(texts(f"motions.ended_{row.state}", name=row.title))
        return (
            f'<div class="training-end {row.state}" role="status"><strong>{said}</strong>'
            f"<p>{note}</p></div>"
        )
    stage = texts(f"motions.stage_{progress.stage}")
    if progress.stopping:
        stage = texts("motions.stopping")
    facts = []
    if progress.stage == "queued":
        ahead = progress.ahead
        facts.append(texts("motions.ahead", n=ahead) if ahead else texts("motions.next"))
    if progress.step:
        facts.append(texts("motions.step", step=progress.step, steps=progress.steps))
    news = progress.news
    if news is not None:
        facts.append(texts("motions.loss", loss=f"{news.smoothed:.3f}"))
        facts.append(texts("motions.rate", rate=f"{news.learning_rate:.2g}"))
    if progress.seconds_left is not None and not progress.stopping:
        facts.append(texts("motions.left", seconds=in_words(progress.seconds_left, texts)))
    share = round(100 * progress.step / progress.steps) if progress.steps else 0
    return (
        f'<div class="progress"><p><strong>{title} · {html.escape(stage)}</strong> '
        f"<span>{html.escape(' · '.join(facts))}</span></p>"
        f'<div class="bar" role="progressbar" aria-label="{html.escape(texts("motions.bar"))}"'
        f' aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share}">'
        f'<span style="width: {share}%"></span></div></div>'
    )


def curve_html(progress: JobProgress, texts: Texts) -> str:
    """The loss so far."""
    losses = () if progress.news is None else progress.news.losses
    return loss_curve_svg(losses, steps=max(1, progress.steps), texts=texts)


def validation_html(progress: JobProgress, texts: Texts) -> str:
    """The newest video made with the tokens so far; "" before the first."""
    video = None if progress.news is None else progress.news.validation
    if video is None:
        return ""
    height, width = video.frames.shape[1:3]
    frames = upscale(video.frames, VALIDATION_WIDTH, round(height * VALIDATION_WIDTH / width))
    said = html.escape(texts("motions.validation", step=video.step))
    return (
        f'<figure class="training-view"><img src="{animation_uri(frames, video.fps)}" alt="{said}">'
        f"<figcaption>{said}</figcaption></figure>"
    )


def view_html(progress: JobProgress, texts: Texts) -> str:
    """The view of the last step with the mask of who saw the tokens; "" before the first."""
    news = progress.news
    if news is None or news.view_frames is None:
        return ""
    frames = news.view_frames
    known = news.view_mask is not None
    sheet = view_sheet(frames, news.view_mask[-len(frames) :] if known else None)
    said = html.escape(texts("motions.view_mask" if known else "motions.view_all"))
    return (
        f'<figure class="training-view"><img src="{picture_uri(sheet)}" alt="{said}">'
        f"<figcaption>{said}</figcaption></figure>"
    )


def view_sheet(frames: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """``frames`` (F, H, W, 3) uint8 with ``mask`` (F, h, w) bool tinted, as one picture in reading
    order."""
    height, width = frames.shape[1:3]
    size = (CELL_WIDTH, round(height * CELL_WIDTH / width))
    cells = upscale(frames, *size)  # (F, h', w', 3)
    if mask is not None:
        full = grid_to_mask(mask, height, width)  # (F, H, W)
        cells = np.stack(
            [
                draw_objects(cell, enlarge_masks(full[f, None], *size), [0], numbered=False)
                for f, cell in enumerate(cells)
            ]
        )
    columns = min(SHEET_COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    sheet = np.full((rows * columns, *cells.shape[1:]), 255, np.uint8)
    sheet[: len(cells)] = cells
    grid = sheet.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    return grid.reshape(rows * size[1], columns * size[0], 3)


def rows_html(rows: Sequence[JobRow], *, shown: str, texts: Texts) -> str:
    """This browser's trainings, newest first; ``shown``: the id of the one on show."""
    if not rows:
        return f'<p class="quiet">{html.escape(texts("motions.no_trainings"))}</p>'
    return f'<ul class="trainings">{"".join(_row_html(row, shown, texts) for row in rows)}</ul>'


def _row_html(row: JobRow, shown: str, texts: Texts) -> str:
    acts = ["show"] if row.active and row.id != shown else []
    if row.state in REPEATABLE:
        acts += ["again"]
    if row.state == "done":
        acts += ["use"]
    if not row.active:
        acts += ["delete"]
    name = html.escape(str(row.inputs.get("name", "")))
    buttons = "".join(_button(row, what, name, texts) for what in acts)
    facts = [datetime.fromtimestamp(row.created).strftime("%Y-%m-%d %H:%M")]
    if row.outcome.get("seconds") is not None:
        facts.append(in_words(float(row.outcome["seconds"]), texts))
    return (
        f'<li class="training {row.state}"><span class="tag">'
        f"{html.escape(texts(f'motions.state_{row.state}'))}</span><b>{html.escape(row.title)}</b>"
        f'<span class="quiet">{" · ".join(facts)}</span>'
        f'<span class="training-acts">{buttons}</span>'
        f"{_why_html(row)}</li>"
    )


def _button(row: JobRow, what: str, name: str, texts: Texts) -> str:
    label = html.escape(texts(f"motions.job_{what}"))
    return (
        f'<button type="button" data-what="{what}" data-id="{row.id}" data-name="{name}"'
        f' aria-label="{label}: {html.escape(row.title)}">{label}</button>'
    )


def _why_html(row: JobRow) -> str:
    return f'<p class="quiet">{html.escape(row.message)}</p>' if row.state == "failed" else ""
