"""The commands about motions on the Hugging Face Hub: listed, brought in, published."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from motion_app.cli.parser import Result, add_command, add_model
from motion_app.errors import RequestError
from motion_app.library.library import Library, motion_entry
from motion_app.library.published import MotionRepository
from motion_app.models.checkpoint import Checkpoint
from motion_app.settings import PREFIX, Settings

REPOSITORY = f"{PREFIX}MOTION_REPO"


def list_published(options: argparse.Namespace, settings: Settings) -> Result:
    """The motions of a repository of the hub."""
    listing = _repository(options, settings).list()
    published = [
        motion_entry(one.motion) | {"path": one.file, "bytes": one.size} for one in listing.motions
    ]
    told = {"repo": listing.repository, "revision": listing.revision}
    return told | {"motions": published, "problems": list(listing.problems)}


def sizes_of(model: str) -> dict[str, Any]:
    """What a motion for ``model`` must fit; nothing where its files are not in a folder here."""
    if not Path(model).is_dir():
        return {}
    checkpoint = Checkpoint.read(model)
    base, geometry = checkpoint.fingerprint, checkpoint.geometry
    return {"base": base, "layers": geometry.layers, "width": geometry.width_tokens}


def pull_motions(options: argparse.Namespace, settings: Settings) -> Result:
    """Motions of a repository of the hub into the library, checked as an import is; all of them are
    looked up before the first is fetched."""
    model = options.model or settings.model
    sizes, repository = sizes_of(model), _repository(options, settings)
    listing = repository.list()
    entries = [listing.find(name, base=sizes.get("base")) for name in options.names]
    library = Library(settings.motion_folders(model))
    brought = []
    for entry in entries:
        with TemporaryDirectory() as folder:
            file = repository.fetch(entry, listing.revision, Path(folder), limits=settings.limits)
            motion = library.import_file(file, limits=settings.limits, **sizes)
            brought.append(motion_entry(motion))
    return {"repo": listing.repository, "revision": listing.revision, "motions": brought}


def push_motions(options: argparse.Namespace, settings: Settings) -> Result:
    """Motions of the library to a repository of the hub, in one commit with the card."""
    library = Library(settings.motion_folders(options.model))
    motions = [library.find(name) for name in dict.fromkeys(options.names)]
    done = _repository(options, settings).push(
        motions, create=options.create, replace=options.replace, limits=settings.limits
    )
    return asdict(done)


def _repository(options: argparse.Namespace, settings: Settings) -> MotionRepository:
    """The one of ``--repo``, else of the settings."""
    named = options.repo or settings.motion_repo
    if not named:
        raise RequestError("no repository is named; say --repo owner/name, or set " + REPOSITORY)
    return MotionRepository(named)


def add_hub_commands(listed: Any) -> None:
    """``motions pull`` and ``motions push``."""
    pulling = add_command(listed, "pull", pull_motions, "bring in motions of the Hugging Face Hub")
    pushing = add_command(listed, "push", push_motions, "publish motions on the Hugging Face Hub")
    for parser in (pulling, pushing):
        parser.add_argument("names", nargs="+", metavar="NAME")
        parser.add_argument(
            "--repo", metavar="OWNER/NAME", help=f"its repository (default: {REPOSITORY})"
        )
    add_model(pulling)
    pushing.add_argument("--model", help="the model whose own motions are meant too")
    pushing.add_argument(
        "--create", choices=("private", "public"), help="make the repository if there is none"
    )
    pushing.add_argument(
        "--replace", action="store_true", help="also in place of another motion of that name"
    )
