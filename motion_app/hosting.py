"""Where the app runs: on somebody's own machine or on a hosted Space, and what follows from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from motion_app.settings import Settings, load_settings

TRUE = ("1", "t", "true")
TOO_LONG_FOR_ZERO_GPU = (
    "learning a motion takes longer than the minutes of GPU that ZeroGPU lends to a call; run the "
    "app on your own machine, or train with the command line and import the file"
)


@dataclass(frozen=True)
class Hosting:
    """``space``: the Space's owner/name, "" on a machine of one's own. ``zero_gpu``: its GPU is
    lent to single calls."""

    space: str = ""
    zero_gpu: bool = False

    @classmethod
    def detect(cls, environment: Mapping[str, str] = os.environ) -> Hosting:
        """From the variables that a Space sets."""
        space = environment.get("SPACE_ID", "")
        lent = environment.get("SPACES_ZERO_GPU", "").lower() in TRUE
        return cls(space, zero_gpu=bool(space) and lent)

    def settings(self, **given: object) -> Settings:
        """The environment's settings, with ``given`` on top. On a Space, where these are not set,
        the page is served to everybody and learning is off, which would keep the device from all
        others; with ZeroGPU it is off for good."""
        settings = load_settings(**given)
        if not self.space:
            return settings
        own: dict[str, Any] = {"host": "0.0.0.0", "training": False}
        changes = {key: value for key, value in own.items() if key not in settings.model_fields_set}
        if self.zero_gpu:
            changes["training"] = False
        return settings.model_copy(update=changes)
