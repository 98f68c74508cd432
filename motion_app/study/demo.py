"""Studies to be tried: the demo that ships, and previews of real ones.

Every visit has a store of its own, in a temporary folder, and shares nothing but the videos with
others: nothing of it is kept, and nothing of it is among real answers. Its other raters are
simulated and choose by lot, so that its report has something to count and no method is spoken for.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from motion_app.errors import RequestError
from motion_app.study.answers import Sent, Study
from motion_app.study.archive import StudyArchive
from motion_app.study.database import raters
from motion_app.study.demo_content import SHIPPED, SIMULATED, read_demo
from motion_app.study.links import new_id
from motion_app.study.plan import DEMO_CONSENT, StudyConfig, StudyItem
from motion_app.study.records import Answer, VideoFormat
from motion_app.study.synthetic_raters import DirectClient, SyntheticRater, media_key
from motion_app.study.unblinding import unblind

MOST_VISITS = 200  # of some 300 KB each
MOST_PREVIEWS = 8  # of one study
MOST_SIMULATED = 4000  # answers of simulated raters in a preview
DEMO_SEED = 1
VISIT_SECONDS = 2 * 3600.0  # since it was last used
RATERS_SEED = 1


@dataclass
class TrialVisit:
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


class TrialVisits:
    """The visits of now, by a name that cannot be guessed: at most ``most``, those that were used
    longest ago go first, and any that rested for ``seconds``. ``make`` writes the study that each
    is a copy of, its last place free; ``media`` holds the videos of all."""

    def __init__(
        self,
        make: Callable[[Path], None],
        media: Path,
        *,
        most: int = MOST_VISITS,
        seconds: float = VISIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.make, self.media = make, media
        self.most, self.seconds, self.clock = most, seconds, clock
        self._visits: OrderedDict[str, TrialVisit] = OrderedDict()
        self._lock = threading.Lock()
        self._home: tempfile.TemporaryDirectory[str] | None = None

    def begin(self) -> str:
        """A new visit; its name."""
        with self._lock:
            pattern = self._pattern()
            name = secrets.token_hex(16)
            folder = pattern.parent / name
            shutil.copytree(pattern, folder)
            visit = _opened(folder, self.media, self.clock())
            self._visits[name] = visit
            self._thin_out()
        return name

    def find(self, name: str) -> TrialVisit | None:
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
            home = tempfile.TemporaryDirectory(prefix="study-trial-", ignore_cleanup_errors=True)
            self.make(Path(home.name) / "pattern")
            self._home = home
        return Path(self._home.name) / "pattern"


def demo_visits(source: Path = SHIPPED, **options: Any) -> TrialVisits:
    """Of the demo in the folder ``source``."""

    def make(folder: Path) -> None:
        content = read_demo(source)
        config = StudyConfig.build(
            title=content.title,
            methods=content.methods,
            repeat_share=0.0,
            consent=DEMO_CONSENT,
            seed=DEMO_SEED,
        )
        make_pattern(folder, config, content.items, content.video, simulated=SIMULATED)

    return TrialVisits(make, source / "media", **options)


def preview_visits(archive: StudyArchive, **options: Any) -> TrialVisits:
    """Of a real study, whose methods have other names in it: before it is unblinded nobody sees
    whose a video is."""

    def make(folder: Path) -> None:
        mixed = list(archive.config.methods)
        secrets.SystemRandom().shuffle(mixed)
        names = {method: f"Method {number}" for number, method in enumerate(mixed, start=1)}
        items = [
            replace(
                item,
                candidates={names[method]: media for method, media in item.candidates.items()},
                answer=None if item.answer is None else names[item.answer],
            )
            for item in archive.items.values()
        ]
        changed = {"methods": tuple(names.values()), "link_days": None, "closes": None}
        config = archive.config.model_copy(update=changed)
        screens = len(items) * len(config.asked)
        simulated = max(1, min(SIMULATED, MOST_SIMULATED // screens))
        make_pattern(folder, config, items, archive.video, simulated=simulated)

    return TrialVisits(make, archive.media, **{"most": MOST_PREVIEWS, **options})


def _opened(folder: Path, media: Path, now: float) -> TrialVisit:
    """The copy in ``folder``, whose last place gets a link that no other copy has."""
    study = Study.open(folder)
    study.archive.media = media
    with study.archive.engine.begin() as connection:
        connection.execute(
            sa.update(raters)
            .where(
                raters.c.study == study.archive.id,
                raters.c.slot == study.archive.config.raters - 1,
            )
            .values(id=new_id())
        )
    (token,) = study.raters.hand_out(1)
    return TrialVisit(study, folder, token, now)


class _AtOnce(DirectClient):
    """Hands all answers in together: a commit of its own for each takes seconds on a slow disk."""

    def enter(self) -> None:
        super().enter()
        self._given: list[Sent] = []

    def answer(self, answer: Answer) -> None:
        self._given.append((self.rater, answer))

    def finish(self) -> str:
        for outcome in self.study.answers.save_all(self._given):
            if isinstance(outcome, RequestError):
                raise outcome
        return super().finish()


def make_pattern(
    folder: Path,
    config: StudyConfig,
    items: Sequence[StudyItem],
    video: VideoFormat,
    *,
    simulated: int,
) -> None:
    """The study in ``folder``, with as many places as there are simulated raters and one more."""
    config = config.model_copy(update={"raters": simulated + 1})
    study = Study(StudyArchive.create(folder, config, items, video=video))
    even = {question: dict.fromkeys(config.methods, 1.0) for question in config.questions}
    key = media_key(study.archive)
    for number in range(simulated):
        client = _AtOnce(study)
        client.enter()
        rater = SyntheticRater(
            even, key, np.random.default_rng([RATERS_SEED, number]), attention=1.0
        )
        rater.take_part(client, config.asked, config.coverage)
    study.close()
    # What the database still held beside its file is in it now.
    for left in folder.glob("study.sqlite-*"):
        left.unlink()
