"""The page's words, its scripts, and the pieces of HTML that all tabs share.

Every text of the page in every language comes from one table, ``static/texts.csv``. A row is
``key,en,zh``. Keys are ``tab.thing`` in words; ``{name}`` in a text is filled in when it is shown.
A page is built once for each language (the header links them), so that a text is never looked up
twice and never half translated.

Icons are small pictures on buttons: lines on a 24 × 24 grid, in the colour of the text.
"""

from __future__ import annotations

import csv
import html
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from motion_app.host import HostStatus, ModelHost
from motion_app.jobs.progress import JobProgress
from motion_app.jobs.timings import JobPart, Measurement
from motion_app.methods import METHOD_TABLE
from motion_app.request.request import RequestFile
from motion_app.scene import GenerationRequest, Motion, StepReport

if TYPE_CHECKING:
    from motion_app.engine.memory import Outlook

_FOLDER = Path(__file__).parent / "static"
TABLE = _FOLDER / "texts.csv"
LANGUAGES = {"en": "English", "zh": "中文"}
ANNOUNCED_SHARES = 4  # a screen reader hears of every quarter, not of every second
_PATHS = MappingProxyType(
    {
        "add": "M12 5v14M5 12h14",
        "remove": "M5 12h14",
        "box": "M4 4h4M16 4h4v4M20 16v4h-4M8 20H4v-4M4 8V4M11 4h2M20 11v2M13 20h-2M4 13v-2",
        "brush": "M20 3 10 13M10 13c-3 0-4 2-4 4s-1 3-3 3c5 2 10 1 10-4 0-2-1-3-3-3",
        "path": "M4 19c1-8 5-3 8-7s3-6 7-7M14.5 3.5 20 5l-2.5 5",
        "eraser": "M8 20h12M4 15l9-10 7 6-8 9H8z M9 10l7 6",
        "undo": "M8 5 4 9l4 4M4 9h9a6 6 0 0 1 0 12H9",
        "redo": "m16 5 4 4-4 4M20 9h-9a6 6 0 0 0 0 12h4",
        "clear": "M6 6l12 12M18 6 6 18",
        "import": "M12 16V4M7 9l5-5 5 5M4 20h16",
        "export": "M12 4v12M7 11l5 5 5-5M4 20h16",
        "grid": "M4 4h16v16H4zM4 12h16M12 4v16",
        "up": "m6 14 6-6 6 6",
        "down": "m6 10 6 6 6-6",
        "shown": "M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12zM12 9a3 3 0 1 1 0 6 3 3 0 0 1 0-6z",
        "hidden": "M4 4l16 16M9 5.4C10 5.1 11 5 12 5c6 0 10 7 10 7l-3 4M6 7c-3 2-4 5-4 5s4 7 10 7"
        "c2 0 4-.7 5-1.5",
        "delete": "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
        "colour": "M12 3s7 7 7 12a7 7 0 0 1-14 0c0-5 7-12 7-12z",
        "camera": "M4 8h4l2-3h4l2 3h4v11H4zM12 10a3.5 3.5 0 1 1 0 7 3.5 3.5 0 0 1 0-7z",
        "paste": "M9 4h6v3H9zM9 5H6v15h12V5h-3",
        "edit": "M4 20l1-5L16 4l4 4L9 19z",
        "film": "M4 5h16v14H4zM8 5v14M16 5v14M4 10h4M4 14h4M16 10h4M16 14h4",
        "search": "M11 4a7 7 0 1 1 0 14 7 7 0 0 1 0-14zM16 16l5 5",
    }
)
MOUNT = '<div class="mount"></div>'  # the scripts draw a component's ``markup`` into it


@dataclass(frozen=True)
class Texts:
    """The texts of one ``language``: ``texts("transfer.upload")``."""

    language: str = "en"

    def __call__(self, key: str, **values: object) -> str:
        """The text of ``key`` with ``values`` in its places; KeyError for a key the table lacks."""
        text = _table()[key][self.language]
        return text.format(**values) if values else text


