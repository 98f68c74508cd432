"""Videos to be scored, and the files that they come as.

What is scored: a video of any method, with the request it answers and the clips it should move
like.

Everything about an object starts from its mask in the first frame; true masks of later frames are
never used. Frames made here are read without loss where they were kept.

Which uploaded file belongs to which video: by its name, so that a folder of results can be
dropped in at once.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from motion_app.errors import MediaError, MotionAppError, RequestError
from motion_app.evaluation.report import distinct_names
from motion_app.evaluation.trackers import inner_point, moving_region
from motion_app.geometry import fit_image
from motion_app.library.library import Library
from motion_app.media.files import decode_data_uri, read_clip, read_image, read_mask
from motion_app.request.request import RequestFile, parse_request
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.text_files import is_leftover, located, read_json

# Marks one object: a frame (H, W, 3) uint8 and a point (y, x) on it give a mask (H, W) bool.
Segment = Callable[[np.ndarray, tuple[float, float]], np.ndarray]
SHORT_SIDE = 480  # pixels: the size the paper scores at; larger videos are scaled down to it
MOST_FRAMES = 161  # scored of one video; longer ones are refused, not cut in silence
LOSSLESS, AS_IT_CAME = "lossless frames", "video file, compressed as it came"
WHOLE = np.ones((1, 1), bool)  # in the place of a mask that is still to be found
MOST_VIDEOS = 20
REQUEST_SUFFIX = ".json"
MOST_REQUEST_BYTES = 64 * 2**20  # a recipe has its pictures inside
ReadRecipe = Callable[[Path], Mapping[str, Any] | None]


@dataclass(frozen=True, eq=False)
class EvaluationItem:
    """One video to score.

    ``name`` shown in the report; ``method`` its row there; ``video`` the file; ``frames`` a
    ``frames.npz`` with the same frames without loss, used where it is given; ``request`` a request
    or recipe as JSON or its file, None for none; ``references`` one clip for each object in the
    request's order, else the library's clips of the request's motions; ``reference_masks`` the
    masks of their first frames. ``folder``: what paths inside the request start from; None refuses
    paths, as a request from a stranger must be complete in itself.
    """

    name: str
    method: str
    video: Path
    frames: Path | None = None
    request: Mapping[str, Any] | Path | None = None
    references: tuple[Path, ...] = ()
    reference_masks: tuple[Path, ...] = ()
    folder: Path | None = None


@dataclass(frozen=True, eq=False)
class ReferenceClip:
    """``frames`` (T, H, W, 3) uint8, ``mask`` (H, W) bool of its first frame; ``track`` [T', 2] the
    true centroid track in pixels (y, x) of some size, where it is known."""

    name: str
    frames: np.ndarray
    mask: np.ndarray
    track: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class JudgedObject:
    """``mask`` (H, W) bool in the video's first frame; ``problem`` says why ``reference`` is
    None."""

    name: str
    phrase: str
    mask: np.ndarray
    reference: ReferenceClip | None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class OpenedItem:
    """``frames`` (T, H, W, 3) uint8 at ``fps``; ``text`` the whole caption, "" for none; ``image``
    (H, W, 3) uint8 the picture it was made from; ``source`` LOSSLESS or AS_IT_CAME; ``remarks``:
    what the reader should know of how it was read."""

    item: EvaluationItem
    frames: np.ndarray
    fps: float
    source: str
    text: str = ""
    image: np.ndarray | None = None
    objects: tuple[JudgedObject, ...] = ()
    remarks: tuple[str, ...] = ()


def open_item(
    item: EvaluationItem,
    *,
    library: Library,
    limits: Limits = DEFAULT_LIMITS,
    segment: Segment | None = None,
) -> OpenedItem:
    """Read everything ``item`` names.

    ``segment`` marks the moving thing of a reference clip from one point on it; without it the
    mask is what a still camera's clip shows moving. Raises MotionAppError where the video or its
    request cannot be read; a reference that cannot is the problem of its object alone.
    """
    frames, fps, source = _read_frames(item, limits)
    request = None if item.request is None else parse_request(item.request)
    remarks: list[str] = []
    if request is None:
        objects = _unmarked_object(item, frames, limits, segment, remarks)
        return OpenedItem(item, frames, fps, source, objects=objects, remarks=tuple(remarks))
    fitted = None
    if request.image is not None:
        image = read_image(_inside(request.image, "image", item.folder), limits=limits)
        if image.shape[0] < frames.shape[1] and _same_shape(image, frames[0]):
            # A result upscaled for looking at: the model's own pixels are what is judged.
            frames = _resized(frames, image.shape[1], image.shape[0])
        fitted = fit_image(image, frames.shape[1], frames.shape[2], request.fit)
    if item.references and len(item.references) != len(request.objects):
        raise RequestError(
            f"{item.name} has {len(request.objects)} objects and {len(item.references)} reference "
            "clips; give one clip for each object, in the same order"
        )
    objects = []
    for k, entry in enumerate(request.objects):
        reference, problem = _reference(item, request, k, library, limits, segment, remarks)
        told = JudgedObject(
            entry.name or f"object {k + 1}", entry.phrase, WHOLE, reference, problem
        )
        if fitted is None:
            objects.append(_by_movement(told, item, frames, segment, remarks))
            continue
        mask = _object_mask(item, request, k, fitted, frames.shape[1:3], limits)
        objects.append(replace(told, mask=mask))
    sentences = " ".join(entry.sentence.strip() for entry in request.objects)
    text = sentences if request.options.prompt is None else request.options.prompt
    image = None if fitted is None else fitted.image
    return OpenedItem(
        item, frames, fps, source, text, image, tuple(objects), tuple(dict.fromkeys(remarks))
    )


def _read_frames(item: EvaluationItem, limits: Limits) -> tuple[np.ndarray, float, str]:
    if item.frames is not None:
        try:
            with np.load(item.frames, allow_pickle=False) as kept:
                frames, fps, source = kept["frames"], float(kept["fps"]), LOSSLESS
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise MediaError(f"{item.frames.name} of {item.name} is damaged: {error}") from error
    else:
        clip = read_clip(item.video, short_side=SHORT_SIDE, limits=limits)
        frames, fps, source = clip.frames, clip.fps, AS_IT_CAME
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise MediaError(
            f"{item.name} holds {frames.shape} of {frames.dtype}; expected (T, H, W, 3) of uint8"
        )
    if not 2 <= len(frames) <= MOST_FRAMES:
        raise MediaError(
            f"{item.name} has {len(frames)} frames; 2 to {MOST_FRAMES} can be scored; "
            "cut the video to what was generated"
        )
    return frames, fps, source


def _same_shape(image: np.ndarray, frame: np.ndarray) -> bool:
    return abs(image.shape[1] / image.shape[0] - frame.shape[1] / frame.shape[0]) < 0.01


def _resized(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in frames])


def _inside(text: str, what: str, folder: Path | None) -> Path | bytes:
    if text.startswith("data:"):
        return decode_data_uri(text)
    if folder is None:
        raise RequestError(
            f"the {what} of the request is the path {text[:60]}; upload the recipe of a result, "
            "which has its pictures inside"
        )
    return located(folder, text)


def _object_mask(
    item: EvaluationItem,
    request: RequestFile,
    k: int,
    fitted: Any,
    size: tuple[int, int],
    limits: Limits,
) -> np.ndarray:
    """The mask of object ``k`` in the video's frame."""
    mask = read_mask(_inside(request.objects[k].mask, "mask", item.folder), limits=limits)
    if mask.shape == fitted.source_size:
        mask = fitted.fit_mask(mask)
    elif mask.shape[1] * size[0] == mask.shape[0] * size[1]:  # of the model's frame, made larger
        mask = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) > 0
    else:
        raise RequestError(
            f"the mask of object {k + 1} of {item.name} is {mask.shape[1]}×{mask.shape[0]}; "
            f"expected the size of its picture, {fitted.source_size[1]}×{fitted.source_size[0]}"
        )
    if not mask.any():
        raise RequestError(f"the mask of object {k + 1} of {item.name} is empty; mark the object")
    return mask


