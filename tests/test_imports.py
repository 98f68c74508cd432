"""Who may import whom. The tree is the diagram; this keeps it so."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "motion_app"
TORCH = {"torch", "torchvision", "diffusers", "transformers", "accelerate", "safetensors"}

FIRST = [
    "errors",
    "wording",
    "text_files",
    "leftovers",
    "geometry",
    "methods",
    "scene",
    "settings",
    "sandbox",
    "tone",
    "file_types",
    "decoding",
    "video",
    "watermark",
    "signing",
    "provenance",
    "media",
]  # each may import those before
BASE = set(FIRST)
LIBRARY = {"motion_files", "motion_parcel", "ownership", "library"}
REQUESTS = BASE | LIBRARY | {"phrases", "assignment"}
ENGINE = {"engine"}
LOADED = {"segmentation", "segment_anything2", "object_finder"}  # beside the engine
MODELS = {"models", "devices"}

# Which parts of motion_app a part may import. The longest prefix that fits counts.
ALLOWED: dict[str, set[str]] = {
    **{name: set(FIRST[:place]) for place, name in enumerate(FIRST)},
    "decoding": set(FIRST[: FIRST.index("decoding")]) | {"decoding"},
    "motion_files": BASE,
    "motion_parcel": BASE | {"motion_files"},
    "ownership": BASE,
    "library": BASE | LIBRARY,
    "hosting": BASE,
    "devices": BASE,
    "models": REQUESTS | ENGINE | LOADED | {"devices", "evaluation"},
    "hub": BASE | {"hub_files"},
    "hub_files": BASE,
    "object_finder": BASE | {"hub", "devices"},
    "segment_anything2": BASE | {"hub", "segmentation", "devices"},
    "phrases": BASE,
    "prompt_tokenizer": BASE | {"phrases", "hub"},
    "assignment": BASE | LIBRARY | {"phrases"},
    "study": REQUESTS | {"study"},
    "results": BASE,
    "segmentation": REQUESTS | {"hub", "devices"},
    "soak": BASE | LIBRARY,
    "engine.layout": REQUESTS,
    "engine.motion_tokens": REQUESTS | {"engine.layout"},
    "engine.kernels": BASE,
    "engine.visibility": BASE,
    "engine.attention": REQUESTS | {"engine.layout", "engine.kernels", "engine.visibility"},
    "engine.processor": REQUESTS | {"engine.attention"},
    "engine.propagation": REQUESTS | {"engine.layout"},
    "engine": REQUESTS | ENGINE | {"hub", "devices"},
    "training": REQUESTS | ENGINE | {"training"},
    # The pocket's subject prior videos are drawn by its world, which needs neither torch nor model.
    "training.spv": REQUESTS | ENGINE | {"training", "pocket.world", "pocket.motions"},
    "evaluation.benchmark": REQUESTS | ENGINE | {"evaluation", "training", "pocket"},
    "evaluation.shipped": REQUESTS | ENGINE,
    "evaluation.showcase": REQUESTS | ENGINE | {"evaluation", "pocket"},
    "evaluation.figures": REQUESTS | ENGINE | MODELS | {"evaluation", "training", "pocket"},
    "evaluation.commands": REQUESTS | MODELS | {"evaluation", "results"},
    **{
        f"evaluation.{name}": REQUESTS
        | ENGINE
        | MODELS
        | {"evaluation", "training", "pocket", "results"}
        for name in (
            *("cases", "strata", "suites", "case_scores", "propagation_study", "tasks"),
            *("ablation", "campaign", "external", "result_store", "benchmark_report"),
            *("benchmark_command", "roster"),
        )
    },
    "evaluation": REQUESTS | {"evaluation"},
    **{
        f"pocket.{name}": REQUESTS
        | ENGINE
        | MODELS
        | {"evaluation", "training", "segmentation", "pocket"}
        for name in ("held_back", "train")
    },
    "pocket": REQUESTS | ENGINE | MODELS | {"training", "segmentation", "pocket"},
    "jobs": REQUESTS
    | ENGINE
    | MODELS
    | {"prompt_tokenizer", "segmentation", "training", "evaluation", "results", "jobs"},
}
EVERYTHING = {
    "",
    "__main__",
    "cli",
    "commands",
    "motion_commands",
    "batch_commands",
    "bench",
    "bench_caches",
    "bench_full_scale",
    "bench_record",
    "bench_rivals",
    "ui",
}  # the shell around the rest

# Parts that must run where torch is not installed, and in a blink.
WITHOUT_TORCH = {
    *FIRST,
    *LIBRARY,
    "training.config",
    "training.inputs",
    "training.mover",
    "training.selection",
    "training.synmotion_config",
    "phrases",
    "assignment",
    "results",
    "hosting",
    "models",
    "jobs",
    "study",
}
WITHOUT_TORCH |= {"evaluation.motion_fidelity", "evaluation.video_quality", "evaluation.report"}
WITHOUT_TORCH |= {"evaluation.plots", "evaluation.extractors", "evaluation.weights"}
WITHOUT_TORCH |= {"evaluation.metrics", "cli", "commands", "motion_commands", "__main__", ""}
WITHOUT_TORCH |= {"batch_commands"}


def modules() -> dict[str, Path]:
    """Name below motion_app → file, for every module there is."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def imports(path: Path, *, everywhere: bool = True) -> set[str]:
    """Absolute names a file imports; without ``everywhere`` those at its top level alone, and not
    those for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    queue: list[ast.AST] = list(tree.body)
    while queue:
        node = queue.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide who imports whom"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        checked_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        inner = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if everywhere or not (checked_only or inner):
            queue.extend(ast.iter_child_nodes(node))
    return names


def module_of(name: str) -> str:
    """The module below motion_app that ``motion_app.x.y.z`` comes from; z may be a name in it."""
    inside = name.removeprefix("motion_app").removeprefix(".")
    while inside and inside not in MODULES:
        inside = inside.rpartition(".")[0]
    return inside


def fits(module: str, prefixes: set[str]) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def rule_for(module: str) -> set[str] | None:
    """What ``module`` may import of motion_app; None: anything."""
    if module in EVERYTHING or module.startswith("ui."):
        return None
    prefix = module
    while prefix not in ALLOWED:
        assert prefix, f"motion_app.{module} has no rule; add it to ALLOWED, with a thought"
        prefix = prefix.rpartition(".")[0]
    return ALLOWED[prefix]


@pytest.mark.parametrize("module", MODULES)
def test_each_module_imports_only_what_stands_above_it(module):
    allowed = rule_for(module)
    if allowed is None:
        return
    own = {name for name in imports(MODULES[module]) if name.split(".")[0] == "motion_app"}
    wrong = sorted(
        name
        for name in own
        if module_of(name) not in ("", module) and not fits(module_of(name), allowed)
    )
    assert not wrong, f"motion_app.{module} may not import {', '.join(wrong)}"


@pytest.mark.parametrize("module", MODULES)
def test_gradio_stays_in_the_page(module):
    if module == "ui" or module.startswith("ui."):
        return
    assert "gradio" not in {name.split(".")[0] for name in imports(MODULES[module])}


@pytest.mark.parametrize("module", [name for name in MODULES if fits(name, WITHOUT_TORCH - {""})])
def test_pure_modules_load_without_torch(module):
    # What the command line needs torch for it imports inside the command.
    shell = module in EVERYTHING
    names = imports(MODULES[module], everywhere=not shell)
    assert not TORCH & {name.split(".")[0] for name in names}


def test_the_command_line_starts_without_torch_or_gradio():
    code = (
        "import sys, motion_app.cli;"
        "print([m for m in ('torch', 'diffusers', 'gradio', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_tree_has_no_drawer_for_odds_and_ends():
    banned = {"utils", "helpers", "common", "misc"}
    assert not banned & {part for name in MODULES for part in name.split(".")}


def test_these_rules_catch_a_breach(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text(
        "import torch\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import gradio\n"
        "def late():\n    from motion_app.engine import attention\n"
    )
    assert {"torch", "gradio", "motion_app.engine.attention"} <= imports(file)
    top = imports(file, everywhere=False)
    assert "torch" in top and not {"gradio", "motion_app.engine.attention"} & top
    assert module_of("motion_app.engine.attention.attend") == "engine.attention"
    assert not fits("engine.attention", rule_for("engine.propagation"))
