"""Laws of a job that learns motions and then makes a video with them, on a tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_job_runners import end, engine, learn, line_of, queue, tokens, video_of

from motion_app.errors import MotionAppError, RequestError
from motion_app.jobs.queue import JobQueue
from motion_app.library.library import Library
from motion_app.media.provenance import read_recipe

__all__ = ["engine", "queue"]  # fixtures, one set for both files


def lesson(name: str = "hop", *, steps: int = 4, **changes: Any) -> dict[str, Any]:
    words = {"name": name, "phrase": "is jumping", "noun": "red cat", "clips": ["clip.mp4"]}
    return {**words, "steps": steps, **changes}


def wanted(*names: str, **changes: Any) -> dict[str, Any]:
    """A request in which every name is some object's motion."""
    item = {**video_of()["objects"][0], "sentence": "A red fox is jumping.", "phrase": "is jumping"}
    return video_of(objects=[{**item, "motion": name} for name in names], **changes)


def hand_in(queue: JobQueue, clip: Path, *lessons: dict[str, Any], **changes: Any) -> str:
    request = wanted(*(item["name"] for item in lessons), **changes)
    inputs = {"request": request, "learn": list(lessons)}
    return queue.submit("generate", inputs, owner="me", files={"clip.mp4": clip}).id


def test_one_job_learns_two_motions_and_makes_the_video_with_them(
    queue: JobQueue, clip: Path, tmp_path: Path
) -> None:
    job = hand_in(queue, clip, lesson("hop"), lesson("leap", steps=6))
    told = []
    for now in queue.watch(job, every=0.01):
        told.append((now.part, now.stage, now.step, now.steps))
    row = now.row
    assert row.state == "done", row.message
    assert [part.title for part in now.parts] == ["hop", "leap", ""]
    stages = {part: {stage for at, stage, *_ in told if at == part} for part in range(3)}
    assert "training" in stages[0] and "training" in stages[1] and "denoising" in stages[2]
    assert not {"denoising", "decoding"} & (stages[0] | stages[1])
    assert [part for part, *_ in told] == sorted(part for part, *_ in told)
    assert {steps for part, *_, steps in told if part == 1} == {6}
    assert [item["name"] for item in row.outcome["learned"]] == ["hop", "leap"]
    assert "motion" not in row.outcome["learned"][0]
    library = Library([tmp_path / "motions"])
    learned = {motion.name: motion for motion in library.list()}
    assert set(learned) == {"hop", "leap"}
    made = read_recipe(queue.folder(job) / row.outcome["recipe"])
    digests = [item["motion_sha256"] for item in made["objects"]]
    assert digests == [learned["hop"].digest, learned["leap"].digest]


def test_what_is_learned_on_the_way_is_what_a_training_of_its_own_learns(
    queue: JobQueue, clip: Path, tmp_path: Path
) -> None:
    assert end(queue, hand_in(queue, clip, lesson("hop"))).row.state == "done"
    alone = end(queue, learn(queue, clip, name="alone")).row
    (hop,) = [motion for motion in Library([tmp_path / "motions"]).list() if motion.name == "hop"]
    assert torch.equal(tokens(hop.path), tokens(alone.outcome["motion"]))


def test_each_part_is_timed_as_a_job_of_its_kind_and_counts_in_the_time_left(
    queue: JobQueue, clip: Path
) -> None:
    end(queue, hand_in(queue, clip, lesson("hop")))
    assert queue.timings.last("train").steps == 4 and queue.timings.last("generate").steps == 3
    job = hand_in(queue, clip, lesson("leap"))
    left = [now.seconds_left for now in queue.watch(job, every=0.01) if now.row.active]
    known = [seconds for seconds in left if seconds is not None]
    assert known and known[0] >= queue.timings.last("train").step_seconds * 4


