"""The study that ships, to be tried before one of one's own is made: cartoon scenes of two
creatures, each video made by the pocket with the motions that ship beside it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from motion_app.benchmark.scenes import BenchmarkCase, draw_cases
from motion_app.benchmark.variants import Variant
from motion_app.engine.pipeline import MotionEngine
from motion_app.media.files import write_video
from motion_app.media.results import save_result
from motion_app.methods import method_title
from motion_app.scene import Motion
from motion_app.study.demo_content import DemoContent, write_demo
from motion_app.study.items import VideoChoice, prepare_items
from motion_app.study.plan import StudyConfig
from motion_app.study.sources import SourceItem
from motion_app.wording import NEUTRAL_PHRASE
from motion_app.world.creatures import MOTIONS

SEED = 5_000_000  # of the scenes; those of the benchmark and of the pocket's figures lie elsewhere
OBJECTS, PRACTICE = 2, 1
ENLARGED = 4  # times the model's own frame, as the page shows it
TITLE = "Creatures that move"
COMPARED = (
    Variant("fleximmt"),
    Variant("fleximmt w/o m2x", without=("m2x",)),
    Variant("fleximmt w/o infer_mask", without=("infer_mask",)),
    Variant("concat", "concat"),
    Variant("time-to-move", "time-to-move"),
    Variant("none", "none"),
)


def make_demo_study(
    out: Path,
    engine: MotionEngine,
    motions: Sequence[Motion],
    *,
    scenes: int,
    steps: int | None = None,
) -> DemoContent:
    """Draws the scenes, makes every method's video of each with ``motions`` of ``engine``'s model,
    and writes the demo into the folder ``out`` in place of the one that was there. ``steps`` None:
    the model's own."""
    names = sorted({motion.name for motion in motions} & MOTIONS.keys())
    cases = draw_cases(names, {OBJECTS: scenes}, geometry=engine.geometry, seed=SEED)
    fps = engine.geometry.fps
    titles = [_title(variant) for variant in COMPARED]
    config = StudyConfig.build(title=TITLE, methods=tuple(titles), raters=1, repeat_share=0.0)
    size = (ENLARGED * engine.geometry.width, ENLARGED * engine.geometry.height)
    choice = VideoChoice(size=size, fps=fps, frames=engine.geometry.frames)
    with tempfile.TemporaryDirectory() as folder:
        sources = [
            _source(case, Path(folder) / case.id, engine, motions, steps=steps) for case in cases
        ]
        media = Path(folder) / "media"
        prepared = prepare_items(
            sources, media, config.methods, choice=choice, practice=PRACTICE, seed=SEED
        )
        content = DemoContent(TITLE, config.methods, prepared.items, prepared.video)
        shutil.rmtree(out, ignore_errors=True)
        write_demo(out, content, media, made_with=engine.fingerprint)
    return content


def _title(variant: Variant) -> str:
    name = method_title(variant.method).partition(":")[0]
    return " ".join([name, *(f"without {part}" for part in variant.without)])


def _source(
    case: BenchmarkCase,
    folder: Path,
    engine: MotionEngine,
    motions: Sequence[Motion],
    *,
    steps: int | None,
) -> SourceItem:
    """The case's files in ``folder``, every method's video among them."""
    folder.mkdir(parents=True)
    fps = engine.geometry.fps
    Image.fromarray(case.image).save(folder / "first_frame.png")
    references = []
    for number, thing in enumerate(case.objects, start=1):
        references.append(folder / f"reference_{number}.mp4")
        write_video(references[-1], thing.reference.frames, fps, comment="")
    videos = {}
    for number, variant in enumerate(COMPARED):
        request = case.request(
            case.chosen(motions), method=variant.method, without=variant.without, steps=steps
        )
        made = save_result(engine.generate(request), folder / str(number))
        videos[_title(variant)] = made.video
    return SourceItem(
        name=case.id,
        # The model is told neutral sentences, a rater which motion is meant.
        caption=" ".join(
            thing.sentence.replace(NEUTRAL_PHRASE, MOTIONS[thing.motion].words)
            for thing in case.objects
        ),
        first_frame=folder / "first_frame.png",
        references=tuple(references),
        videos=videos,
    )
