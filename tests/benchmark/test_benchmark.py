"""The benchmark: scenes, scores against ground truth, paired figures, other methods' videos."""

import argparse
import csv
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import bench_tasks
import numpy as np
import pytest
import torch
from linked import linked_pocket
from PIL import Image
from transformers import AutoTokenizer

from motion_app.__main__ import main
from motion_app.benchmark import tasks
from motion_app.benchmark.charts import interval_chart, line_chart
from motion_app.benchmark.exchange import parse_external, read_published, write_inputs
from motion_app.benchmark.outcome import STILL, TRUTH, Outcome, average, paired_difference
from motion_app.benchmark.references import (
    LIBRARY,
    MARKED,
    SCRATCH,
    UNMASKED,
    crowded_clip,
    lesson,
)
from motion_app.benchmark.scenes import (
    BenchmarkCase,
    draw_cases,
    movements,
    tuning_cases,
    world_of,
)
from motion_app.benchmark.scores import RENDERED, CaseScores, CaseVideo, fitted_frames, score_case
from motion_app.benchmark.strata import LIMBED, limbless_cases, stretched_cases
from motion_app.benchmark.tables import reduced_table, supplement_table
from motion_app.benchmark.tasks import ScoreTask
from motion_app.benchmark.variants import (
    FULL,
    MAIN,
    PACKS,
    SYNMOTION_NAMES,
    Suite,
    SuiteOptions,
    Variant,
    build_suites,
    choose_variants,
    motion_sets,
    usable_files,
)
from motion_app.cli.evaluate import (
    add_benchmark_arguments,
    build_campaign,
    parse_counts,
    parse_strata,
)
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.engine.synmotion import MotionPack, SemanticBranch
from motion_app.errors import MotionAppError, RequestError
from motion_app.evaluation.networks import Judges, WeightStore
from motion_app.geometry import ModelGeometry
from motion_app.jobs.kinds import WorkerConfig
from motion_app.jobs.results import ResultStore, content_key, write_json
from motion_app.jobs.workers import Workers, run_task
from motion_app.library.library import Library
from motion_app.library.motion_file import read_motion
from motion_app.media.files import write_video
from motion_app.methods import REFINED, WAYS
from motion_app.models.checkpoint import Checkpoint
from motion_app.scene import Motion
from motion_app.settings import ROOT, Settings
from motion_app.world.world import Scene, render

POCKET = ROOT / "checkpoints" / "pocket"
NUMBER = re.compile(r"-?\d*\.?\d+")
SECONDS = re.compile(r"\d+\.\d s \|")  # what a video took is told as it was
NAMES = ("circle", "jump", "rise", "sway", "walk left", "walk right")


@pytest.fixture(scope="module")
def geometry() -> ModelGeometry:
    return Checkpoint.read(POCKET).geometry


@pytest.fixture(scope="module")
def cases(geometry: ModelGeometry) -> list[BenchmarkCase]:
    return draw_cases(NAMES, {1: 1, 2: 3, 3: 1}, geometry=geometry)


def judged(case: BenchmarkCase, frames: np.ndarray, geometry: ModelGeometry) -> CaseScores:
    judges = Judges(WeightStore(Path("none"), caches=False))
    video = CaseVideo(case, frames, 8.0, judges=judges, shared={}, geometry=geometry)
    return score_case(video, RENDERED)


def swapped_frames(scene: Scene) -> np.ndarray:
    """The scene with each creature doing what the next one should."""
    paths = [creature.path for creature in scene.creatures]
    moved = [
        replace(c, path=p) for c, p in zip(scene.creatures, paths[1:] + paths[:1], strict=True)
    ]
    return render(replace(scene, creatures=tuple(moved))).frames


def test_the_same_call_draws_the_same_cases(cases, geometry):
    again = draw_cases(NAMES, {1: 1, 2: 3, 3: 1}, geometry=geometry)
    assert [case.digest() for case in again] == [case.digest() for case in cases]
    assert len({case.digest() for case in cases}) == len(cases)
    other = draw_cases(NAMES, {2: 1}, geometry=geometry, seed=1)[0]
    assert other.digest() not in {case.digest() for case in cases}


def test_a_scene_never_gives_one_motion_twice_and_more_scenes_change_none(cases, geometry):
    for case in cases:
        assert len({thing.motion for thing in case.objects}) == len(case.objects)
    more = draw_cases(NAMES, {2: 4}, geometry=geometry)
    of_two = [case for case in cases if len(case.objects) == 2]
    assert [case.digest() for case in more[:3]] == [case.digest() for case in of_two]


