"""Where answers go besides the database: a JSONL file, which may go to a data set of the Hub.

A hosted Space forgets its disk when it restarts; a study that has no PostgreSQL there keeps its
answers this way.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from motion_app.text_files import json_text

if TYPE_CHECKING:
    from huggingface_hub import CommitScheduler


class AnswerSink(Protocol):
    """Takes every saved answer, after the database has it."""

    def append(self, row: Mapping[str, Any]) -> None:
        """``row`` is plain JSON. Called from many threads."""

    def close(self) -> None:
        """Hand on what is left."""


class JsonlSink:
    """Appends each answer as a line to ``folder``/answers-<time>-<process>.jsonl; a new program
    starts a new file, so that nothing that was sent before is written again."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.path = self.folder / f"answers-{time.time_ns()}-{os.getpid()}.jsonl"
        self._lock = threading.Lock()

    def append(self, row: Mapping[str, Any]) -> None:
        line = json_text(row, sort_keys=True) + "\n"
        with self._lock:
            self._start()
            with self._writing(), self.path.open("a", encoding="utf-8") as file:
                file.write(line)

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def _writing(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def close(self) -> None:
        """Every line is written as it comes."""


class HubSink(JsonlSink):
    """A ``JsonlSink`` whose folder goes to a private data set of the Hugging Face Hub every few
    minutes, through huggingface_hub's CommitScheduler, from the first answer on. The token is that
    library's own affair (``HF_TOKEN``)."""

    def __init__(self, dataset: str, folder: Path | str, *, minutes: float = 5) -> None:
        super().__init__(folder)
        self.dataset, self.minutes = dataset, minutes
        self._scheduler: CommitScheduler | None = None

    def _start(self) -> None:
        super()._start()
        if self._scheduler is None:
            from huggingface_hub import CommitScheduler

            self._scheduler = CommitScheduler(
                repo_id=self.dataset,
                repo_type="dataset",
                folder_path=self.folder,
                path_in_repo="answers",
                every=self.minutes,
                private=True,
            )

    def _writing(self) -> AbstractContextManager[Any]:
        assert self._scheduler is not None  # _start was called
        return self._scheduler.lock  # no line is cut in two by an upload

    def close(self) -> None:
        """Send what was not sent yet and stop."""
        with self._lock:
            if self._scheduler is not None:
                self._scheduler.trigger().result()
                self._scheduler.stop()
                self._scheduler = None
