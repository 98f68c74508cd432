"""What ships beside the checkpoint: its motions, one rendered reference clip each and what is
learned from it; results, made anew from their recipes after the model has changed; the moving
picture at the top of the README, references on the left, what was made of them on the right. And
the study that is to be tried before one of one's own is made: cartoon scenes of two creatures, each
video made with those motions.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from PIL import Image

from motion_app.benchmark.scenes import BenchmarkCase, draw_cases, tuning_cases
from motion_app.benchmark.variants import Variant
from motion_app.engine.pipeline import MotionEngine
from motion_app.geometry import fit_frames
from motion_app.jobs.models import Models
from motion_app.library.library import Library
from motion_app.library.motion_clip import MotionClip
from motion_app.library.motion_file import read_motion
from motion_app.media.files import write_gif, write_video, write_webp
from motion_app.media.results import save_result
from motion_app.methods import METHOD_TABLE, method_title
from motion_app.request.request import build_request, parse_request
from motion_app.scene import Motion
from motion_app.study.demo_content import DemoContent, write_demo
from motion_app.study.items import VideoChoice, prepare_items
from motion_app.study.plan import StudyConfig
from motion_app.study.sources import SourceItem
from motion_app.text_files import listed
from motion_app.training.config import ClipTraining
from motion_app.training.inputs import training_config
from motion_app.training.mover import Segment, follow_mover, inner_points
from motion_app.training.trainer import TrainingReport, train_motion
from motion_app.wording import NEUTRAL_PHRASE
from motion_app.world.creatures import MOTIONS, SHAPE_MOTIONS
from motion_app.world.world import Reference, render_reference

log = logging.getLogger(__name__)
MOVING_WIDTH = 288  # px of the small moving pictures
GAP = 6  # pixels between pictures
DEMO_SEED = 5_000_000  # of its scenes; those of the benchmark and of the figures lie elsewhere
OBJECTS, PRACTICE = 2, 1
ENLARGED = 4  # times the model's own frame, as the page shows it
DEMO_TITLE = "Creatures that move"
COMPARED = (
    Variant("fleximmt"),
    Variant("fleximmt w/o m2x", without=("m2x",)),
    Variant("fleximmt w/o infer_mask", without=("infer_mask",)),
    Variant("concat", "concat"),
    Variant("time-to-move", "time-to-move"),
    Variant("none", "none"),
)


def train_shipped_motions(
    checkpoint: Path,
    names: Sequence[str],
    *,
    models: Models,
    out: Path | None = None,
    method: str | None = None,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> list[Motion]:
    """Learns each motion from its one clip, with the engine of ``models``, and writes
    ``{name}.safetensors`` into ``out``, by default ``checkpoint/motions``; what an ``out`` that was
    given already holds is left.

    ``method``: motion tokens, with the clip's masks ("fleximmt", "encoded-refined" and "encoded")
    or without ("concat"), "synmotion" or "i2vedit"; None as the checkpoint says that a clip becomes
    a motion. ``given``: settings of the training in place of the checkpoint's own.
    """
    engine = models.engine(checkpoint)
    method = method or engine.backbone.checkpoint.ways[0]
    motions = []
    for name in names:
        file = (out or checkpoint / "motions") / f"{name.replace(' ', '-')}.safetensors"
        if out is not None and file.is_file():
            motions.append(read_motion(file))
            continue
        reference = render_reference(name)
        training = _training(engine, method, name=name, noun=reference.noun, **given)

        def report(news: TrainingReport, name: str = name) -> None:
            if news.step % 25 == 0:
                log.info("%s: step %d loss %.4f", name, news.step, news.loss)

        motions.append(
            train_motion(
                [reference.clip],
                training,
                engine=engine,
                out=file,
                masks=[reference.rendered.masks[0]],
                track=reference.rendered.tracks[0].tolist(),
                on_progress=report,
            )
        )
        keep_followed_clip(motions[-1], reference, engine, models.mark(checkpoint))
    return [read_motion(motion.path) for motion in motions]


def keep_followed_clip(
    motion: Motion, reference: Reference, engine: MotionEngine, mark: Segment
) -> None:
    """The ``reference`` into the motion's file, with what moves in it followed from one click, as a
    person's would be: systems are never told the renderer's own masks."""
    frames = reference.rendered.frames
    click = inner_points(reference.rendered.masks[0, 0], count=1)[0]
    masks = follow_mover(frames, (click.x, click.y), mark, name=reference.name)
    clip = MotionClip.fitted(frames, reference.clip.fps, engine.geometry, masks=masks)
    clip.save_into(motion.path)


def _training(engine: MotionEngine, method: str, **given: Any) -> ClipTraining:
    """The checkpoint's own settings of ``method`` under what was ``given``."""
    defaults = engine.defaults.training_of(method)
    if METHOD_TABLE[method].tokens:
        given["mask"] = "given"
    return training_config(method, defaults, **given)


