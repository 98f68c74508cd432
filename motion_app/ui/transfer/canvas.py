"""Step 2: the picture a person marks objects on, with its tools, as HTML; and its masks as files to
take away."""

from __future__ import annotations

import base64
import html
import io
import re
import zipfile
import zlib
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from motion_app.errors import RequestError
from motion_app.geometry import ModelGeometry, grid_to_mask
from motion_app.media.files import decode_data_uri, encode_data_uri, upscale
from motion_app.ui.markup import Texts, icon
from motion_app.ui.pictures import (
    colour_of,
    css_colour,
    display_size,
    draw_objects,
    enlarge_masks,
    picture_uri,
)
from motion_app.ui.transfer.draft import SceneDraft
from motion_app.ui.transfer.object_draft import Candidates, ObjectDraft
from motion_app.ui.transfer.rows import Problem, object_grids, problems_html
from motion_app.ui.transfer.session import History

TOOLS = (
    ("add", "P"),
    ("remove", "M"),
    ("box", "B"),
    ("brush", "D"),
    ("eraser", "E"),
    ("path", "A"),
)
CANDIDATE_WIDTH = 132  # px
REAL_MODEL = "python app.py --model zai-org/CogVideoX-5b-I2V"
ARROW_HEAD = 0.04  # of the frame's width
FORESEEN_TINT = 90  # of 255: opacity of what a click would give
LOWEST_QUESTION = 0.82  # of the frame's height: below it a question stands above its object


def canvas_html(
    draft: SceneDraft | None,
    *,
    history: History,
    grid: bool,
    drawn: int,
    problems: Sequence[Sequence[Problem]],
    geometry: ModelGeometry,
    texts: Texts,
    unfamiliar: bool = False,
) -> str:
    """Tools, the picture with its masks, the answers to choose from, and what to do next.
    ``unfamiliar``: the model does not know the picture's like. ``drawn`` is the number of this
    answer, so that the browser drops one that a newer one overtook."""
    empty, hint = ("stage_empty", "stage_begin"), _hint_html(draft, texts)
    if draft is not None and draft.from_words:
        draft, empty, hint = None, ("stage_words", "stage_words_help"), ""
    body = _empty_html(empty, texts) if draft is None else _frame_html(draft, grid, geometry, texts)
    candidates = "" if draft is None else _candidates_html(draft, texts)
    return (
        f'<div class="stage-all" data-key="all" data-drawn="{drawn}">'
        f"{_toolbar_html(texts)}{hint}"
        f"{_unfamiliar_html(texts) if unfamiliar else ''}{body}{candidates}"
        f"{_problems_html(draft, problems, texts)}"
        f"{_buttons_html(draft, history, grid, texts)}</div>"
    )


def _toolbar_html(texts: Texts) -> str:
    """The tools. Which one is held, and the brush's size, are the browser's own."""
    buttons = "".join(
        f'<button type="button" class="tool" role="radio" data-tool="{tool}" aria-checked="false"'
        f' tabindex="-1" title="{html.escape(texts(f"transfer.tool_{tool}_help"))} ({key})">'
        f"{icon(tool)}<span>{html.escape(texts(f'transfer.tool_{tool}'))}</span>"
        f'<kbd aria-hidden="true">{key}</kbd></button>'
        for tool, key in TOOLS
    )
    size = html.escape(texts("transfer.brush_size"))
    return (
        f'<div class="stage-tools" data-own data-key="tools"><div class="tools" role="radiogroup"'
        f' aria-label="{html.escape(texts("transfer.tools"))}">{buttons}</div>'
        f'<label class="brush-size" hidden><span>{size}</span>'
        f'<input type="range" min="1" max="100" value="30" aria-label="{size}" title="[ ]"></label>'
        "</div>"
    )


def _empty_html(keys: tuple[str, str], texts: Texts) -> str:
    first, then = (texts(f"transfer.{key}") for key in keys)
    return (
        f'<div class="stage-empty" data-key="empty"><p>{html.escape(first)}</p>'
        f"<p>{html.escape(then)}</p></div>"
    )