def _reference(
    item: EvaluationItem,
    request: RequestFile,
    k: int,
    library: Library,
    limits: Limits,
    segment: Segment | None,
    remarks: list[str],
) -> tuple[ReferenceClip | None, str]:
    """What object ``k`` should move like, or why that is not known."""
    if item.references:
        mask = item.reference_masks[k] if k < len(item.reference_masks) else None
        return _clip(item.references[k], mask, None, "", limits, segment, remarks)
    wanted = request.objects[k].motion
    if wanted is None:
        return None, "has no motion and no reference clip"
    try:
        if wanted.endswith(".safetensors"):
            wanted = str(_inside(wanted, "motion", item.folder))
        motion = library.find(wanted)
    except MotionAppError as error:
        return None, str(error)
    if motion.preview is None:
        return None, f'the motion "{motion.name}" has no reference clip in the library'
    track = None if motion.track is None else np.asarray(motion.track)
    return _clip(motion.preview, None, track, motion.name, limits, segment, remarks)


def _clip(
    path: Path,
    mask_path: Path | None,
    track: np.ndarray | None,
    name: str,
    limits: Limits,
    segment: Segment | None,
    remarks: list[str],
) -> tuple[ReferenceClip | None, str]:
    name = name or path.name
    try:
        frames = read_clip(path, short_side=SHORT_SIDE, limits=limits).frames
        if not 2 <= len(frames) <= MOST_FRAMES:
            told = f"the reference {name} has {len(frames)} frames; expected 2 to {MOST_FRAMES}"
            return None, told
        if mask_path is not None:
            mask = read_mask(mask_path, limits=limits)
            if not _same_shape(mask, frames[0]):
                return None, (
                    f"the mask of the reference {name} is {mask.shape[1]}×{mask.shape[0]}, its clip"
                    f" {frames.shape[2]}×{frames.shape[1]}; draw it on the clip's own picture"
                )
            if mask.shape != frames.shape[1:3]:
                size = frames.shape[2], frames.shape[1]
                mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
            how = "given"
        else:
            mask, how = mark_moving(frames, segment)
    except MotionAppError as error:
        return None, f"the reference {name} cannot be used: {error}"
    if not mask.any():
        return None, f"nothing moves in the reference {name}, or its mask is empty"
    remarks.append(f"mask of the reference {name}: {how}")
    return ReferenceClip(name, frames, mask, track), ""


