"""The commands that learn a motion, or look at its clip. torch is imported only inside those that
compute.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motion_app.cli.parser import Result, add_command, add_model, models_for, shares, show_progress
from motion_app.errors import RequestError
from motion_app.jobs import kinds
from motion_app.library.library import Library, motion_entry
from motion_app.library.motion_clip import MotionClip
from motion_app.library.motion_file import SUFFIX, read_motion
from motion_app.media.results import make_folder
from motion_app.methods import ENCODED, LEARNED, METHOD_TABLE, REFINED
from motion_app.models.checkpoint import Checkpoint
from motion_app.request.phrases import PromptTokenizer
from motion_app.scene import StepReport
from motion_app.settings import Settings
from motion_app.training.config import training_caption
from motion_app.training.inputs import ClipSelection, TrainingInputs, read_selection
from motion_app.training.mover import follow_by_movement, follow_mover

if TYPE_CHECKING:
    from motion_app.training.trainer import TrainingReport

# Options of a training, and the methods that have them.
OWN_OPTIONS = {
    **dict.fromkeys(("alpha", "parts", "encoding", "spv", "tokens"), ("synmotion",)),
    "rank": ("synmotion", "i2vedit"),
    "spatial_share": ("i2vedit",),
}


def add_clip(options: argparse.Namespace, settings: Settings) -> Result:
    """A reference clip into a motion's file, with what moves in it, for the methods that are told a
    clip; the motion tokens stay as they are."""
    check_there(options.clip)
    model = options.model or settings.model
    library = Library(settings.motion_folders(options.model))
    motion = library.find(options.name)
    if Path(options.name).suffix != SUFFIX and not library.writable(motion):
        raise RequestError(
            f'the motion "{motion.name}" ships with its model; name its file to change it all the '
            "same"
        )
    geometry = Checkpoint.find_configs(model).geometry
    chosen = ClipSelection(
        options.clip, start=options.start, stop=options.stop, box=options.box, mover=options.mover
    )
    selected = read_selection(chosen, fps=geometry.fps)
    frames = selected.clip.frames
    if selected.mover is None:
        masks = follow_by_movement(frames)
    else:
        mark = models_for(options, settings).mark(model)
        masks = follow_mover(frames, selected.mover, mark, name=options.clip.name)
    clip = MotionClip.fitted(frames, selected.clip.fps, geometry, masks=masks)
    clip.save_into(motion.path)
    return motion_entry(read_motion(motion.path))


def check_there(path: Path) -> None:
    """RequestError where no file is at ``path``."""
    if not path.is_file():
        raise RequestError(f"there is no file {path}; check the path")


def check_motion_out(path: Path) -> None:
    """RequestError where no motion can be saved at ``path``; its folder is made."""
    if path.suffix != SUFFIX:
        raise RequestError(f"a motion is saved as {SUFFIX}, got {path.name}")
    make_folder(path.parent)


def train_motion(options: argparse.Namespace, settings: Settings) -> Result:
    """Learn one motion; the checkpoint's own training settings hold unless told otherwise."""
    for clip in options.clips:
        check_there(clip)
    inputs = TrainingInputs(
        name=options.name,
        phrase=options.phrase,
        noun=options.noun,
        clips=tuple(
            ClipSelection(
                clip, start=options.start, stop=options.stop, box=options.box, mover=options.mover
            )
            for clip in options.clips
        ),
        method=options.method,
        steps=options.steps,
        validate_every=options.validate_every,
        still=options.still,
    )
    inputs.check_count(settings.limits)
    given = {**_own_settings(options), "sample_latents": options.sample_latents}
    if options.tokens is not None:
        check_there(options.tokens)
    check_motion_out(options.out)
    model = options.model or settings.model
    _check_caption(inputs, model)

    from motion_app.training.processes import join_processes

    share = join_processes()
    models = models_for(
        options, settings, device=options.device or (None if share.count == 1 else share.device)
    )
    if options.mover:
        models.segmenter(model)  # what is wrong with it is told before the large model is read
    engine = models.engine(model)
    config = inputs.config(engine.defaults.training_of(inputs.method), **given)
    started = time.perf_counter()
    if len(inputs.clips) == 1 and not METHOD_TABLE[inputs.method].encoder:
        few = (
            "one clip is easily learned by heart, subject and all; SynMotion wants some 20"
            if options.method == "synmotion"
            else "one clip is enough; several of the same motion are learned better"
        )
        sys.stderr.write(few + "\n")
    news = _News(options.out)
    motion = kinds.train(
        inputs,
        config,
        options.out,
        engine,
        models.mark(model),
        tokens=options.tokens,
        on_progress=news if share.first else None,
        share=share,
    )
    return {
        "motion": str(motion.path),
        "name": motion.name,
        "steps": config.steps,
        "effective_batch": config.batch * share.count,
        "clip_errors": motion.clip_errors,
        "seconds": round(time.perf_counter() - started, 1),
        "validation": [str(path) for path in news.videos],
    }


