"""What tells whether the backbone is still learning: figures on scenes it never sees.

Their seeds lie apart from the training clips' and from both splits that judge the checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler
from PIL import Image

from motion_app.benchmark.propagation import measure_propagation
from motion_app.evaluation.metrics import assignment_similarity, follows_own, psnr
from motion_app.evaluation.trackers import colour_track
from motion_app.jobs.models import Models
from motion_app.pocket.network import (
    SCHEDULER_CONFIG,
    PocketNetwork,
    rotary_embedding,
    save_checkpoint,
)
from motion_app.pocket.vae import encode_frames
from motion_app.scene import GenerationRequest, Options, SceneObject
from motion_app.settings import Settings
from motion_app.world.world import RenderedClip, WorldConfig, draw_scene, render

CLIP_SEED, SCENE_SEED = 710_000, 720_000
CLIPS, SCENES, SHEET_SCENES = 200, 16, 8
NOISE_LEVEL = 0.6  # of the noise, at which propagated masks are compared
# Motions whose track tells them; a squash or a wave has none.
TOLD_BY_TRACK = ("jump", "walk left", "walk right", "rise", "sink", "circle", "sway", "worded")


@dataclass(frozen=True, eq=False)
class HeldBackScene:
    """A scene whose creatures do what their sentences say, and where they would go."""

    rendered: RenderedClip
    request: GenerationRequest

    @classmethod
    def draw(cls, index: int, config: WorldConfig) -> HeldBackScene:
        rng = np.random.default_rng([SCENE_SEED, index])
        motions = [str(name) for name in rng.choice(TOLD_BY_TRACK, size=2, replace=False)]
        scene = draw_scene(rng, config, objects=2, motions=motions, neutral_share=0.0)
        rendered = render(scene)
        objects = tuple(
            SceneObject(
                mask=rendered.masks[k, 0], sentence=creature.sentence, phrase=creature.phrase
            )
            for k, creature in enumerate(scene.creatures)
        )
        request = GenerationRequest(rendered.frames[0], objects, Options(seed=index, method="none"))
        return cls(rendered, request)

    def following(self, frames: np.ndarray) -> list[bool]:
        """Whether each creature of the generated ``frames`` (T, H, W, 3) moves as it was told and
        unlike the other one."""
        tracks = [colour_track(frames, scene_object.mask) for scene_object in self.request.objects]
        alike = [
            [assignment_similarity(track, truth) for truth in self.rendered.tracks]
            for track in tracks
        ]
        return [
            follows_own(row[k], max(value for j, value in enumerate(row) if j != k))
            for k, row in enumerate(alike)
        ]


class HeldBack:
    """The held-back clips and scenes of a run. Call it with a backbone for its figures; it writes
    a contact sheet (the true clip above the generated one) into ``folder`` each time."""

    def __init__(self, folder: Path, vae: AutoencoderKLCogVideoX, config: WorldConfig) -> None:
        self.folder, self.vae = folder, vae
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(CLIP_SEED)
        scenes = [draw_scene(rng, config) for _ in range(CLIPS)]
        parts = [
            encode_frames(vae, np.stack([render(s).frames for s in scenes[i : i + 4]]))
            for i in range(0, CLIPS, 4)
        ]
        self._latents, self._images = (
            torch.from_numpy(np.concatenate(part)).float() for part in zip(*parts, strict=True)
        )
        self._captions = [scene.caption for scene in scenes]
        self._scenes = [HeldBackScene.draw(i, config) for i in range(SCENES)]

    def __call__(self, backbone: PocketNetwork) -> dict[str, float]:
        """``loss``: velocity error of the held-back clips at fixed noise; ``follow``: the share of
        creatures that go where their words say; ``rmpm_iou``: of propagated masks; ``frame1_db``:
        how well the first frame is kept."""
        shipped = copy.deepcopy(backbone).to("cpu").float()
        loss = self._loss(shipped)
        checkpoint = self.folder / "checkpoint"
        save_checkpoint(checkpoint, self.vae, shipped)
        engine = Models(Settings(), device="cpu").engine(str(checkpoint))
        follows, kept, sheet = [], [], []
        for i, scene in enumerate(self._scenes):
            frames = engine.generate(scene.request).frames
            follows += scene.following(frames)
            kept.append(psnr(frames[0], scene.rendered.frames[0]))
            if i < SHEET_SCENES:
                sheet += [scene.rendered.frames, frames]
        drawn = [scene.rendered for scene in self._scenes]
        key = ("released", NOISE_LEVEL)
        ious = measure_propagation(engine, drawn, noise_levels=(key[1],), rules=(key[0],))
        count = len(list(self.folder.glob("sheet-*.png")))
        Image.fromarray(picked_frames(sheet)).save(self.folder / f"sheet-{count:03d}.png")
        return {
            "loss": round(loss, 5),
            "follow": float(np.mean(follows)),
            "rmpm_iou": round(ious[key], 4),
            "frame1_db": round(float(np.mean(kept)), 2),
        }

    @torch.no_grad()
    def _loss(self, backbone: PocketNetwork) -> float:
        """Mean squared velocity error over all clips, each at its own fixed timestep and noise."""
        scheduler = CogVideoXDDIMScheduler(**SCHEDULER_CONFIG)
        rotary = rotary_embedding(backbone.transformer, "cpu")
        generator = torch.Generator().manual_seed(CLIP_SEED)
        timesteps = torch.linspace(10, 999, CLIPS).long()
        errors = []
        for start in range(0, CLIPS, 8):
            part = slice(start, start + 8)
            latents = self._latents[part]
            noise = torch.randn(latents.shape, generator=generator)
            noisy = scheduler.add_noise(latents, noise, timesteps[part])
            target = scheduler.get_velocity(latents, noise, timesteps[part])
            prediction = backbone(
                self._captions[part], noisy, self._images[part], timesteps[part], rotary
            )
            errors.append((prediction - target).square().mean(dim=(1, 2, 3, 4)))
        return float(torch.cat(errors).mean())


def picked_frames(
    videos: Sequence[np.ndarray], *, columns: int = 7, enlarge: int = 2
) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 of each video as a row of ``columns`` evenly spaced pictures."""
    rows = []
    for frames in videos:
        picked = frames[np.linspace(0, len(frames) - 1, columns).round().astype(int)]
        rows.append(np.concatenate(list(picked), axis=1))  # (H, columns * W, 3)
    sheet = np.concatenate(rows, axis=0)
    return sheet.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
