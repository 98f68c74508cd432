"""The endpoints that hand in jobs and follow them, and those of the library of motions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import gradio as gr
from anyio import to_thread

from motion_app.errors import RequestError
from motion_app.host import ModelHost
from motion_app.jobs import runners
from motion_app.jobs.folder import JobRow
from motion_app.library.library import motion_entry
from motion_app.library.owners import LibraryUser
from motion_app.media.file_types import CLIP_CHOICES
from motion_app.scene import Motion
from motion_app.ui.api.files import (
    File,
    Json,
    forget_exports,
    handed_out,
    new_export_folder,
    received,
)
from motion_app.ui.visitor import client_of, client_user, quota_address

LOOK_SECONDS = 0.2  # between two looks at a job that a call waits for; it holds no thread
OUTCOME_PATHS = ("motion",)  # of an outcome: where the library keeps the file
ENTRY_PATHS = ("path", "preview")  # what the command line shows and a stranger need not know


class JobEndpoints:
    """Everything that takes longer than a click."""

    def __init__(self, host: ModelHost) -> None:
        self.host = host
        self.limits = host.settings.limits

    async def generate(
        self, request: Json, badge: bool = False, http: gr.Request | None = None
    ) -> Json:
        """Make a video and wait for it. The job goes on where the caller hangs up.

        Args:
            request: a REQUEST as the command line takes it, or a recipe: {"image": the picture as a
                data: URI, "objects": [{"mask": PNG as a data: URI, at the picture's size, white on
                the object, "sentence", "phrase": its words in the sentence, "motion": a name of
                ``motions`` or null, "path": in its place a line [[x, y], ...] in shares of the
                picture, "strength": 0 to 4, 1 as learned, "name"}, ...], "seed": 0 or
                more, "steps": 1 to 1000 denoising steps, "guidance": 0 or more, "prompt", "fit":
                "crop", "pad" or "stretch", "method", "without", "scope", "stock": with the method
                none, the one of ``model``'s others that makes it}; all but the
                picture, the masks and the sentences may be left out; a model that can makes a video
                from words alone, by synmotion or none: no "image", one object at most, no "mask"
            badge: a visible "AI-generated" in a corner

        Returns:
            {"job", "video", "gif", "recipe", "frames", "masks_zip", "seed", "steps", "guidance",
            "seconds": how long it took}
        """
        row = await to_thread.run_sync(self._submitted, request, badge, http)
        if self.host.lent:  # done inside the call that follows it
            return self._outcome(await to_thread.run_sync(self._wait, row.id))
        while row.active:
            await asyncio.sleep(LOOK_SECONDS)
            row = self.host.jobs.row(row.id)
        return self._outcome(_done(row))

    def submit(self, request: Json, badge: bool = False, http: gr.Request | None = None) -> Json:
        """Put a video into the line and return at once; follow it with ``job``.

        Args:
            request: a REQUEST as the command line takes it, or a recipe: {"image": the picture as a
                data: URI, "objects": [{"mask": PNG as a data: URI, at the picture's size, white on
                the object, "sentence", "phrase": its words in the sentence, "motion": a name of
                ``motions`` or null, "path": in its place a line [[x, y], ...] in shares of the
                picture, "strength": 0 to 4, 1 as learned, "name"}, ...], "seed": 0 or
                more, "steps": 1 to 1000 denoising steps, "guidance": 0 or more, "prompt", "fit":
                "crop", "pad" or "stretch", "method", "without", "scope", "stock": with the method
                none, the one of ``model``'s others that makes it}; all but the
                picture, the masks and the sentences may be left out; a model that can makes a video
                from words alone, by synmotion or none: no "image", one object at most, no "mask"
            badge: a visible "AI-generated" in a corner

        Returns:
            {"job": 32 hexadecimal digits that only the caller knows, "state"}
        """
        self.host.jobs.check_unattended()
        row = self._submitted(request, badge, http)
        return {"job": row.id, "state": row.state}

    def _submitted(self, request: Json, badge: bool, http: gr.Request | None) -> JobRow:
        inputs = {"request": request, "badge": badge}
        owner, address = client_of(http), quota_address(http, self.host.settings)
        return self.host.jobs.submit(runners.GENERATE, inputs, owner=owner, address=address)

    def train_motion(
        self,
        clips: list[File],
        name: str,
        phrase: str,
        noun: str,
        steps: int | None = None,
        method: str = "fleximmt",
        trim: list[list[float | None]] | None = None,
        crop: list[list[float] | None] | None = None,
        mover: list[list[float] | None] | None = None,
        still: bool = False,
        http: gr.Request | None = None,
    ) -> Json:
        """Put the learning of a motion into the line and return at once; follow it with ``job``.

        Args:
            clips: the reference clips, as uploads; one is enough, several are better
            name: what the library shall call it, 1 to 80 characters
            phrase: the motion in words, for example "walks on snow", 1 to 240 characters
            noun: what moves in the clips, for example "tiger", 1 to 240 characters
            steps: training steps, 1 to 20000; the checkpoint's own number without it
            method: how it is learned: "fleximmt", "concat", "synmotion", "i2vedit", or where the
                checkpoint has a motion encoder "encoded" (at one look, 0 steps) or
                "encoded-refined"
            trim: for each clip [start, stop] in seconds from its beginning, or null; a stop of null
                is its end
            crop: for each clip [x0, y0, x1, y1], or null: what counts of its picture, as shares of
                its width and height, 0 to 1 from the upper left corner
            mover: for each clip [x, y], or null: a point on what moves, in the first frame that
                counts, as shares of the whole picture's width and height, 0 to 1 from the upper
                left corner; for all clips or for none
            still: the motion is to stand still; otherwise a clip in which nothing moves is refused

        Returns:
            {"job": 32 hexadecimal digits that only the caller knows, "state"}
        """
        self.host.jobs.check_unattended()
        megabytes = self.limits.clip_megabytes
        files = {
            f"{number}{_suffix(clip)}": received(clip, most_megabytes=megabytes)
            for number, clip in enumerate(clips)
        }
        inputs = {
            "name": name,
            "phrase": phrase,
            "noun": noun,
            "method": method,
            "steps": steps,
            "still": still,
            "clips": list(files),
        }
        for key, column in (("trim", trim), ("crop", crop), ("mover", mover)):
            if column is not None:
                inputs[key] = column
        row = self.host.jobs.submit(
            runners.TRAIN,
            inputs,
            owner=client_of(http),
            address=quota_address(http, self.host.settings),
            title=name,
            files=files,
        )
        return {"job": row.id, "state": row.state}

    def job(self, job: str) -> Json:
        """Where a job stands, and what it made.

        Args:
            job: the id that ``submit`` or ``train_motion`` gave

        Returns:
            {"job", "kind", "state", "stage", "ahead": jobs before it, "step": of "steps", 0 before
            the first, "steps", "seconds_left": null until it can be told, "message"} and, once it
            is done, its outcome: that of ``generate``, or for a motion {"name", "steps", "seconds",
            "last_loss", "clip_errors"}
        """
        progress = next(iter(self.host.jobs.watch(job)))
        row = progress.row
        told_now = {
            "job": row.id,
            "kind": row.kind,
            "state": row.state,
            "stage": progress.stage,
            "ahead": progress.ahead,
            "step": progress.step,
            "steps": progress.steps,
            "seconds_left": progress.seconds_left,
            "message": row.message,
        }
        return told_now | (self._outcome(row) if row.state == "done" else {})

    def cancel(self, job: str) -> Json:
        """Stop a job: at once while it waits, else within its current step.

        Args:
            job: its id

        Returns:
            {"job", "state"}
        """
        return {"job": job, "state": self.host.jobs.cancel(job).state}

    def again(self, job: str, http: gr.Request | None = None) -> Json:
        """Put a job that was interrupted, failed or cancelled back into the line; a training goes
        on from its last checkpoint.

        Args:
            job: its id

        Returns:
            {"job", "state"}
        """
        self.host.jobs.check_unattended()
        address = quota_address(http, self.host.settings)
        return {"job": job, "state": self.host.jobs.again(job, address=address).state}

    def delete_job(self, job: str) -> Json:
        """Delete a job that is not running, with everything it was given and made.

        Args:
            job: its id

        Returns:
            {"deleted": its id}
        """
        self.host.jobs.delete(job)
        return {"deleted": job}

    def _wait(self, job: str) -> JobRow:
        """The job's row when it has ended."""
        *_, last = self.host.jobs.follow(job)
        return _done(last.row)

    def _outcome(self, row: JobRow) -> Json:
        """What a job made: its files as files, the rest as it is."""
        folder = self.host.jobs.folder(row.id)
        outcome = {"job": row.id}
        for name, value in row.outcome.items():
            if name in OUTCOME_PATHS:
                continue
            file = folder / value if isinstance(value, str) else None
            outcome[name] = handed_out(file) if file is not None and file.is_file() else value
        return outcome


def _done(row: JobRow) -> JobRow:
    """A job that has ended; RequestError where it did not end well."""
    if row.state != "done":
        raise RequestError(row.message or f"the job ended as {row.state}")
    return row


def _suffix(clip: File) -> str:
    """Of the uploaded file's name, where it is one that clips have."""
    suffix = Path(str(clip.get("path", ""))).suffix.lower() if isinstance(clip, dict) else ""
    return suffix if suffix in CLIP_CHOICES else ".mp4"


class MotionEndpoints:
    """Listing and importing are for everybody; a motion is renamed, shared, deleted and brought
    back by the client that learned or imported it, as in the page by the browser that did."""

    def __init__(self, host: ModelHost) -> None:
        self.host = host

    def motions(self, http: gr.Request | None = None) -> Json:
        """The motions that can be given to objects.

        Returns:
            {"motions": [{"name", "phrase", "noun", "method", "base": the model it belongs to,
            "steps" of its training, "created": ISO time, "has_clip" and
            "has_mover": whether its file holds the reference and the masks of what moves in it,
            "clip_errors": of a refined one the error of predicting its clip [before, after], else
            null, "track": [[y, x], ...] of what moves in its clip, in pixels, one point a frame, or
            null}, ...], "problems": [...]}; "problems"
            has a line for each file of the library that cannot be used
        """
        entries = [told_of(motion) for motion in self.host.motions(self._visitor(http))]
        return {"motions": entries, "problems": self.host.library.problems()}

    def import_motion(
        self, file: File, name: str = "", phrase: str = "", http: gr.Request | None = None
    ) -> Json:
        """Bring a motion file into the library: one that was exported here, or the authors' own.

        Args:
            file: the .safetensors or .pt file, as an upload
            name: another name than its own, at most 80 characters
            phrase: the motion's words, for a .pt file, which does not know them

        Returns:
            the motion, as ``motions`` lists it
        """
        path = received(file, most_megabytes=self.host.settings.limits.motion_megabytes)
        by = self._visitor(http)
        return told_of(self.host.import_motion(path, name=name, phrase=phrase, by=by))

    def export_motion(self, name: str, http: gr.Request | None = None) -> Json:
        """A motion as one file, its preview inside.

        Args:
            name: its name in the library

        Returns:
            {"name", "file"}
        """
        motion = named_motion(self.host, name, self._visitor(http))
        file = self.host.library.export_file(motion, new_export_folder(motion))
        return {"name": motion.name, "file": handed_out(file)}

    def delete_motion(self, name: str, http: gr.Request | None = None) -> Json:
        """Move a motion that this client learned or imported into the trash.

        Args:
            name: its name in the library

        Returns:
            {"deleted": its name, "token": what ``restore_motion`` takes}
        """
        user = self._visitor(http)
        motion = named_motion(self.host, name, user)
        deleted = self.host.library.delete(motion.name, by=user)
        forget_exports(motion)
        return {"deleted": deleted.name, "token": deleted.token}

    def rename_motion(self, name: str, new_name: str, http: gr.Request | None = None) -> Json:
        """Give a motion that this client learned or imported another name.

        Args:
            name: its name in the library
            new_name: what the library shall call it, 1 to 80 characters

        Returns:
            the motion, as ``motions`` lists it
        """
        user = self._visitor(http)
        named = named_motion(self.host, name, user)
        return told_of(self.host.library.rename(named.name, new_name, by=user))

    def share_motion(self, name: str, shared: bool = True, http: gr.Request | None = None) -> Json:
        """Show a motion that this client learned or imported to all, or to nobody else.

        Args:
            name: its name in the library
            shared: whether others see and use it

        Returns:
            the motion, as ``motions`` lists it
        """
        user = self._visitor(http)
        named = named_motion(self.host, name, user)
        return told_of(self.host.library.share(named.name, shared, by=user))

    def restore_motion(self, token: str, http: gr.Request | None = None) -> Json:
        """Bring a motion back that this client deleted.

        Args:
            token: what ``delete_motion`` gave

        Returns:
            the motion, as ``motions`` lists it
        """
        return told_of(self.host.library.restore(token, by=self._visitor(http)))

    def _visitor(self, http: gr.Request | None) -> LibraryUser:
        return client_user(http, self.host.settings)


def named_motion(host: ModelHost, name: str, user: LibraryUser) -> Motion:
    """The motion of that name, of those that ``user`` sees; RequestError for a file's name."""
    if "/" in name or "\\" in name or name.endswith(".safetensors"):
        raise RequestError(f'"{name[:60]}" is a file; use the name of a motion in the library')
    return host.library.seen_by(user).find(name)


def told_of(motion: Motion) -> Json:
    """What callers are told of a motion: all but where it lies here."""
    return {key: value for key, value in motion_entry(motion).items() if key not in ENTRY_PATHS}
