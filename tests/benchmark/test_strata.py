"""Scenes of other kinds than the main ones, and what a benchmark learns for them by itself."""

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from motion_app.benchmark.outcome import STILL, Outcome
from motion_app.benchmark.references import (
    BY_NOUN,
    LARGER,
    LEARNED,
    LIBRARY,
    LORAS,
    MARKED,
    MIRRORED,
    PACKED,
    UNMASKED,
    WORDED,
    enlarged,
    lesson,
)
from motion_app.benchmark.scenes import world_of
from motion_app.benchmark.scores import CaseScores
from motion_app.benchmark.strata import (
    ARMED,
    MIXED,
    MOVERS,
    SHAPES,
    STRATA,
    WORD_MOTIONS,
    larger_cases,
    larger_names,
    mirrored_cases,
    mixed_cases,
    shape_cases,
    worded_cases,
)
from motion_app.benchmark.tables import movement_table
from motion_app.benchmark.tasks import MethodRunner
from motion_app.benchmark.variants import (
    FULL,
    MAIN,
    TEXT_PARTS,
    Suite,
    SuiteOptions,
    build_suites,
    choose_variants,
    files_for,
    learning,
    lessons,
)
from motion_app.geometry import ModelGeometry
from motion_app.methods import CLIP_METHODS, LORA_METHODS
from motion_app.models.checkpoint import Checkpoint
from motion_app.scene import Motion
from motion_app.settings import ROOT
from motion_app.world.creatures import MOTIONS, SHAPE_MOTIONS
from motion_app.world.world import SHIPPED_MOTIONS, vocabulary

NAMES = tuple(sorted(SHIPPED_MOTIONS))


@pytest.fixture(scope="module")
def geometry() -> ModelGeometry:
    return Checkpoint.read(ROOT / "checkpoints" / "pocket").geometry


@pytest.fixture(scope="module")
def suites(geometry: ModelGeometry) -> dict[str, Suite]:
    """All kinds, two scenes each, with the rows of every method."""
    variants = choose_variants(without=("m2x",))
    files = {name: Motion(name, "is moving", Path(name), "base") for name in NAMES}
    roster = {(variant.method, LIBRARY): files for variant in variants}
    options = SuiteOptions({2: 1}, tuple(STRATA), 2)
    found = build_suites(variants, roster, options, names=NAMES, geometry=geometry)
    return {suite.name: suite for suite in found}


def test_motions_of_shape_go_nowhere(geometry):
    assert SHAPE_MOTIONS == ("crouch", "grow", "shrink", "spin", "bow", "wave")
    assert not set(SHAPE_MOTIONS) & set(SHIPPED_MOTIONS), "the main scenes draw from the others"
    for case in shape_cases(3, geometry=geometry):
        for creature in case.rendered.scene.creatures:
            assert creature.kind in ARMED and creature.motion in SHAPE_MOTIONS
            assert not creature.path.dx.any() and not creature.path.dy.any()
        changed = np.abs(case.rendered.masks[:, 1:] ^ case.rendered.masks[:, :1])
        assert changed.any(axis=(1, 2, 3)).all(), "whatever moves shows"


def test_a_mirrored_reference_and_its_right_answer_go_the_other_way(geometry):
    for case in mirrored_cases(NAMES, 3, geometry=geometry):
        for k, thing in enumerate(case.objects):
            usual = lesson("shapes", thing.motion, geometry).rendered.tracks[0][:, 1]
            turned = lesson(MIRRORED, thing.motion, geometry).rendered.tracks[0][:, 1]
            true = case.rendered.tracks[k][:, 1]
            assert np.array_equal(thing.reference.track[:, 1], turned)
            ways = [x - x[0] for x in (usual, turned, true)]
            assert np.abs(ways[0] + ways[1]).max() < 2
            assert np.corrcoef(ways[1], ways[2])[0, 1] > 0.95
        assert all(c.stays_inside(world_of(geometry)) for c in case.rendered.scene.creatures)


def test_a_larger_reference_shows_the_same_at_one_and_a_half_times_the_size(geometry):
    names = larger_names(NAMES, geometry)
    assert {"sway", "walk left", "walk right"} <= set(names) and "rise" not in names
    config = world_of(geometry)
    for name in names:
        usual, large = (lesson(set_, name, geometry).rendered for set_ in ("shapes", LARGER))
        small, big = (clip.scene.creatures[0] for clip in (usual, large))
        assert big.radius == 1.5 * small.radius and big.stays_inside(config)
        area = large.masks.sum() / usual.masks.sum()
        assert area == pytest.approx(2.25, rel=0.06)
    (creature,) = lesson("shapes", "rise", geometry).rendered.scene.creatures
    assert enlarged(creature, config) is None
    for case in larger_cases(NAMES, 2, geometry=geometry):
        for thing in case.objects:
            clip = lesson(LARGER, thing.motion, geometry).rendered
            assert np.array_equal(thing.reference.frames, clip.frames)


def test_sentences_name_each_motion_in_words_that_the_pocket_knows(geometry):
    known = set(vocabulary())
    for case in worded_cases(NAMES, 3, geometry=geometry):
        for thing, creature in zip(case.objects, case.rendered.scene.creatures, strict=True):
            assert thing.motion in WORD_MOTIONS and thing.phrase == MOTIONS[thing.motion].words
            assert thing.sentence == f"{creature.article} {creature.noun} {thing.phrase}."
            assert set(thing.sentence.rstrip(".").split()) <= known
            assert lesson(WORDED, thing.motion, geometry).phrase == thing.phrase
    for case in mixed_cases(6, geometry=geometry):
        one, other = (thing.sentence.split() for thing in case.objects)
        assert (
            one[2:4] == other[2:4]
            and one[3] == "walks"
            and {one[4], other[4]}
            == {
                "left.",
                "right.",
            }
        )


