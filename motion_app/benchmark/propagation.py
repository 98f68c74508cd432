"""RMPM looked at by itself: its rules against true masks over noise levels, and what features and
masks look like from step to step (the paper's figure 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from motion_app.evaluation.metrics import mask_iou
from motion_app.scene import Motion, StepReport
from motion_app.training.views import encode_views, grid_masks
from motion_app.world.world import RenderedClip

NOISE_LEVELS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)  # shares of the scheduler's timesteps
SHOWN_STEPS = 6
OUTLINES = ((230, 159, 0), (0, 114, 178), (0, 158, 115))  # RGB, told apart by nearly everyone


def propagation_scores(engine: MotionEngine, case: BenchmarkCase) -> dict[str, list[float]]:
    """Mean IoU of the objects of a rendered ``case`` by rule, one value for each of NOISE_LEVELS;
    with features as they are and with each frame's mean taken away ("centred")."""
    own = engine.propagation
    scores = {}
    try:
        for centre in (False, True):
            engine.propagation = replace(own, centre=centre)
            found = measure_propagation(
                engine,
                [case.rendered],
                noise_levels=NOISE_LEVELS,
                rules=tuple(RULES),
                seed=case.seed,
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


def measure_propagation(
    engine: MotionEngine,
    rendered: Sequence[RenderedClip],
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
    for clip in rendered:
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
