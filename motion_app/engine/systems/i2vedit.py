"""I2VEdit: a LoRA that has learned one clip, the clip's own noise, and its attention.

Written from the description of the method (SIGGRAPH Asia 2024, arXiv 2405.16537). The model with
the clip's LoRA takes the clip back to noise, and the video is sampled from there by the same model.
Flat areas of a clip invert to hardly any noise; before, they get a little in pixels, where the
singular values of their surroundings show that nothing is there (SARP). While noise is strong, the
video's attention is the clip's: pairs across frames as they are, pairs of one frame where both
agree anyway.

Told several motions, the changes that their LoRAs make of the weights are averaged (FlexiMMT,
supplement A.2). Nothing is said there of noise and attention. Here the noise is averaged too, and
brought back to its strength; attention, which belongs to one clip's layout, is the video's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from motion_app.engine.adapters import Adapter, GatedAdapters, adapted
from motion_app.engine.layers import AttentionLayer
from motion_app.engine.lora_files import read_motion_lora
from motion_app.engine.systems.anyv2v import (
    Companions,
    Inverted,
    Stand,
    Tokens,
    attend_rows,
    inverted,
)
from motion_app.engine.systems.placing import ToldObject
from motion_app.engine.systems.scene import SystemScene, Unsteered
from motion_app.text_files import file_digest

CELL, PATCH = 4, 8  # px of a side that is judged at once, and of the surroundings it is judged by
NOISE_SEED = 0  # of the noise in pixels: the same for every video, so that an inversion is kept
FULL = 255.0


@dataclass(frozen=True)
class EditSettings:
    """``noise`` in pixels, a share of their range, where the second singular value is below
    ``flat`` of the first. Shares of the steps for which pairs ``across`` frames are the clip's in
    all blocks, in the inner ones alone (``inner``), and pairs of the ``same`` frame where the
    clip's attention and the video's differ by less than ``agree``, 0 to 1. ``inner_from`` and
    ``inner_to``: of the depth. ``inversion_steps``: at least."""

    noise: float = 0.005
    flat: float = 0.001
    across: float = 0.5
    inner: float = 0.8
    same: float = 0.5
    agree: float = 0.35
    inner_from: float = 0.25
    inner_to: float = 0.75
    inversion_steps: int = 50


class I2VEdit(Unsteered):
    """``settings`` at work on ``scene``."""

    def __init__(self, scene: SystemScene, settings: EditSettings) -> None:
        self.scene, self.settings = scene, settings
        backbone = scene.backbone
        loras = [_lora(scene, thing) for thing in scene.objects]
        self.clips = [
            self._inverted(thing, lora) for thing, lora in zip(scene.objects, loras, strict=True)
        ]
        strengths = torch.tensor([thing.strength for thing in scene.objects])
        shares = strengths[None, :, None] / len(loras)  # (1, K, 1): on all tokens
        self.average = GatedAdapters(loras, shares.to(backbone.profile.device))
        matched = self.clips if len(self.clips) == 1 else []
        self.companions = Companions(backbone, matched, lambda level: self._step(level) < self.last)
        depth = backbone.geometry.layers
        self.inner = range(round(settings.inner_from * depth), round(settings.inner_to * depth))

    @property
    def last(self) -> int:
        """The step from which on nothing is the clip's."""
        chosen = self.settings
        return max(self.scene.share(part) for part in (chosen.across, chosen.inner, chosen.same))

    def initial_latents(self, noise: Tensor) -> Tensor:
        """The mean of the clips' noise, as strong as theirs is on the mean."""
        level = self.scene.timesteps[0]
        sources = torch.stack([clip.latents[level].to(noise) for clip in self.clips])
        if len(sources) == 1:
            return sources[0]
        mean = sources.mean(dim=0)  # (1, F, C, H', W')
        return mean * (sources.std(dim=(1, 2, 3, 4, 5)).mean() / mean.std())

    @contextmanager
    def installed(self, layers: Sequence[AttentionLayer]) -> Iterator[None]:
        with ExitStack() as acting:
            acting.enter_context(adapted(layers, self.average))
            if self.companions.clips:
                acting.enter_context(self.companions.installed())
                for layer in layers:
                    acting.enter_context(layer.attending(self._attend))
            yield

    def _inverted(self, thing: ToldObject, lora: Adapter) -> Inverted:
        """The clip at all noise levels, taken back by the model with its own LoRA."""
        scene, settings = self.scene, self.settings
        frames = noise_in_flat_areas(
            thing.clip.frames, noise=settings.noise, flat=settings.flat, seed=NOISE_SEED
        )
        told = (file_digest(thing.file), settings.noise, settings.flat)
        with adapted(scene.backbone.attention_layers(), GatedAdapters([lora])):
            return inverted(scene, thing, steps=settings.inversion_steps, frames=frames, told=told)

    def _step(self, level: int) -> int:
        return self.scene.timesteps.index(level)

    def _attend(self, layer: int, tokens: Tokens, text: int) -> Tensor:
        if not self.companions.present:
            return F.scaled_dot_product_attention(*tokens)
        query, key, value = tokens  # the clip's, then the video's
        backbone, settings = self.scene.backbone, self.settings
        step = self._step(backbone.current_timestep())
        across = settings.inner if layer in self.inner else settings.across
        made = attend_matched(
            (query[1:], key[1:], value[1:]),
            query[:1, :, text:],
            key[:1, :, text:],
            text=text,
            frames=backbone.geometry.grid_frames,
            across=step < self.scene.share(across),
            agree=settings.agree if step < self.scene.share(settings.same) else 0.0,
        )
        seen = F.scaled_dot_product_attention(query[:1], key[:1], value[:1])
        return torch.cat([seen, made])


