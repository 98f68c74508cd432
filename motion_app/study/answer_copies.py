"""Where answers go besides the database, and where the database may not lie.

A hosted Space forgets its disk when it restarts; what is mounted there is object storage, on which
SQLite's locks and log do not hold. So: PostgreSQL, or SQLite on the local disk with every answer
also appended to a JSONL file that goes to a data set.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from motion_app.errors import RequestError
from motion_app.text_files import json_text

if TYPE_CHECKING:
    from huggingface_hub import CommitScheduler

# Types of /proc/self/mountinfo whose locks or shared memory SQLite's log cannot rely on.
REMOTE_TYPES = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs"),
        *("nfs", "nfs4", "smb2", "smb3", "smbfs", "virtiofs", "vboxsf"),
    )
)
LOCAL_FUSE = frozenset({"fuseblk", "fuse.fuse-overlayfs", "fuse.lxcfs"})  # a disk beneath
MOUNTS = Path("/proc/self/mountinfo")


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


def check_local_disk(
    path: Path | str,
    *,
    mounts: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """RequestError where an SQLite database at ``path`` would lie on a network or FUSE mount, or in
    a Space's mounted /data. ``mounts`` and ``environment`` replace what the system says."""
    environment = os.environ if environment is None else environment
    place = Path(path).resolve()
    advice = "use PostgreSQL (MOTION_APP_STUDY_DATABASE), or a folder on the machine's own disk"
    if environment.get("SPACE_ID") and Path("/data") in (place, *place.parents):
        raise RequestError(
            f"the study's SQLite file {place} would lie in a Space's mounted storage, where a "
            f"database breaks; {advice}"
        )
    if mounts is None:
        mounts = MOUNTS.read_text(encoding="utf-8") if MOUNTS.is_file() else ""
    kind = _mount_type(place, mounts)
    if kind in REMOTE_TYPES or (kind.startswith("fuse") and kind not in LOCAL_FUSE):
        raise RequestError(
            f"the study's SQLite file {place} would lie on a {kind} mount, where a database "
            f"breaks; {advice}"
        )


def _mount_type(place: Path, mounts: str) -> str:
    """The file system type of the innermost mount that holds ``place``; "" where none is known.
    Of two mounts on one point the later one covers the earlier."""
    found, depth = "", -1
    for line in mounts.split("\n"):
        before, dash, after = line.partition(" - ")
        fields = before.split()
        if not dash or len(fields) < 5:
            continue
        point = Path(fields[4].encode().decode("unicode_escape"))  # a blank is \040
        if point in (place, *place.parents) and len(point.parts) >= depth:
            found, depth = after.split()[0], len(point.parts)
    return found
