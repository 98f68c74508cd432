"""A benchmark's videos as the items of a human study: the same scenes, judged by people."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from motion_app.benchmark.charts import png_bytes
from motion_app.benchmark.published import ExternalMethod
from motion_app.benchmark.scenes import BenchmarkCase
from motion_app.benchmark.scores import Outcome
from motion_app.errors import RequestError
from motion_app.media.files import write_video
from motion_app.media.provenance import export_video
from motion_app.media.results import make_folder
from motion_app.text_files import write_whole


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
