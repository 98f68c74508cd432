"""Laws of the study's store, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise

import postgres
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from test_study_plan import config, items

from motion_app.errors import RequestError
from motion_app.study import database as schema
from motion_app.study import raters as enrolment
from motion_app.study import unblinding
from motion_app.study.answer_copies import JsonlSink
from motion_app.study.archive import StudyArchive
from motion_app.study.links import LinkEnded, LinkSigner, PlaceGone, Recruit, new_id, new_secret
from motion_app.study.records import Answer, SavedAnswer, VideoFormat
from motion_app.study.study import Study

VIDEO = VideoFormat(48, 32, 8.0, 16)


@pytest.fixture
def make(tmp_path, database):
    """Make a study with ``main`` items and any options of the config."""
    made = []

    def build(main=6, *, gold=1, practice=1, sink=None, methods=3, **options) -> Study:
        study = config(methods, **{"raters": 4, **options})
        archive = StudyArchive.create(
            tmp_path / f"study{len(made)}",
            study,
            items(study, main, gold=gold, practice=practice),
            video=VIDEO,
            database=database,
            sink=sink,
        )
        store = Study(archive)
        made.append(store)
        return store

    yield build
    for store in made:
        store.close()


def answer(number, choice=1, question="MF", *, shown=3, **options) -> Answer:
    return Answer(
        **{"id": new_id(), "coverage": (1.0,) * shown, **options},
        number=number,
        question=question,
        choice=choice,
    )


def joined(store: Study) -> str:
    rater = store.raters.join(store.raters.enter()).id
    store.raters.consent(rater)
    return rater


def fill(store: Study, rater: str, choice=1) -> None:
    for number in range(
        store.answers.progress(rater).practice + store.answers.progress(rater).items
    ):
        if store.answers.trial(rater, number).practice:
            store.answers.practise(rater, number, dict.fromkeys(store.archive.config.asked, choice))
        else:
            for question in store.archive.config.asked:
                store.answers.save(rater, answer(number, choice, question))


def count(store: Study) -> int:
    with store.archive.reading() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(schema.answers))


def test_an_answer_sent_again_changes_nothing(make):
    store = make()
    rater = joined(store)
    sent = answer(1, 2)
    first, second = store.answers.save(rater, sent), store.answers.save(rater, sent)
    assert (first.new, second.new) == (True, False) and first.revision == second.revision == 0
    assert count(store) == 1 and store.answers.trial(rater, 1).answers == {"MF": 2}


def test_an_old_answer_that_arrives_late_again_does_not_win_over_a_newer_one(make):
    store = make()
    rater = joined(store)
    old = answer(1, 2)
    store.answers.save(rater, old)
    store.answers.save(rater, answer(1, 3))
    assert not store.answers.save(rater, old).new
    assert store.answers.trial(rater, 1).answers == {"MF": 3}


def test_a_changed_answer_is_added_and_the_latest_counts(make):
    store = make()
    rater = joined(store)
    revisions = [store.answers.save(rater, answer(1, choice)).revision for choice in (1, 2, 1)]
    assert revisions == [0, 1, 2] and count(store) == 3
    unblinding.unblind(store.archive)
    (row,) = unblinding.answer_rows(store.archive)
    assert row.place == 1 and row.revisions == 2
    assert row.chosen == row.order[0]


def test_the_database_itself_refuses_to_change_an_answer(make):
    store = make()
    rater = joined(store)
    store.answers.save(rater, answer(1))
    with (
        pytest.raises(DBAPIError, match="never changed"),
        store.archive.engine.begin() as connection,
    ):
        connection.execute(sa.update(schema.answers).values(choice=2))
    assert store.answers.trial(rater, 1).answers == {"MF": 1}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"number": 99}, "no screen 99"),
        ({"number": -1}, "no screen -1"),
        ({"question": "XX"}, "this study asks MF"),
        ({"choice": 0}, "from 1 to 3"),
        ({"choice": 4}, "from 1 to 3"),
        ({"coverage": (1.0, 1.0)}, "3 shares"),
        ({"coverage": (1.0, 1.0, 0.5)}, "watched to 50%"),
        ({"coverage": (1.0, 1.0, float("nan"))}, "3 shares"),
        ({"coverage": (1.0, 1.0, 2.0)}, "3 shares"),
        ({"id": "x"}, "32 hex digits"),
        ({"trial": "f" * 32}, "another one"),
        ({"shown_ms": -5}, "whole numbers"),
        ({"client_time": 2**70}, "whole numbers"),
    ],
)
def test_an_answer_outside_the_raters_plan_is_refused(make, bad, said):
    store = make()
    rater = joined(store)
    given = {"id": new_id(), "number": 1, "question": "MF", "choice": 1, "coverage": (1.0,) * 3}
    with pytest.raises(RequestError, match=said):
        store.answers.save(rater, Answer(**{**given, **bad}))
    assert count(store) == 0


def test_the_screen_of_another_rater_is_refused(make):
    store = make()
    one, two = joined(store), joined(store)
    with pytest.raises(RequestError, match="another one"):
        store.answers.save(one, answer(1, trial=store.answers.trial(two, 1).id))


def test_one_answer_id_serves_one_question(make):
    store = make()
    rater = joined(store)
    sent = answer(1)
    store.answers.save(rater, sent)
    with pytest.raises(RequestError, match="another question"):
        store.answers.save(rater, answer(1, question="TC", id=sent.id))


def test_nobody_answers_before_consent_or_after_the_end(make):
    store = make()
    rater = store.raters.join(store.raters.enter()).id
    with pytest.raises(RequestError, match="not agreed"):
        store.answers.save(rater, answer(1))
    store.raters.consent(rater)
    fill(store, rater)
    last = answer(1, 2)
    store.answers.save(rater, last)
    store.answers.finish(rater)
    with pytest.raises(RequestError, match="finished"):
        store.answers.save(rater, answer(1, 3))
    assert not store.answers.save(rater, last).new  # a late retry is still answered


def test_two_hundred_writers_at_once_lose_nothing(make):
    store = make(main=50, gold=0, practice=0, repeat_share=0)
    raters = [joined(store) for _ in range(4)]
    sent = [(rater, answer(number, 1 + number % 3)) for rater in raters for number in range(50)]
    barrier = threading.Barrier(200)

    def write(rater: str, given: Answer) -> bool:
        barrier.wait()
        return store.answers.save(rater, given).new

    with ThreadPoolExecutor(200) as pool:
        new = list(pool.map(lambda pair: write(*pair), sent))
    assert all(new) and count(store) == 200
    assert {store.answers.progress(rater).done for rater in raters} == {0}  # one of four questions


def test_two_tabs_that_change_one_answer_at_once_leave_one_history(make):
    store = make()
    rater = joined(store)
    barrier = threading.Barrier(24)

    def write(k: int) -> None:
        barrier.wait()
        store.answers.save(rater, answer(1, 1 + k % 3))

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(write, range(24)))
    with store.archive.reading() as connection:
        rows = connection.execute(
            sa.select(schema.answers.c.revision, schema.answers.c.choice).order_by(
                schema.answers.c.revision
            )
        ).all()
    assert [revision for revision, _ in rows] == list(range(len(rows)))
    assert all(a.choice != b.choice for a, b in pairwise(rows))


def test_a_double_click_in_two_tabs_is_one_answer(make):
    store = make()
    rater = joined(store)
    barrier = threading.Barrier(16)

    def write(_: int) -> bool:
        barrier.wait()
        return store.answers.save(rater, answer(1, 2)).new

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(write, range(16))) == 1
    assert count(store) == 1


def test_slots_are_taken_once_however_many_come_at_once(make):
    store = make(raters=10)
    barrier = threading.Barrier(25)

    def come(_: int) -> str | None:
        barrier.wait()
        try:
            return store.raters.enter()
        except RequestError:
            return None

    with ThreadPoolExecutor(25) as pool:
        tokens = list(pool.map(come, range(25)))
    taken = [token for token in tokens if token is not None]
    assert len(taken) == len(set(taken)) == 10
    assert {store.raters.join(token).number for token in taken} == set(range(10))
    with pytest.raises(RequestError, match="all the raters"):
        store.raters.enter()


def test_a_visitor_who_comes_again_even_at_the_same_moment_has_the_same_slot(make):
    store = make()
    barrier = threading.Barrier(8)

    def come(person: int) -> str:
        barrier.wait()
        return store.raters.enter(
            Recruit(f"person-{person}", "study", f"session-{threading.get_ident()}")
        )

    with ThreadPoolExecutor(8) as pool:
        seats = [set(pool.map(come, [person] * 8)) for person in range(4)]  # the last has no choice
    assert [len(seat) for seat in seats] == [1] * 4 and len(set.union(*seats)) == 4
    with pytest.raises(RequestError, match="all the raters it needs"):
        store.raters.enter(Recruit("person-4"))


def test_a_place_whose_rater_never_answered_goes_to_the_next_who_needs_one(make):
    store = make(raters=2, place_hours=2)
    silent, active = joined(store), joined(store)
    store.answers.save(active, answer(1))
    start = store.archive.clock()
    store.archive.clock = lambda: start + 1.9 * 3600
    for refused in (store.raters.enter, store.raters.find):
        with pytest.raises(RequestError, match="all the raters"):
            refused()
    store.archive.clock = lambda: start + 2.1 * 3600
    assert (
        store.raters.find() is None and store.answers.progress(silent).next == 0
    )  # as long as nobody comes
    successor = store.raters.join(store.raters.enter())
    assert successor.number == 0 and successor.id != silent and successor.consented is None
    for lost in (
        lambda: store.answers.progress(silent),
        lambda: store.answers.save(silent, answer(1)),
    ):
        with pytest.raises(PlaceGone, match="within 2 hours"):
            lost()
    (entry,) = unblinding.record(store.archive)
    assert (entry["kind"], entry["detail"]) == ("place lapsed", {"rater": 0, "answers": 0})
    with pytest.raises(RequestError, match="all the raters"):
        store.raters.enter()
    assert count(store) == 1 and store.answers.save(active, answer(2)).new


def test_places_do_not_come_back_from_personal_links_or_answered_practice_or_without_hours(make):
    store = make(raters=2)
    store.raters.join(store.raters.hand_out()[0])
    practised = joined(store)
    store.answers.practise(practised, 0, {"MF": 1})
    start = store.archive.clock()
    lasting = make(raters=1, place_hours=0)
    joined(lasting)
    for full in (store, lasting):
        full.archive.clock = lambda: start + 9e6
        with pytest.raises(RequestError, match="all the raters"):
            full.raters.enter()


def test_places_that_came_back_can_be_handed_out(make):
    store = make(raters=2)
    joined(store)
    joined(store)
    with pytest.raises(RequestError, match="0 slots are free"):
        store.raters.hand_out()
    start = store.archive.clock()
    store.archive.clock = lambda: start + 3 * 3600
    assert {store.raters.join(token).number for token in store.raters.hand_out(2)} == {0, 1}


def test_a_first_answer_and_a_newcomer_at_one_moment_never_cost_an_answer(make):
    store = make(main=2, raters=8, gold=0, practice=0, repeat_share=0, place_hours=1)
    seated = [joined(store) for _ in range(8)]
    start = store.archive.clock()
    store.archive.clock = lambda: start + 7200
    barrier = threading.Barrier(24)

    def act(k: int) -> tuple[str, object]:
        barrier.wait()
        try:
            if k < 8:
                return "saved", store.answers.save(seated[k], answer(0)).new
            return "came", store.raters.enter()
        except RequestError as error:
            return type(error).__name__, None

    with ThreadPoolExecutor(24) as pool:
        fates = list(pool.map(act, range(24)))
    saved = [rater for rater, (fate, _) in zip(seated, fates, strict=False) if fate == "saved"]
    came = [token for fate, token in fates if fate == "came"]
    assert len(saved) + len(came) == 8 == len(set(came)) + len(saved)
    assert count(store) == len(saved)  # each answer that was acknowledged is there, with its rater
    assert all(store.answers.trial(rater, 0).answers == {"MF": 1} for rater in saved)
    assert {fate for fate, _ in fates} <= {"saved", "came", "PlaceGone", "StudyFull"}


def test_the_look_after_the_lock_sees_an_answer_that_the_query_did_not(make, monkeypatch):
    store = make(raters=1, place_hours=1)
    rater = joined(store)
    store.answers.save(rater, answer(1))
    start = store.archive.clock()
    store.archive.clock = lambda: start + 7200
    anybody = sa.select(schema.raters.c.id).where(schema.raters.c.study == store.archive.id)
    # As a query from before the answer.
    monkeypatch.setattr(store.raters, "_silent", lambda: anybody)
    monkeypatch.setattr(enrolment, "MOMENT_SECONDS", 0.0)
    with pytest.raises(RequestError, match="busy"):
        store.raters.enter()
    assert count(store) == 1 and store.answers.progress(rater).done == 0


def test_a_database_of_the_first_version_is_opened_and_its_silent_raters_make_way(make):
    store = make(raters=2)
    rater = joined(store)
    store.answers.save(rater, answer(1))
    opened = store.raters.join(store.raters.enter())  # as it was: a place taken by opening the link
    with store.archive.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE lapsed"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
        stored = connection.scalar(sa.select(schema.studies.c.config))
        old = {name: value for name, value in json.loads(stored).items() if name != "place_hours"}
        connection.execute(sa.update(schema.studies).values(config=json.dumps(old)))
    again = Study.open(store.archive.folder, database=_address(store))
    again.archive.clock = lambda: opened.joined + 7201
    assert (
        again.answers.trial(rater, 1).answers == {"MF": 1} and again.archive.config.place_hours == 2
    )
    assert again.raters.join(again.raters.enter()).number == opened.number
    with pytest.raises(PlaceGone):
        again.raters.join(again.archive.links.token(opened.id))
    again.close()


def test_a_link_ends_days_after_its_first_opening_and_answers_stay(make):
    store = make(link_days=7)
    rater, late = joined(store), store.raters.enter()
    sent = answer(1, 2)
    store.answers.save(rater, sent)
    start = store.archive.clock()
    store.archive.clock = lambda: start + 6.9 * 86_400
    assert store.answers.save(rater, answer(2, 1)).new and not store.raters.link_ended(
        store.archive.links.token(rater)
    )
    store.archive.clock = lambda: start + 7.1 * 86_400
    with pytest.raises(LinkEnded, match="ended 7 days after it was first opened"):
        store.answers.save(rater, answer(2, 3))
    assert not store.answers.save(rater, sent).new  # its acknowledgement was lost, not the answer
    assert store.raters.link_ended(store.archive.links.token(rater)) and count(store) == 2
    assert store.raters.link_ended(late) and not store.raters.link_ended(store.raters.hand_out()[0])
    assert not store.raters.link_ended("nonsense")


def test_the_link_of_a_rater_who_has_finished_does_not_end(make):
    store = make(link_days=1)
    rater = joined(store)
    fill(store, rater)
    code, start = store.answers.finish(rater), store.archive.clock()
    store.archive.clock = lambda: start + 9e6
    assert (
        not store.raters.link_ended(store.archive.links.token(rater))
        and store.answers.finish(rater) == code
    )


def test_answers_saved_together_fare_as_each_would_alone(make):
    store = make(form="best_worst")
    first, second = joined(store), joined(store)
    resent = answer(1, 1, "MF.best")
    gone = joined(store)
    store.raters.delete(gone)
    given = [
        (first, resent),
        (first, resent),
        (second, answer(1, 2, "MF.best")),
        (first, answer(1, 1, "MF.worst")),
        (second, answer(1, 9, "MF.best")),
        (first, answer(1, 3, "MF.best")),
        (gone, answer(1, 1, "MF.best")),
        (first, answer(1, 1, "MF.worst")),
        (first, answer(2, 2, "MF.best", id=resent.id)),
        (second, answer(1, 1, "MF.best", id="\0" * 32)),
    ]
    came = store.answers.save_all(given)
    kept = [None if isinstance(one, RequestError) else (one.revision, one.new) for one in came]
    new, again, changed = (0, True), (0, False), (1, True)
    assert kept == [new, again, new, None, None, changed, None, new, None, None]
    said = [str(one) for one in came if isinstance(one, RequestError)]
    words = ("both best and worst", "from 1 to 3", "not known", "another question", "32 hex")
    assert all(word in line for word, line in zip(words, said, strict=True))
    assert count(store) == 4
    assert store.answers.trial(first, 1).answers == {"MF.best": 3, "MF.worst": 1}
    assert store.answers.save_all([]) == []


def test_saves_of_two_programs_in_opposite_order_never_lock_each_other_out(make):
    store = make()
    people = [joined(store) for _ in range(3)]
    shared = store.archive
    other = Study(StudyArchive(shared.folder, shared.engine, shared.id))
    barrier = threading.Barrier(2)

    def save(one: Study, order: list[str]) -> None:
        for number in range(1, 7):
            barrier.wait()
            given = [(rater, answer(number, 1, name)) for name in ("MF", "TC") for rater in order]
            assert all(isinstance(saved, SavedAnswer) for saved in one.answers.save_all(given))

    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(save, store, people), pool.submit(save, other, people[::-1])]
        for task in tasks:
            task.result(60)
    assert count(store) == 3 * 6 * 2


def test_outside_ids_are_nowhere_in_the_database(make):
    store = make()
    store.raters.enter(Recruit("5f3e-person", "the-study", "the-session"))
    with store.archive.reading() as connection:
        everything = str(
            [connection.execute(sa.select(table)).all() for table in schema.metadata.sorted_tables]
        )
    assert not any(text in everything for text in ("5f3e-person", "the-study", "the-session"))


def test_no_column_could_hold_a_network_address(make):
    store = make()
    names = {column["name"] for column in sa.inspect(store.archive.engine).get_columns("raters")}
    assert names == set(schema.raters.columns.keys())
    assert not {name for name in names if "ip" in name.split("_") or "address" in name}


def test_links_handed_out_are_not_given_to_passers_by(make):
    store = make(raters=3)
    (kept,) = store.raters.hand_out()
    others = {
        store.raters.join(store.raters.enter()).id,
        store.raters.join(store.raters.enter()).id,
    }
    assert store.raters.join(kept).id not in others
    assert store.raters.tokens() == [kept, None, None]
    with pytest.raises(RequestError, match="0 slots are free"):
        store.raters.hand_out()


def test_a_deleted_rater_leaves_nothing_and_frees_the_slot(make):
    store = make(raters=1)
    token = store.raters.enter(Recruit("somebody"))
    rater = store.raters.join(token)
    store.raters.consent(rater.id)
    fill(store, rater.id)
    gone = count(store)
    assert store.raters.delete(rater.id) == gone > 0 and count(store) == 0
    for lost in (lambda: store.raters.join(token), lambda: store.raters.delete(rater.id)):
        with pytest.raises(RequestError, match="deleted"):
            lost()
    successor = store.raters.join(store.raters.enter(Recruit("somebody")))
    assert successor.number == rater.number and successor.id != rater.id
    assert store.answers.progress(successor.id).done == 0
    assert [entry["kind"] for entry in unblinding.record(store.archive)] == ["rater deleted"]


def test_a_released_place_is_free_for_somebody_else_and_that_is_recorded(make):
    store = make(raters=1)
    token = store.raters.enter(Recruit("somebody"))
    rater = store.raters.join(token)
    store.raters.consent(rater.id)
    store.answers.save(rater.id, answer(1))
    with pytest.raises(RequestError, match="all the raters"):
        store.raters.enter()
    assert store.raters.release(0, joined=rater.joined) == 1 and count(store) == 0
    with pytest.raises(RequestError, match="place given back"):
        store.answers.save(rater.id, answer(2))
    successor = store.raters.join(store.raters.enter())
    assert successor.number == 0 and store.answers.progress(successor.id).done == 0
    (entry,) = unblinding.record(store.archive)
    assert (entry["kind"], entry["detail"]) == ("place released", {"rater": 0, "answers": 1})


def test_a_link_nobody_used_can_be_taken_back(make):
    store = make(raters=1)
    (token,) = store.raters.hand_out()
    assert store.raters.release(0, joined=None) == 0 and store.raters.tokens() == [None]
    with pytest.raises(RequestError, match="not known any more"):
        store.raters.join(token)


def test_no_place_is_released_that_is_free_or_finished_or_was_taken_by_another(make):
    store = make(main=1, gold=0, practice=0)
    rater = store.raters.join(store.raters.enter())
    for number in (1, 99, -1):
        with pytest.raises(RequestError, match="free already"):
            store.raters.release(number, joined=None)
    with pytest.raises(RequestError, match="somebody else"):
        store.raters.release(0, joined=rater.joined - 1)
    store.raters.consent(rater.id)
    fill(store, rater.id)
    store.answers.finish(rater.id)
    with pytest.raises(RequestError, match="--without 0"):
        store.raters.release(0, joined=rater.joined)
    assert count(store) == 4 and unblinding.record(store.archive) == []


def test_a_release_while_answers_come_leaves_none_behind(make):
    store = make(main=50, gold=0, practice=0, raters=2, repeat_share=0)
    rater = store.raters.join(store.raters.enter())
    store.raters.consent(rater.id)
    barrier = threading.Barrier(25)

    def write(number: int) -> None:
        barrier.wait()
        if number == 0:
            store.raters.release(0, joined=rater.joined)
            return
        with suppress(RequestError):  # the place is gone
            store.answers.save(rater.id, answer(number))

    with ThreadPoolExecutor(25) as pool:
        list(pool.map(write, range(25)))
    assert (
        count(store) == 0
        and store.answers.progress(store.raters.join(store.raters.enter()).id).done == 0
    )


def test_a_rater_resumes_where_the_first_answer_is_missing(make):
    store = make()
    rater = joined(store)
    assert store.answers.progress(rater).next == 0
    store.answers.practise(rater, 0, dict.fromkeys(store.archive.config.asked, 1))
    for question in ("MF", "TC", "TS"):
        store.answers.save(rater, answer(1, 1, question))
    assert (store.answers.progress(rater).next, store.answers.progress(rater).done) == (1, 1)
    store.answers.save(rater, answer(1, 1, "AC"))
    again = Study.open(store.archive.folder, database=_address(store))
    assert (again.answers.progress(rater).next, again.answers.progress(rater).done) == (2, 2)
    again.close()


def _address(store: Study) -> str | None:
    if store.archive.engine.dialect.name == "sqlite":
        return None
    return store.archive.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")


def test_finishing_needs_every_answer_and_gives_a_code(make):
    store = make()
    one, two = joined(store), joined(store)
    with pytest.raises(RequestError, match="not answered"):
        store.answers.finish(one)
    fill(store, one)
    fill(store, two)
    codes = store.answers.finish(one), store.answers.finish(two)
    assert codes[0] != codes[1] and store.answers.finish(one) == codes[0]
    fixed = make(completion_code="THANKS-1", main=1, gold=0, practice=0)
    rater = joined(fixed)
    fill(fixed, rater)
    assert fixed.answers.finish(rater) == "THANKS-1"


def test_practice_says_what_was_right(make):
    store = make()
    rater = joined(store)
    trial = store.answers.trial(rater, 0)
    item = next(i for i in store.archive.items.values() if i.kind == "practice")
    place = 1 + trial.candidates.index(item.candidates[item.answer])
    wrong = place % 3 + 1
    assert store.answers.practise(rater, 0, {"MF": place, "TC": wrong}) == {"MF": True, "TC": False}
    with pytest.raises(RequestError, match="not for practice"):
        store.answers.practise(rater, 1, {"MF": 1})


def test_best_and_worst_are_never_the_same(make):
    store = make(form="best_worst", questions=("MF",))
    rater = joined(store)
    store.answers.save(rater, answer(1, 2, "MF.best"))
    with pytest.raises(RequestError, match="both best and worst"):
        store.answers.save(rater, answer(1, 2, "MF.worst"))
    store.answers.save(rater, answer(1, 3, "MF.worst"))
    assert store.answers.trial(rater, 1).answers == {"MF.best": 2, "MF.worst": 3}


def test_what_a_rater_gets_names_no_method_and_marks_no_check(make):
    store = make()
    rater = joined(store)
    for number in range(store.answers.progress(rater).items + 1):
        trial = store.answers.trial(rater, number)
        assert not hasattr(trial, "role") and set(trial.questions) == set(
            store.archive.config.asked
        )
        assert len(trial.id) == 32 and trial.practice == (number == 0)


def test_results_are_hidden_until_unblinded_and_the_opening_is_recorded(make):
    store = make()
    rater = joined(store)
    store.answers.save(rater, answer(1))
    with pytest.raises(RequestError, match="hidden until"):
        unblinding.answer_rows(store.archive)
    seen = json.dumps(str(unblinding.overview(store.archive)))
    assert not any(f"'{method}'" in seen for method in store.archive.config.methods)
    when = unblinding.unblind(store.archive, by="test")
    assert unblinding.unblind(store.archive) == when == unblinding.unblinded(store.archive)
    assert [entry["kind"] for entry in unblinding.record(store.archive)] == ["unblinded"]
    assert len(unblinding.answer_rows(store.archive)) == 1


def test_the_overview_flags_haste_wrong_checks_and_one_place(make):
    store = make(main=30, gold=3, repeat_share=0)
    good, bad = joined(store), joined(store)
    right = {item.candidates[item.answer] for item in store.archive.items.values() if item.answer}
    for rater in (good, bad):
        for number in range(1, 34):
            names = store.answers.trial(rater, number).candidates
            check = [k for k, name in enumerate(names, start=1) if name in right]
            wise = check[0] if check else 1 + number % 3
            unwise = check[0] % 3 + 1 if check else 2
            given = answer(
                number, wise if rater == good else unwise, shown_ms=30_000 if rater == good else 900
            )
            store.answers.save(rater, given)
    states = unblinding.overview(store.archive).raters
    assert states[0].flags == () and states[0].gold_wrong == 0
    assert states[1].flags == ("gold", "fast", "one place") and states[1].gold_wrong == 3
    assert states[0].seconds == 30 and states[2].seconds is None


def test_every_saved_answer_reaches_the_sink_once(make, tmp_path):
    sink = JsonlSink(tmp_path / "sink")
    store = make(sink=sink)
    rater = joined(store)
    sent = answer(1, 2)
    store.answers.save(rater, sent)
    store.answers.save(rater, sent)
    store.answers.save(rater, answer(1, 3))
    store.raters.delete(rater)
    lines = [json.loads(line) for line in sink.path.read_text().splitlines()]
    assert [line.get("choice") for line in lines] == [2, 3, None]
    assert (
        lines[0]["order"][1] in store.archive.config.methods and lines[2]["deleted_rater"] == rater
    )


def test_a_plan_is_in_the_database_before_the_first_answer(make):
    store = make()
    with store.archive.reading() as connection:
        query = sa.select(sa.func.count()).select_from(schema.presentations)
        screens = connection.scalar(query.where(schema.presentations.c.study == store.archive.id))
    assert screens == 4 * (6 + 1 + 1 + 1)
    assert len(store.archive.plan_digest) == 64 and count(store) == 0


def test_a_database_holds_many_studies(make, database):
    one, two = make(), make()
    joined(one)
    assert [s.joined is not None for s in unblinding.overview(two.archive).raters] == [False] * 4
    with pytest.raises(RequestError, match="not valid"):
        two.raters.join(one.archive.links.token(one.archive.links.rater(one.raters.enter())))


def test_the_migrations_make_the_tables_the_code_knows(make):
    store = make()
    inspector = sa.inspect(store.archive.engine)
    for table in schema.metadata.sorted_tables:
        columns = {c["name"]: c["nullable"] for c in inspector.get_columns(table.name)}
        assert columns == {c.name: c.nullable for c in table.columns}
        unique = {
            frozenset(u["column_names"]) for u in inspector.get_unique_constraints(table.name)
        }
        known = {
            frozenset(c.columns.keys())
            for c in table.constraints
            if isinstance(c, sa.UniqueConstraint)
        }
        assert unique == known
    with store.archive.reading() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == schema.HEAD


@pytest.fixture(params=postgres.backends())
def empty_database(request):
    """Without the study's tables."""
    return postgres.database_of(request, like=postgres.EMPTY)


