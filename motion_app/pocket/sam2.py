"""Trains the pocket's ``Sam2Model`` on rendered stills, from clicks and boxes as people draw."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Sam2Model

from motion_app.evaluation.metrics import mask_iou
from motion_app.models.clicks import ClickSegmenter
from motion_app.pocket.optim import MuonAdam, keep_freed_memory, split_parameters
from motion_app.pocket.sam2_network import IMAGE_SIZE, new_sam2
from motion_app.pocket.sam2_prompts import (
    PromptBatch,
    beside,
    correct,
    corrective_click,
    draw_batch,
    draw_stills,
    sample_box,
    sample_click,
)
from motion_app.scene import Box, Click
from motion_app.world.world import WorldConfig

log = logging.getLogger(__name__)

WIDE_WORLD = WorldConfig(level=1)  # rotation and limbs included, whatever the video model learns


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
        batch = draw_batch(
            stills,
            rng,
            images=training.images,
            prompts=training.prompts,
            background=training.background,
        )
        loss, score = _step_loss(model, batch, rng, training)
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
        one = mask_iou(answer.mask, target)
        (x, y), label = corrective_click(answer.mask, target, rng)
        two = mask_iou(segmenter.predict([near, Click(x, y, bool(label))]).mask, target)
        anywhere = segmenter.predict([Click(*sample_click(target, rng, power=0.0))])
        (x0, y0), (x1, y1) = sample_box(target, rng)
        boxed = segmenter.predict(box=Box(x0, y0, x1, y1))
        free = beside(still.masks)
        empty = segmenter.predict([Click(*sample_click(free, rng, power=0.0))]).score
        error = abs(answer.score - one)
        ious = one, mask_iou(anywhere.mask, target), two, mask_iou(boxed.mask, target)
        rows.append((*ious, error, empty))
    return Sam2Figures(*(float(value) for value in np.mean(rows, axis=0)))
