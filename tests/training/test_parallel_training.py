"""Several processes learn what one would from a larger batch."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState

from motion_app.engine.pipeline import MotionEngine
from motion_app.media.files import Clip
from motion_app.training.config import MotionTraining
from motion_app.training.processes import ALONE, Share, join_processes
from motion_app.training.tokens import TrainingRun, prepare_lesson
from motion_app.training.trainer import LearningPlacement

STEPS = 2


def run_of(checkpoint, out, *, batch: int, share: Share) -> TrainingRun:
    engine = MotionEngine.load(checkpoint, device="cpu")
    frames = np.random.default_rng(0).integers(0, 256, (13, 32, 48, 3), dtype=np.uint8)
    config = MotionTraining(
        name="m",
        phrase="is moving",
        noun="robot",
        steps=STEPS,
        batch=batch,
        tokens=3,
        init_scale=1.0,
        init_distribution="normal",
        mask="none",
        views=4,
    )
    lesson = prepare_lesson([Clip(frames, 8.0)], config, engine.backbone)
    return TrainingRun(lesson, config, engine.backbone, out, share)


def told(rank: int, port: int) -> dict[str, str]:
    """What ``accelerate launch`` puts into the environment of one of two processes."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }


def learn(rank: int, checkpoint: Path, folder: Path) -> None:
    """What each of the two does."""
    share = join_processes()
    assert (share.rank, share.count) == (rank, 2)
    assert share.mean(float(rank)) == 0.5 and share.decided(rank == 0)
    run = run_of(checkpoint, folder / f"{rank}.safetensors", batch=1, share=share)
    for _ in range(STEPS):
        run.advance()
    run.save()
    learned = torch.cat([layer.detach() for layer in run.tokens.layers])
    torch.save((learned, run.losses, run.learned_with()), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def learn_there(port: int, checkpoint: Path, folder: Path) -> None:
    """The second of them, in a process of its own."""
    torch.set_num_threads(1)
    os.environ |= told(1, port)
    learn(1, checkpoint, folder)


def free_port() -> int:
    import socket

    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture
def first_of_two(monkeypatch):
    """This process is the first; the port at which the second finds it."""
    port = free_port()
    for name, value in told(0, port).items():
        monkeypatch.setenv(name, value)
    yield port
    PartialState._reset_state()


def learned_by_two(checkpoint: Path, folder: Path, port: int) -> None:
    other = multiprocessing.get_context("spawn").Process(
        target=learn_there, args=(port, checkpoint, folder), daemon=True
    )
    other.start()
    learn(0, checkpoint, folder)
    other.join()
    assert other.exitcode == 0


def test_two_processes_learn_what_one_learns_from_a_batch_of_two(
    tiny_checkpoint, tmp_path, first_of_two
):
    learned_by_two(tiny_checkpoint, tmp_path, first_of_two)
    (first, losses, settings), (second, *_) = (torch.load(tmp_path / f"{k}.pt") for k in (0, 1))
    assert torch.equal(first, second)
    assert settings["effective_batch"] == 2 and settings["learning_rate"] == 3e-3
    # Only the first wrote its state.
    assert (tmp_path / "0.safetensors.training").exists()
    assert not (tmp_path / "1.safetensors.training").exists()
    alone = run_of(tiny_checkpoint, tmp_path / "alone.safetensors", batch=2, share=ALONE)
    for _ in range(STEPS):
        alone.advance()
    learned = torch.cat([layer.detach() for layer in alone.tokens.layers])
    assert torch.allclose(first, learned, atol=2e-3)
    assert losses == pytest.approx(alone.losses, rel=1e-2)


def test_alone_nothing_is_exchanged_and_nothing_added_to_the_settings(tiny_checkpoint, tmp_path):
    run = run_of(tiny_checkpoint, tmp_path / "m.safetensors", batch=1, share=ALONE)
    assert run.learned_with() == run.config.learned_with()
    assert join_processes() == ALONE


def test_gradient_checkpointing_gives_the_same_gradients(tiny_checkpoint, tmp_path):
    learned = []
    for checkpoints in (False, True):
        run = run_of(tiny_checkpoint, tmp_path / f"{checkpoints}.st", batch=1, share=ALONE)
        placement = LearningPlacement(run.backbone, run.config)
        placement.checkpoints = checkpoints
        with placement:
            assert run.backbone.transformer.gradient_checkpointing is checkpoints
            run.advance()
        assert not run.backbone.transformer.gradient_checkpointing
        learned.append(torch.cat([layer.detach() for layer in run.tokens.layers]))
    assert torch.allclose(*learned, atol=1e-4)


def test_learning_leaves_the_engine_able_to_make_a_video_in_between(tiny_checkpoint, tmp_path):
    run = run_of(tiny_checkpoint, tmp_path / "m.safetensors", batch=1, share=ALONE)
    placement = LearningPlacement(run.backbone, run.config)
    placement.checkpoints = True
    with placement, placement.whole():
        assert not run.backbone.transformer.gradient_checkpointing