def _frame_html(draft: SceneDraft, grid: bool, geometry: ModelGeometry, texts: Texts) -> str:
    height, width = draft.frame_size
    words = html.escape(describe(draft, texts))
    lines = ""
    if grid:
        size = f"{100 / geometry.grid_width:.5f}% {100 / geometry.grid_height:.5f}%"
        lines = f'<span class="stage-grid" style="background-size: {size}" data-key="grid"></span>'
    return (
        f'<div class="stage-frame" data-key="frame" data-picture="{_mark_of(draft.picture)}"'
        ' tabindex="0" role="group"'
        f' style="aspect-ratio: {width} / {height}" aria-label="{words}"'
        f' aria-description="{html.escape(texts("transfer.stage_keys"))}">'
        f'<img data-key="picture" src="{picture_uri(_drawn(draft, grid, geometry))}"'
        f' alt="{words}" draggable="false">{lines}'
        '<canvas class="stage-ink" data-own data-key="ink" aria-hidden="true"></canvas>'
        f"{_paths_html(draft)}"
        f'<div class="stage-marks" data-key="marks" aria-hidden="true">{_marks_html(draft)}</div>'
        '<img class="stage-foreseen" data-own data-key="foreseen" alt="" aria-hidden="true" hidden>'
        '<span class="stage-cross" data-key="cross" aria-hidden="true"></span>'
        '<span class="stage-sent" data-key="sent" aria-hidden="true"></span>'
        f"{_question_html(draft, texts)}</div>"
    )


def _mark_of(image: np.ndarray) -> str:
    """By which the page knows that another picture has come, however it is fitted."""
    return f"{zlib.crc32(np.ascontiguousarray(image[::16, ::16])):08x}"


def _drawn(draft: SceneDraft, grid: bool, geometry: ModelGeometry) -> np.ndarray:
    """The fitted picture with the masks of all objects that are shown, or with their tokens."""
    height, width = draft.frame_size
    numbers = [k for k, item in enumerate(draft.objects) if item.shown]
    display = display_size(height, width)
    large = upscale(draft.fitted.image[None], *display)[0]  # (H', W', 3)
    if grid:
        masks = grid_to_mask(object_grids(draft, geometry)[numbers], display[1], display[0])
    else:
        masks = [draft.objects[k].mask for k in numbers]
        masks = np.stack(masks) if masks else np.zeros((0, height, width), dtype=bool)
        masks = enlarge_masks(masks, *display)  # (n, H', W')
    return draw_objects(
        large,
        masks,
        [draft.objects[k].slot for k in numbers],
        selected=numbers.index(draft.selected) if draft.selected in numbers else None,
        numbers=[k + 1 for k in numbers],
    )


def describe(draft: SceneDraft, texts: Texts) -> str:
    """The picture in words."""
    if not draft.objects:
        return texts("transfer.stage_none")
    unnamed = texts("transfer.unnamed")
    names = ", ".join(f"{k + 1} {item.name or unnamed}" for k, item in enumerate(draft.objects))
    return texts("transfer.stage_some", count=len(draft.objects), names=names)


def _marks_html(draft: SceneDraft) -> str:
    """The selected object's box, and its clicks: plus for what belongs to it, minus for not."""
    if draft.selected is None:
        return ""
    item = draft.objects[draft.selected]
    height, width = draft.frame_size
    dots = "".join(
        f'<span class="stage-dot {"include" if click.positive else "exclude"}"'
        f' style="left: {100 * click.x / width:.2f}%; top: {100 * click.y / height:.2f}%;'
        f' --dot: {css_colour(item.slot)}">{"+" if click.positive else "−"}</span>'
        for click in item.clicks
    )
    if item.box is None:
        return dots
    left, right = sorted((item.box.x0, item.box.x1))
    top, bottom = sorted((item.box.y0, item.box.y1))
    return (
        f'<span class="stage-box" style="left: {100 * left / width:.2f}%;'
        f" top: {100 * top / height:.2f}%; width: {100 * (right - left) / width:.2f}%;"
        f' height: {100 * (bottom - top) / height:.2f}%; --dot: {css_colour(item.slot)}"></span>'
        + dots
    )