def test_every_kind_is_run_with_motions_that_are_learned_for_it(suites):
    assert set(STRATA) < set(suites)
    for name in (SHAPES, MIRRORED, LARGER, WORDED, MIXED):
        rows = {variant.name: variant for variant in suites[name].variants}
        assert rows["fleximmt"].tokens == (WORDED if name == MIXED else name)
        assert {"fleximmt", "concat", "none", *CLIP_METHODS} - set(LORA_METHODS) <= set(rows)
        assert not set(LORA_METHODS) & set(rows), "their files are learned otherwise"
        for part in TEXT_PARTS:
            assert (f"w/o {part}" in rows) == (name in (WORDED, MIXED))
    ids = [case.id for suite in suites.values() for case in suite.cases if suite.name != "rules"]
    assert len(ids) == len(set(ids)), "scores are known by the case and the row"
    needed = lessons(list(suites.values()))
    assert {tokens for tokens, _ in needed} == set(LEARNED)
    assert len(needed) == len(set(needed))
    shown = {thing.motion for case in suites[SHAPES].cases for thing in case.objects}
    assert {name for tokens, name in needed if tokens == SHAPES} == shown


def test_what_is_new_changes_no_scene_that_there_was(suites):
    """Runs of earlier versions are resumed; their scenes are those that follow."""
    found = {}
    for name in (MAIN, "bodies", "limbs", MOVERS):
        case = suites[name].cases[0]
        found[case.id] = [
            f"{thing.motion}, {thing.name}, {creature.x:.2f} {creature.y:.2f}"
            for thing, creature in zip(case.objects, case.rendered.scene.creatures, strict=True)
        ]
    assert found == {
        "two-000": ["rise, orange blob, 15.28 37.89", "walk right, green blob, 56.89 50.88"],
        "bodies-000": ["circle, green cat, 37.12 28.06", "walk right, purple cat, 21.70 54.55"],
        "limbs-two-000": ["walk right, yellow ghost, 44.95 18.94", "sway, pink ghost, 45.15 46.85"],
        "movers-two-000": ["jump, pink blob, 71.18 32.16", "sink, purple robot, 41.80 32.05"],
    }


def test_a_method_stands_once_and_without_what_it_lacks(geometry):
    variants = choose_variants(("none", "concat", "synmotion"), ("m2x",), unmasked=True)
    rows = learning(variants, MIRRORED)
    assert [row.name for row in rows] == ["fleximmt", "none", "concat"]
    assert {row.tokens for row in rows} == {MIRRORED}


def test_every_row_has_a_file_for_every_scene(suites):
    """The stock model's too, which leaves it alone."""
    learned: dict[str, dict[str, Motion]] = {}
    for tokens, name in lessons(list(suites.values())):
        file = Motion(name, "is moving", Path(tokens), "base")
        learned.setdefault(tokens, {})[name] = file
    for name in (SHAPES, MIRRORED, LARGER, WORDED, MIXED):
        for case, variant in itertools.product(suites[name].cases, suites[name].variants):
            roster = {(variant.method, tokens): files for tokens, files in learned.items()}
            assert files_for(case, variant, roster) is not None, (case.id, variant)


def test_movements_are_told_apart_in_how_far_they_beat_the_still_picture(geometry):
    case = next(c for c in shape_cases(1, geometry=geometry) if len(c.objects) == 2)
    suite = Suite(SHAPES, "shapes", (case,), (FULL,))
    scores = {
        (case.id, "fleximmt"): CaseScores({"right_overlap": (0.9, 0.5)}, {}),
        (case.id, STILL): CaseScores({"right_overlap": (0.7, 0.6)}, {}),
    }
    ids = ("right_overlap",)
    found = Outcome({}, "m", (), ids, (suite,), (), scores, {}, (), (), None)
    table = movement_table(found, suite, "t")
    names = sorted(thing.motion for thing in case.objects)
    assert table.headings == ("method", "told", *names)
    (row,) = table.rows
    leads = dict(zip((thing.motion for thing in case.objects), ("0.20", "-0.10"), strict=True))
    assert row[2:] == tuple(leads[name] for name in names)
    assert movement_table(replace(found, scores={}), suite, "t") is None


@pytest.mark.parametrize(
    ("tokens", "phrase", "learned"),
    [
        (MARKED, "is moving", "given"),
        (BY_NOUN, "is moving", "dmem"),
        (UNMASKED, "is moving", "none"),
        (SHAPES, "is moving", "given"),
        (WORDED, "jumps", "given"),
        (PACKED, "is moving", "synmotion"),
        (LORAS, "is moving", "i2vedit"),
    ],
)
def test_a_lesson_is_learned_as_its_set_says(geometry, tokens, phrase, learned):
    defaults = Checkpoint.read(ROOT / "checkpoints" / "pocket").defaults
    runner = MethodRunner.__new__(MethodRunner)
    runner.engine = SimpleNamespace(defaults=defaults)
    taught = lesson(tokens, "jump", geometry)
    training = runner._training(taught, 7)
    assert (training.name, training.phrase, training.noun) == ("jump", phrase, taught.noun)
    assert training.steps == 7
    assert getattr(training, "mask", training.method) == learned
