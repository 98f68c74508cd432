"""The pocket's VAE, and the latents it makes of rendered clips.

Trains the pocket's ``AutoencoderKLCogVideoX`` on crops around creatures and whole clips.

Rendered clips as latents on disk, drawn once and memory-mapped by every later step.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from torch import nn

from motion_app.pocket.grounding import Caption, drawn_caption, token_codes
from motion_app.pocket.optim import MuonAdam, keep_freed_memory, split_parameters
from motion_app.world.world import RenderedClip, Scene, WorldConfig, draw_scene, render

log = logging.getLogger(__name__)
VAE_CONFIG = {
    "block_out_channels": (16, 32, 64),
    "down_block_types": ("CogVideoXDownBlock3D",) * 3,
    "up_block_types": ("CogVideoXUpBlock3D",) * 3,
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 2,
    "temporal_compression_ratio": 2,
    "scaling_factor": 1.0,
    "sample_height": 64,
    "sample_width": 96,
}
PATCH_SIZE = 2  # latents a token of the backbone, along each side
CHUNK = 100  # clips a file
CODES = "-codes.npy"  # end of a chunk's file beside its latents
Sentences = list[tuple[str, str]]  # of a clip: (subject, motion words), ("A red cat", "jumps")
BATCH = 4  # clips encoded together


@dataclass(frozen=True)
class VaeTraining:
    """``minutes`` of wall time; crops of ``crop`` pixels and ``crop_frames``, ``batch`` a step;
    every fourth step takes whole clips. ``kl`` weighs the prior, ``seed`` draws everything."""

    minutes: float = 20.0
    clips: int = 1500
    batch: int = 8
    crop: int = 40
    crop_frames: int = 5
    whole_every: int = 12
    muon_lr: float = 4e-3
    adam_lr: float = 1.5e-3
    kl: float = 1e-3
    seed: int = 0


def new_vae() -> AutoencoderKLCogVideoX:
    """A fresh autoencoder whose start is close to averaging down and repeating up.

    GroupNorm erases a clip's absolute colour, so two channels in eight leave ``conv_in`` as
    constants of +3 and -3: the level of the others then survives the norm.
    """
    vae = AutoencoderKLCogVideoX(**VAE_CONFIG)
    for name, module in vae.named_modules():
        if name.endswith(("conv_y", "conv_b")):
            nn.init.zeros_(module.conv.weight)
            nn.init.constant_(module.conv.bias, 1.0 if name.endswith("conv_y") else 0.0)
        elif name.endswith("conv2"):
            module.conv.weight.data *= 0.25
        elif name.endswith("conv_shortcut"):
            _identity(module.weight)
            nn.init.zeros_(module.bias)
        elif "downsamplers" in name and name.endswith("conv"):
            _identity(module.weight, average=True)
            nn.init.zeros_(module.bias)
        elif "upsamplers" in name and name.endswith("conv"):
            _identity(module.weight)
            nn.init.zeros_(module.bias)
    for conv in (vae.encoder.conv_in.conv, vae.decoder.conv_in.conv):
        for sign, offset in ((3.0, 6), (-3.0, 7)):
            conv.weight.data[offset::8] = 0
            conv.bias.data[offset::8] = sign
    return vae


def _identity(weight: torch.Tensor, *, average: bool = False) -> None:
    """Channel i copies channel i modulo the inputs, from the kernel's centre or its 2 x 2
    average."""
    out, inputs = weight.shape[:2]
    weight.data.normal_(0, 0.02)
    for i in range(out):
        if average:
            weight.data[i, i % inputs, :2, :2] += 0.25
        else:
            centre = tuple(size // 2 for size in weight.shape[2:])
            weight.data[(i, i % inputs, *centre)] += 1.0


def render_clips(count: int, *, seed: int, config: WorldConfig) -> list[RenderedClip]:
    """``count`` random clips; the same seed draws the same clips."""
    rng = np.random.default_rng(seed)
    return [render(draw_scene(rng, config)) for _ in range(count)]


def to_tensor(frames: np.ndarray, device: str = "cpu") -> torch.Tensor:
    """(B, T, H, W, 3) uint8 to (B, 3, T, H, W) float32 in [-1, 1] on ``device``."""
    return torch.from_numpy(frames).to(device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def crop_batch(
    clips: list[RenderedClip], rng: np.random.Generator, config: VaeTraining
) -> torch.Tensor:
    """(batch, 3, crop_frames, crop, crop) windows around random creatures."""
    windows = []
    for _ in range(config.batch):
        clip = clips[rng.integers(len(clips))]
        total, height, width = clip.frames.shape[:3]
        first = int(rng.integers(total - config.crop_frames + 1))
        y, x = clip.tracks[rng.integers(len(clip.tracks)), first] + rng.normal(0, 6, size=2)
        top = int(np.clip(y - config.crop / 2, 0, height - config.crop))
        left = int(np.clip(x - config.crop / 2, 0, width - config.crop))
        window = clip.frames[first : first + config.crop_frames]
        window = window[:, top : top + config.crop, left : left + config.crop]
        windows.append(window[:, :, ::-1] if rng.random() < 0.5 else window)
    return to_tensor(np.stack(windows))


def reconstruction_psnr(vae: AutoencoderKLCogVideoX, clips: list[RenderedClip]) -> float:
    """Mean peak signal-to-noise ratio, in dB, of whole clips encoded and decoded (mode, not
    sample)."""
    device = next(vae.parameters()).device
    scores = []
    for start in range(0, len(clips), 2):  # batch 2: conv3d at batch 1 is ten times slower on a CPU
        video = to_tensor(np.stack([c.frames for c in clips[start : start + 2]])).to(device)
        with torch.no_grad():
            out = vae.decode(vae.encode(video).latent_dist.mode()).sample.clamp(-1, 1)
        error = ((out - video) / 2).square().mean(dim=(1, 2, 3, 4))
        scores += (-10 * torch.log10(error)).tolist()
    return float(np.mean(scores))


def unit_latents(vae: AutoencoderKLCogVideoX, clips: list[RenderedClip]) -> None:
    """Folds each latent channel's standard deviation into the weights around it, so that latents
    have unit scale and ``scaling_factor`` is 1. What the decoder draws does not change."""
    device = next(vae.parameters()).device
    latents = []
    for start in range(0, len(clips), 2):
        video = to_tensor(np.stack([c.frames for c in clips[start : start + 2]])).to(device)
        with torch.no_grad():
            latents.append(vae.encode(video).latent_dist.mode())
    z = torch.cat(latents)  # (B, C, F, H', W')
    std = z.std(dim=(0, 2, 3, 4))
    log.info("latent means %s stds %s", z.mean(dim=(0, 2, 3, 4)).tolist(), std.tolist())
    channels = len(std)
    out = vae.encoder.conv_out.conv
    out.weight.data[:channels] /= std[:, None, None, None, None]
    out.bias.data[:channels] /= std
    out.bias.data[channels:] -= 2 * std.log()
    vae.decoder.conv_in.conv.weight.data *= std[None, :, None, None, None]
    for name, module in vae.decoder.named_modules():
        if name.endswith(("conv_y", "conv_b")):
            module.conv.weight.data *= std[None, :, None, None, None]


def train_vae(
    folder: Path, training: VaeTraining, *, device: str = "cpu", config: WorldConfig = WorldConfig()
) -> AutoencoderKLCogVideoX:
    """Trains for ``training.minutes``, saving ``folder/vae.pt`` every minute (resumed when there),
    and returns the autoencoder with unit-scale latents. L1 + L2 + ``kl`` * KL."""
    keep_freed_memory()
    state_file = folder / "vae.pt"
    torch.manual_seed(training.seed)
    vae = new_vae().to(device).train()
    optimiser = MuonAdam(*split_parameters(vae), muon_lr=training.muon_lr, adam_lr=training.adam_lr)
    rng = np.random.default_rng(training.seed)
    step, spent, losses = 0, 0.0, []
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=device)
        vae.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent = state["step"], state["spent"]
        rng = np.random.default_rng([training.seed, step])
    clips = render_clips(training.clips, seed=training.seed + 1000, config=config)
    held_out = render_clips(16, seed=training.seed + 2, config=config)
    log.info("vae: %s from step %d", json.dumps(asdict(training)), step)
    total, last_save, mark = training.minutes * 60, spent, time.monotonic()
    while spent < total:
        if step % training.whole_every == training.whole_every - 1:
            picked = rng.integers(len(clips), size=2)
            video = to_tensor(np.stack([clips[i].frames for i in picked])).to(device)
        else:
            video = crop_batch(clips, rng, training).to(device)
        posterior = vae.encode(video).latent_dist
        error = vae.decode(posterior.sample()).sample - video
        kl = posterior.kl().sum() / posterior.mean.numel()
        loss = error.abs().mean() + error.square().mean() + training.kl * kl
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        share = spent / total
        optimiser.step(min(1.0, (step + 1) / 30) * 0.5 * (1 + np.cos(np.pi * min(1.0, share))))
        losses.append(loss.item())
        step, now = step + 1, time.monotonic()
        spent, mark = spent + now - mark, now
        if spent - last_save > 60 or spent >= total:
            vae.eval()
            score = reconstruction_psnr(vae, held_out)
            vae.train()
            log.info("vae step %d %.0f s loss %.4f psnr %.2f", step, spent, np.mean(losses), score)
            losses, last_save, mark = [], spent, time.monotonic()
            state = {"model": vae.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save({**state, "step": step, "spent": spent}, state_file)
    vae.eval()
    unit_latents(vae, clips[:64])
    log.info("vae done: psnr %.2f", reconstruction_psnr(vae, held_out))
    return vae


@dataclass(frozen=True, eq=False)
class LatentClips:
    """``latents``, per chunk (n, F, C, H', W') float16, and ``images``, per chunk (n, C, H', W')
    float16: each first frame encoded alone, as it is at inference; ``codes``, per chunk (n, F, h,
    w) uint8: whose each token is, ``grounding.token_codes``; all memory-mapped. ``sentences``: of
    each clip."""

    latents: Sequence[np.ndarray]
    images: Sequence[np.ndarray]
    codes: Sequence[np.ndarray]
    sentences: Sequence[Sentences]

    def __len__(self) -> int:
        return len(self.sentences)

    def take(self, picked: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Latents (B, F, C, H', W') and first frames (B, C, H', W') of the clips ``picked``, both
        float32, and their codes (B, F, h, w)."""
        found = [divmod(int(i), CHUNK) for i in picked]
        latents, images, codes = (
            np.stack([chunks[chunk][row] for chunk, row in found])
            for chunks in (self.latents, self.images, self.codes)
        )
        return torch.from_numpy(latents).float(), torch.from_numpy(images).float(), codes

    def gather(self) -> int:
        """How many clips have come to it: none, all are there."""
        return 0

    def caption(self, index: int, rng: np.random.Generator, *, neutral_share: float) -> Caption:
        """A caption drawn afresh, see ``drawn_caption``."""
        return drawn_caption(self.sentences[index], rng, neutral_share=neutral_share)


