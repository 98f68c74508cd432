"""From answers to the study's results: one frozen report, which figures and exports only show."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from itertools import combinations
from typing import Any

import numpy as np

from motion_app.study import statistics as stats
from motion_app.study.analysis_set import AnalysisSet, analysis_set
from motion_app.study.archive import StudyArchive
from motion_app.study.differences import (
    Difference,
    PairTest,
    leader,
    mcnemar_pairs,
    paired_differences,
)
from motion_app.study.plan import QUESTIONS, StudyConfig
from motion_app.study.records import AnswerRow
from motion_app.study.unblinding import answer_rows, rater_flags, screen_seconds

PAPER_ORDER = ("AC", "TC", "TS", "MF")  # the columns of Table 1's human half


@dataclass(frozen=True)
class IndependentTests:
    """Tests that take every vote for independent of every other, as they are not: they find
    differences where there are none. For comparison with work that reports them.

    ``mcnemar``: McNemar's exact test of every pair of methods; ``position_bias``: χ² of the chosen
    places.
    """

    cochran_q: stats.Significance
    mcnemar: tuple[PairTest, ...]
    position_bias: stats.Significance


@dataclass(frozen=True)
class QuestionReport:
    """The results of one question.

    ``shares`` are of the first screens of main items; ``places`` counts the chosen places from the
    first; ``scores`` are best–worst scores and ``strengths`` Bradley–Terry strengths, by method,
    None where the form has none. ``differences`` compare every pair of methods; ``leader`` is the
    method that is surely ahead of the runner-up, None where none is. κ and α are None where they
    are undefined.
    """

    id: str
    text: str
    shares: tuple[stats.VoteShare, ...]
    differences: tuple[Difference, ...]
    leader: str | None
    fleiss_kappa: stats.Interval | None
    krippendorff_alpha: stats.Interval | None
    self_agreement: stats.Interval | None
    repeats: int
    places: tuple[int, ...]
    as_if_independent: IndependentTests
    scores: tuple[stats.Interval, ...] | None
    strengths: tuple[float, ...] | None


@dataclass(frozen=True)
class RaterReport:
    """How carefully one rater worked: gold answers wrong, repeats answered alike, median seconds
    for a screen, flags as in ``unblinding.rater_flags``."""

    number: int
    answers: int
    gold: int
    gold_wrong: int
    repeats: int
    repeats_alike: int
    seconds: float
    flags: tuple[str, ...]


@dataclass(frozen=True)
class SceneReport:
    """One item: how many ``raters`` answered, and by question the votes of every method."""

    name: str
    raters: int
    votes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class StudyReport:
    """Everything the study says. ``left_out`` are the raters whose answers were not counted;
    ``analysis`` says why, None for a report of rows alone."""

    title: str
    form: str
    methods: tuple[str, ...]
    raters: tuple[RaterReport, ...]
    items: int
    answers: int
    left_out: tuple[int, ...]
    plan_digest: str
    questions: tuple[QuestionReport, ...]
    scenes: tuple[SceneReport, ...]
    analysis: AnalysisSet | None = None

    @property
    def counted(self) -> str:
        """Who is counted, in words that stand under every table."""
        if self.analysis is not None:
            return self.analysis.sentence()
        out = ", ".join(str(number) for number in self.left_out) or "nobody"
        return f"Counted: {len(self.raters)} raters; left out: {out}."

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def study_report(archive: StudyArchive) -> StudyReport:
    """The report of an unblinded study, of those who are counted; RequestError before."""
    rows, chosen = answer_rows(archive), analysis_set(archive)
    report = report_rows(
        rows,
        archive.config,
        clip_seconds=archive.video.frames / archive.video.fps,
        plan_digest=archive.plan_digest,
        without=chosen.left_out,
    )
    return replace(report, analysis=chosen)


def report_rows(
    rows: Sequence[AnswerRow],
    config: StudyConfig,
    *,
    clip_seconds: float = 0.0,
    plan_digest: str = "",
    without: Collection[int] = (),
    resamples: int = stats.RESAMPLES,
) -> StudyReport:
    """The report of ``rows``. Resampling is seeded by the study's seed: same rows, same report."""
    kept = [row for row in rows if row.rater not in without and row.role != "practice"]
    rng = np.random.default_rng(config.seed)
    return StudyReport(
        title=config.title,
        form=config.form,
        methods=config.methods,
        raters=_rater_reports(kept, config, clip_seconds),
        items=len({row.item for row in kept if row.role == "main"}),
        answers=len(kept),
        left_out=tuple(sorted(set(without))),
        plan_digest=plan_digest,
        questions=tuple(
            _question_report(name, kept, config, rng, resamples) for name in config.questions
        ),
        scenes=_scene_reports(kept, config),
    )