def test_words_of_a_case_do_not_tell_the_motion(cases):
    for thing in itertools.chain.from_iterable(case.objects for case in cases):
        assert thing.phrase == "is moving" and thing.sentence.endswith(" is moving.")


def test_a_perfect_video_scores_one_and_a_swapped_one_below(cases, geometry):
    for case in [case for case in cases if len(case.objects) == 2]:
        perfect = judged(case, case.rendered.frames, geometry).values
        swapped = judged(case, swapped_frames(case.rendered.scene), geometry).values
        assert perfect["follows_own[colour]"] == (1.0, 1.0)
        assert min(perfect["own_motion[colour]"]) > 0.95
        assert max(perfect["leak_change"]) < 0.5
        for metric in ("own_motion[colour]", "own_minus_other[colour]", "TF[dis]"):
            assert np.mean(swapped[metric]) < np.mean(perfect[metric])
        assert max(swapped["own_minus_other[colour]"]) < 0


def test_what_moves_beside_the_objects_leaks(cases, geometry):
    case = cases[0]
    frames = case.rendered.frames.copy()
    far = np.ones(frames.shape[1:3], bool)
    rows, columns = np.nonzero(case.rendered.masks.any(axis=(0, 1)))
    far[
        max(0, rows.min() - 16) : rows.max() + 16, max(0, columns.min() - 16) : columns.max() + 16
    ] = 0
    for t in range(1, len(frames)):
        frames[t][far] = np.roll(frames[0], 4 * t, axis=1)[far] // 2
    clean = judged(case, case.rendered.frames, geometry).values
    assert judged(case, frames, geometry).values["leak_change"] > clean["leak_change"]


def test_an_object_alone_has_no_other_to_follow(cases, geometry):
    case = next(case for case in cases if len(case.objects) == 1)
    scores = judged(case, case.rendered.frames, geometry)
    assert "other_motion[colour]" in scores.problems
    assert scores.values["own_minus_other[colour]"] == scores.values["own_motion[colour]"]


def test_a_constant_lead_has_no_spread_however_much_scenes_differ():
    rng = np.random.default_rng(0)
    theirs = {f"case {i}": float(value) for i, value in enumerate(rng.normal(0, 5, 30))}
    ours = {case: value + 0.5 for case, value in theirs.items()}
    lead = paired_difference(ours, theirs)
    assert lead.count == 30
    assert lead.mean == pytest.approx(0.5) and lead.interval == pytest.approx((0.5, 0.5))
    apart = average(ours).interval
    assert apart[1] - apart[0] > 2


def test_the_paired_interval_of_zeros_and_ones_is_the_binomial_one():
    ours = {str(i): float(i < 50) for i in range(100)}
    lead = paired_difference(ours, dict.fromkeys(ours, 0.0))
    assert lead.mean == 0.5
    # 0.5 ± 1.96 · √(0.25 / 100)
    assert lead.interval == pytest.approx((0.402, 0.598), abs=0.015)


def test_only_scenes_that_both_have_are_compared():
    assert paired_difference({"a": 1.0, "b": 3.0}, {"b": 1.0, "c": 9.0}).mean == 2.0
    assert paired_difference({"a": 1.0}, {"b": 1.0}) is None


def test_stretched_bodies_stay_in_the_picture_and_limbless_ones_are_ghosts(geometry):
    config = world_of(geometry)
    for case in stretched_cases(NAMES, 2, geometry=geometry):
        assert all(creature.stays_inside(config) for creature in case.rendered.scene.creatures)
        extents = [np.ptp(np.argwhere(thing.mask), axis=0) for thing in case.objects]
        wide = sorted(width / height for height, width in extents)
        assert wide[0] < 0.8 and wide[1] > 1.25
    for case in limbless_cases(NAMES, 2, geometry=geometry):
        assert {thing.body for thing in case.objects} == {"ghost"}
        assert all(thing.reference_body in LIMBED for thing in case.objects)


def test_a_crowded_reference_moves_twice_and_is_the_same_each_time(geometry):
    clip = crowded_clip("circle", geometry)
    assert len(clip.tracks) == 2
    assert (np.ptp(clip.tracks, axis=1).max(axis=1) > 5).all()
    assert np.array_equal(crowded_clip("circle", geometry).frames, clip.frames)


def motion(name: str, file: str, **facts: object) -> Motion:
    return Motion(name, "is moving", Path(file), "base", **facts)


