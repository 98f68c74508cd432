"""What a person may do with the motions that are theirs: the cards of the library and the dialog in
which an object's motion is chosen do the same, and refuse the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motion_app.errors import MotionFileError
from motion_app.host import ModelHost
from motion_app.library.library import Library
from motion_app.library.owners import LibraryUser, Ownership
from motion_app.library.trash import DeletedMotion
from motion_app.scene import Motion
from motion_app.ui.api.files import forget_exports
from motion_app.ui.markup import Texts
from motion_app.ui.motion_cards import cards_html, preview_key
from motion_app.ui.pictures import Previews


def motion_asked_for(library: Library, values: Mapping[str, Any]) -> Motion:
    """The motion with the "digest" that a button of a page sent; MotionFileError where it is gone,
    or not for who sees the ``library``."""
    digest = str(values.get("digest"))
    motion = next((m for m in library.list() if m.digest == digest), None)
    if motion is None:
        raise MotionFileError("this motion is not in the library any more; reload the page")
    return motion


def change_motion(
    library: Library, motion: Motion, values: Mapping[str, Any], user: LibraryUser, texts: Texts
) -> DeletedMotion | None:
    """Do "what" is asked to ``motion``: "rename" it to "name", "share", "hide" or "delete" it, of
    which alone something is returned. ``library`` is as ``user`` sees it. MotionFileError for one
    that is not theirs."""
    what = values.get("what")
    whose = library.whose(motion)
    if whose != "mine":
        why = "not_yours" if whose == "shared" else "not_deletable"
        raise MotionFileError(texts(f"motions.{why}", name=motion.name))
    deleted = None
    if what == "rename":
        library.rename(motion.path, str(values.get("name") or ""), by=user)
    elif what in ("share", "hide"):
        library.share(motion.path, what == "share", by=user)
    elif what == "delete":
        deleted = library.delete(motion.path, by=user)
    else:
        raise MotionFileError(f"a motion cannot be told to {what}; reload the page")
    if what != "share":
        forget_exports(motion)
    return deleted


def hidden_ones(motions: list[Motion]) -> dict[str, bool]:
    """Whether each of ``motions`` that is somebody's is private, by its digest."""
    ownerships = {motion.digest: Ownership.read(motion.path) for motion in motions}
    return {digest: own.private for digest, own in ownerships.items() if own.mark}


class MotionDialog:
    """Its cards and their previews, for whoever asks, and one's own motions changed."""

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
