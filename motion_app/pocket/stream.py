"""Clips for a fast device: drawn ahead by other processes, encoded on it and kept there.

Learning begins with the first chunk and more join it while it runs, so that a GPU waits for none.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
from diffusers import AutoencoderKLCogVideoX

from motion_app.pocket.grounding import Caption, drawn_caption
from motion_app.pocket.side_by_side import end_with_parent
from motion_app.pocket.vae import (
    CHUNK,
    Sentences,
    chunk_scenes,
    clip_codes,
    scene_sentences,
    to_tensor,
)
from motion_app.world.world import WorldConfig, render

log = logging.getLogger(__name__)
TOGETHER = 25  # clips encoded at once
AHEAD = 2  # chunks drawn and not yet taken, of each process
FIRST_CHUNK = 300.0  # s: until which one must have come
# Drawn frames (n, T, H, W, 3) uint8, whose each token is (n, F, h, w) uint8, and what is said.
Chunk = tuple[np.ndarray, np.ndarray, list[Sentences]]


class GrowingClips:
    """As ``LatentClips``, on ``device``: at most ``most`` clips; then new ones take the place of
    the oldest. ``chunks`` gives the next ``Chunk``, waiting so many seconds for it, None where
    there is none yet."""

    def __init__(
        self,
        vae: AutoencoderKLCogVideoX,
        chunks: Callable[[float], Chunk | None],
        *,
        device: str,
        most: int,
    ) -> None:
        self.vae, self.chunks, self.device, self.most = vae.to(device).eval(), chunks, device, most
        self.sentences: list[Sentences] = []
        self.drawn = 0
        self._latents: torch.Tensor | None = None  # (most, F, C, H', W') float16
        self._images: torch.Tensor | None = None  # (most, C, H', W') float16
        self._codes: np.ndarray | None = None  # (most, F, h, w) uint8

    def __len__(self) -> int:
        return len(self.sentences)

    def take(self, picked: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Latents (B, F, C, H', W') and first frames (B, C, H', W') of the clips ``picked``, both
        float32 on the device, and their codes (B, F, h, w)."""
        index = torch.from_numpy(picked).to(self.device)
        return self._latents[index].float(), self._images[index].float(), self._codes[picked]

    def caption(self, index: int, rng: np.random.Generator, *, neutral_share: float) -> Caption:
        """See ``LatentClips``."""
        return drawn_caption(self.sentences[index], rng, neutral_share=neutral_share)

    def gather(self, *, wait: float = 0.0) -> int:
        """Take in what has been drawn meanwhile, one chunk at most; how many clips that was."""
        chunk = self.chunks(wait)
        if chunk is None:
            return 0
        frames, codes, sentences = chunk
        for start in range(0, len(frames), TOGETHER):
            part = slice(start, start + TOGETHER)
            self._keep(frames[part], codes[part], sentences[part])
        return len(frames)

    @torch.no_grad()
    def _keep(self, frames: np.ndarray, codes: np.ndarray, sentences: list[Sentences]) -> None:
        video = to_tensor(frames, self.device)
        clips, images = (self.vae.encode(v).latent_dist.mode() for v in (video, video[:, :, :1]))
        latents, images = clips.transpose(1, 2).half(), images[:, :, 0].half()
        if self._latents is None:
            self._latents = latents.new_empty(self.most, *latents.shape[1:])
            self._images = images.new_empty(self.most, *images.shape[1:])
            self._codes = np.empty((self.most, *codes.shape[1:]), np.uint8)
        for row, said in enumerate(sentences):
            place = self.drawn % self.most
            self._latents[place], self._images[place] = latents[row], images[row]
            self._codes[place] = codes[row]
            if place < len(self.sentences):
                self.sentences[place] = said
            else:
                self.sentences.append(said)
            self.drawn += 1


@contextmanager
def drawn_ahead(
    world: WorldConfig, *, workers: int, seed: int, count: int = CHUNK
) -> Iterator[Callable[[float], Chunk | None]]:
    """What ``GrowingClips`` takes its chunks from: ``workers`` processes draw those of ``world``,
    and of the easy world beside the wide one, from ``seed`` on, each of its own numbers; ``count``
    clips each."""
    spawned = mp.get_context("spawn")
    ready: Any = spawned.Queue(maxsize=AHEAD * workers)
    processes = [
        spawned.Process(target=_draw, args=(ready, world, seed, rank, workers, count), daemon=True)
        for rank in range(workers)
    ]
    for process in processes:
        process.start()

    def next_chunk(wait: float) -> Chunk | None:
        try:
            return ready.get(block=wait > 0, timeout=wait or None)
        except queue.Empty:
            return None

    try:
        yield next_chunk
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        ready.cancel_join_thread()
        ready.close()


def _draw(ready: Any, world: WorldConfig, seed: int, rank: int, workers: int, count: int) -> None:
    """Chunk after chunk, each level of the world in turn."""
    end_with_parent()
    torch.set_num_threads(1)
    number = rank
    while True:
        for level in range(world.level + 1):
            scenes = chunk_scenes(seed + level, number, replace(world, level=level), count)
            clips = [render(scene) for scene in scenes]
            frames = np.stack([clip.frames for clip in clips])
            sentences = [scene_sentences(scene) for scene in scenes]
            ready.put((frames, clip_codes(clips), sentences))
        number += workers


def first_clips(clips: GrowingClips, *, least: int = CHUNK) -> None:
    """Wait until there are ``least`` clips to begin with."""
    while len(clips) < least and clips.gather(wait=FIRST_CHUNK):
        pass
