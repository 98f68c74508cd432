"""Laws of the study's plan."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from motion_app.errors import RequestError
from motion_app.study.plan import QUESTIONS, StudyConfig, StudyItem, draw_plan, williams_square

METHODS = tuple("ABCDEFGH")


def config(methods: int = 6, **options) -> StudyConfig:
    return StudyConfig.build(title="t", methods=METHODS[:methods], **options)


def items(study: StudyConfig, main: int, *, gold: int = 0, practice: int = 0) -> list[StudyItem]:
    kinds = ["practice"] * practice + ["main"] * main + ["gold"] * gold
    return [
        StudyItem(
            id=f"{k:032x}",
            name=f"item {k}",
            kind=kind,
            caption="A fox jumps.",
            first_frame=f"{k}.png",
            references=(f"r{k}.mp4",),
            candidates={name: f"{k}-{i}.mp4" for i, name in enumerate(study.methods)},
            answer=None if kind == "main" else study.methods[k % len(study.methods)],
        )
        for k, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize("size", range(2, 9))
def test_a_williams_square_balances_places_and_neighbours(size):
    square = williams_square(size)
    for column in square.T:
        assert set(Counter(column.tolist()).values()) == {len(square) // size}
    neighbours = Counter((a, b) for row in square.tolist() for a, b in pairwise(row))
    assert len(neighbours) == size * (size - 1) and len(set(neighbours.values())) == 1


@pytest.mark.parametrize("methods", range(2, 9))
def test_each_method_stands_equally_often_in_each_place(methods):
    rows = methods * (1 + methods % 2)
    study = config(methods, raters=rows, repeat_share=0)
    plan = draw_plan(study, items(study, 7))
    for place in range(methods):
        counts = Counter(s.order[place] for slot in plan.slots for s in slot)
        assert set(counts.values()) == {rows * 7 // methods}
    by_item = Counter((s.item, s.order[0]) for slot in plan.slots for s in slot)
    assert set(by_item.values()) == {rows // methods}  # and for every single item


def test_one_rater_alone_sees_each_method_nearly_equally_often_in_each_place():
    study = config(6, raters=3, repeat_share=0)
    for slot in draw_plan(study, items(study, 40)).slots:
        counts = Counter((place, name) for s in slot for place, name in enumerate(s.order))
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_same_seed_draws_the_same_plan_and_another_seed_another():
    study = config(raters=4)
    drawn = [draw_plan(s, items(s, 20, gold=2)) for s in (study, study)]
    assert drawn[0] == drawn[1] and drawn[0].digest() == drawn[1].digest()
    other = study.model_copy(update={"seed": 1})
    assert draw_plan(other, items(other, 20, gold=2)).digest() != drawn[0].digest()


def test_raters_see_all_items_in_different_orders():
    study = config(raters=5, repeat_share=0)
    plan = draw_plan(study, items(study, 12))
    orders = {tuple(s.item for s in slot) for slot in plan.slots}
    assert len(orders) == 5 and len({frozenset(order) for order in orders}) == 1


def test_repeats_come_later_and_show_every_candidate_elsewhere():
    study = config(raters=6, repeat_share=0.1)
    for slot in draw_plan(study, items(study, 40, gold=3, practice=2)).slots:
        repeats = [s for s in slot if s.role == "repeat"]
        assert len(repeats) == 4
        for screen in repeats:
            first = slot[screen.repeats]
            assert first.role == "main" and first.item == screen.item
            assert screen.number - first.number >= 40 // 3
            assert all(a != b for a, b in zip(first.order, screen.order, strict=True))
            assert sorted(first.order) == sorted(screen.order)


def test_practice_comes_first_and_gold_is_spread_over_the_rest():
    study = config(raters=4)
    for slot in draw_plan(study, items(study, 30, gold=3, practice=2)).slots:
        assert [s.number for s in slot] == list(range(len(slot)))
        assert [s.role for s in slot[:2]] == ["practice", "practice"]
        gold = [s.number - 2 for s in slot if s.role == "gold"]
        thirds = [number * 3 // (len(slot) - 2) for number in gold]
        assert thirds == [0, 1, 2]


@pytest.mark.parametrize("per_item", [1, 2])
def test_forced_choice_shows_every_pair_equally_often_in_both_orders(per_item):
    study = config(4, form="pair", raters=12, pairs_per_item=per_item, repeat_share=0)
    plan = draw_plan(study, items(study, 5))
    counts = Counter(s.order for slot in plan.slots for s in slot)
    assert len(counts) == 12 and set(counts.values()) == {5 * per_item}


def test_pairs_of_one_item_differ_for_one_rater():
    study = config(4, form="pair", raters=3, pairs_per_item=3, repeat_share=0)
    for slot in draw_plan(study, items(study, 5)).slots:
        seen = Counter((s.item, frozenset(s.order)) for s in slot)
        assert set(seen.values()) == {1} and len(slot) == 15


def test_raters_who_see_a_part_cover_all_items_equally():
    study = config(raters=20, items_per_rater=15, repeat_share=0)
    plan = draw_plan(study, items(study, 50))
    counts = Counter(s.item for slot in plan.slots for s in slot)
    assert set(counts.values()) == {6} and len(counts) == 50
    assert all(len({s.item for s in slot}) == 15 for slot in plan.slots)
    places = Counter(
        (k, name) for slot in plan.slots for s in slot for k, name in enumerate(s.order)
    )
    assert set(places.values()) == {50}


def test_the_right_answer_of_a_check_is_always_among_the_two_shown():
    study = config(5, form="pair", raters=10)
    everything = items(study, 10, gold=4, practice=2)
    answers = {item.id: item.answer for item in everything}
    plan = draw_plan(study, everything)
    checks = [s for slot in plan.slots for s in slot if s.role in ("gold", "practice")]
    assert len(checks) == 60 and all(answers[s.item] in s.order for s in checks)


def test_best_worst_asks_both_ends_of_every_question():
    asked = config(form="best_worst", questions=("MF", "AC")).asked
    assert asked == ("MF.best", "MF.worst", "AC.best", "AC.worst")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"methods": ("A",)}, "2 to 8"),
        ({"methods": ("A", "A")}, "same name"),
        ({"methods": (*METHODS, "I")}, "2 to 8"),
        ({"methods": ("A", " ")}, "2 to 8"),
        ({"questions": ("XX",)}, "MF, TC, TS, AC"),
        ({"questions": ()}, "got none"),
        ({"raters": 0}, "raters"),
        ({"repeat_share": 0.9}, "repeat_share"),
        ({"pairs_per_item": 2}, "1 pairs"),
        ({"shuffle": True}, "shuffle"),
    ],
)
def test_a_config_that_makes_no_study_is_refused_in_one_line(given, said):
    with pytest.raises(RequestError, match=said) as caught:
        StudyConfig.build(**{"title": "t", "methods": ("A", "B"), **given})
    assert "\n" not in str(caught.value)


def test_items_that_do_not_fit_are_refused():
    study = config(3)
    whole = items(study, 2, gold=1)
    lame = replace(whole[0], candidates={"A": "x", "B": "y"})
    with pytest.raises(RequestError, match="missing or unknown: C"):
        draw_plan(study, [lame])
    with pytest.raises(RequestError, match="right answer"):
        draw_plan(study, [*whole[:2], replace(whole[2], answer="Z")])
    with pytest.raises(RequestError, match="no items"):
        draw_plan(study, whole[2:])
    with pytest.raises(RequestError, match="more than the 2"):
        draw_plan(config(3, items_per_rater=3), whole)


def test_there_are_the_papers_four_questions():
    assert tuple(QUESTIONS) == ("MF", "TC", "TS", "AC")
    assert all(
        text.startswith("Which video ") and text.endswith("?") for text in QUESTIONS.values()
    )


def test_a_study_of_one_item_has_a_plan():
    study = config(2, raters=2)
    plan = draw_plan(study, items(study, 1))
    assert [[s.role for s in slot] for slot in plan.slots] == [["main"], ["main"]]
    assert np.unique([s.order[0] for slot in plan.slots for s in slot]).size == 2
