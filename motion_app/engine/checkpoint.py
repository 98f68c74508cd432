"""A checkpoint on disk: where its folder is, and what tells it from others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from motion_app.errors import CheckpointError
from motion_app.hub import PIPELINE_FILES, OnBytes, Repository, fetch, fetch_configs, one_line
from motion_app.leftovers import listed

__all__ = ["checkpoint_folder", "config_folder", "fingerprint", "one_line"]


def checkpoint_folder(path_or_hub_id: str | Path, *, on_bytes: OnBytes | None = None) -> Path:
    """The folder of a checkpoint; one named by hub id (``owner/model`` at its pinned revision, or
    ``owner/model@revision``) is fetched where it is not cached yet. Raises CheckpointError."""
    folder, repository = _where(path_or_hub_id)
    if repository is None:
        return folder
    fetched = fetch(repository, PIPELINE_FILES, on_bytes=on_bytes)
    if not (fetched / "model_index.json").is_file():
        raise CheckpointError(
            f"{repository} is no diffusers pipeline: it has no model_index.json; choose an "
            "image-to-video model such as zai-org/CogVideoX-5b-I2V"
        )
    return fetched


def config_folder(path_or_hub_id: str | Path) -> Path:
    """A folder with what tells the checkpoint's sizes, the checkpoint's own where it is one here;
    the weights need not be there yet. Raises CheckpointError."""
    folder, repository = _where(path_or_hub_id)
    return folder if repository is None else fetch_configs(repository)


def _where(path_or_hub_id: str | Path) -> tuple[Path, Repository | None]:
    """A folder on this machine, or the repository that is meant."""
    folder = Path(path_or_hub_id)
    if (folder / "model_index.json").is_file():
        return folder, None
    repository = Repository.parse(str(path_or_hub_id))
    if folder.exists() or repository is None:
        raise CheckpointError(
            f"{folder.name} holds no model_index.json; expected a folder saved by diffusers, or a "
            "hub id such as zai-org/CogVideoX-5b-I2V"
        )
    return folder, repository


def fingerprint(transformer_folder: Path) -> str:
    """What a motion belongs to: sha256 over a transformer folder.

    Its config, keys sorted and diffusers' own notes (``_class_name`` …) left out, then the bytes of
    its weight files in the order of their names. Raises CheckpointError where there are none.
    """
    files = list(listed(transformer_folder, "*.safetensors"))
    config = transformer_folder / "config.json"
    if not files or not config.is_file():
        raise CheckpointError(
            "the checkpoint's transformer folder holds no config.json and safetensors weights; "
            "a motion cannot be tied to it. Save it with save_pretrained"
        )
    entries = json.loads(config.read_text(encoding="utf-8"))
    kept = {key: entry for key, entry in entries.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(2**22):
                digest.update(chunk)
    return digest.hexdigest()