def test_files_of_one_name_or_one_true_track_are_one_movement():
    track = ((0.0, 0.0), (1.0, 2.0))
    found = movements(
        [
            motion("jump, slowly", "a", track=track),
            motion("jump", "b", track=track),
            motion("jump", "c"),
            motion("sway", "d", track=((0.0, 0.0), (0.0, 3.0))),
        ]
    )
    assert [(m.name, len(m.files)) for m in found] == [("jump", 3), ("sway", 1)]


def test_a_method_that_only_some_motions_fit_gets_scenes_of_those(geometry):
    files = {name: motion(name, name) for name in NAMES}
    few = {name: files[name] for name in ("jump", "sway")}
    other = Variant("packed", "packed")
    roster = {("fleximmt", LIBRARY): files, ("packed", LIBRARY): few}
    options = SuiteOptions({1: 1, 2: 1}, (), 0)
    suites = build_suites((FULL, other), roster, options, names=NAMES, geometry=geometry)
    by_name = {suite.name: suite for suite in suites}
    assert by_name[MAIN].variants == (FULL,)
    assert by_name[PACKS].variants == (FULL, other)
    things = [thing for case in by_name[PACKS].cases for thing in case.objects]
    assert {thing.motion for thing in things} == {"jump", "sway"}


def test_packs_learned_with_less_are_rows_of_their_own_beside_the_full_ones(geometry):
    variants = choose_variants(("synmotion", "none"), (), reduced=("mot", "LoRA only"))
    assert [v.name for v in variants if v.reduced] == ["synmotion: mot", "synmotion: LoRA only"]
    assert {v.name for v in variants} - {FULL.name} <= set(SYNMOTION_NAMES)
    files = {name: motion(name, name) for name in NAMES}
    few = {name: files[name] for name in ("jump", "sway")}
    roster = {(v.method, v.tokens): few if v.reduced else files for v in variants}
    options = SuiteOptions({1: 1}, (), 0)
    suites = build_suites(variants, roster, options, names=NAMES, geometry=geometry)
    main, packs = (next(s for s in suites if s.name == name) for name in (MAIN, PACKS))
    assert not any(variant.reduced for variant in main.variants)
    assert set(packs.variants) == set(variants), "full SynMotion is what they are compared with"
    suites = build_suites(variants, roster, options, names=("jump", "sway"), geometry=geometry)
    assert [suite.name for suite in suites] == [MAIN] and set(suites[0].variants) == set(variants)
    with pytest.raises(RequestError, match="two reduced sets have one name"):
        choose_variants(reduced=("mot", "mot"))


def test_a_reduced_file_that_the_engine_refuses_is_told_under_its_rows_name(tmp_path):
    variants = choose_variants(("synmotion",), (), reduced=("mot", "LoRA only"))
    sets = motion_sets(variants, movements([motion("jump", "full")]), [tmp_path, tmp_path])
    row = ("synmotion", "synmotion: mot")
    assert set(sets) == {
        ("fleximmt", LIBRARY),
        ("synmotion", LIBRARY),
        row,
        ("synmotion", "synmotion: LoRA only"),
    }
    old, new = motion("jump", "old"), motion("jump", "new")
    sets[row] = movements([old, new, motion("sway", "bad")])
    refusals = {(file, "synmotion"): "of another model" for file in (old, sets[row][1].files[0])}
    roster, gaps = usable_files(sets, refusals)
    assert roster[row] == {"jump": new}, "the first file that can be used"
    assert gaps == [
        "synmotion: mot cannot use sway: of another model",
        "synmotion: LoRA only: its folder holds no motion",
    ]


