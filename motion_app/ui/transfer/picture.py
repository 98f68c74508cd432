"""Step 1: the pictures that come with the app, other ways in, and the three ways to fit a picture
to the model's frame.

An example is ``NAME.png`` beside ``NAME.json``::

    {"title": "A robot and a cat", "objects": [{"noun": "red robot", "box": [x0, y0, x1, y1]}]}

with boxes in pixels of that picture. The nouns pre-fill the sentences of what a person clicks.
"""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from motion_app.errors import MediaError, MotionAppError
from motion_app.geometry import FIT_MODES, FittedImage, ModelGeometry, fit_image
from motion_app.media.file_types import PICTURE_FILES
from motion_app.media.files import PictureNote, read_image, upscale
from motion_app.text_files import listed
from motion_app.ui.markup import Texts, icon
from motion_app.ui.pictures import picture_uri
from motion_app.ui.transfer.draft import SceneDraft
from motion_app.ui.transfer.object_draft import LONGEST_SENTENCE, NamedBox

logger = logging.getLogger(__name__)
THUMBNAIL_WIDTH = 192  # px
FIT_WIDTH = 120  # px
LEAST_CUT = 0.01  # of the picture: less is a row of pixels
_FIND_TEXTS = ("find", "find_example", "find_button", "find_help", "finding")
_SOURCE_TEXTS = ("camera", "paste", "camera_refused", "shoot", "close")


@dataclass(frozen=True, eq=False)
class Example:
    """``name`` is the file's stem; ``picture`` (H, W, 3) uint8."""

    name: str
    title: str
    picture: np.ndarray
    objects: tuple[NamedBox, ...]

    @property
    def description(self) -> str:
        """What is on the picture, for those who do not see it."""
        nouns = " and ".join(item.noun for item in self.objects)
        return f"{self.title}: {nouns}" if nouns else self.title


def load_examples(folder: Path | str) -> tuple[Example, ...]:
    """All examples of a folder in the order of their names; broken ones are logged and left out."""
    examples = []
    for path in listed(Path(folder), "*.png"):
        try:
            examples.append(load_example(path))
        except MotionAppError as error:
            logger.warning("example left out: %s", error)
    return tuple(examples)


def load_example(path: Path) -> Example:
    """One example; MediaError where the picture or its JSON cannot be used."""
    notes = path.with_suffix(".json")
    try:
        entries = json.loads(notes.read_text(encoding="utf-8-sig")) if notes.is_file() else {}
        objects = tuple(
            NamedBox(str(item["noun"]), tuple(float(side) for side in item["box"]))
            for item in entries.get("objects", ())
        )
        title = str(entries.get("title") or path.stem.replace("_", " ").capitalize())
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MediaError(
            f'{notes.name} must hold {{"title", "objects": [{{"noun", "box"}}]}}: {error}'
        ) from error
    if any(len(item.box) != 4 for item in objects):
        raise MediaError(f'{notes.name}: every "box" needs x0, y0, x1, y1')
    return Example(path.stem, title, read_image(path), objects)


def examples_html(examples: Sequence[Example], texts: Texts) -> str:
    """A button with a small picture for each example."""
    buttons = "".join(
        f'<button type="button" class="example" data-act="example"'
        f' data-name="{html.escape(example.name)}" title="{html.escape(example.title)}">'
        f'<img src="{picture_uri(_thumbnail(example.picture))}"'
        f' alt="{html.escape(example.description)}"></button>'
        for example in examples
    )
    label = html.escape(texts("transfer.examples"))
    return f'<div class="examples" role="group" aria-label="{label}">{buttons}</div>'


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    return upscale(picture[None], THUMBNAIL_WIDTH, round(height * THUMBNAIL_WIDTH / width))[0]


def sources_html(texts: Texts) -> str:
    """Other ways in than a file: the camera and the clipboard; the dialog of the camera."""
    t = {key: html.escape(texts(f"transfer.{key}")) for key in _SOURCE_TEXTS}
    return (
        f'<div class="sources" data-endings="{" ".join(PICTURE_FILES)}">'
        f'<button type="button" class="tool" data-local="camera">{icon("camera")}'
        f"<span>{t['camera']}</span></button>"
        f'<p class="quiet note">{icon("paste")} {t["paste"]}</p></div>'
        f'<dialog class="camera-dialog" aria-label="{t["camera"]}" data-own'
        f' data-refused="{t["camera_refused"]}"><video autoplay muted playsinline></video>'
        '<p class="note warning" role="alert" hidden></p><div class="dialog-buttons">'
        f'<button type="button" class="tool primary" data-local="shoot">{t["shoot"]}</button>'
        f'<button type="button" class="tool" data-local="close-camera">{t["close"]}</button>'
        "</div></dialog>"
    )


def find_html(texts: Texts) -> str:
    """A field for words, by which objects are found."""
    t = {key: html.escape(texts(f"transfer.{key}")) for key in _FIND_TEXTS}
    return (
        f'<form class="find" data-busy="{t["finding"]}"><label for="find-words">{t["find"]}</label>'
        '<div class="find-row"><input id="find-words" type="text" autocomplete="off"'
        f' maxlength="{LONGEST_SENTENCE}" placeholder="{t["find_example"]}">'
        f'<button type="submit" class="tool">{t["find_button"]}</button></div>'
        f'<p class="note quiet" role="status">{t["find_help"]}</p></form>'
    )


