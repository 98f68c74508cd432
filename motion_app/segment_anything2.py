"""Clicks through Meta's own ``sam2`` package and its original ``.pt`` checkpoints (extra ``sam2``).

The same answers as ``segmentation.ClickSegmenter`` gives on the same weights; for those who have
the original files, or fine-tuned ones that were saved in that form.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from motion_app.devices import device_named
from motion_app.errors import CheckpointError, MediaError
from motion_app.hub import Repository, one_line
from motion_app.scene import Box, Click
from motion_app.segmentation import (
    ClickSegmenter,
    Segmentation,
    box_corners,
    check_prompt,
    without_specks,
)

# Width of the first stage and number of blocks of an image encoder → its configuration.
SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}
ORIGINAL = ".pt"  # the ending of Meta's own checkpoints
ENCODER = "image_encoder.trunk."


class OriginalSegmenter:
    """One picture at a time, as ClickSegmenter; ``model`` is a ``SAM2Base``."""

    def __init__(self, model: Any) -> None:
        self.predictor = _predictor(model)
        self._size: tuple[int, int] | None = None
        self._digest = b""

    @classmethod
    def load(
        cls, path: Path | str, *, device: str | torch.device | None = None
    ) -> OriginalSegmenter:
        """An original checkpoint, read with ``weights_only`` so that the pickle can run nothing.
        Raises CheckpointError: no such package, file or device, or weights that do not fit."""
        path = Path(path)
        check_original(path)
        chosen = device_named(device)
        from hydra.errors import HydraException
        from sam2.build_sam import build_sam2

        weights = read_weights(path)
        try:
            model = build_sam2(config_of(weights, name=path.name), None, device=str(chosen))
            model.load_state_dict(weights)
        except (RuntimeError, HydraException) as error:
            raise CheckpointError(
                f"{path.name} does not fit the SAM 2 it seems to be: {one_line(error)}"
            ) from error
        return cls(model.eval())

    def new_session(self) -> OriginalSegmenter:
        """A segmenter with the same weights and no picture yet."""
        return OriginalSegmenter(self.predictor.model)

    def set_image(self, image: np.ndarray) -> None:
        """Encodes ``image``, (H, W, 3) uint8 RGB; the same one again is free. MediaError for
        another shape or dtype."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise MediaError(
                f"The picture to click on came as {image.dtype} of shape {image.shape}: expected "
                "uint8 of shape (height, width, 3)."
            )
        digest = hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest()
        if (digest, image.shape[:2]) == (self._digest, self._size):
            return
        self.predictor.set_image(image)
        self._size, self._digest = image.shape[:2], digest

    def predict(self, clicks: Sequence[Click] = (), box: Box | None = None) -> Segmentation:
        """Masks of the thing that the clicks and the box mean, at the picture's size; RequestError
        as ClickSegmenter."""
        started = time.monotonic()
        if self._size is None:
            raise CheckpointError("There is no picture yet: set one before the first click.")
        check_prompt(clicks, box, *self._size)
        masks, scores, _ = self.predictor.predict(
            point_coords=np.array([[c.x, c.y] for c in clicks], np.float32) if clicks else None,
            point_labels=np.array([int(c.positive) for c in clicks]) if clicks else None,
            box=None if box is None else np.array(box_corners(box), np.float32),
            multimask_output=True,
        )  # (3, H, W) float of 0 and 1, (3,)
        return Segmentation(
            masks=np.stack([without_specks(mask > 0) for mask in masks]),
            scores=scores,
            best=int(scores.argmax()),
            seconds=time.monotonic() - started,
        )


def check_original(path: Path) -> None:
    """CheckpointError where an original checkpoint cannot be read here: no such package, or no such
    file. Nothing is loaded."""
    if find_spec("sam2") is None:
        raise CheckpointError(
            f"{path.name} is an original SAM 2 checkpoint, which needs Meta's package; install "
            "the extra (pip install motion-app[sam2]) or use a transformers folder"
        )
    if not path.is_file():
        raise CheckpointError(f"there is no SAM 2 checkpoint {path}; check the path")


def check_source(source: str | Path) -> None:
    """CheckpointError for what ``load_segmenter`` cannot even look for: it is neither here nor the
    name of something on the hub. Nothing is loaded."""
    path = Path(source)
    if str(source).endswith(ORIGINAL):
        check_original(path)
    elif not path.is_dir() and Repository.parse(str(source)) is None:
        raise CheckpointError(
            f"there is no segmenter {source}; give a folder, a hub id such as "
            f"facebook/sam2.1-hiera-large, or one of Meta's {ORIGINAL} files"
        )


def load_segmenter(
    source: str | Path, *, device: str | torch.device | None = None
) -> ClickSegmenter | OriginalSegmenter:
    """An original ``.pt`` checkpoint through Meta's package, anything else through transformers.
    Raises CheckpointError."""
    if str(source).endswith(ORIGINAL):
        return OriginalSegmenter.load(source, device=device)
    return ClickSegmenter.load(source, device=device)


def _predictor(model: Any) -> Any:
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(model)
    side = model.image_size
    predictor._bb_feat_sizes = [(side // step, side // step) for step in (4, 8, 16)]
    return predictor


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of an original checkpoint, {"model": …}; CheckpointError for anything else."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a file that is not its own
        raise CheckpointError(f"{path.name} cannot be read as weights: {one_line(error)}") from (
            error
        )
    weights = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in weights.values()
    ):
        raise CheckpointError(
            f'{path.name} holds no "model" of named tensors; expected a checkpoint such as '
            "sam2.1_hiera_small.pt"
        )
    return dict(weights)


def config_of(weights: Mapping[str, torch.Tensor], *, name: str) -> str:
    """The package's configuration that a checkpoint belongs to, by its own tensors' shapes."""
    stem = weights.get(f"{ENCODER}patch_embed.proj.weight")
    blocks = {
        key.removeprefix(f"{ENCODER}blocks.").partition(".")[0]
        for key in weights
        if key.startswith(f"{ENCODER}blocks.")
    }
    size = None if stem is None else SIZES.get((stem.shape[0], len(blocks)))
    if size is None:
        raise CheckpointError(
            f"{name} has an image encoder of no published SAM 2; expected tiny, small, base-plus "
            "or large"
        )
    version = "2.1" if "no_obj_embed_spatial" in weights else "2"
    return f"configs/sam{version}/sam{version}_hiera_{size}.yaml"