def test_many_programs_may_open_a_new_database_at_once(empty_database, tmp_path):
    address = empty_database or tmp_path / "new.sqlite"
    barrier = threading.Barrier(6)

    def open_it(_: int) -> str:
        barrier.wait()
        engine = schema.connect(address)
        with engine.connect() as connection:
            found = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        engine.dispose()
        return found

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(open_it, range(6))) == {schema.HEAD}


def test_mistakes_with_folders_and_databases_say_what_to_do(make, tmp_path, database):
    store = make()
    study = store.archive.config
    with pytest.raises(RequestError, match="already"):
        StudyArchive.create(store.archive.folder, study, items(study, 2), video=VIDEO)
    with pytest.raises(RequestError, match="study create"):
        Study.open(tmp_path / "none")
    with pytest.raises(RequestError, match="postgresql://"):
        schema.connect("mysql://user:hunter2@host/name")
    with pytest.raises(RequestError, match="no such file"):
        store.archive.media_path("../study.json")
    if database is not None:
        with pytest.raises(RequestError, match="MOTION_APP_STUDY_DATABASE"):
            Study.open(store.archive.folder)
        with pytest.raises(RequestError, match="check its address") as caught:
            schema.connect("postgresql://u:hunter2@/x?host=/nowhere")
        assert "hunter2" not in str(caught.value)


