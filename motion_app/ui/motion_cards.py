"""The motions to choose from, as cards with a search box. The previews come when a card is seen."""

from __future__ import annotations

import html
from collections.abc import Sequence

from motion_app.methods import method_title
from motion_app.scene import Motion
from motion_app.ui.icons import icon
from motion_app.ui.texts import Texts

NO_MOTION = ""


def cards_html(motions: Sequence[Motion], texts: Texts) -> str:
    """What stands in the dialog: title, search box, "none" and a card for each motion."""
    t = {key: html.escape(texts(f"transfer.{key}")) for key in _TEXTS}
    cards = "".join(_card_html(motion) for motion in motions)
    return (
        '<div class="cards-head" data-key="head">'
        f'<h3 data-own data-key="title" data-title="{t["cards_title"]}"></h3>'
        f'<button type="button" class="tool icon-only" data-local="close-cards"'
        f' aria-label="{t["close"]}" title="{t["close"]}">{icon("clear")}</button></div>'
        f'<label class="cards-search" data-key="search">{icon("search")}<input type="search"'
        f' placeholder="{t["cards_search"]}" aria-label="{t["cards_search"]}" autocomplete="off"'
        ' spellcheck="false"></label>'
        f'<div class="cards" data-key="cards" role="listbox" aria-label="{t["cards"]}">'
        '<button type="button" class="card" role="option" data-name="" data-words=""'
        f' data-key="none" tabindex="-1"><span class="preview preview-none">{t["no_motion"]}</span>'
        f'<b>{t["no_motion_name"]}</b><span class="quiet">{t["no_motion_help"]}</span></button>'
        f"{cards}</div>"
        f'<p class="note quiet cards-none" data-key="none-found" role="status" hidden'
        f" data-own>{t['cards_none']}</p>"
    )


_TEXTS = (
    *("cards", "cards_title", "cards_search", "cards_none"),
    *("close", "no_motion", "no_motion_name", "no_motion_help"),
)


def _card_html(motion: Motion) -> str:
    method = method_title(motion.method)
    shown = html.escape(shown_name(motion.name))
    phrase, name = html.escape(motion.phrase), html.escape(motion.name)
    words = html.escape(f"{motion.name} {shown} {motion.phrase} {method}".lower())
    return (
        f'<button type="button" class="card" role="option" data-name="{name}" data-words="{words}"'
        f' data-key="motion-{name}" tabindex="-1">{preview_html(motion)}'
        f'<b>{shown}</b><span class="quiet">“… {phrase}”</span>'
        f'<small class="method">{html.escape(method)}</small></button>'
    )


def preview_html(motion: Motion) -> str:
    """The place of a motion's preview, which the browser fills when it is seen."""
    if motion.preview is None:
        return '<span class="preview preview-none" aria-hidden="true">–</span>'
    name, digest = html.escape(motion.name), html.escape(motion.digest[:16])
    return f'<span class="preview" data-own data-preview="{name}" data-key="{digest}"></span>'


def shown_name(name: str) -> str:
    return name.replace("_", " ").replace("-", " ")
