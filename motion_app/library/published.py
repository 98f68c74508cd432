"""Motions in a repository of the Hugging Face Hub: listed, fetched, published.

A repository holds packed motion files, beside each its clip for who looks with a browser, and a
card: a table between two marks, and around it whatever its owner writes. What is there is read from
the headers of the files themselves, so that no list can lie. The hub's own client does the asking;
it knows the login (``hf auth login``, ``HF_TOKEN``).
"""

from __future__ import annotations

import difflib
import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote

from motion_app.errors import MotionFileError, one_line, other_base
from motion_app.library.motion_file import SUFFIX, check_motion_file, motion_of
from motion_app.library.motion_parcel import pack_motion
from motion_app.scene import Motion
from motion_app.settings import DEFAULT_LIMITS, MOTION_REPOSITORY, Limits
from motion_app.text_files import file_digest

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
RECENT_SECONDS = 30.0
MOST_MOTIONS = 500  # of one repository that are read
BECOMES = ("added", "replaced", "same")  # of a motion that is pushed
READERS = 8  # headers that are asked for at once
HOW_TO_LOG_IN = "log in with: hf auth login (or set HF_TOKEN)"
AS_FILES = "motions travel as files too: motions export, motions import"
CARD = "README.md"
CLIP = ".mp4"
BEGIN, END = "<!-- motions -->", "<!-- /motions -->"
HEAD = """---
pipeline_tag: image-to-video
tags:
- motion-transfer
---
# {title}

Motions for pictures: each was learned from a clip and can be given to any object of a picture,
by the base model it was learned on.

"""


@dataclass(frozen=True)
class PublishedMotion:
    """A motion of a repository: ``motion`` as its header tells of it, its ``path`` being that in
    the repository. ``sha256`` of the packed file, hexadecimal, "" where the hub keeps none;
    ``size`` in bytes."""

    motion: Motion
    sha256: str
    size: int

    @property
    def file(self) -> str:
        return self.motion.path.as_posix()


@dataclass(frozen=True)
class RepositoryListing:
    """The motions of a repository at one commit, ``revision``, sorted by name; ``problems`` has a
    line for every file that is none, ``files`` the names of all others too."""

    repository: str
    revision: str
    motions: tuple[PublishedMotion, ...]
    problems: tuple[str, ...] = ()
    files: frozenset[str] = frozenset()

    def find(self, name: str, *, base: str | None = None) -> PublishedMotion:
        """The motion of that name; of several the one for the model with the fingerprint ``base``.
        MotionFileError where there is none, or none for that model."""
        named = [one for one in self.motions if one.motion.name == name]
        if not named:
            names = sorted({one.motion.name for one in self.motions})
            near = difflib.get_close_matches(name[:80], names, n=3, cutoff=0.5)
            offer = f"did you mean {' or '.join(near)}?" if near else f"it has: {', '.join(names)}"
            raise MotionFileError(
                f'{self.repository} has no motion "{name[:80]}"; '
                + (offer if names else "it has none at all")
            )
        fitting = [one for one in named if base is None or one.motion.base == base]
        if not fitting:
            what = f'the motion "{name}" of {self.repository}'
            raise other_base(what, named[0].motion.base, str(base))
        return fitting[0]


@dataclass(frozen=True)
class Publication:
    """What a push did: names of the motions that are ``added``, in the place of others
    ``replaced``, or were there already, ``unchanged``; ``url`` of the commit, "" without one."""

    repository: str
    added: tuple[str, ...]
    replaced: tuple[str, ...]
    unchanged: tuple[str, ...]
    url: str


