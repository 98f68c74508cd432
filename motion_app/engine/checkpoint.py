"""A checkpoint on disk: where its folder is, and what tells it from others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from diffusers import CogVideoXImageToVideoPipeline

from motion_app.errors import CheckpointError


def checkpoint_folder(path_or_hub_id: str | Path) -> Path:
    """The folder of a checkpoint; one named by hub id is downloaded where it is not cached yet.
    Raises CheckpointError."""
    folder = Path(path_or_hub_id)
    if (folder / "model_index.json").is_file():
        return folder
    name = str(path_or_hub_id)
    if folder.exists() or name.startswith((".", "/")) or name.count("/") != 1:
        raise CheckpointError(
            f"{folder.name} holds no model_index.json; expected a folder saved by diffusers, or a "
            "hub id such as zai-org/CogVideoX-5b-I2V"
        )
    try:
        return Path(CogVideoXImageToVideoPipeline.download(name))
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f'"{name}" is neither a folder nor a model that can be downloaded: {one_line(error)}'
        ) from error


def fingerprint(transformer_folder: Path) -> str:
    """What a motion belongs to: sha256 over a transformer folder.

    Its config, keys sorted and diffusers' own notes (``_class_name`` …) left out, then the bytes of
    its weight files in the order of their names. Raises CheckpointError where there are none.
    """
    files = sorted(transformer_folder.glob("*.safetensors"))
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


def one_line(error: Exception) -> str:
    """The first line of another library's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
