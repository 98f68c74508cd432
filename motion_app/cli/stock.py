"""``stock``: videos by image-to-video models of others, told a picture and words alone."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motion_app.cli.parser import Result, add_command, models_for, show_progress
from motion_app.errors import RequestError
from motion_app.media.files import read_picture
from motion_app.media.provenance import certificate_of, export_video
from motion_app.media.results import make_folder
from motion_app.settings import Settings

if TYPE_CHECKING:
    from motion_app.models.stock import StockVideo

CASE_FPS, CASE_FRAMES = 8.0, 49  # of the papers' videos


def make_stock(options: argparse.Namespace, settings: Settings) -> Result:
    """The video of one picture, or of all cases that a benchmark has written; of these what is
    there already is left."""
    told = _scenes(options)
    models = models_for(options, settings)

    from motion_app.models.stock import StockOptions

    names = {item.name for item in fields(StockOptions)}
    given = {name: value for name, value in vars(options).items() if name in names}
    asked = StockOptions(**{name: value for name, value in given.items() if value is not None})
    out = make_folder(options.out)
    waiting = {name: scene for name, scene in told.items() if not (out / f"{name}.mp4").exists()}
    made, certificate = [], certificate_of(settings)
    for name, (picture, prompt) in waiting.items():
        image = read_picture(picture, limits=settings.limits).pixels
        with models.stock(options.model) as generator:
            video = generator.generate(image, prompt, asked, partial(_told, name))
        if options.cases is not None:
            height, width = (side // 2 * 2 for side in image.shape[:2])
            video = video.resampled(
                count=options.case_frames, fps=options.case_fps, height=height, width=width
            )
        _write(out / f"{name}.mp4", video, settings, certificate)
        made.append(name)
    left = [name for name in told if name not in made]
    return {"videos": str(out), "made": made, "there_already": left}


def _told(name: str, step: int, steps: int) -> bool:
    show_progress(step, steps, name)
    return True


def _write(path: Path, video: StockVideo, settings: Settings, certificate: Any) -> None:
    export_video(
        path,
        video.frames,
        video.fps,
        recipe=video.recipe,
        badge=settings.badge,
        certificate=certificate,
    )


def _scenes(options: argparse.Namespace) -> dict[str, tuple[Path, str]]:
    """Picture and prompt by the name of the file to be made."""
    if (options.cases is None) == (options.picture is None):
        raise RequestError("give either --picture with its --prompt, or --cases")
    if options.cases is None:
        if not options.prompt:
            raise RequestError("the picture has no --prompt; say what happens in it")
        return {options.picture.stem: (options.picture, options.prompt)}
    found = {}
    for file in sorted(options.cases.glob("*/case.json")):
        try:
            prompt = json.loads(file.read_text(encoding="utf-8"))["prompt"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{file.parent.name}/case.json has no prompt: {error}") from error
        found[file.parent.name] = (file.parent / "first_frame.png", prompt)
    if not found:
        raise RequestError(
            f"{options.cases} holds no cases; evaluate benchmark writes them into its folder cases"
        )
    return found


def add_commands(actions: Any) -> None:
    """``stock`` with its options."""
    parser = add_command(
        actions, "stock", make_stock, "videos by Wan or HunyuanVideo, to compare with"
    )
    parser.add_argument("--model", required=True, help="folder or hub id, fetched before")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--prompt")
    parser.add_argument("--cases", type=Path, metavar="DIR", help="what a benchmark wrote")
    parser.add_argument("--case-fps", type=float, default=CASE_FPS, help="of videos of cases")
    parser.add_argument("--case-frames", type=int, default=CASE_FRAMES)
    for name, kind, about in (
        ("seed", int, "0 or more"),
        ("steps", int, "of denoising"),
        ("guidance", float, "scale of classifier-free guidance"),
        ("height", int, "pixels"),
        ("width", int, "pixels"),
        ("frames", int, "of the video"),
        ("fps", float, "at which the model's frames are meant"),
    ):
        parser.add_argument(f"--{name}", type=kind, help=f"{about} (default: the model's own)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: a GPU where there is one)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
