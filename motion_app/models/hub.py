"""Models by hub id: a fixed revision of each, only the files that are used, resumed and checked.

A file that is in the cache is not asked for again, so a model that was fetched once needs no
network. What came is compared with what the hub promised before anything loads it.
"""

from __future__ import annotations

import json
import logging
import re
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from motion_app.errors import CheckpointError
from motion_app.models.downloads import (
    blob_folder,
    check_digest,
    digested_files,
    fetch_file,
    large_files,
)
from motion_app.text_files import is_leftover

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
OnBytes = Callable[[int, int], None]
# What each name means until somebody asks for another revision: a repository may change.
PINNED: Mapping[str, str] = {
    "zai-org/CogVideoX-5b-I2V": "a6f0f4858a8395e7429d82493864ce92bf73af11",
    "THUDM/CogVideoX-5b-I2V": "a6f0f4858a8395e7429d82493864ce92bf73af11",
    "zai-org/CogVideoX1.5-5B-I2V": "9f310b78e4ed32a15fec50712149d4785d3d0fc4",
    "THUDM/CogVideoX1.5-5B-I2V": "9f310b78e4ed32a15fec50712149d4785d3d0fc4",
    "facebook/sam2.1-hiera-small": "ee5bba1d82bb8749febdf90f45e84b687142ba03",
    "facebook/sam2.1-hiera-base-plus": "b7320756a13354e7530a63935656d35b2f91a290",
    "facebook/sam2.1-hiera-large": "665f8e2ad61cf5f53d65644ff27c8ee525124610",
    "IDEA-Research/grounding-dino-tiny": "a2bb814dd30d776dcf7e30523b00659f4f141c71",
}
PARTS = ("transformer", "vae", "text_encoder")
PIPELINE_FILES = (
    *("model_index.json", "generation.json", "tokenizer/*", "scheduler/*.json"),
    *(
        f"{part}/*.{ending}"
        for part in (*PARTS, "motion_encoder")
        for ending in ("json", "safetensors")
    ),
)
SIZE_FILES = ("model_index.json", "transformer/config.json", "vae/config.json")
CONFIG_FILES = (*SIZE_FILES, "generation.json", "motion_encoder/config.json", "tokenizer/*")
TRANSFORMERS_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?")
SHA256 = re.compile(r"[0-9a-f]{64}")
MOST_HEADER_BYTES = 2**26


@dataclass(frozen=True)
class Repository:
    """``name`` owner/model at ``revision``: a commit, tag or branch; None is the hub's newest."""

    name: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> Repository | None:
        """``owner/model`` at its pinned revision, or ``owner/model@revision``; None for what is
        no hub id."""
        found = NAME.fullmatch(text)
        if not found or text.startswith("."):
            return None
        return cls(found[1], found[2] or PINNED.get(found[1]))

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision[:12]}"


def fetch(
    repository: Repository,
    files: Sequence[str],
    *,
    on_bytes: OnBytes | None = None,
    cache: Path | None = None,
    endpoint: str | None = None,
) -> Path:
    """The folder of ``repository`` with the files that fit the patterns ``files``.

    A download that broke off goes on where it stopped. ``on_bytes`` hears (bytes so far, bytes in
    all) of the large files. ``cache`` and ``endpoint`` None are the hub client's own. Raises
    CheckpointError: no connection and not in the cache, no such model, or files that are not what
    was promised.
    """
    where = {"cache": cache, "endpoint": endpoint}
    folder = _snapshot(repository, files, **where, offline=True)
    if folder is not None:
        try:
            check_complete(folder)
            return folder
        except CheckpointError:
            pass  # not all of it
    checked = _fetch_large(repository, files, **where, on_bytes=on_bytes)
    folder = _snapshot(repository, files, **where)
    check_complete(folder)
    check_digests(folder, but=checked)
    return folder


def _fetch_large(
    repository: Repository,
    files: Sequence[str],
    *,
    cache: Path | None,
    endpoint: str | None,
    on_bytes: OnBytes | None,
) -> frozenset[str]:
    """The large ones of ``files`` into the cache of the hub's client; returns their digests, which
    were compared."""
    found = _of_hub(
        repository,
        lambda: large_files(repository.name, repository.revision, files, endpoint=endpoint),
    )
    total, done = sum(file.size for file in found), 0

    def on_piece(count: int) -> None:
        nonlocal done
        done += count
        if on_bytes is not None:
            on_bytes(done, total)

    for file in found:
        fetch_file(
            file,
            name=repository.name,
            revision=repository.revision,
            blobs=blob_folder(repository.name, cache),
            endpoint=endpoint,
            on_piece=on_piece,
        )
    return frozenset(file.sha256 for file in found)


def fetch_configs(
    repository: Repository, *, cache: Path | None = None, endpoint: str | None = None
) -> Path:
    """The folder of a pipeline with the few small files that tell its sizes and count a prompt's
    tokens, so that a page can be built while the weights are still coming. CheckpointError as
    ``fetch``, and for a repository that is no such pipeline."""
    folder = _snapshot(repository, CONFIG_FILES, cache=cache, endpoint=endpoint, offline=True)
    if folder is None or not _has_sizes(folder) or not (folder / "tokenizer").is_dir():
        folder = _snapshot(repository, CONFIG_FILES, cache=cache, endpoint=endpoint)
    if not _has_sizes(folder):
        raise CheckpointError(
            f"{repository} is no CogVideoX pipeline: it lacks one of {', '.join(SIZE_FILES)}; "
            "choose an image-to-video model such as zai-org/CogVideoX-5b-I2V"
        )
    return folder


