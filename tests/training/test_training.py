"""Learning a motion, on a tiny random model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from motion_app.engine.motion_tokens import MotionTokens
from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import CheckpointError, GenerationCancelled, MediaError, RequestError
from motion_app.media.files import Clip, read_clip, write_video
from motion_app.scene import Click
from motion_app.training.config import MotionTraining
from motion_app.training.inputs import ClipSelection, TrainingInputs, read_selection, select
from motion_app.training.mover import (
    carry_mask,
    follow_by_movement,
    follow_mover,
    inner_points,
    moves,
    moving_region,
)
from motion_app.training.seen_clips import read_clips
from motion_app.training.tokens import TrainingRun, prepare_lesson, reaching
from motion_app.training.trainer import (
    TrainingReport,
    held_out_scene,
    train_motion,
)
from motion_app.training.views import ViewConfig, draw_views, grid_masks
from motion_app.world.world import WorldConfig, draw_scene, render

FIXTURES = Path(__file__).parents[1] / "fixtures" / "media"
TINY = {
    "steps": 6,
    "batch": 2,
    "tokens": 3,
    "views": 3,
    "learning_rate": 0.05,
    "checkpoint_every": 2,
}


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> MotionEngine:
    return MotionEngine.load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def reference() -> tuple[Clip, np.ndarray]:
    scene = draw_scene(
        np.random.default_rng(2), WorldConfig(height=32, width=48), objects=1, motions=["jump"]
    )
    clip = render(scene)
    return Clip(clip.frames, 8.0), clip.masks[0]


def learned(path: Path) -> torch.Tensor:
    return torch.stack(list(MotionTokens.load(path).layers)).detach()


@pytest.mark.parametrize("mask", ["dmem", "given", "none"])
def test_killed_and_resumed_training_is_undisturbed_training(
    mask: str, engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    clip, object_mask = reference
    config = MotionTraining(name="jump", noun="red cat", mask=mask, **TINY)
    masks = [object_mask]
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    train_motion([clip], config, engine=engine, out=whole, masks=masks)

    def killed_at_three(report: TrainingReport) -> None:
        if report.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_motion(
            [clip], config, engine=engine, out=broken, masks=masks, on_progress=killed_at_three
        )
    steps = []
    train_motion(
        [clip],
        config,
        engine=engine,
        out=broken,
        masks=masks,
        on_progress=lambda report: steps.append(report.step),
    )
    assert steps == [3, 4, 5, 6], "it goes on from the last checkpoint, step 2"
    assert torch.equal(learned(whole), learned(broken))
    assert not broken.with_name(broken.name + ".training").exists()


def test_training_moves_the_tokens_and_nothing_else(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    before = {n: p.clone() for n, p in engine.backbone.transformer.named_parameters()}
    processors = dict(engine.backbone.transformer.attn_processors)
    losses = []
    motion = train_motion(
        [reference[0]],
        MotionTraining(name="jump", noun="red cat", **TINY),
        engine=engine,
        out=tmp_path / "jump.safetensors",
        track=[(1.0, 2.0), (3.0, 4.0)],
        on_progress=lambda report: losses.append(report.loss),
    )
    assert all(torch.equal(before[n], p) for n, p in engine.backbone.transformer.named_parameters())
    assert engine.backbone.transformer.attn_processors == processors
    assert motion.base == engine.fingerprint and motion.track == ((1.0, 2.0), (3.0, 4.0))
    assert motion.preview is not None and motion.preview.stat().st_size > 0
    assert len(losses) == 6 and np.isfinite(losses).all()


def test_cancelling_keeps_what_was_learned(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    out = tmp_path / "jump.safetensors"
    config = MotionTraining(name="jump", noun="red cat", **TINY)
    with pytest.raises(GenerationCancelled, match="step 1 of 6"):
        train_motion([reference[0]], config, engine=engine, out=out, on_progress=lambda _: False)
    assert out.with_name(out.name + ".training").exists() and not out.exists()
    other = MotionTraining(name="jump", noun="red cat", **{**TINY, "steps": 7})
    with pytest.raises(RequestError, match="other settings"):
        train_motion([reference[0]], other, engine=engine, out=out)


def test_an_unfinished_training_of_before_a_setting_existed_is_resumed(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    out = tmp_path / "jump.safetensors"
    config = MotionTraining(name="jump", noun="red cat", **TINY)
    with pytest.raises(GenerationCancelled):
        train_motion([reference[0]], config, engine=engine, out=out, on_progress=lambda _: False)
    file = out.with_name(out.name + ".training")
    state = torch.load(file, weights_only=True)
    settings = json.loads(state["config"])
    del settings["sample_latents"]
    torch.save(state | {"config": json.dumps(settings)}, file)
    sampled = replace(config, sample_latents=True)
    with pytest.raises(RequestError, match="other settings"):
        train_motion([reference[0]], sampled, engine=engine, out=out)
    assert train_motion([reference[0]], config, engine=engine, out=out).steps == 6


def test_views_keep_the_mask_on_the_object(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray]
) -> None:
    clip, mask = reference
    frames, masks = draw_views(
        [clip], engine.geometry, ViewConfig(count=4, zoom=(0.8, 1.2)), seed=0, masks=[mask]
    )
    assert frames.shape == (4, 13, 32, 48, 3) and masks.shape == (4, 13, 32, 48)
    assert np.array_equal(frames[0], clip.frames) and np.array_equal(masks[0], mask)
    colour = np.median(clip.frames[0][mask[0]], axis=0)
    for view, where in zip(frames, masks, strict=True):
        assert np.abs(np.median(view[0][where[0]], axis=0) - colour).max() < 40
    assert grid_masks(masks, engine.geometry).shape == (4, 7, 8, 12)


def test_mistakes_are_named(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    out = tmp_path / "x.safetensors"
    config = MotionTraining(name="x", noun="red cat", **TINY)
    with pytest.raises(RequestError, match="no reference clip"):
        train_motion([], config, engine=engine, out=out)
    short = Clip(reference[0].frames[:5], 8.0)
    with pytest.raises(MediaError, match="at least 1.6 s"):
        train_motion([short], config, engine=engine, out=out)
    for wrong in ({"steps": 0}, {"name": " "}, {"noun": ""}, {"mask": "magic"}):
        with pytest.raises(RequestError):
            MotionTraining(**{"name": "x", **wrong})
    with pytest.raises(CheckpointError, match="colour"):
        MotionTraining.for_checkpoint({"colour": 1}, name="x")


def test_a_training_with_videos_on_the_way_learns_the_same_tokens(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    plain = MotionTraining(name="jump", noun="red cat", **TINY)
    watched = MotionTraining(
        name="jump", noun="red cat", **TINY, validate_every=2, validation_steps=2
    )
    train_motion([reference[0]], plain, engine=engine, out=tmp_path / "plain.safetensors")
    videos = {}

    def news(report: TrainingReport) -> None:
        if report.validation is not None:
            videos[report.validation.step] = report.validation.frames

    out = tmp_path / "watched.safetensors"
    train_motion([reference[0]], watched, engine=engine, out=out, on_progress=news)
    assert torch.equal(learned(tmp_path / "plain.safetensors"), learned(out))
    assert list(videos) == [2, 4, 6]
    assert all(frames.shape == (13, 32, 48, 3) for frames in videos.values())
    assert sorted(path.name for path in tmp_path.glob("watched*")) == [
        "watched.mp4",
        "watched.safetensors",
    ]


def test_a_training_killed_between_its_videos_resumes_to_the_same_tokens(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    watched = MotionTraining(
        name="jump", noun="red cat", **TINY, validate_every=1, validation_steps=1
    )
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    train_motion([reference[0]], watched, engine=engine, out=whole)
    with pytest.raises(GenerationCancelled):
        train_motion(
            [reference[0]],
            watched,
            engine=engine,
            out=broken,
            on_progress=lambda report: report.step < 3,
        )
    reports: list[TrainingReport] = []
    plain = MotionTraining(name="jump", noun="red cat", **TINY)
    train_motion([reference[0]], plain, engine=engine, out=broken, on_progress=reports.append)
    assert torch.equal(learned(whole), learned(broken))
    assert [len(report.losses) for report in reports] == [4, 5, 6]


@pytest.mark.parametrize("mask", ["dmem", "given", "none"])
def test_every_step_tells_what_was_seen(
    mask: str, engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    reports: list[TrainingReport] = []
    train_motion(
        [reference[0]],
        MotionTraining(name="jump", noun="red cat", mask=mask, **TINY),
        engine=engine,
        out=tmp_path / "jump.safetensors",
        masks=[reference[1]],
        on_progress=reports.append,
    )
    assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6]
    assert reports[0].learning_rate > reports[-1].learning_rate > 0
    assert reports[-1].losses == tuple(report.loss for report in reports)
    assert reports[-1].smoothed == pytest.approx(np.mean(reports[-1].losses))
    assert all(report.view_frames.shape == (7, 32, 48, 3) for report in reports)
    if mask == "none":
        assert all(report.view_mask is None for report in reports)
    else:
        assert all(report.view_mask.shape == (7, 8, 12) for report in reports)
        assert any(report.view_mask.any() and not report.view_mask.all() for report in reports)


def test_given_masks_reach_as_far_as_the_settings_say() -> None:
    masks = torch.zeros(1, 3, 8, 12, dtype=torch.bool)
    for frame, column in enumerate((2, 5, 9)):
        masks[0, frame, 4, column] = True
    assert torch.equal(reaching(masks, "frame"), masks)
    grown = reaching(masks, "grown")
    assert grown[0, 0].nonzero().tolist() == [[y, x] for y in (3, 4, 5) for x in (1, 2, 3)]
    swept = reaching(masks, "swept")
    for frame in range(3):
        assert swept[0, frame].nonzero().tolist() == [[4, 2], [4, 5], [4, 9]]
    with pytest.raises(RequestError, match='"wide".*frame, grown, swept, lagging'):
        MotionTraining(name="jump", noun="red cat", mask_reach="wide", **TINY)


def test_the_reach_counts_for_what_is_learned(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    seen = {}
    for reach in ("frame", "swept"):
        reports: list[TrainingReport] = []
        train_motion(
            [reference[0]],
            MotionTraining(name="jump", noun="red cat", mask="given", mask_reach=reach, **TINY),
            engine=engine,
            out=tmp_path / f"{reach}.safetensors",
            masks=[reference[1]],
            on_progress=reports.append,
        )
        seen[reach] = reports[0].view_mask
    assert (seen["swept"] == seen["swept"][:1]).all()
    assert np.array_equal(seen["swept"][0], seen["frame"].any(axis=0))


def test_lagging_masks_show_a_step_no_more_than_a_generation_knows(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    config = MotionTraining(
        name="jump", noun="red cat", mask="given", mask_reach="lagging", **TINY | {"steps": 24}
    )
    true = replace(config, mask_reach="frame")
    lesson = prepare_lesson([reference[0]], config, engine.backbone, masks=[reference[1]])
    run = TrainingRun(lesson, config, engine.backbone, tmp_path / "a.safetensors")
    truths = lesson.views.object_masks.numpy()
    view = next(i for i, mask in enumerate(truths) if (mask[0] != mask[-1]).any())

    def missed(noise: float, run: TrainingRun = run) -> float:
        rng = np.random.default_rng(4)
        drawn = [run._sample(view, noise, rng).object_masks[0].numpy() for _ in range(60)]
        return float(np.mean([mask != truths[view] for mask in drawn]))

    assert missed(0.0) < missed(0.6) < missed(1.0)
    exact = TrainingRun(lesson, true, engine.backbone, tmp_path / "b.safetensors")
    assert missed(1.0, exact) == 0.0
    behind = 0
    for _ in range(config.steps):
        run.advance()
        behind += not any(np.array_equal(run.view_mask(), mask) for mask in truths)
    assert 0 < behind < config.steps, "what is shown is what the step saw"


def test_a_loss_that_is_no_number_stops_and_keeps_the_good_steps(
    engine: MotionEngine,
    reference: tuple[Clip, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sound = TrainingRun.loss

    def broken_at_four(run: TrainingRun) -> torch.Tensor:
        return sound(run) * (float("nan") if run.step == 3 else 1.0)

    out = tmp_path / "jump.safetensors"
    config = MotionTraining(name="jump", noun="red cat", **TINY)
    with monkeypatch.context() as patched:
        patched.setattr(TrainingRun, "loss", broken_at_four)
        with pytest.raises(RequestError, match="broke off in step 4 of 6: loss nan"):
            train_motion([reference[0]], config, engine=engine, out=out)
    state = torch.load(out.with_name(out.name + ".training"), weights_only=True)
    assert state["step"] == 3
    assert all(torch.isfinite(tokens).all() for tokens in state["tokens"].values())
    train_motion([reference[0]], config, engine=engine, out=out)
    train_motion([reference[0]], config, engine=engine, out=tmp_path / "whole.safetensors")
    assert torch.equal(learned(out), learned(tmp_path / "whole.safetensors"))


def numbered_clip(count: int, height: int = 40, width: int = 60) -> Clip:
    """Every pixel tells its frame, row and column."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0] = np.arange(count)[:, None, None]
    frames[..., 1] = np.arange(height)[:, None]
    frames[..., 2] = np.arange(width)
    return Clip(frames, 8.0)


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0.0, None, range(24)),
        (0.5, 1.0, range(4, 8)),
        (0.51, 1.0, range(5, 8)),
        (1.125, 1.5, range(9, 12)),
        (2.0, 99.0, range(16, 24)),
    ],
)
def test_a_trimmed_clip_has_exactly_the_frames_between(
    start: float, stop: float | None, expected: range
) -> None:
    chosen = select(numbered_clip(24), ClipSelection(Path("c.mp4"), start=start, stop=stop)).clip
    assert chosen.frames[:, 0, 0, 0].tolist() == list(expected)


