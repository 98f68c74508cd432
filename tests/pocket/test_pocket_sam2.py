"""The pocket's SAM 2: prompts fall where people click, and training learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Sam2Model, Sam2Processor

from motion_app.models.clicks import ClickSegmenter
from motion_app.pocket import sam2, sam2_network, sam2_prompts
from motion_app.pocket.sam2 import Sam2Training
from motion_app.pocket.sam2_prompts import PromptBatch, Still

SMALL = Sam2Training(scenes=6, moments=2, images=2, prompts=3)


@pytest.fixture(scope="module")
def stills() -> list[Still]:
    return sam2_prompts.draw_stills(6, moments=2, seed=1, config=sam2.WIDE_WORLD)


def draw_batch(stills: list[Still], rng: np.random.Generator) -> PromptBatch:
    return sam2_prompts.draw_batch(stills, rng, images=2, prompts=3, background=SMALL.background)


def disc(x: int = 30, y: int = 20, radius: int = 9) -> np.ndarray:
    ys, xs = np.mgrid[:64, :96]
    return (xs - x) ** 2 + (ys - y) ** 2 <= radius**2


def test_the_same_seed_draws_the_same_stills(stills):
    again = sam2_prompts.draw_stills(6, moments=2, seed=1, config=sam2.WIDE_WORLD)
    assert all((a.image == b.image).all() for a, b in zip(stills, again, strict=True))
    assert all(mask.sum() >= sam2_prompts.SMALLEST for still in stills for mask in still.masks)


def test_clicks_fall_on_the_mask_and_deeper_with_more_power():
    rng, mask = np.random.default_rng(0), disc()
    depths = []
    for power in (0.0, 2.0):
        clicks = [sam2_prompts.sample_click(mask, rng, power=power) for _ in range(300)]
        assert all(mask[y, x] for x, y in clicks)
        depths.append(np.mean([9 - np.hypot(x - 30, y - 20) for x, y in clicks]))
    assert depths[1] > depths[0] + 0.5


def test_a_mask_that_fills_the_picture_can_be_clicked():
    x, y = sam2_prompts.sample_click(np.ones((64, 96), bool), np.random.default_rng(0), power=2.0)
    assert 0 <= x < 96 and 0 <= y < 64


def test_a_drawn_box_nearly_holds_its_creature():
    rng = np.random.default_rng(0)
    for _ in range(50):
        (x0, y0), (x1, y1) = sam2_prompts.sample_box(disc(), rng)
        assert abs(x0 - 21) < 5 and abs(x1 - 40) < 5 and abs(y0 - 11) < 5 and abs(y1 - 30) < 5


def test_a_corrective_click_says_what_was_wrong():
    rng, target = np.random.default_rng(0), disc()
    (x, y), label = sam2_prompts.corrective_click(np.zeros_like(target), target, rng)
    assert target[y, x] and label == 1
    guess = target | disc(x=70)
    (x, y), label = sam2_prompts.corrective_click(guess, target, rng)
    assert (guess ^ target)[y, x] and label == 0
    (x, y), label = sam2_prompts.corrective_click(target, target, rng)
    assert label == target[y, x]


def test_clicks_beside_the_creatures_keep_their_distance():
    free = sam2_prompts.beside(disc()[None])
    assert not (free & disc(radius=11)).any() and free[60, 90]


def test_a_batch_has_one_prompt_length_and_marks_its_clicks_truly(stills):
    rng = np.random.default_rng(0)
    lengths = set()
    for _ in range(60):
        batch = draw_batch(stills, rng)
        assert batch.images.shape == (2, 3, 256, 256) and batch.targets.shape == (2, 3, 64, 96)
        assert batch.points.shape == (*batch.labels.shape, 2)
        lengths.add(batch.labels.shape[-1])
        for at in np.ndindex(batch.labels.shape):
            x, y = batch.points[at].astype(int)
            target = batch.targets[at[:2]]
            if batch.labels[at] in (0, 1) and target.any():
                assert target[y, x] == batch.labels[at]
    assert lengths == {1, 2, 3}


def test_pixels_are_those_the_processor_would_hand_over(stills):
    image = stills[0].image
    theirs = sam2_network.new_processor()(images=image, return_tensors="pt")["pixel_values"]
    assert (
        sam2_prompts.to_pixels(image[None]) - theirs
    ).abs().max() < 0.02  # theirs rounds to uint8


def test_a_perfect_mask_loses_nothing_and_its_iou_is_one():
    target = torch.from_numpy(disc())[None, None].float()
    logits = torch.stack([40 * target - 20, 20 - 40 * target], dim=2)  # (1, 1, 2, H, W)
    loss, iou = sam2.mask_losses(logits, target, SMALL)
    assert loss[0, 0, 0] < 1e-3 < loss[0, 0, 1]
    assert iou[0, 0].tolist() == [1.0, 0.0]


def test_a_fresh_network_already_tells_two_places_apart():
    torch.manual_seed(0)
    model = sam2_network.new_sam2().eval()
    with torch.no_grad():
        masks = model(
            pixel_values=torch.zeros(1, 3, 256, 256),
            input_points=torch.tensor([[[[60.0, 60.0]], [[200.0, 200.0]]]]),
            input_labels=torch.ones(1, 2, 1, dtype=torch.long),
        ).pred_masks[0]  # (2, 3, 64, 64)
    assert (masks[0] - masks[1]).abs().mean() > 0.1 * masks.std()


def test_a_few_steps_on_one_picture_lower_the_loss(stills):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = sam2_network.new_sam2().train()
    optimisers = sam2._optimisers(model, SMALL)
    batch = draw_batch(stills, rng)
    losses = []
    for _ in range(5):
        loss, _ = sam2._step_loss(model, batch, rng, SMALL)
        loss.backward()
        for optimiser in optimisers:
            optimiser.step(1.0)
        losses.append(loss.item())
    assert min(losses[-2:]) < 0.9 * losses[0]


def test_training_goes_on_from_its_own_state(tmp_path, caplog):
    short = replace(SMALL, minutes=0.01)
    sam2.train_sam2(tmp_path, short)
    before = torch.load(tmp_path / "sam2.pt", weights_only=True)
    with caplog.at_level("INFO"):
        model = sam2.train_sam2(tmp_path, short)
    assert before["step"] >= 1 and f"from step {before['step']}" in caplog.text
    for name, weight in model.state_dict().items():  # its minutes were spent: nothing changes
        assert torch.equal(weight, before["model"][name])


def test_the_exported_folder_is_an_ordinary_one_and_clicks_work_on_it(tmp_path):
    torch.manual_seed(0)
    model = sam2_network.new_sam2()
    sam2_network.export_sam2(model, tmp_path)
    assert next(model.parameters()).dtype == torch.float32
    assert Sam2Model.from_pretrained(tmp_path).dtype == torch.float16
    for kind in (AutoProcessor, Sam2Processor):
        assert kind.from_pretrained(tmp_path).image_processor.size["height"] == 256
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 3e6
    figures = sam2.measure_sam2(ClickSegmenter.load(tmp_path, device="cpu"), scenes=3)
    assert 0 <= figures.one_click <= 1 and 0 <= figures.box <= 1
