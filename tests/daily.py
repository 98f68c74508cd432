"""What of a test's cases is met every day, and what on long runs alone (``make test-all``)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def some_daily(cases: Iterable[Any], *daily: Any) -> list[Any]:
    """``cases`` of one parameter of a test, whose law the ``daily`` ones state already."""
    return [pytest.param(case, marks=() if case in daily else pytest.mark.long) for case in cases]
