"""A batch's workers without their processes, each of which imports torch and all that stands on it:
for laws of what a batch makes, not of how it is shared out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

import pytest
import torch

from motion_app.jobs.batch import Done
from motion_app.jobs.kinds import WorkerConfig
from motion_app.jobs.manifest import Item
from motion_app.jobs.workers import Do, Open


class NearWorkers:
    """As ``Workers``: one, in this process, that has done its task when it was given it."""

    size = free = 1

    def __init__(self, configs: Sequence[WorkerConfig], opens: Open, do: Do) -> None:
        config = replace(configs[0], threads=torch.get_num_threads())
        self._opened, self._do = cache(partial(opens, config)), do
        self._news: list[Done] = []

    def give(self, item: Item) -> None:
        self._news.append(Done(item, self._do(item, self._opened, lambda: True)))

    def collect(self, timeout: float) -> list[Done]:
        news, self._news = self._news, []
        return news

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


def work_nearby(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the command ``batch`` starts no process."""
    monkeypatch.setattr("motion_app.cli.batch.Workers", NearWorkers)
