"""The commands about one picture or one video: generate, segment, verify. torch is imported only
inside the commands that compute."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motion_app.cli.parser import (
    Result,
    add_command,
    add_method,
    add_model,
    box,
    click,
    method_of,
    models_for,
    show_progress,
)
from motion_app.errors import RequestError
from motion_app.jobs import kinds
from motion_app.library.library import Library
from motion_app.media.files import read_image
from motion_app.media.provenance import certificate_of, verify_video
from motion_app.media.results import make_folder, save_mask
from motion_app.methods import ABLATIONS, PACK_ABLATIONS
from motion_app.request.kept import with_motions
from motion_app.request.phrases import PromptTokenizer
from motion_app.request.request import build_request, parse_request
from motion_app.scene import StepReport
from motion_app.settings import Settings

if TYPE_CHECKING:
    from motion_app.engine.memory import DeviceProfile
    from motion_app.jobs.models import Models
    from motion_app.scene import GenerationRequest


def generate(options: argparse.Namespace, settings: Settings) -> Result:
    """Generate a video; the options override the request file."""
    given = {
        "steps": options.steps,
        "seed": options.seed,
        "model": options.model,
        "without": None if options.without is None else options.without.split(","),
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    overrides |= method_of(options)
    request_file = parse_request(options.request)
    entries = {**request_file.model_dump(), **overrides}
    if options.no_picture:
        bare = [{n: v for n, v in item.items() if n != "mask"} for item in entries["objects"]]
        entries |= {"image": None, "objects": bare}
    request_file = parse_request(entries)
    model = request_file.model or settings.model
    sources = {
        "library": Library(settings.motion_folders(model)),
        "folder": options.request.parent,
        "limits": settings.limits,
    }
    # A mistake is told before the weights are read, or fetched.
    models = models_for(options, settings)
    checkpoint = models.checkpoint(model)
    tokenizer = PromptTokenizer.load_if_there(checkpoint)
    request = build_request(
        request_file, geometry=checkpoint.geometry, base=None, tokenizer=tokenizer, **sources
    )
    certificate = certificate_of(settings)
    out = make_folder(options.out)
    if request.options.stock is None:
        _foretell(models, model, request)
    frame = models.frame(model, request.options)
    # Only whether its motions were made for this model was still to be seen.
    request = with_motions(request, sources["library"], base=frame.fingerprint)
    started = time.perf_counter()
    ended: list[float] = []
    made = kinds.generate(
        request,
        out,
        frame,
        _show_step,
        open_stock=models.stock,
        badge=settings.badge,
        certificate=certificate,
        on_saving=lambda: ended.append(time.perf_counter()),
    )
    profile = getattr(frame, "profile", None)  # of a model of others its recipe tells it
    if profile is not None and profile.too_large:
        print(_stepped_down(profile), file=sys.stderr)
    return {
        "video": str(out / made["video"]),
        "gif": str(out / made["gif"]),
        "recipe": str(out / made["recipe"]),
        "seed": made["seed"],
        "seconds": round(ended[0] - started, 2),
        "masks": [str(out / "masks" / f"{k}.png") for k in range(len(request.marked))],
        "frames": str(out / made["frames"]),
        **({} if profile is None else {"profile": profile.placement.name}),
    }


def _foretell(models: Models, model: str, request: GenerationRequest) -> None:
    """How long a large video will take, on standard error before its model is read."""
    from motion_app.engine.expectation import Expectation
    from motion_app.models.devices import device_named

    checkpoint = models.checkpoint(model, weights=True)
    expected = Expectation.of(checkpoint, device_named(models.device))
    steps = request.options.steps or checkpoint.defaults.steps
    if not expected.worth_saying(steps):
        return
    minutes = expected.seconds_for(steps) / 60
    device = expected.measured_on
    source = f"measured on another {device}, 2 objects" if device else "estimated"
    print(f"about {minutes:.1f} minutes for {steps} steps ({source})", file=sys.stderr)


def _stepped_down(profile: DeviceProfile) -> str:
    name = profile.placement.name
    return (
        f"{profile.device} ran out of memory with the profile {profile.too_large}; this was made "
        f"with {name} (MOTION_APP_PROFILE={name} begins with it)"
    )


def verify(options: argparse.Namespace, settings: Settings) -> Result:
    """What a video says of its own making: mark, tag, recipe, signature."""
    return {
        "video": str(options.video),
        **verify_video(options.video, limits=settings.limits).to_json(),
    }


def _show_step(report: StepReport) -> bool:
    show_progress(report.step, report.steps, f"{report.seconds:.1f} s")
    return True


def segment(options: argparse.Namespace, settings: Settings) -> Result:
    """The best mask for the clicks, at the size of the picture."""
    if not options.point and options.box is None:
        raise RequestError("nothing was marked; give a --point x,y,1 or a --box x0,y0,x1,y1")
    image = read_image(options.image, limits=settings.limits)
    models = models_for(options, settings)
    make_folder(options.out.parent)

    from motion_app.models.clicks import check_prompt

    check_prompt(options.point, options.box, *image.shape[:2])
    segmenter = models.segmenter(options.model, given=options.segmenter)
    started = time.perf_counter()
    found = segmenter.segment(image, options.point, options.box)
    seconds = time.perf_counter() - started
    save_mask(options.out, found.mask)
    return {
        "mask": str(options.out),
        "score": round(float(found.score), 4),
        "seconds": round(seconds, 3),
    }


def add_commands(actions: Any) -> None:
    """``generate``, ``verify`` and ``segment`` with their options."""
    parser = add_command(actions, "generate", generate, "make a video from a request")
    parser.add_argument("request", type=Path, metavar="REQUEST.json", help="a request or a recipe")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--no-picture",
        action="store_true",
        help="from words alone: leave the request's picture and mask out (a model that can)",
    )
    parser.add_argument("--steps", type=int, help="of denoising, 1 to 1000")
    parser.add_argument("--seed", type=int, help="0 or more")
    parts = ", ".join((*ABLATIONS, *PACK_ABLATIONS))
    parser.add_argument("--without", help=f"ablations, with commas between: {parts}")
    add_method(parser)
    add_model(parser)
    parser = add_command(
        actions, "verify", verify, "look for the marks of a video that was generated here"
    )
    parser.add_argument("video", type=Path, metavar="VIDEO")
    parser = add_command(actions, "segment", segment, "mask one object by clicks")
    parser.add_argument("image", type=Path)
    parser.add_argument(
        "--point",
        action="append",
        default=[],
        type=click,
        metavar="x,y,1",
        help="in pixels of the picture; 1 on the object, 0 beside it",
    )
    parser.add_argument(
        "--box",
        type=box,
        metavar="x0,y0,x1,y1",
        help="around the object, in pixels of the picture",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="MASK.png")
    parser.add_argument("--segmenter", help="folder or hub id of a SAM-2 model")
    add_model(parser)
