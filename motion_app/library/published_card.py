"""The card of a repository of motions: a table between two marks, and around it whatever its owner
writes."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from urllib.parse import quote

from motion_app.scene import Motion

CARD = "README.md"
CLIP = ".mp4"
BEGIN, END = "<!-- motions -->", "<!-- /motions -->"
HEAD = """---
pipeline_tag: image-to-video
tags:
- motion-transfer
---
# {title}

Motions for pictures: each was learned from a clip and can be given to any object of a picture,
by the base model it was learned on.

"""


def card_text(
    repository: str, motions: Sequence[tuple[str, Motion]], files: Collection[str], *, told: str
) -> str:
    """The card with a table of ``motions``, (path in the repository, motion) each. ``files``: the
    paths of all that is there; ``told``: the card that is, whose text beside the table stays, ""
    for none."""
    table = f"{BEGIN}\n{_table(repository, motions, files)}\n{END}"
    if not told.strip():
        return f"{HEAD.format(title=repository.partition('/')[2])}{table}\n"
    start, stop = told.find(BEGIN), told.find(END)
    if 0 <= start < stop:
        return told[:start] + table + told[stop + len(END) :]
    return f"{told.rstrip()}\n\n{table}\n"


def _table(repository: str, motions: Sequence[tuple[str, Motion]], files: Collection[str]) -> str:
    rows = [
        "| motion | learned from | words | method | base model | clip |",
        "|---|---|---|---|---|---|",
    ]
    for file, motion in motions:
        clip = str(PurePosixPath(file).with_suffix(CLIP))
        link = f"[clip]({quote(clip)})" if clip in files else ""
        cells = (
            *(_cell(text) for text in (motion.name, motion.noun, f"… {motion.phrase}")),
            *(_cell(motion.method), f"`{motion.base[:12]}`", link),
        )
        rows.append(f"| {' | '.join(cells)} |")
    first = motions[0][1].name.replace('"', "")
    return "\n".join(
        (
            *rows,
            "",
            "```",
            f'python -m motion_app motions pull "{_plain(first)}" --repo {repository}',
            "```",
        )
    )


def _cell(text: str) -> str:
    """Words of strangers as nothing but words."""
    return re.sub(r"([\\`*_{}\[\]<>|#~!&])", r"\\\1", " ".join(text.split()))


def _plain(text: str) -> str:
    return re.sub(r"[`$\\]", "", text)
