"""What ``speed gpu`` has found so far: report.json, and the same as tables in report.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motion_app.errors import RequestError
from motion_app.text_files import write_whole

FILE = "report.json"
TABLES = "report.md"
Figures = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """Something ``asked`` for at the 5B size; ``value`` None where it was not measured."""

    what: str
    value: float | None
    asked: float
    unit: str
    least: bool = False

    @property
    def reached(self) -> bool:
        """Whether it is."""
        if self.value is None:
            return False
        return self.value >= self.asked if self.least else self.value <= self.asked


@dataclass
class GpuReport:
    """``cases`` by name, "steps/stock" and so on, each with its figures; ``skipped``: why a case
    has none; ``done``: what need not be run again. ``minutes`` it was given, seconds ``spent``."""

    folder: Path
    setting: Mapping[str, Any]
    cases: dict[str, Figures] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    minutes: float = 0.0
    spent: float = 0.0

    @classmethod
    def open(cls, folder: Path, setting: Mapping[str, Any]) -> GpuReport:
        """What ``folder`` holds of an earlier run, or an empty one. RequestError for a file that
        is none, or one of another setting."""
        file = folder / FILE
        if not file.exists():
            return cls(folder, setting)
        try:
            entries = json.loads(file.read_text(encoding="utf-8"))
            found = entries["setting"]
            cases, done = dict(entries["cases"]), list(entries["done"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(
                f"{file.name} is no report of this command ({error!r}); name another folder"
            ) from error
        for key in sorted({*setting, *found}):
            if setting.get(key) != found.get(key):
                raise RequestError(
                    f"{file.name} was begun with {key} {found.get(key)!r}, and this is {key} "
                    f"{setting.get(key)!r}; name another folder"
                )
        return cls(folder, setting, cases, {}, done)

    def has(self, case: str) -> bool:
        """Whether the case was measured to its end."""
        return case in self.done

    def add(self, name: str, figures: Figures) -> None:
        """Figures of one case; the file is written with the next ``write``."""
        self.cases[name] = figures
        self.skipped.pop(name, None)

    def skip(self, name: str, reason: str) -> None:
        """Say why a case has no figures."""
        self.skipped[name] = reason

    def finish(self, case: str) -> None:
        """The case was measured to its end."""
        self.done.append(case)

    def seconds(self, name: str) -> float | None:
        """A case's own seconds."""
        return self.cases.get(name, {}).get("seconds")

    def line(self, case: str) -> str:
        """One line on what became of a case."""
        return f"{self.spent:6.0f} s  {case}: {self.skipped.get(case, 'measured')}"

    def to_json(self) -> dict[str, Any]:
        """All of it; bars for the 5B size alone."""
        return {
            "setting": dict(self.setting),
            "minutes": self.minutes,
            "spent": round(self.spent, 1),
            "cases": self.cases,
            "skipped": self.skipped,
            "done": self.done,
            "bars": [
                {"what": b.what, "value": b.value, "asked": b.asked, "reached": b.reached}
                for b in self.bars()
            ],
        }

    def write(self) -> None:
        """Both files, each whole."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n"
        write_whole(self.folder / FILE, lambda part: part.write_text(text, encoding="utf-8"))
        tables = self.tables()
        write_whole(self.folder / TABLES, lambda part: part.write_text(tables, encoding="utf-8"))

    def bars(self) -> list[Bar]:
        """What the 5B size was asked for; none for another."""
        if self.setting.get("shape") != "5b":
            return []
        stock, ours = self.seconds("steps/stock"), self.seconds("steps/motions_2")
        rmpm = self.seconds("steps/rmpm")
        memory = [
            figures["reserved_gib"]
            for name, figures in self.cases.items()
            if name.startswith("memory/") and "reserved_gib" in figures
        ]
        cached = [
            figures["seconds"]
            for name, figures in self.cases.items()
            if name.startswith("videos/") and figures.get("rest", 1.0) < 0.99
        ]
        extra = self._peak("steps/motions_2", over="steps/stock")
        own = self.cases.get("steps/own_keys_and_values", {}).get("gib")
        learning = self.cases.get("learning/checkpointed", {}).get("reserved_gib")
        return [
            Bar("a step with 2 motions, over stock", _ratio(ours, stock), 1.05, "×"),
            Bar(
                "the dense-mask way, over ours",
                _ratio(self.seconds("steps/dense_2"), ours),
                2.0,
                "×",
                least=True,
            ),
            Bar(
                "RMPM, share of a step",
                None if rmpm is None or ours is None else 100 * rmpm / (ours + rmpm),
                2.0,
                "%",
            ),
            Bar(
                "memory over stock, beside the motions' own keys and values",
                None if extra is None or own is None else extra - own,
                0.3,
                "GiB",
            ),
            Bar("50 steps and the frames", self.seconds("videos/ours"), 90.0, "s"),
            Bar("the same with a cache", min(cached, default=None), 45.0, "s"),
            Bar("the smallest profile", min(memory, default=None), 12.0, "GiB"),
            Bar("learning a motion", learning, 24.0, "GiB"),
        ]

    def _peak(self, name: str, *, over: str) -> float | None:
        key = "peak_over_held_gib"
        one, other = (self.cases.get(case, {}).get(key) for case in (name, over))
        return None if one is None or other is None else one - other

    def tables(self) -> str:
        """Markdown."""
        setting = self.setting
        where = f"{setting['device']}" + (
            f" ({setting['memory_gib']} GiB)" if setting.get("memory_gib") else ""
        )
        parts = [
            f"# Speed on {where}",
            f"Shape {setting['shape']} with random weights, {setting['dtype']}; PyTorch "
            f"{setting['torch']}, diffusers {setting['diffusers']}; {self.spent:.0f} s of "
            f"{self.minutes:g} minutes.",
        ]
        if bars := self.bars():
            rows = [
                (
                    bar.what,
                    f"{'≥' if bar.least else '≤'} {bar.asked:g} {bar.unit}",
                    "not measured" if bar.value is None else f"{bar.value:.2f} {bar.unit}",
                    "yes" if bar.reached else "no",
                )
                for bar in bars
            ]
            parts.append(_table(("what", "asked for", "found", "reached"), rows))
        parts += [
            _section("A step, both halves of the guidance", self._step_rows("steps/")),
            _section("The same with two motions, by kernel", self._step_rows("kernels/")),
            _section("Whole videos", self._video_rows("videos/")),
            _section("Memory profiles, two motions", self._video_rows("memory/")),
            _section("Learning a motion, a step", self._plain_rows("learning/")),
            _section("Compiled, a step with two motions", self._plain_rows("compiled/")),
        ]
        if self.skipped:
            rows = [(name, reason) for name, reason in self.skipped.items()]
            parts.append("## Not measured\n\n" + _table(("case", "why"), rows))
        parts.append(
            "How much of a video a cache that goes by thresholds skips depends on the weights, and "
            "these are random: the share it computed stands beside its time. Masks were kept from "
            "the step on at which the pocket's settle in the median."
        )
        return "\n\n".join(part for part in parts if part) + "\n"

    def _of(self, part: str) -> list[tuple[str, Figures]]:
        return [
            (name.removeprefix(part), figures)
            for name, figures in self.cases.items()
            if name.startswith(part)
        ]

    def _step_rows(self, part: str) -> list[dict[str, str]]:
        stock = self.seconds("steps/stock")
        rows = []
        for name, figures in self._of(part):
            if "seconds" not in figures:
                continue
            over = _ratio(figures["seconds"], stock)
            rows.append(
                {
                    "case": name,
                    "s": f"{figures['seconds']:.4g}",
                    "over stock": "" if over is None or name == "rmpm" else f"{over:.3f}",
                    "peak over what is held, GiB": f"{figures['peak_over_held_gib']:.3f}",
                }
            )
        return rows

    def _video_rows(self, part: str) -> list[dict[str, str]]:
        return [
            {
                "case": name + (f" → {figures['profile']}" if "profile" in figures else ""),
                "steps": str(figures["steps"]),
                "s": f"{figures['seconds']:.1f}",
                "s/step": f"{figures['step_seconds']:.3f}",
                "prompt, s": f"{figures['text_seconds']:.2f}",
                "frames, s": f"{figures['decode_seconds']:.2f}",
                "attention / rest computed": f"{figures['attention']:.0%} / {figures['rest']:.0%}",
                "peak / reserved, GiB": _gib(figures),
            }
            for name, figures in self._of(part)
        ]

    def _plain_rows(self, part: str) -> list[dict[str, str]]:
        return [
            {
                "case": name,
                "s": f"{figures['seconds']:.3f}",
                "the first, s": f"{figures['first_seconds']:.1f}",
                "uncompiled at the same shapes, s": (
                    f"{figures['fixed_shapes_seconds']:.3f}"
                    if "fixed_shapes_seconds" in figures
                    else ""
                ),
                "peak / reserved, GiB": _gib(figures),
            }
            for name, figures in self._of(part)
        ]


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other


def _gib(figures: Figures) -> str:
    if "peak_gib" not in figures:
        return ""
    return f"{figures['peak_gib']:.2f} / {figures['reserved_gib']:.2f}"


def _section(title: str, rows: list[dict[str, str]]) -> str:
    """ "" where there is nothing to say; columns that are empty in all rows are left out."""
    if not rows:
        return ""
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    return f"## {title}\n\n" + _table(
        columns, [[row[column] for column in columns] for row in rows]
    )


def _table(columns: Any, rows: Any) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
