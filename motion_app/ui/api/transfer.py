"""The endpoint that does what the Transfer tab does with one press: clicks in a picture, a clip or
a motion for each thing, one job that learns and makes the video."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import gradio as gr
from gradio.utils import get_upload_folder
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from motion_app.errors import RequestError, fault_in_words
from motion_app.geometry import FIT_MODES
from motion_app.host import ModelHost
from motion_app.jobs import runners
from motion_app.media.files import read_picture
from motion_app.request.request import MAX_STRENGTH
from motion_app.scene import LONGEST_TEXT, Click, Options
from motion_app.training.inputs import MOST_STEPS
from motion_app.ui.api.files import File, Json, received
from motion_app.ui.transfer.draft import request_of
from motion_app.ui.transfer.from_clicks import ClickedThing, scene_of_clicks
from motion_app.ui.transfer.kept_clips import keep_clip
from motion_app.ui.transfer.lessons import LONGEST_WORDS, NOUN, asked_of_job
from motion_app.ui.transfer.object_draft import LONGEST_NAME
from motion_app.ui.visitor import client_of, client_user, quota_address
from motion_app.wording import NEUTRAL_PHRASE


class ThingEntry(BaseModel):
    """One of ``things`` as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clicks: tuple[tuple[float, float, Literal[0, 1]], ...]
    clip: File | None = None
    path: tuple[tuple[float, float], ...] = ()
    motion: str | None = Field(default=None, max_length=LONGEST_TEXT)
    name: str = Field(default="", max_length=LONGEST_NAME)
    strength: float = Field(default=1.0, ge=0, le=MAX_STRENGTH, allow_inf_nan=False)
    called: str = Field(default="", max_length=LONGEST_WORDS)
    noun: str = Field(default=NOUN, max_length=LONGEST_WORDS)
    phrase: str = Field(default=NEUTRAL_PHRASE, max_length=LONGEST_WORDS)
    method: str = Field(default="", max_length=LONGEST_WORDS)
    steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)

    @classmethod
    def read(cls, entry: Any, number: int) -> ThingEntry:
        """RequestError for what is none."""
        try:
            return cls.model_validate(entry)
        except ValidationError as error:
            known = tuple(cls.model_fields)
            told = "; ".join(fault_in_words(fault, known) for fault in error.errors())
            raise RequestError(f"thing {number}: {told}") from error


class TransferEndpoint:
    """One endpoint, which marks the things itself."""

    def __init__(self, host: ModelHost) -> None:
        self.host = host
        self.limits = host.settings.limits

    def transfer(
        self,
        picture: File,
        things: list[Json],
        options: Json | None = None,
        fit: str = "crop",
        badge: bool = False,
        http: gr.Request | None = None,
    ) -> Json:
        """Click things in a picture and give each a motion, or a clip that it is learned from
        first; one job learns and makes the video. Returns at once; follow it with ``job``.

        Args:
            picture: the picture, as an upload or a data: URI
            things: [{"clicks": [[x, y, 1 or 0], ...] in pixels of the picture from its upper left
                corner, 1 on the thing, 0 beside it, "clip": an upload, or "motion": a name of
                ``motions``, or "path": [[x, y], ...] in the same pixels, where it goes from the
                first click on, or none of them for text alone, "name": what it is, "strength": 0 to
                4, 1 as learned, and of what is learned "called": what the library shall call it,
                "noun": what moves in the clip, "phrase": its motion in words, "method":
                "fleximmt", or where the model has an encoder "encoded" or "encoded-refined",
                "steps": 1 to 20000}, ...]; all but the clicks may be left out
            options: {"seed": 0 or more, "steps": 1 to 1000 denoising steps, "guidance": 0 or more,
                "method"} and others of a request; each may be left out
            fit: how the picture comes into the model's frame: "crop", "pad" or "stretch"
            badge: a visible "AI-generated" in a corner

        Returns:
            {"job": 32 hexadecimal digits that only the caller knows, "state", "learn": the names of
            the motions that are learned first}
        """
        self.host.jobs.check_unattended()
        if fit not in FIT_MODES:
            raise RequestError(f"unknown fit {fit[:40]!r}; choose one of {', '.join(FIT_MODES)}")
        if not things:
            raise RequestError("nothing was clicked; give a thing with at least one click")
        asked = Options(**(options or {}))
        file = received(picture, most_megabytes=self.limits.image_megabytes)
        draft = scene_of_clicks(
            read_picture(file, limits=self.limits).pixels,
            [
                self._thing(ThingEntry.read(entry, number), number)
                for number, entry in enumerate(things, start=1)
            ],
            fit=fit,
            geometry=self.host.geometry(),
            segment=self.host.segmenter().segment,
            library=self.host.library.seen_by(client_user(http, self.host.settings)),
            ways=self.host.ways,
            limits=self.limits,
        )
        learn, files = asked_of_job(draft.lessons)
        row = self.host.jobs.submit(
            runners.GENERATE,
            {"request": request_of(draft, asked), "badge": badge, "learn": learn},
            owner=client_of(http),
            address=quota_address(http, self.host.settings),
            files=files,
        )
        names = [lesson.name for lesson in draft.lessons]
        return {"job": row.id, "state": row.state, "learn": names}

    def _thing(self, entry: ThingEntry, number: int) -> ClickedThing:
        if entry.motion is not None and Path(entry.motion).name != entry.motion:
            raise RequestError(
                f"the motion of thing {number} is a file; use the name of a motion in the library"
            )
        kept, name = None, ""
        if entry.clip is not None:
            upload = received(entry.clip, most_megabytes=self.limits.clip_megabytes)
            name = upload.name
            kept = keep_clip(Path(get_upload_folder()), upload, name)  # by what is in it
        return ClickedThing(
            clicks=tuple(Click(x, y, positive=label == 1) for x, y, label in entry.clicks),
            clip=kept,
            clip_name=name,
            **entry.model_dump(exclude={"clicks", "clip"}),
        )