def fit_html(
    draft: SceneDraft | None, fit: str, geometry: ModelGeometry, texts: Texts, *, hours: float
) -> str:
    """The fits as radio buttons, each with what it makes of the picture, and in words what the
    chosen one did; then that the scene is kept for so many ``hours``, and the way to be rid of
    it. Where the model can do without a picture, that is offered first; then there is nothing to
    fit."""
    without = _words_html(draft, texts) if geometry.without_picture else ""
    if draft is not None and draft.from_words:
        return without + _kept_html(hours, texts)
    options = "".join(_fit_option(mode, draft, mode == fit, geometry, texts) for mode in FIT_MODES)
    note = "" if draft is None else html.escape(fit_words(draft.fitted, texts))
    told = "" if draft is None else "".join(_picture_note(note, texts) for note in draft.notes)
    frame = html.escape(texts("transfer.frame", width=geometry.width, height=geometry.height))
    return (
        f'{without}<fieldset class="fits"><legend>{html.escape(texts("transfer.fit"))}</legend>'
        f'<div class="fit-options">{options}</div></fieldset>'
        f"{'' if draft is None else _shift_html(draft.fitted, texts)}"
        f'<p class="note quiet" id="fit-note" role="status">{note or frame}</p>{told}'
        f"{'' if draft is None else _kept_html(hours, texts)}"
    )


def _words_html(draft: SceneDraft | None, texts: Texts) -> str:
    """The switch of a scene without a picture."""
    chosen = draft is not None and draft.from_words
    return (
        f'<div class="kept" data-key="words"><button type="button" class="tool"'
        f' data-act="{"over" if chosen else "words"}" aria-pressed="{str(chosen).lower()}">'
        f"{icon('edit')}<span>{html.escape(texts('transfer.words'))}</span></button>"
        f'<p class="note quiet">{html.escape(texts("transfer.words_help"))}</p></div>'
    )


def _shift_html(fitted: FittedImage, texts: Texts) -> str:
    """A slider that moves the part of the picture that is kept; "" where nothing is cut off."""
    if fitted.mode != "crop" or fitted.cut < LEAST_CUT:
        return ""
    across = fitted.source_size[1] * fitted.image.shape[0] > (
        fitted.source_size[0] * fitted.image.shape[1]
    )
    label = html.escape(texts("transfer.shift_across" if across else "transfer.shift_down"))
    return (
        f'<label class="shift" data-key="shift"><span>{label}</span><input type="range"'
        f' name="shift" min="0" max="1" step="0.02" value="{fitted.shift:g}"></label>'
    )


def _kept_html(hours: float, texts: Texts) -> str:
    help_text = html.escape(texts("transfer.over_help", hours=f"{hours:g}"))
    return (
        f'<div class="kept" data-key="kept"><button type="button" class="tool" data-act="over"'
        f' title="{help_text}">{icon("clear")}<span>{html.escape(texts("transfer.over"))}</span>'
        f'</button><p class="note quiet">{help_text}</p></div>'
    )


def _picture_note(note: PictureNote, texts: Texts) -> str:
    values = {name: f"{value:g}" for name, value in note.values.items()}
    words = html.escape(texts(f"transfer.picture_{note.key}", **values))
    return f'<p class="note warning" role="status">{words}</p>'


def _fit_option(
    mode: str, draft: SceneDraft | None, chosen: bool, geometry: ModelGeometry, texts: Texts
) -> str:
    picture = ""
    if draft is not None:
        shift = draft.fitted.shift
        fitted = fit_image(draft.picture, geometry.height, geometry.width, mode, shift=shift)
        picture = f'<img src="{_fit_uri(fitted.image.tobytes(), fitted.image.shape)}" alt="">'
    words, title = texts(f"transfer.fit_{mode}"), texts(f"transfer.fit_{mode}_help")
    return (
        f'<label class="fit-option" title="{html.escape(title)}"><input type="radio" name="fit"'
        f' value="{mode}"{" checked" if chosen else ""}>'
        f"{picture}<span>{html.escape(words)}</span></label>"
    )


@lru_cache(maxsize=32)
def _fit_uri(pixels: bytes, shape: tuple[int, int, int]) -> str:
    image = np.frombuffer(pixels, np.uint8).reshape(shape)
    return picture_uri(upscale(image[None], FIT_WIDTH, round(shape[0] * FIT_WIDTH / shape[1]))[0])


def fit_words(fitted: FittedImage, texts: Texts) -> str:
    """What was done to the picture, in words a person can check it by."""
    source_height, source_width = fitted.source_size
    height, width = fitted.image.shape[:2]
    sizes = texts(
        "transfer.fit_sizes", w0=source_width, h0=source_height, width=width, height=height
    )
    x0, y0, x1, y1 = fitted.place
    before = round(fitted.box[0]), round(fitted.box[1])
    after = round(source_width - fitted.box[2]), round(source_height - fitted.box[3])
    if (x1 - x0, y1 - y0) != (width, height):
        values = {"x": x0, "y": y0}
        return f"{sizes} {texts('transfer.fit_padded', **values)}"
    if fitted.mode == "stretch" and source_width * height != source_height * width:
        factor = (width / source_width) / (height / source_height)
        return f"{sizes} {texts('transfer.fit_stretched', factor=f'{factor:.2f}')}"
    for first, last, key in zip(before, after, ("sides", "ends"), strict=True):
        if first == last and first:
            return f"{sizes} {texts(f'transfer.fit_cut_{key}', pixels=first)}"
        if first or last:
            return f"{sizes} {texts(f'transfer.fit_cut_{key}_uneven', first=first, last=last)}"
    return f"{sizes} {texts('transfer.fit_whole')}"
