"""Every text of the page in every language, from one table: ``texts.csv``.

A row is ``key,en,zh``. Keys are ``tab.thing`` in words; ``{name}`` in a text is filled in when it
is shown. A page is built once for each language (the header links them), so that a text is never
looked up twice and never half translated.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

TABLE = Path(__file__).parent / "static" / "texts.csv"
LANGUAGES = {"en": "English", "zh": "中文"}


@dataclass(frozen=True)
class Texts:
    """The texts of one ``language``: ``texts("transfer.upload")``."""

    language: str = "en"

    def __call__(self, key: str, **values: object) -> str:
        """The text of ``key`` with ``values`` in its places; KeyError for a key the table lacks."""
        text = _table()[key][self.language]
        return text.format(**values) if values else text


@cache
def _table() -> MappingProxyType[str, dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return MappingProxyType({row["key"]: {name: row[name] for name in LANGUAGES} for row in rows})
