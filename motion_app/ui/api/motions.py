"""The endpoints of the library of motions."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import gradio as gr

from motion_app.errors import RequestError
from motion_app.host import ModelHost
from motion_app.library.library import LibraryUser, motion_entry, token_of
from motion_app.scene import Motion
from motion_app.ui.api.files import File, Json, handed_out, received
from motion_app.ui.visitor import client_of, library_user

SERVER_PATHS = ("path", "preview")  # what the command line shows and a stranger need not know


class MotionEndpoints:
    """Listing and importing are for everybody; a motion is deleted and brought back by the client
    that learned or imported it, as in the page by the browser that did."""

    def __init__(self, host: ModelHost) -> None:
        self.host = host

    def motions(self) -> Json:
        """The motions that can be given to objects.

        Returns:
            {"motions": [{"name", "phrase", "noun", "method", "base": the model it belongs to,
            "steps" of its training, "created": ISO time, "track": [[y, x], ...] of what moves in
            its clip, in pixels, one point a frame, or null}, ...], "problems": [...]}; "problems"
            has a line for each file of the library that cannot be used
        """
        entries = [_entry(motion) for motion in self.host.motions()]
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
        owner = self._visitor(http).owner
        return _entry(self.host.import_motion(path, name=name, phrase=phrase, owner=owner))

    def export_motion(self, name: str) -> Json:
        """A motion as one file, its preview inside.

        Args:
            name: its name in the library

        Returns:
            {"name", "file"}
        """
        folder = tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))
        motion = self._named(name)
        file = self.host.library.export_file(motion, Path(folder))
        return {"name": motion.name, "file": handed_out(file)}

    def delete_motion(self, name: str, http: gr.Request | None = None) -> Json:
        """Move a motion that this client learned or imported into the trash.

        Args:
            name: its name in the library

        Returns:
            {"deleted": its name, "token": what ``restore_motion`` takes}
        """
        deleted = self.host.library.delete(self._named(name).name, by=self._visitor(http))
        return {"deleted": deleted.name, "token": deleted.token}

    def restore_motion(self, token: str, http: gr.Request | None = None) -> Json:
        """Bring a motion back that this client deleted.

        Args:
            token: what ``delete_motion`` gave

        Returns:
            the motion, as ``motions`` lists it
        """
        return _entry(self.host.library.restore(token, by=self._visitor(http)))

    def _named(self, name: str) -> Motion:
        if "/" in name or "\\" in name or name.endswith(".safetensors"):
            raise RequestError(f'"{name[:60]}" is a file; use the name of a motion in the library')
        return self.host.library.find(name)

    def _visitor(self, http: gr.Request | None) -> LibraryUser:
        """A client is known by its session; one without is nobody in particular."""
        return library_user(token_of(client_of(http)), http, self.host.settings)


def _entry(motion: Motion) -> Json:
    return {key: value for key, value in motion_entry(motion).items() if key not in SERVER_PATHS}
