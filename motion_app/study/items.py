"""Sources → the study's own files: one codec, size, rate and length for every candidate, random
names, nothing in the metadata, no mark of this app's, one number of bytes for all of an item.

The rule of length: candidates are sampled at the study's rate, taking the frame nearest in time;
what is longer than the study's length is cut at its end, what is shorter holds its last frame.
The rule of size: a video is scaled to fit into the study's size and centred on black; a difference
in shape of up to 2% is stretched away.
"""

from __future__ import annotations

import os
import secrets
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from motion_app.errors import RequestError
from motion_app.media.files import frozen_heap, read_clip, read_image, upscale, write_video
from motion_app.media.watermark import unmarked
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.study.links import new_id
from motion_app.study.plan import Kind, StudyItem
from motion_app.study.records import VideoFormat
from motion_app.study.sources import SourceItem

STRETCH = 0.02
FREE_BOX = 8  # bytes of an empty one
WORKERS = min(4, os.cpu_count() or 1)  # each holds a clip's frames, and a child that decodes one
CHECK_CAPTION = "Everything moves just as it does in the reference motion."


@dataclass(frozen=True)
class VideoChoice:
    """The study's video format where it is given; None takes what most candidates have: their size,
    their rate, their median length. ``size`` is (width, height) in even pixels."""

    size: tuple[int, int] | None = None
    fps: float | None = None
    frames: int | None = None


@dataclass(frozen=True)
class PreparedItems:
    """The study's items and what was done to make them alike: how many candidates were cut, held
    at their last frame, or changed in size."""

    items: tuple[StudyItem, ...]
    video: VideoFormat
    cut: int
    held: int
    resized: int


def prepare_items(
    sources: Sequence[SourceItem],
    media: Path,
    methods: Sequence[str],
    *,
    choice: VideoChoice | None = None,
    practice: int = 2,
    gold: int = 0,
    seed: int = 0,
    limits: Limits = DEFAULT_LIMITS,
    on_item: Callable[[int, int], None] = lambda done, total: None,
) -> PreparedItems:
    """Write every file of ``sources`` into the folder ``media`` and give the items, several of them
    at a time; ``on_item`` is told how many are ready, and of how many.

    Where the sources hold fewer than ``practice`` practice and ``gold`` gold items, the missing
    ones are made: one candidate is the reference clip itself, the others are that clip with its
    frames in disorder and its colours inverted, so that the answer to every question is plain and
    no method is seen before its turn. MediaError for a file that cannot be read.
    """
    media.mkdir(parents=True, exist_ok=True)
    video = choose_format(sources, choice or VideoChoice(), limits)
    files = _Files(media, video, limits)
    tasks = [partial(_item, source, files) for source in sources]
    rng = np.random.default_rng([seed, 1])
    main = [source for source in sources if source.kind == "main"]
    wanted: tuple[tuple[Kind, int], ...] = (("practice", practice), ("gold", gold))
    for kind, number in wanted:
        for k in range(number - sum(source.kind == kind for source in sources)):
            intact = methods[int(rng.integers(len(methods)))] if kind == "practice" else None
            source = main[(k * 7 + (kind == "gold")) % len(main)]
            right = intact or methods[k % len(methods)]
            tasks.append(partial(_check, source, files, methods, right, kind, rng.spawn(1)[0]))
    made = _all_made(tasks, on_item)
    counts = sum((counted for _, counted in made), Counter())
    items = tuple(item for item, _ in made)
    return PreparedItems(items, video, counts["cut"], counts["held"], counts["resized"])


Made = tuple[StudyItem, Counter[str]]


