"""What the motion encoder learns from: pairs of clips in which other creatures do the same motions,
drawn and encoded once. Either clip of a pair is a reference for the other.

As many creatures are in all pairs of a chunk, and as many pairs in all chunks. One kind of creature
is in none, nor is any of the motions that nothing of the pocket was trained on.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor

from motion_app.engine.motion_encoder import mover_shares
from motion_app.geometry import ModelGeometry
from motion_app.pocket.vae import encode_frames
from motion_app.world.retold import draw_motions, render_looking_back, retold
from motion_app.world.world import RenderedClip, Scene, WorldConfig, draw_scene, render

log = logging.getLogger(__name__)
UNSEEN_KIND = "ghost"
CHUNK = 24  # pairs
COUNTS = (2, 1, 3, 2, 1, 2)  # creatures, chunk by chunk
LOOKS_BACK = 0.5  # of the second clips
TOGETHER = 8  # clips encoded at once
SEED = 440_000
FULL = 255  # a token that is covered whole


@dataclass(frozen=True, eq=False)
class ClipPair:
    """Two ``clips`` of the same motions in the same order."""

    clips: tuple[RenderedClip, RenderedClip]

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        config: WorldConfig,
        motions: Sequence[str],
        *,
        kinds: Sequence[str],
    ) -> ClipPair:
        """A scene of creatures of its config's kinds, and one of ``kinds`` in which they are told
        again."""
        first = draw_scene(rng, config, objects=len(motions), motions=motions)
        second = retold(rng, first, kinds=kinds)
        drawn = render_looking_back if rng.random() < LOOKS_BACK else render
        return cls((render(first), drawn(second)))


@dataclass(frozen=True, eq=False)
class EncodedPairs:
    """n pairs of clips of N creatures: ``latents`` (n, 2, F, C, H', W') and first frames encoded
    alone, ``images`` (n, 2, C, H', W'), float16; ``shares`` (n, 2, N, F, h, w) uint8, how much of a
    token a creature covers, of FULL; ``sentences``: of each clip, of each creature its subject and
    the words of its motion. Arrays may be memory-mapped."""

    latents: np.ndarray
    images: np.ndarray
    shares: np.ndarray
    sentences: list[list[list[tuple[str, str]]]]

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def objects(self) -> int:
        """N."""
        return self.shares.shape[2]

    @classmethod
    def encode(
        cls, vae: AutoencoderKLCogVideoX, pairs: Sequence[ClipPair], geometry: ModelGeometry
    ) -> EncodedPairs:
        """Draws nothing; all ``pairs`` have as many creatures."""
        clips = [clip for pair in pairs for clip in pair.clips]
        parts = [
            encode_frames(vae, np.stack([clip.frames for clip in clips[i : i + TOGETHER]]))
            for i in range(0, len(clips), TOGETHER)
        ]
        latents, images = (np.concatenate(part) for part in zip(*parts, strict=True))
        shares = torch.stack([mover_shares(clip.masks, geometry) for clip in clips])
        two_by_two = (len(pairs), 2)
        return cls(
            latents.reshape(*two_by_two, *latents.shape[1:]),
            images.reshape(*two_by_two, *images.shape[1:]),
            (shares * FULL).byte().unflatten(0, two_by_two).numpy(),
            [[_told(clip.scene) for clip in pair.clips] for pair in pairs],
        )

    def write(self, folder: Path, name: str) -> None:
        """Three arrays and, last, the words that say that all is there."""
        for part in ("latents", "images", "shares"):
            np.save(folder / f"{name}-{part}.npy", getattr(self, part))
        (folder / f"{name}.json").write_text(json.dumps(self.sentences))

    @classmethod
    def read(cls, folder: Path, name: str) -> EncodedPairs:
        """What ``write`` wrote."""
        told = json.loads((folder / f"{name}.json").read_text())
        words = [[[(a, b) for a, b in clip] for clip in pair] for pair in told]
        parts = ("latents", "images", "shares")
        return cls(*(np.load(folder / f"{name}-{p}.npy", mmap_mode="r") for p in parts), words)


def _told(scene: Scene) -> list[tuple[str, str]]:
    return [(f"{c.article} {c.noun}", c.words) for c in scene.creatures]


def pairs_folder(runs: Path, checkpoint: Path, config: WorldConfig) -> Path:
    """Where pairs encoded by the VAE of ``checkpoint`` lie: another one has another folder."""
    digest = hashlib.sha256()
    for file in sorted((checkpoint / "vae").glob("*.safetensors")):
        digest.update(file.read_bytes())
    return runs / "pairs" / f"level{config.level}-{digest.hexdigest()[:12]}"


def encode_pairs(
    folder: Path,
    vae: AutoencoderKLCogVideoX,
    *,
    count: int,
    config: WorldConfig,
    geometry: ModelGeometry,
    shard: tuple[int, int] = (0, 1),
) -> None:
    """Draws and encodes pairs in chunks under ``folder`` until there are ``count``; continues where
    an earlier call stopped. Process ``shard[0]`` of ``shard[1]`` takes every ``shard[1]``-th."""
    folder.mkdir(parents=True, exist_ok=True)
    chunks = -(-count // CHUNK)
    for number in range(shard[0], chunks, shard[1]):
        if (folder / f"{number:04d}.json").exists():
            continue
        pairs = chunk_pairs(number, config)
        EncodedPairs.encode(vae, pairs, geometry).write(folder, f"{number:04d}")
        log.info("encoded %d of %d pairs", (number + 1) * CHUNK, chunks * CHUNK)


def chunk_pairs(number: int, config: WorldConfig) -> list[ClipPair]:
    """The pairs of a chunk, by its number alone."""
    rng = np.random.default_rng([SEED, config.level, number])
    kinds = tuple(kind for kind in config.kinds if kind != UNSEEN_KIND)
    known = WorldConfig(**{**vars(config), "kinds": kinds})
    count = COUNTS[number % len(COUNTS)]
    return [
        ClipPair.draw(rng, known, draw_motions(rng, count, known), kinds=kinds)
        for _ in range(CHUNK)
    ]


def read_pairs(folder: Path) -> dict[int, list[EncodedPairs]]:
    """All chunks of a folder, by their number of creatures."""
    found: dict[int, list[EncodedPairs]] = {}
    for file in sorted(folder.glob("*.json")):
        chunk = EncodedPairs.read(folder, file.stem)
        found.setdefault(chunk.objects, []).append(chunk)
    return found


@dataclass(frozen=True, eq=False)
class PairBatch:
    """B clips that are to be predicted, and for each of their N creatures the reference of its
    motion. ``latents`` (B, F, C, H', W'), ``images`` (B, C, H', W'), ``masks`` (B, N, F, h, w)
    bool; ``references`` (B, F, C, H', W'), one clip for all N, and ``shares`` (B, N, F, h, w) of
    their movers in it, 0 to 1; float32. ``sentences``: of each clip its creatures'."""

    latents: Tensor
    images: Tensor
    masks: Tensor
    references: Tensor
    shares: Tensor
    sentences: list[list[tuple[str, str]]]

    @classmethod
    def take(
        cls, chunks: Sequence[EncodedPairs], picked: np.ndarray, sides: np.ndarray
    ) -> PairBatch:
        """The pairs ``picked`` (B,) of ``chunks`` end to end, CHUNK each; ``sides`` (B,) is which
        clip of each is predicted."""
        found = [divmod(int(i), len(chunks[0])) for i in picked]
        rows = [(chunks[c], row, int(s)) for (c, row), s in zip(found, sides, strict=True)]
        latents, images, shares, references, movers = (
            torch.from_numpy(np.stack(part)).float()
            for part in (
                [chunk.latents[row, side] for chunk, row, side in rows],
                [chunk.images[row, side] for chunk, row, side in rows],
                [chunk.shares[row, side] for chunk, row, side in rows],
                [chunk.latents[row, 1 - side] for chunk, row, side in rows],
                [chunk.shares[row, 1 - side] for chunk, row, side in rows],
            )
        )
        told = [chunk.sentences[row][side] for chunk, row, side in rows]
        masks = shares > FULL / 2  # strictly more than half, as ``mask_to_grid`` has it
        return cls(latents, images, masks, references, movers / FULL, told)

    def rows(self, rows: slice) -> PairBatch:
        """Some of the batch."""
        parts = (self.latents, self.images, self.masks, self.references, self.shares)
        return PairBatch(*(part[rows] for part in parts), self.sentences[rows])
