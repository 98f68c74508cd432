"""Which two videos are compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Side = Literal["a", "b"]


@dataclass(frozen=True)
class Pair:
    """The ids of the jobs on the two sides, None where none is chosen yet."""

    a: str | None = None
    b: str | None = None

    @property
    def sides(self) -> tuple[str | None, str | None]:
        return (self.a, self.b)

    def chosen(self, side: Side, job: str) -> Pair:
        """``job`` on that side; pressed a second time it leaves it."""
        return replace(self, **{side: None if getattr(self, side) == job else job})

    def without(self, job: str) -> Pair:
        """``job`` deleted."""
        return Pair(*(None if side == job else side for side in self.sides))
