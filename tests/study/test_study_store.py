"""Laws of a study's raters and answers, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from test_study_plan import config, items

from motion_app.errors import RequestError
from motion_app.study import database as schema
from motion_app.study import raters as enrolment
from motion_app.study import unblinding
from motion_app.study.answers import Study
from motion_app.study.archive import JsonlSink, StudyArchive
from motion_app.study.links import LinkEnded, LinkSigner, PlaceGone, Recruit, new_id, new_secret
from motion_app.study.records import Answer, SavedAnswer, VideoFormat

VIDEO = VideoFormat(48, 32, 8.0, 16)


@pytest.fixture
def make(tmp_path, database):
    """Make a study with ``main`` items and any options of the config."""
    made = []

    def build(main=6, *, gold=1, practice=1, sink=None, methods=3, **options) -> Study:
        settings = config(methods, **{"raters": 4, **options})
        archive = StudyArchive.create(
            tmp_path / f"study{len(made)}",
            settings,
            items(settings, main, gold=gold, practice=practice),
            video=VIDEO,
            database=database,
            sink=sink,
        )
        study = Study(archive)
        made.append(study)
        return study

    yield build
    for study in made:
        study.close()


def answer(number, choice=1, question="MF", *, shown=3, **options) -> Answer:
    return Answer(
        **{"id": new_id(), "coverage": (1.0,) * shown, **options},
        number=number,
        question=question,
        choice=choice,
    )


def joined(study: Study) -> str:
    rater = study.raters.join(study.raters.enter()).id
    study.raters.consent(rater)
    return rater


def fill(study: Study, rater: str, choice=1) -> None:
    for number in range(
        study.answers.progress(rater).practice + study.answers.progress(rater).items
    ):
        if study.answers.trial(rater, number).practice:
            study.answers.practise(rater, number, dict.fromkeys(study.archive.config.asked, choice))
        else:
            for question in study.archive.config.asked:
                study.answers.save(rater, answer(number, choice, question))


def count(study: Study) -> int:
    with study.archive.reading() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(schema.answers))


def test_an_answer_sent_again_changes_nothing(make):
    study = make()
    rater = joined(study)
    sent = answer(1, 2)
    first, second = study.answers.save(rater, sent), study.answers.save(rater, sent)
    assert (first.new, second.new) == (True, False) and first.revision == second.revision == 0
    assert count(study) == 1 and study.answers.trial(rater, 1).answers == {"MF": 2}


def test_an_old_answer_that_arrives_late_again_does_not_win_over_a_newer_one(make):
    study = make()
    rater = joined(study)
    old = answer(1, 2)
    study.answers.save(rater, old)
    study.answers.save(rater, answer(1, 3))
    assert not study.answers.save(rater, old).new
    assert study.answers.trial(rater, 1).answers == {"MF": 3}


def test_a_changed_answer_is_added_and_the_latest_counts(make):
    study = make()
    rater = joined(study)
    revisions = [study.answers.save(rater, answer(1, choice)).revision for choice in (1, 2, 1)]
    assert revisions == [0, 1, 2] and count(study) == 3
    unblinding.unblind(study.archive)
    (row,) = unblinding.answer_rows(study.archive)
    assert row.place == 1 and row.revisions == 2
    assert row.chosen == row.order[0]


def test_the_database_itself_refuses_to_change_an_answer(make):
    study = make()
    rater = joined(study)
    study.answers.save(rater, answer(1))
    with (
        pytest.raises(DBAPIError, match="never changed"),
        study.archive.engine.begin() as connection,
    ):
        connection.execute(sa.update(schema.answers).values(choice=2))
    assert study.answers.trial(rater, 1).answers == {"MF": 1}


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
    study = make()
    rater = joined(study)
    given = {"id": new_id(), "number": 1, "question": "MF", "choice": 1, "coverage": (1.0,) * 3}
    with pytest.raises(RequestError, match=said):
        study.answers.save(rater, Answer(**{**given, **bad}))
    assert count(study) == 0


def test_the_screen_of_another_rater_is_refused(make):
    study = make()
    one, two = joined(study), joined(study)
    with pytest.raises(RequestError, match="another one"):
        study.answers.save(one, answer(1, trial=study.answers.trial(two, 1).id))


def test_one_answer_id_serves_one_question(make):
    study = make()
    rater = joined(study)
    sent = answer(1)
    study.answers.save(rater, sent)
    with pytest.raises(RequestError, match="another question"):
        study.answers.save(rater, answer(1, question="TC", id=sent.id))


def test_nobody_answers_before_consent_or_after_the_end(make):
    study = make()
    rater = study.raters.join(study.raters.enter()).id
    with pytest.raises(RequestError, match="not agreed"):
        study.answers.save(rater, answer(1))
    study.raters.consent(rater)
    fill(study, rater)
    last = answer(1, 2)
    study.answers.save(rater, last)
    study.answers.finish(rater)
    with pytest.raises(RequestError, match="finished"):
        study.answers.save(rater, answer(1, 3))
    assert not study.answers.save(rater, last).new  # a late retry is still answered


def test_two_hundred_writers_at_once_lose_nothing(make):
    study = make(main=50, gold=0, practice=0, repeat_share=0)
    raters = [joined(study) for _ in range(4)]
    sent = [(rater, answer(number, 1 + number % 3)) for rater in raters for number in range(50)]
    barrier = threading.Barrier(200)

    def write(rater: str, given: Answer) -> bool:
        barrier.wait()
        return study.answers.save(rater, given).new

    with ThreadPoolExecutor(200) as pool:
        new = list(pool.map(lambda pair: write(*pair), sent))
    assert all(new) and count(study) == 200
    assert {study.answers.progress(rater).done for rater in raters} == {0}  # one of four questions


def test_two_tabs_that_change_one_answer_at_once_leave_one_history(make):
    study = make()
    rater = joined(study)
    barrier = threading.Barrier(24)

    def write(k: int) -> None:
        barrier.wait()
        study.answers.save(rater, answer(1, 1 + k % 3))

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(write, range(24)))
    with study.archive.reading() as connection:
        rows = connection.execute(
            sa.select(schema.answers.c.revision, schema.answers.c.choice).order_by(
                schema.answers.c.revision
            )
        ).all()
    assert [revision for revision, _ in rows] == list(range(len(rows)))
    assert all(a.choice != b.choice for a, b in pairwise(rows))


def test_a_double_click_in_two_tabs_is_one_answer(make):
    study = make()
    rater = joined(study)
    barrier = threading.Barrier(16)

    def write(_: int) -> bool:
        barrier.wait()
        return study.answers.save(rater, answer(1, 2)).new

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(write, range(16))) == 1
    assert count(study) == 1


def test_slots_are_taken_once_however_many_come_at_once(make):
    study = make(raters=10)
    barrier = threading.Barrier(25)

    def come(_: int) -> str | None:
        barrier.wait()
        try:
            return study.raters.enter()
        except RequestError:
            return None

    with ThreadPoolExecutor(25) as pool:
        tokens = list(pool.map(come, range(25)))
    taken = [token for token in tokens if token is not None]
    assert len(taken) == len(set(taken)) == 10
    assert {study.raters.join(token).number for token in taken} == set(range(10))
    with pytest.raises(RequestError, match="all the raters"):
        study.raters.enter()


def test_a_visitor_who_comes_again_even_at_the_same_moment_has_the_same_slot(make):
    study = make()
    barrier = threading.Barrier(8)

    def come(person: int) -> str:
        barrier.wait()
        return study.raters.enter(
            Recruit(f"person-{person}", "study", f"session-{threading.get_ident()}")
        )

    with ThreadPoolExecutor(8) as pool:
        seats = [set(pool.map(come, [person] * 8)) for person in range(4)]  # the last has no choice
    assert [len(seat) for seat in seats] == [1] * 4 and len(set.union(*seats)) == 4
    with pytest.raises(RequestError, match="all the raters it needs"):
        study.raters.enter(Recruit("person-4"))


def test_a_place_whose_rater_never_answered_goes_to_the_next_who_needs_one(make):
    study = make(raters=2, place_hours=2)
    silent, active = joined(study), joined(study)
    study.answers.save(active, answer(1))
    start = study.archive.clock()
    study.archive.clock = lambda: start + 1.9 * 3600
    for refused in (study.raters.enter, study.raters.find):
        with pytest.raises(RequestError, match="all the raters"):
            refused()
    study.archive.clock = lambda: start + 2.1 * 3600
    assert (
        study.raters.find() is None and study.answers.progress(silent).next == 0
    )  # as long as nobody comes
    successor = study.raters.join(study.raters.enter())
    assert successor.number == 0 and successor.id != silent and successor.consented is None
    for lost in (
        lambda: study.answers.progress(silent),
        lambda: study.answers.save(silent, answer(1)),
    ):
        with pytest.raises(PlaceGone, match="within 2 hours"):
            lost()
    (entry,) = unblinding.record(study.archive)
    assert (entry["kind"], entry["detail"]) == ("place lapsed", {"rater": 0, "answers": 0})
    with pytest.raises(RequestError, match="all the raters"):
        study.raters.enter()
    assert count(study) == 1 and study.answers.save(active, answer(2)).new


def test_places_do_not_come_back_from_personal_links_or_answered_practice_or_without_hours(make):
    study = make(raters=2)
    study.raters.join(study.raters.hand_out()[0])
    practised = joined(study)
    study.answers.practise(practised, 0, {"MF": 1})
    start = study.archive.clock()
    lasting = make(raters=1, place_hours=0)
    joined(lasting)
    for full in (study, lasting):
        full.archive.clock = lambda: start + 9e6
        with pytest.raises(RequestError, match="all the raters"):
            full.raters.enter()


def test_places_that_came_back_can_be_handed_out(make):
    study = make(raters=2)
    joined(study)
    joined(study)
    with pytest.raises(RequestError, match="0 slots are free"):
        study.raters.hand_out()
    start = study.archive.clock()
    study.archive.clock = lambda: start + 3 * 3600
    assert {study.raters.join(token).number for token in study.raters.hand_out(2)} == {0, 1}


def test_a_first_answer_and_a_newcomer_at_one_moment_never_cost_an_answer(make):
    study = make(main=2, raters=8, gold=0, practice=0, repeat_share=0, place_hours=1)
    seated = [joined(study) for _ in range(8)]
    start = study.archive.clock()
    study.archive.clock = lambda: start + 7200
    barrier = threading.Barrier(24)

    def act(k: int) -> tuple[str, object]:
        barrier.wait()
        try:
            if k < 8:
                return "saved", study.answers.save(seated[k], answer(0)).new
            return "came", study.raters.enter()
        except RequestError as error:
            return type(error).__name__, None

    with ThreadPoolExecutor(24) as pool:
        fates = list(pool.map(act, range(24)))
    saved = [rater for rater, (fate, _) in zip(seated, fates, strict=False) if fate == "saved"]
    came = [token for fate, token in fates if fate == "came"]
    assert len(saved) + len(came) == 8 == len(set(came)) + len(saved)
    assert count(study) == len(saved)  # each answer that was acknowledged is there, with its rater
    assert all(study.answers.trial(rater, 0).answers == {"MF": 1} for rater in saved)
    assert {fate for fate, _ in fates} <= {"saved", "came", "PlaceGone", "StudyFull"}


def test_the_look_after_the_lock_sees_an_answer_that_the_query_did_not(make, monkeypatch):
    study = make(raters=1, place_hours=1)
    rater = joined(study)
    study.answers.save(rater, answer(1))
    start = study.archive.clock()
    study.archive.clock = lambda: start + 7200
    anybody = sa.select(schema.raters.c.id).where(schema.raters.c.study == study.archive.id)
    # As a query from before the answer.
    monkeypatch.setattr(study.raters, "_silent", lambda: anybody)
    monkeypatch.setattr(enrolment, "MOMENT_SECONDS", 0.0)
    with pytest.raises(RequestError, match="busy"):
        study.raters.enter()
    assert count(study) == 1 and study.answers.progress(rater).done == 0


def test_a_database_of_the_first_version_is_opened_and_its_silent_raters_make_way(make):
    study = make(raters=2)
    rater = joined(study)
    study.answers.save(rater, answer(1))
    opened = study.raters.join(study.raters.enter())  # as it was: a place taken by opening the link
    with study.archive.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE lapsed"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
        stored = connection.scalar(sa.select(schema.studies.c.config))
        old = {name: value for name, value in json.loads(stored).items() if name != "place_hours"}
        connection.execute(sa.update(schema.studies).values(config=json.dumps(old)))
    again = Study.open(study.archive.folder, database=_address(study))
    again.archive.clock = lambda: opened.joined + 7201
    assert (
        again.answers.trial(rater, 1).answers == {"MF": 1} and again.archive.config.place_hours == 2
    )
    assert again.raters.join(again.raters.enter()).number == opened.number
    with pytest.raises(PlaceGone):
        again.raters.join(again.archive.links.token(opened.id))
    again.close()


def test_a_link_ends_days_after_its_first_opening_and_answers_stay(make):
    study = make(link_days=7)
    rater, late = joined(study), study.raters.enter()
    sent = answer(1, 2)
    study.answers.save(rater, sent)
    start = study.archive.clock()
    study.archive.clock = lambda: start + 6.9 * 86_400
    assert study.answers.save(rater, answer(2, 1)).new and not study.raters.link_ended(
        study.archive.links.token(rater)
    )
    study.archive.clock = lambda: start + 7.1 * 86_400
    with pytest.raises(LinkEnded, match="ended 7 days after it was first opened"):
        study.answers.save(rater, answer(2, 3))
    assert not study.answers.save(rater, sent).new  # its acknowledgement was lost, not the answer
    assert study.raters.link_ended(study.archive.links.token(rater)) and count(study) == 2
    assert study.raters.link_ended(late) and not study.raters.link_ended(study.raters.hand_out()[0])
    assert not study.raters.link_ended("nonsense")


def test_the_link_of_a_rater_who_has_finished_does_not_end(make):
    study = make(link_days=1)
    rater = joined(study)
    fill(study, rater)
    code, start = study.answers.finish(rater), study.archive.clock()
    study.archive.clock = lambda: start + 9e6
    assert (
        not study.raters.link_ended(study.archive.links.token(rater))
        and study.answers.finish(rater) == code
    )


def test_answers_saved_together_fare_as_each_would_alone(make):
    study = make(form="best_worst")
    first, second = joined(study), joined(study)
    resent = answer(1, 1, "MF.best")
    gone = joined(study)
    study.raters.delete(gone)
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
    came = study.answers.save_all(given)
    kept = [None if isinstance(one, RequestError) else (one.revision, one.new) for one in came]
    new, again, changed = (0, True), (0, False), (1, True)
    assert kept == [new, again, new, None, None, changed, None, new, None, None]
    said = [str(one) for one in came if isinstance(one, RequestError)]
    words = ("both best and worst", "from 1 to 3", "not known", "another question", "32 hex")
    assert all(word in line for word, line in zip(words, said, strict=True))
    assert count(study) == 4
    assert study.answers.trial(first, 1).answers == {"MF.best": 3, "MF.worst": 1}
    assert study.answers.save_all([]) == []


def test_saves_of_two_programs_in_opposite_order_never_lock_each_other_out(make):
    study = make()
    people = [joined(study) for _ in range(3)]
    shared = study.archive
    other = Study(StudyArchive(shared.folder, shared.engine, shared.id))
    barrier = threading.Barrier(2)

    def save(one: Study, order: list[str]) -> None:
        for number in range(1, 7):
            barrier.wait()
            given = [(rater, answer(number, 1, name)) for name in ("MF", "TC") for rater in order]
            assert all(isinstance(saved, SavedAnswer) for saved in one.answers.save_all(given))

    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(save, study, people), pool.submit(save, other, people[::-1])]
        for task in tasks:
            task.result(60)
    assert count(study) == 3 * 6 * 2


def test_outside_ids_are_nowhere_in_the_database(make):
    study = make()
    study.raters.enter(Recruit("5f3e-person", "the-study", "the-session"))
    with study.archive.reading() as connection:
        everything = str(
            [connection.execute(sa.select(table)).all() for table in schema.metadata.sorted_tables]
        )
    assert not any(text in everything for text in ("5f3e-person", "the-study", "the-session"))


def test_no_column_could_hold_a_network_address(make):
    study = make()
    names = {column["name"] for column in sa.inspect(study.archive.engine).get_columns("raters")}
    assert names == set(schema.raters.columns.keys())
    assert not {name for name in names if "ip" in name.split("_") or "address" in name}


def test_links_handed_out_are_not_given_to_passers_by(make):
    study = make(raters=3)
    (kept,) = study.raters.hand_out()
    others = {
        study.raters.join(study.raters.enter()).id,
        study.raters.join(study.raters.enter()).id,
    }
    assert study.raters.join(kept).id not in others
    assert [(link.number, link.token) for link in study.raters.links()] == [(0, kept)]
    with pytest.raises(RequestError, match="0 slots are free"):
        study.raters.hand_out()


def test_a_deleted_rater_leaves_nothing_and_frees_the_slot(make):
    study = make(raters=1)
    token = study.raters.enter(Recruit("somebody"))
    rater = study.raters.join(token)
    study.raters.consent(rater.id)
    fill(study, rater.id)
    gone = count(study)
    assert study.raters.delete(rater.id) == gone > 0 and count(study) == 0
    for lost in (lambda: study.raters.join(token), lambda: study.raters.delete(rater.id)):
        with pytest.raises(RequestError, match="deleted"):
            lost()
    successor = study.raters.join(study.raters.enter(Recruit("somebody")))
    assert successor.number == rater.number and successor.id != rater.id
    assert study.answers.progress(successor.id).done == 0
    assert [entry["kind"] for entry in unblinding.record(study.archive)] == ["rater deleted"]


def test_a_released_place_is_free_for_somebody_else_and_that_is_recorded(make):
    study = make(raters=1)
    token = study.raters.enter(Recruit("somebody"))
    rater = study.raters.join(token)
    study.raters.consent(rater.id)
    study.answers.save(rater.id, answer(1))
    with pytest.raises(RequestError, match="all the raters"):
        study.raters.enter()
    assert study.raters.release(0, joined=rater.joined) == 1 and count(study) == 0
    with pytest.raises(RequestError, match="place given back"):
        study.answers.save(rater.id, answer(2))
    successor = study.raters.join(study.raters.enter())
    assert successor.number == 0 and study.answers.progress(successor.id).done == 0
    (entry,) = unblinding.record(study.archive)
    assert (entry["kind"], entry["detail"]) == ("place released", {"rater": 0, "answers": 1})


def test_a_link_nobody_used_can_be_taken_back(make):
    study = make(raters=1)
    (token,) = study.raters.hand_out()
    assert study.raters.release(0, joined=None) == 0 and study.raters.links() == []
    with pytest.raises(RequestError, match="not known any more"):
        study.raters.join(token)


def test_no_place_is_released_that_is_free_or_finished_or_was_taken_by_another(make):
    study = make(main=1, gold=0, practice=0)
    rater = study.raters.join(study.raters.enter())
    for number in (1, 99, -1):
        with pytest.raises(RequestError, match="free already"):
            study.raters.release(number, joined=None)
    with pytest.raises(RequestError, match="somebody else"):
        study.raters.release(0, joined=rater.joined - 1)
    study.raters.consent(rater.id)
    fill(study, rater.id)
    study.answers.finish(rater.id)
    with pytest.raises(RequestError, match="--without 0"):
        study.raters.release(0, joined=rater.joined)
    assert count(study) == 4 and unblinding.record(study.archive) == []


def test_a_release_while_answers_come_leaves_none_behind(make):
    study = make(main=50, gold=0, practice=0, raters=2, repeat_share=0)
    rater = study.raters.join(study.raters.enter())
    study.raters.consent(rater.id)
    barrier = threading.Barrier(25)

    def write(number: int) -> None:
        barrier.wait()
        if number == 0:
            study.raters.release(0, joined=rater.joined)
            return
        with suppress(RequestError):  # the place is gone
            study.answers.save(rater.id, answer(number))

    with ThreadPoolExecutor(25) as pool:
        list(pool.map(write, range(25)))
    assert (
        count(study) == 0
        and study.answers.progress(study.raters.join(study.raters.enter()).id).done == 0
    )


def test_a_rater_resumes_where_the_first_answer_is_missing(make):
    study = make()
    rater = joined(study)
    assert study.answers.progress(rater).next == 0
    study.answers.practise(rater, 0, dict.fromkeys(study.archive.config.asked, 1))
    for question in ("MF", "TC", "TS"):
        study.answers.save(rater, answer(1, 1, question))
    assert (study.answers.progress(rater).next, study.answers.progress(rater).done) == (1, 1)
    study.answers.save(rater, answer(1, 1, "AC"))
    again = Study.open(study.archive.folder, database=_address(study))
    assert (again.answers.progress(rater).next, again.answers.progress(rater).done) == (2, 2)
    again.close()


def _address(study: Study) -> str | None:
    if study.archive.engine.dialect.name == "sqlite":
        return None
    return study.archive.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")


def test_finishing_needs_every_answer_and_gives_a_code(make):
    study = make()
    one, two = joined(study), joined(study)
    with pytest.raises(RequestError, match="not answered"):
        study.answers.finish(one)
    fill(study, one)
    fill(study, two)
    codes = study.answers.finish(one), study.answers.finish(two)
    assert codes[0] != codes[1] and study.answers.finish(one) == codes[0]
    fixed = make(completion_code="THANKS-1", main=1, gold=0, practice=0)
    rater = joined(fixed)
    fill(fixed, rater)
    assert fixed.answers.finish(rater) == "THANKS-1"


def test_practice_says_what_was_right(make):
    study = make()
    rater = joined(study)
    trial = study.answers.trial(rater, 0)
    item = next(i for i in study.archive.items.values() if i.kind == "practice")
    place = 1 + trial.candidates.index(item.candidates[item.answer])
    wrong = place % 3 + 1
    assert study.answers.practise(rater, 0, {"MF": place, "TC": wrong}) == {"MF": True, "TC": False}
    with pytest.raises(RequestError, match="not for practice"):
        study.answers.practise(rater, 1, {"MF": 1})


def test_best_and_worst_are_never_the_same(make):
    study = make(form="best_worst", questions=("MF",))
    rater = joined(study)
    study.answers.save(rater, answer(1, 2, "MF.best"))
    with pytest.raises(RequestError, match="both best and worst"):
        study.answers.save(rater, answer(1, 2, "MF.worst"))
    study.answers.save(rater, answer(1, 3, "MF.worst"))
    assert study.answers.trial(rater, 1).answers == {"MF.best": 2, "MF.worst": 3}


def test_what_a_rater_gets_names_no_method_and_marks_no_check(make):
    study = make()
    rater = joined(study)
    for number in range(study.answers.progress(rater).items + 1):
        trial = study.answers.trial(rater, number)
        assert not hasattr(trial, "role") and set(trial.questions) == set(
            study.archive.config.asked
        )
        assert len(trial.id) == 32 and trial.practice == (number == 0)


def test_results_are_hidden_until_unblinded_and_the_opening_is_recorded(make):
    study = make()
    rater = joined(study)
    study.answers.save(rater, answer(1))
    with pytest.raises(RequestError, match="hidden until"):
        unblinding.answer_rows(study.archive)
    seen = json.dumps(str(unblinding.overview(study.archive)))
    assert not any(f"'{method}'" in seen for method in study.archive.config.methods)
    when = unblinding.unblind(study.archive, by="test")
    assert unblinding.unblind(study.archive) == when == unblinding.unblinded(study.archive)
    assert [entry["kind"] for entry in unblinding.record(study.archive)] == ["unblinded"]
    assert len(unblinding.answer_rows(study.archive)) == 1


def test_the_overview_flags_haste_wrong_checks_and_one_place(make):
    study = make(main=30, gold=3, repeat_share=0)
    good, bad = joined(study), joined(study)
    right = {item.candidates[item.answer] for item in study.archive.items.values() if item.answer}
    for rater in (good, bad):
        for number in range(1, 34):
            names = study.answers.trial(rater, number).candidates
            check = [k for k, name in enumerate(names, start=1) if name in right]
            wise = check[0] if check else 1 + number % 3
            unwise = check[0] % 3 + 1 if check else 2
            given = answer(
                number, wise if rater == good else unwise, shown_ms=30_000 if rater == good else 900
            )
            study.answers.save(rater, given)
    states = unblinding.overview(study.archive).raters
    assert states[0].flags == () and states[0].gold_wrong == 0
    assert states[1].flags == ("gold", "fast", "one place") and states[1].gold_wrong == 3
    assert states[0].seconds == 30 and states[2].seconds is None


def test_every_saved_answer_reaches_the_sink_once(make, tmp_path):
    sink = JsonlSink(tmp_path / "sink")
    study = make(sink=sink)
    rater = joined(study)
    sent = answer(1, 2)
    study.answers.save(rater, sent)
    study.answers.save(rater, sent)
    study.answers.save(rater, answer(1, 3))
    study.raters.delete(rater)
    lines = [json.loads(line) for line in sink.path.read_text().splitlines()]
    assert [line.get("choice") for line in lines] == [2, 3, None]
    assert (
        lines[0]["order"][1] in study.archive.config.methods and lines[2]["deleted_rater"] == rater
    )


def test_a_plan_is_in_the_database_before_the_first_answer(make):
    study = make()
    with study.archive.reading() as connection:
        query = sa.select(sa.func.count()).select_from(schema.presentations)
        screens = connection.scalar(query.where(schema.presentations.c.study == study.archive.id))
    assert screens == 4 * (6 + 1 + 1 + 1)
    assert len(study.archive.plan_digest) == 64 and count(study) == 0


def test_a_database_holds_many_studies(make, database):
    one, two = make(), make()
    joined(one)
    assert [s.joined is not None for s in unblinding.overview(two.archive).raters] == [False] * 4
    with pytest.raises(RequestError, match="not valid"):
        two.raters.join(one.archive.links.token(one.archive.links.rater(one.raters.enter())))


def test_the_migrations_make_the_tables_the_code_knows(make):
    study = make()
    inspector = sa.inspect(study.archive.engine)
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
    with study.archive.reading() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == schema.HEAD


def test_many_programs_may_open_a_new_database_at_once(database, tmp_path):
    address = database or tmp_path / "new.sqlite"
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
    study = make()
    settings = study.archive.config
    with pytest.raises(RequestError, match="already"):
        StudyArchive.create(study.archive.folder, settings, items(settings, 2), video=VIDEO)
    with pytest.raises(RequestError, match="study create"):
        Study.open(tmp_path / "none")
    with pytest.raises(RequestError, match="postgresql://"):
        schema.connect("mysql://user:hunter2@host/name")
    with pytest.raises(RequestError, match="no such file"):
        study.archive.media_path("../study.json")
    if database is not None:
        with pytest.raises(RequestError, match="MOTION_APP_STUDY_DATABASE"):
            Study.open(study.archive.folder)
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
