"""What raters read must not name what is compared.

A name counts as a whole, in capitals or not; blanks, hyphens and underscores are alike in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from motion_app.errors import RequestError
from motion_app.study.plan import StudyConfig
from motion_app.study.sources import SourceItem

SHORTEST = 3  # letters; "A" and "B" name nothing, and would be found in every sentence
ORDINARY = frozenset({"both", "none"})  # methods of this app whose names are everyday words


def named_method(text: str, methods: Iterable[str]) -> str | None:
    """The first of ``methods`` that ``text`` names; None where it names none."""
    words = _alike(text)
    for method in methods:
        name = _alike(method)
        if len(name) < SHORTEST or name in ORDINARY:
            continue
        # Letters of ASCII alone end a name: Chinese has no blanks around it.
        if re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", words):
            return method
    return None


def _alike(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", text.casefold()).strip()


def check_blind(config: StudyConfig, sources: Sequence[SourceItem], *, folder: str) -> None:
    """RequestError where a text that raters see names a method. ``folder``: the name of the study's
    folder, which is in the address of its page."""
    shown = [
        ("the title", config.title),
        ("the consent", config.consent),
        ("the completion code", config.completion_code or ""),
        ("the folder's name, which is in the links,", folder),
        *((f'the caption of "{source.name}"', source.caption) for source in sources),
    ]
    for where, text in shown:
        told = named_method(text, config.methods)
        if told is not None:
            raise RequestError(
                f'raters see {where} and it names the method "{told}"; '
                "change the text, or call the method something else"
            )
