"""The dialog in which an object's motion is chosen: its cards, their previews, and one's own
motions renamed, shared or hidden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motion_app.host import ModelHost
from motion_app.library.owners import LibraryUser
from motion_app.ui.markup import Texts
from motion_app.ui.motion_cards import cards_html, preview_key
from motion_app.ui.own_motions import change_motion, hidden_ones, motion_asked_for
from motion_app.ui.pictures import Previews


class MotionDialog:
    """What stands in it, for whoever asks."""

    def __init__(self, host: ModelHost, texts: Texts, previews: Previews) -> None:
        self.host, self.texts, self.previews = host, texts, previews

    def cards(self, user: LibraryUser) -> str:
        """The motions that ``user`` may choose from."""
        motions = self.host.motions(user)
        return cards_html(
            motions,
            self.texts,
            self.host.library.seen_by(user).whose,
            learning=self.host.learns,
            private=hidden_ones(motions),
        )

    def preview(self, values: Mapping[str, Any]) -> str:
        """The address of a motion's preview by its digest, for a card that is seen; "" for none."""
        digest = str(values.get("digest"))  # told to those who may see the motion
        named = [item for item in self.host.library.list() if preview_key(item) == digest]
        return self.previews.motion(named[0], still=bool(values.get("still"))) if named else ""

    def change(self, user: LibraryUser, values: Mapping[str, Any]) -> None:
        """What a button beside one of ``user``'s own motions says."""
        library = self.host.library.seen_by(user)
        change_motion(library, motion_asked_for(library, values), values, user, self.texts)
