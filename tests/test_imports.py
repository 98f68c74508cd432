"""Who may import whom. The tree is the diagram; this keeps it so."""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "motion_app"

# From the bottom up. A part imports those of the bars below its own, and none beside it.
BARS = (
    ("errors", "wording"),
    ("methods", "acceleration"),
    ("scene",),
    ("settings", "geometry", "text_files"),
    ("media", "models", "library"),
    ("request", "world"),
    ("study",),
    ("evaluation", "engine"),
    ("training",),
    ("jobs",),
    ("benchmark", "host"),
    ("pocket", "speed"),
    ("ui",),
    ("cli",),
    ("__main__",),
)
HEIGHT = {part: height for height, bar in enumerate(BARS) for part in bar}

# Lines of a file: at most, and fewer than which it lives with its only user.
MOST, FEW = 450, 120
# Kinds of small files that live alone all the same, by whom alone they are imported, and why.
LIVES_ALONE = {
    "__main__": (set(), "a person starts it"),
    "cli": (set(), "a noun of the command line, which is read by its name"),
    "study.migrations": (set(), "Alembic runs it, and it is never changed again"),
    "engine.systems": ({"engine.systems.table"}, "a row of a table, each from a paper of its own"),
}
# What a file that is pure never loads, nor anything that it imports.
HEAVY = {"torch", "diffusers", "transformers", "gradio"}

# Arrows that the bars forbid and that are still there: (module, module). To be emptied.
STILL: set[tuple[str, str]] = set()
# Circles inside a part that are still there. To be emptied.
STILL_CIRCLES: list[set[str]] = []

# Parts that load without torch, in a blink.
WITHOUT_TORCH = ("request", "media", "library", "study", "world", "jobs", "cli", "host")
WITHOUT_TORCH += ("__main__",)
WITHOUT_TORCH += ("errors", "wording", "methods", "acceleration", "scene")
WITHOUT_TORCH += ("training.config", "training.inputs", "training.mover", "training.suggestion")
WITHOUT_TORCH += ("evaluation.metrics", "evaluation.report", "evaluation.figures")
WITHOUT_TORCH += ("evaluation.trackers",)
# Ray is an extra, a migration is run by its tool.
NOT_LOADED = ("jobs.ray_workers", "study.migrations.env")
# What alone a part may import of this package.
# The one file of the engine and of the training that knows the model which is steered.
MODEL_IS_KNOWN_TO = "engine.backbone"
OF_THE_MODEL = re.compile(r"CogVideoX|\battn1\b|\btransformer_blocks\b|^\.pipe$")
ALONE = {"study": {"errors", "settings", "media", "wording", "text_files"}}
NEVER = {"evaluation": {"engine"}}