def test_cancelled_while_it_makes_the_video_it_keeps_what_it_learned_and_goes_on_from_there(
    queue: JobQueue, clip: Path, tmp_path: Path
) -> None:
    job = hand_in(queue, clip, lesson("hop"), lesson("leap"), steps=200)
    for now in queue.watch(job, every=0.01):
        if now.part == 2 and now.step >= 2:
            queue.cancel(job)
    assert now.row.state == "cancelled"
    learned = Library([tmp_path / "motions"]).list()
    assert len({motion.created for motion in learned}) == 2  # of the same second, mostly
    before = {motion.name: motion.digest for motion in learned}
    assert set(before) == {"hop", "leap"}
    queue.again(job)
    steps = [now.step for now in queue.watch(job, every=0.01) if now.stage == "training"]
    assert steps == [] and queue.row(job).state == "done", queue.row(job).message
    after = {motion.name: motion.digest for motion in Library([tmp_path / "motions"]).list()}
    assert after == before


@pytest.mark.timeout(600)  # a program of its own, perhaps on a busy machine
def test_killed_in_the_second_training_it_goes_on_in_the_second_training(
    killed_jobs: dict[str, tuple[Path, str]], engine
) -> None:
    folder, job = killed_jobs["lessons"]
    queue = line_of(engine, folder)
    queue.start()
    assert queue.row(job).state == "interrupted"
    queue.again(job)
    told = [(now.part, now.step) for now in queue.watch(job, every=0.01) if now.step]
    row = queue.row(job)
    queue.stop()
    assert row.state == "done", row.message
    assert all(part > 0 for part, _ in told)  # the first was learned
    assert min(step for part, step in told if part == 1) > 4  # checkpoints are two steps apart
    assert {motion.name for motion in Library([folder / "motions"]).list()} == {"hop", "leap"}


def test_a_second_video_waits_for_the_motion_that_the_first_one_learns(
    queue: JobQueue, clip: Path, tmp_path: Path
) -> None:
    first = hand_in(queue, clip, lesson("hop", steps=12))
    second = hand_in(queue, clip, lesson("hop", steps=12), seed=6)
    with pytest.raises(RequestError, match='"hop" is being learned already'):
        hand_in(queue, clip, lesson("hop", steps=13))
    with pytest.raises(RequestError, match='"hop" is being learned already'):
        learn(queue, clip, name="hop", steps=12)
    assert end(queue, first).row.state == "done"
    steps = [now.step for now in queue.watch(second, every=0.01) if now.stage == "training"]
    assert steps == [] and queue.row(second).state == "done", queue.row(second).message
    assert len(Library([tmp_path / "motions"]).list()) == 1


@pytest.mark.parametrize(
    ("lessons", "names", "told"),
    [
        ([lesson("hop", clips=["other.mp4"])], ["hop"], "other.mp4 did not come"),
        ([lesson("hop"), lesson("hop", steps=5)], ["hop"], 'are called "hop"'),
        ([lesson("hop"), lesson("leap")], ["hop"], '"leap" is to be learned and is given to no'),
        ([lesson("hop")], ["hop", "fly"], 'no motion "fly"'),
        ([lesson(" ")], [" "], "the name of the motion is"),
        ("hop", ["hop"], '"learn" is a list'),
    ],
)
def test_what_cannot_be_learned_for_a_video_is_told_when_it_is_handed_in(
    queue: JobQueue, clip: Path, lessons: Any, names: list[str], told: str
) -> None:
    inputs = {"request": wanted(*names), "learn": lessons}
    with pytest.raises(MotionAppError, match=told):
        queue.submit("generate", inputs, owner="me", files={"clip.mp4": clip})
    assert queue.rows("me") == []


def test_a_phrase_that_the_sentence_lacks_is_told_before_anything_is_learned(
    queue: JobQueue, clip: Path
) -> None:
    request = wanted("hop")
    request["objects"][0]["sentence"] = "A red fox sits."
    with pytest.raises(RequestError, match="is jumping"):
        queue.submit(
            "generate",
            {"request": request, "learn": [lesson("hop")]},
            owner="me",
            files={"clip.mp4": clip},
        )


def test_where_learning_is_off_a_video_that_needs_it_is_refused_with_the_reason(
    engine, clip: Path, tmp_path: Path
) -> None:
    queue = line_of(engine, tmp_path, training=False)
    queue.start()
    with pytest.raises(RequestError, match="MOTION_APP_TRAINING"):
        hand_in(queue, clip, lesson("hop"))
    queue.stop()
