"""Motion tokens from one look at a clip, by a small network that a checkpoint may bring along.

It sees the mover alone: in each latent frame a window that follows it and is as large as it is, and
where that window went, in sizes of the mover. Where in the picture the mover is and how large
therefore do not matter. Learned queries, one for each token of each layer, ask what was seen.

What the queries are without an answer are the tokens of rest. The answer is added by as much as
anything changes where the mover is, so that all clips in which nothing moves give the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from motion_app.engine.backbone import Backbone
from motion_app.engine.motion_tokens import MotionTokens
from motion_app.errors import CheckpointError, MotionFileError, RequestError
from motion_app.geometry import ModelGeometry
from motion_app.library.motion_clip import MotionClip
from motion_app.models.checkpoint import Checkpoint
from motion_app.text_files import write_whole

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
MOST_WEIGHTS = 4_000_000
REACH = 1.2  # half a window's side, in sizes of the mover: limbs and what grows are inside
WAVES = 5  # octaves in which a way is written down
SEEN = 1e-3  # tokens that a mover must cover to be somewhere


@dataclass(frozen=True)
class EncoderConfig:
    """``base``: the fingerprint of the base model. ``frames`` F latent frames of ``channels`` C,
    each with ``height`` × ``width`` tokens of ``patch`` × ``patch`` latents. ``layers`` times
    ``tokens`` M of ``token_width`` D come out, of about ``scale`` in size.

    ``inner`` is the network's own width in ``heads``; ``seeing`` blocks look at ``window`` ×
    ``window`` samples a frame, two by two; ``asking`` blocks ask them. ``still``, ``moving``: the
    mean change of the latents where the mover is up to which nothing moves, and from which on all
    of the answer counts. A clip of the pocket that is held changes by less than 0.09, any motion
    of its creatures by more than 0.7.
    """

    base: str
    frames: int
    channels: int
    height: int
    width: int
    patch: int
    layers: int
    tokens: int
    token_width: int
    scale: float = 1.0
    inner: int = 192
    heads: int = 4
    seeing: int = 3
    asking: int = 2
    window: int = 8
    still: float = 0.1
    moving: float = 0.5

    @classmethod
    def of(cls, checkpoint: Checkpoint, *, tokens: int, scale: float) -> EncoderConfig:
        """For the model of ``checkpoint``."""
        g = checkpoint.geometry
        return cls(
            base=checkpoint.fingerprint,
            frames=g.latent_frames,
            channels=g.latent_channels,
            height=g.grid_height,
            width=g.grid_width,
            patch=g.patch_size,
            layers=g.layers,
            tokens=tokens,
            token_width=g.width_tokens,
            scale=scale,
        )


class MotionEncoder(nn.Module):
    """``forward`` takes a batch, ``encode`` one clip; ``config`` as it was trained."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        inner, heads = config.inner, config.heads
        sides = config.window // 2
        self.way = nn.Linear(2 * (1 + 2 * WAVES) + 4, inner)
        self.look = nn.Linear(4 * (2 * config.channels + 2), inner)
        self.place = nn.Parameter(0.02 * torch.randn(sides * sides, inner))
        self.time = nn.Parameter(0.02 * torch.randn(config.frames, inner))
        self.seeing = nn.ModuleList([SeeingBlock(inner, heads) for _ in range(config.seeing)])
        self.seen = nn.LayerNorm(inner)
        self.queries = nn.Parameter(torch.randn(config.layers * config.tokens, inner))
        self.asking = nn.ModuleList([AskingBlock(inner, heads) for _ in range(config.asking)])
        self.out = nn.Linear(inner, config.token_width)
        nn.init.normal_(self.out.weight, std=config.scale * inner**-0.5)
        nn.init.zeros_(self.out.bias)

    @property
    def weights(self) -> int:
        """How many numbers it has learned."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, latents: Tensor, shares: Tensor) -> Tensor:
        """Motion tokens (B, layers, M, D) from ``latents`` (B, F, C, H', W') and ``shares``
        (B, F, h, w) from 0 to 1, how much of each token the mover covers. In each clip it has to be
        in sight somewhere. ValueError for other shapes."""
        self._check(latents, shares)
        config = self.config
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            latents, shares = latents.float(), shares.float()
            centres, sizes, way = _way(shares)
            windows = self._windows(latents, shares, centres, sizes)  # (B, F, n² / 4, …)
            amount = self._movement(latents, shares)  # (B,)
        frames = self.way(way)[:, :, None] + self.time[:, None]  # (B, F, 1, inner)
        looks = self.look(windows) + self.place + self.time[:, None]  # (B, F, n² / 4, inner)
        seen = torch.cat([frames, looks], dim=2).flatten(1, 2)  # (B, S, inner)
        for block in self.seeing:
            seen = block(seen)
        seen = self.seen(seen)
        asked = self.queries.expand(len(latents), -1, -1)  # (B, layers * M, inner)
        for block in self.asking:
            asked = block(asked, seen)
        answer = asked - self.queries
        tokens = self.out(self.queries + amount[:, None, None] * answer)  # (B, layers * M, D)
        return tokens.unflatten(1, (config.layers, config.tokens))  # (B, layers, M, D)

    @torch.no_grad()
    def encode(self, latents: Tensor, shares: Tensor) -> MotionTokens:
        """The motion of one mover in one clip, from ``latents`` (F, C, H', W') and ``shares``
        (F, h, w), bool or from 0 to 1. ValueError for other shapes, RequestError where the mover is
        in no frame."""
        if not bool((shares.float().flatten(1).sum(1) > SEEN).any()):
            raise RequestError("what moves is in no frame of the clip; mark it")
        place = self.queries.device
        tokens = self(latents[None].to(place), shares[None].float().to(place))[0]
        return MotionTokens([layer.float().cpu() for layer in tokens])

    def _check(self, latents: Tensor, shares: Tensor) -> None:
        c = self.config
        expected = (c.frames, c.channels, c.height * c.patch, c.width * c.patch)
        grid = (c.frames, c.height, c.width)
        if tuple(latents.shape[1:]) != expected or tuple(shares.shape[1:]) != grid:
            raise ValueError(
                f"latents {tuple(latents.shape)} and mover {tuple(shares.shape)} came, expected "
                f"(B, {', '.join(map(str, expected))}) and (B, {', '.join(map(str, grid))})"
            )
        if len(latents) != len(shares):
            raise ValueError(f"{len(latents)} clips came with the movers of {len(shares)}")

    def _windows(self, latents: Tensor, shares: Tensor, centres: Tensor, sizes: Tensor) -> Tensor:
        """What the window that follows the mover shows, and how it differs from the first frame's:
        (B, F, n² / 4, 4 * (2 * C + 2))."""
        c, n = self.config, self.config.window
        steps = (torch.arange(n, device=latents.device) + 0.5) / n * 2 - 1  # (n,)
        offsets = REACH * sizes[:, None, None, None] * steps[:, None]  # (B, 1, n, 1)
        y = (centres[..., 0, None, None] + offsets) / c.height  # (B, F, n, 1)
        x = (centres[..., 1, None, None] + offsets.mT) / c.width  # (B, F, 1, n)
        at = torch.stack([x.expand(-1, -1, n, n), y.expand(-1, -1, n, n)], dim=-1) * 2 - 1
        at = at.flatten(0, 1)  # (B * F, n, n, 2)
        drawn = F.grid_sample(latents.flatten(0, 1), at, padding_mode="border", align_corners=False)
        covered = F.grid_sample(shares.flatten(0, 1)[:, None], at, align_corners=False)
        window = torch.cat([drawn, covered], dim=1).unflatten(0, latents.shape[:2])
        window = torch.cat([window, window - window[:, :1]], dim=2)  # (B, F, 2 * (C + 1), n, n)
        patches = F.pixel_unshuffle(window.flatten(0, 1), 2)  # (B * F, 8 * (C + 1), n / 2, n / 2)
        return patches.flatten(2).mT.unflatten(0, latents.shape[:2])

    def _movement(self, latents: Tensor, shares: Tensor) -> Tensor:
        """How much moves, 0 to 1, (B,): the mean change of the latents where the mover is, or was
        in the first frame, in the frame in which that is most."""
        side = self.config.patch
        where = torch.maximum(shares, shares[:, :1])  # (B, F, h, w)
        where = where.repeat_interleave(side, 2).repeat_interleave(side, 3)  # (B, F, H', W')
        change = (latents - latents[:, :1]).abs().mean(2)  # (B, F, H', W')
        mean = (where * change).sum((2, 3)) / where.sum((2, 3)).clamp(min=SEEN)  # (B, F)
        low, high = self.config.still, self.config.moving
        return ((mean.amax(1) - low) / (high - low)).clamp(0, 1)

    def save(self, checkpoint: Path) -> None:
        """Into the folder of a checkpoint, in fp16."""
        folder = checkpoint / Checkpoint.ENCODER
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: w.detach().half().cpu().contiguous() for name, w in self.state_dict().items()
        }
        write_whole(folder / WEIGHTS_FILE, lambda part: save_file(tensors, part))
        text = json.dumps(asdict(self.config), indent=2) + "\n"
        write_whole(folder / CONFIG_FILE, lambda part: part.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, checkpoint: Checkpoint, *, device: torch.device | str = "cpu") -> MotionEncoder:
        """The encoder of ``checkpoint``, float32. CheckpointError where it has none, where that is
        broken or too large, and where it was trained on another base model."""
        folder = checkpoint.folder / Checkpoint.ENCODER
        if not checkpoint.has_encoder:
            raise CheckpointError(
                f"the model {checkpoint.folder.name} has no motion encoder; learn the motion, or "
                "train one with: python -m motion_app pocket train --stages encoder"
            )
        try:
            config = EncoderConfig(**json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")))
            _check_base(config, checkpoint)
            with torch.device("meta"):  # nothing as large as a config claims is made
                encoder = cls(config)
            _check_count(encoder, checkpoint)
            encoder.load_state_dict(load_file(folder / WEIGHTS_FILE), assign=True)
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()
            raise CheckpointError(
                f"the motion encoder of {checkpoint.folder.name} cannot be read: "
                f"{reason[-1].strip() if reason else type(error).__name__}"
            ) from error
        if not all(bool(torch.isfinite(weight).all()) for weight in encoder.parameters()):
            raise CheckpointError(
                f"the motion encoder of {checkpoint.folder.name} holds NaN or infinity; train it "
                "again"
            )
        return encoder.float().eval().requires_grad_(False).to(device)


def encode_clip(
    backbone: Backbone, clip: MotionClip, kept: MutableMapping[tuple, Any]
) -> MotionTokens:
    """The motion of what moves in ``clip``, by the encoder of the checkpoint. ``kept``: the encoder
    and what it said of clips before. CheckpointError as ``MotionEncoder.load``, MotionFileError for
    a clip of which nobody knows what moves, RequestError where that is in no frame."""
    if ("motion encoder",) not in kept:
        device = backbone.profile.device
        kept["motion encoder",] = MotionEncoder.load(backbone.checkpoint, device=device)
    key = ("encoded", clip.digest())
    if key not in kept:
        fitted = clip.for_model(backbone.geometry)
        if fitted.masks is None:
            raise MotionFileError("nobody knows what moves in the clip; point at it")
        latents, _ = backbone.encode_clip(fitted.frames)
        shares = mover_shares(fitted.masks, backbone.geometry)
        kept[key] = kept["motion encoder",].encode(latents[0], shares)
    return kept[key]


def _check_count(encoder: MotionEncoder, checkpoint: Checkpoint) -> None:
    if encoder.weights > MOST_WEIGHTS:
        raise CheckpointError(
            f"the motion encoder of {checkpoint.folder.name} has {encoder.weights:,} weights; at "
            f"most {MOST_WEIGHTS:,} are read"
        )


def _check_base(config: EncoderConfig, checkpoint: Checkpoint) -> None:
    """CheckpointError for another base model, or other sizes than the checkpoint's."""
    if config.base != checkpoint.fingerprint:
        raise CheckpointError(
            f"the motion encoder of {checkpoint.folder.name} was trained on the base model "
            f"{config.base[:12]}, this is {checkpoint.fingerprint[:12]}; train it again, or take "
            f"the folder {Checkpoint.ENCODER} away"
        )
    expected = EncoderConfig.of(checkpoint, tokens=config.tokens, scale=config.scale)
    for name in ("frames", "channels", "height", "width", "patch", "layers", "token_width"):
        came, wanted = getattr(config, name), getattr(expected, name)
        if came != wanted:
            raise CheckpointError(
                f"the motion encoder of {checkpoint.folder.name} is for {name} {came}, the model "
                f"has {wanted}; train it again"
            )