def _paths_html(draft: SceneDraft) -> str:
    """The paths of all objects that are shown, as arrows in their colours; the selected object's is
    the boldest."""
    height, width = draft.frame_size
    lines = ""
    for index, item in enumerate(draft.objects):
        if item.path is None or not item.shown:
            continue
        arrow = arrow_of([(x * width, y * height) for x, y in item.path], ARROW_HEAD * width)
        bold = ' class="selected"' if index == draft.selected else ""
        paint = f' style="--colour: {css_colour(item.slot)}"'
        lines += f'<g data-key="path-{item.key}"{bold}{paint}><path d="{arrow}"/>'
        lines += f'<path d="{arrow}"/></g>'
    return (
        f'<svg class="stage-paths" data-key="paths" viewBox="0 0 {width} {height}"'
        f' preserveAspectRatio="none" aria-hidden="true">{lines}</svg>'
    )


def arrow_of(points: Sequence[tuple[float, float]], head: float) -> str:
    """What an SVG draws: a line through ``points`` (x, y) with a tip of so many units."""
    places = np.array(points)  # (n, 2)
    tip = places[-1]
    behind = places[np.hypot(*(places - tip).T) > head / 2]
    away = (behind[-1] if len(behind) else places[0]) - tip  # beyond what a hand does at the end
    away = head * away / max(float(np.hypot(*away)), 1e-9)
    turned = [np.array([[0.8, -s], [s, 0.8]]) @ away for s in (0.6, -0.6)]
    whole = " L".join(f"{x:.2f} {y:.2f}" for x, y in places)
    barbs = " L".join(f"{x:.2f} {y:.2f}" for x, y in (tip + turned[0], tip, tip + turned[1]))
    return f"M{whole} M{barbs}"


def _candidates_html(draft: SceneDraft, texts: Texts) -> str:
    """The answers to the last prompt of the selected object as small pictures with scores."""
    item = None if draft.selected is None else draft.objects[draft.selected]
    if item is None or item.candidates is None:
        return ""
    choices = item.candidates.told_apart()
    if len(choices) == 1:
        return ""  # one answer is no question
    pictures = "".join(
        _candidate_html(draft, item, k, number, texts) for number, k in enumerate(choices, start=1)
    )
    label = html.escape(texts("transfer.candidates"))
    return (
        f'<div class="candidates" data-key="candidates" role="radiogroup" aria-label="{label}">'
        f'<span class="candidates-title quiet">{label}</span>{pictures}</div>'
    )


def _candidate_html(draft: SceneDraft, item: ObjectDraft, k: int, number: int, texts: Texts) -> str:
    """Candidate ``k``, which is the ``number``-th that is shown."""
    top, bottom, left, right = _closeup(item.candidates)
    size = (CANDIDATE_WIDTH, round((bottom - top) * CANDIDATE_WIDTH / (right - left)))
    part = np.ascontiguousarray(draft.fitted.image[None, top:bottom, left:right])
    mask = enlarge_masks(item.candidates.mask(k)[None, top:bottom, left:right], *size)
    drawn = draw_objects(upscale(part, *size)[0], mask, [item.slot], numbered=False)
    score = round(100 * float(np.clip(item.candidates.scores[k], 0, 1)))
    chosen = k == item.candidates.chosen
    words = html.escape(texts("transfer.candidate", number=number, score=score))
    return (
        f'<button type="button" class="candidate" role="radio" data-act="candidate"'
        f' data-choice="{k}" data-key="candidate-{k}" aria-checked="{str(chosen).lower()}"'
        f' tabindex="{0 if chosen else -1}" aria-label="{words}" title="{words}">'
        f'<img src="{picture_uri(drawn)}" alt=""><span>{score} %</span>'
        f'<kbd aria-hidden="true">{number}</kbd></button>'
    )


