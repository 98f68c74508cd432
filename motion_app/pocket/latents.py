"""Rendered clips as latents on disk, drawn once and memory-mapped by every later step."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX

from motion_app.pocket.vae import to_tensor
from motion_app.pocket.world import WorldConfig, draw_scene, render
from motion_app.scene import NEUTRAL_PHRASE

log = logging.getLogger(__name__)
CHUNK = 100


@dataclass(frozen=True, eq=False)
class LatentClips:
    """``latents`` (n, F, C, H', W') float16, memory-mapped; ``sentences`` per clip a list of
    (subject, motion words), for example ("A red cat", "jumps")."""

    latents: np.ndarray
    sentences: list[list[tuple[str, str]]]

    def caption(self, index: int, rng: np.random.Generator, *, neutral_share: float) -> str:
        """A caption drawn afresh: sentences in random order, some with neutral motion words."""
        sentences = [
            f"{subject} {NEUTRAL_PHRASE if rng.random() < neutral_share else words}."
            for subject, words in self.sentences[index]
        ]
        rng.shuffle(sentences)
        return " ".join(sentences)


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
        latents = []
        for start in range(0, CHUNK, 4):
            video = to_tensor(np.stack([render(s).frames for s in scenes[start : start + 4]]))
            with torch.no_grad():
                z = vae.encode(video.to(device)).latent_dist.mode()  # (4, C, F, H', W')
            latents.append(z.transpose(1, 2).half().cpu().numpy())
        sentences = [[(f"{c.article} {c.noun}", c.words) for c in s.creatures] for s in scenes]
        np.save(folder / f"{i:04d}.npy", np.concatenate(latents))
        (folder / f"{i:04d}.json").write_text(json.dumps(sentences))
        log.info("encoded %d of %d clips", (i + 1) * CHUNK, chunks * CHUNK)


def read_clips(folder: Path) -> LatentClips:
    """All chunks of ``folder`` as one array in memory (43 KB a clip)."""
    files = sorted(folder.glob("*.json"))
    latents = np.concatenate([np.load(file.with_suffix(".npy")) for file in files])
    sentences = [
        [tuple(s) for s in clip] for file in files for clip in json.loads(file.read_text())
    ]
    return LatentClips(latents, sentences)