class MotionRepository:
    """``owner/name`` on the hub, or ``owner/name@revision``. MotionFileError for another text.
    ``token``: whose rights it is asked with, None for the login of this machine."""

    def __init__(self, text: str, *, token: str | None = None) -> None:
        if not MOTION_REPOSITORY.fullmatch(text):
            raise MotionFileError(f'"{text[:80]}" is no repository; expected owner/name')
        self.name, _, revision = text.partition("@")
        self.revision = revision or None
        self._token = token
        self._read: dict[str, Motion] = {}  # by sha256
        self._lock = threading.Lock()
        self._last: tuple[float, RepositoryListing] | None = None  # time.monotonic when it came

    def list(self) -> RepositoryListing:
        """Its motions as they are now. MotionFileError: no connection, no such repository, or no
        right to read it."""
        return self._listing(self._of_hub(self._info))

    def recent(self, seconds: float = RECENT_SECONDS) -> RepositoryListing:
        """As ``list``, at most ``seconds`` old: the hub is asked once for all who look at once."""
        with self._lock:
            now = time.monotonic()
            if self._last is None or now - self._last[0] > seconds:
                self._last = (now, self.list())
            return self._last[1]

    def fetch(self, entry: PublishedMotion, revision: str, folder: Path, *, limits: Limits) -> Path:
        """The file of ``entry`` at the commit ``revision``, in ``folder``, compared with what the
        hub promised. MotionFileError."""
        if entry.size > limits.motion_megabytes * 2**20:
            raise MotionFileError(
                f"{entry.file} is {entry.size / 2**20:.0f} MB; a motion file may have "
                f"{limits.motion_megabytes:g} MB"
            )
        came = Path(self._of_hub(lambda: self._download(entry.file, revision, folder)))
        if entry.sha256 and file_digest(came) != entry.sha256:
            raise MotionFileError(f"{entry.file} came damaged from the hub; fetch it again")
        return came

    def push(
        self,
        motions: Sequence[Motion],
        *,
        create: Literal["private", "public"] | None = None,
        replace: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Publication:
        """Publish ``motions`` in one commit, with the card.

        ``create`` makes a repository that is not there yet; ``replace`` lets a motion take the
        place of another one of its name and model. MotionFileError: no login, no such repository,
        no right to write, a name that is taken, or a motion that is broken.
        """
        from huggingface_hub import get_token

        if self._token is None and self._of_hub(get_token) is None:
            raise MotionFileError(f"there is no login for the hub; {HOW_TO_LOG_IN}")
        listing = self._listing(self._of_hub(lambda: self._found_or_made(create)))
        with TemporaryDirectory() as folder:
            parcels = _Parcels(listing, Path(folder), replace=replace, limits=limits)
            for motion in motions:
                parcels.add(motion)
            url = self._of_hub(lambda: self._commit(parcels)) if parcels.files else ""
        added, replaced, same = (tuple(parcels.names[how]) for how in BECOMES)
        return Publication(self.name, added, replaced, same, url)

    def _found_or_made(self, create: Literal["private", "public"] | None) -> ModelInfo:
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        try:
            return self._info()
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            if create is None:
                raise
            self._api().create_repo(self.name, private=create == "private")
            return self._info()

    def _info(self) -> ModelInfo:
        return self._api().model_info(self.name, revision=self.revision, files_metadata=True)

    def _download(self, file: str, revision: str, folder: Path) -> str:
        return self._api().hf_hub_download(self.name, file, revision=revision, local_dir=folder)

    def _commit(self, parcels: _Parcels) -> str:
        from huggingface_hub import CommitOperationAdd

        listing = parcels.listing
        told = ""
        if CARD in listing.files:
            with TemporaryDirectory() as folder:
                there = Path(self._download(CARD, listing.revision, Path(folder)))
                told = there.read_text(encoding="utf-8", errors="replace")
        files = listing.files | parcels.files.keys()
        card = card_text(self.name, parcels.all_motions(), files, told=told).encode()
        contents: dict[str, str | bytes] = {**parcels.files, CARD: card}
        return str(
            self._api()
            .create_commit(
                self.name,
                [CommitOperationAdd(file, content) for file, content in contents.items()],
                commit_message=parcels.message(),
                revision=self.revision,
                parent_commit=listing.revision,  # nobody's commit of meanwhile is written over
            )
            .commit_url
        )

    def _api(self) -> HfApi:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()  # a motion has a few megabytes
        return HfApi(token=self._token)

    def _listing(self, info: ModelInfo) -> RepositoryListing:
        siblings = {one.rfilename: one for one in info.siblings or ()}
        files = sorted(name for name in siblings if name.endswith(SUFFIX))
        motions: list[PublishedMotion] = []
        problems: list[str] = []
        if len(files) > MOST_MOTIONS:
            problems.append(f"{len(files)} motion files, of which {MOST_MOTIONS} are listed")
        with ThreadPoolExecutor(READERS) as readers:
            read = [
                readers.submit(self._motion, siblings[file], str(info.sha))
                for file in files[:MOST_MOTIONS]
            ]
        for reading in read:
            try:
                motions.append(reading.result())
            except MotionFileError as error:
                if isinstance(error, HubError):
                    raise
                problems.append(str(error))
        motions.sort(key=lambda one: (one.motion.name, one.file))
        return RepositoryListing(
            self.name, str(info.sha), tuple(motions), tuple(problems), frozenset(siblings)
        )

    def _motion(self, sibling: Any, revision: str) -> PublishedMotion:
        """What the header of one file tells. MotionFileError for a file that is no motion."""
        from huggingface_hub.errors import SafetensorsParsingError

        path = Path(sibling.rfilename)
        sha256 = "" if sibling.lfs is None else str(sibling.lfs.sha256)
        size = sibling.size or (0 if sibling.lfs is None else sibling.lfs.size)
        if sha256 and sha256 in self._read:
            return PublishedMotion(self._read[sha256], sha256, size)

        def parse() -> Motion:
            try:
                header = self._api().parse_safetensors_file_metadata(
                    self.name, sibling.rfilename, revision=revision
                )
                told = {key: str(said) for key, said in header.metadata.items()}
                return motion_of(path, told, header.tensors)
            except (SafetensorsParsingError, AttributeError, KeyError, TypeError) as error:
                raise MotionFileError(f"{path.name} is no motion file") from error

        motion = self._of_hub(parse)
        if sha256:
            self._read[sha256] = motion
        return PublishedMotion(motion, sha256, size)

    def _of_hub(self, ask: Callable[[], Answer]) -> Answer:
        """What ``ask`` gets of the hub; MotionFileError says in one line why it gets nothing."""
        with _in_words(self.name, self.revision):
            return ask()


class HubError(MotionFileError):
    """The hub gives nothing: no line, no login, no right, no such repository."""


class _Parcels:
    """The files of a push, packed in ``folder``: path in the repository → the file here. ``names``:
    of the motions, by what becomes of them."""

    def __init__(
        self, listing: RepositoryListing, folder: Path, *, replace: bool, limits: Limits
    ) -> None:
        self.listing = listing
        self.files: dict[str, str] = {}
        self.names: dict[str, list[str]] = {how: [] for how in BECOMES}
        self._folder, self._replace, self._limits = folder, replace, limits
        self._motions = {one.file: one.motion for one in listing.motions}

    def add(self, motion: Motion) -> None:
        """MotionFileError where another motion of its name is there, or it is broken."""
        there = next(
            (
                one
                for one in self.listing.motions
                if (one.motion.name, one.motion.base) == (motion.name, motion.base)
            ),
            None,
        )
        file = self._free(motion) if there is None else there.file
        parcel = pack_motion(motion, self._folder / f"{len(self.files)}{SUFFIX}")
        check_motion_file(parcel, limits=self._limits)
        if there is not None and there.sha256 == file_digest(parcel):
            self.names["same"].append(motion.name)
            return
        if there is not None and not self._replace:
            raise MotionFileError(
                f'{self.listing.repository} has another motion "{motion.name}" already; rename '
                "yours, or say --replace"
            )
        self.names["added" if there is None else "replaced"].append(motion.name)
        self._motions[file] = motion
        self.files[file] = str(parcel)
        if motion.preview is not None:
            self.files[str(Path(file).with_suffix(CLIP))] = str(motion.preview)

    def _free(self, motion: Motion) -> str:
        taken = self.listing.files | self.files.keys()
        stem, number = motion.path.stem, 1
        file = f"{stem}{SUFFIX}"
        while file in taken or str(Path(file).with_suffix(CLIP)) in taken:
            number += 1
            file = f"{stem}-{number}{SUFFIX}"
        return file

    def all_motions(self) -> list[tuple[str, Motion]]:
        """(path in the repository, motion) of all that will be there, sorted by name."""
        return sorted(self._motions.items(), key=lambda entry: (entry[1].name, entry[0]))

    def message(self) -> str:
        """The commit's line."""
        named = [*self.names["added"], *self.names["replaced"]]
        return f"Motion{'s' if len(named) > 1 else ''}: {', '.join(named)}"[:200]


@contextmanager
def _in_words(name: str, revision: str | None) -> Iterator[None]:
    """HubError, in one line for a person, for whatever the hub's client raises."""
    from huggingface_hub import errors

    try:
        yield
    except MotionFileError:
        raise
    except errors.OfflineModeIsEnabled as error:
        raise HubError(f"the hub is not asked, since HF_HUB_OFFLINE is set; {AS_FILES}") from error
    except errors.GatedRepoError as error:
        raise HubError(
            f"{name} is open only to whom its owner lets in; ask for that on its page, and "
            f"{HOW_TO_LOG_IN}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"there is no repository {name} on the hub, or this login may not see it; check the "
            f"name, {HOW_TO_LOG_IN}, or make it with: motions push NAME --create private"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f'{name} has no revision "{revision}"; leave it out for "main"') from error
    except errors.HfHubHTTPError as error:
        raise HubError(_refusal(name, error)) from error
    except Exception as error:  # a dozen kinds: of the line, of the client's libraries, of the disk
        logger.debug("the hub's client", exc_info=error)
        # of the disk without the file's path, which is the server's
        why = error.strerror if isinstance(error, OSError) and error.filename else one_line(error)
        raise HubError(f"the hub cannot be reached ({str(why)[:200]}); {AS_FILES}") from error


def _refusal(name: str, error: Any) -> str:
    """Why the hub refused, by the status of its answer."""
    status = getattr(error.response, "status_code", 0)
    if status == 401:
        return f"the hub does not take this login; {HOW_TO_LOG_IN}"
    if status == 403:
        return f"this login may not write to {name}; make a token with write access, and log in"
    if status in (409, 412):
        return f"{name} was changed meanwhile; push again"
    return f"the hub refused for {name}: {one_line(error)[:200]}"


def card_text(
    repository: str, motions: Sequence[tuple[str, Motion]], files: Collection[str], *, told: str
) -> str:
    """The card with a table of ``motions``, (path in the repository, motion) each. ``files``: the
    paths of all that is there; ``told``: the card that is, whose text beside the table stays, ""
    for none."""
    table = f"{BEGIN}\n{_table(repository, motions, files)}\n{END}"
    if not told.strip():
        return f"{HEAD.format(title=repository.partition('/')[2])}{table}\n"
    start, stop = told.find(BEGIN), told.find(END)
    if 0 <= start < stop:
        return told[:start] + table + told[stop + len(END) :]
    return f"{told.rstrip()}\n\n{table}\n"


def _table(repository: str, motions: Sequence[tuple[str, Motion]], files: Collection[str]) -> str:
    rows = [
        "| motion | learned from | words | method | base model | clip |",
        "|---|---|---|---|---|---|",
    ]
    for file, motion in motions:
        clip = str(PurePosixPath(file).with_suffix(CLIP))
        link = f"[clip]({quote(clip)})" if clip in files else ""
        cells = (
            *(_cell(text) for text in (motion.name, motion.noun, f"… {motion.phrase}")),
            *(_cell(motion.method), f"`{motion.base[:12]}`", link),
        )
        rows.append(f"| {' | '.join(cells)} |")
    first = motions[0][1].name.replace('"', "")
    return "\n".join(
        (
            *rows,
            "",
            "```",
            f'python -m motion_app motions pull "{_plain(first)}" --repo {repository}',
            "```",
        )
    )


def _cell(text: str) -> str:
    """Words of strangers as nothing but words."""
    return re.sub(r"([\\`*_{}\[\]<>|#~!&])", r"\\\1", " ".join(text.split()))


def _plain(text: str) -> str:
    return re.sub(r"[`$\\]", "", text)
