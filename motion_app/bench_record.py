"""What a long measurement has found so far, in a file that a stop leaves whole."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from motion_app.errors import RequestError


@dataclass(frozen=True)
class Case:
    """One timed run: ``seconds``, those of them in attention, the most memory that it held."""

    seconds: float
    attention_seconds: float
    peak_gigabytes: float


@dataclass
class BenchRecord:
    """Runs of every case under one ``setting``; kept in ``path`` where there is one."""

    setting: Mapping[str, Any]
    path: Path | None = None
    cases: dict[str, list[Case]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path | None, setting: Mapping[str, Any]) -> BenchRecord:
        """What ``path`` holds, or an empty record. RequestError for a file that is no record, or
        one of another setting: figures of two machines or types are no comparison."""
        if path is None or not path.exists():
            return cls(setting, path)
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            found = entries["setting"]
            cases = {name: [Case(**run) for run in runs] for name, runs in entries["cases"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(
                f"{path.name} is no record of a measurement ({error!r}); name another file"
            ) from error
        differing = sorted(key for key in {*setting, *found} if setting.get(key) != found.get(key))
        if differing:
            key = differing[0]
            raise RequestError(
                f"{path.name} was begun with {key} {found.get(key)!r}, and this is {key} "
                f"{setting.get(key)!r}; name another file"
            )
        return cls(setting, path, cases)

    def times(self, name: str) -> int:
        """How often the case was run."""
        return len(self.cases.get(name, ()))

    def names(self) -> tuple[str, ...]:
        """All cases that were run, in the order of their first run."""
        return tuple(self.cases)

    def add(self, name: str, case: Case) -> None:
        """Keep a run; the file is replaced whole."""
        self.cases.setdefault(name, []).append(case)
        if self.path is None:
            return
        runs = {name: [asdict(run) for run in kept] for name, kept in self.cases.items()}
        text = json.dumps({"setting": self.setting, "cases": runs}, indent=2) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, self.path)

    def median(self, name: str) -> Case:
        """The median of each of a case's numbers."""
        runs = self.cases[name]
        return Case(
            *(statistics.median(getattr(run, part.name) for run in runs) for part in fields(Case))
        )