def _way(shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of movers (B, F, h, w): their centres (B, F, 2) as (y, x) in tokens from the upper left, the
    last ones known where they are out of sight; their sizes in the first frame, (B,) tokens; and
    what is told of their ways, (B, F, n): from the first centre on, in those sizes, and as waves;
    how they grew, and their second moments."""
    frames, height, width = shares.shape[1:]
    mass = shares.sum((2, 3))  # (B, F)
    rows = torch.arange(height, device=shares.device) + 0.5
    columns = torch.arange(width, device=shares.device) + 0.5
    y, x = shares.sum(3) @ rows, shares.sum(2) @ columns  # (B, F) each
    centres = torch.stack([y, x], dim=-1) / mass.clamp(min=SEEN)[..., None]  # (B, F, 2)
    off_y, off_x = rows - centres[..., :1], columns - centres[..., 1:]  # (B, F, h), (B, F, w)
    moments = [
        torch.einsum("bfhw,bfh,bfw->bf", shares, off_y**p, off_x**q) / mass.clamp(min=SEEN)
        for p, q in ((2, 0), (0, 2), (1, 1))
    ]
    told = torch.stack([mass, *moments], dim=-1)  # (B, F, 4)
    number = torch.arange(frames, device=shares.device)
    seen = mass > SEEN
    last = torch.where(seen, number, -1).cummax(1).values  # (B, F)
    first = seen.int().argmax(1)  # (B,)
    last = torch.where(last < 0, first[:, None], last)[..., None]
    centres = centres.gather(1, last.expand(-1, -1, 2))
    told = told.gather(1, last.expand(-1, -1, 4))
    sizes = told[:, 0, 0].sqrt().clamp(min=1.0)  # (B,)
    way = (centres - centres[:, :1]) / sizes[:, None, None]  # (B, F, 2)
    growth = (told[..., :1].clamp(min=SEEN) / told[:, :1, :1].clamp(min=SEEN)).log().clamp(-2, 2)
    spread = 4 * told[..., 1:] / sizes[:, None, None] ** 2  # (B, F, 3)
    octaves = np.pi / 4 * 2.0 ** torch.arange(WAVES, device=shares.device)
    angles = (way[..., None] * octaves).flatten(2)  # (B, F, 2 * WAVES)
    return centres, sizes, torch.cat([way, angles.sin(), angles.cos(), growth, spread], dim=-1)


def mover_shares(masks: np.ndarray, geometry: ModelGeometry) -> Tensor:
    """Masks (..., T, H, W) bool of every frame as the share, 0 to 1, of each token that they cover
    in the frames which a latent frame encodes: (..., F, h, w) float32."""
    height, width = geometry.grid_height, geometry.grid_width
    cells = masks.reshape(
        *masks.shape[:-2], height, masks.shape[-2] // height, width, masks.shape[-1] // width
    ).mean(axis=(-3, -1))  # (..., T, h, w)
    groups = [cells[..., group, :, :].mean(axis=-3) for group in geometry.frame_groups()]
    return torch.from_numpy(np.stack(groups, axis=-3).astype(np.float32))


class SeeingBlock(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = _feed_forward(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, S, inner), as it comes."""
        query, key, value = self.qkv(self.norm1(tokens)).chunk(3, dim=-1)
        tokens = tokens + self.proj(_attended(query, key, value, self.heads))
        return tokens + self.feed(self.norm2(tokens))


class AskingBlock(nn.Module):
    """Pre-norm cross-attention and feed-forward; queries do not see each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj, self.feed = nn.Linear(width, width), _feed_forward(width)

    def forward(self, asked: Tensor, seen: Tensor) -> Tensor:
        """``asked`` (B, Q, inner) after a look at ``seen`` (B, S, inner)."""
        key, value = self.key_value(seen).chunk(2, dim=-1)
        found = _attended(self.query(self.norm1(asked)), key, value, self.heads)
        asked = asked + self.proj(found)
        return asked + self.feed(self.norm2(asked))


def _attended(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of (B, Q, inner) over (B, S, inner), by two matrix products: of so few tokens, and
    in bfloat16 on a CPU, faster than the fused kernel with its backward pass."""
    query, key, value = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value)
    )
    weights = (query * query.shape[-1] ** -0.5 @ key.mT).softmax(-1)
    return (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)  # (B, Q, inner)


def _feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
