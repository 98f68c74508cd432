"""A small study on a site of its own, and one who takes part in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tiny_study import SECRET, Caller, agreed, make_study

from motion_app.study.answers import Study
from motion_app.study.site.app import build_site


@pytest.fixture
def study(tmp_path: Path, database: str | None) -> Iterator[Study]:
    made = make_study(tmp_path / "study", database=database)
    yield made
    made.close()


@pytest.fixture
def client(study: Study) -> Iterator[TestClient]:
    with TestClient(build_site(study, admin_secret=SECRET), raise_server_exceptions=False) as made:
        yield made


@pytest.fixture
def rater(client: TestClient, study: Study) -> Caller:
    """One who has agreed to take part."""
    return agreed(client, study)