def _check_caption(inputs: TrainingInputs, model: str) -> None:
    """RequestError for words too long for the model, before its weights are read or fetched."""
    tokenizer = PromptTokenizer.load_if_there(Checkpoint.find_configs(model))
    if tokenizer is not None:
        tokenizer.check(training_caption(inputs.noun.strip(), inputs.phrase.strip()))


def _own_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that only some methods have, where they were given; RequestError where the
    method is none of them."""
    for name, methods in OWN_OPTIONS.items():
        if getattr(options, name) is not None and options.method not in methods:
            raise RequestError(
                f"--{name.replace('_', '-')} belongs to --method {' or '.join(methods)}, not to "
                f"{options.method}; leave it out"
            )
    settings = {
        "alpha": options.alpha,
        "rank": options.rank,
        "encoding": options.encoding,
        "spv": None if options.spv is None else str(options.spv),
        "parts": None if options.parts is None else tuple(options.parts.split(",")),
        "spatial_share": options.spatial_share,
    }
    return {name: setting for name, setting in settings.items() if setting is not None}


def make_spv(options: argparse.Namespace, settings: Settings) -> Result:
    """Subject prior videos from pictures or names, by the model as it came."""
    subjects = [name.strip() for name in (options.subjects or "").split(",") if name.strip()]
    for picture in options.pictures:
        check_there(picture)

    models = models_for(options, settings)

    from motion_app.training.subject_videos import ACTIONS, make_subjects

    actions = options.actions.split(",") if options.actions else ACTIONS
    engine = models.engine(options.model)
    manifest = make_subjects(
        options.pictures,
        engine,
        options.out,
        subjects=subjects,
        actions=[action.strip() for action in actions],
        steps=options.steps,
        seed=options.seed,
        on_step=_generated,
    )
    return {
        "manifest": str(manifest),
        "clips": (len(options.pictures) + len(subjects)) * len(actions),
    }


def _generated(report: StepReport) -> bool:
    show_progress(report.step, report.steps, f"{report.seconds:.1f} s")
    return True


class _News:
    """Shows each step on standard error and keeps the videos made on the way beside ``out``."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.videos: list[Path] = []
        self._shown = 0

    def __call__(self, report: TrainingReport) -> bool:
        news = f"loss {report.smoothed:.4f}, {report.seconds_left:.0f} s left"
        show_progress(report.step, report.steps, news)
        made = report.validation
        if made is not None and made.step != self._shown:
            from motion_app.media.provenance import export_video

            path = self.out.with_name(f"{self.out.stem}-step-{made.step}.mp4")
            export_video(path, made.frames, made.fps, recipe=None)
            self.videos.append(path)
            self._shown = made.step
        return True


def _add_selection(parser: argparse.ArgumentParser) -> None:
    """Which part of the clips counts, and what moves in it."""
    parser.add_argument("--start", type=float, default=0.0, help="seconds; of every clip")
    parser.add_argument("--stop", type=float, help="seconds; of every clip")
    parser.add_argument(
        "--box",
        type=functools.partial(shares, count=4),
        metavar="x0,y0,x1,y1",
        help="the part of every clip that counts, as shares of its width and height, 0 to 1",
    )
    parser.add_argument(
        "--mover",
        type=functools.partial(shares, count=2),
        metavar="x,y",
        help="a point on the moving thing in the first frame that counts, as shares of the whole "
        "picture's width and height, 0 to 1; where several things move",
    )


