"""Laws of the report, its exports and its figures; the paper's own table comes back exactly."""

from __future__ import annotations

import csv
import io
import json
import random
from dataclasses import replace

import postgres
import pyarrow.parquet
import pytest
import sqlalchemy as sa
from test_study_plan import config, items

from motion_app.study import database as schema
from motion_app.study import exports, unblinding
from motion_app.study.answers import Study
from motion_app.study.archive import StudyArchive
from motion_app.study.figures import figures_json, report_html
from motion_app.study.links import new_id
from motion_app.study.plan import StudyConfig
from motion_app.study.records import AnswerRow, VideoFormat
from motion_app.study.report import paper_row, percent, report_rows

# FlexiMMT, Table 1, human evaluations: AC, TC, TS, MF in percent of 4,000 choices.
PAPER = {
    "AnyV2V": ("0.000", "0.000", "0.000", "0.000"),
    "FlexiAct": ("15.750", "11.550", "6.475", "6.500"),
    "I2VEdit": ("2.000", "0.575", "0.000", "0.000"),
    "Go-with-the-Flow": ("0.000", "0.000", "0.500", "0.525"),
    "CogVideoX-5B-I2V": ("5.500", "4.000", "3.475", "3.500"),
    "FlexiMMT": ("76.750", "83.875", "89.550", "89.475"),
}


def row(rater=0, number=0, question="MF", chosen="A", *, order=("A", "B", "C"), **options):
    fields = {
        "role": "main",
        "item": f"item {number}",
        "repeats": None,
        "right": None,
        "coverage": 1.0,
        "revisions": 0,
        "shown_ms": 20_000,
        "sequence": number,
        "client_time": 1.7e9,
        "server_time": 1.7e9,
    }
    return AnswerRow(
        rater=rater,
        number=number,
        question=question,
        chosen=chosen,
        place=order.index(chosen) + 1,
        order=order,
        **{**fields, **options},
    )


