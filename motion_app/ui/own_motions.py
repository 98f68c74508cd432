"""What a person may do with the motions that are theirs: the cards of the library and the dialog in
which one is chosen do the same, and refuse the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motion_app.errors import MotionFileError
from motion_app.library.library import Library
from motion_app.library.owners import LibraryUser, Ownership
from motion_app.library.trash import DeletedMotion
from motion_app.scene import Motion
from motion_app.ui.api.files import forget_exports
from motion_app.ui.markup import Texts


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