def _all_made(
    tasks: Sequence[Callable[[], Made]], on_item: Callable[[int, int], None]
) -> list[Made]:
    """What ``tasks`` give, in their order; the first error ends it, with what was not begun."""
    with frozen_heap(), ThreadPoolExecutor(min(WORKERS, len(tasks))) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                on_item(done, len(tasks))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def choose_format(
    sources: Sequence[SourceItem], choice: VideoChoice, limits: Limits = DEFAULT_LIMITS
) -> VideoFormat:
    """The format of all candidates; see ``VideoChoice``. RequestError for a choice that cannot be
    encoded."""
    size, fps, frames = choice.size, choice.fps, choice.frames
    if size is None or fps is None or frames is None:
        clips = [
            read_clip(path, limits=limits) for source in sources for path in source.videos.values()
        ]
        fps = fps or _most_common([round(clip.fps, 2) for clip in clips])
        came_width, came_height = _most_common([clip.frames.shape[2:0:-1] for clip in clips])
        seconds = statistics.median(len(clip.frames) / clip.fps for clip in clips)
        size = size or (came_width // 2 * 2, came_height // 2 * 2)
        frames = frames or max(1, round(seconds * fps))
    width, height = size
    if width % 2 or height % 2 or not 16 <= min(width, height) <= max(width, height) <= 4096:
        raise RequestError(f"{width}×{height} cannot be encoded; give even sizes from 16 to 4096")
    if not 1 <= fps <= 120 or not 1 <= frames <= limits.clip_frames:
        raise RequestError(
            f"{frames} frames at {fps:g} per second; give 1 to {limits.clip_frames} frames "
            "at 1 to 120"
        )
    return VideoFormat(width, height, fps, frames)


def _most_common(values: Sequence[Any]) -> Any:
    """Of equally common ones the largest."""
    counted = Counter(values)
    return max(counted, key=lambda value: (counted[value], value))


@dataclass(frozen=True)
class _Files:
    """Where the study's files go, in which format, and what their sources may hold."""

    media: Path
    video: VideoFormat
    limits: Limits

    def read(self, path: Path) -> np.ndarray:
        """A clip at the study's rate, without the mark that this app's own videos have: it would
        tell them from others. (T, H, W, 3) uint8."""
        return unmarked(read_clip(path, fps=self.video.fps, limits=self.limits).frames)

    def write(self, frames: np.ndarray) -> str:
        """The new file's name."""
        name = secrets.token_hex(16) + ".mp4"
        write_video(self.media / name, np.ascontiguousarray(frames), self.video.fps, comment="")
        return name

    def level(self, names: Iterable[str]) -> None:
        """Fill the files up to one size: an encoder takes fewer bytes for a smoother method. What
        fills them is a box that players skip (ISO/IEC 14496-12, "free")."""
        paths = [self.media / name for name in names]
        size = max(path.stat().st_size for path in paths) + FREE_BOX
        for path in paths:
            missing = size - path.stat().st_size
            with path.open("ab") as file:
                file.write(missing.to_bytes(4, "big") + b"free" + bytes(missing - FREE_BOX))

    def write_picture(self, picture: np.ndarray) -> str:
        """The new file's name."""
        name = secrets.token_hex(16) + ".png"
        Image.fromarray(picture).save(self.media / name)
        return name

    def reference(self, path: Path) -> str:
        """A reference clip keeps its own length: it is not judged."""
        return self.write(fitted(self.read(path), self.video.width, self.video.height))


def _item(source: SourceItem, files: _Files) -> Made:
    video, candidates = files.video, {}
    counts: Counter[str] = Counter()
    for method, path in source.videos.items():
        frames = files.read(path)
        counts["cut"] += len(frames) > video.frames
        counts["held"] += len(frames) < video.frames
        counts["resized"] += frames.shape[1:3] != (video.height, video.width)
        candidates[method] = files.write(alike(frames, video))
    files.level(candidates.values())
    picture = read_image(source.first_frame, limits=files.limits)
    item = StudyItem(
        id=new_id(),
        name=source.name,
        kind=source.kind,
        caption=source.caption,
        first_frame=files.write_picture(fitted(picture[None], video.width, video.height)[0]),
        references=tuple(files.reference(path) for path in source.references),
        candidates=candidates,
        answer=source.answer,
    )
    return item, counts


def _check(
    source: SourceItem,
    files: _Files,
    methods: Sequence[str],
    intact: str,
    kind: Kind,
    rng: np.random.Generator,
) -> Made:
    """An item whose right answer is plain, made of a reference clip."""
    path = source.references[0]
    frames = alike(files.read(path), files.video)
    candidates = {
        method: files.write(frames if method == intact else damaged(frames, rng))
        for method in methods
    }
    files.level(candidates.values())
    item = StudyItem(
        id=new_id(),
        name=f"{kind} of {source.name}",
        kind=kind,
        # one of its own would tell a gold item from all that count
        caption=source.caption if kind == "gold" else CHECK_CAPTION,
        first_frame=files.write_picture(frames[0]),
        references=(files.reference(path),),
        candidates=candidates,
        answer=intact,
    )
    return item, Counter()


def alike(frames: np.ndarray, video: VideoFormat) -> np.ndarray:
    """``frames`` (T, H, W, 3) uint8 cut or held to the study's length, fitted to its size."""
    frames = frames[: video.frames]
    held = np.repeat(frames[-1:], video.frames - len(frames), axis=0)
    return fitted(np.concatenate([frames, held]), video.width, video.height)


def fitted(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    """``frames`` (T, H, W, 3) uint8 scaled into ``width`` × ``height`` pixels, black around."""
    came_height, came_width = frames.shape[1:3]
    scale = min(width / came_width, height / came_height)
    inner = (round(came_width * scale), round(came_height * scale))
    if inner[0] >= (1 - STRETCH) * width and inner[1] >= (1 - STRETCH) * height:
        return upscale(frames, width, height)
    scaled = upscale(frames, max(1, inner[0]), max(1, inner[1]))
    top, left = (height - scaled.shape[1]) // 2, (width - scaled.shape[2]) // 2
    canvas = np.zeros((len(frames), height, width, 3), np.uint8)
    canvas[:, top : top + scaled.shape[1], left : left + scaled.shape[2]] = scaled
    return canvas


def damaged(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``frames`` (T, H, W, 3) uint8 in disorder, in wrong colours, upside down or mirrored."""
    wrong = 255 - frames[rng.permutation(len(frames))][..., rng.permutation(3)]
    return wrong[:, ::-1] if rng.random() < 0.5 else wrong[:, :, ::-1]
