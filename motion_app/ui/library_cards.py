"""The library as cards: looping previews, what each motion is, and what can be done with it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import gradio as gr

from motion_app.library import DeletedMotion, is_shipped
from motion_app.methods import method_title
from motion_app.scene import Motion
from motion_app.ui.previews import MotionPreviews
from motion_app.ui.texts import Texts

CARDS_JS = (Path(__file__).parent / "library_cards.js").read_text(encoding="utf-8")


def new_cards() -> gr.HTML:
    """Events ``act`` with ``what`` ("export" or "delete") and the motion's ``digest``; ``restore``
    with the ``token`` of a deleted one."""
    return gr.HTML("", js_on_load=CARDS_JS, elem_id="library-cards", apply_default_css=False)


def library_html(
    motions: Sequence[Motion],
    *,
    base: str | None,
    deletable: frozenset[str],
    deleted: DeletedMotion | None,
    problems: Sequence[str],
    previews: MotionPreviews,
    texts: Texts,
) -> str:
    """The grid. ``base``: the loaded model's fingerprint, None while it loads; ``deletable``:
    digests of those that may be deleted; ``deleted``: the one to offer back."""
    search = html.escape(texts("motions.search"))
    cards = "".join(
        _card_html(motion, base, motion.digest in deletable, previews, texts) for motion in motions
    )
    empty = "" if motions else f'<p class="quiet">{html.escape(texts("motions.none"))}</p>'
    return (
        f'{_undo_html(deleted, texts)}<div class="motion-search"><input type="search"'
        f' placeholder="{search}" aria-label="{search}"><span class="quiet" aria-live="polite"'
        f' data-count="{html.escape(texts("motions.count"))}"></span></div>{empty}'
        f'<ul class="motion-grid">{cards}</ul>'
        f'<p class="quiet motion-unfound" hidden>{html.escape(texts("motions.unfound"))}</p>'
        f"{_problems_html(problems, texts)}"
    )


def _undo_html(deleted: DeletedMotion | None, texts: Texts) -> str:
    if deleted is None:
        return ""
    return (
        f'<div class="motion-undo" role="status"><span>'
        f"{html.escape(texts('motions.deleted', name=deleted.name))}</span>"
        f'<button type="button" data-restore="{deleted.token}">'
        f"{html.escape(texts('motions.undo'))}</button></div>"
    )


def _problems_html(problems: Sequence[str], texts: Texts) -> str:
    if not problems:
        return ""
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in problems)
    title = html.escape(texts("motions.problems", n=len(problems)))
    return f'<details class="motion-problems"><summary>{title}</summary><ul>{lines}</ul></details>'


def _card_html(
    motion: Motion, base: str | None, deletable: bool, previews: MotionPreviews, texts: Texts
) -> str:
    method = method_title(motion.method)
    searched = html.escape(f"{motion.name} {motion.phrase} {motion.noun} {method}".lower())
    tags = [f'<span class="tag">{html.escape(method)}</span>']
    if base is not None and motion.base != base:
        tags.append(f'<span class="tag tag-off">{html.escape(texts("motions.other"))}</span>')
    if not deletable:
        whose = "shipped" if is_shipped(motion.path.parent) else "others"
        tags.append(f'<span class="tag">{html.escape(texts(f"motions.{whose}"))}</span>')
    acts = _act_html("export", motion, texts) + (
        _act_html("delete", motion, texts) if deletable else ""
    )
    return (
        f'<li class="motion-card" data-search="{searched}" data-digest="{motion.digest}">'
        f'{_preview_html(motion, previews, texts)}<div class="motion-body">'
        f"<h3>{html.escape(motion.name)}</h3>"
        f'<p class="motion-phrase">“{html.escape(motion.phrase)}”</p>'
        f'<p class="motion-tags">{"".join(tags)}</p>{_details_html(motion, texts)}'
        f'<div class="motion-acts">{acts}</div></div></li>'
    )


def _act_html(what: str, motion: Motion, texts: Texts) -> str:
    said = html.escape(texts(f"motions.{what}_of", name=motion.name))
    return (
        f'<button type="button" data-what="{what}" aria-label="{said}">'
        f"{html.escape(texts(f'motions.{what}'))}</button>"
    )


def _preview_html(motion: Motion, previews: MotionPreviews, texts: Texts) -> str:
    """The looping clip, and one frame of it for those who want nothing to move."""
    address = previews.address(motion)
    if not address:
        return f'<div class="preview preview-none">{html.escape(texts("motions.unseen"))}</div>'
    still = previews.address(motion, still=True)
    alt = html.escape(texts("motions.preview", name=motion.name))
    return (
        '<picture class="preview"><source media="(prefers-reduced-motion: reduce)"'
        f' srcset="{still}"><img src="{address}" alt="{alt}" loading="lazy"></picture>'
    )


def _details_html(motion: Motion, texts: Texts) -> str:
    facts = {
        "noun": motion.noun,
        "steps": str(motion.steps or ""),
        "created": shown_date(motion.created),
        "base": motion.base[:12],
        "digest": motion.digest[:12],
    }
    rows = "".join(
        f"<dt>{html.escape(texts(f'motions.fact_{key}'))}</dt><dd>{html.escape(fact)}</dd>"
        for key, fact in facts.items()
        if fact
    )
    title = html.escape(texts("motions.details"))
    return f"<details><summary>{title}</summary><dl>{rows}</dl></details>"


def shown_date(created: str) -> str:
    """ "2026-01-31 12:00" of an ISO time; "" of none."""
    return datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M") if created else ""
