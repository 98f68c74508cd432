"""The commands about motions: those of the library, and of the Hugging Face Hub. torch is imported
only where a published file is converted.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from motion_app.cli.parser import Result, add_command, add_group, add_model
from motion_app.cli.training import add_clip_commands, add_training, check_motion_out, check_there
from motion_app.errors import RequestError
from motion_app.library.library import Library, motion_entry
from motion_app.library.published import MotionRepository
from motion_app.models.checkpoint import Checkpoint
from motion_app.settings import PREFIX, Settings

REPOSITORY = f"{PREFIX}MOTION_REPO"


def list_motions(options: argparse.Namespace, settings: Settings) -> Result:
    """The library, and what is wrong with the files in it that cannot be used; with ``--repo`` a
    repository of the hub."""
    if options.repo is not None:
        return _list_published(options, settings)
    library = Library(settings.motion_folders(options.model))
    motions = [motion_entry(motion) for motion in library.list()]
    return {"motions": motions, "problems": library.problems()}


def delete_motion(options: argparse.Namespace, settings: Settings) -> Result:
    """Move one motion into the trash; the token in the answer brings it back."""
    library = Library(settings.motion_folders(), limits=settings.limits)
    library.empty_trash()
    deleted = library.delete(options.name)
    return {"deleted": deleted.name, "token": deleted.token}


def rename_motion(options: argparse.Namespace, settings: Settings) -> Result:
    """Another name for one motion; its file, clip and owner stay."""
    library = Library(settings.motion_folders())
    return motion_entry(library.rename(options.name, options.new_name))


def share_motion(options: argparse.Namespace, settings: Settings) -> Result:
    """Show one motion to all who use the server, or to its owner alone."""
    library = Library(settings.motion_folders())
    return motion_entry(library.share(options.name, not options.private))


def restore_motion(options: argparse.Namespace, settings: Settings) -> Result:
    """Bring a deleted motion back."""
    return motion_entry(Library(settings.motion_folders()).restore(options.token))


def export_motion(options: argparse.Namespace, settings: Settings) -> Result:
    """One file with the motion and its preview inside."""
    library = Library(settings.motion_folders(options.model))
    motion = library.find(options.name)
    return {"name": motion.name, "file": str(library.export_file(motion, options.out))}


def import_exported(options: argparse.Namespace, settings: Settings) -> Result:
    """An exported motion into the library, checked against the model that is named."""
    model = options.model or settings.model
    library = Library(settings.motion_folders(model))
    motion = library.import_file(
        options.file, name=options.name, limits=settings.limits, **_sizes_of(model)
    )
    return motion_entry(motion)


def import_motion(options: argparse.Namespace, settings: Settings) -> Result:
    """The authors' ``pytorch_model.pt`` as safetensors, bound to the model that is named, of which
    the hub's digests are enough."""
    check_there(options.file)
    check_motion_out(options.out)

    from motion_app.engine.motion_tokens import convert_published

    checkpoint, base = Checkpoint.base_of(options.model or settings.model)
    geometry = checkpoint.geometry
    saved = convert_published(
        options.file,
        options.out,
        layers=geometry.layers,
        width=geometry.width_tokens,
        base=base,
        name=options.name,
        phrase=options.phrase,
        noun=options.noun,
        most_megabytes=settings.limits.motion_megabytes,
    )
    return {"motion": str(options.out), "name": saved.name, "layers": saved.layers}


def add_commands(actions: Any) -> None:
    """``motions …`` and ``import-motion``, then what learns one."""
    listed = add_group(actions, "motions", "the library of motions")
    listing = add_command(listed, "list", list_motions, "list the motions there are")
    listing.add_argument("--model", help="the model whose own motions are listed too")
    listing.add_argument(
        "--repo",
        nargs="?",
        const="",
        metavar="OWNER/NAME",
        help=f"those of a repository of the hub instead; without a name that of {REPOSITORY}",
    )
    deleting = add_command(listed, "delete", delete_motion, "move a motion to the trash")
    deleting.add_argument("name")
    renaming = add_command(listed, "rename", rename_motion, "give a motion another name")
    renaming.add_argument("name")
    renaming.add_argument("new_name", metavar="NEW")
    sharing = add_command(listed, "share", share_motion, "show a motion to all, or to its owner")
    sharing.add_argument("name")
    sharing.add_argument("--private", action="store_true", help="to its owner alone")
    restoring = add_command(listed, "restore", restore_motion, "bring a deleted one back")
    restoring.add_argument("token", help="what delete answered")
    exporting = add_command(
        listed, "export", export_motion, "one file with the motion and its preview"
    )
    exporting.add_argument("name")
    exporting.add_argument("--out", type=Path, required=True, metavar="DIR")
    exporting.add_argument("--model", help="the model whose own motions are meant too")
    importing = add_command(listed, "import", import_exported, "bring in an exported motion")
    importing.add_argument("file", type=Path, metavar="FILE.safetensors")
    importing.add_argument("--name", help="another name, where its own is taken")
    add_model(importing)
    _add_hub_commands(listed)
    add_clip_commands(listed)
    parser = add_command(actions, "import-motion", import_motion, "convert a published motion file")
    parser.add_argument("file", type=Path, metavar="pytorch_model.pt")
    parser.add_argument("--name", required=True)
    parser.add_argument("--phrase", required=True, help="its motion words, as in its captions")
    parser.add_argument("--noun", default="", help="what moves in its reference clip")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    add_model(parser)
    add_training(actions)


def _list_published(options: argparse.Namespace, settings: Settings) -> Result:
    """The motions of a repository of the hub."""
    listing = _repository(options, settings).list()
    published = [
        motion_entry(one.motion) | {"path": one.file, "bytes": one.size} for one in listing.motions
    ]
    told = {"repo": listing.repository, "revision": listing.revision}
    return told | {"motions": published, "problems": list(listing.problems)}


def _sizes_of(model: str) -> dict[str, Any]:
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
    sizes, repository = _sizes_of(model), _repository(options, settings)
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


def _add_hub_commands(listed: Any) -> None:
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