def mark_moving(frames: np.ndarray, segment: Segment | None) -> tuple[np.ndarray, str]:
    """The mask (H, W) bool of what moves in ``frames``, in its first one, and how it was found:
    one click of ``segment`` in the middle of what moves, or what moves itself."""
    region = moving_region(frames)
    if segment is None or not region.any():
        return region, "what moves before a still camera (stand-in)"
    return segment(frames[0], inner_point(region)), "one click on what moves"


def _unmarked_object(
    item: EvaluationItem,
    frames: np.ndarray,
    limits: Limits,
    segment: Segment | None,
    remarks: list[str],
) -> tuple[JudgedObject, ...]:
    """Without a request: the one thing that moves, where one reference clip is given."""
    if not item.references:
        return ()
    if len(item.references) > 1:
        raise RequestError(
            f"{item.name} has {len(item.references)} reference clips and no masks; give its "
            "request or recipe too, which says which object is which"
        )
    mask_path = item.reference_masks[0] if item.reference_masks else None
    reference, problem = _clip(item.references[0], mask_path, None, "", limits, segment, remarks)
    told = JudgedObject("object 1", "", WHOLE, reference, problem)
    return (_by_movement(told, item, frames, segment, remarks),)


def _by_movement(
    told: JudgedObject,
    item: EvaluationItem,
    frames: np.ndarray,
    segment: Segment | None,
    remarks: list[str],
) -> JudgedObject:
    """``told`` with the mask of what moves, where nobody marked it."""
    mask, how = mark_moving(frames, segment)
    if not mask.any():
        problem = f"nothing moves in {item.name}, so that there is no object to follow"
        return replace(told, mask=np.ones(mask.shape, bool), reference=None, problem=problem)
    remarks.append(f"mask of {item.name}: {how}")
    return replace(told, mask=mask)


def read_request(path: Path) -> dict[str, Any]:
    """A request or recipe from a JSON file; RequestError where it is none or cannot be read."""
    entries = read_json(path, f"the request {path.name}")
    if not isinstance(entries, dict):
        raise RequestError(f"a request is one JSON object, got {type(entries).__name__}")
    return entries


