"""What one browser prepares for a training, and its way into the queue. No gradio here."""

from __future__ import annotations

import shlex
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from motion_app.errors import RequestError
from motion_app.jobs.store import JobRow
from motion_app.library import DeletedMotion
from motion_app.ownership import Visitor
from motion_app.training.inputs import TrainingInputs
from motion_app.ui.clip_editor import DraftClip
from motion_app.ui.host import ModelHost


class TrainingDesk:
    """Of one browser tab: the clips so far, the training on show (its ``job`` id), the motion it
    deleted last, and who the ``visitor`` is. ``serial`` counts who follows a job: an
    older follower stops when a newer one begins. ``pictured`` is when (``time.monotonic``) the job
    was last drawn, 0 before, and ``video_step`` the step of the video on show."""

    def __init__(self) -> None:
        self.clips: tuple[DraftClip, ...] = ()
        self.job = ""
        self.deleted: DeletedMotion | None = None
        self.visitor = Visitor()
        self.serial = 0
        self.pictured = 0.0
        self.video_step: int | None = None
        self.lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> TrainingDesk:
        """gr.State copies its first value for every browser: each begins with nothing."""
        return TrainingDesk()

    def follow(self) -> int:
        """The serial of a new follower."""
        with self.lock:
            self.serial += 1
            self.pictured, self.video_step = 0.0, None
            return self.serial


def submit_training(host: ModelHost, inputs: TrainingInputs, *, owner: str) -> JobRow:
    """A training at the end of the line, its clips copied into the job.

    Raises RequestError where training is off, for too many clips and over a quota, MotionFileError
    for a name that is taken, and what the queue refuses.
    """
    if not host.settings.training:
        raise RequestError(
            host.no_training
            or "training is off on this server; learn the motion on your own machine and import it"
        )
    inputs.check_count(host.settings.limits)
    host.library.new_path(inputs.name)
    files: dict[str, Path] = {}
    clips = []
    for number, clip in enumerate(inputs.clips, start=1):
        name = f"clip-{number}{clip.file.suffix.lower()}"
        if not clip.file.is_file():
            raise RequestError(f"{clip.file.name} is gone from the server; upload it again")
        files[name] = clip.file
        clips.append(replace(clip, file=clip.file.with_name(name)))
    entries = replace(inputs, clips=tuple(clips)).to_json()
    title = inputs.name.strip()
    return host.jobs.submit("train", entries, owner=owner, title=title, files=files)


def training_command(inputs: TrainingInputs | None = None) -> str:
    """What to type on a machine of one's own."""
    name, phrase, noun = ("jump", "is jumping", "tiger")
    if inputs is not None:
        name, phrase, noun = inputs.name, inputs.phrase, inputs.noun
    words = {"--name": name, "--phrase": phrase, "--noun": noun, "--out": "motion.safetensors"}
    options = " ".join(f"{flag} {shlex.quote(text)}" for flag, text in words.items())
    return f"python -m motion_app train-motion clip.mp4 {options}"