def _closeup(candidates: Candidates) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of the part of the frame that all candidates lie in, with a margin
    and as wide for its height as the frame is."""
    height, width = candidates.shape
    covered = np.any([candidates.mask(k) for k in range(len(candidates.scores))], axis=0)
    if not covered.any():
        return 0, height, 0, width
    rows, columns = np.nonzero(covered)
    spans = (np.ptp(rows) + 1) / height, (np.ptp(columns) + 1) / width
    share = min(1.0, 1.35 * max(spans))
    tall, wide = max(2, round(share * height)), max(2, round(share * width))
    top = round(np.clip((rows.min() + rows.max() + 1 - tall) / 2, 0, height - tall))
    left = round(np.clip((columns.min() + columns.max() + 1 - wide) / 2, 0, width - wide))
    return top, top + tall, left, left + wide


def _buttons_html(draft: SceneDraft | None, history: History, grid: bool, texts: Texts) -> str:
    marked = draft is not None and bool(draft.objects)
    selected = draft is not None and draft.selected is not None
    some_mask = selected and draft.objects[draft.selected].mask.any()
    steps = {
        name: texts(step[-1].action.key, **step[-1].action.values) if step else ""
        for name, step in (("undo", history.past), ("redo", history.future))
    }
    done = {
        name: texts(f"transfer.{name}_that", action=action) if action else texts(f"transfer.{name}")
        for name, action in steps.items()
    }
    return (
        f'<div class="stage-buttons" data-key="buttons" role="group"'
        f' aria-label="{html.escape(texts("transfer.stage_buttons"))}">'
        + _button("fresh", "add", "new_object", texts, usable=selected, mark="new-object")
        + _button("undo", "undo", "undo", texts, usable=bool(history.past), title=done["undo"])
        + _button("redo", "redo", "redo", texts, usable=bool(history.future), title=done["redo"])
        + _button("clear", "clear", "clear", texts, usable=some_mask)
        + _button("grid", "grid", "grid", texts, usable=draft is not None, pressed=grid)
        + _button("", "import", "mask_import", texts, usable=draft is not None, mark="mask-import")
        + _button("export", "export", "mask_export", texts, usable=some_mask)
        + _button("export_all", "export", "masks_export", texts, usable=marked)
        + '<input type="file" accept="image/png,image/*" hidden data-own data-key="mask-file"'
        f' aria-label="{html.escape(texts("transfer.mask_import_help"))}"></div>'
    )


def _button(
    act: str,
    picture: str,
    key: str,
    texts: Texts,
    *,
    usable: bool,
    title: str = "",
    mark: str = "",
    pressed: bool | None = None,
) -> str:
    """``mark``: its id. A button that cannot be used stays in reach of the keyboard, so that focus
    is not lost when it becomes one."""
    title = html.escape(title or texts(f"transfer.{key}_help"))
    state = "" if pressed is None else f' aria-pressed="{str(pressed).lower()}"'
    return (
        f'<button type="button" class="tool" id="{mark or act}" data-key="{mark or act}"'
        f'{f" data-act={act}" if act else ""} aria-disabled="{str(not usable).lower()}"{state}'
        f' title="{title}">{icon(picture)}<span>{html.escape(texts(f"transfer.{key}"))}</span>'
        "</button>"
    )


def _hint_html(draft: SceneDraft | None, texts: Texts) -> str:
    """What the next click does, and what a line drawn with the path tool does: the browser shows
    the one of the tool it holds. It stands above the picture, where it is read before a click."""
    if draft is None:
        text = texts("transfer.hint_picture")
    elif draft.question is not None:
        values = {"number": draft.selected + 1, "known": draft.question.index + 1}
        text = texts("transfer.hint_question", **values)
    elif draft.selected is not None:
        text = texts("transfer.hint_refine", number=draft.selected + 1)
    else:
        text = texts("transfer.hint_next" if draft.objects else "transfer.hint_first")
    path = texts("transfer.hint_path" if draft and draft.objects else "transfer.hint_path_first")
    return (
        '<div id="hint" data-key="hint" aria-live="polite"><p class="note quiet for-clicks">'
        f'{html.escape(text)}</p><p class="note quiet for-paths">{html.escape(path)}</p></div>'
    )


def _unfamiliar_html(texts: Texts) -> str:
    """What the model knows, before work is lost on a picture that it does not."""
    title, words = (html.escape(texts(f"transfer.unfamiliar{part}")) for part in ("", "_help"))
    return (
        f'<div class="callout" data-key="unfamiliar" role="status"><b>{title}</b> {words}'
        f"<code>{REAL_MODEL}</code></div>"
    )


def _problems_html(
    draft: SceneDraft | None, problems: Sequence[Sequence[Problem]], texts: Texts
) -> str:
    """What is wrong with the selected object so far."""
    selected = None if draft is None else draft.selected
    told = "" if selected is None else problems_html(problems[selected], texts)
    return f'<div class="stage-problems" data-key="problems" aria-live="polite">{told}</div>'


def _question_html(draft: SceneDraft, texts: Texts) -> str:
    """Beside an object that a far mark began: whether it was meant as more of the one before. To do
    nothing is an answer too."""
    if draft.question is None or draft.selected is None:
        return ""
    known = draft.question.index
    colour, number = draft.objects[known].slot, draft.selected + 1
    began = html.escape(texts("transfer.question", number=number))
    more = html.escape(texts("transfer.question_more", number=known + 1))
    x, y, above = _beside(draft.objects[draft.selected].mask)
    return (
        f'<div class="stage-question{" above" if above else ""}" data-key="question" role="group"'
        f' aria-label="{began}" style="--x: {100 * x:.1f}; top: {100 * y:.1f}%"><span>{began}'
        f'</span><button type="button" class="tool" data-act="more" data-key="more"'
        f' style="--colour: {css_colour(colour)}">{more}</button></div>'
    )


def _beside(mask: np.ndarray) -> tuple[float, float, bool]:
    """A place below a mask (H, W), as shares of the frame's width and height; True for one above,
    where below is no room."""
    height, width = mask.shape
    if not mask.any():
        return 0.5, 0.5, False
    rows, columns = np.nonzero(mask)
    x = float(columns.min() + columns.max() + 1) / 2 / width
    below = float(rows.max() + 1) / height
    return (x, below, False) if below < LOWEST_QUESTION else (x, float(rows.min()) / height, True)


def foreseen_uri(mask: np.ndarray, slot: int) -> str:
    """The address of a picture of what a click would give, to lie over the frame: outline and tint
    in the object's colour, all else transparent."""
    width, height = display_size(*mask.shape)
    large = enlarge_masks(mask[None], width, height)[0].astype(np.uint8)
    drawn = np.zeros((height, width, 4), np.uint8)
    drawn[large > 0] = (*colour_of(slot), FORESEEN_TINT)
    outline, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outline, -1, (255, 255, 255, 255), max(2, width // 200), cv2.LINE_AA)
    file = io.BytesIO()
    Image.fromarray(drawn, "RGBA").save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def mask_file(draft: SceneDraft) -> tuple[str, str]:
    """(file name, ``data:`` address) of the selected object's mask: a PNG at the size of the model
    frame, white on black. RequestError where no object is selected."""
    if draft.selected is None:
        raise RequestError("no object is selected; press “Refine” on one first")
    return _name(draft, draft.selected), encode_data_uri(draft.objects[draft.selected].mask)


def masks_file(draft: SceneDraft) -> tuple[str, str]:
    """The same of all objects' masks in a zip; RequestError where there is none."""
    if not draft.objects:
        raise RequestError("nothing is marked yet; click on an object in the picture first")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for index, item in enumerate(draft.objects):
            archive.writestr(_name(draft, index), decode_data_uri(encode_data_uri(item.mask)))
    body = base64.b64encode(file.getvalue()).decode("ascii")
    return "masks.zip", f"data:application/zip;base64,{body}"


def _name(draft: SceneDraft, index: int) -> str:
    """mask-2-red-robot.png"""
    words = re.findall(r"\w+", draft.objects[index].name.lower())
    return "-".join(["mask", str(index + 1), *words]) + ".png"
