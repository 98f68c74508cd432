"""Rendered clips as latents on disk, drawn once and memory-mapped by every later step."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX

from motion_app.pocket.vae import to_tensor
from motion_app.pocket.world import WorldConfig, draw_scene, render
from motion_app.scene import NEUTRAL_PHRASE

log = logging.getLogger(__name__)
CHUNK = 100  # clips a file
BATCH = 4  # clips encoded together


@dataclass(frozen=True, eq=False)
class LatentClips:
    """``latents``, per chunk (n, F, C, H', W') float16, and ``images``, per chunk (n, C, H', W')
    float16: each first frame encoded alone, as it is at inference; both memory-mapped.
    ``sentences`` per clip a list of (subject, motion words), for example ("A red cat", "jumps")."""

    latents: Sequence[np.ndarray]
    images: Sequence[np.ndarray]
    sentences: Sequence[list[tuple[str, str]]]

    def __len__(self) -> int:
        return len(self.sentences)

    def take(self, picked: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (B, F, C, H', W') and first frames (B, C, H', W') of the clips ``picked``, both
        float32."""
        found = [divmod(int(i), CHUNK) for i in picked]
        latents = np.stack([self.latents[chunk][row] for chunk, row in found])
        images = np.stack([self.images[chunk][row] for chunk, row in found])
        return torch.from_numpy(latents).float(), torch.from_numpy(images).float()

    def caption(self, index: int, rng: np.random.Generator, *, neutral_share: float) -> str:
        """A caption drawn afresh: sentences in random order, some with neutral motion words."""
        sentences = [
            f"{subject} {NEUTRAL_PHRASE if rng.random() < neutral_share else words}."
            for subject, words in self.sentences[index]
        ]
        rng.shuffle(sentences)
        return " ".join(sentences)


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
        if (folder / f"{i:04d}.json").exists():
            continue
        rng = np.random.default_rng([seed, i])
        scenes = [draw_scene(rng, config) for _ in range(CHUNK)]
        latents, images = zip(
            *(
                encode_frames(
                    vae,
                    np.stack([render(s).frames for s in scenes[start : start + BATCH]]),
                    device=device,
                )
                for start in range(0, CHUNK, BATCH)
            ),
            strict=True,
        )
        sentences = [[(f"{c.article} {c.noun}", c.words) for c in s.creatures] for s in scenes]
        np.save(folder / f"{i:04d}.npy", np.concatenate(latents))
        np.save(folder / f"{i:04d}-image.npy", np.concatenate(images))
        (folder / f"{i:04d}.json").write_text(json.dumps(sentences))
        log.info("encoded %d of %d clips", (i + 1) * CHUNK, chunks * CHUNK)


def read_clips(*folders: Path) -> LatentClips:
    """All chunks of the folders, memory-mapped (47 KB a clip), in the folders' order."""
    files = [file for folder in folders for file in sorted(folder.glob("*.json"))]
    mapped = [
        [np.load(file.with_name(file.stem + end), mmap_mode="r") for file in files]
        for end in (".npy", "-image.npy")
    ]
    sentences = [
        [tuple(s) for s in clip] for file in files for clip in json.loads(file.read_text())
    ]
    return LatentClips(*mapped, sentences)
