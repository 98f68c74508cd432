"""Motions as cards: small ones in a dialog, to choose from, and large ones in the library, to look
after. Both say the same of a motion and are found by the same words."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

import gradio as gr
import numpy as np

from motion_app.library.library import Whose
from motion_app.library.motion_file import MAX_LETTERS
from motion_app.library.trash import DeletedMotion
from motion_app.scene import Motion
from motion_app.ui.markup import Texts, icon, method_text, script
from motion_app.ui.pictures import Previews
from motion_app.wording import NEUTRAL_PHRASE

WHOSE: tuple[Whose, ...] = ("mine", "shared", "shipped")
LEAST_PLACES = 3  # of a path that can be told
CLOSED, FLAT = 0.25, 0.3  # of a path's longer side: it ends where it began; it is a line
ROUND = 1.25 * np.pi  # radians of turning that make a loop
HOPS = 2  # turns up and down on the way
TRAVELS = 0.3  # of its larger side: what moves less keeps its place
LEANS, RESIZED, RESHAPED = 0.4, 0.2, 0.02  # radians, and shares of its sides and its area
_TEXTS = (
    *("cards", "cards_title", "cards_search", "cards_none"),
    *("close", "no_motion", "no_motion_name", "no_motion_help"),
)


@dataclass(frozen=True)
class _Card:
    """What every card says of a motion, as HTML. ``words`` are those it is found by."""

    name: str
    shown: str
    phrase: str
    method: str
    words: str

    @classmethod
    def of(cls, motion: Motion, texts: Texts) -> _Card:
        shown, method = shown_name(motion.name), method_text(motion.method, texts)
        words = f"{motion.name} {shown} {motion.phrase} {motion.noun} {method}".lower()
        return cls(*map(html.escape, (motion.name, shown, motion.phrase, method, words)))

    def html(self, tag: str, attributes: str, preview: str, body: str) -> str:
        """The card around its ``preview`` and ``body``."""
        return f'<{tag} {attributes} data-words="{self.words}">{preview}{body}</{tag}>'


def cards_html(
    motions: Sequence[Motion],
    texts: Texts,
    whose: Callable[[Motion], Whose] = lambda _: "shipped",
    *,
    learning: bool = False,
    private: Mapping[str, bool] = MappingProxyType({}),
) -> str:
    """What stands in the dialog: title, search box, where motions are learned the entrance of a
    clip, "none" and a card for each motion. ``whose``: of whom each is, to choose from those of one
    kind; below them one's own can be changed. ``private`` as of ``library_html``."""
    t = {key: html.escape(texts(f"transfer.{key}")) for key in _TEXTS}
    cards = "".join(_card_html(motion, whose(motion), texts) for motion in motions)
    neutral = any(motion.phrase == NEUTRAL_PHRASE for motion in motions)
    about = html.escape(texts("transfer.cards_neutral", phrase=NEUTRAL_PHRASE)) if neutral else ""
    return (
        '<div class="cards-head" data-key="head">'
        f'<h3 data-own data-key="title" data-title="{t["cards_title"]}"></h3>'
        f'<button type="button" class="tool icon-only" data-local="close-cards"'
        f' aria-label="{t["close"]}" title="{t["close"]}">{icon("clear")}</button></div>'
        f'<label class="cards-search" data-key="search">{icon("search")}<input type="search"'
        f' placeholder="{t["cards_search"]}" aria-label="{t["cards_search"]}" autocomplete="off"'
        f' spellcheck="false"></label>{whose_html(texts)}'
        f'<div class="cards" data-key="cards" role="listbox" aria-label="{t["cards"]}">'
        f"{_learning_card(texts) if learning else ''}"
        '<button type="button" class="card" role="option" data-name="" data-words=""'
        f' data-key="none" tabindex="-1"><span class="preview preview-none">{t["no_motion"]}</span>'
        f'<b>{t["no_motion_name"]}</b><span class="quiet">{t["no_motion_help"]}</span></button>'
        f"{cards}</div>"
        f"{_own_html([one for one in motions if whose(one) == 'mine'], private, texts)}"
        f'<p class="note quiet" data-key="about">{about}</p>'
        f'<p class="note quiet cards-none" data-key="none-found" role="status" hidden'
        f" data-own>{t['cards_none']}</p>"
    )


