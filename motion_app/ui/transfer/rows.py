"""Step 3: a row for each object, and the prompt they make together, as HTML; and what is wrong with
an object before anything is generated, at the grid the model sees."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from motion_app.errors import RequestError
from motion_app.geometry import ModelGeometry, mask_to_grid
from motion_app.request.phrases import occurrences, phrase_spans
from motion_app.request.request import MAX_STRENGTH
from motion_app.ui.markup import Texts, icon
from motion_app.ui.motion_cards import preview_html, shown_name
from motion_app.ui.pictures import COLOURS, css_colour, ink_on
from motion_app.ui.transfer.draft import SceneDraft
from motion_app.ui.transfer.lesson_panel import (
    LearningOffer,
    entrance_html,
    lesson_html,
    refining_html,
    waits_for,
)
from motion_app.ui.transfer.object_draft import (
    LONGEST_NAME,
    LONGEST_PROMPT,
    LONGEST_SENTENCE,
    ObjectDraft,
)
from motion_app.wording import difference


def rows_html(
    draft: SceneDraft | None,
    *,
    problems: Sequence[Sequence[Problem]],
    heard: int,
    drawn: int,
    texts: Texts,
    counted: tuple[int, int] | None = None,
    unnamed: frozenset[int] = frozenset(),
    offer: LearningOffer | None = None,
    wrong: Sequence[Mapping[str, str]] = (),
) -> str:
    """All rows and the prompt. ``heard``: the last edit of the page that is in it; ``drawn``: the
    number of this answer, so that the browser drops one that a newer one overtook; ``counted``: the
    prompt's tokens and how many the model reads, None where nothing counts them yet; ``unnamed``:
    the keys of objects whose name was asked for; ``offer``: what a clip may do here; ``wrong``: for
    every object what is wrong with what it is to learn."""
    if draft is None or not draft.objects:
        body = f'<p class="note quiet">{html.escape(texts("transfer.rows_empty"))}</p>'
    else:
        rows = "".join(
            _row_html(
                *(draft, index, problems[index], texts),
                asked=item.key in unnamed,
                learning="" if offer is None else entrance_html(item, index + 1, offer, texts),
                lesson=""
                if offer is None
                else lesson_html(item, index + 1, offer, wrong[index], texts)
                + refining_html(item, index + 1, offer, texts),
            )
            for index, item in enumerate(draft.objects)
        )
        body = (
            f'<div class="object-list" data-key="list" role="list"'
            f' aria-label="{html.escape(texts("transfer.rows"))}">{rows}</div>'
            f"{_prompt_html(draft, texts, counted)}"
        )
    counts = f'data-heard="{heard}" data-drawn="{drawn}"'
    return f'<div class="objects" data-key="all" {counts}>{body}</div>'


def _row_html(
    draft: SceneDraft,
    index: int,
    problems: Sequence[Problem],
    texts: Texts,
    *,
    asked: bool,
    learning: str,
    lesson: str,
) -> str:
    """``learning`` is the entrance of a clip, ``lesson`` the panel of one that is there."""
    item, number = draft.objects[index], index + 1
    wanted = [Problem("transfer.notice_name", fatal=False)] if asked and item.nameless else []
    selected = draft.selected == index
    paint = f"--colour: {css_colour(item.slot)}; --ink: {ink_on(item.slot)}"
    return (
        f'<div class="object-row{" selected" if selected else ""}" role="listitem"'
        f' data-key="row-{item.key}" data-object="{item.key}" style="{paint}">'
        f"{_head_html(draft, index, texts)}{problems_html(wanted, texts)}"
        f"{_motion_html(item, number, texts, learning)}{lesson}"
        + _mirrored(
            "sentence",
            item.key,
            item.sentence,
            texts("transfer.sentence_of", number=number),
            texts("transfer.sentence"),
            [] if item.motion is None else [_mark(item, number)],
            LONGEST_SENTENCE,
        )
        + '<div class="row-notices" data-key="notices">'
        f"{problems_html(problems, texts)}</div></div>"
    )


def _head_html(draft: SceneDraft, index: int, texts: Texts) -> str:
    item, number = draft.objects[index], index + 1
    words = texts(
        "transfer.object_words", number=number, name=item.name or texts("transfer.unnamed")
    )
    name = html.escape(texts("transfer.name_of", number=number))
    return (
        '<div class="object-head" data-key="head">'
        f'<span class="badge" data-key="badge" role="img" aria-label="{html.escape(words)}">'
        f"{number}</span>"
        f'<input data-key="name" data-field="name" data-object="{item.key}" type="text"'
        f' value="{html.escape(item.name)}" maxlength="{LONGEST_NAME}" aria-label="{name}"'
        f' placeholder="{html.escape(texts("transfer.name_hint"))}" autocomplete="off">'
        + ("</div>" if draft.from_words else _marked_html(draft, index, words, texts))
    )


def _marked_html(draft: SceneDraft, index: int, words: str, texts: Texts) -> str:
    """The tools of an object that was marked, one of several."""
    item, number = draft.objects[index], index + 1
    selected = draft.selected == index
    refine = html.escape(texts("transfer.refine_help", number=number))
    hide = "shown" if item.shown else "hidden"
    return (
        '<button type="button" class="tool refine" data-act="select" data-key="refine"'
        f' aria-pressed="{str(selected).lower()}" title="{refine}" aria-label="{refine}">'
        f"{html.escape(texts('transfer.refine'))}</button></div>"
        '<div class="object-tools" data-key="tools" role="group"'
        f' aria-label="{html.escape(words)}">'
        + _tool("move", "up", "move_up", number, texts, step=-1, usable=index > 0)
        + _tool(
            "move", "down", "move_down", number, texts, step=1, usable=number < len(draft.objects)
        )
        + _tool("shown", hide, "hide" if item.shown else "show", number, texts)
        + _colours_html(item, number, texts)
        + _tool("delete", "delete", "delete", number, texts)
        + "</div>"
    )


def _tool(
    act: str,
    picture: str,
    key: str,
    number: int,
    texts: Texts,
    *,
    step: int = 0,
    usable: bool = True,
) -> str:
    words = html.escape(texts(f"transfer.{key}", number=number))
    return (
        f'<button type="button" class="tool icon-only" data-act="{act}" data-step="{step}"'
        f' data-key="{act}{step}" aria-disabled="{str(not usable).lower()}" aria-label="{words}"'
        f' title="{words}">{icon(picture)}</button>'
    )


def _colours_html(item: ObjectDraft, number: int, texts: Texts) -> str:
    """Eight swatches that open below a button. Each has the colour's name for those who do not see
    it, and a ring around the one in use."""
    swatches = "".join(
        f'<button type="button" class="swatch" role="radio" data-act="colour" data-slot="{slot}"'
        f' data-key="slot-{slot}" aria-checked="{str(slot == item.slot).lower()}"'
        f' aria-label="{html.escape(name)}" title="{html.escape(name)}"'
        f' style="background: {css_colour(slot)}"></button>'
        for slot in range(len(COLOURS))
        for name in [texts(f"transfer.colour_{slot}")]
    )
    words = html.escape(texts("transfer.colour", number=number))
    return (
        f'<details class="colours" data-open data-key="colours"><summary class="tool icon-only"'
        f' aria-label="{words}" title="{words}">{icon("colour")}</summary>'
        f'<div class="swatches" role="radiogroup" aria-label="{words}">{swatches}</div></details>'
    )


def _motion_html(item: ObjectDraft, number: int, texts: Texts, learning: str) -> str:
    """The button that opens the cards, with the chosen motion on it, the entrance of a clip, and
    the strength."""
    none = html.escape(texts("transfer.no_motion_name"))
    if item.motion is None:
        name = ""
        words = none
        picture = '<span class="preview preview-none" data-key="none" aria-hidden="true">–</span>'
        phrase = texts("transfer.no_motion_help")
    else:
        name, words = html.escape(item.motion.name), html.escape(shown_name(item.motion.name))
        picture, phrase = preview_html(item.motion), f"“… {item.phrase}”"
    if item.lesson is not None:
        picture = (
            f'<span class="preview preview-clip" data-own data-sheet="{item.lesson.clip.key}"'
            f' data-key="sheet-{item.lesson.clip.key}" aria-hidden="true"></span>'
        )
        phrase = texts(waits_for(item.lesson))
    if item.path is not None:
        words = html.escape(texts("transfer.path_name"))
        picture = f'<span class="preview preview-none" data-key="path">{icon("path")}</span>'
        phrase = texts("transfer.path_help")
    label = html.escape(texts("transfer.motion_of", number=number))
    choose, phrase = html.escape(texts("transfer.choose_motion")), html.escape(phrase)
    return (
        '<div class="object-motion" data-key="motion">'
        '<button type="button" class="motion-button" data-local="cards" data-key="choose"'
        f' data-motion="{name}" data-number="{number}" aria-haspopup="dialog"'
        f' aria-label="{label}: {words} {phrase} {choose}">{picture}'  # all that is written on it
        f'<span class="motion-words"><b>{words}</b> <span class="quiet">{phrase}</span></span> '
        f'<span class="motion-change">{choose}</span></button>'
        f"{_path_html(item, number, texts)}{learning}"
        f"{_strength_html(item, number, texts)}</div>"
    )


def _path_html(item: ObjectDraft, number: int, texts: Texts) -> str:
    """The button that takes a drawn path away."""
    if item.path is None:
        return ""
    words = html.escape(texts("transfer.path_remove_of", number=number))
    return (
        '<button type="button" class="tool path-remove" data-act="path_remove"'
        f' data-key="path-remove" aria-label="{words}" title="{words}">{icon("clear")}'
        f"<span>{html.escape(texts('transfer.path_remove'))}</span></button>"
    )


def _strength_html(item: ObjectDraft, number: int, texts: Texts) -> str:
    words = html.escape(texts("transfer.strength_of", number=number))
    return (
        f'<label class="strength" data-key="strength"{" hidden" if item.motion is None else ""}>'
        f"<span>{html.escape(texts('transfer.strength'))}</span>"
        f'<input type="range" data-key="value" data-field="strength" data-object="{item.key}"'
        f' min="0" max="{MAX_STRENGTH / 2:g}" step="0.05" value="{item.strength:g}"'
        f' aria-label="{words}"><output data-key="shown">{item.strength:.2f}</output></label>'
    )


def _mark(item: ObjectDraft, number: int) -> dict[str, object]:
    """A phrase to highlight in a text that is being typed."""
    return {"phrase": item.phrase, "colour": css_colour(item.slot), "number": number}


def _mirrored(
    field: str,
    key: int,
    text: str,
    label: str,
    title: str,
    marks: Sequence[dict[str, object]],
    longest: int,
) -> str:
    """A text field over a mirror of its text, in which the browser highlights the ``marks``."""
    written = html.escape(text)
    return (
        f'<label class="mirrored" data-key="{field}" data-marks="{html.escape(json.dumps(marks))}">'
        f'<span class="field-title">{html.escape(title)}</span><span class="mirror-box">'
        f'<span class="mirror" data-own data-key="mirror" aria-hidden="true"></span>'
        f'<textarea data-key="text" data-field="{field}" data-object="{key}" rows="1"'
        f' maxlength="{longest}" aria-label="{html.escape(label)}" value="{written}"'
        f' spellcheck="true">{written}</textarea></span></label>'
    )


def _prompt_html(draft: SceneDraft, texts: Texts, counted: tuple[int, int] | None) -> str:
    """The whole prompt: composed of the sentences and to be read, or edited."""
    title = html.escape(texts("transfer.prompt"))
    if draft.prompt is None:
        body = f'<p class="prompt-text" data-key="text">{marked_prompt(draft)}</p>'
        button = ("prompt_edit", "edit", texts("transfer.prompt_edit"))
    else:
        marks = [_mark(item, k + 1) for k, item in enumerate(draft.objects) if _counts(item)]
        body = _mirrored(
            *("prompt", -1, draft.prompt, texts("transfer.prompt"), ""), marks, LONGEST_PROMPT
        )
        fault = prompt_fault(draft)
        if fault:
            body += f'<p class="note warning" role="alert">⚠ {html.escape(fault)}</p>'
        button = ("prompt_compose", "undo", texts("transfer.prompt_compose"))
    act, picture, words = button
    return (
        f'<section class="prompt" data-key="prompt" id="prompt"><div class="prompt-head">'
        f'<h3>{title}</h3><button type="button" class="tool" data-act="{act}" data-key="toggle">'
        f"{icon(picture)}<span>{html.escape(words)}</span></button></div>{body}"
        f"{_count_html(counted, texts)}</section>"
    )


def _count_html(counted: tuple[int, int] | None, texts: Texts) -> str:
    if counted is None:
        return ""
    tokens, most = counted
    if tokens <= most:
        words = html.escape(texts("transfer.tokens", tokens=tokens, most=most))
        return f'<p class="token-count quiet" data-key="count">{words}</p>'
    words = html.escape(texts("transfer.tokens_over", tokens=tokens, most=most))
    return f'<p class="token-count note warning" data-key="over" role="alert">⚠ {words}</p>'


def _counts(item: ObjectDraft) -> bool:
    """Its wording has a place in an edited prompt, as ``phrase_spans`` counts them."""
    return item.motion is not None or bool(occurrences(item.phrase, item.sentence))


def marked_prompt(draft: SceneDraft) -> str:
    """The prompt as HTML, each motion phrase in its object's colour and with its number."""
    prompt = draft.full_prompt()
    try:
        spans = phrase_spans(prompt, draft.scene_objects())
    except RequestError:
        spans = [None] * len(draft.objects)  # the row's own warning says what is wrong
    places = sorted((span, k) for k, span in enumerate(spans) if span is not None)
    pieces, end = [], 0
    for (start, stop), k in places:
        slot = draft.objects[k].slot
        paint = f"--colour: {css_colour(slot)}; --ink: {ink_on(slot)}"
        pieces.append(
            f'{html.escape(prompt[end:start])}<mark style="{paint}">'
            f"{html.escape(prompt[start:stop])}<sup>{k + 1}</sup></mark>"
        )
        end = stop
    return "".join(pieces) + html.escape(prompt[end:])


