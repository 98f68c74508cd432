"""Every size the app works with, derived once from a checkpoint's own configs, and the two maps
between a picture and what the model sees: an image in its frame, a mask on its token grid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from motion_app.errors import CheckpointError, MediaError, RequestError
from motion_app.methods import REFINED, REFINED_SHARE, WAYS

FitMode = Literal["crop", "pad", "stretch"]
CENTRE = 0.5  # of what overhangs, the share that is cut off before the part that is kept
FIT_MODES: tuple[str, ...] = get_args(FitMode)
DEFAULTS_FILE = "generation.json"


@dataclass(frozen=True)
class ModelGeometry:
    """The sizes of one checkpoint at one video size.

    ``height``, ``width`` (pixels) and ``frames`` T are those of the generated video.
    ``latent_frames`` is what the VAE decodes to T frames. ``grid_height`` h and ``grid_width`` w
    count tokens of one latent frame; ``width_tokens`` is D, the transformer's width;
    ``patch_size_t`` is None for CogVideoX 1.0 and the number of latent frames in one token for 1.5.
    ``with_picture``: it has channels for the latents of a first picture; ``without_picture``: it
    makes videos from words alone.
    """

    height: int
    width: int
    frames: int
    fps: float
    latent_frames: int
    grid_height: int
    grid_width: int
    text_tokens: int
    layers: int
    heads: int
    head_dim: int
    width_tokens: int
    latent_channels: int
    spatial_ratio: int
    temporal_ratio: int
    patch_size: int
    patch_size_t: int | None = None
    with_picture: bool = True
    without_picture: bool = False

    @property
    def padded_latent_frames(self) -> int:
        """Latent frames the transformer denoises: the stock pipeline rounds ``latent_frames`` up to
        a multiple of ``patch_size_t``, prepending frames that it drops before decoding."""
        step = self.patch_size_t or 1
        return -(-self.latent_frames // step) * step

    @property
    def spare_latent_frames(self) -> int:
        """How many of the padded ones stand in front and are dropped."""
        return self.padded_latent_frames - self.latent_frames

    @property
    def grid_frames(self) -> int:
        """F of the token grid: ``latent_frames``, or the padded ones over ``patch_size_t``."""
        return self.padded_latent_frames // (self.patch_size_t or 1)

    @property
    def grid(self) -> tuple[int, int, int]:
        """(F, h, w) of the video tokens."""
        return self.grid_frames, self.grid_height, self.grid_width

    @property
    def tokens_per_frame(self) -> int:
        """P = h * w."""
        return self.grid_height * self.grid_width

    @property
    def video_tokens(self) -> int:
        """V = F * P."""
        return self.grid_frames * self.tokens_per_frame

    def frame_groups(self) -> list[slice]:
        """The video frames that each of the latent frames encodes; the first frame stands alone."""
        ratio = self.temporal_ratio
        later = [slice(1 + ratio * i, 1 + ratio * (i + 1)) for i in range(self.latent_frames - 1)]
        return [slice(0, 1), *later]

    @property
    def pixels_per_token(self) -> int:
        """Side, in pixels of the model frame, of the square one token covers."""
        return self.spatial_ratio * self.patch_size

    @property
    def smallest_object(self) -> int:
        """Side in pixels of a square that fills more than half of some token wherever it lies.

        Worst case: centred on a corner of the grid it gives each token 3/4 of the side in both
        directions, and (3/4)² > 1/2.
        """
        return -(-3 * self.pixels_per_token // 2)

    @classmethod
    def from_configs(
        cls,
        transformer: Mapping[str, Any],
        vae: Mapping[str, Any],
        *,
        height: int | None = None,
        width: int | None = None,
        frames: int | None = None,
        fps: float | None = None,
        without_picture: bool = False,
    ) -> ModelGeometry:
        """Sizes from the ``config.json`` contents of a CogVideoX transformer and its VAE.

        ``height``, ``width`` (pixels), ``frames`` and ``fps`` None take the transformer's
        ``sample_height`` and ``sample_width`` (latent pixels), ``sample_frames``, and 8 frames per
        second (CogVideoX 1.0). ``without_picture``: an image-to-video transformer has learned what
        one whose input is the noisy latents alone always does. Raises CheckpointError for a missing
        key, a size that is no whole number of tokens, or a number of frames the VAE decodes to
        another length.
        """
        try:
            blocks = vae["block_out_channels"]
            spatial_ratio = 2 ** (len(blocks) - 1)
            temporal_ratio = round(vae["temporal_compression_ratio"])
            patch_size = int(transformer["patch_size"])
            patch_size_t = transformer.get("patch_size_t")
            heads = int(transformer["num_attention_heads"])
            head_dim = int(transformer["attention_head_dim"])
            native = (
                int(transformer["sample_height"]) * spatial_ratio,
                int(transformer["sample_width"]) * spatial_ratio,
            )
            height, width = height or native[0], width or native[1]
            frames = frames or int(transformer["sample_frames"])
            text_tokens = int(transformer["max_text_seq_length"])
            layers = int(transformer["num_layers"])
            latent_channels = int(vae["latent_channels"])
            with_picture = int(transformer["in_channels"]) > latent_channels
        except KeyError as missing:
            raise CheckpointError(
                f"the checkpoint's configs have no {missing}; expected those of a CogVideoX "
                "transformer and VAE"
            ) from missing
        if transformer.get("use_learned_positional_embeddings") and (height, width) != native:
            raise CheckpointError(
                f"a video of {width}×{height} was asked for, but this checkpoint has learned "
                f"positions and generates {native[1]}×{native[0]} only"
            )
        side = spatial_ratio * patch_size
        if height % side or width % side:
            raise CheckpointError(
                f"a video of {width}×{height} is no whole number of tokens; "
                f"both sides must be multiples of {side}"
            )
        return cls(
            height=height,
            width=width,
            frames=frames,
            fps=float(fps or 8.0),
            latent_frames=latent_frames_of(frames, temporal_ratio),
            grid_height=height // side,
            grid_width=width // side,
            text_tokens=text_tokens,
            layers=layers,
            heads=heads,
            head_dim=head_dim,
            width_tokens=heads * head_dim,
            latent_channels=latent_channels,
            spatial_ratio=spatial_ratio,
            temporal_ratio=temporal_ratio,
            patch_size=patch_size,
            patch_size_t=int(patch_size_t) if patch_size_t else None,
            with_picture=with_picture,
            without_picture=without_picture or not with_picture,
        )


def read_config(folder: Path | str, part: str) -> dict[str, Any]:
    """``config.json`` of one part of a diffusers folder; CheckpointError where there is none."""
    path = Path(folder) / part / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{Path(folder).name} is no diffusers checkpoint: {part}/config.json cannot be read"
        ) from error


def latent_frames_of(frames: int, temporal_ratio: int) -> int:
    """Latent frames for ``frames`` video frames, or CheckpointError where they decode to others.

    The VAE keeps the first frame apart and decodes latents two at a time; only a lone odd latent at
    the front keeps it apart, so with temporal compression the number of latents must be odd:
    13 frames at ratio 4 give 4 latents, which decode to 16 frames.
    """
    latents = (frames - 1) // temporal_ratio + 1
    odd_needed = temporal_ratio > 1
    if frames < 1 or (frames - 1) % temporal_ratio or (odd_needed and latents % 2 == 0):
        step = 2 * temporal_ratio if odd_needed else 1
        below = max(1, (frames - 1) // step * step + 1)
        raise CheckpointError(
            f"{frames} frames cannot be decoded to the right length by this VAE "
            f"(temporal ratio {temporal_ratio}); use {below} or {below + step} frames"
        )
    return latents


@dataclass(frozen=True)
class ExportSize:
    """Size in pixels that finished videos are upscaled to; both even (yuv420p)."""

    width: int
    height: int


@dataclass(frozen=True)
class GenerationDefaults:
    """A checkpoint's own settings, from ``generation.json`` beside its ``model_index.json``.

    The values here are the method's (FlexiMMT's released settings for CogVideoX-5B-I2V) and hold
    where the file or a key is missing. ``height``, ``width``, ``frames`` None take the
    transformer's config. ``rmpm``, ``motion_training``, ``synmotion_training`` and
    ``lora_training`` hold keyword arguments for the configuration dataclasses of the propagation
    and of the ways to learn a motion, which reject unknown names; ``refined_training`` those of
    ``motion_training`` that are others where tokens start from what an encoder says; ``systems``
    those of systems told a clip, by method. ``segmenter``: a folder in the checkpoint, a path or a
    hub id of a SAM-2 model. ``mag_ratios``: of the step cache mag, measured on this checkpoint.
    ``without_picture``: its transformer was trained with empty image conditions too. ``learning``:
    how a clip becomes a motion where nobody says how, of ``methods.WAYS``.
    """

    name: str = ""
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    fps: float = 8.0
    steps: int = 50
    guidance: float = 6.0
    motion_in_unconditional: bool = True
    export: ExportSize | None = None
    rmpm: Mapping[str, Any] = field(default_factory=dict)
    motion_training: Mapping[str, Any] = field(default_factory=dict)
    refined_training: Mapping[str, Any] = field(default_factory=dict)
    synmotion_training: Mapping[str, Any] = field(default_factory=dict)
    lora_training: Mapping[str, Any] = field(default_factory=dict)
    systems: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    segmenter: str | None = None
    mag_ratios: tuple[float, ...] = ()
    without_picture: bool = False
    learning: str = WAYS[0]

    def training_of(self, method: str) -> Mapping[str, Any]:
        """The checkpoint's own settings of learning a motion by ``method``."""
        own = {"synmotion": self.synmotion_training, "i2vedit": self.lora_training}
        usual = own.get(method, self.motion_training)
        if method != REFINED:
            return usual
        share = {"steps": max(1, usual["steps"] // REFINED_SHARE)} if "steps" in usual else {}
        return {**usual, **share, **self.refined_training}

    @classmethod
    def read(
        cls, folder: Path | str, transformer: Mapping[str, Any] | None = None
    ) -> GenerationDefaults:
        """Read ``folder/generation.json``; CheckpointError for broken JSON or an unknown key.
        ``transformer``: the contents of its config, which tells CogVideoX 1.5 where no such file
        is there."""
        path = Path(folder) / DEFAULTS_FILE
        if not path.is_file():
            return cls(name=_checkpoint_name(Path(folder)), **_published_sizes(transformer or {}))
        try:
            entries = json.loads(path.read_text(encoding="utf-8-sig"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"the model's {DEFAULTS_FILE} is not JSON: {error}") from error
        if not isinstance(entries, dict):
            raise CheckpointError(f"{DEFAULTS_FILE} must hold one JSON object")
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(entries) - known)
        if unknown:
            raise CheckpointError(
                f"{DEFAULTS_FILE} has unknown keys {', '.join(unknown)}; known: "
                + ", ".join(sorted(known))
            )
        export = entries.pop("export", None)
        try:
            entries["export"] = None if export is None else ExportSize(**export)
        except TypeError as error:
            raise CheckpointError(
                f'{DEFAULTS_FILE}: "export" needs exactly "width" and "height", got {export!r}'
            ) from error
        return cls(**{"name": Path(folder).name, **entries})


def _checkpoint_name(folder: Path) -> str:
    """The folder's name, or the hub id of a copy in the hub client's cache."""
    cached = folder.parent.parent.name
    if folder.parent.name == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/")
    return folder.name


def _published_sizes(transformer: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of CogVideoX 1.5 by its transformer's config, which names a latent square of 300
    that it was never meant to generate: 81 frames of 1360×768 at 16 per second are its own."""
    square = (transformer.get("sample_height"), transformer.get("sample_width")) == (300, 300)
    own = {"height": 768, "width": 1360, "frames": 81, "fps": 16.0}
    return own if transformer.get("patch_size_t") and square else {}


@dataclass(frozen=True, eq=False)
class FittedImage:
    """A picture in the model frame, and how it came there.

    ``image``: (H, W, 3) uint8. ``source_size``: (height, width) of the original. ``box``: the part
    of it that was kept, (x0, y0, x1, y1) in its pixels. ``place``: where that lies in the model
    frame, in pixels; smaller only for "pad". ``shift``: which part "crop" kept, as ``fit_image``.
    """

    image: np.ndarray
    mode: str
    source_size: tuple[int, int]
    box: tuple[float, float, float, float]
    place: tuple[int, int, int, int]
    shift: float = CENTRE

    @property
    def cut(self) -> float:
        """The share of the picture that was cut off, 0 to 1."""
        x0, y0, x1, y1 = self.box
        return 1 - (x1 - x0) * (y1 - y0) / (self.source_size[0] * self.source_size[1])

    def summary(self) -> str:
        """What was done to the picture, in words a person can check it by."""
        source_height, source_width = self.source_size
        height, width = self.image.shape[:2]
        x0, y0, x1, y1 = self.place
        sizes = f"{source_width}×{source_height} → {width}×{height}"
        if self.mode == "pad" and (x1 - x0, y1 - y0) != (width, height):
            return f"{sizes}, black bars of {x0} px at the sides and {y0} px above and below"
        if self.mode == "stretch" and source_width * height != source_height * width:
            factor = (width / source_width) / (height / source_height)
            return f"{sizes}, stretched {factor:.2f} times in width"
        left, top = round(self.box[0]), round(self.box[1])
        right, bottom = round(source_width - self.box[2]), round(source_height - self.box[3])
        if left or right:
            sides = f"{left} px left and right" if left == right else f"{left} left, {right} right"
            return f"{sizes}, cut off {sides}"
        if top or bottom:
            ends = f"{top} px above and below" if top == bottom else f"{top} above, {bottom} below"
            return f"{sizes}, cut off {ends}"
        return sizes

    def fit_mask(self, mask: np.ndarray) -> np.ndarray:
        """Bring a mask of the original, (H0, W0) bool, to the model frame: (H, W) bool."""
        if mask.shape != self.source_size:
            raise RequestError(
                f"the mask is {mask.shape[1]}×{mask.shape[0]}, but the picture is "
                f"{self.source_size[1]}×{self.source_size[0]}; draw it on the same picture"
            )
        x0, y0, x1, y1 = self.place
        grey = Image.fromarray(mask.astype(np.uint8) * 255)
        part = grey.resize((x1 - x0, y1 - y0), Image.Resampling.BOX, box=self.box)
        fitted = np.zeros(self.image.shape[:2], dtype=bool)
        fitted[y0:y1, x0:x1] = np.asarray(part) > 127
        return fitted


def fit_image(
    image: np.ndarray, height: int, width: int, mode: str = "crop", *, shift: float = CENTRE
) -> FittedImage:
    """Fit ``image`` (H0, W0, 3) uint8 to ``height`` × ``width`` pixels.

    "crop" keeps the aspect ratio and cuts what overhangs: ``shift`` 0 keeps the left or upper end,
    1 the other one, 0.5 the middle; "pad" keeps all of it and adds black bars; "stretch" is the
    paper's (the aspect ratio is lost). An image of the right size comes back unchanged. MediaError
    for a wrong array, RequestError for an unknown mode.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise MediaError(
            f"expected an image (H, W, 3) of uint8, got {image.shape} of {image.dtype}"
        )
    source_height, source_width = image.shape[:2]
    if mode == "crop":
        scale = max(height / source_height, width / source_width)
        over_x = max(0.0, source_width - width / scale)  # rounding may leave -1e-15
        over_y = max(0.0, source_height - height / scale)
        left, top = over_x * shift, over_y * shift
        box = (left, top, source_width - (over_x - left), source_height - (over_y - top))
        place = (0, 0, width, height)
    elif mode == "pad":
        scale = min(height / source_height, width / source_width)
        inner_width = max(1, round(source_width * scale))
        inner_height = max(1, round(source_height * scale))
        x0, y0 = (width - inner_width) // 2, (height - inner_height) // 2
        box = (0.0, 0.0, float(source_width), float(source_height))
        place = (x0, y0, x0 + inner_width, y0 + inner_height)
    elif mode == "stretch":
        box = (0.0, 0.0, float(source_width), float(source_height))
        place = (0, 0, width, height)
    else:
        raise RequestError(f'unknown fit "{mode}"; choose one of {", ".join(FIT_MODES)}')
    if (source_height, source_width) == (height, width):
        return FittedImage(image.copy(), mode, (height, width), box, place, shift)
    x0, y0, x1, y1 = place
    part = Image.fromarray(image).resize((x1 - x0, y1 - y0), Image.Resampling.LANCZOS, box=box)
    fitted = np.zeros((height, width, 3), dtype=np.uint8)
    fitted[y0:y1, x0:x1] = np.asarray(part)
    return FittedImage(fitted, mode, (source_height, source_width), box, place, shift)


def fit_frames(frames: np.ndarray, height: int, width: int, mode: str = "crop") -> np.ndarray:
    """``frames`` (T, H0, W0, 3) uint8 each as ``fit_image`` does: (T, height, width, 3) uint8."""
    return np.stack([fit_image(frame, height, width, mode).image for frame in frames])


def mask_to_grid(mask: np.ndarray, grid_height: int, grid_width: int) -> np.ndarray:
    """Masks (..., H, W) bool on the token grid: (..., h, w) bool.

    A token belongs to an object that covers more than half of it; strictly more, so that masks
    which do not overlap in the picture do not overlap on the grid. A mask that fills no token comes
    back empty: saying so is the caller's part (``ModelGeometry.smallest_object``).
    """
    height, width = mask.shape[-2:]
    if height % grid_height or width % grid_width:
        raise RequestError(
            f"a mask of {width}×{height} cannot be split into {grid_width}×{grid_height} tokens"
        )
    cells = mask.astype(bool).reshape(
        *mask.shape[:-2], grid_height, height // grid_height, grid_width, width // grid_width
    )  # (..., h, H / h, w, W / w)
    return cells.mean(axis=(-3, -1)) > 0.5  # (..., h, w)


def grid_to_mask(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Token grids (..., h, w) bool as pixels (..., H, W) bool, for overlays."""
    h, w = grid.shape[-2:]
    if height % h or width % w:
        raise RequestError(f"a grid of {w}×{h} tokens does not divide {width}×{height} pixels")
    rows = np.repeat(grid.astype(bool), height // h, axis=-2)  # (..., H, w)
    return np.repeat(rows, width // w, axis=-1)  # (..., H, W)
