"""Scenes that wait for their browser: a reload, or a tab closed by mistake, loses nothing.

Below ``outputs/drafts`` every browser has a folder, named after a hash of its token, and in it one
for each of its tabs::

    picture-1f2e3d4c.png   as it came, named by its content
    scene.npz              the masks as bits, answers to choose from; "scene", the rest as JSON

and beside them ``clips``, what is still to be learned for them (``kept_clips``).

What nobody came back for goes after ``limits.draft_hours``. No gradio here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from motion_app.errors import MotionAppError
from motion_app.geometry import CENTRE, FIT_MODES, ModelGeometry, fit_image
from motion_app.library.library import Library
from motion_app.media.files import PictureNote, read_image
from motion_app.request.paths import moved_path, read_path
from motion_app.scene import Box, Click, Motion
from motion_app.settings import Limits
from motion_app.text_files import write_whole
from motion_app.ui.transfer.draft import SceneDraft
from motion_app.ui.transfer.kept_clips import CLIPS, forget_clips, keep_clip, tidy_clips
from motion_app.ui.transfer.lessons import SceneLesson
from motion_app.ui.transfer.object_draft import (
    Candidates,
    NamedBox,
    ObjectDraft,
    Stroke,
    moved_mask,
)

logger = logging.getLogger(__name__)
FOLDER, SCENE = "drafts", "scene.npz"
PAUSE_SECONDS = 0.4  # what is typed is written when it rests
TIDY_SECONDS = 1800.0
MOST_TABS = 8  # of one browser, those written last
PNG_SPEED = [cv2.IMWRITE_PNG_COMPRESSION, 1]
WORDS = ("key", "slot", "name", "sentence", "strength", "shown", "wording")  # of an object


@dataclass(frozen=True, eq=False)
class KeptDraft:
    """A scene and the ``settings`` beside it, by their names. ``lost``: motions that it had and the
    library has no more."""

    draft: SceneDraft
    settings: Mapping[str, Any] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


class KeptDrafts:
    """Keeps, brings back and forgets scenes. ``keep`` returns at once; a thread writes."""

    def __init__(self, outputs: Path, limits: Limits) -> None:
        self.folder, self.limits = outputs / FOLDER, limits
        self._waiting: dict[Path, KeptDraft] = {}
        # The picture that lies in a folder, as long as a session holds it.
        self._written: dict[Path, weakref.ref[np.ndarray]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def keep(self, owner: str, tab: str, kept: KeptDraft) -> None:
        """``kept`` is what ``owner`` finds in ``tab`` from now on."""
        with self._changed:
            self._waiting[self._place(owner, tab)] = kept
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="drafts", daemon=True)
                self._thread.start()
            self._changed.notify()

    def find(
        self, owner: str, tab: str, *, geometry: ModelGeometry, library: Library
    ) -> KeptDraft | None:
        """What was kept of this tab, else the newest of its browser's; None where nothing was, and
        where it cannot be read any more."""
        self.write()
        own = self._place(owner, tab)
        if not own.is_dir():
            self._take_over(own)
        if not (own / SCENE).is_file():
            return None
        try:
            return _read(own / SCENE, geometry=geometry, library=library, limits=self.limits)
        except (OSError, ValueError, KeyError, TypeError, MotionAppError) as error:
            logger.warning("a kept scene cannot be read and is left out: %s", error)
            return None

    def _take_over(self, own: Path) -> None:
        """The newest scene of the browser's other tabs becomes that of a tab that is new. A tab
        that is still open writes its own again with the next action."""
        with self._changed:
            scenes = sorted(own.parent.glob(f"*/{SCENE}"), key=_age)
            if scenes:
                self._written.pop(scenes[0].parent, None)
                scenes[0].parent.rename(own)

    def forget(self, owner: str, tab: str) -> None:
        """Delete what was kept of a tab. Its empty folder stays: a tab that begins anew does not
        take over another one's scene."""
        place = self._place(owner, tab)
        with self._changed:
            self._waiting.pop(place, None)
            self._written.pop(place, None)
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            browser = place.parent
            waiting = [kept for at, kept in self._waiting.items() if at.parent == browser]
            needed = {file.name for kept in waiting for file in kept.draft.clips}
            for scene in browser.glob(f"*/{SCENE}"):
                needed |= _clips_of(scene)
            forget_clips(browser, besides=needed)

    def keep_clip(self, owner: str, upload: Path, name: str) -> Path:
        """A clip that ``owner`` gave, by a file that is there as long as their scenes."""
        return keep_clip(self._place(owner, "").parent, upload, name)

    def write(self) -> None:
        """Write what waits, now."""
        with self._changed:
            waiting, self._waiting = self._waiting, {}
            for place, kept in waiting.items():
                try:
                    self._write(place, kept)
                except OSError as error:
                    logger.warning("a scene cannot be kept: %s", error.strerror)

    def tidy(self, *, now: float | None = None) -> None:
        """Delete what is too old, and of each browser all but its newest tabs."""
        oldest = (time.time() if now is None else now) - 3600 * self.limits.draft_hours
        with self._changed:
            for browser in self.folder.glob("*/"):
                tabs = [place for place in browser.glob("*/") if place.name != CLIPS]
                tidy_clips(browser, oldest=oldest)
                for number, place in enumerate(sorted(tabs, key=_age)):
                    if number >= MOST_TABS or place.stat().st_mtime < oldest:
                        self._written.pop(place, None)
                        shutil.rmtree(place, ignore_errors=True)
                if not any(browser.iterdir()):
                    browser.rmdir()

    def _place(self, owner: str, tab: str) -> Path:
        """Hashed: who reads the folders' names learns no token."""
        names = (hashlib.sha256(name.encode()).hexdigest()[:32] for name in (owner, tab))
        return self.folder.joinpath(*names)

    def _work(self) -> None:
        tidied = -TIDY_SECONDS
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
            time.sleep(PAUSE_SECONDS)
            self.write()
            if time.monotonic() - tidied > TIDY_SECONDS:
                tidied = time.monotonic()
                self.tidy()

    def _write(self, place: Path, kept: KeptDraft) -> None:
        picture = kept.draft.picture
        files = list(place.glob("picture-*.png"))
        written = self._written.get(place)
        if written is None or written() is not picture or not files:
            digest = hashlib.sha256(np.ascontiguousarray(picture)).hexdigest()[:16]
            file = place / f"picture-{digest}.png"
            if file not in files:
                body = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), PNG_SPEED)[1]
                write_whole(file, lambda part: part.write_bytes(body))
            self._written[place] = weakref.ref(picture)
        else:
            (file,) = files
        arrays = _arrays_of(kept, file.name)
        for clip in kept.draft.clips:
            with contextlib.suppress(FileNotFoundError):
                os.utime(clip)

        def save(part: Path) -> None:
            np.savez_compressed(part, **arrays)

        write_whole(place / SCENE, save, ending=".npz")
        for old in files:
            if old != file:
                old.unlink(missing_ok=True)


