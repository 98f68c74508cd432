"""``pocket``: the small world rendered, its model trained and measured, its results made anew."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motion_app.cli.parser import (
    Result,
    add_command,
    add_group,
    add_model,
    make_bare,
    models_for,
)
from motion_app.errors import RequestError

if TYPE_CHECKING:
    from motion_app.settings import Settings

ASSETS = Path(__file__).resolve().parents[2] / "assets"
SCENES = 3  # of the demo study
SHOWCASE = (0, 1, 4, 5)  # scenes of the README's moving picture


def render_pocket(options: argparse.Namespace, settings: Settings) -> Result:
    """A clip of the pocket world: frames, first frame and masks as PNG, the clip as MP4, and the
    objects' truth. Each sentence is neutral and holds its ``phrase``; ``words`` name the motion."""
    import numpy as np
    from PIL import Image

    from motion_app.media.files import write_video
    from motion_app.media.results import make_folder, save_mask
    from motion_app.wording import NEUTRAL_PHRASE
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

    from motion_app.library.library import Library
    from motion_app.pocket.shipped import renew_results as renew

    engine = models.engine(options.model)
    made = renew(options.out, engine, Library([engine.backbone.checkpoint.folder / "motions"]))
    return {"results": [str(path) for path in made]}


def make_demo_study(options: argparse.Namespace, settings: Settings) -> Result:
    """The study that is tried in the page, drawn and made by the checkpoint as it is now."""
    models = models_for(options, settings)

    from motion_app.library.library import Library
    from motion_app.pocket.shipped import make_demo_study as make

    engine = models.engine(options.model)
    motions = Library([engine.backbone.checkpoint.folder / "motions"]).list()
    content = make(options.out, engine, motions, scenes=options.scenes, steps=options.steps)
    files = [file for file in (options.out / "media").iterdir() if file.is_file()]
    return {
        "demo": str(options.out),
        "methods": list(content.methods),
        "items": [item.name for item in content.items],
        "bytes": sum(file.stat().st_size for file in files),
    }


def make_showcase(options: argparse.Namespace, settings: Settings) -> Result:
    """The moving picture of the README by the checkpoint as it is now."""
    models = models_for(options, settings)

    from motion_app.media.results import make_folder
    from motion_app.pocket.shipped import write_showcase

    if min(options.cases) < 0:
        raise RequestError(f"scenes are counted from 0, so that there is no {min(options.cases)}")
    make_folder(options.out.parent)
    write_showcase(models.engine(options.model), options.out, cases=options.cases)
    return {"picture": str(options.out), "bytes": options.out.stat().st_size}


def draw_examples(options: argparse.Namespace, settings: Settings) -> Result:
    """The pictures and the reference clips that come with the app, drawn anew."""
    from motion_app.world.clips import render_clips
    from motion_app.world.world import render_examples

    return {
        "pictures": [str(path) for path in render_examples(options.out)],
        "clips": [str(path) for path in render_clips(options.clips)],
    }


def train_pocket(options: argparse.Namespace) -> Result:
    """Hand over to the pocket's own trainer, which has its own options and reports by log."""
    from motion_app.pocket.train import add_arguments, train

    parser: argparse.ArgumentParser = options.parser
    parser.add_argument("-h", "--help", action="help")
    add_arguments(parser)
    chosen = parser.parse_args(options.rest)
    for own in ("parser", "run", "bare", "takes_rest"):  # what is left can go to other processes
        delattr(chosen, own)
    logging.getLogger("motion_app").setLevel(logging.INFO)
    started = time.perf_counter()
    train(chosen)
    return {"seconds": round(time.perf_counter() - started, 1)}


def add_commands(actions: Any) -> None:
    """``pocket …`` with its options."""
    pocket = add_group(actions, "pocket", "the small world: render it, train its model")
    render = add_command(pocket, "render", render_pocket, "draw a clip with its ground truth")
    render.add_argument("--seed", type=int, required=True)
    render.add_argument("--objects", type=int, choices=(1, 2, 3))
    render.add_argument("--motions", help="one for each object, with commas between")
    render.add_argument("--out", type=Path, required=True, metavar="DIR")
    measure = add_command(
        pocket, "measure", measure_pocket, "the figures of the model card, and sheets"
    )
    measure.add_argument("--out", type=Path, required=True, metavar="DIR")
    measure.add_argument("--cases", type=int, default=40, help="two-object scenes")
    measure.add_argument("--processes", type=int, default=2)
    measure.add_argument("--unmasked", type=Path, help="the motions learned without masks")
    add_model(measure)
    renew = add_command(
        pocket, "results", renew_results, "make the results that come with the app anew"
    )
    renew.add_argument("--out", type=Path, default=ASSETS / "results", metavar="DIR")
    add_model(renew)
    study = add_command(
        pocket, "study", make_demo_study, "make the demo study that comes with the app anew"
    )
    study.add_argument("--out", type=Path, default=ASSETS / "demo_study", metavar="DIR")
    study.add_argument("--scenes", type=int, default=SCENES)
    study.add_argument("--steps", type=int, help="of every video; without it the model's own")
    add_model(study)
    showcase = add_command(
        pocket, "showcase", make_showcase, "make the moving picture of the README anew"
    )
    showcase.add_argument("--out", type=Path, default=ASSETS / "results.gif", metavar="FILE")
    showcase.add_argument(
        "--cases", type=int, nargs="+", default=list(SHOWCASE), help="scenes of the tuning split"
    )
    add_model(showcase)
    examples = add_command(
        pocket, "examples", draw_examples, "draw the pictures and clips that come with the app"
    )
    examples.add_argument("--out", type=Path, default=ASSETS / "examples", metavar="DIR")
    examples.add_argument("--clips", type=Path, default=ASSETS / "clips", metavar="DIR")
    # Its options are the trainer's own: asking it for them would import torch for every command.
    train = add_command(
        pocket, "train", train_pocket, "train the pocket checkpoint", add_help=False
    )
    train.set_defaults(parser=train, takes_rest=True)
    make_bare(train)
