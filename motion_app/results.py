"""A generated video on disk: what the command line writes and the page offers for download."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from motion_app.errors import RequestError
from motion_app.geometry import ExportSize, grid_to_mask
from motion_app.media import write_video
from motion_app.scene import GeneratedVideo


@dataclass(frozen=True)
class SavedVideo:
    """The files of one result. ``masks``: one picture for each object."""

    video: Path
    recipe: Path
    frames: Path
    masks: tuple[Path, ...]


def save_result(
    video: GeneratedVideo, folder: Path | str, *, export: ExportSize | None = None
) -> SavedVideo:
    """Write ``video`` into ``folder``.

    ``video.mp4`` upscaled to ``export``, the checkpoint's own size for looking at; ``recipe.json``,
    which replays it; ``frames.npz``, lossless, with frames (T, H, W, 3) uint8, masks (N, F, h, w)
    bool and fps; ``masks/{k}.png`` with an object's masks of all F latent frames, left to right,
    white on black, each at the size of the model frame. RequestError where it cannot be written.
    """
    folder = make_folder(folder)
    size = None if export is None else (export.width, export.height)
    write_video(folder / "video.mp4", video.frames, video.fps, size=size)
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps(video.recipe, indent=2, ensure_ascii=False), encoding="utf-8")
    np.savez_compressed(
        folder / "frames.npz", frames=video.frames, masks=video.masks, fps=np.float32(video.fps)
    )
    sheets = []
    for k, masks in enumerate(video.masks):
        pixels = grid_to_mask(masks, *video.frames.shape[1:3])  # (F, H, W)
        sheets.append(make_folder(folder / "masks") / f"{k}.png")
        save_mask(sheets[-1], np.concatenate(list(pixels), axis=1))  # (H, F * W)
    return SavedVideo(folder / "video.mp4", recipe, folder / "frames.npz", tuple(sheets))


def save_mask(path: Path | str, mask: np.ndarray) -> None:
    """A mask (H, W) bool as a PNG, white on black."""
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def make_folder(path: Path | str) -> Path:
    """The folder, made where it is missing; RequestError where that cannot be."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"the folder {path} cannot be made: {error.strerror}") from error
    return path
