"""A finished video with the masks of its objects drawn over it: as a second video, made when first
asked for, and as a sheet of pictures."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from motion_app.errors import RequestError
from motion_app.geometry import ExportSize, grid_to_mask
from motion_app.media import export_video, read_recipe, upscale
from motion_app.ui.overlay import draw_objects, enlarge_masks, mask_sheet

OVERLAY_FILE = "video-with-masks.mp4"


@dataclass(frozen=True, eq=False)
class SavedFrames:
    """What a result's ``frames.npz`` holds: ``frames`` (T, H, W, 3) uint8 at ``fps``, ``masks``
    (N, F, h, w) bool on the token grid."""

    frames: np.ndarray
    masks: np.ndarray
    fps: float

    @classmethod
    def read(cls, path: Path) -> SavedFrames:
        """RequestError where the file has gone or is damaged."""
        try:
            with np.load(path) as saved:
                return cls(saved["frames"], saved["masks"], float(saved["fps"]))
        except (OSError, ValueError, KeyError) as error:
            raise RequestError(
                "the frames of this video cannot be read any more; make the video again"
            ) from error

    def sheet(self, slots: Sequence[int]) -> np.ndarray:
        """Every token frame's masks as one picture (H', W', 3) uint8."""
        return mask_sheet(self.frames, self.masks, slots)


def masked_frames(saved: SavedFrames, slots: Sequence[int], *, size: tuple[int, int]) -> np.ndarray:
    """The frames at ``size`` (width, height) with each object's mask, colour and number:
    (T, height, width, 3) uint8.

    Latent frame 0 stands for the first frame alone, each later one for the (T − 1) / (F − 1)
    frames up to its own, as in the causal autoencoder.
    """
    count, moments = len(saved.frames), saved.masks.shape[1]
    held = [
        0 if moments == 1 else int(np.ceil(t * (moments - 1) / max(1, count - 1)))
        for t in range(count)
    ]
    full = grid_to_mask(saved.masks, *saved.frames.shape[1:3])  # (N, F, H, W)
    large = upscale(saved.frames, *size)
    smooth = [enlarge_masks(full[:, f], *size) for f in range(moments)]
    return np.stack([draw_objects(large[t], smooth[f], slots) for t, f in enumerate(held)])


class OverlayVideos:
    """Renders the videos with masks, one at a time: two clicks must not write one file."""

    def __init__(self, export: ExportSize | None) -> None:
        self._export = export
        self._lock = threading.Lock()

    def __call__(
        self, folder: Path, outcome: Mapping[str, str], slots: Sequence[int], *, badge: bool
    ) -> Path:
        """The video of a job with its masks, rendered once into the job's ``folder`` and marked as
        generated like the video itself. RequestError where the frames have gone."""
        path = folder / OVERLAY_FILE
        with self._lock:
            if not path.is_file():
                self._render(path, folder, outcome, slots, badge=badge)
        return path

    def _render(
        self,
        path: Path,
        folder: Path,
        outcome: Mapping[str, str],
        slots: Sequence[int],
        *,
        badge: bool,
    ) -> None:
        saved = SavedFrames.read(folder / outcome["frames"])
        recipe = read_recipe(folder / outcome["recipe"])
        height, width = saved.frames.shape[1:3]
        export = self._export
        size = (width, height) if export is None else (export.width, export.height)
        unfinished = path.with_name(f"unfinished-{path.name}")
        frames = masked_frames(saved, slots, size=size)
        export_video(unfinished, frames, saved.fps, recipe=recipe, badge=badge)
        unfinished.replace(path)
