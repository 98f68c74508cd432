"""Large files from the hub: a download that broke off goes on where it stopped, also after the
program was ended, and what came is compared with the digest that the hub promised.

The hub's own client begins a file anew in each program. What is fetched here is put where that
client keeps its files, under the same names, so that it takes them over.
"""

from __future__ import annotations

import fcntl
import http.client
import logging
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from motion_app.errors import CheckpointError
from motion_app.text_files import file_digest

logger = logging.getLogger(__name__)

LARGE = 2**23  # bytes; smaller files are left to the hub's client
PIECE = 2**20
SILENCE_SECONDS = 30.0  # a server that says nothing for so long is given up
TRIES = 5  # in a row that bring nothing
BROKEN = (OSError, http.client.HTTPException)  # of the line, URLError among them

OnPiece = Callable[[int], None]


@dataclass(frozen=True)
class LargeFile:
    """``path`` in its repository; ``sha256`` is its name in the cache too."""

    path: str
    size: int
    sha256: str


def large_files(
    name: str, revision: str | None, patterns: Sequence[str], *, endpoint: str | None
) -> list[LargeFile]:
    """The large files of a repository that fit ``patterns``. Raises what the hub's client does."""
    found = digested_files(name, revision, patterns, endpoint=endpoint)
    return [file for file in found if file.size >= LARGE]


def digested_files(
    name: str, revision: str | None, patterns: Sequence[str], *, endpoint: str | None = None
) -> list[LargeFile]:
    """The files of a repository that fit ``patterns`` and of which the hub knows the digest, which
    it does of weights of any size. Raises as ``large_files``."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    found = HfApi(endpoint=endpoint).model_info(name, revision=revision, files_metadata=True)
    stored = [sibling for sibling in found.siblings or () if sibling.lfs is not None]
    wanted = filter_repo_objects(
        stored, allow_patterns=list(patterns), key=lambda sibling: sibling.rfilename
    )
    return [LargeFile(one.rfilename, one.lfs.size, one.lfs.sha256) for one in wanted]


def blob_folder(name: str, cache: Path | None) -> Path:
    """Where the hub's client keeps the contents of a model's files."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=name, repo_type="model")
    return Path(HF_HUB_CACHE if cache is None else cache) / folder / "blobs"


def fetch_file(
    file: LargeFile,
    *,
    name: str,
    revision: str | None,
    blobs: Path,
    endpoint: str | None,
    on_piece: OnPiece,
) -> None:
    """``file`` into ``blobs``. ``on_piece`` hears of every piece's bytes, those of an earlier
    download first. CheckpointError where the line stays broken or the content is another."""
    target = blobs / file.sha256
    if target.is_file():
        on_piece(file.size)
        return
    blobs.mkdir(parents=True, exist_ok=True)
    with (blobs / f"{file.sha256}.partial").open("ab") as partial:
        fcntl.flock(partial, fcntl.LOCK_EX)  # another program may be at it
        if target.is_file():  # and may have finished
            on_piece(file.size)
            return
        if partial.tell() > file.size:
            partial.truncate(0)
        on_piece(partial.tell())
        _insist(file, partial, name=name, revision=revision, endpoint=endpoint, on_piece=on_piece)
        partial.flush()
        check_digest(Path(partial.name), file.sha256, name=file.path)
        Path(partial.name).rename(target)


def _insist(file: LargeFile, partial: BinaryIO, *, on_piece: OnPiece, **where: Any) -> None:
    """All that is missing, in as many tries as it takes while each brings something."""
    fruitless = 0
    while partial.tell() < file.size:
        before = partial.tell()
        try:
            _continue(file, partial, on_piece=on_piece, **where)
        except urllib.error.HTTPError as error:
            raise CheckpointError(
                f"{file.path} cannot be fetched: the hub answered {error.code} {error.reason}"
            ) from error
        except BROKEN as error:
            logger.warning("%s: the line broke at %d bytes: %s", file.path, partial.tell(), error)
        partial.flush()
        fruitless = 0 if partial.tell() > before else fruitless + 1
        if fruitless >= TRIES:
            raise CheckpointError(
                f"the download of {file.path} broke off after {partial.tell() / 1e9:.2f} of "
                f"{file.size / 1e9:.2f} GB; start again to go on from there"
            )
        if partial.tell() < file.size:
            time.sleep(min(8.0, 2.0**fruitless))


def _continue(
    file: LargeFile,
    partial: BinaryIO,
    *,
    name: str,
    revision: str | None,
    endpoint: str | None,
    on_piece: OnPiece,
) -> None:
    """One request for the rest of the file, written as it comes."""
    start = partial.tell()
    address, headers = _address(file, name=name, revision=revision, endpoint=endpoint)
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(address, headers=headers)
    with urllib.request.urlopen(request, timeout=SILENCE_SECONDS) as answer:
        if start and answer.status != http.HTTPStatus.PARTIAL_CONTENT:  # all of it comes again
            partial.truncate(0)
            on_piece(-start)
        while piece := answer.read(PIECE):
            partial.write(piece)
            on_piece(len(piece))


def _address(
    file: LargeFile, *, name: str, revision: str | None, endpoint: str | None
) -> tuple[str, dict[str, str]]:
    """Where the content lies now, and the headers to ask for it: a login is for the hub alone."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(name, file.path, revision=revision, endpoint=endpoint)
    headers = build_hf_headers()
    try:
        address = get_hf_file_metadata(url, headers=headers, endpoint=endpoint).location
    except HfHubHTTPError as error:
        raise CheckpointError(f"{file.path} cannot be fetched: {error.__class__.__name__}") from (
            error
        )
    except Exception as error:  # the client's own library has names of its own for a broken line
        raise OSError(str(error)) from error
    hosts = {urllib.parse.urlparse(place).netloc for place in (url, address)}
    if len(hosts) > 1:
        headers = {key: value for key, value in headers.items() if key.lower() != "authorization"}
    return address, headers


def check_digest(path: Path, sha256: str, *, name: str) -> None:
    """Raises CheckpointError, of the file ``name``, where what lies at ``path`` has another sha256;
    it is removed then."""
    if file_digest(path) != sha256:
        path.unlink()
        raise CheckpointError(
            f"{name} is not the file the hub promised, it was removed; fetch it again"
        )
