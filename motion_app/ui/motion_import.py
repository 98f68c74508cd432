"""An uploaded motion file on its way into the library: our own form, or the authors'. No gradio."""

from __future__ import annotations

from pathlib import Path

from motion_app.errors import RequestError
from motion_app.library import read_motion
from motion_app.ownership import keep_owner
from motion_app.scene import NEUTRAL_PHRASE, Motion
from motion_app.ui.host import ModelHost


def bring_in(
    host: ModelHost, file: Path, *, name: str = "", phrase: str = "", owner: str = ""
) -> Motion:
    """Check ``file`` against the loaded model and put it into the library as ``owner``'s.

    ``name`` "" keeps its own; a published ``.pt`` knows no name and no ``phrase`` of its own: its
    file's name and the neutral phrase are taken. Raises MotionFileError.
    """
    if file.suffix.lower() == ".pt":
        return _bring_published(host, file, name=name, phrase=phrase, owner=owner)
    if phrase.strip():
        raise RequestError("an exported motion keeps its own phrase; leave that field empty")
    geometry = host.geometry()
    return host.library.import_file(
        file,
        name=name,
        base=host.base(),
        layers=geometry.layers,
        width=geometry.width_tokens,
        limits=host.settings.limits,
        owner=owner,
    )


def _bring_published(host: ModelHost, file: Path, *, name: str, phrase: str, owner: str) -> Motion:
    """The authors' file, bound to the loaded model."""
    from motion_app.engine.motion_tokens import convert_published

    engine = host.engine()
    chosen = name.strip() or file.stem
    out = host.library.new_path(chosen)
    out.parent.mkdir(parents=True, exist_ok=True)
    convert_published(
        file,
        out,
        layers=engine.geometry.layers,
        width=engine.geometry.width_tokens,
        base=engine.fingerprint,
        name=chosen,
        phrase=phrase.strip() or NEUTRAL_PHRASE,
        limits=host.settings.limits,
    )
    keep_owner(out, owner)
    return read_motion(out)
