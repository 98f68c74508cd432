"""How good the pocket is, on scenes nothing was trained on.

Every figure its model card states comes from one command: a benchmark on the split "tuning", and
figures of the VAE and of clicks. ``HeldBack`` tells while the backbone trains whether it is still
learning; its seeds lie apart from the training clips' and from both splits."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler
from PIL import Image

from motion_app.benchmark.campaign import Campaign, run_campaign
from motion_app.benchmark.charts import line_chart
from motion_app.benchmark.outcome import Outcome, by_case, paired_difference, seconds_by_row
from motion_app.benchmark.propagation import NOISE_LEVELS, measure_propagation
from motion_app.benchmark.references import UNMASKED
from motion_app.benchmark.report import write_report
from motion_app.benchmark.scenes import TUNING
from motion_app.benchmark.variants import FULL, SuiteOptions, Variant
from motion_app.engine.pipeline import MotionEngine
from motion_app.engine.propagation import RULES
from motion_app.evaluation.metrics import assignment_similarity, follows_own, psnr
from motion_app.evaluation.trackers import colour_track
from motion_app.geometry import DEFAULTS_FILE
from motion_app.jobs.models import Models
from motion_app.pocket.network import (
    GENERATION,
    SCHEDULER_CONFIG,
    PocketNetwork,
    rotary_embedding,
    save_checkpoint,
)
from motion_app.pocket.sam2 import measure_sam2
from motion_app.pocket.vae import encode_frames, reconstruction_psnr, render_clips
from motion_app.scene import GenerationRequest, Options, SceneObject
from motion_app.settings import Settings
from motion_app.world.likeness import likeliest_creature
from motion_app.world.world import Creature, RenderedClip, WorldConfig, draw_scene, render

UNSEEN_SEED = 987_654
RMPM_CASES = 20
CLIP_SEED, SCENE_SEED = 710_000, 720_000
WORDS_SEED = 730_000
CLIPS, SCENES, SHEET_SCENES, WORDS = 200, 16, 8, 24
NOISE_LEVEL = 0.6  # of the noise, at which propagated masks are compared
# Motions whose track tells them; a squash or a wave has none.
TOLD_BY_TRACK = ("jump", "walk left", "walk right", "rise", "sink", "circle", "sway", "worded")


def measure_pocket(
    checkpoint: Path,
    out: Path,
    *,
    models: Models,
    cases: int = 40,
    processes: int = 2,
    unmasked: Path | None = None,
    stills: int = 200,
) -> dict[str, Any]:
    """Measures the VAE, the segmenter, RMPM and motion transfer; writes ``figures.json`` and the
    benchmark's report into ``out``. ``models``: of the deployment that is measured.

    ``unmasked``: a folder of the same motions learned without object masks, as ``concat`` would;
    its row is added where given. ``processes`` share the videos, one CPU thread each.
    """
    out.mkdir(parents=True, exist_ok=True)
    engine = models.engine(checkpoint)
    clips = render_clips(32, seed=UNSEEN_SEED, config=WorldConfig())
    figures: dict[str, Any] = {"vae_psnr_db": reconstruction_psnr(engine.backbone.pipe.vae, clips)}
    figures["one_click"] = asdict(measure_sam2(models.segmenter(checkpoint), stills))
    del engine
    variants = [FULL, Variant("concat", "concat"), Variant("none", "none")]
    if unmasked is not None:
        name = "concat, tokens learned without masks"
        variants.insert(2, Variant(name, "concat", tokens=UNMASKED))
    models.forget()
    outcome = run_campaign(
        Campaign(
            model=str(checkpoint),
            out=out,
            motions=(checkpoint / "motions",),
            settings=models.settings,
            options=SuiteOptions({2: cases}, split=TUNING),
            variants=tuple(variants),
            unmasked=unmasked,
            processes=processes,
            device=models.device,
            propagation_cases=min(cases, RMPM_CASES),
        )
    )
    write_report(outcome, out)
    figures["rmpm_iou"] = {
        f"{rule} at {level:g} of the noise": float(
            np.mean([found[rule][k] for found in outcome.propagation])
        )
        for k, level in enumerate(NOISE_LEVELS)
        for rule in RULES
    }
    figures["seconds_a_video"] = seconds_by_row(outcome)[FULL.name]
    figures["transfer"] = transfer(outcome)
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def transfer(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """Means of each row, and how far the first is ahead of the others, with 95% intervals."""
    suite, table = outcome.suites[0], {}
    margins = {
        variant.name: by_case(outcome, suite, variant.name, "own_minus_other[colour]")
        for variant in suite.variants
    }
    names = {"own": "own_motion", "other": "other_motion", "follows": "follows_own"}
    for name, margin in margins.items():
        row = table[name] = {
            key: _mean(by_case(outcome, suite, name, f"{metric}[colour]"))
            for key, metric in names.items()
        }
        row["own_minus_other"] = _mean(margin)
        ahead = paired_difference(margins[FULL.name], margin)
        if name != FULL.name and ahead is not None:
            row["first_is_ahead_by"] = ahead.mean
            row["interval"] = list(ahead.interval or (ahead.mean, ahead.mean))
    return table


def _mean(values: dict[str, float]) -> float:
    return float(np.mean(list(values.values())))


def summary(figures: dict[str, Any]) -> str:
    """The comparison as a Markdown table."""
    lines = [
        "| method | own | other | own − other | follow their own | fleximmt is ahead by |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in figures["transfer"].items():
        ahead = "–"
        if "interval" in row:
            low, high = row["interval"]
            ahead = f"{row['first_is_ahead_by']:.2f} [{low:.2f}, {high:.2f}]"
        lines.append(
            f"| {name} | {row['own']:.2f} | {row['other']:.2f} | {row['own_minus_other']:.2f} "
            f"| {row['follows']:.0%} | {ahead} |"
        )
    return "\n".join(lines)


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


def training_curve(history: Sequence[Mapping[str, float]]) -> str:
    """The held-back figures of a ``TrainingRecord``, two or more, over the clips seen, as SVG. What
    does not lie between 0 and 1 is scaled, as its line says."""
    lines = {
        "follow their words": [told["follow"] for told in history],
        "RMPM's IoU": [told["rmpm_iou"] for told in history],
        "velocity error × 5": [5 * told["loss"] for told in history],
        "frame 1, dB / 40": [told["frame1_db"] / 40 for told in history],
    }
    seen = [round(told["samples"] / 1000, 1) for told in history]
    return line_chart("Held back", seen, lines, axes=("thousand clips seen", ""))


@dataclass(frozen=True, eq=False)
class HeldBackWords:
    """One creature in words, without a picture."""

    creature: Creature
    request: GenerationRequest

    @classmethod
    def draw(cls, index: int, config: WorldConfig) -> HeldBackWords:
        rng = np.random.default_rng([WORDS_SEED, index])
        motion = str(rng.choice(TOLD_BY_TRACK))
        scene = draw_scene(rng, config, objects=1, motions=[motion], neutral_share=0.0)
        options = Options(seed=index, method="none", prompt=scene.caption)
        return cls(scene.creatures[0], GenerationRequest(None, options=options))

    def shown(self, frames: np.ndarray) -> bool:
        """Whether the generated ``frames`` (T, H, W, 3) show a creature of its kind and colour."""
        return likeliest_creature(frames) == (self.creature.colour, self.creature.kind)


class HeldBack:
    """The held-back clips and scenes of a run. Call it with a backbone for its figures; it writes
    a contact sheet (the true clip above the generated one) into ``folder`` each time.
    ``without_picture``: videos from words alone are measured too."""

    def __init__(
        self,
        folder: Path,
        vae: AutoencoderKLCogVideoX,
        config: WorldConfig,
        *,
        without_picture: bool = False,
    ) -> None:
        self.folder, self.vae = folder, vae
        folder.mkdir(parents=True, exist_ok=True)
        self._words = [HeldBackWords.draw(i, config) for i in range(WORDS) if without_picture]
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
        how well the first frame is kept; ``words``, where it is measured: the share of videos from
        words alone whose creature has the kind and the colour that they say."""
        shipped = copy.deepcopy(backbone).to("cpu").float()
        loss = self._loss(shipped)
        checkpoint = self.folder / "checkpoint"
        save_checkpoint(checkpoint, self.vae, shipped)
        if self._words:
            settings = GENERATION | {"without_picture": True}
            (checkpoint / DEFAULTS_FILE).write_text(json.dumps(settings))
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
            **self._words_kept(engine),
        }

    def _words_kept(self, engine: MotionEngine) -> dict[str, float]:
        shown = [told.shown(engine.generate(told.request).frames) for told in self._words]
        return {"words": float(np.mean(shown))} if shown else {}

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
