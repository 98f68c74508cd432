"""The app made ready to be launched: its page, what stands behind it, and the folder of uploads and
of copies that pages look at, bounded in age and in bytes.

gradio deletes what it wrote itself, by age alone; here everything in the folder counts. gradio and
torch are not imported with this file: gradio reads the folder's name from the environment when it
is imported, and on ZeroGPU ``spaces`` must come before both.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from motion_app.errors import MotionAppError
from motion_app.settings import ROOT, Hosting, Settings

if TYPE_CHECKING:
    from motion_app.host import ModelHost
    from motion_app.ui.boundary import GuardedBlocks

logger = logging.getLogger(__name__)

KEEP_SECONDS = 3600.0
TIDY_SECONDS = 30.0
UNTIDIED_SHARE = 0.1  # of what the folder may hold, uploaded since it was last tidied
LOCK_NAME = ".lock"
PREFIX = "uploads-"
EXAMPLES = ROOT / "assets" / "examples"


@dataclass(frozen=True)
class _Copy:
    path: Path
    changed: float  # seconds since 1970
    bytes: int
    address: str  # that it was uploaded from; "" for a copy that a page looks at


class UploadFolder:
    """A folder of its own below ``cache`` for one running program, deleted at the end as a context;
    those of programs that were killed go at the start. ``most_bytes``: what it may hold. Beyond,
    files of the address that holds most go first, of its own the oldest; ``keep_seconds``: how long
    anything stays."""

    def __init__(
        self, cache: Path, *, most_bytes: float, keep_seconds: float = KEEP_SECONDS
    ) -> None:
        self.cache, self.most_bytes, self.keep_seconds = cache, most_bytes, keep_seconds
        self.path = cache / (PREFIX + secrets.token_hex(8))
        self._kept: frozenset[Path] = frozenset()
        self._came_from: dict[Path, str] = {}
        self._lock_of_tidying = threading.Lock()
        self._untidied = 0
        self._ended = threading.Event()

    def __enter__(self) -> UploadFolder:
        """Make it. MotionAppError where no folder can be made."""
        new = self.path.with_name("new-" + self.path.name)  # it gets its name with its lock
        try:
            new.mkdir(parents=True)
            self._lock = (new / LOCK_NAME).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            new.rename(self.path)
        except OSError as error:
            raise MotionAppError(
                f"the folder {self.cache} cannot be used: {error.strerror}; choose another with "
                "MOTION_APP_CACHE"
            ) from error
        self._remove_abandoned()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def start(self, kept: Iterable[str] = ()) -> None:
        """Tidy from now on. ``kept``: files that every page shows, which stay."""
        self._kept = frozenset(Path(path) for path in kept)
        threading.Thread(target=self._keep_tidy, name="tidy-uploads", daemon=True).start()

    def heard(self, address: str, paths: Sequence[str]) -> None:
        """``paths`` were uploaded from ``address``. What they are too much is deleted now: files
        may come faster than they are looked through."""
        for path in map(Path, paths):
            self._came_from[path] = address
            with contextlib.suppress(OSError):  # it is moved here in the background
                self._untidied += path.stat().st_size
        if self._untidied > UNTIDIED_SHARE * self.most_bytes:
            self.tidy()

    def tidy(self) -> None:
        """Delete what is too old, then of who holds most until the rest fits; and folders left
        empty."""
        with self._lock_of_tidying:
            self._untidied = 0
            copies = sorted(self._copies(), key=lambda copy: copy.changed)
            oldest = time.time() - self.keep_seconds
            held: dict[str, deque[_Copy]] = defaultdict(deque)
            for copy in copies:
                if copy.changed < oldest:
                    self._delete(copy)
                else:
                    held[copy.address].append(copy)
            sizes = {address: sum(copy.bytes for copy in own) for address, own in held.items()}
            while sum(sizes.values()) > self.most_bytes:
                most = max(sizes, key=lambda address: sizes[address])
                copy = held[most].popleft()
                sizes[most] -= copy.bytes
                self._delete(copy)
            there = {copy.path for copy in copies}
            self._came_from = {
                path: address for path, address in self._came_from.items() if path in there
            }

    def _delete(self, copy: _Copy) -> None:
        copy.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another file is in it
            copy.path.parent.rmdir()

    def _copies(self) -> list[_Copy]:
        copies = []
        for place, _, names in os.walk(self.path):
            for name in names:
                path = Path(place, name)
                if path in self._kept or name == LOCK_NAME:
                    continue
                with contextlib.suppress(OSError):  # it has just gone
                    stat = path.lstat()
                    # the later one: gradio touches a copy that it hands out again
                    changed = max(stat.st_mtime, stat.st_ctime)
                    address = self._came_from.get(path, "")
                    copies.append(_Copy(path, changed, stat.st_size, address))
        return copies

    def _keep_tidy(self) -> None:
        while not self._ended.wait(TIDY_SECONDS):
            try:
                self.tidy()
            except OSError:
                logger.exception("the uploads could not be tidied")

    def _remove_abandoned(self) -> None:
        """Folders whose program is gone: the kernel lets go of a killed program's locks."""
        for folder in self.cache.glob(PREFIX + "*"):
            if folder == self.path or not folder.is_dir():
                continue
            try:
                with (folder / LOCK_NAME).open("a") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # it runs
                continue
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class PreparedApp:
    """A page that is ready to be launched, and what stands behind it."""

    uploads: UploadFolder
    host: ModelHost
    page: GuardedBlocks


def prepare_app(settings: Settings, uploads: UploadFolder, hosting: Hosting) -> PreparedApp:
    """Build the page. On ZeroGPU the model is loaded here; elsewhere once the page is up."""
    # Read when gradio is imported: its uploads and copies go where they are deleted at the end.
    os.environ["GRADIO_TEMP_DIR"] = str(uploads.path)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    lend = _gpu_decorator()  # before torch and gradio

    from motion_app.ui.page import build_page

    host = _new_host(settings, hosting, lend)
    return PreparedApp(uploads, host, build_page(host, EXAMPLES))


def _gpu_decorator() -> Callable[..., Any] | None:
    """``spaces.GPU``; None where there is no such package, as everywhere but on a Space."""
    try:
        import spaces
    except ImportError:
        return None
    return spaces.GPU


def _new_host(settings: Settings, hosting: Hosting, lend: Callable[..., Any] | None) -> ModelHost:
    from motion_app.host import ModelHost

    if not hosting.zero_gpu:
        return ModelHost(settings)
    if lend is None:
        raise MotionAppError("ZeroGPU needs the package spaces; add it to requirements.txt")

    from motion_app.ui.zero_gpu import ZeroGpuHost

    return ZeroGpuHost(settings, lend=lend)


def prepare_space(hosting: Hosting) -> PreparedApp:
    """The app of a Space, whose uploads go when the program ends."""
    settings = hosting.settings()
    uploads = UploadFolder(settings.cache, most_bytes=settings.limits.upload_gigabytes * 2**30)
    atexit.register(uploads.__exit__, None, None, None)
    return prepare_app(settings, uploads.__enter__(), hosting)