@torch.no_grad()
def encode_frames(
    vae: AutoencoderKLCogVideoX, frames: np.ndarray, *, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Means of the posterior of ``frames`` (B, T, H, W, 3) uint8, and of each first frame alone:
    (B, F, C, H', W') and (B, C, H', W'), float16. Alone it differs by some 3%, since the encoder
    normalises over a whole clip."""
    video = to_tensor(frames).to(device)
    clips, images = (vae.encode(v).latent_dist.mode() for v in (video, video[:, :, :1]))
    return clips.transpose(1, 2).half().cpu().numpy(), images[:, :, 0].half().cpu().numpy()


def encode_clips(
    folder: Path,
    vae: AutoencoderKLCogVideoX,
    *,
    count: int,
    seed: int,
    config: WorldConfig,
    device: str = "cpu",
    shard: tuple[int, int] = (0, 1),
) -> None:
    """Renders and encodes clips in chunks under ``folder`` until there are ``count``; continues
    where an earlier call stopped. Chunk i depends on (seed, i) alone; process ``shard[0]`` of
    ``shard[1]`` takes every ``shard[1]``-th."""
    folder.mkdir(parents=True, exist_ok=True)
    chunks = -(-count // CHUNK)
    for i in range(shard[0], chunks, shard[1]):
        sentences_file, codes_file = folder / f"{i:04d}.json", folder / f"{i:04d}{CODES}"
        encoded = sentences_file.exists()
        if encoded and codes_file.exists():
            continue
        scenes = chunk_scenes(seed, i, config, CHUNK)
        rendered = [render(scene) for scene in scenes]
        np.save(codes_file, clip_codes(rendered))
        if encoded:  # by an earlier edition, which kept no codes
            continue
        latents, images = zip(
            *(
                encode_frames(
                    vae,
                    np.stack([clip.frames for clip in rendered[start : start + BATCH]]),
                    device=device,
                )
                for start in range(0, CHUNK, BATCH)
            ),
            strict=True,
        )
        sentences = [scene_sentences(scene) for scene in scenes]
        np.save(folder / f"{i:04d}.npy", np.concatenate(latents))
        np.save(folder / f"{i:04d}-image.npy", np.concatenate(images))
        sentences_file.write_text(json.dumps(sentences))
        log.info("encoded %d of %d clips", (i + 1) * CHUNK, chunks * CHUNK)


def clip_codes(clips: Sequence[RenderedClip]) -> np.ndarray:
    """Whose each token of the clips is, (n, F, h, w) uint8: ``grounding.token_codes`` on the
    backbone's grid."""
    config = clips[0].scene.config
    side = PATCH_SIZE * 2 ** (len(VAE_CONFIG["block_out_channels"]) - 1)  # pixels of a token
    grid = (config.height // side, config.width // side)
    ratio = VAE_CONFIG["temporal_compression_ratio"]
    return np.stack([token_codes(clip.masks, grid, ratio) for clip in clips])


def chunk_scenes(seed: int, number: int, config: WorldConfig, count: int) -> list[Scene]:
    """The ``count`` scenes of a chunk, by (seed, number) alone."""
    rng = np.random.default_rng([seed, number])
    return [draw_scene(rng, config) for _ in range(count)]


def scene_sentences(scene: Scene) -> Sentences:
    """What a clip's captions are drawn from."""
    return [(f"{c.article} {c.noun}", c.words) for c in scene.creatures]


def read_clips(*folders: Path) -> LatentClips:
    """All chunks of the folders, memory-mapped (48 KB a clip), in the folders' order."""
    files = [file for folder in folders for file in sorted(folder.glob("*.json"))]
    mapped = [
        [np.load(file.with_name(file.stem + end), mmap_mode="r") for file in files]
        for end in (".npy", "-image.npy", CODES)
    ]
    sentences = [
        [tuple(s) for s in clip] for file in files for clip in json.loads(file.read_text())
    ]
    return LatentClips(*mapped, sentences)