def renew_results(folder: Path, engine: MotionEngine, library: Library) -> list[Path]:
    """For every ``NAME.json`` of ``folder``, a recipe or a request complete in itself: the recipe
    of its video by ``engine`` with the motions of ``library``, and the video as ``NAME.webp``,
    small and moving. Returns those."""
    videos = []
    for file in listed(folder, "*.json"):
        request = build_request(
            parse_request(file),
            geometry=engine.geometry,
            library=library,
            base=engine.fingerprint,
            folder=folder,
        )
        video = engine.generate(request)
        file.write_text(json.dumps(video.recipe, ensure_ascii=False), encoding="utf-8")
        videos.append(file.with_suffix(".webp"))
        _write_moving(videos[-1], video.frames, video.fps)
    return videos


def _write_moving(path: Path, frames: np.ndarray, fps: float) -> None:
    height, width = frames.shape[1:3]
    size = (MOVING_WIDTH, round(height * MOVING_WIDTH / width))
    small = [Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in frames]
    write_webp(path, np.stack([np.asarray(frame) for frame in small]), fps, quality=82, method=6)


def write_showcase(
    engine: MotionEngine, out: Path, *, cases: Sequence[int], enlarge: int = 3, columns: int = 2
) -> None:
    """Writes a GIF of ``cases`` of the tuning split, by number: each shows its motions' reference
    clips, small, and the video that ``engine`` makes with its model's own motions."""
    motions = Library([engine.backbone.checkpoint.folder / "motions"]).list()
    known = [motion.name for motion in motions if motion.track is not None]
    names = [name for name in known if name not in SHAPE_MOTIONS]
    drawn = tuning_cases(names, {2: max(cases) + 1}, geometry=engine.geometry)
    panels = []
    for number in cases:
        case = drawn[number]
        video = engine.generate(case.request(case.chosen(motions))).frames  # (T, H, W, 3)
        references = [thing.reference.frames for thing in case.objects]
        panels.append(_panel(references, video, enlarge))
    rows = [np.concatenate(panels[i : i + columns], axis=2) for i in range(0, len(panels), columns)]
    frames = np.concatenate(rows, axis=1)
    pause = frames[-1:].repeat(4, axis=0)  # the last frame stands a while before it starts again
    write_gif(out, np.concatenate([frames, pause]), engine.geometry.fps)


def _panel(references: Sequence[np.ndarray], video: np.ndarray, enlarge: int) -> np.ndarray:
    """(T, H', W', 3): the references one above the other, then the video."""
    frames, height, width = video.shape[:3]
    tall = height * enlarge
    small = (tall - GAP * (len(references) - 1)) // len(references)
    column = np.full((frames, tall, small * width // height, 3), 255, np.uint8)
    for k, reference in enumerate(references):
        top = k * (small + GAP)
        column[:, top : top + small] = fit_frames(reference, small, column.shape[2], "pad")
    wide = _resize(video, width * enlarge, tall)
    gap = np.full((frames, tall, GAP, 3), 255, np.uint8)
    panel = np.concatenate([gap, column, gap, wide, gap], axis=2)
    return np.pad(panel, ((0, 0), (GAP, GAP), (0, 0), (0, 0)), constant_values=255)


def _resize(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    flags = cv2.INTER_CUBIC
    return np.stack([cv2.resize(frame, (width, height), interpolation=flags) for frame in frames])


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
    cases = draw_cases(names, {OBJECTS: scenes}, geometry=engine.geometry, seed=DEMO_SEED)
    fps = engine.geometry.fps
    titles = [_title(variant) for variant in COMPARED]
    config = StudyConfig.build(title=DEMO_TITLE, methods=tuple(titles), raters=1, repeat_share=0.0)
    size = (ENLARGED * engine.geometry.width, ENLARGED * engine.geometry.height)
    choice = VideoChoice(size=size, fps=fps, frames=engine.geometry.frames)
    with tempfile.TemporaryDirectory() as folder:
        sources = [
            _source(case, Path(folder) / case.id, engine, motions, steps=steps) for case in cases
        ]
        media = Path(folder) / "media"
        prepared = prepare_items(
            sources, media, config.methods, choice=choice, practice=PRACTICE, seed=DEMO_SEED
        )
        content = DemoContent(DEMO_TITLE, config.methods, prepared.items, prepared.video)
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