def _lora(scene: SystemScene, thing: ToldObject) -> Adapter:
    """The motion's LoRA, read once a file; MotionFileError where it does not fit."""
    backbone = scene.backbone
    key = ("motion LoRA", file_digest(thing.file), backbone.checkpoint.fingerprint)
    if key not in scene.features:
        read = read_motion_lora(
            thing.file, backbone.attention_layers(), base=backbone.checkpoint.fingerprint
        )
        scene.features[key] = read.to(backbone.profile.device)
    return scene.features[key]


def attend_matched(
    tokens: Tokens,
    query: Tensor,
    key: Tensor,
    *,
    text: int,
    frames: int,
    across: bool,
    agree: float,
) -> Tensor:
    """Attention (B, heads, L + V, d) whose logits are another video's, of ``query`` and ``key``
    (1, heads, V, d): of pairs ``across`` two of the ``frames``, and of pairs of one for those
    tokens whose map of their frame differs by less than ``agree`` from the other's."""
    output = F.scaled_dot_product_attention(*tokens)
    if not across and not agree:
        return output
    count = query.shape[2] // frames
    stand = Stand(torch.arange(frames * count, device=query.device), query, key)
    own_query, own_key = (part[-1:, :, text:] for part in tokens[:2])  # of the conditional share
    for frame in range(frames):
        rows = slice(frame * count, (frame + 1) * count)
        there = torch.zeros(frames * count, dtype=torch.bool, device=query.device)
        there[rows] = True
        agreed = torch.zeros(count, dtype=torch.bool, device=query.device)
        if agree:
            parts = (part[:, :, rows] for part in (own_query, own_key, query, key))
            agreed = difference(*parts) < agree
        for chosen, same in ((agreed, True), (~agreed, False)):
            replaced = (there & same) | (~there & across)
            at = frame * count + chosen.nonzero()[:, 0]
            if len(at) and replaced.any():
                output[:, :, text + at] = attend_rows(tokens, stand, at, replaced, text=text)
    return output


def difference(query: Tensor, key: Tensor, other_query: Tensor, other_key: Tensor) -> Tensor:
    """By how much the attention maps of two sets of tokens, (1, heads, n, d) each, differ: for each
    query half the sum of absolute differences of the mean over heads, (n,) in 0 to 1."""
    scale = query.shape[-1] ** -0.5
    maps = [
        (scale * q.float() @ k.float().mT).softmax(dim=-1).mean(dim=(0, 1))  # (n, n)
        for q, k in ((query, key), (other_query, other_key))
    ]
    return (maps[0] - maps[1]).abs().sum(dim=-1) / 2


def noise_in_flat_areas(frames: np.ndarray, *, noise: float, flat: float, seed: int) -> np.ndarray:
    """``frames`` (T, H, W, 3) uint8 as float32 of the same range, with normal noise of ``noise``
    times it where they are flat, see ``flat_areas``."""
    values = frames.astype(np.float32)
    drawn = np.random.default_rng(seed).standard_normal(frames.shape, dtype=np.float32)
    for shown, picture, extra in zip(frames, values, drawn, strict=True):
        picture += FULL * noise * extra * flat_areas(shown, flat)[..., None]
    return values


def flat_areas(picture: np.ndarray, flat: float) -> np.ndarray:
    """Where of a ``picture`` (H, W, 3) uint8 nothing is to be seen, (H, W) bool: in squares of CELL
    pixels around which the PATCH × PATCH grey pixels have a second singular value of at most
    ``flat`` of the first. Sides that CELL does not divide are judged by what is there."""
    height, width = picture.shape[:2]
    grey = torch.from_numpy(picture).float().mean(dim=-1)[None, None] / FULL  # (1, 1, H, W)
    around = (PATCH - CELL) // 2
    more = (-width % CELL, -height % CELL)
    sides = (around, around + more[0], around, around + more[1])
    patches = F.unfold(F.pad(grey, sides, mode="replicate"), PATCH, stride=CELL)[0].T
    values = torch.linalg.svdvals(patches.unflatten(1, (PATCH, PATCH)))  # (cells, PATCH)
    quiet = (values[:, 1] <= flat * values[:, 0]).view(-(-height // CELL), -1)
    filled = quiet.repeat_interleave(CELL, dim=0).repeat_interleave(CELL, dim=1)
    return filled[:height, :width].numpy()