def test_a_cropped_clip_has_exactly_the_pixels_of_the_box_and_the_mover_moves_along() -> None:
    whole = numbered_clip(3)
    selection = ClipSelection(Path("c.mp4"), box=(0.25, 0.1, 0.75, 0.9), mover=(0.5, 0.5))
    chosen = select(whole, selection)
    assert np.array_equal(chosen.clip.frames, whole.frames[:, 4:36, 15:45])
    x, y = chosen.mover
    assert chosen.clip.frames[0, round(y), round(x)].tolist() == [0, 20, 30]


def test_what_cannot_be_selected_is_named() -> None:
    for wrong in (
        {"start": -1.0},
        {"start": float("nan")},
        {"start": 2.0, "stop": 1.0},
        {"box": (0.5, 0.0, 0.2, 1.0)},
        {"box": (0.0, 0.0, 1.5, 1.0)},
        {"mover": (0.1, 1.0)},
        {"mover": (0.1, 0.5), "box": (0.5, 0.0, 1.0, 1.0)},
    ):
        with pytest.raises(RequestError, match=r"c\.mp4"):
            ClipSelection(Path("c.mp4"), **wrong)
    with pytest.raises(MediaError, match=r"nothing of c\.mp4 is left from 9 s on"):
        select(numbered_clip(24), ClipSelection(Path("c.mp4"), start=9.0))
    with pytest.raises(MediaError, match="12×32 pixels"):
        select(numbered_clip(24), ClipSelection(Path("c.mp4"), box=(0.0, 0.1, 0.2, 0.9)))