def _age(file: Path) -> float:
    return -file.stat().st_mtime


def _arrays_of(kept: KeptDraft, picture: str) -> dict[str, np.ndarray]:
    """What ``scene.npz`` holds."""
    draft = kept.draft
    arrays = {}
    for k, item in enumerate(draft.objects):
        arrays[f"mask_{k}"] = np.packbits(item.mask)
        arrays[f"region_{k}"] = np.packbits(item.region)
        if item.candidates is not None:
            arrays[f"candidates_{k}"] = item.candidates.packed
    scene = {
        "picture": picture,
        "frame": draft.frame_size,
        "fit": draft.fitted.mode,
        "shift": draft.fitted.shift,
        "named": [asdict(item) for item in draft.named],
        "notes": [asdict(note) for note in draft.notes],
        "selected": draft.selected,
        "prompt": draft.prompt,
        "from_words": draft.from_words,
        "objects": [_words_of(item) for item in draft.objects],
        "settings": dict(kept.settings),
    }
    return {**arrays, "scene": np.array(json.dumps(scene))}


def _words_of(item: ObjectDraft) -> dict[str, Any]:
    candidates = item.candidates
    return {
        **{name: getattr(item, name) for name in WORDS},
        "motion": None if item.motion is None or item.lesson else item.motion.name,
        "lesson": item.lesson and item.lesson.to_json(),
        "looked": item.looked and item.looked.to_json(),
        "clicks": [asdict(click) for click in item.clicks],
        "box": None if item.box is None else asdict(item.box),
        "strokes": [asdict(stroke) for stroke in item.strokes],
        "scores": None if candidates is None else candidates.scores,
        "chosen": None if candidates is None else candidates.chosen,
        "path": item.path,
    }


