"""The methods, their ablations and the kinds of jobs are written down once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from motion_app.benchmark.variants import (
    DEFAULT_WITHOUT,
    PACK_METHOD,
    REFERENCE_METHODS,
    UNMASKED_METHOD,
)
from motion_app.engine.visibility import OPENS
from motion_app.jobs import runners
from motion_app.jobs.folder import ACTIVE, REPEATABLE, TERMINAL
from motion_app.jobs.manifest import KINDS
from motion_app.methods import (
    ABLATIONS,
    LEARNED,
    METHOD_TABLE,
    METHODS,
    PACK_ABLATIONS,
    PACK_METHODS,
    TOKEN_METHODS,
    method_title,
)
from motion_app.scene import Motion
from motion_app.settings import ROOT
from motion_app.training.config import PARTS
from motion_app.ui.markup import Texts

WORDS = {
    "METHODS",
    "TOKEN_METHODS",
    "PACK_METHODS",
    "ABLATIONS",
    "PACK_ABLATIONS",
    "SCOPES",
}


def constants() -> list[tuple[str, str, list[str]]]:
    """(file, name, strings) of every collection of strings at the top level of a module; of a
    mapping its keys."""
    found = []
    for path in sorted((ROOT / "motion_app").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
                continue
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            value = node.value
            inside = value.keys if isinstance(value, ast.Dict) else getattr(value, "elts", [])
            words = [
                part.value
                for part in inside
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            if isinstance(target, ast.Name):
                found.append((path.relative_to(ROOT / "motion_app").as_posix(), target.id, words))
    return found


def test_a_name_of_the_method_table_has_one_value():
    places = {(file, name) for file, name, _ in constants() if name in WORDS}
    assert places == {("methods.py", name) for name in WORDS}


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (METHODS, {"methods.py", "benchmark/suites.py"}),
        ((*ABLATIONS, *PACK_ABLATIONS), {"methods.py", "training/config.py"}),
        ((*ACTIVE, *TERMINAL), {"jobs/folder.py"}),
    ],
)
def test_a_list_of_them_is_written_nowhere_else(words, allowed):
    lists = {
        file
        for file, name, written in constants()
        if len(set(written)) > 1 and set(written) <= set(words)
    }
    chosen = {"benchmark/variants.py", "engine/steering.py", "engine/visibility.py"}
    assert lists - chosen <= allowed


def test_what_other_parts_choose_is_in_the_table():
    assert set(LEARNED) | set(REFERENCE_METHODS) <= set(METHODS)
    assert {PACK_METHOD, UNMASKED_METHOD} <= set(METHODS)
    assert set(DEFAULT_WITHOUT) <= set(ABLATIONS)
    assert tuple(OPENS) == ABLATIONS and PARTS == PACK_ABLATIONS
    for method in METHOD_TABLE.values():
        assert method.without <= {*ABLATIONS, *PACK_ABLATIONS}
    assert set(REPEATABLE) == set(TERMINAL) - {"done"}


def test_a_motion_file_holds_what_its_method_needs():
    for name, method in METHOD_TABLE.items():
        motion = Motion("hop", "hops", Path("hop.safetensors"), "", method=name)
        assert motion.has_pack == method.pack == (name in PACK_METHODS)
        if method.tokens or method.pack:
            assert motion.has_tokens == method.tokens == (name in TOKEN_METHODS)
    strange = Motion("hop", "hops", Path("hop.safetensors"), "", method="their own")
    assert strange.has_tokens and not strange.has_pack and method_title("their own") == "their own"


def test_a_method_has_one_title():
    texts = Texts("en")
    for name in METHODS:
        assert texts(f"video.method_{name}") == method_title(name)


def test_jobs_of_the_page_and_of_a_manifest_are_of_the_same_kinds():
    assert {runners.GENERATE, runners.TRAIN} <= set(KINDS)
