"""What tests share: a checkpoint with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import tiny_pipeline


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline saved as an ordinary diffusers folder. Do not write into it."""
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    tiny_pipeline().save_pretrained(folder)
    (folder / "generation.json").write_text('{"name": "tiny", "steps": 3, "guidance": 3.0}')
    return folder
