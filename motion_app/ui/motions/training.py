"""A training: its way into the queue, and as it goes: stage, loss as a drawing (every step faint,
the mean of the last steps strong), the video so far, who saw the tokens; and the ones before."""

from __future__ import annotations

import html
import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import gradio as gr
import numpy as np

from motion_app.errors import RequestError
from motion_app.geometry import grid_to_mask
from motion_app.host import ModelHost
from motion_app.jobs.folder import REPEATABLE, JobRow
from motion_app.jobs.progress import JobProgress
from motion_app.media.files import upscale
from motion_app.training.inputs import TrainingInputs
from motion_app.training.mover import moving_share
from motion_app.ui.markup import Texts, in_words, note_html, script
from motion_app.ui.pictures import animation_uri, draw_objects, enlarge_masks, picture_uri

VALIDATION_WIDTH = 288  # px
SHEET_COLUMNS = 4
CELL_WIDTH = 132  # px of one frame in the picture of masks
WIDTH, HEIGHT = 520, 190  # of the drawing's own units
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
MOST_POINTS = 300  # more than the picture has columns for
SMOOTHING = 25  # steps
SETTLED_STEPS = 10  # before them a mask that is found on the way means nothing
MOVING_SHARE = 0.5  # of a mask, on what moves; of the shipped clips it is 0.96, beside them 0.4


def submit_training(
    host: ModelHost, inputs: TrainingInputs, *, owner: str, address: str = ""
) -> JobRow:
    """A training at the end of the line, its clips copied into the job.

    Raises RequestError where training is off, for too many clips and over a quota, MotionFileError
    for a name that is taken, and what the queue refuses.
    """
    if not host.learns:
        raise RequestError(
            host.no_training
            or "training is off on this server; learn the motion on your own machine and import it"
        )
    inputs.check_count(host.settings.limits)
    host.library.new_path(inputs.name)
    files: dict[str, Path] = {}
    clips = []
    for number, clip in enumerate(inputs.clips, start=1):
        name = f"clip-{number}{clip.file.suffix.lower()}"
        if not clip.file.is_file():
            raise RequestError(f"{clip.file.name} is gone from the server; upload it again")
        files[name] = clip.file
        clips.append(replace(clip, file=clip.file.with_name(name)))
    entries = replace(inputs, clips=tuple(clips)).to_json()
    title = inputs.name.strip()
    return host.jobs.submit(
        "train", entries, owner=owner, address=address, title=title, files=files
    )


def training_command(inputs: TrainingInputs | None = None) -> str:
    """What to type on a machine of one's own."""
    name, phrase, noun = ("jump", "is jumping", "tiger")
    if inputs is not None:
        name, phrase, noun = inputs.name, inputs.phrase, inputs.noun
    words = {"--name": name, "--phrase": phrase, "--noun": noun, "--out": "motion.safetensors"}
    options = " ".join(f"{flag} {shlex.quote(text)}" for flag, text in words.items())
    return f"python -m motion_app train-motion clip.mp4 {options}"


def new_rows() -> gr.HTML:
    """Events ``job`` with ``what`` ("show", "again", "delete" or "use") and the job's ``id``."""
    return gr.HTML(
        "", js_on_load=script("training_rows"), elem_id="training-rows", apply_default_css=False
    )


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
    lost = known and news.step >= SETTLED_STEPS and on_background(frames, news.view_mask)
    return (
        f'<figure class="training-view"><img src="{picture_uri(sheet)}" alt="{said}">'
        f"<figcaption>{said}</figcaption></figure>"
        f"{note_html(texts('motions.mask_astray'), kind='warning') if lost else ''}"
    )


def on_background(frames: np.ndarray, mask: np.ndarray) -> bool:
    """Whether most of ``mask`` (F', h, w) bool, of which the last F belong to ``frames`` (F, H, W,
    3) uint8, lies on what stands still."""
    full = grid_to_mask(mask[-len(frames) :], *frames.shape[1:3])  # (F, H, W)
    return moving_share(frames, full) < MOVING_SHARE


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


def smoothed_losses(losses: Sequence[float], *, window: int = SMOOTHING) -> np.ndarray:
    """(n,) float64: the mean of each step and the up to ``window`` - 1 before it."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(losses, dtype=float))])
    stops = np.arange(1, len(losses) + 1)
    starts = np.maximum(0, stops - window)
    return (sums[stops] - sums[starts]) / (stops - starts)


def loss_curve_svg(losses: Sequence[float], *, steps: int, texts: Texts) -> str:
    """The losses of steps 1, 2, … on an axis of ``steps``; an empty frame before the first."""
    if not len(losses):
        return f'<div class="curve curve-empty">{html.escape(texts("motions.curve_empty"))}</div>'
    mean = smoothed_losses(losses)
    high = _round_up(float(np.quantile(losses, 0.98)))
    said = texts("motions.curve_alt", loss=f"{mean[-1]:.3f}", step=len(losses), steps=steps)
    marks = "".join(_mark(share, high) for share in (0.0, 0.5, 1.0))
    ends = (
        f'<text x="{LEFT}" y="{HEIGHT - 8}">1</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{steps}</text>'
    )
    last_x, last_y = _place(len(losses), float(mean[-1]), steps, high)
    return (
        f'<figure class="curve"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{html.escape(said)}">{marks}{ends}'
        f'<polyline class="curve-steps" points="{_points(losses, steps, high)}"/>'
        f'<polyline class="curve-mean" points="{_points(mean, steps, high)}"/>'
        f'<circle class="curve-now" cx="{last_x:.1f}" cy="{last_y:.1f}" r="4"/></svg>'
        f"<figcaption>{html.escape(texts('motions.curve_caption', n=SMOOTHING))}</figcaption>"
        "</figure>"
    )


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10 … at or above ``value``; 1 for nothing to see."""
    if not (math.isfinite(value) and value > 0):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= value * (1 - 1e-9))


def _place(step: int, loss: float, steps: int, high: float) -> tuple[float, float]:
    x = LEFT + (WIDTH - LEFT - RIGHT) * (step - 1) / max(1, steps - 1)
    y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(1.0, max(0.0, loss / high))
    return x, y


def _points(losses: Sequence[float], steps: int, high: float) -> str:
    shown = np.unique(np.linspace(0, len(losses) - 1, MOST_POINTS).round().astype(int))
    places = (_place(int(i) + 1, float(losses[i]), steps, high) for i in shown)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _mark(share: float, high: float) -> str:
    y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share
    return (
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share * high:g}</text>'
    )