def _clips_of(file: Path) -> set[str]:
    """The names of the clips that a kept scene learns from, or may refine with."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            objects = json.loads(str(arrays["scene"]))["objects"]
        lessons = [item.get(kind) for item in objects for kind in ("lesson", "looked")]
        return {lesson["clip"]["file"] for lesson in lessons if lesson}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _read(file: Path, *, geometry: ModelGeometry, library: Library, limits: Limits) -> KeptDraft:
    with np.load(file, allow_pickle=False) as arrays:
        scene = json.loads(str(arrays["scene"]))
        frame = tuple(scene["frame"])
        motions = {motion.name: motion for motion in library.list()}
        objects = tuple(
            _object_of(entry, frame, arrays, k, motions.get)
            for k, entry in enumerate(scene["objects"])
        )
    taught, looked = (
        [
            _lesson_of(entry.get(kind), file.parent.parent / CLIPS, geometry, limits)
            for entry in scene["objects"]
        ]
        for kind in ("lesson", "looked")
    )
    objects = tuple(
        item if lesson is None else replace(item, motion=lesson.motion, lesson=lesson)
        for item, lesson in zip(objects, taught, strict=True)
    )
    objects = tuple(
        item if item.motion is None else replace(item, looked=lesson)
        for item, lesson in zip(objects, looked, strict=True)
    )
    picture = read_image(file.with_name(scene["picture"]))
    mode = scene["fit"] if scene["fit"] in FIT_MODES else FIT_MODES[0]
    shift = float(scene.get("shift", CENTRE))
    fitted = fit_image(picture, geometry.height, geometry.width, mode, shift=shift)
    if frame != fitted.image.shape[:2]:  # another model since: what was marked moves to its frame
        before = fit_image(picture, *frame, mode, shift=shift)
        objects = tuple(
            replace(bare, region=mask, mask=mask, path=path)
            for item in objects
            for mask in [moved_mask(item.mask, before, fitted)]
            for path in [item.path and moved_path(item.path, before, fitted)]
            for bare in [replace(item, clicks=(), box=None, candidates=None, strokes=())]
        )
    draft = SceneDraft(
        picture=picture,
        fitted=fitted,
        named=tuple(NamedBox(item["noun"], tuple(item["box"])) for item in scene["named"]),
        objects=objects,
        selected=scene["selected"],
        prompt=scene["prompt"],
        from_words=scene.get("from_words", False),
        notes=tuple(PictureNote(note["key"], note["values"]) for note in scene["notes"]),
    )
    asked = [entry["motion"] for entry in scene["objects"] if entry["motion"]]
    clips = [entry["lesson"] for entry in scene["objects"] if entry.get("lesson")]
    there = {lesson.name for lesson in taught if lesson is not None}
    lost = [name for name in asked if name not in motions]
    lost += [entry["name"] for entry in clips if entry["name"] not in there]
    return KeptDraft(draft, scene["settings"], tuple(dict.fromkeys(lost)))


def _lesson_of(
    told: Mapping[str, Any] | None, clips: Path, geometry: ModelGeometry, limits: Limits
) -> SceneLesson | None:
    """What was ``told`` of a lesson; None where nothing was, and without its clip."""
    if not told:
        return None
    try:
        return SceneLesson.from_json(told, clips, geometry, limits)
    except MotionAppError as error:
        logger.warning("a clip of a kept scene cannot be used: %s", error)
        return None


def _object_of(
    entry: Mapping[str, Any],
    frame: tuple[int, int],
    arrays: Mapping[str, np.ndarray],
    k: int,
    motion_of: Callable[[str], Motion | None],
) -> ObjectDraft:
    """The ``k``-th object of a scene in a ``frame`` (height, width)."""
    mask, region = (
        np.unpackbits(arrays[f"{name}_{k}"], count=frame[0] * frame[1]).astype(bool).reshape(frame)
        for name in ("mask", "region")
    )
    scores = entry["scores"]
    candidates = None
    if scores is not None:
        candidates = Candidates(arrays[f"candidates_{k}"], frame, tuple(scores), entry["chosen"])
    strokes = tuple(
        Stroke(tuple(map(tuple, one["points"])), one["radius"], one["add"])
        for one in entry["strokes"]
    )
    return ObjectDraft(
        **{name: entry[name] for name in WORDS},
        region=region,
        mask=mask,
        clicks=tuple(Click(**click) for click in entry["clicks"]),
        box=entry["box"] and Box(**entry["box"]),
        candidates=candidates,
        strokes=strokes,
        motion=entry["motion"] and motion_of(entry["motion"]),
        path=entry.get("path") and read_path(entry["path"]),
    )
