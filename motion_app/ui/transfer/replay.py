"""How a recipe, or a video that carries one, brings back what a person chose, with a word on
everything that may make the new video differ from the old one."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from motion_app.errors import RequestError
from motion_app.library.library import Library
from motion_app.media.provenance import read_recipe
from motion_app.request.request import ObjectEntry, RequestFile, parse_request
from motion_app.scene import Motion, Options
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.ui.markup import Texts
from motion_app.ui.transfer.settings import BIGGEST_SEED

SHORT_DIGEST = 12  # letters of a digest that are shown


@dataclass(frozen=True)
class Note:
    """A line about a recipe. ``key`` is that of its text, ``values`` fill it in; a "warning" says
    that another video comes out, "quiet" that it may."""

    kind: Literal["warning", "quiet"]
    key: str
    values: tuple[tuple[str, str], ...] = ()

    def text(self, texts: Texts) -> str:
        return texts(self.key, **dict(self.values))


@dataclass(frozen=True)
class Environment:
    """What a video is made with here: the model's ``name``, the fingerprint of its ``base`` (None
    before it is loaded), the ``device``, and the ``versions`` of the packages that compute;
    ``stock``: the models of others that are offered, by name."""

    name: str
    base: str | None
    device: str
    versions: Mapping[str, str]
    stock: Collection[str] = ()


@dataclass(frozen=True)
class Replay:
    """``request`` with its numbers filled in: ``seed``, ``steps`` and ``guidance`` are never
    None where the recipe knew them. ``notes``: what differs here."""

    request: RequestFile
    notes: tuple[Note, ...]


def installed_versions(names: Sequence[str] = ("torch", "diffusers")) -> dict[str, str]:
    """Versions of packages as installed, none of them imported; one that is not there is left
    out."""
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def read_replay(
    path: Path, *, library: Library, environment: Environment, limits: Limits = DEFAULT_LIMITS
) -> Replay:
    """The request inside a recipe, a request file, or a video made here.

    Raises MediaError for a video without a recipe, RequestError for JSON that is no request, and
    MotionFileError for a motion that is not in the ``library`` or belongs to another base model.
    """
    return replay_of(read_recipe(path, limits=limits), library=library, environment=environment)


def replay_of(recipe: Mapping[str, Any], *, library: Library, environment: Environment) -> Replay:
    """As ``read_replay``, for JSON that was read already."""
    request = parse_request(recipe)
    _check_complete(request)
    known = recipe if "base" in recipe else {}
    motions = [
        None if item.motion is None else library.find(_motion_name(item), base=environment.base)
        for item in request.objects
    ]
    notes = [
        *_model_notes(known, request, environment),
        *_motion_notes(known, motions),
        *_ablation_notes(request),
        *_environment_notes(known, environment),
    ]
    return Replay(request, tuple(notes))


def _check_complete(request: RequestFile) -> None:
    """A page reads no files by name: the picture and the masks must be inside."""
    pictures = [("image", request.image)]
    pictures += [
        (f"mask of object {number}", item.mask)
        for number, item in enumerate(request.objects, start=1)
    ]
    for what, source in pictures:
        if source is not None and not source.startswith("data:"):
            raise RequestError(
                f'the {what} is the file "{Path(source).name}", which is not in the recipe; drop '
                "the recipe.json that was written beside the video, it holds its pictures"
            )
    seed = request.options.seed
    if seed > BIGGEST_SEED:
        raise RequestError(
            f"the seed {seed} is above {BIGGEST_SEED}, the most that a browser keeps "
            "exactly; replay this recipe with the command line"
        )


def _motion_name(item: ObjectEntry) -> str:
    """A motion that was given as a file is looked for in the library by its name."""
    return Path(str(item.motion)).name.removesuffix(".safetensors")


def _model_notes(
    recipe: Mapping[str, Any], request: RequestFile, environment: Environment
) -> list[Note]:
    stock = request.options.stock
    if stock is not None:  # whatever the checkpoint, it makes the same video
        values = (("model", str(recipe.get("model") or stock)),)
        return [] if stock in environment.stock else [Note("warning", "video.replay_stock", values)]
    base = recipe.get("base")
    if not base or environment.base is None or base == environment.base:
        return []
    names = (("there", str(recipe.get("model", ""))), ("here", environment.name))
    return [Note("warning", "video.replay_base", names)]


def _motion_notes(recipe: Mapping[str, Any], motions: Sequence[Motion | None]) -> list[Note]:
    """One warning for each motion that has changed under its name since."""
    notes = []
    for made, motion in zip(recipe.get("objects", []), motions, strict=False):
        digest = made.get("motion_sha256", "") if isinstance(made, dict) else ""
        if motion is None or not digest or digest == motion.digest:
            continue
        values = (
            ("motion", motion.name),
            ("there", str(digest)[:SHORT_DIGEST]),
            ("here", motion.digest[:SHORT_DIGEST]),
        )
        notes.append(Note("warning", "video.replay_motion", values))
    return notes


def _ablation_notes(request: RequestFile) -> list[Note]:
    chosen = request.options
    if not chosen.without and chosen.scope == Options().scope:
        return []
    parts = ", ".join([*chosen.without, f"scope {chosen.scope}"])
    return [Note("warning", "video.replay_ablation", (("parts", parts),))]


def _environment_notes(recipe: Mapping[str, Any], environment: Environment) -> list[Note]:
    versions = recipe.get("versions")
    there = versions if isinstance(versions, dict) else {}
    pairs = [
        (name, str(there[name]), here)
        for name, here in sorted(environment.versions.items())
        if name in there
    ]
    if "device" in recipe and environment.device:  # which is not known before the model is loaded
        pairs.append(("device", str(recipe["device"]), environment.device))
    changed = [f"{name} {old} → {new}" for name, old, new in pairs if _plain(old) != _plain(new)]
    if not changed:
        return []
    return [Note("quiet", "video.replay_versions", (("changes", ", ".join(changed)),))]


def _plain(version: str) -> str:
    """Without the build's own part: PyTorch calls itself 2.11.0+cpu, its package 2.11.0."""
    return version.partition("+")[0]