@dataclass(frozen=True)
class Problem:
    """``key`` and ``values`` of a text. ``fatal``: a request with it is refused."""

    key: str
    values: Mapping[str, object] = field(default_factory=dict)
    fatal: bool = True


def object_grids(draft: SceneDraft, geometry: ModelGeometry) -> np.ndarray:
    """(N, h, w) bool: the tokens of each object."""
    masks = [item.mask for item in draft.objects]
    masks = np.stack(masks) if masks else np.zeros((0, *draft.frame_size), dtype=bool)
    return mask_to_grid(masks, geometry.grid_height, geometry.grid_width)


def object_problems(draft: SceneDraft, geometry: ModelGeometry) -> list[list[Problem]]:
    """For every object what is wrong with its mask and its sentence; [] where nothing is."""
    grids = object_grids(draft, geometry)
    return [
        [
            *_mask_problems(item, grids[k], geometry),
            *_overlaps(draft, grids, k),
            *_sentence_problems(item),
        ]
        for k, item in enumerate(draft.objects)
    ]


def _mask_problems(item: ObjectDraft, grid: np.ndarray, geometry: ModelGeometry) -> list[Problem]:
    if not item.mask.any():
        return [Problem("transfer.notice_empty")]
    if grid.any():
        return []
    pixels, side = int(item.mask.sum()), geometry.smallest_object
    return [Problem("transfer.notice_small", {"pixels": pixels, "side": side})]


