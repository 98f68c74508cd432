"""Sources → the study's own files: one codec, size, rate and length for every candidate, random
names, nothing in the metadata.

The rule of length: candidates are sampled at the study's rate, taking the frame nearest in time;
what is longer than the study's length is cut at its end, what is shorter holds its last frame.
The rule of size: a video is scaled to fit into the study's size and centred on black; a difference
in shape of up to 2% is stretched away.
"""

from __future__ import annotations

import secrets
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from motion_app.errors import RequestError
from motion_app.media import read_clip, read_image, upscale, write_video
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.study.links import new_id
from motion_app.study.plan import Kind, StudyItem
from motion_app.study.records import VideoFormat
from motion_app.study.sources import SourceItem

STRETCH = 0.02
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
) -> PreparedItems:
    """Write every file of ``sources`` into the folder ``media`` and give the items.

    Where the sources hold fewer than ``practice`` practice and ``gold`` gold items, the missing
    ones are made: one candidate is the reference clip itself, the others are that clip with its
    frames in disorder and its colours inverted, so that the answer to every question is plain and
    no method is seen before its turn. MediaError for a file that cannot be read.
    """
    media.mkdir(parents=True, exist_ok=True)
    video = choose_format(sources, choice or VideoChoice(), limits)
    counts: Counter[str] = Counter()
    items = [_item(source, media, video, counts, limits) for source in sources]
    rng = np.random.default_rng([seed, 1])
    main = [source for source in sources if source.kind == "main"]
    wanted: tuple[tuple[Kind, int], ...] = (("practice", practice), ("gold", gold))
    for kind, number in wanted:
        for k in range(number - sum(item.kind == kind for item in items)):
            intact = methods[int(rng.integers(len(methods)))] if kind == "practice" else None
            items.append(
                _check(
                    main[(k * 7 + (kind == "gold")) % len(main)],
                    media,
                    video,
                    methods,
                    intact or methods[k % len(methods)],
                    kind,
                    rng,
                    limits,
                )
            )
    return PreparedItems(tuple(items), video, counts["cut"], counts["held"], counts["resized"])


def choose_format(
    sources: Sequence[SourceItem], choice: VideoChoice, limits: Limits = DEFAULT_LIMITS
) -> VideoFormat:
    """The format of all candidates; see ``VideoChoice``. RequestError for a choice that cannot be
    encoded."""
    if choice.size is None or choice.fps is None or choice.frames is None:
        clips = [
            read_clip(path, limits=limits) for source in sources for path in source.videos.values()
        ]
        rate = choice.fps or _most_common([round(clip.fps, 2) for clip in clips])
        size = _most_common([clip.frames.shape[2:0:-1] for clip in clips])
        seconds = statistics.median(len(clip.frames) / clip.fps for clip in clips)
        choice = VideoChoice(
            choice.size or (size[0] // 2 * 2, size[1] // 2 * 2),
            rate,
            choice.frames or max(1, round(seconds * rate)),
        )
    (width, height), fps, frames = choice.size, choice.fps, choice.frames
    if width % 2 or height % 2 or not 16 <= min(width, height) <= max(width, height) <= 4096:
        raise RequestError(f"{width}×{height} cannot be encoded; give even sizes from 16 to 4096")
    if not 1 <= fps <= 120 or not 1 <= frames <= limits.clip_frames:
        raise RequestError(
            f"{frames} frames at {fps:g} per second; give 1 to {limits.clip_frames} frames "
            "at 1 to 120"
        )
    return VideoFormat(width, height, fps, frames)


def _most_common(values: Sequence) -> object:
    """Of equally common ones the largest."""
    counted = Counter(values)
    return max(counted, key=lambda value: (counted[value], value))


def _item(
    source: SourceItem, media: Path, video: VideoFormat, counts: Counter[str], limits: Limits
) -> StudyItem:
    candidates = {}
    for method, path in source.videos.items():
        clip = read_clip(path, fps=video.fps, limits=limits)
        counts["cut"] += len(clip.frames) > video.frames
        counts["held"] += len(clip.frames) < video.frames
        counts["resized"] += clip.frames.shape[1:3] != (video.height, video.width)
        candidates[method] = _write(media, alike(clip.frames, video), video.fps)
    picture = read_image(source.first_frame, limits=limits)
    return StudyItem(
        id=new_id(),
        name=source.name,
        kind=source.kind,
        caption=source.caption,
        first_frame=_write_picture(media, fitted(picture[None], video.width, video.height)[0]),
        references=tuple(_reference(path, media, video, limits) for path in source.references),
        candidates=candidates,
        answer=source.answer,
    )


def _reference(path: Path, media: Path, video: VideoFormat, limits: Limits) -> str:
    """A reference clip keeps its own length: it is not judged."""
    frames = read_clip(path, fps=video.fps, limits=limits).frames
    return _write(media, fitted(frames, video.width, video.height), video.fps)


def _check(
    source: SourceItem,
    media: Path,
    video: VideoFormat,
    methods: Sequence[str],
    intact: str,
    kind: Kind,
    rng: np.random.Generator,
    limits: Limits,
) -> StudyItem:
    """An item whose right answer is plain, made of a reference clip."""
    path = source.references[0]
    frames = alike(read_clip(path, fps=video.fps, limits=limits).frames, video)
    candidates = {
        method: _write(media, frames if method == intact else damaged(frames, rng), video.fps)
        for method in methods
    }
    return StudyItem(
        id=new_id(),
        name=f"{kind} of {source.name}",
        kind=kind,
        caption=CHECK_CAPTION,
        first_frame=_write_picture(media, frames[0]),
        references=(_reference(path, media, video, limits),),
        candidates=candidates,
        answer=intact,
    )


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


def _write(media: Path, frames: np.ndarray, fps: float) -> str:
    name = secrets.token_hex(16) + ".mp4"
    write_video(media / name, np.ascontiguousarray(frames), fps, comment="")
    return name


def _write_picture(media: Path, picture: np.ndarray) -> str:
    name = secrets.token_hex(16) + ".png"
    Image.fromarray(picture).save(media / name)
    return name
