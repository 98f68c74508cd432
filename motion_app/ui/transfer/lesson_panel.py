"""The entrance of a clip: the button of an object's row that takes one, and the panel in the row
that shows what will be learned from it; or, where nothing is learned, why, and how it is
elsewhere."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from motion_app.geometry import ModelGeometry
from motion_app.host import ModelHost
from motion_app.jobs import runners
from motion_app.jobs.timings import Measurement
from motion_app.library.library import is_shipped
from motion_app.methods import ENCODED, METHOD_TABLE, REFINED, WAYS, methods_there
from motion_app.training.config import own_steps, training_caption
from motion_app.ui.markup import Texts, icon, in_words
from motion_app.ui.motion_cards import gain_words
from motion_app.ui.motions.clips import example_clips_html, lone_clip_html
from motion_app.ui.motions.training import training_command
from motion_app.ui.transfer.lessons import FIELDS, LONGEST_WORDS, SceneLesson
from motion_app.ui.transfer.object_draft import ObjectDraft
from motion_app.world.clips import ExampleClip

WAYS_SHOWN = (ENCODED, REFINED, WAYS[0])  # the quickest first


@dataclass(frozen=True)
class LearningOffer:
    """What this deployment has for a clip: ``steps`` the checkpoint's own number by each method
    that it has, ``measured`` the last training here of one motion and ``look_seconds`` the last
    look, None before; ``examples``: clips to try it with. ``refusal``: why nothing is learned, and
    then the ``command`` that learns it elsewhere. ``cost``: seconds of the GPU that a visitor is
    lent for so many steps by a method, None where none is."""

    geometry: ModelGeometry
    steps: Mapping[str, int]
    measured: Measurement | None = None
    look_seconds: float | None = None
    refusal: str = ""
    command: str = ""
    examples: tuple[ExampleClip, ...] = ()
    cost: Callable[[str, int | None], float | None] = lambda method, steps: None

    @classmethod
    def of(
        cls, host: ModelHost, texts: Texts, examples: Sequence[ExampleClip] = ()
    ) -> LearningOffer:
        """That of this deployment, as it is now."""
        methods, defaults = methods_there(WAYS, encoder=host.has_encoder), host.defaults()
        steps = {name: own_steps(name, defaults.training_of(name)) for name in methods}
        looked = host.look_seconds
        measured = host.jobs.timings.nearest(
            runners.TRAIN, runners.training_size(WAYS[0], steps[WAYS[0]])
        )
        if host.learns:
            cost = host.lent_seconds
            examples = tuple(examples)
            return cls(host.geometry(), steps, measured, looked, examples=examples, cost=cost)
        refusal = texts("motions.train_off_lent" if host.lent else "motions.train_off")
        return cls(host.geometry(), steps, measured, looked, refusal, training_command())

    def steps_of(self, lesson: SceneLesson) -> int:
        """How many a lesson takes, 0 for one look."""
        own = self.steps.get(lesson.method, 0)
        return own if lesson.steps is None or not own else lesson.steps

    def seconds(self, lesson: SceneLesson) -> float | None:
        """How long a lesson takes here; None where nothing was measured."""
        if not self.steps_of(lesson):
            return self.look_seconds if lesson.look is None else lesson.look.seconds
        return None if self.measured is None else self.measured.seconds_for(self.steps_of(lesson))


def entrance_html(item: ObjectDraft, number: int, offer: LearningOffer, texts: Texts) -> str:
    """The button beside that of the cards. It takes a file, or says why not."""
    words = texts("transfer.learn_again" if item.lesson else "transfer.learn_from_clip")
    label = html.escape(f"{words}: {texts('video.object', n=number)}")
    if offer.refusal:
        return (
            f'<details class="no-learning" data-open data-key="no-learning"><summary class="tool">'
            f"{icon('film')}<span>{html.escape(words)}</span></summary>"
            f"<p>{html.escape(offer.refusal)}</p><pre>{html.escape(offer.command)}</pre>"
            f"<p>{html.escape(texts('transfer.learn_elsewhere'))}</p></details>"
        )
    return (
        f'<button type="button" class="tool learn-button" data-local="clip" data-key="learn"'
        f' aria-label="{label}">{icon("film")}<span>{html.escape(words)}</span></button>'
        f"{'' if item.motion or item.path else example_clips_html(offer.examples, texts)}"
    )


def lesson_html(
    item: ObjectDraft, number: int, offer: LearningOffer, wrong: Mapping[str, str], texts: Texts
) -> str:
    """The panel of a row whose motion is still to be learned; "" for any other. ``wrong``: what is
    wrong, by field, as ``SceneLesson.problems`` tells it."""
    lesson = item.lesson
    if lesson is None:
        return ""
    fields = "".join(_field_html(lesson, name, item.key, wrong, texts) for name in FIELDS)
    caption = training_caption(lesson.noun or "…", lesson.phrase or "…")
    told = texts("transfer.lesson_told", caption=caption)
    title = html.escape(texts(f"transfer.{_state(lesson)}", name=lesson.name, number=number))
    time = html.escape(_time(lesson, offer, texts))
    return (
        f'<details class="lesson" data-open data-key="lesson">'
        f'<summary><b>{title}</b> <span class="quiet">{time}</span></summary>'
        f'<div class="lesson-body" data-key="body">'
        f"{lone_clip_html(lesson.clip, geometry=offer.geometry, texts=texts)}"
        f"{_look_html(lesson, texts)}{_wrong_html(wrong, 'clip', texts)}"
        f'<div class="lesson-fields" data-key="fields">{fields}</div>'
        f"{_method_html(lesson, item.key, offer, texts)}"
        f'<p class="note quiet" data-key="caption">{html.escape(told)}</p></div></details>'
    )


def _state(lesson: SceneLesson) -> str:
    """The text that says what becomes of it."""
    if lesson.ready:
        return "lesson_ready"
    return {ENCODED: "lesson_at_look", REFINED: "lesson_refines"}.get(lesson.method, "lesson")


def refining_html(item: ObjectDraft, number: int, offer: LearningOffer, texts: Texts) -> str:
    """Below a motion that one look gave the button that refines it, and below one that somebody
    refined here what that gained."""
    if item.lesson is not None or item.motion is None:
        return ""
    if item.motion.clip_errors is not None and not is_shipped(item.motion.path.parent):
        gained = html.escape(gain_words(item.motion.clip_errors, texts))
        return f'<p class="note quiet" data-key="gained">{gained}</p>'
    if item.looked is None or REFINED not in offer.steps or offer.refusal:
        return ""
    cost = html.escape(_time(item.looked.learned_by(REFINED), offer, texts))
    words = html.escape(texts("transfer.refine_motion"))
    label = html.escape(texts("transfer.refine_motion_of", number=number))
    return (
        f'<p class="refining" data-key="refining"><button type="button" class="tool"'
        f' data-act="lesson_refine" data-key="refine-motion" aria-label="{label}">{words}</button>'
        f' <span class="quiet">{cost}</span></p>'
    )


def waits_for(lesson: SceneLesson) -> str:
    """The key of what stands beside its name."""
    if lesson.method == ENCODED:
        return "transfer.lesson_usable" if lesson.ready else "transfer.lesson_looks_first"
    return "transfer.lesson_refined" if lesson.method == REFINED else "transfer.lesson_waits"


def _look_html(lesson: SceneLesson, texts: Texts) -> str:
    """What the motion encoder saw, where its tokens are wanted."""
    if lesson.look is None or not lesson.look.picture or not METHOD_TABLE[lesson.method].encoder:
        return ""
    words = html.escape(texts("transfer.lesson_seen"))
    return (
        f'<figure class="lesson-look" data-key="look"><img src="{lesson.look.picture}"'
        f' alt="{words}"><figcaption class="quiet">{words}</figcaption></figure>'
    )


def _method_html(lesson: SceneLesson, key: int, offer: LearningOffer, texts: Texts) -> str:
    """How the tokens come from the clip, where the model has more ways than one."""
    if len(offer.steps) < 2:
        return ""
    ways = "".join(
        f'<label data-key="{method}"><input type="radio" data-key="way" name="lesson-method-{key}"'
        f' data-field="lesson_method" data-object="{key}" value="{method}"'
        f"{' checked' if method == lesson.method else ''}>"
        f"<span><b>{html.escape(texts(f'transfer.lesson_by_{method}'))}</b> "
        f'<span class="quiet">{html.escape(_time(lesson.learned_by(method), offer, texts))}</span>'
        "</span></label>"
        for method in sorted(offer.steps, key=WAYS_SHOWN.index)
    )
    title = html.escape(texts("transfer.lesson_how"))
    return (
        f'<fieldset class="lesson-ways" data-key="ways"><legend>{title}</legend>{ways}</fieldset>'
    )


def _time(lesson: SceneLesson, offer: LearningOffer, texts: Texts) -> str:
    steps, seconds = offer.steps_of(lesson), offer.seconds(lesson)
    cost = offer.cost(lesson.method, lesson.steps)
    if not steps and cost is not None:
        return texts("transfer.lesson_look_cost", seconds=in_words(cost, texts))
    if not steps and seconds is None:
        return texts("transfer.lesson_look")
    if not steps:
        key = "transfer.lesson_looked" if lesson.ready else "transfer.lesson_looks"
        return texts(key, seconds=in_words(seconds, texts))
    if cost is not None:
        return texts("transfer.lesson_cost", steps=steps, seconds=in_words(cost, texts))
    if seconds is None:
        return texts("transfer.lesson_unmeasured", steps=steps)
    return texts("transfer.lesson_time", steps=steps, seconds=in_words(seconds, texts))


def _field_html(
    lesson: SceneLesson, name: str, key: int, wrong: Mapping[str, str], texts: Texts
) -> str:
    written = html.escape(getattr(lesson, name))
    invalid = ' aria-invalid="true"' if name in wrong else ""
    return (
        f'<label data-key="{name}"><span class="field-title">'
        f"{html.escape(texts(f'motions.{name}'))}</span>"
        f'<input type="text" data-key="text" data-field="lesson_{name}" data-object="{key}"'
        f' value="{written}" maxlength="{LONGEST_WORDS}" autocomplete="off"{invalid}>'
        f"{_wrong_html(wrong, name, texts)}</label>"
    )


def _wrong_html(wrong: Mapping[str, str], name: str, texts: Texts) -> str:
    if name not in wrong:
        return ""
    return f'<p class="note warning" role="alert">⚠ {html.escape(texts(wrong[name]))}</p>'


def asked_html(texts: Texts) -> str:
    """The dialog for a video that was dropped on the picture: for which object is it? The browser
    fills in the objects."""
    title = html.escape(texts("transfer.clip_dropped"))
    none = html.escape(texts("transfer.clip_no_object"))
    close = html.escape(texts("transfer.close"))
    return (
        f'<h3>{title}</h3><div class="clip-targets"></div><p class="note quiet" hidden>{none}</p>'
        f'<button type="button" class="tool" data-local="close-clip">{close}</button>'
    )
