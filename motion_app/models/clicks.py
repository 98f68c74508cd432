"""From clicks to masks, by either form of Segment Anything 2: transformers' ``Sam2Model``, or
Meta's own ``sam2`` package with its original ``.pt`` checkpoints (extra ``sam2``), for those who
have such files. Both give the same answers on the same weights.

The picture is encoded once, in ``set_image``; every click after that only runs the mask decoder.
"""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from transformers import PreTrainedConfig, Sam2Model, Sam2Processor

from motion_app.errors import CheckpointError, MediaError, RequestError
from motion_app.models.devices import READING, device_named
from motion_app.models.hub import TRANSFORMERS_FILES, Repository, fetch, one_line
from motion_app.scene import Box, Click

POCKET_FOLDER = "checkpoints/pocket/sam2"
SAM2_MODEL_TYPES = ("sam2", "sam2_video")  # the published video folders hold the image model too
# Width of the first stage and number of blocks of an image encoder → its configuration.
SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}
ORIGINAL = ".pt"  # the ending of Meta's own checkpoints
ENCODER = "image_encoder.trunk."


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Three answers to one prompt.

    ``masks`` (3, H, W) bool in the model frame, ``scores`` (3,) float32 in [0, 1], the model's own
    estimate of each mask's IoU; ``best`` the index of the highest; ``seconds`` the decoding took.
    """

    masks: np.ndarray
    scores: np.ndarray
    best: int
    seconds: float = 0.0

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool: the best of the three."""
        return self.masks[self.best]

    @property
    def score(self) -> float:
        """The best mask's score in [0, 1]."""
        return float(self.scores[self.best])


class PictureSegmenter(ABC):
    """One picture at a time; ``new_session`` gives another person the same weights."""

    def __init__(self) -> None:
        self._size: tuple[int, int] | None = None  # (H, W) of the picture
        self._digest = b""

    @abstractmethod
    def new_session(self) -> PictureSegmenter:
        """A segmenter with the same weights and no picture yet."""

    @torch.no_grad()
    def set_image(self, image: np.ndarray) -> None:
        """Encodes ``image``, (H, W, 3) uint8 RGB in the model frame; the same one again is free.

        Raises MediaError for another shape or dtype.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise MediaError(
                f"The picture to click on came as {image.dtype} of shape {image.shape}: expected "
                "uint8 of shape (height, width, 3)."
            )
        digest = hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest()
        if (digest, image.shape[:2]) == (self._digest, self._size):
            return
        self._encode(image)
        height, width = image.shape[:2]
        self._size, self._digest = (height, width), digest

    @torch.no_grad()
    def predict(self, clicks: Sequence[Click] = (), box: Box | None = None) -> Segmentation:
        """Masks of the thing that the clicks and the box mean, at the picture's size.

        At least one positive click or a box; negative clicks say what does not belong to it. Raises
        RequestError for no picture, no such click, or one that lies outside the picture.
        """
        started = time.monotonic()
        if self._size is None:
            raise RequestError("No picture has been set: call set_image before the first click.")
        check_prompt(clicks, box, *self._size)
        masks, scores = self._decode(clicks, box, self._size)
        return Segmentation(
            masks=np.stack([without_specks(mask) for mask in masks]),  # (3, H, W)
            scores=scores,
            best=int(scores.argmax()),
            seconds=time.monotonic() - started,
        )

    def segment(
        self, image: np.ndarray, clicks: Sequence[Click] = (), box: Box | None = None
    ) -> Segmentation:
        """``predict`` on ``image``, which is encoded where it is another than the last one."""
        self.set_image(image)
        return self.predict(clicks, box)

    @abstractmethod
    def _encode(self, image: np.ndarray) -> None:
        """Take a picture (H, W, 3) uint8."""

    @abstractmethod
    def _decode(
        self, clicks: Sequence[Click], box: Box | None, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Three masks (3, H, W) bool of ``size`` and their scores (3,) float32."""


