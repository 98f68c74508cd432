"""The Evaluate tab without a browser: its texts, its state, and the adapters of the networks."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.models.optical_flow import raft_large
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    ViTConfig,
    ViTModel,
)

from motion_app.errors import CheckpointError
from motion_app.evaluation.catalogue import METRICS, default_ids
from motion_app.evaluation.networks import (
    Amt,
    ClipEmbedder,
    CoTracker,
    DinoEmbedder,
    I3d,
    Judges,
    QwenJudge,
    RaftFlow,
    Resnet3d,
    ScriptedNetwork,
    WeightStore,
    share_of_yes,
)
from motion_app.evaluation.report import Report, Row, Source
from motion_app.evaluation.scoring import ScoreProgress, Scores, _Sets, score_videos
from motion_app.evaluation.videos import EvaluationItem, JudgedObject, OpenedItem, ReferenceClip
from motion_app.library.library import Library
from motion_app.media.files import write_video
from motion_app.ui.evaluate.results import (
    Choice,
    EvaluationState,
    ScoringRun,
    choices_html,
    metrics_html,
    report_html,
)
from motion_app.ui.evaluate.tab import carried_methods
from motion_app.ui.markup import LANGUAGES, Texts

FRAMES = np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def judges_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks of the real classes with random weights, small, laid out as the app looks for
    them."""
    folder = tmp_path_factory.mktemp("judges")
    torch.manual_seed(0)
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    words = ["l</w>", "o</w>", "<|startoftext|>", "<|endoftext|>", "a</w>", "cat</w>", *"actlo"]
    words += ["ca", "t</w>"]
    config = CLIPConfig(
        text_config={
            **small,
            "vocab_size": len(words),
            "max_position_embeddings": 8,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    clip = folder / ClipEmbedder.source.name.split("/")[1]
    CLIPModel(config).save_pretrained(clip)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(clip)
    vocabulary = {word: k for k, word in enumerate(words)}
    CLIPTokenizer(vocab=vocabulary, merges=[("c", "a"), ("ca", "t</w>")]).save_pretrained(clip)
    dino = folder / DinoEmbedder.source.name.split("/")[1]
    vit = ViTConfig(**small, image_size=32, patch_size=8)
    ViTModel(vit, add_pooling_layer=False).save_pretrained(dino)
    torch.save(raft_large(weights=None).state_dict(), folder / RaftFlow.source.name)
    return folder


MARKS = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
TURN = (
    "{% for m in messages %}<|im_start|>{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>{% endfor %}<|im_start|>"
)


def save_tiny_judge(folder: Path) -> None:
    """Qwen2.5-VL of one layer that knows letters alone."""
    torch.manual_seed(0)
    letters = {letter: k for k, letter in enumerate("abcdefghijklmnopqrstuvwxyzISQA.?Ġ")}
    tokenizer = Qwen2Tokenizer(vocab=letters, merges=[], unk_token="<|endoftext|>")
    marks = [f"<|{mark}|>" for mark in MARKS]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    ids = dict(zip(MARKS, tokenizer.convert_tokens_to_ids(marks), strict=True))
    side = {"shortest_edge": 56 * 56, "longest_edge": 56 * 56}
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=side),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=TURN,
    ).save_pretrained(folder)
    small = {"hidden_size": 32, "intermediate_size": 32}
    text = {
        **small,
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "bos_token_id": None,
        "eos_token_id": ids["im_end"],
        "pad_token_id": ids["endoftext"],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [2, 3, 3],
        },
    }
    vision = {
        **small,
        "depth": 1,
        "num_heads": 2,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)