def _scene_reports(rows: Sequence[AnswerRow], config: StudyConfig) -> tuple[SceneReport, ...]:
    main = [row for row in rows if row.role == "main"]
    found = []
    for name in sorted({row.item for row in main}):
        here = [row for row in main if row.item == name]
        counts = Counter((row.question, row.chosen) for row in here)
        votes = {q: tuple(counts[q, method] for method in config.methods) for q in config.asked}
        found.append(SceneReport(name, len({row.rater for row in here}), votes))
    return tuple(found)


def _question_report(
    name: str,
    rows: Sequence[AnswerRow],
    config: StudyConfig,
    rng: np.random.Generator,
    resamples: int,
) -> QuestionReport:
    asked = name + ".best" if config.form == "best_worst" else name
    methods = config.methods
    votes = [row for row in rows if row.role == "main" and row.question == asked]
    chosen, shown = _tensors(votes, methods)
    one_hot = np.array([[row.chosen == m for m in methods] for row in votes], dtype=int)
    one_hot = one_hot.reshape(len(votes), len(methods))  # (n, K)
    wins = _wins(votes, methods)
    kinds = [0] * config.shown
    for row in votes:
        kinds[row.place - 1] += 1
    same, total = _repeats(rows, asked)
    settings: dict[str, Any] = {"rng": rng, "resamples": resamples}
    shares = tuple(stats.shares(chosen, shown, methods, **settings))
    differences = paired_differences(*_gains(votes, chosen, shown, config), methods, **settings)
    kappa, alpha = stats.agreement_intervals(*_units(votes, methods), **settings)
    return QuestionReport(
        id=name,
        text=QUESTIONS[name],
        shares=shares,
        differences=differences,
        # One rater, or one item, is no sample: nothing can be said of others.
        leader=leader([share.interval.value for share in shares], differences, methods)
        if min(chosen.shape[:2]) > 1
        else None,
        fleiss_kappa=kappa,
        krippendorff_alpha=alpha,
        self_agreement=stats.agreement(same, total),
        repeats=total,
        places=tuple(kinds),
        as_if_independent=IndependentTests(
            cochran_q=stats.cochran_q(one_hot[:0] if config.form == "pair" else one_hot),
            mcnemar=tuple(mcnemar_pairs(wins, methods)),
            position_bias=stats.position_bias(
                np.array([r.place for r in votes], int), config.shown
            ),
        ),
        scores=_scores(name, rows, methods, **settings) if config.form == "best_worst" else None,
        strengths=tuple(stats.bradley_terry(wins).tolist()) if config.form == "pair" else None,
    )


def _scores(
    name: str, rows: Sequence[AnswerRow], methods: tuple[str, ...], **settings: Any
) -> tuple[stats.Interval, ...]:
    """Best–worst scores over the screens that have both answers."""
    ends = {
        end: {
            (row.rater, row.number): row
            for row in rows
            if row.role == "main" and row.question == f"{name}.{end}"
        }
        for end in ("best", "worst")
    }
    both = sorted(ends["best"].keys() & ends["worst"].keys())
    best, _ = _tensors([ends["best"][key] for key in both], methods)
    worst, _ = _tensors([ends["worst"][key] for key in both], methods)
    return tuple(stats.best_worst_scores(best, worst, **settings))


