"""No process that may be large is copied. One that has loaded models may be too large for it: the
system refuses with "Cannot allocate memory"."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from test_imports import FILES, ROOT, tree_of

# Programs of their own, that are small when they copy themselves.
FORKS = {"motion_app/media/sandbox.py", "tests/jobs/killed_jobs.py", "tests/fake_spaces/spaces.py"}
OPTIONS = {"preexec_fn", "user", "group", "extra_groups"}  # for which subprocess copies
PECULIAR = {"preexec_fn", "extra_groups"}  # those of them that nothing else has


def copies_itself(path: Path) -> list[str]:
    """Where a file copies the process it runs in, or keeps options for it."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Dict):
            keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
            found += sorted(keys & PECULIAR)
        elif isinstance(node, ast.Call):
            called, named = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
            program = called.startswith("subprocess.") and named & OPTIONS
            context = called.endswith("get_context") and [ast.unparse(a) for a in node.args]
            if called == "os.fork" or program or named & PECULIAR or context == ["'fork'"]:
                found.append(called)
    return found


def test_no_process_that_may_be_large_is_copied():
    forking = {str(path.relative_to(ROOT)) for path in FILES if copies_itself(path)}
    assert forking == FORKS


@pytest.mark.parametrize(
    "line",
    [
        "child = os.fork()",
        "subprocess.run(command, user=OWNER)",
        "Popen(command, preexec_fn=limit)",
        "options |= {'user': OWNER, 'group': OWNER, 'extra_groups': []}",
        "mp.get_context('fork').Process()",
    ],
)
def test_the_law_catches_a_breach(tmp_path: Path, line: str):
    file = tmp_path / "bad.py"
    file.write_text(line)
    assert copies_itself(file)


def test_the_law_lets_a_namesake_be(tmp_path: Path):
    file = tmp_path / "good.py"
    file.write_text("connect(user='study', group=1)\nmp.get_context('forkserver')\n")
    assert not copies_itself(file)