class ClickSegmenter(PictureSegmenter):
    """SAM 2 through transformers."""

    def __init__(self, model: Sam2Model, processor: Sam2Processor) -> None:
        super().__init__()
        self.model = model.eval()
        self.processor = processor
        self._embeddings: list[torch.Tensor] = []

    @classmethod
    def load(
        cls, path_or_name: str | Path = POCKET_FOLDER, *, device: str | torch.device | None = None
    ) -> ClickSegmenter:
        """Loads SAM 2 from a folder or, where there is no such folder, by its hub name.

        ``device`` None takes the GPU where there is one. The weights are used as float32 whatever
        they were stored in. Raises CheckpointError for anything that is not a complete SAM 2, and
        for a device this machine lacks.
        """
        chosen = device_named(device)
        name = str(path_or_name)
        repository = Repository.parse(name)
        if not Path(name).is_dir() and repository is not None:
            name = str(fetch(repository, TRANSFORMERS_FILES))
        if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
            raise CheckpointError(
                f"The folder {name} has no config.json: choose a folder saved by Sam2Model, "
                "for example the sam2 folder of the pocket checkpoint."
            )
        try:
            kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
            if kind in SAM2_MODEL_TYPES:
                with READING:
                    model, report = Sam2Model.from_pretrained(
                        name, dtype=torch.float32, output_loading_info=True, local_files_only=True
                    )
                processor = Sam2Processor.from_pretrained(name, local_files_only=True)
        except Exception as error:  # the loaders raise a dozen kinds, each about the same folder
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise CheckpointError(
                f"No SAM 2 could be loaded from {name}: {reason} Give a folder that holds "
                "config.json, model.safetensors and the processor's files, or a hub name."
            ) from error
        if kind not in SAM2_MODEL_TYPES:
            raise CheckpointError(
                f"{name} holds a model of type {kind!r}, but clicks need a SAM 2 "
                f"({' or '.join(SAM2_MODEL_TYPES)}): choose another folder or name."
            )
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            raise CheckpointError(
                f"The SAM 2 in {name} lacks {len(missing)} weights, the first is {missing[0]}: "
                "download or export it again."
            )
        return cls(model.to(chosen), processor)

    def new_session(self) -> ClickSegmenter:
        """A segmenter with the same weights and no picture yet."""
        return ClickSegmenter(self.model, self.processor)

    def _encode(self, image: np.ndarray) -> None:
        inputs = self.processor(images=image, return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.model.device)  # (1, 3, S, S)
        self._embeddings = self.model.get_image_embeddings(pixels)  # 3 x (1, C, S/4.., S/4..)

    def _decode(
        self, clicks: Sequence[Click], box: Box | None, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        prompt = self.processor(
            original_sizes=[list(size)],
            input_points=[[[[c.x, c.y] for c in clicks]]] if clicks else None,
            input_labels=[[[int(c.positive) for c in clicks]]] if clicks else None,
            input_boxes=[[box_corners(box)]] if box is not None else None,
            return_tensors="pt",
        )
        names = ("input_points", "input_labels", "input_boxes")
        out = self.model(
            image_embeddings=list(self._embeddings),
            multimask_output=True,
            **{name: prompt[name].to(self.model.device) for name in names if name in prompt},
        )
        masks = self.processor.post_process_masks([out.pred_masks[0].cpu()], [list(size)])
        return masks[0][0].numpy(), out.iou_scores[0, 0].cpu().numpy()  # (3, H, W), (3,)


def without_specks(mask: np.ndarray, *, share: float = 0.03) -> np.ndarray:
    """``mask`` (H, W) bool without the pieces smaller than ``share`` of its largest one: single
    pixels that a decoder scatters on other things."""
    _, pieces, figures, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = figures[:, cv2.CC_STAT_AREA]
    areas[0] = 0  # the background
    return (areas >= max(1, share * areas.max()))[pieces]  # (H, W)


def check_prompt(clicks: Sequence[Click], box: Box | None, height: int, width: int) -> None:
    """Raises RequestError unless clicks and box can mean a thing in a picture of this size."""
    if box is None and not any(click.positive for click in clicks):
        came = f"{len(clicks)} clicks that all say what does not belong" if clicks else "no click"
        raise RequestError(
            f"There is {came}: click once on the object itself, or draw a box around it."
        )
    size = f"the picture is {width} pixels wide and {height} high"
    for click in clicks:
        if not (0 <= click.x < width and 0 <= click.y < height):
            raise RequestError(
                f"The click at ({click.x:g}, {click.y:g}) is outside the picture: {size}. "
                "Click inside it."
            )
    if box is not None:
        x0, y0, x1, y1 = box_corners(box)
        if not (0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height):
            raise RequestError(
                f"The box ({box.x0:g}, {box.y0:g}, {box.x1:g}, {box.y1:g}) reaches outside the "
                f"picture: {size}. Draw it inside."
            )
        if x1 - x0 < 1 or y1 - y0 < 1:
            raise RequestError(
                f"The box ({box.x0:g}, {box.y0:g}, {box.x1:g}, {box.y1:g}) is less than a pixel "
                "wide or high: drag it around the whole object."
            )


def box_corners(box: Box) -> list[float]:
    """x0, y0, x1, y1 with the smaller first: a box may be drawn from any corner."""
    x0, x1 = sorted((float(box.x0), float(box.x1)))
    y0, y1 = sorted((float(box.y0), float(box.y1)))
    return [x0, y0, x1, y1]


class OriginalSegmenter(PictureSegmenter):
    """SAM 2 through Meta's package; ``model`` is a ``SAM2Base``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.predictor = _predictor(model)

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

    def _encode(self, image: np.ndarray) -> None:
        self.predictor.set_image(image)

    def _decode(
        self, clicks: Sequence[Click], box: Box | None, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        masks, scores, _ = self.predictor.predict(
            point_coords=np.array([[c.x, c.y] for c in clicks], np.float32) if clicks else None,
            point_labels=np.array([int(c.positive) for c in clicks]) if clicks else None,
            box=None if box is None else np.array(box_corners(box), np.float32),
            multimask_output=True,
        )  # (3, H, W) float of 0 and 1, (3,)
        return masks > 0, scores


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
) -> PictureSegmenter:
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
