"""What the pocket's segmenter learns from: rendered stills, clicks and boxes as people draw."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from transformers import Sam2ImageProcessor

from motion_app.pocket.sam2_network import IMAGE_SIZE
from motion_app.world.world import WorldConfig, draw_scene, render

SMALLEST = 16  # visible pixels under which a creature is no target
BACKGROUND_MARGIN = 3.0  # pixels: a click nearer than this to a creature may mean the creature
LABEL_BOX = (2, 3)  # SAM's point labels of a box's two corners
PROMPTS = {"click": 0.6, "two clicks": 0.15, "box": 0.15, "box and click": 0.1}


@dataclass(frozen=True, eq=False)
class Still:
    """``image`` (H, W, 3) uint8 and the visible ``masks`` (N, H, W) bool of its creatures."""

    image: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """``images`` (B, 3, S, S) normalised float32, ``targets`` (B, P, H, W) bool, ``points``
    (B, P, n, 2) float32 (x, y) in pixels of the picture, ``labels`` (B, P, n) int64: 1 and 0
    positive and negative clicks, 2 and 3 the corners of a box."""

    images: torch.Tensor
    targets: np.ndarray
    points: np.ndarray
    labels: np.ndarray


def draw_stills(
    scenes: int,
    *,
    moments: int,
    seed: int,
    config: WorldConfig,
    objects_share: tuple[float, float, float] | None = None,
) -> list[Still]:
    """``scenes`` random scenes at ``moments`` evenly spaced times each; the same seed, the same.

    ``objects_share``: chances of 1, 2 and 3 creatures; None draws them as the world does.
    """
    rng = np.random.default_rng(seed)
    config = replace(config, frames=moments)
    stills = []
    for _ in range(scenes):
        count = int(rng.choice([1, 2, 3], p=objects_share)) if objects_share else None
        clip = render(draw_scene(rng, config, objects=count))
        for t in range(moments):
            visible = clip.masks[:, t].sum(axis=(1, 2)) >= SMALLEST
            if visible.any():
                stills.append(Still(clip.frames[t], clip.masks[visible, t]))
    return stills


def sample_click(mask: np.ndarray, rng: np.random.Generator, *, power: float) -> tuple[int, int]:
    """(x, y) of a pixel of ``mask`` (H, W) bool, not empty, with a chance that grows as the
    ``power`` of its distance from the border: 0 is uniform."""
    inside = np.pad(mask, 1).astype(np.uint8)  # the picture's edge is a border too
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    weight = np.where(mask, depth.astype(np.float64) ** power, 0.0).cumsum()
    at = int(np.searchsorted(weight, rng.random() * weight[-1], side="right"))
    return at % mask.shape[1], at // mask.shape[1]


def sample_box(mask: np.ndarray, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Two corners (x, y) of the box around ``mask``, each side moved by about a twentieth of it."""
    ys, xs = np.nonzero(mask)
    x0, y0, x1, y1 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    shift = rng.normal(0, 0.05, size=4) * (x1 - x0, y1 - y0, x1 - x0, y1 - y0)
    height, width = mask.shape
    left, right = np.clip((x0 + shift[0], x1 + shift[2]), 0, width)
    top, bottom = np.clip((y0 + shift[1], y1 + shift[3]), 0, height)
    return [(left, top), (right, bottom)]


def beside(masks: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels that are clearly background, from (N, H, W) bool."""
    free = (~masks.any(axis=0)).astype(np.uint8)
    return cv2.distanceTransform(free, cv2.DIST_L2, 3) > BACKGROUND_MARGIN


def corrective_click(
    guess: np.ndarray, target: np.ndarray, rng: np.random.Generator
) -> tuple[tuple[int, int], int]:
    """A pixel (x, y), mostly deep inside what ``guess`` (H, W) got wrong, and its true label; where
    nothing is wrong, any pixel."""
    wrong = guess ^ target
    place = wrong if wrong.any() else np.ones_like(wrong)
    x, y = sample_click(place, rng, power=2.0)
    return (x, y), int(target[y, x])


def _first_prompt(
    kind: str, target: np.ndarray, rng: np.random.Generator
) -> tuple[list[tuple[float, float]], list[int]]:
    points, labels = [], []
    if "box" in kind:
        points, labels = sample_box(target, rng), list(LABEL_BOX)
    if "click" in kind:
        points.append(sample_click(target, rng, power=float(rng.choice([0.0, 1.0, 2.0]))))
        labels.append(1)
    if kind == "two clicks":
        label = int(rng.random() < 0.4)
        place = target if label else ~target
        points.append(sample_click(place, rng, power=0.0))
        labels.append(label)
    return points, labels


def draw_batch(
    stills: list[Still],
    rng: np.random.Generator,
    *,
    images: int,
    prompts: int,
    background: float,
) -> PromptBatch:
    """``images`` pictures with ``prompts`` prompts each, ``background`` of the clicks beside every
    creature. One kind of prompt for the whole batch, so that no prompt needs padding, which SAM's
    decoder would see; objects, clicks, mirror and colours are drawn for each."""
    kind = str(rng.choice(list(PROMPTS), p=list(PROMPTS.values())))
    pictures, targets, points, labels = [], [], [], []
    for at in rng.integers(len(stills), size=images):
        image, masks = _vary(stills[at], rng)
        pictures.append(image)
        outside = beside(masks)
        for _ in range(prompts):
            target = masks[rng.integers(len(masks))]
            if kind == "click" and outside.any() and rng.random() < background:
                place, target = sample_click(outside, rng, power=0.0), np.zeros_like(target)
                point, label = [place], [1]
            else:
                point, label = _first_prompt(kind, target, rng)
            targets.append(target)
            points.append(point)
            labels.append(label)
    shape = (images, prompts)
    target_array = np.stack(targets)
    return PromptBatch(
        images=to_pixels(np.stack(pictures)),
        targets=target_array.reshape(*shape, *target_array.shape[1:]),  # (B, P, H, W)
        points=np.array(points, np.float32).reshape(*shape, -1, 2),  # (B, P, n, 2)
        labels=np.array(labels, np.int64).reshape(*shape, -1),  # (B, P, n)
    )


def _vary(still: Still, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mirrors half the stills and gives three in ten other colours: a red cat may be blue."""
    image, masks = still.image, still.masks
    if rng.random() < 0.5:
        image, masks = image[:, ::-1], masks[:, :, ::-1]
    if rng.random() < 0.3:
        image = image[:, :, rng.permutation(3)]
        level, gain = rng.uniform(-25, 25), rng.uniform(0.8, 1.15)
        image = np.clip(image * gain + level, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image), np.ascontiguousarray(masks)


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) uint8 to (B, 3, S, S) float32 as ``new_processor`` would hand them over."""
    processor = Sam2ImageProcessor
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
    pixels = F.interpolate(pixels, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (processor.image_mean, processor.image_std)
    )
    return (pixels - mean) / std


def correct(
    batch: PromptBatch, guesses: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points and labels of ``batch`` with one corrective click more for each guess (B, P, H, W)."""
    rows = batch.targets.shape[:2]
    points = np.empty((*rows, 1, 2), np.float32)
    labels = np.empty((*rows, 1), np.int64)
    for at in np.ndindex(*rows):
        points[at][0], labels[at][0] = corrective_click(guesses[at], batch.targets[at], rng)
    return (
        np.concatenate([batch.points, points], axis=2),  # (B, P, n + 1, 2)
        np.concatenate([batch.labels, labels], axis=2),  # (B, P, n + 1)
    )
