"""Laws of ``study …`` on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_study_items import draw_items

from motion_app.__main__ import main
from motion_app.study.answers import Study
from motion_app.study.links import new_id
from motion_app.study.records import Answer
from motion_app.study.synthetic_raters import DirectClient

ROOT = Path(__file__).resolve().parents[2]


def call(capsys, *arguments: object) -> tuple[int, dict, str]:
    code = main([str(argument) for argument in arguments])
    came = capsys.readouterr()
    return code, json.loads(came.out.splitlines()[-1]) if code == 0 else {}, came.err


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A study of two items and two raters, answered in full."""
    folder = tmp_path_factory.mktemp("command")
    source = draw_items(folder / "items", 2)
    created = ["study", "create", source, "--out", folder / "study", "--title", "A <study>"]
    created += ["--raters", "2", "--gold", "0", "--practice", "0", "--size", "48x32"]
    created += ["--fps", "8", "--frames", "8", "--questions", "MF,AC", "--seed", "3"]
    assert main([str(argument) for argument in created]) == 0
    store = Study.open(folder / "study")
    for _ in range(2):
        client = DirectClient(store)
        client.enter()
        for number in range(client.screens()):
            for question in store.archive.config.asked:
                client.answer(Answer(new_id(), number, question, 1, (1.0, 1.0)))
        client.finish()
    store.close()
    return folder / "study"


def test_a_study_is_made_answered_reported_and_exported(study, tmp_path, capsys):
    code, _, said = call(capsys, "study", "report", study, "--out", tmp_path / "r.html")
    assert code == 2 and "hidden until the study is unblinded" in said
    code, _, said = call(capsys, "study", "export", study, "--out", tmp_path / "out")
    assert code == 2 and not (tmp_path / "out").exists()
    code, result, _ = call(
        capsys, "study", "report", study, "--unblind", "--out", tmp_path / "r.html"
    )
    assert code == 0 and result["raters"] == 2 and result["answers"] == 2 * 3 * 2
    assert sum(float(cells[0]) for cells in result["percent"].values()) == 100
    assert "A &lt;study&gt;" in (tmp_path / "r.html").read_text()
    code, result, _ = call(capsys, "study", "export", study, "--out", tmp_path / "out")
    assert code == 0 and len(result["files"]) == 5
    assert all(Path(path).stat().st_size > 100 for path in result["files"])
    code, result, _ = call(
        capsys, "study", "report", study, "--without", "1", "--out", tmp_path / "r.html"
    )
    assert result["raters"] == 1 and "left out: 1." in result["counted"]
    code, result, _ = call(capsys, "study", "report", study, "--out", tmp_path / "r.html")
    assert result["raters"] == 1  # until somebody says otherwise
    code, result, _ = call(
        capsys, "study", "report", study, "--analysis", "finished", "--out", tmp_path / "r.html"
    )
    assert result["raters"] == 2 and "those who finished (chosen after" in result["counted"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "nowhere", "--out", "x", "--title", "t"], "neither a folder"),
        (["create", ".", "--out", "x", "--title", "t", "--size", "big"], "576x384"),
        (["report", "nowhere"], "study create"),
        (["export", "nowhere", "--out", "x", "--without", "a"], "rater numbers"),
        (["simulate", "--methods", "1"], "2 to 8"),
        (["paint"], "invalid choice"),
    ],
)
def test_a_mistake_is_exit_code_2_and_one_line(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = call(capsys, "study", *arguments)
    assert code == 2 and said in error and error.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_the_study_starts_without_torch_gradio_or_the_statistics():
    heavy = ("torch", "gradio", "statsmodels", "plotly", "pyarrow", "alembic", "pandas")
    code = (
        "import sys, motion_app.study.answers, motion_app.study.unblinding, motion_app.__main__;"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
