"""Which uploaded file belongs to which video: by its name, so that a folder of results can be
dropped in at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from motion_app.errors import MotionAppError, RequestError
from motion_app.evaluation.items import EvaluationItem, read_request
from motion_app.evaluation.report import distinct_names
from motion_app.leftovers import is_leftover

MOST_VIDEOS = 20
REQUEST_SUFFIX = ".json"
MOST_REQUEST_BYTES = 64 * 2**20  # a recipe has its pictures inside

ReadRecipe = Callable[[Path], Mapping[str, Any] | None]


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
