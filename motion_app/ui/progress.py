"""What the page says about the model and about a video being made, as HTML."""

from __future__ import annotations

import html

from motion_app.jobs.generation import Progress
from motion_app.ui.host import HostStatus, Measurement, ModelHost

STAGES = {
    "queued": "Waiting for the device",
    "loading": "Waiting for the model to load",
    "preparing": "Reading picture, words and motions",
    "denoising": "Making the video",
    "decoding": "Decoding the frames",
    "done": "Done",
}


def in_words(seconds: float) -> str:
    """ "0.4 s", "12 s", "3 min 20 s"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def banner_html(status: HostStatus, measured: Measurement | None, *, steps: int) -> str:
    """Which model, on what device, and how long a video of ``steps`` takes here, once that was
    measured."""
    if status.state == "failed":
        body = (
            '<span class="chip chip-failed">no model</span>'
            f"<span>{html.escape(status.message)}</span>"
        )
    elif status.state == "loading":
        body = (
            f'<span class="chip chip-loading">{html.escape(status.name)}</span>'
            f"<span>loading… {status.load_seconds:.0f} s. "
            "You can already choose a picture; clicks are answered when the model is there.</span>"
        )
    else:
        body = (
            f'<span class="chip chip-ready">{html.escape(status.name)}</span>'
            f"<span>on {html.escape(status.device)} · {_expectation(measured, steps)}</span>"
        )
    return f'<div class="banner" role="status" aria-live="polite">{body}</div>'


def host_banner(host: ModelHost) -> str:
    """The banner for the host as it is now."""
    return banner_html(host.status(), host.measured, steps=host.defaults().steps)


def _expectation(measured: Measurement | None, steps: int) -> str:
    if measured is None:
        return "time per video: not measured yet, the first one will tell"
    things = "1 object" if measured.objects == 1 else f"{measured.objects} objects"
    return (
        f"about {in_words(measured.seconds_for(steps))} per video of {steps} steps "
        f"(measured on the last one, {things})"
    )


def seconds_left(progress: Progress, measured: Measurement | None) -> float | None:
    """Seconds to the end by what was measured: this job's steps, and the last video's time for all
    else. None while nothing was measured."""
    if progress.stage == "decoding":
        return None
    if progress.step_seconds is not None:
        after_steps = 0.0 if measured is None else measured.rest_seconds
        return progress.steps_left * progress.step_seconds + after_steps
    return None


def progress_html(
    progress: Progress, measured: Measurement | None, *, stopping: bool = False
) -> str:
    """Stage, step, time left and a bar."""
    report = progress.report
    stage = "Stopping after this step" if stopping else STAGES[progress.stage]
    facts = []
    if progress.stage == "queued":
        facts.append(f"{progress.ahead} before you" if progress.ahead else "you are next")
    if report is not None and progress.stage == "denoising":
        facts.append(f"step {report.step} of {report.steps}")
        facts.append(f"{in_words(progress.step_seconds)} a step")
        facts.append("masks settled" if report.masks_settled else "masks still moving")
    left = seconds_left(progress, measured)
    if left is not None and not stopping:
        facts.append(f"about {in_words(left)} left")
    share = 0 if report is None else round(100 * report.step / report.steps)
    bar = (
        f'<div class="bar" role="progressbar" aria-label="Progress of the video" aria-valuemin="0"'
        f' aria-valuemax="100" aria-valuenow="{share}"><span style="width: {share}%"></span></div>'
    )
    return (
        f'<div class="progress"><p><strong>{stage}</strong> <span>{" · ".join(facts)}</span></p>'
        f'{bar}<p class="quiet">{in_words(progress.elapsed)} so far</p></div>'
    )


def note_html(text: str, *, kind: str = "quiet") -> str:
    """A line of help or of warning; ``kind`` "quiet" or "warning"."""
    if not text:
        return ""
    sign = "⚠ " if kind == "warning" else ""
    return f'<p class="note {kind}">{sign}{html.escape(text)}</p>'


def step_heading(number: int, title: str, help_text: str) -> str:
    """A step's number, name and one line of help."""
    return (
        f'<div class="step-heading"><span class="step-number" aria-hidden="true">{number}</span>'
        f'<h2>{title}</h2><p class="quiet">{help_text}</p></div>'
    )