def test_a_selection_of_a_file_is_what_training_gets(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    frames = np.concatenate([reference[0].frames] * 2)
    write_video(tmp_path / "c.mp4", frames, 8.0)
    selection = ClipSelection(tmp_path / "c.mp4", start=13 / 8)
    config = MotionTraining(name="jump", noun="red cat", **TINY)
    train_motion([selection], config, engine=engine, out=tmp_path / "a.safetensors")
    part = read_selection(selection, fps=8.0).clip
    train_motion([part], config, engine=engine, out=tmp_path / "b.safetensors")
    assert torch.equal(learned(tmp_path / "a.safetensors"), learned(tmp_path / "b.safetensors"))


def colour_segment(image: np.ndarray, clicks: list[Click]) -> np.ndarray:
    """Everything near the colours under the clicks: blind to which of two equal things is meant."""
    colours = np.stack([image[round(c.y), round(c.x)] for c in clicks]).astype(int)
    distance = np.abs(image[:, :, None].astype(int) - colours).max(-1).min(-1)
    return distance < 24


def test_the_mover_is_followed_and_a_twin_elsewhere_is_not_taken() -> None:
    frames = np.full((12, 64, 96, 3), 90, np.uint8)
    frames += np.random.default_rng(0).integers(0, 30, (64, 96, 1), dtype=np.uint8)
    truth = np.zeros((12, 64, 96), bool)
    for t in range(12):
        truth[t, 10 + 2 * t : 26 + 2 * t, 8 + t : 24 + t] = True
        frames[t][truth[t]] = (220, 60, 40)
        frames[t, 20:36, 70:86] = (220, 60, 40)
    masks = follow_mover(frames, (15.0, 17.0), right_at_first(truth[0]))
    overlap = [(a & b).sum() / (a | b).sum() for a, b in zip(masks, truth, strict=True)]
    assert min(overlap) > 0.7
    assert not masks[:, 20:36, 70:86].any()


def right_at_first(first: np.ndarray):
    """Right in the first frame; afterwards it marks the twin as well."""
    answers = iter([first])

    def segment(image: np.ndarray, clicks: list[Click]) -> np.ndarray:
        return next(answers, colour_segment(image, clicks))

    return segment


def test_a_mask_is_carried_by_the_flow_it_is_given() -> None:
    mask = np.zeros((20, 30), bool)
    mask[5:10, 6:12] = True
    flow = np.zeros((20, 30, 2), np.float32)
    flow[..., 0], flow[..., 1] = -4, -3  # what is here now was 4 px to the left and 3 above
    assert np.array_equal(carry_mask(mask, flow), np.roll(mask, (3, 4), (0, 1)))


def test_inner_points_lie_inside_and_apart() -> None:
    mask = np.zeros((40, 80), bool)
    mask[10:20, 5:75] = True
    points = inner_points(mask)
    assert len(points) == 3 and all(mask[round(p.y), round(p.x)] for p in points)
    assert min(abs(a.x - b.x) for a in points for b in points if a is not b) >= 10


def test_nothing_at_the_point_and_a_lost_mover_are_named() -> None:
    frames = np.zeros((5, 32, 48, 3), np.uint8)
    with pytest.raises(MediaError, match=r"nothing was found in clip 2 at \(9, 9\)"):
        follow_mover(frames, (9, 9), lambda image, clicks: np.zeros((32, 48), bool), name="clip 2")


def test_movers_must_be_pointed_at_in_every_clip(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    write_video(tmp_path / "c.mp4", reference[0].frames, 8.0)
    with_mover = ClipSelection(tmp_path / "c.mp4", mover=(0.5, 0.5))
    config = MotionTraining(name="jump", noun="red cat", **TINY)
    out = tmp_path / "x.safetensors"
    with pytest.raises(RequestError, match="clip 2 has no mover"):
        train_motion([with_mover, tmp_path / "c.mp4"], config, engine=engine, out=out)
    with pytest.raises(RequestError, match="a mover needs a segmenter"):
        train_motion([with_mover], config, engine=engine, out=out)


def test_a_mover_s_masks_are_the_given_ones(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    write_video(tmp_path / "c.mp4", reference[0].frames, 8.0)
    mask = reference[1][0]
    y, x = (int(np.median(side)) for side in np.nonzero(mask))
    selection = ClipSelection(tmp_path / "c.mp4", mover=(x / 48, y / 32))
    reports: list[TrainingReport] = []
    train_motion(
        [selection],
        MotionTraining(name="jump", noun="red cat", **TINY),
        engine=engine,
        out=tmp_path / "x.safetensors",
        segment=lambda image, clicks: mask,
        on_progress=reports.append,
    )
    seen = np.stack([report.view_mask for report in reports])
    assert seen.any() and seen.mean() < 0.5


def test_the_held_out_picture_is_another_one_and_its_mask_fits_it(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray]
) -> None:
    clip, masks = reference
    scene = held_out_scene(clip, engine.geometry, mask=masks[0])
    assert np.array_equal(scene.mask, masks[0][:, ::-1])
    assert np.abs(scene.image.astype(int) - clip.frames[0][:, ::-1]).max() > 60
    found = moving_region(clip.frames)
    assert (found & masks.any(0)).sum() > 0.5 * found.sum(), "what moves is the creature"


def test_what_moves_is_followed_without_a_click_and_nothing_is_made_up(
    reference: tuple[Clip, np.ndarray],
) -> None:
    clip, masks = reference
    followed = follow_by_movement(clip.frames)
    assert followed is not None and followed.shape == masks.shape
    assert (followed & masks).sum() > 0.5 * followed.sum()
    assert follow_by_movement(clip.frames[:1].repeat(5, axis=0)) is None

    def truth(image: np.ndarray, clicks: Sequence[Click]) -> np.ndarray:
        return next(
            mask for frame, mask in zip(clip.frames, masks, strict=True) if (frame == image).all()
        )

    assert np.array_equal(follow_by_movement(clip.frames, truth), masks), "a sharper edge"
    for answer in (np.zeros_like(masks[0]), np.ones_like(masks[0])):  # nothing, or all of it
        kept = follow_by_movement(clip.frames, lambda image, clicks, answer=answer: answer)
        assert np.array_equal(kept, followed)


def test_training_inputs_survive_json(tmp_path: Path) -> None:
    clips = (
        ClipSelection(tmp_path / "a.mp4", start=0.5, stop=2.0, mover=(0.5, 0.25)),
        ClipSelection(tmp_path / "b.mp4", box=(0.0, 0.1, 0.5, 1.0), mover=(0.25, 0.5)),
    )
    inputs = TrainingInputs("jump", "jumps", "cat", clips, steps=9, validate_every=3)
    assert TrainingInputs.from_json(inputs.to_json(), tmp_path) == inputs


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": " "}, "the name of the motion"),
        ({"phrase": 7}, "the phrase of the motion"),
        ({"method": "magic"}, 'unknown method "magic"'),
        ({"steps": 0}, "steps is 0"),
        ({"steps": True}, "steps is True"),
        ({"validate_every": 1.5}, "validate_every is 1.5"),
        ({"clips": [], "trim": [], "crop": [], "mover": []}, "no reference clip came"),
        ({"clips": "a.mp4"}, "clips must be a list"),
        ({"crop": [None, None]}, "crop must have one entry"),
        ({"trim": [[1]]}, r"trim must be \[start, stop\]"),
        ({"mover": [["a", "b"]]}, "a clip must be"),
    ],
)
def test_inputs_that_cannot_be_learned_are_refused(
    changes: dict, complaint: str, tmp_path: Path
) -> None:
    sound = TrainingInputs("jump", "jumps", "cat", (ClipSelection(tmp_path / "a.mp4"),)).to_json()
    with pytest.raises(RequestError, match=complaint):
        TrainingInputs.from_json(sound | changes, tmp_path)


