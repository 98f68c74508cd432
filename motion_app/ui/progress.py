"""What the page says about the model and about a video being made, as HTML."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from motion_app.jobs.queue import JobProgress
from motion_app.scene import StepReport
from motion_app.ui.host import HostStatus, Measurement, ModelHost
from motion_app.ui.texts import Texts

if TYPE_CHECKING:
    from motion_app.engine.outlook import Outlook

ANNOUNCED_SHARES = 4  # a screen reader hears of every quarter, not of every second


def in_words(seconds: float, texts: Texts) -> str:
    """0.4 s, 12 s, 3 min 20 s, in the page's language."""
    if seconds < 9.95:
        return texts("video.seconds", n=f"{seconds:.1f}")
    minutes, rest = divmod(round(seconds), 60)
    if minutes:
        return texts("video.minutes", m=minutes, s=rest)
    return texts("video.seconds", n=rest)


def banner_html(
    status: HostStatus, measured: Measurement | None, *, steps: int, texts: Texts
) -> str:
    """Which model, on what device, how much memory it takes or will take, and how long a video of
    ``steps`` takes here, once that was measured."""
    name = html.escape(status.name)
    if status.state == "failed":
        body = (
            f'<span class="chip chip-failed">{texts("video.no_model")}</span>'
            f"<span>{html.escape(status.message)}</span>"
        )
    elif status.state == "loading":
        body = (
            f'<span class="chip chip-loading">{name}</span>'
            f"<span>{_loading(status, texts)}</span>{_shortage(status, texts)}"
        )
    else:
        body = (
            f'<span class="chip chip-ready">{name}</span>'
            f"<span>{_running(status, texts)} · {_expectation(measured, steps, texts)}</span>"
            f"{_shortage(status, texts)}"
        )
    return f'<div class="banner" role="status" aria-live="polite">{body}</div>'


def _loading(status: HostStatus, texts: Texts) -> str:
    """Where the model comes from and what it will take, as far as that is known."""
    if status.fetched is not None:
        done, total = (in_gigabytes(count) for count in status.fetched)
        return texts("video.model_fetching", done=done, total=total)
    waited = in_words(round(status.load_seconds), texts)
    needs = ""
    if status.memory is not None:
        needs = texts("video.model_needs", memory=_memory(status.memory, texts))
    return texts("video.model_loading", waited=waited, needs=needs)


def _memory(memory: Outlook, texts: Texts) -> str:
    amount = in_gigabytes(memory.device_bytes)
    device = html.escape(memory.device)
    if device == "cpu":
        return texts("video.main_memory", amount=amount)
    return texts("video.device_memory", amount=amount, device=device, profile=memory.profile)


def _running(status: HostStatus, texts: Texts) -> str:
    """Device, profile and memory; a profile that is not the one that was chosen says why."""
    device = html.escape(status.device)
    if status.too_large:
        values = {"device": device, "profile": status.profile, "before": status.too_large}
        return texts("video.on_device_instead", **values)
    if status.memory is None:
        return texts("video.on_device", device=device)
    if device == "cpu":
        amount = in_gigabytes(status.memory.device_bytes)
        return texts("video.on_device_memory", device=device, amount=amount)
    return texts(
        "video.on_device_profile",
        device=device,
        profile=status.profile,
        amount=in_gigabytes(status.memory.device_bytes),
    )


def _shortage(status: HostStatus, texts: Texts) -> str:
    """A warning where the memory is estimated not to suffice; "" otherwise."""
    memory = status.memory
    if memory is None or not memory.short or status.state == "ready":
        return ""
    on_device = memory.device_bytes > memory.device_free
    wanted = memory.device_bytes if on_device else memory.main_bytes
    free = memory.device_free if on_device else memory.main_free
    key = "device" if on_device and memory.device != "cpu" else "main"
    values = {"wanted": in_gigabytes(wanted), "free": in_gigabytes(free)}
    return f'<span class="short">⚠ {texts(f"video.short_{key}", **values)}</span>'


def in_gigabytes(count: int) -> str:
    """0.08 GB, 3.2 GB, 21 GB."""
    amount = count / 1e9
    return f"{amount:.2f} GB" if amount < 0.95 else f"{amount:.{0 if amount >= 20 else 1}f} GB"


def host_banner(host: ModelHost, texts: Texts) -> str:
    """The banner for the host as it is now."""
    return banner_html(host.status(), host.measured, steps=host.defaults().steps, texts=texts)


def _expectation(measured: Measurement | None, steps: int, texts: Texts) -> str:
    if measured is None:
        return texts("video.not_measured")
    one = measured.objects == 1
    things = texts("video.one_object") if one else texts("video.many_objects", n=measured.objects)
    seconds = in_words(measured.seconds_for(steps), texts)
    return texts("video.measured", seconds=seconds, steps=steps, things=things)


def progress_html(progress: JobProgress, texts: Texts) -> str:
    """Stage, step, time left and a bar."""
    facts = []
    if progress.stage == "queued":
        facts.append(_place(progress.ahead, texts))
    if progress.stage == "denoising" and progress.step:
        facts.append(texts("video.step", step=progress.step, steps=progress.steps))
        if progress.step_seconds is not None:
            facts.append(texts("video.a_step", seconds=in_words(progress.step_seconds, texts)))
        if isinstance(progress.news, StepReport):
            settled = "video.masks_settled" if progress.news.masks_settled else "video.masks_moving"
            facts.append(texts(settled))
    if progress.seconds_left is not None and not progress.stopping:
        facts.append(texts("video.left", seconds=in_words(progress.seconds_left, texts)))
    share = round(100 * progress.step / progress.steps) if progress.steps else 0
    bar = (
        f'<div class="bar" role="progressbar" aria-label="{texts("video.bar")}" aria-valuemin="0"'
        f' aria-valuemax="100" aria-valuenow="{share}"><span style="width: {share}%"></span></div>'
    )
    so_far = texts("video.so_far", seconds=in_words(progress.elapsed, texts))
    return (
        f'<div class="progress"><p><strong>{_stage(progress, texts)}</strong>'
        f" <span>{' · '.join(facts)}</span></p>"
        f'{bar}<p class="quiet">{so_far}</p></div>'
    )


def announcement(progress: JobProgress, texts: Texts) -> str:
    """The progress for a screen reader: it changes with the stage, with the place in the line and
    with each quarter of the steps, so that it does not talk all the time."""
    words = _stage(progress, texts)
    if progress.stage == "queued":
        return f"{words}: {_place(progress.ahead, texts)}"
    if progress.stage == "denoising" and progress.steps:
        quarter = ANNOUNCED_SHARES * progress.step // progress.steps
        return f"{words}: {100 * quarter // ANNOUNCED_SHARES} %"
    return words


def _stage(progress: JobProgress, texts: Texts) -> str:
    return texts("video.stopping" if progress.stopping else f"video.stage_{progress.stage}")


def _place(ahead: int, texts: Texts) -> str:
    return texts("video.ahead", n=ahead) if ahead else texts("video.next")


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


def titled_html(title: str, help_text: str) -> str:
    """The name of a part that is no step, and one line of help."""
    return (
        f'<div class="step-heading motions-heading"><h2>{html.escape(title)}</h2>'
        f'<p class="quiet">{html.escape(help_text)}</p></div>'
    )
