"""A generated video on disk: what the command line writes and the page offers for download."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from PIL import Image

from motion_app.errors import RequestError
from motion_app.geometry import ExportSize, grid_to_mask
from motion_app.media.provenance import Certificate, export_gif, export_video
from motion_app.scene import GeneratedVideo


@dataclass(frozen=True)
class SavedVideo:
    """The files of one result. ``masks``: one picture for each object."""

    video: Path
    gif: Path
    recipe: Path
    frames: Path
    masks: tuple[Path, ...]
    masks_zip: Path


def save_result(
    video: GeneratedVideo,
    folder: Path | str,
    *,
    export: ExportSize | None = None,
    badge: bool = False,
    certificate: Certificate | None = None,
) -> SavedVideo:
    """Write ``video`` into ``folder``.

    ``video.mp4`` and ``video.gif``, marked as generated and upscaled to ``export``, the
    checkpoint's own size for looking at (``badge``, ``certificate``: see ``export_video``);
    ``recipe.json``, which replays it; ``frames.npz``, lossless and without a mark, with frames
    (T, H, W, 3) uint8, masks (N, F, h, w) bool and fps; ``masks/{k}.png`` with an object's masks of
    all F latent frames, left to right, white on black, each at the size of the model frame;
    ``masks.zip`` with these sheets and a picture for each mask. RequestError where it cannot be
    written, MotionAppError for a certificate that cannot be used.
    """
    folder = make_folder(folder)
    options = {
        "recipe": video.recipe,
        "size": None if export is None else (export.width, export.height),
        "badge": badge,
    }
    saved = SavedVideo(
        video=folder / "video.mp4",
        gif=folder / "video.gif",
        recipe=folder / "recipe.json",
        frames=folder / "frames.npz",
        masks=tuple(folder / "masks" / f"{k}.png" for k in range(len(video.masks))),
        masks_zip=folder / "masks.zip",
    )
    try:
        _write_all(video, saved, certificate, options)
    except BaseException:
        for path in (saved.video, saved.gif, saved.recipe, saved.frames, saved.masks_zip):
            path.unlink(missing_ok=True)
        for path in saved.masks:
            path.unlink(missing_ok=True)
        raise
    return saved


def _write_all(
    video: GeneratedVideo,
    saved: SavedVideo,
    certificate: Certificate | None,
    options: dict[str, Any],
) -> None:
    shown = (video.frames, video.fps)
    with ThreadPoolExecutor(2) as encoders:  # they work outside the interpreter's lock
        written = (
            encoders.submit(export_video, saved.video, *shown, certificate=certificate, **options),
            encoders.submit(export_gif, saved.gif, *shown, **options),
        )
    for file in written:
        file.result()
    saved.recipe.write_text(
        json.dumps(video.recipe, indent=2, ensure_ascii=False), encoding="utf-8"
    )
    np.savez_compressed(
        saved.frames, frames=video.frames, masks=video.masks, fps=np.float32(video.fps)
    )
    _save_masks(video, saved)


def _save_masks(video: GeneratedVideo, saved: SavedVideo) -> None:
    """The sheets, and the archive: ``object-1/sheet.png``, ``object-1/0.png`` and so on."""
    with ZipFile(saved.masks_zip, "w") as archive:
        for k, (masks, sheet) in enumerate(zip(video.masks, saved.masks, strict=True)):
            pixels = grid_to_mask(masks, *video.frames.shape[1:3])  # (F, H, W)
            make_folder(sheet.parent)
            save_mask(sheet, np.concatenate(list(pixels), axis=1))  # (H, F * W)
            archive.write(sheet, f"object-{k + 1}/sheet.png")
            for f, mask in enumerate(pixels):
                archive.writestr(f"object-{k + 1}/{f}.png", mask_png(mask))


def mask_png(mask: np.ndarray) -> bytes:
    """A mask (H, W) bool as the bytes of a PNG, white on black."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, format="PNG")
    return file.getvalue()


def save_mask(path: Path | str, mask: np.ndarray) -> None:
    """A mask (H, W) bool as a PNG, white on black."""
    Path(path).write_bytes(mask_png(mask))


def make_folder(path: Path | str) -> Path:
    """The folder, made where it is missing; RequestError where that cannot be."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"the folder {path} cannot be made: {error.strerror}") from error
    return path
