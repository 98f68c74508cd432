"""What each command of ``cli`` does. Every function takes the parsed options and the settings and
returns the JSON that is printed last. torch is imported only inside the commands that compute."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from motion_app.errors import RequestError
from motion_app.jobs import kinds
from motion_app.jobs.models import Models
from motion_app.library.library import Library
from motion_app.media.files import read_image, write_video
from motion_app.media.provenance import certificate_of, verify_video
from motion_app.media.results import make_folder, save_mask
from motion_app.models.checkpoint import Checkpoint
from motion_app.request.phrases import PromptTokenizer
from motion_app.request.request import build_request, parse_request, with_motions
from motion_app.scene import NEUTRAL_PHRASE, StepReport
from motion_app.settings import ROOT, Settings

if TYPE_CHECKING:
    from motion_app.engine.memory import DeviceProfile

Result = dict[str, Any]
RESULTS = ROOT / "assets" / "results"


def generate(options: argparse.Namespace, settings: Settings) -> Result:
    """Generate a video; the options override the request file."""
    given = {
        "steps": options.steps,
        "seed": options.seed,
        "method": options.method,
        "model": options.model,
        "without": None if options.without is None else options.without.split(","),
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    request_file = parse_request(options.request)
    request_file = parse_request({**request_file.model_dump(), **overrides})
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
    engine = models.engine(model)
    # Only whether its motions were made for this model was still to be seen.
    request = with_motions(request, sources["library"], base=engine.fingerprint)
    started = time.perf_counter()
    ended: list[float] = []
    made = kinds.generate(
        request,
        out,
        engine,
        _show_step,
        badge=settings.badge,
        certificate=certificate,
        on_saving=lambda: ended.append(time.perf_counter()),
    )
    if engine.profile.too_large:
        print(_stepped_down(engine.profile), file=sys.stderr)
    return {
        "video": str(out / made["video"]),
        "gif": str(out / made["gif"]),
        "recipe": str(out / made["recipe"]),
        "seed": made["seed"],
        "seconds": round(ended[0] - started, 2),
        "masks": [str(out / "masks" / f"{k}.png") for k in range(len(request.objects))],
        "frames": str(out / made["frames"]),
        "profile": engine.profile.placement.name,
    }


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


def models_for(
    options: argparse.Namespace, settings: Settings, *, device: str | None = None
) -> Models:
    """The models of a command, on ``device``, else ``--device``, else the settings' own. A setting
    that cannot hold is told now; loading says nothing on standard error."""
    silence_loaders()  # some of them talk while they are imported
    models = Models(settings, device=device or options.device)
    models.check()
    return models


def silence_loaders() -> None:
    """Standard error is for our own progress and the one line of a mistake."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()


def _show_step(report: StepReport) -> bool:
    show_progress(report.step, report.steps, f"{report.seconds:.1f} s")
    return True


def show_progress(step: int, steps: int, news: str) -> None:
    """One line on standard error, written over at every step."""
    print(f"\rstep {step}/{steps}  {news}", end="\n" if step == steps else "", file=sys.stderr)


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
    segmenter.set_image(image)
    found = segmenter.predict(options.point, box=options.box)
    seconds = time.perf_counter() - started
    save_mask(options.out, found.mask)
    return {
        "mask": str(options.out),
        "score": round(float(found.score), 4),
        "seconds": round(seconds, 3),
    }


def render_pocket(options: argparse.Namespace, settings: Settings) -> Result:
    """A clip of the pocket world: frames, first frame and masks as PNG, the clip as MP4, and the
    objects' truth. Each sentence is neutral and holds its ``phrase``; ``words`` name the motion."""
    from motion_app.world.world import draw_scene, render

    motions = options.motions.split(",") if options.motions else None
    objects = options.objects or (len(motions) if motions else None)
    if motions and len(motions) != objects:
        raise RequestError(f"{objects} objects need {objects} motions, got {len(motions)}")
    if options.seed < 0 or (objects or 1) > 3:
        raise RequestError("the seed must be 0 or more, and there can be 1 to 3 objects")
    try:
        scene = draw_scene(np.random.default_rng(options.seed), objects=objects, motions=motions)
    except ValueError as error:
        raise RequestError(str(error)) from error
    clip = render(scene)
    frames = make_folder(options.out / "frames")
    for t, frame in enumerate(clip.frames):
        Image.fromarray(frame).save(frames / f"{t}.png")
    Image.fromarray(clip.frames[0]).save(options.out / "first_frame.png")
    write_video(options.out / "clip.mp4", clip.frames, scene.config.fps, comment="rendered")
    for k, masks in enumerate(clip.masks):
        folder = make_folder(options.out / "masks" / str(k))
        save_mask(options.out / "masks" / f"{k}.png", masks[0])
        for t, mask in enumerate(masks):
            save_mask(folder / f"{t}.png", mask)
    return {
        "clip": str(options.out / "clip.mp4"),
        "objects": [
            {
                "noun": creature.noun,
                "sentence": creature.neutral_sentence,
                "phrase": NEUTRAL_PHRASE,
                "motion": creature.motion,
                "words": creature.words,
                "track": np.round(track, 3).tolist(),
            }
            for creature, track in zip(scene.creatures, clip.tracks, strict=True)
        ],
    }