def _has_sizes(folder: Path) -> bool:
    return all((folder / name).is_file() for name in SIZE_FILES)


def _snapshot(
    repository: Repository,
    files: Sequence[str],
    *,
    cache: Path | None,
    endpoint: str | None,
    offline: bool = False,
) -> Path | None:
    """What the hub's client has or gets of ``files``; ``offline`` gives None for nothing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download() -> str:
        return snapshot_download(
            repo_id=repository.name,
            revision=repository.revision,
            allow_patterns=list(files),
            cache_dir=cache,
            endpoint=endpoint,
            local_files_only=offline,
            tqdm_class=_silent_bar(),
        )

    if not offline:
        return Path(_of_hub(repository, download))
    try:
        return Path(download())
    except LocalEntryNotFoundError:
        return None


def _of_hub(repository: Repository, ask: Callable[[], Answer]) -> Answer:
    """What ``ask`` gets of the hub; CheckpointError says in one line why it gets nothing."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return ask()
    except HfHubHTTPError as error:
        raise CheckpointError(f"{repository} cannot be fetched: {one_line(error)}") from error
    except Exception as error:  # a dozen kinds: of the line, of the client's libraries, of the disk
        logger.debug("the hub's client", exc_info=error)
        raise CheckpointError(
            f"{repository} is not on this machine, and the hub cannot be reached or its files not "
            f"be kept ({one_line(error)}); connect once to fetch it, or give the folder of a copy"
        ) from error


def _silent_bar() -> type:
    """A progress bar that draws nothing: ours is ``on_bytes``."""
    from tqdm.auto import tqdm

    class Silent(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.update(disable=True)
            options.pop("name", None)
            super().__init__(*arguments, **options)

    return Silent


def check_complete(folder: Path) -> None:
    """Raises CheckpointError unless every part that model_index.json names is there, every shard an
    index names too, and every safetensors file is as long as its own header says."""
    index = folder / "model_index.json"
    if index.is_file():
        parts = [name for name in read_json(index) if not name.startswith("_")]
        missing = [name for name in parts if not (folder / name).is_dir()]
        missing += [
            name
            for name in parts
            if name in PARTS and not any((folder / name).glob("*.safetensors"))
        ]
        if missing:
            raise CheckpointError(
                f"{folder.name} lacks {', '.join(dict.fromkeys(missing))}; fetch it again"
            )
    if not any(folder.rglob("*.safetensors")):
        raise CheckpointError(f"{folder.name} holds no weights (safetensors); fetch it again")
    for shards in folder.rglob("*.safetensors.index.json"):
        names = set(read_json(shards).get("weight_map", {}).values())
        missing = sorted(name for name in names if not (shards.parent / name).is_file())
        if missing:
            raise CheckpointError(
                f"{shards.parent.name} lacks {len(missing)} of {len(names)} weight files, the "
                f"first is {missing[0]}; fetch it again"
            )
    for file in folder.rglob("*.safetensors"):
        if not is_leftover(file.name):
            weight_header(file)


def weight_header(file: Path) -> dict[str, dict[str, Any]]:
    """Name → {"dtype", "shape", "data_offsets"} of a safetensors file, compared with its length.
    Raises CheckpointError for one that is cut off or none."""
    return _header(file)[0]


def weight_notes(file: Path) -> dict[str, str]:
    """What a safetensors file says of itself; raises as ``weight_header``."""
    return _header(file)[1]


def _header(file: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    broken = f"{file.parent.name}/{file.name} is cut off or no safetensors file; fetch it again"
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(MOST_HEADER_BYTES, size - 8):
                raise CheckpointError(broken)
            header = json.loads(opened.read(length))
        notes = header.pop("__metadata__", None) or {}
        promised = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(broken) from error
    if promised != size - 8 - length:
        raise CheckpointError(broken)
    return header, {str(name): str(words) for name, words in notes.items()}


def check_digests(folder: Path, *, but: Collection[str] = ()) -> None:
    """Raises CheckpointError where a cached file is not what its name in the cache says: the hub
    names large files by their sha256. Those ``but`` were compared already."""
    for file in sorted(folder.rglob("*")):
        blob = file.resolve()
        if not file.is_file() or not SHA256.fullmatch(blob.name) or blob.name in but:
            continue
        check_digest(blob, blob.name, name=file.name)


def read_json(file: Path) -> dict[str, Any]:
    """One JSON object; CheckpointError for anything else."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file.parent.name}/{file.name} is not JSON; fetch it again") from (
            error
        )
    if not isinstance(entries, dict):
        raise CheckpointError(f"{file.parent.name}/{file.name} holds no JSON object")
    return entries


def one_line(error: Exception) -> str:
    """The first line of another library's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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


def weight_digests(path_or_hub_id: str | Path, part: str) -> list[str] | None:
    """The sha256 of each of a part's weight files in the order of their names, as the hub tells
    them: none is fetched. None for what is a folder here. CheckpointError where the hub cannot be
    asked."""
    _, repository = _where(path_or_hub_id)
    if repository is None:
        return None
    found = _of_hub(
        repository,
        lambda: digested_files(repository.name, repository.revision, [f"{part}/*.safetensors"]),
    )
    return [file.sha256 for file in sorted(found, key=lambda file: file.path)]


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
