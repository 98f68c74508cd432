"""One study, put together: what was created, who takes part, what they answered."""

from __future__ import annotations

from pathlib import Path

from motion_app.study.answers import Answers
from motion_app.study.archive import StudyArchive
from motion_app.study.raters import Raters


class Study:
    """``archive`` is the study as it was created and never changes; ``raters`` come and go;
    ``answers`` are given by raters and are only ever added."""

    def __init__(self, archive: StudyArchive) -> None:
        self.archive = archive
        self.raters = Raters(archive)
        self.answers = Answers(archive, self.raters)

    @classmethod
    def open(cls, folder: Path | str, *, database: str | None = None) -> Study:
        """The study made in ``folder``, as ``StudyArchive.open`` finds it."""
        return cls(StudyArchive.open(folder, database=database))

    def close(self) -> None:
        """Let go of the database and hand on what the copy still holds."""
        self.archive.close()