def _own_html(motions: Sequence[Motion], private: Mapping[str, bool], texts: Texts) -> str:
    """One's own motions with what may be done with each; "" for none."""
    if not motions:
        return ""
    items = "".join(_own_item_html(motion, private.get(motion.digest), texts) for motion in motions)
    title = html.escape(texts("transfer.cards_own", n=len(motions)))
    return (
        f'<details class="own-motions" data-key="own" data-open><summary>{title}</summary>'
        f"<ul>{items}</ul></details>"
    )


def _own_item_html(motion: Motion, private: bool | None, texts: Texts) -> str:
    tag = "" if private is None else _tag_html("private" if private else "shown", texts)
    acts = "".join(_act_html(what, motion, texts) for what in _own_acts(private))
    name = html.escape(motion.name)
    return (
        f'<li class="own-motion" data-digest="{motion.digest}"'
        f' data-key="{motion.digest[:32]} {name}"><b class="own-name">{name}</b>'
        f'{_rename_html(motion, texts)}{tag}<div class="motion-acts">{acts}</div></li>'
    )


def _own_acts(private: bool | None) -> list[str]:
    """What may be done with a motion that is one's own, besides deleting it."""
    return ["rename", *([] if private is None else ["share" if private else "hide"])]


def whose_html(texts: Texts) -> str:
    """Buttons that choose whose motions are shown, all at first."""
    buttons = "".join(
        f'<button type="button" data-own data-key="whose-{one}" data-show="{one}"'
        f' aria-pressed="{str(not one).lower()}">{html.escape(texts(key))}</button>'
        for one, key in (
            ("", "motions.whose_all"),
            *((one, f"motions.whose_{one}") for one in WHOSE),
        )
    )
    label = html.escape(texts("motions.whose"))
    return f'<div class="whose" role="group" data-key="whose" aria-label="{label}">{buttons}</div>'


def _learning_card(texts: Texts) -> str:
    """The first card: a motion that is not there yet. It is found by whatever is searched."""
    title = html.escape(texts("transfer.learn_from_clip"))
    about = html.escape(texts("transfer.learn_card"))
    return (
        '<button type="button" class="card" role="option" data-local="clip" data-words=""'
        f' data-always data-key="learn" tabindex="-1"><span class="preview preview-none">'
        f'{icon("film")}</span><b>{title}</b><span class="quiet">{about}</span></button>'
    )


def path_key(track: Sequence[Sequence[float]] | None) -> str:
    """The text that says in words where a thing goes whose middle takes the places ``track``, (y,
    x) each with y downwards: "loop", "eight", "sides", "updown", "still", or a direction, "left"
    for example, which "left_hops" takes in hops; "" where no track is known."""
    if track is None or len(track) < LEAST_PLACES:
        return ""
    places = np.asarray(track, float)
    tall, wide = np.ptp(places, axis=0)
    down, across = places[-1] - places[0]
    if max(tall, wide) < 1:
        return "still"
    broad = min(tall, wide) > FLAT * max(tall, wide)
    if broad and abs(_turned(places)) > ROUND:
        return "loop"
    if np.hypot(down, across) < CLOSED * max(tall, wide):
        return "eight" if broad else "sides" if wide > tall else "updown"
    sideways = abs(across) >= abs(down)
    direction = ("right" if across > 0 else "left") if sideways else ("down" if down > 0 else "up")
    beside = places[:, 0] if sideways else places[:, 1]
    turns = int((np.diff(np.sign(np.diff(beside))) != 0).sum())
    hops = turns >= HOPS and np.ptp(beside) > FLAT * max(abs(across), abs(down))
    return f"{direction}_hops" if hops else direction


def shape_key(outline: Sequence[Sequence[float]] | None) -> str:
    """The text that says in words how a thing changes that keeps its place, from its ``outline``
    as a motion has it: "spins", "leans", "grows", "shrinks", "ducks", "stretches", "part" of it
    moves; "" where it goes somewhere, nothing of it changes, or nothing is known."""
    if outline is None or len(outline) < LEAST_PLACES:
        return ""
    values = np.asarray(outline, float)
    places, sides, turned, reshaped = values[:, :2], values[:, 2:4], values[:, 4], values[:, 5]
    sizes = sides / np.maximum(sides[0], 1)  # (T, 2)
    last, tall = float(sizes[-1].mean()), sizes[:, 0]
    if np.ptp(places, axis=0).max() > TRAVELS * sides[0].max():
        return ""
    if abs(turned[-1]) > ROUND:
        return "spins"
    if np.ptp(turned) > LEANS:
        return "leans"
    if not 1 - RESIZED < last < 1 + RESIZED:
        return "grows" if last > 1 else "shrinks"
    if tall.min() < 1 - RESIZED:
        return "ducks"
    if tall.max() > 1 + RESIZED:
        return "stretches"
    return "part" if reshaped.max() > RESHAPED else ""


