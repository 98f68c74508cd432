"""Trains the pocket's ``Sam2Model`` on rendered stills, from clicks and boxes as people draw."""

from __future__ import annotations

import copy
import json
import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

from motion_app.pocket.optim import MuonAdam, keep_freed_memory, split_parameters
from motion_app.pocket.world import WorldConfig, draw_scene, render
from motion_app.scene import Box, Click
from motion_app.segmentation import ClickSegmenter

log = logging.getLogger(__name__)

WIDE_WORLD = WorldConfig(level=1)  # rotation and limbs included, whatever the video model learns
IMAGE_SIZE = 256  # masks come out at 64 x 64: the best they can say about a creature is IoU .993
SMALLEST = 16  # visible pixels under which a creature is no target
BACKGROUND_MARGIN = 3.0  # pixels: a click nearer than this to a creature may mean the creature
LABEL_BOX = (2, 3)  # SAM's point labels of a box's two corners
PROMPTS = {"click": 0.6, "two clicks": 0.15, "box": 0.15, "box and click": 0.1}

WINDOWS = [8, 8, 16, 8]  # the third stage is 16 x 16: its windows see the whole picture
STAGES = [24, 48, 96, 192]
VISION_CONFIG = {
    "model_type": "sam2_vision_model",
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": STAGES[0],
        "image_size": [IMAGE_SIZE, IMAGE_SIZE],
        "blocks_per_stage": [1, 2, 3, 1],
        "embed_dim_per_stage": STAGES,
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": WINDOWS,
        "window_positional_embedding_background_size": [8, 8],
        "global_attention_blocks": [],
    },
    "backbone_channel_list": STAGES[::-1],
    "backbone_feature_sizes": [[IMAGE_SIZE // s] * 2 for s in (4, 8, 16)],
    "fpn_hidden_size": 64,
}
PROMPT_CONFIG = {"hidden_size": 64, "image_size": IMAGE_SIZE, "patch_size": 16}
DECODER_CONFIG = {
    "hidden_size": 64,
    "mlp_dim": 128,
    "attention_downsample_rate": 1,
    "num_attention_heads": 4,
    "iou_head_hidden_dim": 64,
}

EMBEDDING_SCALE = 0.3  # small beside the positions, so that attention starts by place
LOOK_GAIN = 1.6  # of the query = key start: a third of a head's attention lies on the click itself


@dataclass(frozen=True)
class Sam2Training:
    """``minutes`` of wall time on ``scenes`` clips of ``moments`` frames each; a step takes
    ``images`` pictures with ``prompts`` prompts each, so that one encoding serves them all.

    ``objects_share`` draws scenes of 1, 2, 3 creatures: only company teaches what a click is for.
    ``background`` is the share of clicks beside every creature, whose right answer is nothing.
    The encoder learns slower than prompts and decoder: at the decoder's rate its features outgrow
    the positions they are compared by (norm 180 against 6) and clicks stop mattering.
    ``focal``, ``dice``, ``iou`` and ``present`` weigh the losses (20, 1, 1, 1 in SAM 2; presence is
    less here, where nothing reads it); ``others`` the mean of all three candidates beside the best,
    for in this world a click is rarely ambiguous. ``seed`` draws everything.
    """

    minutes: float = 10.0
    scenes: int = 1500
    moments: int = 5
    images: int = 3
    prompts: int = 6
    objects_share: tuple[float, float, float] = (0.1, 0.4, 0.5)
    background: float = 0.08
    encoder_lr: float = 1.5e-3
    decoder_lr: float = 5e-3
    adam_lr: float = 2e-3
    weight_decay: float = 0.3
    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    present: float = 0.1
    others: float = 0.5
    seed: int = 0


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


@dataclass(frozen=True)
class Sam2Figures:
    """Mean IoU with the true mask over unseen scenes: one click in the interior, one click anywhere
    on the creature, a second click where the first went wrong, and a box alone.

    ``score_error`` is the mean distance of the predicted from the true IoU after one click,
    ``background`` the mean best score of clicks beside every creature (low is right).
    """

    one_click: float
    one_click_anywhere: float
    two_clicks: float
    box: float
    score_error: float
    background: float


def new_sam2() -> Sam2Model:
    """A fresh network of about a million parameters.

    transformers' start (std 0.02 everywhere) is meant for weights that are loaded afterwards: mask
    logits are a product of two things that would both be nearly 0, and nothing moves for minutes.
    So every layer starts as torch would start it, and clicks and pixels look at each other by place
    (queries and keys share weights) before anything is learned.
    """
    model = Sam2Model(
        Sam2Config(
            vision_config=VISION_CONFIG,
            prompt_encoder_config=PROMPT_CONFIG,
            mask_decoder_config=DECODER_CONFIG,
        )
    )
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            module.reset_parameters()
        if isinstance(module, nn.Embedding):
            module.weight.data *= EMBEDDING_SCALE
    for name, module in model.mask_decoder.named_modules():
        if name.endswith(("token_to_image", "image_to_token")):
            nn.init.orthogonal_(module.q_proj.weight, gain=LOOK_GAIN)
            module.k_proj.weight.data.copy_(module.q_proj.weight.data)
    # Clicks and pixels must speak of places in the same random frequencies to find each other.
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(
        model.shared_image_embedding.positional_embedding
    )
    return model


def new_processor() -> Sam2Processor:
    """The processor of ``new_sam2``: pictures of any size become IMAGE_SIZE squared."""
    return Sam2Processor(
        Sam2ImageProcessor(
            size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            mask_size={"height": IMAGE_SIZE // 4, "width": IMAGE_SIZE // 4},
        )
    )


def export_sam2(model: Sam2Model, folder: Path) -> None:
    """Writes fp16 weights, config and processor: ``Sam2Model.from_pretrained(folder)`` loads it."""
    copy.deepcopy(model).half().save_pretrained(folder)
    new_processor().save_pretrained(folder)


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
    stills: list[Still], rng: np.random.Generator, training: Sam2Training
) -> PromptBatch:
    """One kind of prompt for the whole batch, so that no prompt needs padding, which SAM's decoder
    would see; objects, clicks, mirror and colours are drawn for each."""
    kind = str(rng.choice(list(PROMPTS), p=list(PROMPTS.values())))
    images, targets, points, labels = [], [], [], []
    for at in rng.integers(len(stills), size=training.images):
        image, masks = _vary(stills[at], rng)
        images.append(image)
        outside = beside(masks)
        for _ in range(training.prompts):
            target = masks[rng.integers(len(masks))]
            if kind == "click" and outside.any() and rng.random() < training.background:
                place, target = sample_click(outside, rng, power=0.0), np.zeros_like(target)
                point, label = [place], [1]
            else:
                point, label = _first_prompt(kind, target, rng)
            targets.append(target)
            points.append(point)
            labels.append(label)
    shape = (training.images, training.prompts)
    target_array = np.stack(targets)
    return PromptBatch(
        images=to_pixels(np.stack(images)),
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


def mask_losses(
    logits: torch.Tensor, targets: torch.Tensor, training: Sam2Training
) -> tuple[torch.Tensor, torch.Tensor]:
    """Focal + dice loss (B, P, K) of the candidates' logits (B, P, K, H, W) for float targets
    (B, P, H, W), and their true IoU (B, P, K)."""
    wanted = targets[:, :, None].expand_as(logits)
    probability = logits.sigmoid()
    surprise = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    miss = probability + wanted - 2 * probability * wanted  # 1 - p of the true class
    focal = (miss.square() * surprise).mean(dim=(-2, -1))
    overlap = (probability * wanted).sum(dim=(-2, -1))
    dice = 1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + wanted.sum((-2, -1)) + 1)
    sure, real = logits.detach() > 0, wanted > 0.5
    union = (sure | real).sum(dim=(-2, -1))
    iou = (sure & real).sum(dim=(-2, -1)) / union.clamp(min=1)
    return training.focal * focal + training.dice * dice, iou


def answer_loss(
    output: object, targets: torch.Tensor, training: Sam2Training
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """The loss of one round, the mean IoU of the masks the model ranks first, and those masks
    (B, P, H, W) bool. The best candidate learns most, the others less, so that none dies."""
    batch, prompts, height, width = targets.shape
    logits = F.interpolate(
        output.pred_masks.flatten(0, 1), (height, width), mode="bilinear", align_corners=False
    ).unflatten(0, (batch, prompts))  # (B, P, K, H, W)
    losses, iou = mask_losses(logits, targets, training)
    best = losses.min(dim=-1).values + training.others * losses.mean(dim=-1)  # (B, P)
    present = (targets.amax(dim=(-2, -1)) > 0).float()
    loss = (
        best.mean()
        + training.iou * (output.iou_scores - iou).abs().mean()
        + training.present
        * F.binary_cross_entropy_with_logits(output.object_score_logits[..., 0], present)
    )
    chosen = output.iou_scores.argmax(dim=-1, keepdim=True)  # (B, P, 1)
    index = chosen[..., None, None].expand(-1, -1, 1, height, width)
    guesses = (logits.detach().gather(2, index)[:, :, 0] > 0).cpu().numpy()  # (B, P, H, W)
    shown = present > 0
    score = iou.gather(-1, chosen)[..., 0][shown].mean() if shown.any() else iou.new_ones(())
    return loss, score, guesses


def _step_loss(
    model: Sam2Model, batch: PromptBatch, rng: np.random.Generator, training: Sam2Training
) -> tuple[torch.Tensor, float]:
    """Two rounds on one encoding: the prompt, then the same with a corrective click."""
    device = next(model.parameters()).device
    targets = torch.from_numpy(batch.targets).to(device).float()
    height, width = batch.targets.shape[-2:]
    scale = torch.tensor([IMAGE_SIZE / width, IMAGE_SIZE / height], device=device)

    def prompt(points: np.ndarray, labels: np.ndarray) -> dict[str, torch.Tensor]:
        return {
            "input_points": torch.from_numpy(points).to(device) * scale,
            "input_labels": torch.from_numpy(labels).to(device),
        }

    output = model(pixel_values=batch.images.to(device), **prompt(batch.points, batch.labels))
    first, score, guesses = answer_loss(output, targets, training)
    # Several clicks leave little doubt: there SAM's single-mask token has its turn as well.
    output = model(
        image_embeddings=output.image_embeddings,
        multimask_output=bool(rng.random() < 0.7),
        **prompt(*correct(batch, guesses, rng)),
    )
    second, _, _ = answer_loss(output, targets, training)
    return first + second, float(score)


def _optimisers(model: Sam2Model, training: Sam2Training) -> list[MuonAdam]:
    """One for the encoder and one, faster, for prompts and decoder."""
    decoder = nn.ModuleList([model.prompt_encoder, model.mask_decoder])
    return [
        MuonAdam(
            *split_parameters(part, smallest=8),
            muon_lr=rate,
            adam_lr=training.adam_lr,
            weight_decay=training.weight_decay,
        )
        for part, rate in (
            (model.vision_encoder, training.encoder_lr),
            (decoder, training.decoder_lr),
        )
    ]


def train_sam2(
    folder: Path,
    training: Sam2Training,
    *,
    device: str = "cpu",
    config: WorldConfig = WIDE_WORLD,
) -> Sam2Model:
    """Trains for ``training.minutes``, saving ``folder/sam2.pt`` every minute (resumed when there),
    and returns the network ready for use."""
    keep_freed_memory()
    state_file = folder / "sam2.pt"
    torch.manual_seed(training.seed)
    model = new_sam2().to(device).train()
    optimisers = _optimisers(model, training)
    step, spent, losses, scores = 0, 0.0, [], []
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        step, spent = state["step"], state["spent"]
    rng = np.random.default_rng([training.seed, step])
    stills = draw_stills(
        training.scenes,
        moments=training.moments,
        seed=training.seed + 3000,
        config=config,
        objects_share=training.objects_share,
    )
    log.info("sam2: %s from step %d, %d stills", json.dumps(asdict(training)), step, len(stills))
    total, last_save, mark = training.minutes * 60, spent, time.monotonic()
    while spent < total:
        loss, score = _step_loss(model, draw_batch(stills, rng, training), rng, training)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        share = min(1.0, spent / total)
        for optimiser in optimisers:
            optimiser.step(min(1.0, (step + 1) / 30, 2.0 * (1 - share)))
        losses.append(loss.item())
        scores.append(score)
        step, now = step + 1, time.monotonic()
        spent, mark = spent + now - mark, now
        if spent - last_save > 60 or spent >= total:
            means = np.mean(losses), np.mean(scores)
            log.info("sam2 step %d %.0f s loss %.4f iou %.4f", step, spent, *means)
            losses, scores, last_save = [], [], spent
            state = {
                "model": model.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
            }
            torch.save({**state, "step": step, "spent": spent}, state_file)
    return model.eval()


def measure_sam2(
    segmenter: ClickSegmenter,
    scenes: int = 200,
    *,
    seed: int = 77,
    config: WorldConfig = WIDE_WORLD,
) -> Sam2Figures:
    """Clicks on a random creature of ``scenes`` unseen stills, through the code a person's take."""
    rng = np.random.default_rng(seed)
    stills = draw_stills(scenes, moments=3, seed=seed + 1, config=config)
    rows = []
    for still in (stills[i] for i in rng.choice(len(stills), size=scenes, replace=False)):
        target = still.masks[rng.integers(len(still.masks))]
        segmenter.set_image(still.image)
        near = Click(*sample_click(target, rng, power=2.0))
        answer = segmenter.predict([near])
        one = iou(answer.mask, target)
        (x, y), label = corrective_click(answer.mask, target, rng)
        two = iou(segmenter.predict([near, Click(x, y, bool(label))]).mask, target)
        anywhere = segmenter.predict([Click(*sample_click(target, rng, power=0.0))])
        (x0, y0), (x1, y1) = sample_box(target, rng)
        boxed = segmenter.predict(box=Box(x0, y0, x1, y1))
        free = beside(still.masks)
        empty = segmenter.predict([Click(*sample_click(free, rng, power=0.0))]).score
        error = abs(answer.score - one)
        rows.append((one, iou(anywhere.mask, target), two, iou(boxed.mask, target), error, empty))
    return Sam2Figures(*(float(value) for value in np.mean(rows, axis=0)))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two (H, W) bool masks; 1 where both are empty."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0