def _add_words(parser: argparse.ArgumentParser) -> None:
    """What a motion is called, in all its ways."""
    parser.add_argument("--name", required=True)
    parser.add_argument("--phrase", required=True, help='the motion in words: "walks on snow"')
    parser.add_argument("--noun", required=True, help="what moves in the clips: tiger")


def add_clip_commands(listed: Any) -> None:
    """``motions add-clip`` and ``motions encode``."""
    adding = add_command(listed, "add-clip", add_clip, "keep a motion's reference clip in its file")
    adding.add_argument("name", help="a motion of the library, or its file")
    adding.add_argument("clip", type=Path, metavar="CLIP")
    _add_selection(adding)
    add_model(adding)
    encoding = add_command(
        listed, "encode", train_motion, "a motion at one look, where the model has an encoder"
    )
    encoding.add_argument("clips", type=Path, nargs=1, metavar="CLIP")
    _add_words(encoding)
    encoding.add_argument(
        "--refine",
        dest="method",
        action="store_const",
        const=REFINED,
        default=ENCODED,
        help="learn on from there, in a fifth of the usual steps",
    )
    _add_selection(encoding)
    encoding.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    add_model(encoding)
    unasked = ("steps", "validate_every", "sample_latents", *OWN_OPTIONS)
    encoding.set_defaults(still=False, **dict.fromkeys(unasked))


def add_training(actions: Any) -> None:
    """``train-motion`` and ``make-spv``."""
    parser = add_command(actions, "train-motion", train_motion, "learn a motion from clips")
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP")
    _add_words(parser)
    parser.add_argument("--steps", type=int, help="of training, 1 to 20000")
    parser.add_argument(
        "--method",
        choices=tuple(LEARNED),
        default="fleximmt",
        help="concat: without masks, for comparison; synmotion: embeddings and an adapter; "
        "i2vedit: a LoRA of the whole model; encoded "
        "and encoded-refined: by the model's own encoder, where it has one",
    )
    parser.add_argument(
        "--tokens",
        type=Path,
        metavar="FILE.safetensors",
        help="synmotion: motion tokens to keep in the same file, for the method both",
    )
    parser.add_argument(
        "--sample-latents",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="draw the clips' latents anew at every step, or learn from their means",
    )
    parser.add_argument("--alpha", type=float, help="synmotion: share of steps on the clips")
    parser.add_argument("--rank", type=int, help="synmotion, i2vedit: of the adapter")
    parser.add_argument(
        "--spatial-share",
        type=float,
        help="i2vedit: share of steps on single frames before the motion is learned, from 0",
    )
    parser.add_argument("--parts", help="synmotion: what is learned, of mot,sub,refiner,lora")
    parser.add_argument("--encoding", help="synmotion: phrases read jointly (joint) or apart")
    parser.add_argument(
        "--spv", type=Path, metavar="DIR", help="synmotion: subject prior videos (make-spv)"
    )
    _add_selection(parser)
    parser.add_argument(
        "--still", action="store_true", help="the motion is to stand still; nothing moves in a clip"
    )
    parser.add_argument(
        "--validate-every", type=int, metavar="STEPS", help="write a short video on the way"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    add_model(parser)
    parser = add_command(actions, "make-spv", make_spv, "subject prior videos for SynMotion")
    parser.add_argument(
        "pictures", type=Path, nargs="*", metavar="PICTURE", help="named by subject: polar-bear.jpg"
    )
    parser.add_argument(
        "--subjects", help='names for a model that needs no picture: "polar bear,zebra"'
    )
    parser.add_argument("--actions", help='with commas between: "walks,runs,sits down"')
    parser.add_argument("--steps", type=int, help="denoising steps of each clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    add_model(parser)