@cache
def _table() -> MappingProxyType[str, dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return MappingProxyType({row["key"]: {name: row[name] for name in LANGUAGES} for row in rows})


def method_text(method: str, texts: Texts) -> str:
    """``method`` as people read it on the page; one that is not ours keeps its own name."""
    return texts(f"video.method_{method}") if method in METHOD_TABLE else method


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
            f"<span>{_loading(status, texts)}{_foreseen(status, steps, texts)}</span>"
            f"{_shortage(status, texts)}"
        )
    else:
        body = (
            f'<span class="chip chip-ready">{name}</span>'
            f"<span>{_running(status, texts)} · "
            f"{_expectation(status, measured, steps, texts)}</span>"
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


def _foreseen(status: HostStatus, steps: int, texts: Texts) -> str:
    """What videos will take while the model is still loading; "" where that is nothing to plan
    for."""
    words = _before_the_first(status, steps, texts)
    return f" · {words}" if words else ""


def _before_the_first(status: HostStatus, steps: int, texts: Texts) -> str:
    expected = status.expected
    if expected is None or not expected.worth_saying(steps):
        return ""
    values = {"seconds": in_words(expected.seconds_for(steps), texts), "steps": steps}
    if expected.measured_on:
        device = html.escape(expected.measured_on)
        return texts("video.expected_measured", device=device, **values)
    return texts("video.expected", **values)


def _expectation(status: HostStatus, measured: Measurement | None, steps: int, texts: Texts) -> str:
    if measured is None:
        return _before_the_first(status, steps, texts) or texts("video.not_measured")
    one = measured.objects == 1
    things = texts("video.one_object") if one else texts("video.many_objects", n=measured.objects)
    seconds = in_words(measured.seconds_for(steps), texts)
    return texts("video.measured", seconds=seconds, steps=steps, things=things)


def progress_html(progress: JobProgress, texts: Texts) -> str:
    """Stage, step, time left and a bar."""
    facts = []
    if progress.stage == "queued":
        facts.append(_place(progress.ahead, texts))
    if progress.stage in ("denoising", "training") and progress.step:
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
        f'<div class="progress"><p><strong>{html.escape(_stage(progress, texts))}</strong>'
        f" <span>{' · '.join(facts)}</span></p>"
        f'{_parts_html(progress, texts)}{bar}<p class="quiet">{so_far}</p></div>'
    )


def announcement(progress: JobProgress, texts: Texts) -> str:
    """The progress for a screen reader: it changes with the stage, with the place in the line and
    with each quarter of the steps, so that it does not talk all the time."""
    words = _stage(progress, texts)
    if progress.stage == "queued":
        return f"{words}: {_place(progress.ahead, texts)}"
    if progress.stage in ("denoising", "training") and progress.steps:
        quarter = ANNOUNCED_SHARES * progress.step // progress.steps
        return f"{words}: {100 * quarter // ANNOUNCED_SHARES} %"
    return words


def _parts_html(progress: JobProgress, texts: Texts) -> str:
    """What is done one after the other, and what of it is done; "" for a job of one part."""
    if len(progress.parts) < 2:
        return ""
    items = []
    for number, part in enumerate(progress.parts):
        at = "done" if number < progress.part else "now" if number == progress.part else "later"
        words = _part_title(part, texts)
        mark = {"done": "✓ ", "now": "▸ ", "later": ""}[at]
        current = ' aria-current="step"' if at == "now" else ""
        items.append(f'<li class="{at}"{current}>{mark}{html.escape(words)}</li>')
    return f'<ol class="parts">{"".join(items)}</ol>'


def _part_title(part: JobPart, texts: Texts) -> str:
    if not part.title:
        return texts("video.stage_denoising")
    return texts("video.part_learning", name=part.title)


def _stage(progress: JobProgress, texts: Texts) -> str:
    if progress.stage == "training" and len(progress.parts) > 1 and not progress.stopping:
        return _part_title(progress.parts[progress.part], texts)
    return texts("video.stopping" if progress.stopping else f"video.stage_{progress.stage}")


def _place(ahead: int, texts: Texts) -> str:
    return texts("video.ahead", n=ahead) if ahead else texts("video.next")


def title_of(request: RequestFile | GenerationRequest, texts: Texts) -> str:
    """What a video shows: "red fox: jump · blue cat: walk right"."""
    parts = []
    for number, item in enumerate(request.objects, start=1):
        name = item.name or texts("video.object", n=number)
        asked = item.motion.name if isinstance(item.motion, Motion) else item.motion
        motion = asked and Path(asked).stem.replace("_", " ").replace("-", " ")
        if item.path is not None:
            motion = texts("transfer.path_name")
        parts.append(texts("video.title_part", name=name, motion=motion) if motion else name)
    return " · ".join(parts)


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


def icon(name: str) -> str:
    """The picture ``name`` as SVG, hidden from screen readers: words stand beside it."""
    return (
        '<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">'
        f'<path d="{_PATHS[name]}"/></svg>'
    )


def script(*names: str) -> str:
    """The text of the files ``name``.js one after the other: they share their functions."""
    return "\n".join((_FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in names)