def test_a_clip_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    entries = {"name": "jump", "phrase": "jumps", "noun": "cat", "clips": ["../../etc/passwd"]}
    assert TrainingInputs.from_json(entries, tmp_path).clips[0].file == tmp_path / "passwd"


# clips of another shape, and clips in which nothing moves ----------------------------------------


def test_a_preview_of_a_clip_of_another_shape_is_cut_never_squashed(
    engine: MotionEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = np.full((16, 96, 48, 3), 60, np.uint8)
    for t in range(16):  # a ball on a portrait clip that falls by two pixels a frame
        cv2.circle(frames[t], (24, 36 + 2 * t), 10, (240, 240, 240), -1)
    config = MotionTraining(name="fall", noun="ball", **{**TINY, "steps": 1})
    motion = train_motion(
        [Clip(frames, 8.0)], config, engine=engine, out=tmp_path / "fall.safetensors"
    )
    shown = read_clip(motion.preview).frames
    geometry = engine.geometry
    assert shown.shape[1] * geometry.width == shown.shape[2] * geometry.height
    bright = shown[3].mean(axis=-1) > 150
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    assert abs((rows[-1] - rows[0]) - (columns[-1] - columns[0])) <= 2  # still a circle
    assert "clip 1: 48×96 → 48×32, cut off 32 px above and below" in caplog.text


def test_a_clip_with_odd_sides_has_a_preview(engine: MotionEngine, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (16, 33, 47, 3), dtype=np.uint8)
    config = MotionTraining(name="noise", noun="ball", **{**TINY, "steps": 1})
    motion = train_motion(
        [Clip(frames, 8.0)], config, engine=engine, out=tmp_path / "n.safetensors"
    )
    assert motion.preview is not None


def test_a_clip_in_which_nothing_moves_is_refused_unless_that_is_meant(
    engine: MotionEngine, tmp_path: Path
) -> None:
    still = FIXTURES / "still.mp4"
    config = MotionTraining(name="stand", noun="ball", **{**TINY, "steps": 1})
    out = tmp_path / "stand.safetensors"
    with pytest.raises(RequestError, match=r"nothing moves in still\.mp4.*--still"):
        train_motion([still], config, engine=engine, out=out)
    assert list(tmp_path.iterdir()) == []
    assert train_motion([still], config, engine=engine, out=out, still=True).name == "stand"


def test_what_is_chosen_of_a_clip_must_move(engine: MotionEngine, tmp_path: Path) -> None:
    frames = np.full((32, 64, 96, 3), 90, np.uint8)
    for t in range(24, 32):
        frames[t, 20:40, 4 * (t - 20) : 4 * (t - 20) + 20] = 230
    file = tmp_path / "late.mp4"
    write_video(file, frames, 8.0)
    assert read_clips([file], fps=8.0)
    for chosen in ({"stop": 2.5}, {"box": (0.0, 0.7, 1.0, 1.0)}):
        with pytest.raises(RequestError, match=r"nothing moves in late\.mp4"):
            read_clips([ClipSelection(file, **chosen)], fps=8.0)


def test_small_movement_counts_and_noise_of_a_codec_does_not() -> None:
    rng = np.random.default_rng(0)
    frames = np.full((16, 360, 640, 3), 90, np.int16)
    noisy = np.clip(frames + rng.integers(-3, 4, frames.shape), 0, 255).astype(np.uint8)
    assert not moves(noisy)
    for t in range(16):
        noisy[t, 100:124, 100 + 4 * t : 124 + 4 * t] = 200
    assert moves(noisy)
    assert not moves(noisy[:1]) and not moves(noisy[:0])


def test_that_a_motion_stands_still_travels_with_the_job() -> None:
    asked = {"name": "stand", "phrase": "stands still", "noun": "ball", "clips": ["a.mp4"]}
    assert not TrainingInputs.from_json(asked, Path()).still
    inputs = TrainingInputs.from_json({**asked, "still": True}, Path())
    assert TrainingInputs.from_json(inputs.to_json(), Path()).still