def _turned(places: np.ndarray) -> float:
    """By how much, in radians, a path turns in all, to one side counted against the other."""
    steps = np.diff(places, axis=0)
    headings = np.arctan2(steps[:, 0], steps[:, 1])
    turns = np.diff(headings)
    return float(((turns + np.pi) % (2 * np.pi) - np.pi).sum())


def moves_how(motion: Motion, texts: Texts) -> str:
    """What moves how in the clip a motion was learned from: "green cat: goes round in a loop"; ""
    where that is not known."""
    places = motion.track or [(y, x) for y, x, *_ in motion.outline or ()]
    if shape := shape_key(motion.outline):
        how = texts(f"motions.shape_{shape}")
    elif path := path_key(places):
        how = texts(f"motions.path_{path}")
    else:
        return ""
    return texts("motions.moves_how", noun=motion.noun, path=how) if motion.noun else how


def gain_words(clip_errors: tuple[float, float], texts: Texts) -> str:
    """What refining gained, by ``Motion.clip_errors``: "14 % less error …"."""
    before, after = clip_errors
    gained = round(100 * (1 - after / before))
    key = "motions.gained" if gained > 0 else "motions.gained_nothing"
    return texts(key, share=gained, before=f"{before:.3f}", after=f"{after:.3f}")


def _card_html(motion: Motion, whose: Whose, texts: Texts) -> str:
    card = _Card.of(motion, texts)
    how = html.escape(moves_how(motion, texts)) or f"“… {card.phrase}”"
    return card.html(
        "button",
        f'type="button" class="card" role="option" data-name="{card.name}" data-whose="{whose}"'
        f' data-key="motion-{card.name}" tabindex="-1"',
        preview_html(motion),
        f'<b>{card.shown}</b><span class="quiet">{how}</span>'
        f'<small class="method">{card.method}</small>',
    )


def preview_html(motion: Motion) -> str:
    """The place of a motion's preview, which the browser fills when it is seen."""
    if motion.preview is None:
        return '<span class="preview preview-none" aria-hidden="true">–</span>'
    key = preview_key(motion)
    return f'<span class="preview" data-own data-preview="{key}" data-key="{key}"></span>'


def preview_key(motion: Motion) -> str:
    """What a card asks for its motion's preview by."""
    return motion.digest[:32]


def shown_name(name: str) -> str:
    return name.replace("_", " ").replace("-", " ")


def new_cards() -> gr.HTML:
    """Events ``act`` with ``what`` ("export", "rename" with the new ``name``, "share", "hide" or
    "delete") and the motion's ``digest``; ``restore`` with the ``token`` of a deleted one."""
    return gr.HTML(
        "",
        js_on_load=script("in_view", "search", "own_motions", "library_cards"),
        elem_id="library-cards",
        apply_default_css=False,
    )