def test_full_synmotion_is_compared_with_less_scene_by_scene(cases):
    variants = choose_variants(("synmotion", "none"), (), reduced=("mot", "odd"))
    scores = {}
    for number, (case, variant) in enumerate(itertools.product(cases, variants)):
        lead = 0.25 if variant.name == "synmotion" else 0.0
        values = {"own_minus_other[colour]": (number // len(variants) + lead,)}
        scores[case.id, variant.name] = CaseScores(values, {})
    ids = ("own_minus_other[colour]",)
    suite = Suite(MAIN, "scenes", tuple(cases), variants)
    found = Outcome({}, "m", (), ids, (suite,), (), scores, {}, (), (), None)
    table = reduced_table(found, suite)
    assert [row[0] for row in table.rows] == [
        "fleximmt",
        "none",
        "synmotion: mot",
        "synmotion: odd",
    ]
    assert {row[3] for row in table.rows} == {"0.25 [0.25, 0.25]"}
    beside = {row[0]: row[-2:] for row in supplement_table(found, suite).rows}
    assert beside == {
        "none": ("22.22", "81.34"),
        "synmotion": ("68.6", "97.67"),
        "synmotion: mot": ("61.43", "57.77"),
    }
    whole = replace(suite, variants=tuple(v for v in variants if not v.reduced))
    assert reduced_table(found, whole) is None and supplement_table(found, whole) is None


@pytest.mark.parametrize(
    ("methods", "without", "learned"),
    [
        (("none",), (), set()),
        (("concat",), (), {"concat", "w/o train mask"}),
        (("none",), ("m2x",), {"w/o train mask"}),
    ],
)
def test_tokens_without_masks_are_learned_for_who_asks_for_them(methods, without, learned):
    rows = choose_variants(methods, without, learn=True)
    assert {row.name for row in rows if row.tokens == UNMASKED} == learned
    assert not any(row.tokens == UNMASKED for row in choose_variants(methods, without))
    given = {row.name for row in choose_variants(methods, without, unmasked=True)}
    assert given >= {row.name for row in rows} | {"w/o train mask"}


@pytest.mark.parametrize("usual", WAYS)
def test_where_motions_come_of_an_encoder_the_papers_way_has_a_row_of_its_own(usual):
    """They are learned as ever then, for whoever asks what a part is worth."""
    rows = choose_variants(("none",), ("m2x",), learn=True, usual=usual)
    scratch = {row.name for row in rows if row.tokens == SCRATCH}
    assert scratch == (set() if usual == "fleximmt" else {"from scratch"})
    for variants in (
        choose_variants(("none",), ("m2x",), usual=usual),  # nothing is learned
        choose_variants(("none",), (), learn=True, usual=usual),
    ):
        assert not any(row.tokens == SCRATCH for row in variants)
    g = Checkpoint.read(POCKET).geometry
    assert lesson(SCRATCH, "jump", g, usual=usual).method == "fleximmt"
    assert lesson(MARKED, "jump", g, usual=usual).method == usual


def test_full_fleximmt_comes_first_and_wrong_names_are_told():
    names = [variant.name for variant in choose_variants(unmasked=True)]
    assert names[0] == "fleximmt" and "w/o train mask" in names and "w/o rmpm" in names
    with pytest.raises(RequestError, match='unknown ablation "m3x"'):
        choose_variants(without=("m3x",), learn=True)
    assert parse_counts("1:20, 3:2") == {1: 20, 3: 2}
    for wrong in ("2", "2:x", "4:1", "2:0"):
        with pytest.raises(RequestError):
            parse_counts(wrong)
    with pytest.raises(RequestError, match="unknown stratum"):
        parse_strata("weather")


def test_external_videos_that_are_missing_broken_or_misshapen_are_told_and_not_scored(
    cases, geometry, tmp_path
):
    case = cases[1]
    write_video(tmp_path / f"{case.id}.mp4", case.rendered.frames, 8.0)
    (tmp_path / f"{cases[2].id}.mp4").write_bytes(b"no video at all")
    tall = np.zeros((5, 64, 32, 3), np.uint8)
    write_video(tmp_path / f"{cases[3].id}.mp4", tall, 8.0)
    method = parse_external(f"AnyV2V={tmp_path}")
    bench = SimpleNamespace(
        engine=SimpleNamespace(geometry=geometry),
        judges=Judges(WeightStore(tmp_path, caches=False)),
        flows={},
    )
    answers = {}
    for one in cases[1:4]:
        scores = tmp_path / f"{one.id}.json"
        answers[one.id] = ScoreTask(one, RENDERED, scores, method.find(one.id)).run(bench)
        assert scores.is_file() == (one is case)
    assert answers[case.id] == ""
    assert "32×64" in answers[cases[3].id] and answers[cases[2].id]
    found = CaseScores.from_json(json.loads((tmp_path / f"{case.id}.json").read_text()))
    assert found.values["follows_own[colour]"] == (1.0, 1.0)
    assert method.find("two-999") is None
    with pytest.raises(RequestError, match="NAME=FOLDER"):
        parse_external("AnyV2V")
    with pytest.raises(RequestError, match="does not exist"):
        parse_external(f"AnyV2V={tmp_path / 'nowhere'}")


def test_videos_and_methods_of_one_name_are_refused(tmp_path):
    for name in ("two-1.mp4", "two-1.gif"):
        (tmp_path / name).write_bytes(b"a video")
    with pytest.raises(RequestError, match=r"two-1\.gif and two-1\.mp4"):
        parse_external(f"AnyV2V={tmp_path}").find("two-1")
    folder = ["--out", str(tmp_path / "out")]
    for names in (("AnyV2V", "AnyV2V"), ("concat",), (TRUTH,), (STILL,)):
        parser = argparse.ArgumentParser()
        add_benchmark_arguments(parser)
        given = [part for name in names for part in ("--external", f"{name}={tmp_path}")]
        with pytest.raises(RequestError, match=f'called "{names[0]}"'):
            build_campaign(parser.parse_args([*folder, *given]), Settings())


def test_two_objects_of_one_noun_do_not_share_a_mask(geometry, tmp_path):
    (tmp_path / "captions_inf").mkdir()
    row = ["a.png", "jump+sway", "A cat jumps.+A cat sways.", "cat+cat", "jumps+sways"]
    with (tmp_path / "captions_inf" / "animal.csv").open("w", newline="") as file:
        csv.writer(file).writerow(row)
    (problem,) = read_published(tmp_path, geometry=geometry).problems
    assert 'two objects are called "cat"' in problem


def test_a_video_of_twice_the_size_is_scored_at_the_cases_own(cases):
    frames = cases[1].rendered.frames.repeat(2, axis=1).repeat(2, axis=2)
    assert np.array_equal(fitted_frames(cases[1], frames), cases[1].rendered.frames)
    with pytest.raises(MotionAppError, match="expected the same shape"):
        fitted_frames(cases[1], frames[:, :64])


def test_what_another_method_needs_to_take_part_is_written(cases, tmp_path):
    write_inputs(cases[:2], tmp_path, fps=8.0)
    for case in cases[:2]:
        entries = json.loads((tmp_path / case.id / "case.json").read_text())
        assert entries["prompt"] == case.caption
        for k, thing in enumerate(entries["objects"]):
            assert (tmp_path / case.id / thing["reference"]).is_file()
            assert (tmp_path / case.id / "masks" / f"{k}.png").is_file()


def test_a_key_tells_every_difference_and_parts_of_a_killed_run_are_cleared(tmp_path):
    assert content_key({"a": 1, "b": [2]}) == content_key({"b": [2], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})
    path = ResultStore(tmp_path).path("scores", "two-000.w/o m2x", "k" * 64, ".json")
    write_json(path, {"values": {}})
    (path.parent / "half.1.part").write_text("{")
    ResultStore(tmp_path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_charts_are_well_formed_and_name_every_row():
    values = {"a & b": average({"x": 1.0, "y": 3.0}), "c": average({"x": -1.0})}
    drawn = interval_chart("T <", values, axis="difference")
    assert "a &amp; b" in drawn and ElementTree.fromstring(drawn) is not None
    lines = line_chart("IoU", (0.9, 0.5), {"r": [0.1, 0.9], "p": [0.1, 0.88]}, axes=("x", "y"))
    assert ElementTree.fromstring(lines) is not None


def test_workers_share_the_tasks_and_answer_each_in_its_place():
    squares = [bench_tasks.Square(number) for number in range(12)]
    configs = [WorkerConfig(Settings())] * 2
    with Workers(configs, bench_tasks.load, run_task) as workers:
        answers = dict(workers.map(squares))
        assert [answers[n][0] for n in range(12)] == [n**2 for n in range(12)]
        assert os.getpid() not in {pid for _, pid in answers.values()}
    with (
        Workers(configs, bench_tasks.load, run_task) as workers,
        pytest.raises(MotionAppError, match="-1 is below 0"),
    ):
        list(workers.map([bench_tasks.Square(-1)]))


def test_workers_leave_when_their_parent_is_killed(tmp_path):
    script = Path(bench_tasks.__file__)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{script.parent}"}
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    workers = [int(file.name) for file in tmp_path.iterdir()]
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def wait_for(done, seconds: float = 120) -> None:
    stop = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < stop
        time.sleep(0.1)


def test_the_pockets_own_library_is_ten_movements():
    found = movements(Library([POCKET / "motions"]).list())
    assert set(NAMES) <= {movement.name for movement in found}


def published_folder(folder: Path, cases: list[BenchmarkCase]) -> list[str]:
    """``cases`` in the layout of the authors' benchmark; the names of its rows."""
    lines = [["path", "sources", "caption", "concept_words", "motion_words"]]
    for number, case in enumerate(cases):
        path = f"target_images/scene {number}.png"
        save(folder / path, case.image)
        joined = [
            "+".join(getattr(thing, name) for thing in case.objects)
            for name in ("motion", "sentence", "name", "phrase")
        ]
        lines.append([path, *joined])
        for thing in case.objects:
            save(
                folder / f"target_masks/scene {number}.png+{joined[0]}/{thing.name}.png",
                thing.mask.astype(np.uint8) * 255,
            )
            clips = folder / f"reference_videos/animal/{thing.motion}_crop"
            clips.mkdir(parents=True, exist_ok=True)
            write_video(clips / "10.mp4", thing.reference.frames, 8.0)
            save(
                folder / f"reference_video_masks_eval/animal/{thing.motion}/10.png",
                thing.reference.mask.astype(np.uint8) * 255,
            )
    (folder / "captions_inf").mkdir()
    with (folder / "captions_inf" / "animal.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return [f"animal-{line:03d}" for line in range(1, len(cases) + 1)]


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_the_authors_folder_is_read_and_each_row_that_lacks_a_file_is_told(
    cases, geometry, tmp_path
):
    pairs = [case for case in cases if len(case.objects) == 2]
    ids = published_folder(tmp_path, pairs)
    whole = read_published(tmp_path, geometry=geometry)
    assert [case.id for case in whole.cases] == ids and not whole.problems
    for case, drawn in zip(whole.cases, pairs, strict=True):
        assert np.array_equal(case.image, drawn.image)
        for thing, other in zip(case.objects, drawn.objects, strict=True):
            assert (thing.motion, thing.sentence) == (other.motion, other.sentence)
            assert np.array_equal(thing.mask, other.mask)
            assert thing.reference.mask.any()
    next((tmp_path / "target_masks").glob("scene 0*/*.png")).unlink()
    (tmp_path / "target_images" / "scene 1.png").unlink()
    with (tmp_path / "captions_inf" / "animal.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["../secret.png", "jump", "A cat jumps.", "cat", "jumps"])
        csv.writer(file).writerow(["a.png", "jump+sway", "A cat jumps.", "cat", "jumps"])
    broken = read_published(tmp_path, geometry=geometry)
    assert [case.id for case in broken.cases] == ids[2:]
    assert len(broken.problems) == 4
    for problem, words in zip(
        broken.problems,
        ("there is no file target_masks", "scene 1.png", "leads out", "sources 2, caption 1"),
        strict=True,
    ):
        assert words in problem and problem.startswith("animal.csv, line ")
    with pytest.raises(RequestError, match="captions_inf"):
        read_published(tmp_path / "captions_inf", geometry=geometry)


def options_of(out: Path, *options: str) -> list[str]:
    """``evaluate benchmark`` of one denoising step, as words of a command."""
    words = ["evaluate", "benchmark", "--out", str(out), "--device", "cpu", "--processes", "1"]
    words += ["--steps", "1", "--methods", "fleximmt,none", "--without", ""]
    return [*words, "--rmpm-cases", "0", "--strata", "none", *options]


@pytest.fixture
def pocket(short_pocket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTION_APP_MODEL", str(short_pocket))
    monkeypatch.setenv("MOTION_APP_MOTIONS", "[]")


def benchmark(capsys: pytest.CaptureFixture, out: Path, *options: str) -> dict[str, Any]:
    """What the command answers, run in this process, which has torch loaded."""
    assert main(options_of(out, *options)) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def started(out: Path, *options: str) -> subprocess.Popen:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "motion_app", *options_of(out, *options)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def reports(out: Path) -> dict[str, bytes]:
    """Every file a person reads, by its name."""
    files = [*out.glob("*.*"), *out.glob("sheets/*.png"), *out.glob("rmpm/*.png")]
    return {file.name: file.read_bytes() for file in files}


def assert_same_to_rounding(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    """The same files, words and order; numbers and pixels may differ by what threads sum in another
    order: processors with a choice of matrix kernels do not repeat the last bit."""
    assert one.keys() == other.keys()
    for name in one:
        if name.endswith(".png"):
            left, right = (np.asarray(Image.open(io.BytesIO(each[name]))) for each in (one, other))
            assert left.shape == right.shape, name
            assert np.abs(left.astype(float) - right).mean() < 2, name
        else:
            texts = [SECONDS.sub("", each[name].decode()) for each in (one, other)]
            left, right = (NUMBER.split(text) for text in texts)
            assert left == right, name
            left, right = (NUMBER.findall(text) for text in texts)
            assert np.allclose(np.array(left, float), np.array(right, float), rtol=0.05, atol=0.05)


class Killed(BaseException):
    """What no part of the program catches."""


def test_a_run_that_is_killed_and_started_again_ends_with_the_same_report(
    pocket, tmp_path, monkeypatch, capsys
):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    scenes = ("--cases", "2:1", "--rmpm-cases", "1", "--movements", "jump,sway")

    def die(path: Path, entries: Any) -> None:
        write_json(path, entries)
        if len(list(killed.glob("scores/*.json"))) == 1:
            raise Killed

    with monkeypatch.context() as dying, pytest.raises(Killed):
        dying.setattr(tasks, "write_json", die)
        benchmark(capsys, killed, *scenes)
    kept = {file: file.stat().st_mtime_ns for file in killed.glob("videos/*.npz")}
    assert kept and not (killed / "report.md").exists()
    benchmark(capsys, killed, *scenes)
    assert kept.items() <= {f: f.stat().st_mtime_ns for f in killed.glob("videos/*")}.items()
    benchmark(capsys, whole, *scenes)
    assert_same_to_rounding(reports(killed), reports(whole))


@pytest.mark.long
@pytest.mark.timeout(1800)  # starts the command, which loads torch, three times
def test_so_does_one_whose_process_is_killed(pocket, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    counts = ("--cases", "1:1,2:2", "--rmpm-cases", "1")
    process = started(killed, *counts)
    wait_for(lambda: len(list(killed.glob("scores/*.json"))) >= 2, seconds=800)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {file: file.stat().st_mtime_ns for file in killed.glob("videos/*.npz")}
    assert kept and not (killed / "report.md").exists()
    for out in (killed, whole):
        process = started(out, *counts)
        answer, _ = process.communicate(timeout=800)
        assert process.returncode == 0, answer
    assert kept.items() <= {f: f.stat().st_mtime_ns for f in killed.glob("videos/*")}.items()
    assert_same_to_rounding(reports(killed), reports(whole))
    report = reports(whole)["report.md"].decode()
    assert (
        "| true clip | the answer | 3 | 5 of 5 | 1.00" in report and "Full FlexiMMT minus" in report
    )
    assert {"report.tex", "scores.csv", "readme_tables.md", "rmpm.svg"} <= set(reports(whole))


def test_the_scenes_settings_were_chosen_on_are_a_split_of_their_own(
    pocket, geometry, tmp_path, capsys
):
    first = tuning_cases(NAMES, {2: 2}, geometry=geometry)
    assert [case.digest() for case in first] == [
        case.digest() for case in tuning_cases(NAMES, {2: 3}, geometry=geometry)[:2]
    ]
    held_out = draw_cases(NAMES, {2: 2}, geometry=geometry)
    assert not {case.digest() for case in first} & {case.digest() for case in held_out}
    drawn = ("--cases", "2:1", "--movements", "jump,sway")
    answer = benchmark(capsys, tmp_path, *drawn, "--split", "tuning")
    assert answer["scenes"] == {"main": 1} and answer["videos"] == 2
    assert "tuning-two-000,fleximmt,own_motion[colour]" in (tmp_path / "scores.csv").read_text()


def pack_folder(folder: Path, name: str, scale: float) -> Path:
    """One pack for the pocket: ``scale`` is added to the motion words' states of ``name``."""
    shipped = read_motion(POCKET / "motions" / f"{name}.safetensors")
    transformer = json.loads((POCKET / "transformer" / "config.json").read_text())
    geometry = Checkpoint.read(POCKET).geometry
    tokenizer = AutoTokenizer.from_pretrained(POCKET / "tokenizer")
    pieces = tuple(tokenizer(shipped.phrase)["input_ids"][:-1])
    table = torch.full((len(pieces), transformer["text_embed_dim"]), scale)
    folder.mkdir()
    MotionPack(SemanticBranch(table, None, None, None), None, pieces).save(
        folder / f"{name}.safetensors",
        MotionMetadata(name, shipped.phrase, shipped.base, track=shipped.track),
        layers=geometry.layers,
        width=geometry.width_tokens,
    )
    return folder


def test_one_command_compares_packs_learned_with_less(pocket, tmp_path, capsys):
    full = pack_folder(tmp_path / "full", "jump", 0.5)
    less = pack_folder(tmp_path / "less", "jump", 0.25)
    options = ["--methods", "synmotion", "--cases", "1:1", "--movements", "jump"]
    options += ["--motions", str(full), "--reduced", f"mot={less}"]
    answer = benchmark(capsys, tmp_path / "out", *options)
    assert answer["scenes"] == {"main": 1} and answer["videos"] == 3
    report = (tmp_path / "out" / "report.md").read_text()
    assert "## Full SynMotion minus each other row" in report
    assert "| synmotion: mot | tokens of one clip | 1 |" in report and "| 61.43 | 57.77 |" in report


def test_one_command_learns_what_the_library_lacks(pocket, tmp_path, capsys):
    options = ["--methods", "concat,both", "--cases", "1:1", "--movements", "jump", "--learn"]
    options += ["--training-steps", "1"]
    answer = benchmark(capsys, tmp_path, *options)
    assert answer["videos"] == 4 and answer["not_measured"] == 0
    assert {file.parent.name for file in tmp_path.glob("motions/*/jump.*.safetensors")} == {
        "packs",
        "unmasked",
    }
    report = (tmp_path / "report.md").read_text()
    for row in ("fleximmt", "concat", "both", "w/o train mask", "still picture", "true clip"):
        assert f"| {row} | " in report
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("[mv]*/**/*.*")}
    benchmark(capsys, tmp_path, *options)
    assert kept == {file: file.stat().st_mtime_ns for file in tmp_path.glob("[mv]*/**/*.*")}
    assert (tmp_path / "sheets" / "of w o train mask.png").is_file()


def test_nothing_is_learned_for_a_row_that_nobody_asked_for(pocket, tmp_path, capsys, monkeypatch):
    # whose motion was learned from scratch; its encoder sees 13 frames
    model = linked_pocket(tmp_path / "model", "motions")
    (model / "motions").mkdir()
    shipped = read_motion(POCKET / "motions" / "jump.safetensors")
    about = MotionMetadata("jump", shipped.phrase, shipped.base, track=shipped.track)
    MotionTokens.load(shipped.path).save(model / "motions" / "jump.safetensors", about)
    monkeypatch.setenv("MOTION_APP_MODEL", str(model))
    options = ["--methods", REFINED, "--cases", "1:1", "--movements", "jump", "--learn"]
    answer = benchmark(capsys, tmp_path / "out", *options, "--training-steps", "1")
    assert answer["videos"] == 2 and answer["not_measured"] == 0
    (learned,) = tmp_path.glob("out/motions/*/jump.*.safetensors")
    assert read_motion(learned).method == REFINED


def test_what_the_library_has_is_not_learned_again(pocket, tmp_path, capsys):
    options = ["--methods", f"none,{REFINED}", "--without", "", "--cases", "1:1", "--learn"]
    answer = benchmark(capsys, tmp_path, *options, "--movements", "jump", "--training-steps", "1")
    assert answer["videos"] == 3 and answer["not_measured"] == 0
    assert not list(tmp_path.glob("motions/*/*")), "the library's own are refined ones"


def test_a_model_of_others_is_a_row_at_the_cases_rate_and_length(
    pocket, tmp_path, capsys, stock_models
):
    options = ["--cases", "1:1", "--movements", "jump", "--stock", str(stock_models[0])]
    options += ["--study", "1"]
    answer = benchmark(capsys, tmp_path, *options)
    assert answer["videos"] == 3 and answer["not_measured"] == 0
    report = (tmp_path / "report.md").read_text()
    assert "| tiny-wan | caption; 9 frames at 16, resampled | 1 |" in report
    (made,) = tmp_path.glob("videos/*tiny-wan*.npz")
    with np.load(made) as kept, np.load(next(tmp_path.glob("videos/*none*.npz"))) as other:
        assert kept["frames"].shape == other["frames"].shape and kept["fps"] == other["fps"]
        assert kept["calls"] == 2, "one step, both halves of the guidance"
    assert list(tmp_path.glob("study_items/*/tiny-wan.mp4"))
    written = made.stat().st_mtime_ns
    benchmark(capsys, tmp_path, *options)
    assert made.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--stock", "gone/away"], "nobody fetched a model of that name"),
        (["--learn", "--data", "."], "leave it out with --data"),
        (["--movements", "jump,hover"], "the library has no motion hover; choose from circle,"),
        (["--movements", "jump", "--data", "."], "leave it out with --data"),
        (["--reduced", "mot=nowhere"], "the folder nowhere of mot does not exist"),
        (["--reduced", "mot"], "is not NAME=FOLDER"),
    ],
)
def test_what_cannot_be_compared_is_told_before_anything_is_made(
    wrong, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MOTION_APP_MODEL", str(POCKET))
    assert main(["evaluate", "benchmark", "--out", str(tmp_path / "out"), *wrong]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*/*"))


def test_the_same_command_runs_the_authors_folder(pocket, short_pocket, tmp_path, capsys):
    geometry = Checkpoint.read(short_pocket).geometry
    ids = published_folder(tmp_path / "data", draw_cases(NAMES, {2: 1}, geometry=geometry))
    answer = benchmark(capsys, tmp_path / "out", "--data", str(tmp_path / "data"))
    assert answer["scenes"] == {"main": 1} and answer["videos"] == 2
    scores = (tmp_path / "out" / "scores.csv").read_text()
    assert f"{ids[0]},fleximmt,TF[dis]" in scores
