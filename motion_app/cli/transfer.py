"""The command ``transfer``: a picture, a click on each thing, and for each a clip, a motion or a
path. torch is imported only where something is computed."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motion_app.cli.parser import (
    Result,
    add_command,
    add_method,
    add_model,
    method_of,
    models_for,
    numbers,
    show_progress,
)
from motion_app.errors import RequestError
from motion_app.geometry import FIT_MODES
from motion_app.jobs import kinds
from motion_app.library.library import AwaitedLibrary, Library
from motion_app.library.motion_file import SUFFIX
from motion_app.media.files import read_picture
from motion_app.media.provenance import certificate_of
from motion_app.media.results import make_folder
from motion_app.request.kept import with_motions
from motion_app.request.phrases import PromptTokenizer
from motion_app.request.request import checked_request
from motion_app.scene import Click, GenerationRequest, Options, StepReport
from motion_app.settings import Settings
from motion_app.ui.transfer.draft import request_of
from motion_app.ui.transfer.from_clicks import ClickedThing, scene_of_clicks

if TYPE_CHECKING:
    from motion_app.training.trainer import TrainingReport


class _Clicked(argparse.Action):
    """``--click``: another thing begins; ``--also`` adds to the last one."""

    def __call__(self, parser: Any, options: Any, value: Any, given: str | None = None) -> None:
        flag, things = self.option_strings[0], list(options.things)
        x, y = value
        if flag == "--click":
            things.append(ClickedThing(clicks=(Click(x, y),)))
        else:
            last = _last(things, flag)
            click = Click(x, y, positive=flag == "--also")
            things[-1] = replace(last, clicks=(*last.clicks, click))
        options.things = things


class _OfTheLast(argparse.Action):
    """What is said of the thing that was clicked last."""

    def __call__(self, parser: Any, options: Any, value: Any, given: str | None = None) -> None:
        flag, things = self.option_strings[0], list(options.things)
        told = tuple(map(tuple, value)) if isinstance(value, list) else value
        things[-1:] = [replace(_last(things, flag), **{OF_THE_LAST[flag][0]: told})]
        options.things = things


def _last(things: Sequence[ClickedThing], flag: str) -> ClickedThing:
    if not things:
        raise RequestError(f"{flag} comes before any --click; click on a thing first")
    return things[-1]


def _place(text: str) -> list[float]:
    return numbers(text, 2)


OF_THE_LAST = {
    "--clip": ("clip", Path, "FILE", "learn its motion from this clip first"),
    "--motion": ("motion", str, "NAME", "a motion of the library"),
    "--path": ("path", _place, "X,Y", "where it goes instead, from the first click on: 200,90 …"),
    "--thing": ("name", str, "WORDS", 'what it is: "red robot"'),
    "--strength": ("strength", float, "FACTOR", "of its motion, 0 to 4, 1 as learned"),
    "--name": ("called", str, "NAME", "what the library shall call what is learned"),
    "--noun": ("noun", str, "WORDS", "what moves in its clip: cat"),
    "--phrase": ("phrase", str, "WORDS", 'its motion in words: "is jumping"'),
    "--training-method": (
        "method",
        str,
        "METHOD",
        "how: fleximmt, or where the model has an encoder encoded or encoded-refined",
    ),
    "--training-steps": ("steps", int, "N", "of learning it, 1 to 20000"),
}


def transfer(options: argparse.Namespace, settings: Settings) -> Result:
    """Learn what is to be learned, then make the video; as the page does with one press."""
    if not options.things:
        raise RequestError("nothing was clicked; give --click X,Y for each thing that shall move")
    for thing in options.things:
        if thing.clip is not None and not thing.clip.is_file():
            raise RequestError(f"there is no file {thing.clip}; check the path")
    limits, model = settings.limits, options.model or settings.model
    picture = read_picture(options.picture, limits=limits).pixels
    library = Library(settings.motion_folders(model))
    models = models_for(options, settings)
    checkpoint = models.checkpoint(model)
    segmenter = models.segmenter(model, given=options.segmenter)
    draft = scene_of_clicks(
        picture,
        options.things,
        fit=options.fit,
        geometry=checkpoint.geometry,
        segment=segmenter.segment,
        library=library,
        ways=checkpoint.ways,
        limits=limits,
    )
    chosen = {"seed": options.seed, "steps": options.steps, **method_of(options)}
    asked = Options(**{name: value for name, value in chosen.items() if value is not None})
    lessons = [lesson.inputs() for lesson in draft.lessons]
    request = checked_request(
        request_of(draft, asked),
        geometry=checkpoint.geometry,
        tokenizer=PromptTokenizer.load_if_there(checkpoint),
        limits=limits,
        library=AwaitedLibrary(library, [lesson.awaited() for lesson in lessons]),
    )
    out = make_folder(options.out)
    frame = models.frame(model, asked)
    started = time.perf_counter()
    learned, called = [], {}
    for number, lesson in enumerate(lessons, start=1):
        config = lesson.config(frame.defaults.training_of(lesson.method))
        motion = kinds.learn(
            lesson,
            config,
            out / f"motion-{number}{SUFFIX}",
            models.engine(model),
            models.mark(model),
            library,
            limits=limits,
            on_progress=_show_learning(lesson.name),
        )
        called[lesson.name] = motion.name
        learned.append({"name": motion.name, "motion": str(motion.path), "steps": config.steps})
    made = kinds.generate(
        with_motions(_renamed(request, called), library, base=frame.fingerprint),
        out,
        frame,
        _show_step,
        open_stock=models.stock,
        badge=settings.badge,
        certificate=certificate_of(settings),
    )
    files = {name: str(out / made[name]) for name in ("video", "gif", "recipe")}
    seconds = round(time.perf_counter() - started, 1)
    return {**files, "seed": made["seed"], "learned": learned, "seconds": seconds}


def _renamed(request: GenerationRequest, called: Mapping[str, str]) -> GenerationRequest:
    """With the names that motions got in the library by those they were asked for."""
    if not called:
        return request
    objects = tuple(
        item
        if item.motion is None
        else replace(item, motion=replace(item.motion, name=called.get(*[item.motion.name] * 2)))
        for item in request.objects
    )
    return replace(request, objects=objects)


def _show_learning(name: str) -> Any:
    def show(report: TrainingReport) -> bool:
        news = f"learning {name}, loss {report.smoothed:.4f}, {report.seconds_left:.0f} s left"
        show_progress(report.step, report.steps, news)
        return True

    return show


def _show_step(report: StepReport) -> bool:
    show_progress(report.step, report.steps, f"{report.seconds:.1f} s")
    return True


def add_commands(actions: Any) -> None:
    """``transfer`` with its options."""
    parser = add_command(
        actions, "transfer", transfer, "click things in a picture, give each a clip or a motion"
    )
    parser.add_argument("picture", type=Path, metavar="PICTURE")
    parser.set_defaults(things=())
    parser.add_argument(
        "--click",
        action=_Clicked,
        type=_place,
        metavar="X,Y",
        help="on a thing, in pixels of the picture; what follows is about it, to the next --click",
    )
    parser.add_argument(
        "--also", action=_Clicked, type=_place, metavar="X,Y", help="on the same thing too"
    )
    parser.add_argument(
        "--beside", action=_Clicked, type=_place, metavar="X,Y", help="not on that thing"
    )
    for flag, (_, kind, word, about) in OF_THE_LAST.items():
        several = {"nargs": "+"} if kind is _place else {}
        parser.add_argument(flag, action=_OfTheLast, type=kind, metavar=word, help=about, **several)
    parser.add_argument(
        "--fit", choices=FIT_MODES, default=FIT_MODES[0], help="to the model's frame"
    )
    parser.add_argument("--steps", type=int, help="of denoising, 1 to 1000")
    parser.add_argument("--seed", type=int, help="0 or more")
    add_method(parser)
    parser.add_argument("--segmenter", help="folder or hub id of a SAM-2 model")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    add_model(parser)
