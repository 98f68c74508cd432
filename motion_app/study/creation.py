"""A study from its sources, in one step: what ``study create`` and the page's form do.

What raters read must not name what is compared.

A name counts as a whole, in capitals or not; blanks, hyphens and underscores are alike in it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from motion_app.errors import RequestError
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.study.answers import Study
from motion_app.study.archive import StudyArchive
from motion_app.study.items import PreparedItems, VideoChoice, prepare_items
from motion_app.study.plan import StudyConfig
from motion_app.study.sources import SourceItem
from motion_app.wording import lookalike

GOLD_EVERY = 20  # main items for each gold one, where their number is not given
SHORTEST = 3  # letters; "A" and "B" name nothing, and would be found in every sentence
ORDINARY = frozenset({"both", "none"})  # methods of this app whose names are everyday words


@dataclass(frozen=True)
class CreatedStudy:
    """A new study and how its files were made alike."""

    study: Study
    prepared: PreparedItems


def create_study(
    folder: Path | str,
    sources: Sequence[SourceItem],
    *,
    title: str,
    database: str | None = None,
    dataset: str | None = None,
    video: VideoChoice | None = None,
    practice: int = 2,
    gold: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    on_item: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> CreatedStudy:
    """Make the study in ``folder``; its methods are those of the first item, in that order.

    ``gold`` None: one for every 20 items. ``database`` and ``dataset`` as in
    ``StudyArchive.create``. ``on_item`` is told how many items are ready, and of how many.
    ``options`` are fields of ``StudyConfig``. RequestError or MediaError for what cannot be used,
    and for a text that would tell raters a method's name; then nothing is left behind.
    """
    folder = Path(folder)
    if (folder / "study.json").exists() or (folder / "media").exists():
        raise RequestError(f"{folder} holds a study already; choose another folder")
    if not sources:
        raise RequestError("a study needs at least one item")
    if practice < 0 or (gold or 0) < 0:
        raise RequestError("the numbers of practice and gold items are 0 or more")
    config = StudyConfig.build(title=title, methods=tuple(sources[0].videos), **options)
    for source in sources:
        _check_source(source, config)
    check_blind(config, sources, folder=folder.resolve().name)
    main = sum(source.kind == "main" for source in sources)
    if not main:
        raise RequestError("all items are gold or practice; at least one is needed to compare")
    try:
        prepared = prepare_items(
            sources,
            folder / "media",
            config.methods,
            choice=video,
            practice=practice,
            gold=-(-main // GOLD_EVERY) if gold is None else gold,
            seed=config.seed,
            limits=limits,
            on_item=on_item,
        )
        archive = StudyArchive.create(
            folder,
            config,
            prepared.items,
            video=prepared.video,
            database=database,
            dataset=dataset,
        )
    except BaseException:
        shutil.rmtree(folder / "media", ignore_errors=True)
        for left in folder.glob("study.sqlite*"):
            left.unlink()
        raise
    return CreatedStudy(Study(archive), prepared)


def _check_source(source: SourceItem, config: StudyConfig) -> None:
    """A mistake is told before hours of encoding."""
    if set(source.videos) != set(config.methods):
        odd = ", ".join(sorted(set(source.videos) ^ set(config.methods)))
        raise RequestError(
            f'the item "{source.name}" must have one video of each method, as the first item; '
            f"missing or unknown: {odd}" + lookalike(config.methods, source.videos)
        )
    if not source.references or not source.caption:
        raise RequestError(f'the item "{source.name}" needs a reference clip and a caption')
    if source.kind != "main" and source.answer not in config.methods:
        raise RequestError(
            f'the {source.kind} item "{source.name}" needs the method that is its right answer, '
            f'got "{source.answer or ""}"' + lookalike(config.methods, [source.answer or ""])
        )


def end_of_day(text: str) -> float:
    """The end of a day written as 2027-01-31, here, in unix seconds. RequestError for another."""
    try:
        day = date.fromisoformat(text.strip())
    except ValueError as error:
        raise RequestError(f'"{text[:40]}" is no date; write it as 2027-01-31') from error
    return datetime.combine(day + timedelta(days=1), time()).astimezone().timestamp()


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
        ("the contact", config.contact or ""),
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
