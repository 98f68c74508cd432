"""The pocket checkpoint tells pictures of its own world from photographs, before work is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gradio
import numpy as np
import pytest

from motion_app.errors import CheckpointError
from motion_app.geometry import fit_image
from motion_app.host import ModelHost
from motion_app.media.files import read_image
from motion_app.models.checkpoint import FamiliarPictures
from motion_app.settings import ROOT, Settings
from motion_app.world.world import draw_scene, render

PHOTOGRAPHS = sorted((Path(gradio.__file__).parent / "media_assets" / "images").glob("*.jp*g"))
EXAMPLES = sorted((ROOT / "assets" / "examples").glob("*.png"))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelHost]:
    host = ModelHost(Settings(outputs=tmp_path_factory.mktemp("outputs"), device="cpu"))
    host.start()
    host.engine()
    yield host
    host.stop()


def in_frame(host: ModelHost, picture: np.ndarray) -> np.ndarray:
    return fit_image(picture, host.geometry().height, host.geometry().width).image


@pytest.mark.parametrize("path", EXAMPLES[::2], ids=lambda path: path.stem)
def test_the_pictures_that_ship_are_known(host: ModelHost, path: Path) -> None:
    assert host.knows(in_frame(host, read_image(path))) is True


def test_a_new_picture_of_the_world_is_known(host: ModelHost) -> None:
    scene = render(draw_scene(np.random.default_rng(77), objects=2))
    assert host.knows(in_frame(host, scene.frames[0])) is True


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_photographs_are_not(host: ModelHost, path: Path) -> None:
    assert host.knows(in_frame(host, read_image(path))) is False


def test_a_smooth_picture_without_a_creature_is_not(host: ModelHost) -> None:
    """The VAE keeps it as well as any; nothing in it answers a click."""
    grey = np.linspace(60, 190, host.geometry().width).astype(np.uint8)
    picture = np.repeat(np.tile(grey, (host.geometry().height, 1))[..., None], 3, axis=2)
    assert host.knows(picture) is False


def test_a_model_of_any_picture_says_nothing(
    host: ModelHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert FamiliarPictures.read(tmp_path) is None
    monkeypatch.setattr(FamiliarPictures, "read", lambda folder: None)
    assert host.knows(np.zeros((64, 96, 3), np.uint8)) is None


def test_a_file_that_says_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "familiar.json").write_text('{"reconstruction": "small"}')
    with pytest.raises(CheckpointError, match="reconstruction"):
        FamiliarPictures.read(tmp_path)