def test_a_link_that_was_not_signed_here_opens_nothing():
    signer = LinkSigner("study", new_secret())
    token = signer.token(new_id())
    assert signer.rater(token) == token.partition(".")[0]
    for forged in (
        token[:-1] + ("A" if token[-1] != "A" else "B"),
        new_id() + token[32:],
        token.partition(".")[0],
        "",
        "é.é",
        LinkSigner("study", new_secret()).token(token[:32]),
        LinkSigner("other", signer.secret).token(token[:32]),
    ):
        with pytest.raises(RequestError, match="not valid"):
            signer.rater(forged)
    assert signer.is_open(signer.open_token()) and not signer.is_open(token)
    assert "secret" not in repr(signer)


def test_hashes_and_codes_differ_by_study_and_purpose():
    one, two = LinkSigner("a", new_secret()), LinkSigner("b", new_secret())
    assert len({s.hashed(kind, "x") for s in (one, two) for kind in ("pid", "session")}) == 4
    assert one.hashed("pid", "x") == one.hashed("pid", "x")
    assert one.completion_code("r") != one.completion_code("s")
    with pytest.raises(RequestError, match="PROLIFIC_PID"):
        Recruit(" ")
    with pytest.raises(RequestError, match="at most 200"):
        Recruit("x" * 201)
