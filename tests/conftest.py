"""What tests share: a checkpoint with random weights, the app in a process of its own, and the
databases a study may lie in."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import postgres
import pytest
from fake_hub import FakeHub, running_hub
from fuzzing import fuzz
from linked import POCKET, linked_pocket
from serving import RunningApp

# Tests run in more processes than there are cores; what they start inherits it. Read when torch is
# imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
OFFERED = "lab/motions"
# The files and folders that take longest: begun first, all workers end at about the same time.
LONGEST = (
    *("test_whole_app", "test_study", "test_video", "test_transfer", "test_accessibility"),
    *("test_benchmark", "test_training", "test_batch", "test_pocket", "test_ray", "test_spaces"),
    *("browser", "ui", "engine", "benchmark", "pocket", "training"),
)


def pytest_configure(config: pytest.Config) -> None:
    fuzz.daily = "not long" in config.getoption("markexpr")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of ``--dist loadfile``."""
    if config.getoption("dist") != "loadfile":
        return None
    from apart import BrowserApart

    return BrowserApart(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        named = (item.path.stem, item.path.parent.name)
        return next((LONGEST.index(name) for name in named if name in LONGEST), len(LONGEST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline saved as an ordinary diffusers folder. Do not write into it."""
    from tiny_models import tiny_pipeline  # here: most of the study's tests need no torch

    return save_tiny(tiny_pipeline(), tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def text_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``tiny_checkpoint``, of a text-to-video model."""
    from tiny_models import tiny_text_pipeline

    return save_tiny(tiny_text_pipeline(), tmp_path_factory.mktemp("text") / "checkpoint")


@pytest.fixture(scope="session")
def short_pocket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that ships, with its motions, making 5 frames instead of 13. Do not write into
    it."""
    folder = linked_pocket(tmp_path_factory.mktemp("short") / "pocket", "generation.json")
    defaults = json.loads((POCKET / "generation.json").read_text()) | {"frames": 5}
    (folder / "generation.json").write_text(json.dumps(defaults))
    return folder


def save_tiny(pipeline: Any, folder: Path) -> Path:
    """``pipeline`` as a checkpoint in ``folder``, with its own few steps."""
    pipeline.save_pretrained(folder)
    (folder / "generation.json").write_text('{"name": "tiny", "steps": 3, "guidance": 3.0}')
    return folder


@pytest.fixture(scope="session")
def stock_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Models of others with random weights: a Wan and a HunyuanVideo folder. Do not write into
    them."""
    from tiny_stock import save_hunyuan, save_wan

    folder = tmp_path_factory.mktemp("stock")
    return save_wan(folder / "tiny-wan"), save_hunyuan(folder / "tiny-hunyuan")


@pytest.fixture(scope="session")
def app_hub() -> Iterator[FakeHub]:
    """The hub that the app below asks, with an empty repository ``OFFERED``."""
    with running_hub() as hub:
        hub.add(OFFERED)
        yield hub


@pytest.fixture(scope="session")
def app(
    tmp_path_factory: pytest.TempPathFactory, app_hub: FakeHub, stock_models: tuple[Path, Path]
) -> Iterator[RunningApp]:
    """The app with a folder of its own, for all tests that need no other settings. They share its
    line of jobs and its library; each comes as somebody who was never there before."""
    offered = {"MOTION_APP_MOTION_REPO": OFFERED, "HF_ENDPOINT": app_hub.url}
    offered["HF_HUB_DISABLE_XET"] = "1"  # which that hub does not speak
    offered["MOTION_APP_STOCK_MODELS"] = json.dumps([str(folder) for folder in stock_models])
    with RunningApp(tmp_path_factory.mktemp("app"), "--mcp", **offered) as running:
        yield running


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def small_heap() -> Iterator[None]:
    """The encoder's library collects garbage twice for each video, which takes a second where torch
    and gradio are loaded: what lives on after a file of tests is not looked through again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    """A test that asked PyTorch for more threads, as a command does, leaves none behind: they wait
    for each other turning in circles, nine times as long as they work where others want the cores
    too."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The socket folder of a real PostgreSQL."""
    with postgres.running() as folder:
        yield folder


@pytest.fixture(params=postgres.backends())
def database(request: pytest.FixtureRequest) -> str | None:
    """A new, empty database for a study; None: SQLite in the study's folder."""
    return postgres.database_for(request)
