"""Mask propagation by itself, and the pocket's own scenes.

RMPM looked at by itself: its rules against true masks over noise levels, and what features and
masks look like from step to step (the paper's figure 4).

How good the pocket is, against the renderer's ground truth, on scenes it never saw.

Every judgement of motion transfer starts from the first frame's masks alone: true masks of later
frames would give the place away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from motion_app.benchmark.charts import SheetRow, draw_sheet
from motion_app.benchmark.scenes import BenchmarkCase
from motion_app.engine.layout import SequenceLayout
from motion_app.engine.pipeline import MotionEngine
from motion_app.engine.propagation import RULES, propagate
from motion_app.engine.steering import GenerationSteering, steered
from motion_app.evaluation.metrics import (
    assignment_similarity,
    bootstrap_interval,
    follows_own,
    mask_iou,
)
from motion_app.evaluation.trackers import colour_track
from motion_app.scene import GeneratedVideo, GenerationRequest, Motion, SceneObject, StepReport
from motion_app.training.views import encode_views, grid_masks
from motion_app.world.world import RenderedClip, WorldConfig, draw_scene, render

NOISE_LEVELS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)  # shares of the scheduler's timesteps
SHOWN_STEPS = 6
OUTLINES = ((230, 159, 0), (0, 114, 178), (0, 158, 115))  # RGB, told apart by nearly everyone
CASE_SEED = 500_000  # far from every seed the training draws from


def propagation_scores(engine: MotionEngine, case: BenchmarkCase) -> dict[str, list[float]]:
    """Mean IoU of the objects of a rendered ``case`` by rule, one value for each of NOISE_LEVELS;
    with features as they are and with each frame's mean taken away ("centred")."""
    own = engine.propagation
    scores = {}
    try:
        for centre in (False, True):
            engine.propagation = replace(own, centre=centre)
            found = measure_propagation(
                engine, [case], noise_levels=NOISE_LEVELS, rules=tuple(RULES), seed=case.seed
            )
            for rule in RULES:
                name = f"{rule}, centred" if centre else rule
                scores[name] = [found[rule, level] for level in NOISE_LEVELS]
    finally:
        engine.propagation = own
    return scores


@dataclass(frozen=True, eq=False)
class WatchedStep:
    """After one step: ``features`` (F, h, w, D) float32, ``masks`` (N, F, h, w) bool for the next
    one, ``frames`` (F, H, W, 3) uint8 of the clean video as estimated."""

    step: int
    features: Tensor
    masks: np.ndarray
    frames: np.ndarray
    settled: bool


def watch_steps(
    engine: MotionEngine, case: BenchmarkCase, motions: Sequence[Motion], *, steps: int | None
) -> list[WatchedStep]:
    """Every step of one generation by full FlexiMMT, seen from outside."""
    seen: list[WatchedStep] = []
    with attention_outputs(engine) as outputs:

        def watch(report: StepReport) -> bool:
            features = torch.stack(outputs).mean(0).view(*engine.geometry.grid, -1)  # (F, h, w, D)
            outputs.clear()
            frames = engine.preview(report.latents)
            seen.append(
                WatchedStep(report.step, features, report.masks, frames, report.masks_settled)
            )
            return True

        engine.generate(case.request(motions, steps=steps), on_step=watch)
    return seen


