"""How many spoiled inputs a fuzz test makes."""

from __future__ import annotations

from collections.abc import Collection

from hypothesis import HealthCheck, Phase, settings

DAILY_PART, FEWEST = 6, 10
ALL_PHASES = tuple(Phase)


class Fuzz:
    """``daily``: a part of the examples, as ``make test`` has it; set by ``conftest``."""

    daily = False

    def __call__(self, examples: int, *, phases: Collection[Phase] = ALL_PHASES) -> settings:
        """``examples``: how many of all; the same ones every time, and none has a deadline."""
        return settings(
            max_examples=max(FEWEST, examples // DAILY_PART) if self.daily else examples,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=phases,
        )


fuzz = Fuzz()
