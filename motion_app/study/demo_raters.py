"""The other raters of a demo or a preview. They are simulated and choose by lot, so that its
report has something to count and no method is spoken for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from motion_app.errors import RequestError
from motion_app.study.answers import Sent, Study
from motion_app.study.archive import StudyArchive
from motion_app.study.plan import StudyConfig, StudyItem
from motion_app.study.records import Answer, VideoFormat
from motion_app.study.synthetic_raters import DirectClient, SyntheticRater, media_key

SEED = 1


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
        rater = SyntheticRater(even, key, np.random.default_rng([SEED, number]), attention=1.0)
        rater.take_part(client, config.asked, config.coverage)
    study.close()
    # What the database still held beside its file is in it now.
    for left in folder.glob("study.sqlite-*"):
        left.unlink()
