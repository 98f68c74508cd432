"""The demo that ships: a study to be tried, whole, before one of one's own is made.

Every visit has a store of its own, in a temporary folder, and shares nothing but the videos with
others: nothing of it is kept, and nothing of it is among real answers.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from motion_app.study.answers import Study
from motion_app.study.database import raters
from motion_app.study.demo_content import SHIPPED, SIMULATED, read_demo
from motion_app.study.links import new_id
from motion_app.study.unblinding import unblind

MOST_VISITS = 200  # of some 300 KB each
VISIT_SECONDS = 2 * 3600.0  # since it was last used


@dataclass
class DemoVisit:
    """One visitor's own study. ``token`` is the link of the one place that is not simulated."""

    study: Study
    folder: Path
    token: str
    used: float

    @property
    def finished(self) -> bool:
        """Whether the visitor has answered everything."""
        return self.study.raters.join(self.token).finished is not None

    def unblind(self) -> None:
        """Open the results, as its administrator would."""
        unblind(self.study.archive, by="demo")

    def forget(self) -> None:
        """Everything about it."""
        self.study.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class DemoVisits:
    """The visits of now, by a name that cannot be guessed: at most ``most``, those that were used
    longest ago go first, and any that rested for ``seconds``."""

    def __init__(
        self,
        source: Path = SHIPPED,
        *,
        most: int = MOST_VISITS,
        seconds: float = VISIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source, self.most, self.seconds, self.clock = source, most, seconds, clock
        self._visits: OrderedDict[str, DemoVisit] = OrderedDict()
        self._lock = threading.Lock()
        self._home: tempfile.TemporaryDirectory[str] | None = None

    def begin(self) -> str:
        """A new visit; its name."""
        with self._lock:
            pattern = self._pattern()
            name = secrets.token_hex(16)
            folder = pattern.parent / name
            shutil.copytree(pattern, folder)
            visit = _opened(folder, self.source / "media", self.clock())
            self._visits[name] = visit
            self._thin_out()
        return name

    def find(self, name: str) -> DemoVisit | None:
        """The visit of that name; None for one that is over, or never was."""
        with self._lock:
            self._thin_out()
            visit = self._visits.get(name)
            if visit is not None:
                visit.used = self.clock()
                self._visits.move_to_end(name)
            return visit

    def close(self) -> None:
        """Forget every visit."""
        with self._lock:
            for visit in self._visits.values():
                visit.forget()
            self._visits.clear()
            if self._home is not None:
                self._home.cleanup()
                self._home = None

    def _thin_out(self) -> None:
        late = self.clock() - self.seconds
        while self._visits and (
            len(self._visits) > self.most or next(iter(self._visits.values())).used < late
        ):
            self._visits.popitem(last=False)[1].forget()

    def _pattern(self) -> Path:
        """A study with its simulated raters, made once: every visit is a copy."""
        if self._home is None:
            home = tempfile.TemporaryDirectory(prefix="demo-study-", ignore_cleanup_errors=True)
            from motion_app.study.demo_raters import make_pattern  # only who tries it needs them

            make_pattern(Path(home.name) / "pattern", read_demo(self.source))
            self._home = home
        return Path(self._home.name) / "pattern"


def _opened(folder: Path, media: Path, now: float) -> DemoVisit:
    """The copy in ``folder``, whose last place gets a link that no other copy has."""
    study = Study.open(folder)
    study.archive.media = media
    with study.archive.engine.begin() as connection:
        connection.execute(
            sa.update(raters)
            .where(raters.c.study == study.archive.id, raters.c.slot == SIMULATED)
            .values(id=new_id())
        )
    (token,) = study.raters.hand_out(1)
    return DemoVisit(study, folder, token, now)
