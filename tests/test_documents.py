"""What the documents say of the repository is so: files, headings, modules, commands, sections."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from motion_app.__main__ import build_parser
from motion_app.cli.pocket import train_pocket

ROOT = Path(__file__).resolve().parent.parent
CARDS = [ROOT / "checkpoints" / "pocket" / "README.md"]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")), *CARDS]
PACKAGE = ROOT / "motion_app"

LINK = re.compile(r"\]\(([^)\s]+)\)")
MODULE_PATH = re.compile(r"\b(?:motion_app|tests)/[\w/]*(?:\.\w+)?")
MODULE_NAME = re.compile(r"\bmotion_app(?:\.\w+)+")
COMMAND = re.compile(r"(?:python -m|--module) motion_app (.*)")
CITATION = re.compile(r"\b(method|synmotion)\.md\b")
CITED_SECTIONS = re.compile(r"\b(method|synmotion)\.md,? sections? \d+(?:(?:,| and| to) \d+)*")

documents = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)


def anchors(text: str) -> set[str]:
    """What a link can name in a page, as GitHub makes it of the page's headings."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), flags=re.M)
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in plain}


def sections(document: Path) -> set[str]:
    """The numbers of a document's sections."""
    return set(re.findall(r"^## (\d+)\. ", document.read_text("utf-8"), flags=re.M))


@documents
def test_every_link_leads_somewhere(document: Path) -> None:
    text = document.read_text("utf-8")
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name} links to {link}, and there is no {path}"
        if anchor:
            found = anchors(target.read_text("utf-8"))
            assert anchor in found, f"{document.name} links to {link}; headings: {sorted(found)}"


@documents
def test_every_module_named_exists(document: Path) -> None:
    text = document.read_text("utf-8")
    for path in MODULE_PATH.findall(text):
        assert (ROOT / path).exists(), f"{document.name} names {path}, which is not there"
    for name in MODULE_NAME.findall(text):
        parts = name.split(".")[1:]
        first = PACKAGE / parts[0]
        assert first.is_dir() or first.with_suffix(".py").is_file(), f"{document.name}: {name}"


def commands(text: str) -> Iterator[list[str]]:
    """The words behind every ``python -m motion_app`` of a page, without comments."""
    joined = re.sub(r"\\\n\s*", " ", text)
    code = re.findall(r"```[^\n]*\n(.*?)```", joined, flags=re.S)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", joined, flags=re.S))
    for line in (line for part in (*code, *inline) for line in part.splitlines()):
        for found in COMMAND.findall(line):
            with contextlib.suppress(ValueError):
                yield shlex.split(found, comments=True)
                continue
            yield shlex.split(found.rstrip("'\""), comments=True)  # it stood in quotes itself


@documents
def test_every_command_is_one(document: Path) -> None:
    for words in commands(document.read_text("utf-8")):
        said = [word for word in words if word not in ("&", ">", "||", "&&", "…")]
        options, rest = build_parser().parse_known_args(said)
        if options.run is train_pocket:  # its options are the trainer's own
            import argparse

            from motion_app.pocket.train import add_arguments

            parser = argparse.ArgumentParser(exit_on_error=False)
            add_arguments(parser)
            _, rest = parser.parse_known_args(rest)
        assert not rest, f"{document.name}: motion_app {' '.join(words)}: unknown {rest}"


def sources() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")])


def test_every_document_cited_is_in_the_repository() -> None:
    for path in sources():
        if path.name == Path(__file__).name:
            continue
        text = path.read_text("utf-8")
        for found in CITATION.finditer(text):
            before = text[: found.start()]
            assert before.endswith("docs/"), (
                f"{path.relative_to(ROOT)} cites {found.group()}; write docs/{found.group()}"
            )
        for found in re.findall(r"\bdocs/[\w.]+\.md", text):
            assert (ROOT / found).is_file(), f"{path.relative_to(ROOT)} cites {found}"


def test_every_section_cited_exists() -> None:
    counted = 0
    for path in sources():
        text = " ".join(path.read_text("utf-8").split())
        for found in CITED_SECTIONS.finditer(text):
            known = sections(ROOT / "docs" / f"{found.group(1)}.md")
            for number in re.findall(r"\d+", found.group()):
                assert number in known, f"{path.relative_to(ROOT)}: {found.group()}"
                counted += 1
    assert counted >= 10


def test_a_broken_command_or_link_is_found() -> None:
    assert list(commands("`python -m motion_app motions list`")) == [["motions", "list"]]
    page = '```\nrun \\\n  "python -m motion_app verify a.mp4"\npython -m motion_app x  # said\n```'
    assert list(commands(page)) == [["verify", "a.mp4"], ["x"]]
    assert anchors("# RMPM's masks, by step\n```\n# no\n```") == {"rmpms-masks-by-step"}