def _tensors(votes: Sequence[AnswerRow], methods: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """How often each method was chosen and how often it was shown: two (R, I, K) int arrays."""
    raters, items = _places(votes)
    place = {method: k for k, method in enumerate(methods)}
    shape = (max(1, len(raters)), max(1, len(items)), len(methods))
    chosen, shown = np.zeros(shape, int), np.zeros(shape, int)
    for row in votes:
        cell = raters[row.rater], items[row.item]
        chosen[*cell, place[row.chosen]] += 1
        for method in row.order:
            shown[*cell, place[method]] += 1
    return chosen, shown


def _wins(votes: Sequence[AnswerRow], methods: tuple[str, ...]) -> np.ndarray:
    """(K, K) int: screens that showed both and chose the row's method."""
    place = {method: k for k, method in enumerate(methods)}
    wins = np.zeros((len(methods), len(methods)), int)
    for row in votes:
        for method in row.order:
            if method != row.chosen:
                wins[place[row.chosen], place[method]] += 1
    return wins


def _gains(
    votes: Sequence[AnswerRow], chosen: np.ndarray, shown: np.ndarray, config: StudyConfig
) -> tuple[np.ndarray, np.ndarray]:
    """What ``paired_differences`` takes."""
    pairs = list(combinations(range(len(config.methods)), 2))
    if config.form != "pair":  # every screen showed every method
        first, second = ([pair[end] for pair in pairs] for end in (0, 1))
        return chosen[:, :, first] - chosen[:, :, second], shown[:, :, :1]
    raters, items = _places(votes)
    shape = (*chosen.shape[:2], len(pairs))
    gains, both = np.zeros(shape, int), np.zeros(shape, int)
    for row in votes:
        a, b = sorted(config.methods.index(method) for method in row.order)
        cell = raters[row.rater], items[row.item], pairs.index((a, b))
        gains[cell] += 1 if row.chosen == config.methods[a] else -1
        both[cell] += 1
    return gains, both


def _places(votes: Sequence[AnswerRow]) -> tuple[dict[int, int], dict[str, int]]:
    """Where a rater and an item stand in arrays."""
    raters = {number: i for i, number in enumerate(sorted({row.rater for row in votes}))}
    return raters, {name: i for i, name in enumerate(sorted({row.item for row in votes}))}


def _units(votes: Sequence[AnswerRow], methods: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Raters are compared on the same item with the same candidates, a unit: (R, U, K) int, whether
    a rater chose each method, and (U,) int, which item a unit is of."""
    raters, items = _places(votes)
    units: dict[tuple[str, frozenset[str]], int] = {}
    for row in votes:
        units.setdefault((row.item, frozenset(row.order)), len(units))
    found = np.zeros((max(1, len(raters)), max(1, len(units)), len(methods)), int)
    for row in votes:
        unit = units[row.item, frozenset(row.order)]
        found[raters[row.rater], unit, methods.index(row.chosen)] += 1
    return found, np.array([items[item] for item, _ in units] or [0])


def _repeats(rows: Sequence[AnswerRow], question: str) -> tuple[int, int]:
    """(answered alike, answered twice)."""
    first = {
        (row.rater, row.number): row.chosen
        for row in rows
        if row.role == "main" and row.question == question
    }
    again = [
        first[row.rater, row.repeats] == row.chosen
        for row in rows
        if row.role == "repeat"
        and row.question == question
        and row.repeats is not None
        and (row.rater, row.repeats) in first
    ]
    return sum(again), len(again)


def _rater_reports(
    rows: Sequence[AnswerRow], config: StudyConfig, clip_seconds: float
) -> tuple[RaterReport, ...]:
    by_rater: dict[int, list[AnswerRow]] = defaultdict(list)
    for row in rows:
        by_rater[row.rater].append(row)
    seconds = {number: screen_seconds(given) for number, given in by_rater.items()}
    typical = float(np.median(list(seconds.values()))) if seconds else 0.0
    found = []
    for number, given in sorted(by_rater.items()):
        gold = [row.right for row in given if row.role == "gold"]
        repeats = [_repeats(given, question) for question in config.asked]
        found.append(
            RaterReport(
                number=number,
                answers=len(given),
                gold=len(gold),
                gold_wrong=gold.count(False),
                repeats=sum(total for _, total in repeats),
                repeats_alike=sum(same for same, _ in repeats),
                seconds=round(seconds[number], 2),
                flags=rater_flags(
                    given, shown=config.shown, clip_seconds=clip_seconds, typical=typical
                ),
            )
        )
    return tuple(found)


def percent(votes: int, total: int, digits: int = 3) -> str:
    """Votes in percent as the paper prints them, rounded in decimal: 3,070 of 4,000 is 76.750."""
    value = Decimal(100 * votes) / Decimal(total) if total else Decimal(0)
    return str(value.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP))


def paper_row(report: StudyReport, method: str) -> list[str]:
    """One method's human columns of Table 1, those that were asked, in the paper's order."""
    column = report.methods.index(method)
    by_id = {question.id: question.shares[column] for question in report.questions}
    return [percent(by_id[q].votes, by_id[q].total) for q in PAPER_ORDER if q in by_id]