def item_of_result(
    folder: Path, *, name: str, video: str, recipe: str, frames: str = "", method: str = ""
) -> EvaluationItem:
    """The result in ``folder`` whose files have these names; its method is the recipe's own, or the
    model of others that made it, unless given. A recipe that is gone is told when the item is
    opened, as for any other video."""
    kept = folder / frames if frames else None
    request: Mapping[str, Any] | Path = folder / recipe
    try:
        request = read_request(folder / recipe)
        own = (request.get("request") or {}).get("method", "")
        method = method or (request.get("title") if request.get("stock") else "") or own
    except RequestError:
        kept = None
    return EvaluationItem(
        name,
        method or "fleximmt",
        folder / video,
        frames=kept if kept is not None and kept.is_file() else None,
        request=request,
    )


def pair_uploads(
    videos: Sequence[Path],
    extras: Sequence[Path],
    *,
    read_recipe: ReadRecipe,
    methods: Mapping[str, str] | None = None,
    method: str = "uploaded",
) -> list[EvaluationItem]:
    """An item for each of ``videos``, in their order; two may have one file name.

    Of ``extras``, ``tiger.json`` is the request of ``tiger.mp4``, and ``tiger.1.mp4`` and
    ``tiger.2.mp4`` are its references in the order of their names, and those of every
    ``tiger.mp4`` where several came; a file that no video's name claims belongs to all that have
    none of their own. Without a request the recipe inside the video counts. What operating
    systems leave in folders is no video and belongs to none. ``methods``: by the
    videos' ``row_labels``; ``method`` for those that are not there. RequestError for too many
    videos, or two requests of one video.
    """
    if len(videos) > MOST_VIDEOS:
        raise RequestError(f"{len(videos)} videos came; at most {MOST_VIDEOS} are scored at once")
    extras = [extra for extra in extras if not is_leftover(extra.name)]
    owners = {extra: _owner(extra, videos) for extra in extras}
    free = [extra for extra in extras if owners[extra] is None]
    items = []
    for video, row in zip(videos, row_labels(videos), strict=True):
        if is_leftover(video.name):
            continue
        own = sorted((e for e in extras if owners[e] == video.stem), key=lambda path: path.name)
        request = _request(video, own, free)
        clips = _clips(own) or _clips(free)
        entries = _recipe(video, read_recipe) if request is None else _read(request)
        label = (methods or {}).get(row, "").strip() or method
        items.append(
            EvaluationItem(video.stem, label, video, request=entries, references=tuple(clips))
        )
    return items


def row_labels(videos: Sequence[Path]) -> list[str]:
    """A label for each of ``videos`` that no other has: its file name, and a number with those
    that came before."""
    return distinct_names([video.name for video in videos])


def _owner(extra: Path, videos: Sequence[Path]) -> str | None:
    """The videos' name, without its ending, that ``extra`` begins with; the longest such."""
    claims = [
        video.stem
        for video in videos
        if extra.stem == video.stem or extra.name.startswith(video.stem + ".")
    ]
    return max(claims, key=len, default=None)


def _clips(files: Sequence[Path]) -> list[Path]:
    return [path for path in files if path.suffix.lower() != REQUEST_SUFFIX]


def _request(video: Path, own: Sequence[Path], free: Sequence[Path]) -> Path | None:
    for files in (own, free):
        requests = [path for path in files if path.suffix.lower() == REQUEST_SUFFIX]
        if len(requests) > 1:
            names = ", ".join(path.name for path in requests)
            raise RequestError(
                f"{video.name} has {len(requests)} requests ({names}); name each as its video"
            )
        if requests:
            return requests[0]
    return None


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MOST_REQUEST_BYTES:
        raise RequestError(
            f"{path.name} has {path.stat().st_size / 2**20:.0f} MB; a request has at most "
            f"{MOST_REQUEST_BYTES // 2**20} MB"
        )
    return read_request(path)


def _recipe(video: Path, read_recipe: ReadRecipe) -> Mapping[str, Any] | None:
    """The recipe inside; None where there is none, or where the video itself is unreadable, which
    its own row of the report will say."""
    try:
        return read_recipe(video)
    except MotionAppError:
        return None
