"""What a benchmark gets from others and gives them: the authors' benchmark folder, other methods'
videos, what such a method needs to take part, and a human study's items.

The folder has captions by position in CSV files, clips and masks by name, as FlexiMMT's release
(docs/method.md, section 11). Every path is checked, and a row that lacks one is listed with the
reason; none is left out in silence. Videos of other methods lie in a folder a method, one file for
each case, named by its id. A study's items are the same scenes, judged by people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from motion_app.benchmark.scenes import BenchmarkCase, CaseObject
from motion_app.errors import MotionAppError, RequestError
from motion_app.evaluation.videos import MOST_FRAMES, SHORT_SIDE, ReferenceClip
from motion_app.geometry import FittedImage, ModelGeometry, fit_image, mask_to_grid
from motion_app.jobs.results import write_json
from motion_app.media.file_types import CLIP_CHOICES, CLIP_KINDS, is_unread_video
from motion_app.media.files import read_clip, read_image, read_mask, write_video
from motion_app.media.provenance import export_video
from motion_app.media.results import make_folder, mask_png
from motion_app.text_files import listed, located, read_rows, write_whole

if TYPE_CHECKING:
    from motion_app.benchmark.outcome import Outcome

GROUPS = ("animal", "human")
REFERENCE_CLIP = 10  # of each motion's twelve: the one that videos are judged against
SEPARATOR = "+"
COLUMNS = ("path", "sources", "caption", "concept_words", "motion_words")


@dataclass(frozen=True, eq=False)
class PublishedCases:
    """``problems``: one line for each row that cannot be used."""

    cases: tuple[BenchmarkCase, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class CaptionRow:
    """One row of ``captions_inf``: a picture and its objects in order."""

    file: str
    line: int
    path: str
    sources: tuple[str, ...]
    captions: tuple[str, ...]
    nouns: tuple[str, ...]
    phrases: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{self.file}-{self.line:03d}"


def read_published(folder: Path, *, geometry: ModelGeometry, seed: int = 0) -> PublishedCases:
    """Every usable row of ``folder/captions_inf/*.csv`` as a case. Pictures are cut to the model's
    frame. RequestError where the folder has no such table."""
    tables = list(listed(folder / "captions_inf", "*.csv"))
    if not tables:
        raise RequestError(
            f"{folder.name} has no captions_inf/*.csv; give the folder of the published benchmark"
        )
    references: dict[str, ReferenceClip] = {}
    cases: list[BenchmarkCase] = []
    problems: list[str] = []
    for table in tables:
        for place, (line, cells) in enumerate(read_rows(table, COLUMNS)):
            if place == 0 and cells[:1] == [COLUMNS[0]]:
                continue
            try:
                row = _caption_row(table.stem, place, cells)
                cases.append(_case(folder, row, geometry, references, seed))
            except MotionAppError as error:
                problems.append(f"{table.name}, line {line}: {error}")
    return PublishedCases(tuple(cases), tuple(problems))


def _caption_row(file: str, line: int, cells: list[str]) -> CaptionRow:
    if len(cells) != len(COLUMNS):
        raise RequestError(
            f"has {len(cells)} columns; expected {len(COLUMNS)}: {', '.join(COLUMNS)}"
        )
    lists = [tuple(part.strip() for part in cell.split(SEPARATOR)) for cell in cells[1:]]
    if len({len(parts) for parts in lists}) != 1 or not all(all(parts) for parts in lists):
        counts = ", ".join(f"{name} {len(p)}" for name, p in zip(COLUMNS[1:], lists, strict=True))
        raise RequestError(f"its lists do not belong together: {counts}; expected one entry each")
    return CaptionRow(file, line, cells[0].strip(), *lists)


def _case(
    folder: Path,
    row: CaptionRow,
    geometry: ModelGeometry,
    references: dict[str, ReferenceClip],
    seed: int,
) -> BenchmarkCase:
    twice = next((noun for noun in row.nouns if row.nouns.count(noun) > 1), None)
    if twice is not None:
        raise RequestError(
            f'two objects are called "{twice}", and there is one {twice}.png for both; give each '
            "object a name of its own"
        )
    image = read_image(_existing(folder, row.path))
    fitted = fit_image(image, geometry.height, geometry.width)
    entries = zip(row.sources, row.captions, row.nouns, row.phrases, strict=True)
    objects = []
    for source, caption, noun, phrase in entries:
        if source not in references:
            references[source] = read_reference(folder, source)
        objects.append(
            CaseObject(
                name=noun,
                sentence=caption,
                phrase=phrase,
                mask=_mask(folder, row, noun, fitted, geometry),
                motion=source,
                reference=references[source],
            )
        )
    return BenchmarkCase(row.id, fitted.image, tuple(objects), seed)


def _mask(
    folder: Path, row: CaptionRow, noun: str, fitted: FittedImage, geometry: ModelGeometry
) -> np.ndarray:
    """An object's mask in the model's frame; its folder is named for picture and sources."""
    place = f"target_masks/{Path(row.path).name}{SEPARATOR}{SEPARATOR.join(row.sources)}"
    path = _existing(folder, f"{place}/{noun}.png")
    mask = read_mask(path)
    if mask.shape != fitted.source_size:
        raise RequestError(
            f"{place}/{noun}.png is {mask.shape[1]}×{mask.shape[0]}, its picture "
            f"{fitted.source_size[1]}×{fitted.source_size[0]}; expected the same size"
        )
    mask = fitted.fit_mask(mask)
    if not mask_to_grid(mask, geometry.grid_height, geometry.grid_width).any():
        raise RequestError(
            f"{place}/{noun}.png is empty, cut off or smaller than a token in the model's frame"
        )
    return mask


def read_reference(folder: Path, source: str) -> ReferenceClip:
    """The clip that a motion's videos are judged against, and its first frame's mask."""
    for group in GROUPS:
        clips = folder / "reference_videos" / group / f"{source}_crop"
        if clips.is_dir():
            break
    else:
        raise RequestError(
            f'the motion "{source}" has no folder reference_videos/{{{",".join(GROUPS)}}}/'
            f"{source}_crop"
        )
    clip = _existing(folder, f"reference_videos/{group}/{source}_crop/{REFERENCE_CLIP}.mp4")
    marked = f"reference_video_masks_eval/{group}/{source}/{REFERENCE_CLIP}.png"
    frames = read_clip(clip, short_side=SHORT_SIDE).frames
    if not 2 <= len(frames) <= MOST_FRAMES:
        raise RequestError(f"{clip.name} of {source} has {len(frames)} frames; 2 are needed")
    picture = read_mask(_existing(folder, marked))
    rows = np.linspace(0, len(picture) - 1, frames.shape[1]).round().astype(int)
    columns = np.linspace(0, picture.shape[1] - 1, frames.shape[2]).round().astype(int)
    mask = picture[rows][:, columns]  # at the size at which the clip is scored
    if not mask.any():
        raise RequestError(f"{marked} is empty")
    return ReferenceClip(source, frames, mask)


def _existing(folder: Path, path: str) -> Path:
    """``folder / path``, which must be a file inside the folder."""
    found = located(folder, path).resolve()
    if not found.is_relative_to(folder.resolve()):
        raise RequestError(f"the path {path} leads out of the folder")
    if not found.is_file():
        raise RequestError(f"there is no file {path}")
    return found


@dataclass(frozen=True)
class ExternalMethod:
    """``name`` in the tables; ``folder`` holds ``{case id}.mp4`` and so on."""

    name: str
    folder: Path

    def find(self, case: str) -> Path | None:
        """The file of a case, None where there is none. RequestError where there are two, or where
        it is a video of a kind that is not read."""
        files = [file for file in sorted(self.folder.glob(f"{case}.*")) if file.stem == case]
        read = [file for file in files if file.suffix.lower() in CLIP_CHOICES]
        if len(read) > 1:
            names = " and ".join(file.name for file in read)
            raise RequestError(f"{self.name} has {names} for one scene; keep one of them")
        others = [file for file in files if is_unread_video(file)]
        if others and not read:
            raise RequestError(f"{others[0].name} is no clip this app reads; use {CLIP_KINDS}")
        return read[0] if read else None


def parse_external(text: str) -> ExternalMethod:
    """``NAME=FOLDER``; RequestError as ``parse_folder``."""
    return ExternalMethod(*parse_folder(text, example="--external AnyV2V=videos/anyv2v"))


def parse_folder(text: str, *, example: str) -> tuple[str, Path]:
    """``NAME=FOLDER`` as both; RequestError where it is not that, or the folder is not there."""
    name, sign, folder = text.partition("=")
    if not (name.strip() and sign and folder):
        raise RequestError(f'"{text}" is not NAME=FOLDER; write for example {example}')
    if not Path(folder).is_dir():
        raise RequestError(f"the folder {folder} of {name.strip()} does not exist; check the path")
    return name.strip(), Path(folder)


def write_inputs(cases: Iterable[BenchmarkCase], folder: Path, *, fps: float) -> None:
    """What another method needs to take part: of each case its picture, masks and words, and the
    reference clips, once each. What is there already is left alone."""
    from motion_app.benchmark.charts import png_bytes  # brings plotly

    for case in cases:
        place = folder / case.id
        if (place / "case.json").is_file():
            continue
        make_folder(place / "masks")
        (place / "first_frame.png").write_bytes(png_bytes(case.image))
        for k, thing in enumerate(case.objects):
            (place / "masks" / f"{k}.png").write_bytes(mask_png(thing.mask))
            _write_reference(thing.reference.frames, folder / _reference_name(thing.motion), fps)
        facts = case.facts()
        for entry, thing in zip(facts["objects"], case.objects, strict=True):
            entry["reference"] = f"../{_reference_name(thing.motion)}"
        write_json(place / "case.json", {**facts, "prompt": case.caption})


def _reference_name(motion: str) -> str:
    return f"references/{motion.replace(' ', '-')}.mp4"


def _write_reference(frames: np.ndarray, path: Path, fps: float) -> None:
    if not path.is_file():
        make_folder(path.parent)
        write_video(path, frames, fps)


def write_study_items(
    outcome: Outcome,
    folder: Path,
    scenes: int,
    *,
    fps: float,
    external: tuple[ExternalMethod, ...] = (),
) -> int:
    """Write items of up to ``scenes`` main scenes into ``folder``, as ``study create`` reads them;
    how many.

    Those that every method of the main table has a video of, evenly over all numbers of objects.
    ``fps`` of the references. Ours are marked as all generated videos are; those of ``external``
    methods are taken as they are. RequestError where no scene has all.
    """
    suite = outcome.suites[0]
    rows = [variant.name for variant in suite.variants]
    whole = [
        case
        for case in suite.cases
        if all((case.id, row) in outcome.videos for row in rows)
        and all(method.find(case.id) is not None for method in external)
    ]
    if not whole:
        raise RequestError("no scene has a video of every method, so that no study can be made")
    places = np.unique(np.linspace(0, len(whole) - 1, min(scenes, len(whole))).round().astype(int))
    for case in (whole[place] for place in places):
        item = folder / case.id
        _write_scene(case, item, fps)
        for row in rows:
            _write_video(outcome.videos[case.id, row], item / f"{_method(row)}.mp4")
        for method in external:
            file = method.find(case.id)
            assert file is not None  # of the scenes that are whole
            content = file.read_bytes()
            target = item / f"{_method(method.name)}{file.suffix.lower()}"
            write_whole(target, lambda part, content=content: part.write_bytes(content))
    return len(places)


def _method(row: str) -> str:
    """A row of the tables as the name of a file."""
    return row.replace("w/o ", "without ").replace("/", "-")


def _write_scene(case: BenchmarkCase, item: Path, fps: float) -> None:
    from motion_app.benchmark.charts import png_bytes

    make_folder(item)
    (item / "caption.txt").write_text(case.caption, encoding="utf-8")
    (item / "first_frame.png").write_bytes(png_bytes(case.image))
    references = {thing.motion: thing.reference.frames for thing in case.objects}
    for number, frames in enumerate(references.values(), start=1):
        write_video(item / f"reference_{number}.mp4", frames, fps)


def _write_video(made: Path, out: Path) -> None:
    if out.is_file():
        return
    with np.load(made, allow_pickle=False) as kept:
        export_video(out, kept["frames"], float(kept["fps"]), recipe=None)