@contextmanager
def attention_outputs(engine: MotionEngine) -> Iterator[list[Tensor]]:
    """A list that fills, in each forward pass, with the conditional half's attention outputs of the
    video tokens, (V, D) float32, of the layers that RMPM reads."""
    outputs: list[Tensor] = []

    def keep(module: torch.nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
        outputs.append(output[0][-1].detach().float().cpu())

    layers = engine.propagation.feature_layers(engine.geometry.layers)
    with ExitStack() as hooks:
        for layer in engine.backbone.attention_layers()[:layers]:
            hooks.callback(layer.module.register_forward_hook(keep).remove)
        yield outputs


def feature_picture(
    engine: MotionEngine, case: BenchmarkCase, motions: Sequence[Motion], *, steps: int | None
) -> np.ndarray:
    """(H, W, 3) uint8: for a middle and the last latent frame, the features' three main directions
    as colours, and the masks drawn on the estimate of the clean video, by step."""
    watched = watch_steps(engine, case, motions, steps=steps)
    last = len(watched) - 1
    chosen = sorted(set(np.linspace(0, last, SHOWN_STEPS).round().astype(int).tolist()))
    shown = [watched[index] for index in chosen]
    colours = _main_directions([step.features for step in shown])
    final = engine.geometry.grid_frames - 1
    rows = []
    for frame in (final // 2, final):
        note = f"latent frame {frame + 1} of {final + 1}"
        rows.append(SheetRow("features", [colour[frame] for colour in colours], note))
        outlined = [outline(_frame_of(step, frame), step.masks[:, frame]) for step in shown]
        rows.append(SheetRow("masks", outlined, note))
    heads = [f"after step {step.step}" + (", kept" if step.settled else "") for step in shown]
    title = " · ".join(f"{thing.name}: {thing.motion}" for thing in case.objects)
    return draw_sheet(rows, title=title, heads=heads)


def _frame_of(step: WatchedStep, frame: int) -> np.ndarray:
    """The estimate at a frame of the token grid, which may pack several latent frames."""
    last = step.masks.shape[1] - 1
    return step.frames[round(frame * (len(step.frames) - 1) / max(1, last))]


def _main_directions(features: Sequence[Tensor]) -> list[np.ndarray]:
    """(F, h, w, 3) uint8 of each features (F, h, w, D): their projections on the three main
    directions of all of them, frames' means taken away."""
    stacked = torch.stack(list(features))  # (S, F, h, w, D)
    stacked = stacked - stacked.mean(dim=(2, 3), keepdim=True)
    stacked = stacked / stacked.norm(dim=-1, keepdim=True).clamp(min=1e-8)
    flat = stacked.flatten(0, 3)  # (S * F * P, D)
    _, _, directions = torch.linalg.svd(flat.T @ flat)
    main = stacked @ directions[:3].T  # (S, F, h, w, 3)
    low, high = np.quantile(main.flatten(0, 3).numpy(), [0.02, 0.98], axis=0)
    scaled = (main.numpy() - low) / np.maximum(high - low, 1e-8)
    return list((scaled.clip(0, 1) * 255).astype(np.uint8))


def outline(picture: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """``picture`` (H, W, 3) uint8, enlarged, with the masks (N, h, w) bool tinted and outlined."""
    height, width = picture.shape[0] * 3, picture.shape[1] * 3
    drawn = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
    for mask, colour in zip(masks, OUTLINES, strict=False):
        whole = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        tint = drawn[whole > 0] * 0.65 + np.array(colour) * 0.35
        drawn[whole > 0] = tint.astype(np.uint8)
        edges, _ = cv2.findContours(whole, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, edges, -1, colour, 2)
    return drawn


@dataclass(frozen=True, eq=False)
class Case:
    """An unseen scene whose creatures have room for the motions they shall get."""

    seed: int
    rendered: RenderedClip
    motions: tuple[Motion, ...]

    def request(self, *, method: str = "fleximmt", steps: int | None = None) -> GenerationRequest:
        """The first frame, its masks, neutral sentences: nothing tells the motion but the
        tokens."""
        creatures = self.rendered.scene.creatures
        objects = tuple(
            SceneObject(
                mask=self.rendered.masks[k, 0],
                sentence=creature.neutral_sentence,
                motion=self.motions[k],
                name=creature.noun,
            )
            for k, creature in enumerate(creatures)
        )
        image = self.rendered.frames[0]
        return GenerationRequest(image, objects, seed=self.seed, steps=steps, method=method)

    def with_motions(self, motions: Mapping[str, Motion]) -> Case:
        """The same scene with other tokens of the same motions, by name."""
        return replace(self, motions=tuple(motions[motion.name] for motion in self.motions))


@dataclass(frozen=True)
class ObjectScore:
    """Similarity of one generated object's track to its own motion's reference and to the most
    similar of the other objects' motions."""

    case: int
    motion: str
    own: float
    other: float

    @property
    def follows(self) -> bool:
        return follows_own(self.own, self.other)


def draw_cases(
    motions: Sequence[Motion],
    count: int,
    *,
    objects: int = 2,
    config: WorldConfig = WorldConfig(),
    seed: int = CASE_SEED,
) -> list[Case]:
    """``count`` scenes; each draws its motions without repetition from those with a known track."""
    tracked = [motion for motion in motions if motion.track is not None]
    cases = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        picked = [tracked[j] for j in rng.permutation(len(tracked))[:objects]]
        scene = draw_scene(rng, config, objects=objects, motions=[m.name for m in picked])
        cases.append(Case(i, render(scene), tuple(picked)))
    return cases


def score_video(case: Case, video: GeneratedVideo) -> list[ObjectScore]:
    """Each object's own and other similarity, from the colour it has under its first-frame mask."""
    scores = []
    references = [np.asarray(motion.track) for motion in case.motions]
    for k, motion in enumerate(case.motions):
        track = colour_track(video.frames, case.rendered.masks[k, 0])
        alike = [assignment_similarity(track, reference) for reference in references]
        others = [value for j, value in enumerate(alike) if j != k]
        scores.append(ObjectScore(case.seed, motion.name, alike[k], max(others, default=0.0)))
    return scores


@dataclass(frozen=True, eq=False)
class MethodFigures:
    """One method over all cases: mean ``own`` and ``other`` similarity, the share of objects that
    ``follows`` their own motion, and own minus other of every object, in a fixed order."""

    own: float
    other: float
    follows: float
    margins: np.ndarray

    @classmethod
    def of(cls, scores: Sequence[ObjectScore]) -> MethodFigures:
        own, other = ([getattr(s, name) for s in scores] for name in ("own", "other"))
        share = np.mean([score.follows for score in scores])
        margins = np.subtract(own, other)
        return cls(float(np.mean(own)), float(np.mean(other)), float(share), margins)


def paired_interval(
    ours: MethodFigures, theirs: MethodFigures, *, objects: int
) -> tuple[float, float]:
    """95% bootstrap interval of the mean difference of own minus other, cases being resampled (the
    ``objects`` of one scene are not independent)."""
    differences = (ours.margins - theirs.margins).reshape(-1, objects).mean(axis=1)
    return bootstrap_interval(differences)


def contact_sheet(
    videos: Sequence[np.ndarray], *, columns: int = 7, enlarge: int = 2
) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 of each video as a row of ``columns`` evenly spaced pictures."""
    rows = []
    for frames in videos:
        picked = frames[np.linspace(0, len(frames) - 1, columns).round().astype(int)]
        rows.append(np.concatenate(list(picked), axis=1))  # (H, columns * W, 3)
    sheet = np.concatenate(rows, axis=0)
    return sheet.repeat(enlarge, axis=0).repeat(enlarge, axis=1)


def measure_propagation(
    engine: MotionEngine,
    cases: Sequence[Case],
    *,
    noise_levels: Sequence[float] = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5),
    rules: Sequence[str] = ("released", "paper", "competing"),
    seed: int = 0,
) -> dict[tuple[str, float], float]:
    """Mean IoU of propagated masks (latent frames 2 to F) with the true ones on the token grid.

    Rendered clips noised to a share of the scheduler's timesteps, one forward pass with the neutral
    caption and no motion tokens; window, layers and centring are the engine's own. Keys are (rule,
    noise level).
    """
    backbone, g, settings = engine.backbone, engine.geometry, engine.propagation
    generator = torch.Generator().manual_seed(seed)
    found: dict[tuple[str, float], list[float]] = {}
    for case in cases:
        clip = case.rendered
        truth = torch.from_numpy(grid_masks(clip.masks, g))  # (N, F, h, w)
        latents = encode_views(backbone, clip.frames[None]).mean  # (1, F, C, H', W')
        image = encode_views(backbone, clip.frames[None, :1]).mean[:, 0]  # (1, C, H', W')
        prompt = " ".join(c.neutral_sentence for c in clip.scene.creatures)
        for level in noise_levels:
            features = noised_features(engine, latents, image, prompt, level, generator)
            features = settings.prepare(features)
            for rule in rules:
                masks = propagate(features, truth[:, 0], rule=rule, window=settings.window)
                ious = [
                    mask_iou(masks[k, 1:].numpy(), truth[k, 1:].numpy()) for k in range(len(truth))
                ]
                found.setdefault((rule, level), []).extend(ious)
    return {key: float(np.mean(values)) for key, values in found.items()}


@torch.no_grad()
def noised_features(
    engine: MotionEngine,
    latents: torch.Tensor,
    image: torch.Tensor,
    prompt: str,
    level: float,
    generator: torch.Generator,
    *,
    layers: int | None = None,
) -> torch.Tensor:
    """RMPM's features (F, h, w, D) of ``latents`` (1, F, C, H', W') noised to ``level`` of the
    scheduler's timesteps (1 is pure noise), beside ``image`` (1, C, H', W'), the first video frame
    encoded alone as it is in a generation."""
    backbone, g = engine.backbone, engine.geometry
    steps = backbone.training_steps
    timestep = torch.tensor([min(steps - 1, int(level * steps))])
    latents = backbone.padded(latents)
    noisy = backbone.noisy(latents, torch.randn(latents.shape, generator=generator), timestep)
    condition = backbone.image_condition(image, latents)
    text = backbone.prompts.encode_all([prompt])[0]
    nothing = torch.zeros(1, g.heads, 0, g.head_dim)
    steering = GenerationSteering(
        SequenceLayout(text=g.text_tokens, phrases=[], motion=[], grid=g.grid),
        torch.zeros(0, *g.grid, dtype=torch.bool),
        [(nothing, nothing)] * g.layers,
        halves=[()],
        feature_layers=layers or engine.propagation.feature_layers(g.layers),
    )
    with steered(backbone.attention_layers(), steering):
        backbone.predict(noisy, condition, text, timestep)
    return steering.features()