def _overlaps(draft: SceneDraft, grids: np.ndarray, k: int) -> list[Problem]:
    """Objects may share tokens, but then the model cannot tell there which motion is meant."""
    problems = []
    for other, item in enumerate(draft.objects):
        shared = int((grids[k] & grids[other]).sum())
        if other != k and shared:
            share = round(100 * shared / int(grids[k].sum()))
            name = item.name and f" ({item.name})"
            values = {"number": other + 1, "name": name, "tokens": shared, "share": share}
            problems.append(Problem("transfer.notice_overlap", values, fatal=False))
    return problems


def _sentence_problems(item: ObjectDraft) -> list[Problem]:
    """The request wants the phrase in the sentence even where the whole prompt was edited."""
    if item.motion is None:
        return []
    count = len(occurrences(item.phrase, item.sentence))
    if count == 1:
        return []
    told = "" if count else difference(item.phrase.strip(), item.sentence)
    values = {
        "phrase": item.phrase,
        "sentence": item.sentence,
        "count": count,
        "difference": told,
    }
    return [Problem("transfer.notice_phrase", values)]


def prompt_fault(draft: SceneDraft) -> str:
    """Why an edited prompt would be refused, with both texts quoted; "" where it would not."""
    if draft.prompt is None:
        return ""
    if not draft.prompt.strip():
        return "the prompt is empty; say in words what the objects do"
    try:
        phrase_spans(draft.prompt, draft.scene_objects())
    except RequestError as error:
        return str(error)
    return ""


def problems_html(problems: Sequence[Problem], texts: Texts) -> str:
    """A line for each warning."""
    return "".join(
        f'<p class="note warning">⚠ {html.escape(texts(problem.key, **problem.values))}</p>'
        for problem in problems
    )