class Tracker(torch.nn.Module):
    """Points that stay, seen in all frames but the last."""

    def forward(
        self, video: torch.Tensor, queries: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tracks = queries[:, None, :, 1:].repeat(1, video.shape[1], 1, 1)
        visible = torch.ones(1, video.shape[1], queries.shape[1])
        visible[:, -1] = 0
        return tracks, visible


class Average(torch.nn.Module):
    """Two frames half-way; a stand-in for AMT's interface."""

    def forward(self, first: torch.Tensor, last: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return first * (1 - at) + last * at


class Brightness(torch.nn.Module):
    """The mean of whatever comes, over all but its batch and its colours."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(2).mean(dim=2)


def scripted(module: torch.nn.Module, file: Path) -> Path:
    torch.jit.save(torch.jit.script(module), str(file))
    return file


def test_clip_gives_the_same_embedding_for_the_same_frame_and_cuts_long_captions(
    judges_folder: Path,
) -> None:
    clip = ClipEmbedder(judges_folder / "clip-vit-base-patch32")
    twice = clip.images(np.concatenate([FRAMES, FRAMES[:1]]))
    assert twice.shape == (5, 8) and np.allclose(twice[0], twice[4], atol=1e-5)
    assert not np.allclose(twice[0], twice[1], atol=1e-5)
    assert clip.text("a cat").shape == (8,)
    assert np.isfinite(clip.text("a cat " * 40)).all()


def test_dino_sees_the_middle_of_the_picture_alone(judges_folder: Path) -> None:
    dino = DinoEmbedder(judges_folder / "dino-vitb16")
    changed = FRAMES.copy()
    changed[:, :, :8] = 0  # the crop begins farther in
    assert dino.images(FRAMES).shape == (4, 16)
    assert np.allclose(dino.images(FRAMES), dino.images(changed), atol=1e-4)
    changed[:, 24:40, 40:56] = 0
    assert not np.allclose(dino.images(FRAMES), dino.images(changed), atol=1e-4)


def test_raft_gives_flow_of_the_frames_own_size_and_refuses_other_weights(
    judges_folder: Path, tmp_path: Path
) -> None:
    raft = RaftFlow(judges_folder / RaftFlow.source.name)
    flow = raft.flow(FRAMES[:2], updates=1)
    assert flow.forward.shape == flow.backward.shape == (1, 64, 96, 2)
    assert np.isfinite(flow.forward).all()
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="raft_large"):
        RaftFlow(tmp_path / "other.pth")


def test_a_tracker_is_asked_in_x_and_y_and_answers_in_y_and_x(tmp_path: Path) -> None:
    points = np.array([[3.0, 40], [60, 5]])
    tracks = CoTracker(scripted(Tracker(), tmp_path / "t.pt")).track(FRAMES, points)
    assert np.array_equal(tracks.points, points[:, None].repeat(4, axis=1))
    assert tracks.visible[:, :3].all() and not tracks.visible[:, 3].any()


def test_interpolated_frames_stand_for_those_between(tmp_path: Path) -> None:
    made = Amt(scripted(Average(), tmp_path / "a.pt")).middle_frames(FRAMES)
    expected = (FRAMES[0].astype(float) + FRAMES[2]) / 2
    assert made.shape == (1, 64, 96, 3) and np.abs(made[0] - expected).max() <= 1


def test_video_features_are_given_the_scales_their_networks_were_trained_on(
    tmp_path: Path,
) -> None:
    file = scripted(Brightness(), tmp_path / "b.pt")
    grey = np.full((20, 32, 48, 3), 128, np.uint8)  # 20 frames: two segments, the second filled up
    assert np.allclose(
        Resnet3d(file).resnet_features(grey), 128 - np.array([114.77, 107.74, 99.48])
    )
    assert np.allclose(I3d(file).i3d_features(grey), 128 / 127.5 - 1, atol=1e-4)


def test_a_file_that_is_no_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"x\.pt is no TorchScript file"):
        ScriptedNetwork(tmp_path / "x.pt")


def test_the_judge_answers_as_often_as_asked_and_the_same_when_asked_again(tmp_path: Path) -> None:
    save_tiny_judge(tmp_path)
    judge = QwenJudge(tmp_path)
    before = torch.get_rng_state()
    answers = judge.ask(FRAMES, "Is a cat in it?", repeats=3)
    assert len(answers) == 3 and len(set(answers)) > 1
    assert judge.ask(FRAMES, "Is a cat in it?", repeats=3) == answers
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's randomness is touched


def test_only_clear_answers_count_as_yes_or_no() -> None:
    assert share_of_yes(["Yes.", "no", " yes, it is", "I cannot tell"]) == 2 / 3
    assert share_of_yes(["maybe"]) is None


def test_with_weights_in_the_folder_the_papers_metrics_are_measured(
    judges_folder: Path, tmp_path: Path
) -> None:
    store = WeightStore(judges_folder, caches=False)
    assert {"AC", "TC", "TS", "FF", "subject_consistency"} <= set(default_ids(store))
    assert "TF" not in default_ids(store)
    video = tmp_path / "v.mp4"
    write_video(video, FRAMES, 8.0, comment="")
    scores = score_videos(
        [EvaluationItem("v", "m", video)],
        ["AC", "TC", "TS", "subject_consistency"],
        judges=Judges(store),
        library=Library([]),
    )
    report = scores.report
    for metric in ("AC", "TC", "subject_consistency"):
        row = report.cell("v", metric)
        assert -1 <= row.value <= 1 and row.weights == METRICS[metric].weights_id != "none"
    assert "needs the caption" in report.cell("v", "TS").status
    assert "CLIP" in scores.pictures[0].over_time


def test_every_metric_is_explained_in_every_language() -> None:
    for language in LANGUAGES:
        texts = Texts(language)
        for metric in METRICS:
            assert texts(f"evaluate.about.{metric}")


def test_metrics_without_weights_are_listed_apart_with_what_they_need() -> None:
    shown = metrics_html(WeightStore(Path("/nowhere"), caches=False), Texts("en"))
    here, absent = shown.split("<details")[1:]
    assert "needs" not in here.split("<dl")[1] and "FF[dis]" in here
    assert "needs RAFT of torchvision, not measured" in absent and "<dt>FF</dt>" in absent


def test_what_strangers_write_is_shown_as_text() -> None:
    evil = "<img src=x onerror=alert(1)>"
    rows = (Row(evil, evil, "flow_score[dis]", "dis", "none", 0.5, "measured"),)
    shown = report_html(Report(rows, (Source(evil, evil, "lossless frames"),)), Texts("en"))
    shown += choices_html([Choice("a" * 32, evil, "", True)], Texts("en"))
    assert "<img src=x" not in shown and "&lt;img" in shown


def test_each_browser_begins_with_its_own_empty_state() -> None:
    first = EvaluationState()
    first.chosen.append("x")
    first.uploads = (Path("x.mp4"),)
    second = copy.deepcopy(first)
    assert second.chosen == [] and second.uploads == ()


def scoring_steps(count: int, go: threading.Event) -> Iterator[ScoreProgress]:
    for k in range(count):
        yield ScoreProgress(k, count, "v", "m", 0.0)
        go.wait()
    return Scores(Report((), ()))


def until_over(run: ScoringRun) -> None:
    ends = time.monotonic() + 20
    while not run.ask():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_scoring_goes_on_while_nobody_waits_and_stops_when_asked() -> None:
    go, turn = threading.Event(), threading.BoundedSemaphore(1)
    first = ScoringRun(scoring_steps(3, go), turn)
    second = ScoringRun(scoring_steps(3, go), turn)
    assert not first.over and second.progress.done == 0
    second.stop()  # while it waits for its turn
    until_over(second)
    assert second.scores is None and second.error is None
    go.set()
    until_over(first)
    assert first.scores is not None and first.progress.done == 2
    third = ScoringRun(scoring_steps(1, go), turn)
    until_over(third)
    assert third.scores is not None  # the turn came back


def test_a_scoring_that_nobody_asks_about_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motion_app.ui.evaluate.results.LEFT_SECONDS", 0.0)
    go = threading.Event()
    run = ScoringRun(scoring_steps(50, go), threading.BoundedSemaphore(1))
    time.sleep(0.05)
    go.set()
    run._thread.join(20)
    assert run.over and run.scores is None and run.error is None


def test_a_method_stays_with_its_file_when_another_of_its_name_comes_or_goes() -> None:
    ours, theirs, third = (Path(folder, "output.mp4") for folder in "abc")
    given = {"output.mp4": "ours", "output.mp4 (2)": "theirs"}
    assert carried_methods(given, [ours, theirs], [theirs]) == {"output.mp4": "theirs"}
    assert carried_methods(given, [ours, theirs], [third, theirs, ours]) == {
        "output.mp4": "",
        "output.mp4 (2)": "theirs",
        "output.mp4 (3)": "ours",
    }
    assert carried_methods(given, [ours, ours], [ours, ours]) == given  # one file, twice


def test_references_of_one_name_are_two_clips_for_a_metric_of_sets() -> None:
    clips = [ReferenceClip("ref.mp4", FRAMES + k, np.ones((64, 96), bool)) for k in (0, 1, 0)]
    things = tuple(JudgedObject("cat", "", clip.mask, clip) for clip in clips)
    item = EvaluationItem("v", "m", Path("v.mp4"))
    opened = OpenedItem(item, FRAMES, 8.0, "lossless frames", objects=things)
    seen: list[np.ndarray] = []
    metric = SimpleNamespace(id="FVD", features=lambda video, frames: seen.append(frames))
    _Sets().add(metric, SimpleNamespace(opened=opened, frames=FRAMES))
    assert len(seen) == 3  # the video, and two different clips of one name
