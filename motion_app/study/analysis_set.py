"""Whose answers are counted: registered with the study, changed only on the record, told with every
number that comes of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from motion_app.errors import RequestError
from motion_app.study.archive import StudyArchive
from motion_app.study.plan import AnalysisRule
from motion_app.study.records import Overview
from motion_app.study.unblinding import overview, record

BY_HAND = "by hand"
CHOSEN = "analysis chosen"  # in the study's record
RULES: Mapping[str, str] = MappingProxyType(
    {
        "all": "everybody who joined",
        "finished": "those who finished",
        "unflagged": "those who finished and have no flag",
        BY_HAND: "those chosen by hand",
    }
)


@dataclass(frozen=True)
class AnalysisSet:
    """``rule`` is one of ``RULES``, ``registered`` the one that the study was made with. Of
    ``seats`` places ``joined`` were taken; ``unfinished``, ``flagged`` and ``left_out`` are numbers
    of raters who joined. ``chosen``: when the rule was last changed, unix seconds, None for never;
    ``blind``: that was before the study was unblinded, or it was never changed."""

    rule: str
    registered: str
    seats: int
    joined: int
    unfinished: tuple[int, ...]
    flagged: tuple[int, ...]
    left_out: tuple[int, ...]
    chosen: float | None
    blind: bool

    @property
    def counted(self) -> int:
        """How many raters are counted."""
        return self.joined - len(self.left_out)

    def sentence(self) -> str:
        """All of it in words, for every table."""
        if self.chosen is None:
            history = "as registered"
        else:
            when = "before" if self.blind else "after"
            history = f"chosen {when} unblinding; registered: {RULES[self.registered]}"
        out = ", ".join(str(number) for number in self.left_out) or "nobody"
        return (
            f"Counted: {RULES[self.rule]} ({history}), {self.counted} raters. "
            f"{self.joined} of {self.seats} joined, {len(self.unfinished)} unfinished, "
            f"{len(self.flagged)} flagged; left out: {out}."
        )


def analysis_set(archive: StudyArchive, found: Overview | None = None) -> AnalysisSet:
    """Who is counted now. ``found``: the study's overview, where there is one already."""
    found = overview(archive) if found is None else found
    joined = [rater for rater in found.raters if rater.joined is not None]
    entry = _last_choice(archive)
    rule = archive.config.analysis if entry is None else str(entry["detail"]["set"])
    unfinished = tuple(rater.number for rater in joined if rater.finished is None)
    flagged = tuple(rater.number for rater in joined if rater.flags)
    by_hand = [] if entry is None else entry["detail"].get("left_out", [])
    out: dict[str, Collection[int]] = {
        "all": (),
        "finished": unfinished,
        "unflagged": {*unfinished, *flagged},
        BY_HAND: {rater.number for rater in joined} & set(by_hand),
    }
    at = None if entry is None else float(entry["at"])
    return AnalysisSet(
        rule=rule,
        registered=archive.config.analysis,
        seats=len(found.raters),
        joined=len(joined),
        unfinished=unfinished,
        flagged=flagged,
        left_out=tuple(sorted(out[rule])),
        chosen=at,
        blind=at is None or found.unblinded is None or at < found.unblinded,
    )


def choose_analysis(
    archive: StudyArchive, rule: AnalysisRule | str, *, without: Collection[int] = (), by: str
) -> AnalysisSet:
    """Count by ``rule`` from now on; with "by hand" everybody who joined but ``without``. It is
    recorded, unless it is so already. RequestError for an unknown rule, and for who has not joined.
    """
    if rule not in RULES:
        raise RequestError(f'who is counted is one of {", ".join(RULES)}; got "{rule[:40]}"')
    found = overview(archive)
    there = {rater.number for rater in found.raters if rater.joined is not None}
    strangers = sorted(set(without) - there)
    if strangers:
        raise RequestError(f"there is no rater {strangers[0]} who could be left out")
    if rule == BY_HAND and there and not there - set(without):
        raise RequestError("everybody would be left out; count one rater or more")
    now = analysis_set(archive, found)
    out = sorted(set(without)) if rule == BY_HAND else []
    if now.rule == rule and (rule != BY_HAND or list(now.left_out) == out):
        return now
    detail: dict[str, Any] = {"by": by, "set": rule}
    if rule == BY_HAND:
        detail["left_out"] = out
    with archive.engine.begin() as connection:
        archive.note(connection, CHOSEN, detail)
    return analysis_set(archive, found)


def _last_choice(archive: StudyArchive) -> Mapping[str, Any] | None:
    entries = [entry for entry in record(archive) if entry["kind"] == CHOSEN]
    return entries[-1] if entries else None