def measure_pocket(options: argparse.Namespace, settings: Settings) -> Result:
    """Measure the pocket against the renderer's ground truth."""
    models = models_for(options, settings)

    from motion_app.pocket.measure import measure_pocket as measure
    from motion_app.pocket.measure import summary

    figures = measure(
        Path(options.model or settings.model),
        options.out,
        models=models,
        cases=options.cases,
        processes=options.processes,
        unmasked=options.unmasked,
    )
    print(summary(figures))
    return figures


def renew_results(options: argparse.Namespace, settings: Settings) -> Result:
    """The results that come with the app by the checkpoint as it is now."""
    models = models_for(options, settings)

    from motion_app.pocket.shipped import renew_results as renew

    engine = models.engine(options.model)
    made = renew(options.out, engine, Library([engine.backbone.checkpoint.folder / "motions"]))
    return {"results": [str(path) for path in made]}


def train_pocket(options: argparse.Namespace, settings: Settings) -> Result:
    """Hand over to the pocket's own trainer, which has its own options and reports by log."""
    from motion_app.pocket.train import add_arguments, train

    parser: argparse.ArgumentParser = options.parser
    parser.add_argument("-h", "--help", action="help")
    add_arguments(parser)
    chosen = parser.parse_args(options.rest)
    del chosen.parser, chosen.run  # what is left can be handed to other processes
    logging.getLogger("motion_app").setLevel(logging.INFO)
    started = time.perf_counter()
    train(chosen)
    return {"seconds": round(time.perf_counter() - started, 1)}


def bench(options: argparse.Namespace, settings: Settings) -> Result:
    """Time one part, or all of them."""
    from motion_app.speed.parts import run_bench

    model = options.model or settings.model
    models = models_for(options, settings.model_copy(update={"model": model}))
    full_scale = {
        "layers": options.layers,
        "device": models.device,
        "dtype": options.dtype,
        "repeats": options.repeats,
        "out": options.out,
    }
    if options.motions:
        full_scale["motions"] = options.motions
    return run_bench(
        options.what,
        models=models,
        show=not options.json,
        shape=options.shape,
        **full_scale,
    )


def memory(options: argparse.Namespace, settings: Settings) -> Result:
    """What a checkpoint would need under each memory profile, and the one that is chosen: without
    reading its weights. ``free`` GB of a GPU make the choice as it would be there."""
    silence_loaders()

    from motion_app.engine.footprint import GIGABYTE, footprint
    from motion_app.engine.memory import PLACEMENTS, DeviceProfile, look_ahead

    checkpoint = Checkpoint.find(options.model or settings.model, on_bytes=_show_bytes)
    needs = footprint(checkpoint, item=2)
    models = Models(settings, device=options.device)
    acceleration = models.acceleration
    keep = {"keep_text_encoder": acceleration.keep_text_encoder}
    table = {
        name: {
            "device": round(placement.device_bytes(needs, **keep) / GIGABYTE, 2),
            "main_memory": round(placement.host_bytes(needs, **keep) / GIGABYTE, 2),
        }
        for name, placement in PLACEMENTS.items()
    }
    _, here = look_ahead(checkpoint, device=models.device, placement=acceleration.profile, **keep)
    result = {
        "model": str(checkpoint.folder),
        "gigabytes": table,
        "measured": False,
        "here": here.to_json(),
    }
    chosen = here.profile
    if options.free is not None:
        somewhere = DeviceProfile.choose(
            lambda item: needs,
            device="meta",
            placement=acceleration.profile,
            free=round(options.free * GIGABYTE),
            **keep,
        )
        chosen = somewhere.placement.name
    print(f"{'profile':<22}{'GPU':>8}{'main memory':>14}   GB in bfloat16, estimated")
    for name, row in table.items():
        mark = "  ← chosen" if name == chosen else ""
        print(f"{name:<22}{row['device']:>8.2f}{row['main_memory']:>14.2f}{mark}")
    print(f"here: {here}")
    return {**result, "chosen": chosen}


def _show_bytes(done: int, total: int) -> None:
    """A download's progress on standard error."""
    print(f"\r{done / 1e9:.2f} of {total / 1e9:.2f} GB", end="", file=sys.stderr)