def modules() -> dict[str, Path]:
    """Name below motion_app → file, for every module there is; the package itself is ""."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


@functools.cache
def read(path: Path, _changed: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def tree_of(path: Path) -> ast.Module:
    """A file as Python reads it: once for all the laws, and again where it was written anew."""
    return read(path, path.stat().st_mtime_ns)


def imports(path: Path) -> set[str]:
    """Absolute names a file imports anywhere, for type checkers too."""
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide who imports whom"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_of(name: str) -> str:
    """The module below motion_app that ``motion_app.x.y.z`` comes from; z may be a name in it."""
    inside = name.removeprefix("motion_app").removeprefix(".")
    while inside and inside not in MODULES:
        inside = inside.rpartition(".")[0]
    return inside


def arrows(module: str, path: Path) -> set[str]:
    """The modules of motion_app that ``path``, as ``module``, imports."""
    own = {name for name in imports(path) if name.split(".")[0] == "motion_app"}
    return {module_of(name) for name in own} - {module, ""}


def part(module: str) -> str:
    return module.split(".")[0]


def wrong_arrows(module: str, path: Path) -> list[str]:
    """What ``module`` imports and may not."""
    here = part(module)
    assert not here or here in HEIGHT, f"motion_app.{here} stands in no bar; add it, with a thought"
    wrong = []
    for other in sorted(arrows(module, path)):
        there = part(other)
        if here == there or not here or (here, there) in STILL:
            continue
        alone = ALONE.get(here)
        if (
            HEIGHT[there] >= HEIGHT[here]
            or (alone is not None and there not in alone)
            or there in NEVER.get(here, ())
        ):
            wrong.append(other)
    return wrong


@pytest.mark.parametrize("module", MODULES)
def test_each_part_imports_only_what_stands_below_it(module):
    wrong = wrong_arrows(module, MODULES[module])
    assert not wrong, f"motion_app.{module} may not import {', '.join(wrong)}"


def test_every_exception_is_still_needed():
    found = {(part(m), part(other)) for m, path in MODULES.items() for other in arrows(m, path)}
    assert found >= STILL, "take the ones that are gone out of STILL"


def circles() -> list[set[str]]:
    """Groups of modules that import one another, directly or not."""
    reached = {module: arrows(module, path) for module, path in MODULES.items()}
    growing = True
    while growing:
        growing = False
        for module, known in reached.items():
            more = set().union(known, *(reached[other] for other in known))
            growing, reached[module] = growing or more != known, more
    found: list[set[str]] = []
    for module, known in reached.items():
        group = {other for other in known if module in reached[other]}
        if module in known and group not in found:
            found.append(group)
    return found


def test_nothing_imports_itself_through_others():
    assert circles() == STILL_CIRCLES


@functools.cache
def importers() -> dict[str, set[str]]:
    """Who imports each module; "app" is the file beside the package."""
    found: dict[str, set[str]] = {module: set() for module in MODULES}
    for module, path in {**MODULES, "app": ROOT / "app.py"}.items():
        for other in arrows(module, path):
            found[other].add(module)
    return found


def loaded(path: Path) -> set[str]:
    """What a file imports anywhere when it runs: not for type checkers alone."""
    tree = tree_of(path)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in for_types:
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and id(node) not in for_types:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@functools.cache
def pure(module: str) -> bool:
    """Whether neither ``module`` nor what it imports ever loads what is HEAVY."""
    names = loaded(MODULES[module])
    below = {module_of(name) for name in names if name.split(".")[0] == "motion_app"}
    heavy = HEAVY & {name.split(".")[0] for name in names}
    return not heavy and all(pure(other) for other in below - {module, ""})


def misplaced(module: str, lines: int, users: set[str]) -> str:
    """Why a file of so many lines that ``users`` import is no file of its own; "" where it is."""
    if lines > MOST:
        return f"it has {lines} lines, and {MOST} are the most; part it by what is in it"
    by_kind = any(within(module, (kind,)) and users <= by for kind, (by, _) in LIVES_ALONE.items())
    if lines >= FEW or len(users) > 1 or by_kind:
        return ""
    if users and pure(module) and not any(pure(user) for user in users & MODULES.keys()):
        return ""
    return f"it has {lines} lines; it lives with its only user, {', '.join(users) or 'nobody'}"


def test_a_file_is_neither_too_long_nor_too_short_to_live_alone():
    found = {}
    for module, path in MODULES.items():
        if path.name != "__init__.py":
            lines = len(path.read_text(encoding="utf-8").splitlines())
            found[module] = misplaced(module, lines, importers()[module])
    assert not {module: why for module, why in found.items() if why}


def test_what_is_small_lives_alone_only_for_a_reason():
    table, row = "engine.systems.table", "engine.systems.paste"
    assert misplaced("media.files", MOST + 1, {"host", "app"})
    assert misplaced("media.files", FEW - 1, {"library.library"})
    assert not misplaced("media.files", FEW, {"library.library"})
    assert not misplaced("media.files", FEW - 1, {"host", "app"})
    assert misplaced("study.plan", FEW - 1, set())
    assert not misplaced(row, FEW - 1, {table}) and misplaced(row, FEW - 1, {"engine.pipeline"})
    # One that is pure is for whoever is not.
    assert pure("evaluation.metrics") and not pure("evaluation.networks")
    assert not misplaced("evaluation.metrics", FEW - 1, {"evaluation.networks"})
    assert misplaced("evaluation.metrics", FEW - 1, {"evaluation.report"})
    assert misplaced("evaluation.networks", FEW - 1, {"evaluation.features"})


@pytest.mark.parametrize("module", [module for module in MODULES if part(module) != "ui"])
def test_gradio_stays_in_the_page(module):
    assert "gradio" not in {name.split(".")[0] for name in imports(MODULES[module])}


def model_named(path: Path) -> set[str]:
    """What a file's code, its docstrings and comments aside, names of the model that is steered:
    CogVideoX's classes, its attention layers and blocks, the pipeline that it is loaded into."""
    tree = tree_of(path)
    # A docstring, wherever it stands, is an expression of its own.
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    names = imports(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.add(f".{node.attr}")
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= set() if id(node) in told else {node.value}
    return {name for name in names if OF_THE_MODEL.search(name)}


@pytest.mark.parametrize(
    "module",
    [m for m in MODULES if part(m) in ("engine", "training") and m != MODEL_IS_KNOWN_TO],
)
def test_the_model_that_is_steered_is_known_to_one_file(module):
    assert not model_named(MODULES[module])


def within(module: str, parts: tuple[str, ...]) -> bool:
    return any(module == part or module.startswith(part + ".") for part in parts)


def test_what_needs_no_model_loads_without_torch_or_gradio():
    # One process for all: what it had loaded in the end says that none of them brought it.
    chosen = [
        f"motion_app.{module}"
        for module in MODULES
        if within(module, WITHOUT_TORCH) and module not in NOT_LOADED
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {chosen!r}:\n"
        "    importlib.import_module(name)\n"
        "    for heavy in ('torch', 'diffusers', 'transformers', 'gradio'):\n"
        "        assert heavy not in sys.modules, f'{name} brings {heavy}'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@functools.cache
def defined(path: Path) -> set[str]:
    """The names that a module makes at its top level, apart from those it imports."""
    names: set[str] = set()
    open_blocks = [tree_of(path).body]
    while open_blocks:
        for node in open_blocks.pop():
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
            elif isinstance(node, (ast.If, ast.Try, ast.With)):
                open_blocks += [node.body, getattr(node, "orelse", [])]
    return names


def homeless(path: Path) -> list[str]:
    """What a file imports of this package from a place that does not define it, here or inside a
    function: a name that is gone, or one that the place has only imported itself."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "motion_app":
            source = (node.module or "").removeprefix("motion_app").removeprefix(".")
            for alias in node.names:
                whole = f"{source}.{alias.name}".lstrip(".")
                if whole not in MODULES and alias.name not in defined(MODULES[source]):
                    found.append(whole)
    return found


FILES = [*MODULES.values(), ROOT / "app.py", *sorted((ROOT / "tests").rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_is_imported_from_where_it_is_made(path):
    assert not homeless(path)


def test_no_name_is_handed_on():
    for module, path in MODULES.items():
        assert "__all__" not in path.read_text(encoding="utf-8"), f"motion_app.{module}"


def test_a_class_name_means_one_thing():
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_the_tree_has_no_drawer_for_odds_and_ends():
    banned = {"utils", "helpers", "common", "misc"}
    assert not banned & {part for name in MODULES for part in name.split(".")}


def derived_elsewhere(path):
    """Classes of a file whose base is imported from another one of ours: (class, base)."""
    tree = tree_of(path)
    ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("motion_app")
        for alias in node.names
    }
    return [
        (node.name, base.id)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Name) and base.id in ours
    ]


# Files whose types are not checked yet. To be emptied.
UNCHECKED = {"benchmark/scores.py", "training/synmotion.py"}


def test_where_a_class_of_another_file_is_changed_its_types_are_checked():
    """Else an override with other arguments than the method has is found by the first who calls."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    checked = [ROOT / name for name in settings["tool"]["mypy"]["files"]]
    there = {
        str(path.relative_to(PACKAGE))
        for path in modules().values()
        if derived_elsewhere(path) and not any(path.is_relative_to(place) for place in checked)
    }
    assert there == UNCHECKED
    assert ("CallQueue", "JobQueue") in derived_elsewhere(PACKAGE / "ui" / "lent_jobs.py")


def test_these_rules_catch_a_breach(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "from motion_app.engine import layout\n"
        "if TYPE_CHECKING:\n    import gradio\n"
        "def late():\n    from motion_app.ui.page import build_page\n"
    )
    assert {"gradio", "motion_app.engine.layout", "motion_app.ui.page.build_page"} <= imports(file)
    assert arrows("jobs.bad", file) == {"engine.layout", "ui.page"}
    assert wrong_arrows("jobs.bad", file) == ["ui.page"]
    assert wrong_arrows("study.bad", file) == ["engine.layout", "ui.page"]
    assert wrong_arrows("evaluation.bad", file) == ["engine.layout", "ui.page"]
    assert module_of("motion_app.engine.attention.attend") == "engine.attention"
    file.write_text(
        "from motion_app.engine.attention import attend, SequenceLayout\n"
        "from motion_app import errors\n"
        "def late():\n    from motion_app.errors import gone\n"
    )
    assert homeless(file) == ["engine.attention.SequenceLayout", "errors.gone"]


def test_naming_the_model_is_caught_in_code_and_let_be_in_words(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text(
        '"""CogVideoX has attn1 and transformer_blocks in a pipe."""\n'
        "def told():\n    'CogVideoX 1.5, attn1'\n    return 5  # of engine.pipe\n"
    )
    assert not model_named(file)
    for line, name in (
        ("from diffusers import CogVideoXTransformer3DModel", "CogVideoXTransformer3DModel"),
        ("layers = [block.attn1 for block in blocks]", "attn1"),
        ("names = 'transformer_blocks.0.attn1'", "transformer_blocks"),
        ("vae = engine.pipe.vae", "pipe"),
        ("def act(self):\n    return self.pipe", "pipe"),
    ):
        file.write_text(line)
        assert any(name in found for found in model_named(file)), line