@pytest.fixture(scope="module")
def paper() -> tuple[StudyConfig, list[AnswerRow]]:
    """20 raters × 200 items whose votes add up to the paper's percentages."""
    methods = tuple(PAPER)
    study = StudyConfig.build(title="Table 1", methods=methods)
    shuffled, rows = random.Random(0), []
    for column, question in enumerate(("AC", "TC", "TS", "MF")):
        counts = {method: round(float(cells[column]) * 40) for method, cells in PAPER.items()}
        votes = [method for method, count in counts.items() for _ in range(count)]
        assert len(votes) == 4000
        shuffled.shuffle(votes)
        for k, vote in enumerate(votes):
            order = methods[k % 6 :] + methods[: k % 6]
            rows.append(row(k // 200, k % 200, question, vote, order=order))
    return study, rows


@pytest.fixture(scope="module")
def paper_report(paper):
    study, rows = paper
    return report_rows(rows, study, resamples=200)


def test_the_papers_table_comes_back_exactly_from_its_counts(paper_report):
    assert {m: tuple(paper_row(paper_report, m)) for m in PAPER} == PAPER
    best = next(q for q in paper_report.questions if q.id == "AC").shares[-1]
    assert (best.votes, best.total) == (3070, 4000)


def votes_of(question: str) -> list[str]:
    """The paper's 4,000 choices for one question, in any order."""
    column = ("AC", "TC", "TS", "MF").index(question)
    counts = {method: round(float(cells[column]) * 40) for method, cells in PAPER.items()}
    votes = [method for method, count in counts.items() for _ in range(count)]
    random.Random(column).shuffle(votes)
    return votes


@pytest.mark.parametrize("database", postgres.one_every_day("sqlite"), indirect=True)
def test_all_24_cells_of_the_papers_table_come_back_from_16000_stored_answers(tmp_path, database):
    """20 raters × 200 items × 4 questions in a real store, each vote at the place where the plan
    put its method."""
    study = StudyConfig.build(title="Table 1", methods=tuple(PAPER), raters=20, repeat_share=0)
    video = VideoFormat(48, 32, 8.0, 16)
    store = Study(
        StudyArchive.create(tmp_path, study, items(study, 200), video=video, database=database)
    )
    seats = [store.raters.join(store.raters.enter()) for _ in range(study.raters)]
    rater_of = {seat.number: seat.id for seat in seats}
    with store.archive.engine.begin() as connection:
        screens = connection.execute(
            sa.select(schema.presentations).where(schema.presentations.c.study == store.archive.id)
        ).all()
        answers = [
            {
                "id": new_id(),
                "rater": rater_of[screen.slot],
                "presentation": screen.id,
                "question": question,
                "revision": 0,
                "choice": json.loads(screen.order).index(vote) + 1,
                "coverage": json.dumps([1.0] * 6),
                "sequence": 4 * screen.number + k,
                **dict.fromkeys(("changes", "client_time", "server_time"), 0),
                "shown_ms": 20_000,
            }
            for k, question in enumerate(study.questions)
            for screen, vote in zip(screens, votes_of(question), strict=True)
        ]
        connection.execute(sa.insert(schema.answers), answers)
    unblinding.unblind(store.archive)
    report = report_rows(unblinding.answer_rows(store.archive), store.archive.config, resamples=20)
    store.close()
    assert report.answers == 16_000
    assert {method: tuple(paper_row(report, method)) for method in PAPER} == PAPER
    assert {share.total for question in report.questions for share in question.shares} == {4000}
    shares = {q.id: {s.method: s.votes for s in q.shares} for q in report.questions}
    assert shares["AC"]["FlexiMMT"] == 3070


def test_the_latex_rows_are_the_papers(paper_report):
    lines = exports.to_latex(paper_report).splitlines()
    assert r"FlexiAct & 15.750 & 11.550 & 6.475 & 6.500 \\" in lines
    assert (
        r"FlexiMMT & \textbf{76.750} & \textbf{83.875} & \textbf{89.550} & \textbf{89.475} \\"
        in lines
    )
    assert r"Method & AC $\uparrow$ & TC $\uparrow$ & TS $\uparrow$ & MF $\uparrow$ \\" in lines


def test_no_share_is_in_bold_where_the_runner_up_may_be_as_good():
    rows = [row(r, n, chosen="AB"[(r + n) % 2]) for r in range(6) for n in range(7)]
    report = report_rows(rows, config(3, questions=("MF",)), resamples=200)
    assert report.questions[0].shares[0].votes == report.questions[0].shares[1].votes == 21
    more = report_rows([*rows, row(6, 0, chosen="A")], config(3, questions=("MF",)), resamples=200)
    assert more.questions[0].shares[0].votes == 22 and more.questions[0].leader is None
    alone = report_rows([row(0, n) for n in range(9)], config(3, questions=("MF",)), resamples=20)
    assert alone.questions[0].leader is None  # one rater speaks for nobody else
    assert "textbf" not in exports.to_latex(more) and 'class="best"' not in report_html(more)


def test_who_is_counted_stands_under_every_table_and_in_every_export(paper, paper_report):
    told = "Counted: 20 raters; left out: nobody."
    page = report_html(paper_report)
    assert page.count(told) == 4 and page.count("<table>") == 4
    assert exports.to_latex(paper_report).startswith(f"% {told}")
    assert told in exports.codebook(paper_report)
    files = exports.export_all(paper[1][:10], paper_report)
    parquet = pyarrow.parquet.read_schema(io.BytesIO(files["answers.parquet"]))
    assert parquet.metadata[b"counted"].decode() == told


def test_tests_of_votes_as_if_independent_are_in_the_export_alone_and_named_so(paper_report):
    page, book = report_html(paper_report), exports.codebook(paper_report)
    assert "McNemar" not in page and "Cochran" not in page
    question = json.loads(exports.to_json(paper_report))["questions"][0]
    assert set(question["as_if_independent"]) == {"cochran_q", "mcnemar", "position_bias"}
    assert "these p values are too small" in book


def test_methods_nobody_chose_have_a_ceiling_instead_of_certainty(paper_report):
    ac = next(q for q in paper_report.questions if q.id == "AC")
    assert ac.shares[0].ceiling == 3 / 4000 and ac.shares[0].cautious_ceiling == 3 / 20


@pytest.mark.parametrize(
    ("votes", "total", "text"),
    [
        (3070, 4000, "76.750"),
        (23, 4000, "0.575"),
        (1, 3, "33.333"),
        (2, 3, "66.667"),
        (1, 16000, "0.006"),
        (3, 16000, "0.019"),
        (0, 0, "0.000"),
    ],
)
def test_percent_is_rounded_in_decimal(votes, total, text):
    assert percent(votes, total) == text


def test_only_first_screens_of_main_items_are_counted():
    rows = [
        row(0, 0, chosen="A"),
        row(0, 1, chosen="B", role="gold", right=False),
        row(0, 2, chosen="C", role="practice", right=True),
        row(0, 3, chosen="B", role="repeat", repeats=0, item="item 0"),
    ]
    report = report_rows(rows, config(3, questions=("MF",)), resamples=20)
    assert [s.votes for s in report.questions[0].shares] == [1, 0, 0]
    assert report.questions[0].self_agreement.value == 0 and report.questions[0].repeats == 1
    assert (report.raters[0].gold, report.raters[0].gold_wrong) == (1, 1)
    assert report.answers == 3 and report.items == 1


def test_raters_can_be_left_out_and_the_report_says_so():
    rows = [row(rater, number, chosen="AB"[rater]) for rater in (0, 1) for number in range(4)]
    report = report_rows(rows, config(3, questions=("MF",)), without=(1,), resamples=20)
    assert [s.votes for s in report.questions[0].shares] == [4, 0, 0]
    assert report.left_out == (1,) and "1 raters; left out: 1." in report_html(report)


def test_forced_choice_counts_wins_where_a_method_was_shown_and_ranks_by_bradley_terry():
    pairs = [("A", "B"), ("B", "A"), ("B", "C"), ("C", "B"), ("A", "C"), ("C", "A")]
    rows = [row(k // 6, k % 6, chosen=min(pairs[k % 6]), order=pairs[k % 6]) for k in range(24)]
    report = report_rows(rows, config(3, form="pair", questions=("MF",)), resamples=20)
    (question,) = report.questions
    assert [(s.votes, s.total) for s in question.shares] == [(16, 16), (8, 16), (0, 16)]
    assert question.strengths[0] > question.strengths[1] > question.strengths[2] > 0
    assert question.places == (12, 12)
    naive = question.as_if_independent
    assert naive.cochran_q.statistic is None
    assert (naive.mcnemar[0].first_votes, naive.mcnemar[0].second_votes) == (8, 0)
    assert [(d.screens, d.interval.value) for d in question.differences] == [(8, 1.0)] * 3
    assert question.leader == "A" and "+100.0" in report_html(report)
    assert f"<td>{question.strengths[0]:.3f}</td>" in report_html(report)


def test_best_worst_counts_the_best_as_votes_and_scores_both_ends():
    rows = []
    for number in range(6):
        rows.append(row(0, number, "MF.best", "A"))
        rows.append(row(0, number, "MF.worst", "BC"[number % 2]))
    rows.append(row(0, 6, "MF.best", "B"))  # no worst: not scored
    report = report_rows(rows, config(3, form="best_worst", questions=("MF",)), resamples=20)
    (question,) = report.questions
    assert [s.votes for s in question.shares] == [6, 1, 0]
    assert [score.value for score in question.scores] == [1, -0.5, -0.5]
    assert "+1.000" in report_html(report) and "-0.500" in report_html(report)


def test_a_study_nobody_answered_still_has_a_report():
    for form in ("single", "pair", "best_worst"):
        report = report_rows([], config(3, form=form), resamples=20)
        assert report.answers == 0 and all(s.total == 0 for s in report.questions[0].shares)
        assert "0 raters" in report_html(report)
        assert exports.to_latex(report).count("0.000") >= 12


def test_a_cell_that_looks_like_a_formula_is_guarded():
    names = ("=1+1", "+x", "-y", "@z", "\tq", "plain", 'a,"b"')
    rows = [row(0, k, chosen="A", item=name) for k, name in enumerate(names)]
    text = exports.to_csv(rows).decode("utf-8")
    read = [line["item"] for line in csv.DictReader(io.StringIO(text, newline=""))]
    assert read == ["'=1+1", "'+x", "'-y", "'@z", "'\tq", "plain", 'a,"b"']
    assert not any(
        cell.startswith(("=", "+", "-", "@"))
        for line in csv.reader(io.StringIO(text))
        for cell in line
    )


def test_csv_and_parquet_hold_the_same_table():
    rows = [row(1, 2, chosen="B"), row(0, 0, role="gold", right=True, repeats=None)]
    table = pyarrow.parquet.read_table(io.BytesIO(exports.to_parquet(rows))).to_pylist()
    read = list(csv.DictReader(io.StringIO(exports.to_csv(rows).decode())))
    assert [list(r) for r in table] == [list(r) for r in read]
    assert table[0]["rater"] == 1 and table[0]["right"] is None and table[1]["right"] is True
    assert read[0]["order"] == table[0]["order"] == "A | B | C"
    assert table[0]["server_time"] == "2023-11-14T22:13:20.000+00:00"


def test_the_codebook_explains_every_column_and_question(paper_report):
    text = exports.codebook(paper_report)
    assert all(f"| {column.name} | {column.kind} |" in text for column in exports.COLUMNS)
    assert all(question.text in text for question in paper_report.questions)


def test_latex_text_is_safe():
    assert exports.latex_text("a_b & 50% {x}") == r"a\_b \& 50\% \{x\}"


def test_everything_exports_as_files(paper, paper_report):
    files = exports.export_all(paper[1][:100], paper_report)
    assert sorted(files) == [
        "answers.csv",
        "answers.parquet",
        "codebook.md",
        "results.json",
        "table.tex",
    ]
    again = json.loads(files["results.json"])
    assert again["questions"][0]["shares"][5]["votes"] == 3579  # MF, 89.475%


def test_the_page_holds_every_number_and_escapes_names():
    study = StudyConfig.build(title="<b>T</b>", methods=("<i>", "B"), questions=("MF",))
    rows = [row(r, n, chosen="<i>", order=("<i>", "B")) for r in range(2) for n in range(3)]
    page = report_html(report_rows(rows, study, resamples=20))
    assert "<b>T</b>" not in page and "&lt;b&gt;T&lt;/b&gt;" in page
    assert "<td>&lt;i&gt;</td>" in page and "100.000" in page
    assert "http://" not in page.split("</script>", 1)[1]


def test_figures_are_plain_json(paper_report):
    found = figures_json(paper_report)
    assert set(found) == {"shares", "places"}  # nothing is repeated in the paper's counts
    text = json.dumps(found)
    assert "FlexiMMT" in text and all(len(f["figure"]["data"]) for f in found.values())


def test_raters_are_drawn_where_something_was_repeated():
    study = StudyConfig.build(title="T", methods=("A", "B"), questions=("MF",))
    rows = [row(r, n, chosen="A", order=("A", "B")) for r in range(2) for n in range(3)]
    again = [replace(one, number=9, role="repeat", repeats=0) for one in rows if one.number == 0]
    found = figures_json(report_rows([*rows, *again], study, resamples=20))
    assert set(found) == {"shares", "places", "raters"}
    assert sum(len(trace["x"]) for trace in found["raters"]["figure"]["data"]) == 2
