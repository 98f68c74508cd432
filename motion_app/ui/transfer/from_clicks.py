"""A scene without a page: a picture, clicks on its things, and for each thing a clip or a motion.
The command line and the endpoint ``transfer`` do with them what a person does on the page.
"""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from motion_app.errors import RequestError
from motion_app.geometry import ModelGeometry
from motion_app.library.library import Library
from motion_app.methods import WAYS
from motion_app.request.paths import framed_path, from_picture, read_path
from motion_app.scene import Click, DrawnPath
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.training.suggestion import name_from
from motion_app.ui.motions.clips import DraftClip
from motion_app.ui.transfer.draft import SceneDraft
from motion_app.ui.transfer.lessons import NOUN, SceneLesson, free_name
from motion_app.ui.transfer.object_draft import Segment
from motion_app.wording import NEUTRAL_PHRASE


@dataclass(frozen=True, kw_only=True)
class ClickedThing:
    """One thing that shall move: ``clicks`` on it, in pixels of the picture as it came, and its
    ``motion``, by a name of the library, the ``clip`` that it is to be learned from, or a ``path``:
    places (x, y) in the same pixels that it goes to from the first click on, one after another.
    Nothing of these is text alone.

    ``name``: what it is; ``strength`` as in a request. Of what is learned: ``called``, what the
    library shall call it ("" after the clip's file), ``noun`` and ``phrase`` of its caption,
    ``method``, one of WAYS ("" for the checkpoint's first), and ``steps``, None for the
    checkpoint's own. ``clip_name``: what a person calls the file, "" where
    that is its name.
    """

    clicks: tuple[Click, ...]
    motion: str | None = None
    clip: Path | None = None
    path: tuple[tuple[float, float], ...] = ()
    name: str = ""
    strength: float = 1.0
    called: str = ""
    noun: str = NOUN
    phrase: str = NEUTRAL_PHRASE
    method: str = ""
    steps: int | None = None
    clip_name: str = ""


def scene_of_clicks(
    picture: np.ndarray,
    things: Sequence[ClickedThing],
    *,
    fit: str,
    geometry: ModelGeometry,
    segment: Segment,
    library: Library,
    ways: Sequence[str] = WAYS[:1],
    limits: Limits = DEFAULT_LIMITS,
) -> SceneDraft:
    """The scene of ``things`` on ``picture`` (H0, W0, 3) uint8, fitted to the model's frame by
    ``fit``. ``segment`` answers clicks in that frame; clips are trimmed to their liveliest part and
    cropped to what moves, and become motions by one of ``ways``, the first where nobody says how.
    Raises RequestError, MediaError, and MotionFileError for a motion that is not in the
    ``library``."""
    draft = SceneDraft.of(picture, fit, geometry)
    for number, thing in enumerate(things, start=1):
        led = {"a clip": thing.clip, f"the motion {thing.motion!r}": thing.motion}
        given = [told for told, what in {**led, "a path": thing.path}.items() if what]
        if len(given) > 1:
            raise RequestError(f"thing {number} has {' and '.join(given)}; give it one of them")
        if thing.method and thing.method not in ways:
            raise RequestError(
                f"thing {number} is to be learned by {thing.method[:40]!r}; this model learns by "
                f"{', '.join(ways)}"
            )
        draft = _clicked(draft, thing, number, segment, limits)
        place = len(draft.objects) - 1
        draft = draft.changed(place, lambda item, thing=thing: item.renamed(thing.name))
        if thing.clip is not None:
            told = thing if thing.method else replace(thing, method=ways[0])
            lesson = _lesson(draft, told, geometry, library, limits)
            draft = draft.changed(place, lambda item, lesson=lesson: item.taught(lesson))
        elif thing.motion:
            draft = draft.moved_by(place, library.find(thing.motion))
        elif thing.path:
            path = _path(draft, thing, number)
            draft = draft.changed(place, lambda item, path=path: item.along(path))
        draft = draft.changed(place, lambda item, thing=thing: item.with_strength(thing.strength))
    return draft


def _clicked(
    draft: SceneDraft, thing: ClickedThing, number: int, segment: Segment, limits: Limits
) -> SceneDraft:
    """One more object, which answers the clicks on ``thing``."""
    if not thing.clicks:
        raise RequestError(f"thing {number} has no click; give at least one that is on it")
    height, width = draft.frame_size
    draft = draft.changed_selection(None)
    for k, click in enumerate(thing.clicks):
        x, y = from_picture(draft.fitted, click.x, click.y)
        if not (0 <= x < width and 0 <= y < height):
            raise RequestError(
                f"the click at ({click.x:g}, {click.y:g}) is outside the part of the picture that "
                f"the model sees ({draft.fitted.mode}); click inside, or choose another fit"
            )
        framed = replace(click, x=x, y=y)
        if k == 0:
            draft = draft.clicked(framed, segment, most=limits.objects)
        else:
            last = len(draft.objects) - 1
            image = draft.fitted.image
            draft = draft.changed(
                last, lambda item, framed=framed, image=image: item.clicked(framed, image, segment)
            )
    if not draft.objects[-1].mask.any():
        raise RequestError(f"nothing was found where thing {number} was clicked; click elsewhere")
    return draft


def _path(draft: SceneDraft, thing: ClickedThing, number: int) -> DrawnPath:
    """In shares of the model's frame."""
    height, width = draft.fitted.source_size
    begin = thing.clicks[0]
    places = ((begin.x, begin.y), *thing.path)
    try:
        told = read_path([(x / width, y / height) for x, y in places])
    except ValueError as error:
        raise RequestError(f"the path of thing {number}: {error}") from error
    return framed_path(told, draft.fitted)


def _lesson(
    draft: SceneDraft,
    thing: ClickedThing,
    geometry: ModelGeometry,
    library: Library,
    limits: Limits,
) -> SceneLesson:
    known = next((other for other in draft.lessons if _asks_for(thing, other)), None)
    if known is not None:  # one clip is learned from once
        return known
    called = thing.clip_name or thing.clip.name
    clip = DraftClip.read(thing.clip, geometry, limits, name=called, suggest=True)
    name = thing.called or free_name(library, draft.lessons, name_from(called))
    lesson = SceneLesson(clip, name, thing.noun, thing.phrase, thing.steps, thing.method)
    wrong = lesson.problems(library, draft.lessons, geometry)
    if "clip" in wrong:
        raise RequestError(_WRONG_CLIP[wrong["clip"]].format(name=called))
    return lesson


def _asks_for(thing: ClickedThing, lesson: SceneLesson) -> bool:
    """Whether what another thing is to learn is this one's motion too."""
    told = (thing.noun, thing.phrase, thing.steps, thing.method, thing.called or lesson.name)
    if told != (lesson.noun, lesson.phrase, lesson.steps, lesson.method, lesson.name):
        return False
    files = (thing.clip, lesson.clip.selection.file)
    return all(file.is_file() for file in files) and filecmp.cmp(*files, shallow=False)


_WRONG_CLIP = {
    "transfer.lesson_gone": "there is no file {name}; check the path",
    "transfer.lesson_still": "nothing moves in {name}; take another clip",
    "transfer.lesson_short": "{name} is too short for the model; take a longer clip",
}
