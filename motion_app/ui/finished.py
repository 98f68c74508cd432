"""A finished job and its files, as the page reads them. No gradio here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from motion_app.errors import RequestError
from motion_app.jobs.store import JobRow
from motion_app.ui.mask_video import SavedFrames

DOWNLOADS = ("video", "gif", "masks_zip", "recipe", "frames")  # keys of a job's outcome


@dataclass(frozen=True)
class Result:
    """A job that is done, and the ``folder`` where its files lie."""

    row: JobRow
    folder: Path

    @property
    def video(self) -> Path:
        return self.file("video")

    @property
    def slots(self) -> list[int]:
        """The colour slots of its objects."""
        return slots_of(self.row)

    @property
    def moving(self) -> bool:
        """Some object had a motion. Without one the stock model ran, which knows of no masks after
        the first frame."""
        request = self.row.inputs["request"]
        moved = any(item.get("motion") for item in request["objects"])
        return moved and request.get("method") != "none"

    def file(self, key: str) -> Path:
        """One of DOWNLOADS; RequestError where it has been tidied away."""
        path = self.folder / self.row.outcome[key]
        if not path.is_file():
            raise RequestError(
                "the files of this video have been tidied away; run it again with the same seed"
            )
        return path

    def frames(self) -> SavedFrames:
        return SavedFrames.read(self.file("frames"))


def slots_of(row: JobRow) -> list[int]:
    """The colour slots of a job's objects: those chosen on the page, else in their order."""
    count = len(row.inputs["request"]["objects"])
    return list(row.inputs.get("colours") or range(count))
