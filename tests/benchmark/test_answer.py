"""The right answer that the renderer draws, what is said of rows beside it, and what rows cost."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from motion_app.benchmark.exchange import ExternalMethod, write_study_items
from motion_app.benchmark.outcome import STILL, TRUTH, Outcome, costs_by_row
from motion_app.benchmark.scenes import BenchmarkCase, draw_cases
from motion_app.benchmark.scores import (
    CaseScores,
    CaseVideo,
    RightAnswer,
    frame_overlap,
    inside_mean,
    score_case,
)
from motion_app.benchmark.tables import (
    RIGHT,
    cost_table,
    difference_table,
    metric_table,
    paper_table,
)
from motion_app.benchmark.variants import FULL, MAIN, Suite, Variant, choose_variants
from motion_app.errors import MotionAppError, RequestError
from motion_app.evaluation.networks import Judges, WeightStore
from motion_app.geometry import ModelGeometry
from motion_app.media.files import write_video
from motion_app.media.provenance import verify_video
from motion_app.methods import METHOD_TABLE, methods_there
from motion_app.models.checkpoint import Checkpoint
from motion_app.settings import ROOT
from motion_app.study.sources import read_sources

MOVING, SHAPED = ("circle", "jump", "walk left"), ("crouch", "grow", "spin", "bow")


@pytest.fixture(scope="module")
def geometry() -> ModelGeometry:
    return Checkpoint.read(ROOT / "checkpoints" / "pocket").geometry


@pytest.fixture(scope="module")
def cases(geometry: ModelGeometry) -> list[BenchmarkCase]:
    limbed = ("blob", "cat", "robot")
    shaped = draw_cases(SHAPED, {1: 2, 2: 1}, geometry=geometry, kinds=limbed)
    return [*draw_cases(MOVING, {1: 1, 2: 2, 3: 1}, geometry=geometry), *shaped]


def scores(case: BenchmarkCase, frames: np.ndarray) -> tuple[float, float]:
    """The least right overlap and the largest right difference of the objects."""
    judges = Judges(WeightStore(Path("none"), caches=False))
    video = CaseVideo(case, frames, 8.0, judges=judges, shared={})
    values = score_case(video, RIGHT).values
    assert {len(parts) for parts in values.values()} == {len(case.objects)}
    return min(values["right_overlap"]), max(values["right_difference"])


def test_the_right_answer_is_right_and_nothing_else_is(cases):
    for case in cases:
        true = case.rendered.frames
        assert scores(case, true) == (1.0, 0.0)
        for frames in (np.repeat(case.image[None], len(true), axis=0), np.roll(true, 4, axis=2)):
            overlap, difference = scores(case, frames)
            assert overlap < 0.97 and difference > 5, case.id
        recoloured = np.concatenate([true[:1], true[1:, ..., ::-1]])
        assert scores(case, recoloured)[1] > 5, "what is in its place may look otherwise"


def test_the_more_a_video_is_shifted_the_less_it_overlaps(cases):
    for case in cases:
        found = [scores(case, np.roll(case.rendered.frames, k, axis=2))[0] for k in (0, 1, 2, 4)]
        assert found == sorted(found, reverse=True)


def test_only_the_object_that_is_wrong_is_said_to_be(cases):
    case = next(case for case in cases if len(case.objects) == 2)
    answer = RightAnswer(case.rendered, [thing.mask for thing in case.objects])
    frames, mine = case.rendered.frames.copy(), case.rendered.masks[0]
    frames[mine] = np.broadcast_to(answer.background, frames.shape)[mine]
    wrong, right = answer.overlaps(frames)
    assert wrong < 0.3 and right > 0.9
    wrong, right = answer.differences(frames)
    assert wrong > 40 and right == 0


def test_where_the_creatures_are_found_is_where_they_are(cases):
    for case in cases:
        answer = RightAnswer(case.rendered, [thing.mask for thing in case.objects])
        for found, true in zip(answer.masks, case.rendered.masks, strict=True):
            assert frame_overlap(found, true) > 0.75
        assert not np.array_equal(answer.background, case.image)
        outside = ~case.rendered.masks[:, 0].any(axis=0)
        apart = np.abs(answer.background.astype(int) - case.image).max(axis=-1)[outside]
        assert np.median(apart) == 0


def test_a_video_of_another_length_is_held_against_the_answer_at_the_same_times(cases):
    case = cases[0]
    assert scores(case, case.rendered.frames.repeat(3, axis=0))[0] > 0.9


def test_overlap_and_difference_by_hand():
    masks = np.zeros((2, 2, 2), bool)
    truth = masks.copy()
    masks[0, 0] = truth[0, :, 0] = True  # one pixel of three
    assert frame_overlap(masks, truth) == pytest.approx((1 / 3 + 1) / 2)
    values = np.array([[[1.0, 2.0], [3.0, 4.0]], [[9.0] * 2] * 2])
    assert inside_mean(values, truth) == 2.0, "the empty frame does not count"
    with pytest.raises(MotionAppError, match="hidden in every frame"):
        inside_mean(values, np.zeros_like(truth))


def test_every_row_says_what_it_is_told_and_costs(cases, tmp_path):
    variants = choose_variants(without=("m2x",))
    suite = Suite(MAIN, "scenes", (cases[0],), variants)
    found, videos = {}, {}
    for number, row in enumerate([*(v.name for v in variants), "elsewhere", STILL, TRUTH]):
        found[cases[0].id, row] = CaseScores({"right_overlap": (0.5,)}, {})
        if number < len(variants):
            videos[cases[0].id, row] = tmp_path / f"{number}.npz"
            made = {"seconds": 2.0 + number, "settled": 0} | ({"calls": 24} if number else {})
            np.savez(tmp_path / f"{number}.npz", **made)
    parts = {"gaps": (), "propagation": (), "figure": None, "external": ("elsewhere",)}
    outcome = Outcome({}, "m", (), RIGHT, (suite,), scores=found, videos=videos, **parts)
    told = {row[0]: row[1] for row in metric_table(outcome, suite, RIGHT, "t").rows}
    assert told.pop(STILL) == "nothing" and told.pop(TRUTH) == "the answer"
    assert told.pop("elsewhere") == "–", "nobody here knows"
    assert told.pop("w/o m2x") == METHOD_TABLE["fleximmt"].told
    there = methods_there(METHOD_TABLE, encoder=False)
    assert told == {name: METHOD_TABLE[name].told for name in there}
    assert all(told.values())
    compared = {row[0]: row[1] for row in difference_table(outcome, suite).rows}
    assert compared["none"] == "caption" and TRUTH not in compared
    costs = {row[0]: row[2:] for row in cost_table(outcome, suite).rows}
    assert costs["fleximmt"] == ("–", "2.0 s"), "an earlier version's video counted no calls"
    assert costs["concat"] == ("24", "3.0 s") and set(costs) == {v.name for v in variants}
    assert costs_by_row(outcome)["fleximmt"].calls is None


def test_a_row_that_was_made_twice_costs_its_mean(cases, tmp_path):
    for number, (seconds, calls) in enumerate(((1.0, 24), (2.0, 24), (6.0, 124))):
        np.savez(tmp_path / f"{number}.npz", seconds=seconds, calls=calls)
    videos = {(case.id, "none"): tmp_path / f"{k}.npz" for k, case in enumerate(cases[:3])}
    suite = Suite(MAIN, "scenes", tuple(cases[:3]), (FULL, Variant("none", "none")))
    outcome = Outcome({}, "m", (), RIGHT, (suite,), (), {}, videos, (), (), None)
    cost = costs_by_row(outcome)["none"]
    assert (cost.seconds, cost.calls) == (3.0, 24), "a clip that is looked at once is no habit"


def test_the_papers_figures_stand_beside_the_metrics_of_their_release_alone(cases):
    ids = ("TF[released]", "FF[released]", "TF", "FF", "TF[dis]")
    variants = choose_variants(("none",), ("t2v",))
    suite = Suite(MAIN, "scenes", tuple(cases[:1]), variants)
    values = {id: (k / 10,) for k, id in enumerate(ids)}
    found = {(cases[0].id, v.name): CaseScores(values, {}) for v in variants}
    outcome = Outcome({}, "m", (), ids, (suite,), (), found, {}, (), (), None)
    table = paper_table(outcome, suite)
    shown = [heading.partition(" ")[0] for heading in table.headings[1:]]
    assert shown[:2] == ["TF[released]", "FF[released]"] and "FF" not in shown[:-5]
    assert shown[-5:] == ["AC,", "TC,", "TS,", "TF,", "FF,"]
    rows = {row[0]: row[-2:] for row in table.rows}
    assert rows == {
        "fleximmt": ("0.577", "0.723"),
        "none": ("0.292", "0.607"),
        "w/o t2v": ("0.572", "0.72"),
    }


def test_a_run_leaves_the_items_of_a_study(cases, tmp_path):
    variants = choose_variants(without=("m2x",))[-3:]
    suite = Suite(MAIN, "scenes", tuple(cases[:3]), variants)
    videos, elsewhere = {}, tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number, case in enumerate(suite.cases):
        write_video(elsewhere / f"{case.id}.mp4", case.rendered.frames, 8.0)
        for variant in variants[number == 1 :]:  # the second scene lacks one
            path = tmp_path / f"{number} {len(videos)}.npz"
            np.savez(path, frames=case.rendered.frames, fps=8.0)
            videos[case.id, variant.name] = path
    outcome = Outcome({}, "m", (), (), (suite,), ("elsewhere",), {}, videos, (), (), None)
    external = (ExternalMethod("elsewhere", elsewhere),)
    folder = tmp_path / "items"
    for _ in range(2):
        assert write_study_items(outcome, folder, 12, fps=8.0, external=external) == 2
        items = {item.name: item for item in read_sources(folder)}
        assert set(items) == {cases[0].id, cases[2].id}
    item = items[cases[2].id]
    names = {variant.name.replace("w/o", "without") for variant in variants}
    assert "without m2x" in names and set(item.videos) == names | {"elsewhere"}
    assert item.caption == cases[2].caption
    assert len(item.references) == len({thing.motion for thing in cases[2].objects})
    marked = {name: verify_video(file).tagged for name, file in item.videos.items()}
    assert marked == dict.fromkeys(names, True) | {"elsewhere": False}
    assert write_study_items(outcome, tmp_path / "one", 1, fps=8.0) == 1
    with pytest.raises(RequestError, match="no scene has a video of every method"):
        write_study_items(replace(outcome, videos={}), tmp_path / "none", 12, fps=8.0)