def library_html(
    motions: Sequence[Motion],
    *,
    base: str | None,
    whose: Mapping[str, Whose],
    private: Mapping[str, bool],
    deleted: DeletedMotion | None,
    problems: Sequence[str],
    previews: Previews,
    texts: Texts,
    brought: str = "",
) -> str:
    """The grid. ``base``: the loaded model's fingerprint, None while it loads; ``whose`` each is,
    by digest: one's own may be changed; ``private``: of those that somebody made, whether nobody
    else sees them; ``deleted``: the one to offer back; ``brought``: the digest of the one that was
    just brought in, which comes into view."""
    search = html.escape(texts("motions.search"))
    cards = "".join(
        _library_card(
            motion, base, whose[motion.digest], private.get(motion.digest), previews, texts
        )
        for motion in motions
    )
    empty = "" if motions else f'<p class="quiet">{html.escape(texts("motions.none"))}</p>'
    return (
        f'{_undo_html(deleted, texts)}<div class="motion-search"><input type="search"'
        f' placeholder="{search}" aria-label="{search}"><span class="quiet" aria-live="polite"'
        f' data-count="{html.escape(texts("motions.count"))}"></span></div>'
        f"{whose_html(texts)}{empty}"
        f'<ul class="motion-grid" data-brought="{brought}">{cards}</ul>'
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


def _library_card(
    motion: Motion,
    base: str | None,
    whose: Whose,
    private: bool | None,
    previews: Previews,
    texts: Texts,
) -> str:
    card = _Card.of(motion, texts)
    tags = [f'<span class="tag">{card.method}</span>']
    if base is not None and motion.base != base:
        tags.append(f'<span class="tag tag-off">{html.escape(texts("motions.other"))}</span>')
    acts, form = ["export"], ""
    if whose == "mine":
        form = _rename_html(motion, texts)
        acts += [*_own_acts(private), "delete"]
        if private is not None:
            tags.append(_tag_html("private" if private else "shown", texts))
    else:
        tags.append(_tag_html("shipped" if whose == "shipped" else "others", texts))
    return card.html(
        "li",
        f'class="motion-card" data-digest="{motion.digest}" data-whose="{whose}"',
        _preview_html(motion, previews, texts),
        f'<div class="motion-body"><h3 class="own-name">{card.name}</h3>{form}'
        f"{_words_html(motion, texts, whose=whose)}"
        f'<p class="motion-tags">{"".join(tags)}</p>{_details_html(motion, texts)}'
        f'<div class="motion-acts">{"".join(_act_html(what, motion, texts) for what in acts)}'
        "</div></div>",
    )


def _tag_html(what: str, texts: Texts) -> str:
    return f'<span class="tag">{html.escape(texts(f"motions.{what}"))}</span>'


def _rename_html(motion: Motion, texts: Texts) -> str:
    """The field for another name, in the name's place while it is typed."""
    label = html.escape(texts("motions.new_name", name=motion.name))
    save, leave = (html.escape(texts(f"motions.rename_{what}")) for what in ("save", "leave"))
    return (
        '<form class="motion-rename" hidden><input type="text" required autocomplete="off"'
        f' maxlength="{MAX_LETTERS["name"]}" aria-label="{label}"'
        f' value="{html.escape(motion.name)}">'
        f'<button type="submit">{save}</button>'
        f'<button type="button" data-leave>{leave}</button></form>'
    )


def _words_html(motion: Motion, texts: Texts, *, whose: Whose) -> str:
    """What moves how, the words it is called by, and to whom it may matter what refining gained."""
    how, phrase = html.escape(moves_how(motion, texts)), f"“{html.escape(motion.phrase)}”"
    if motion.phrase == NEUTRAL_PHRASE:
        phrase += f" · {html.escape(texts('motions.neutral'))}"
    errors = None if whose == "shipped" else motion.clip_errors
    gained = "" if errors is None else html.escape(gain_words(errors, texts))
    return "".join(f'<p class="motion-phrase">{line}</p>' for line in (how, phrase, gained) if line)


def _act_html(what: str, motion: Motion, texts: Texts) -> str:
    said = html.escape(texts(f"motions.{what}_of", name=motion.name))
    return (
        f'<button type="button" data-what="{what}" aria-label="{said}">'
        f"{html.escape(texts(f'motions.{what}'))}</button>"
    )


def _preview_html(motion: Motion, previews: Previews, texts: Texts) -> str:
    """The looping clip, and one frame of it for those who want nothing to move."""
    address = previews.motion(motion)
    if not address:
        return f'<div class="preview preview-none">{html.escape(texts("motions.unseen"))}</div>'
    still = previews.motion(motion, still=True)
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
    if motion.phrase == NEUTRAL_PHRASE:
        why = html.escape(texts("transfer.cards_neutral", phrase=motion.phrase))
        rows += f"<dt>{html.escape(texts('motions.phrase'))}</dt><dd>{why}</dd>"
    return f"<details><summary>{title}</summary><dl>{rows}</dl></details>"


def shown_date(created: str) -> str:
    """ "2026-01-31 12:00" of an ISO time; "" of none."""
    return datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M") if created else ""
