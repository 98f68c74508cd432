"""Content keys: what a result is made from, and the digest of it.

What a job of a manifest is made from: the line checked and made complete, and its content key.

Two lines have one key exactly where nothing that can change the result differs: the settings, the
bytes of every file that is named, those of the base model, and the versions of the libraries.

The sha256 of files, remembered while their size and time of change stay the same: a base model
has twenty gigabytes, and a run may be resumed often.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from motion_app.errors import CheckpointError, RequestError
from motion_app.jobs.models import running_of
from motion_app.library.library import Library
from motion_app.media.files import decode_data_uri
from motion_app.models.checkpoint import Checkpoint
from motion_app.models.stock_files import StockFiles
from motion_app.request.phrases import PromptTokenizer
from motion_app.request.request import ObjectEntry, RequestFile, build_request, parse_request
from motion_app.scene import Options
from motion_app.settings import Settings
from motion_app.text_files import file_digest, is_leftover, listed, located, write_whole
from motion_app.training.inputs import TrainingInputs

FORMAT = 2  # of results, and of how they are computed; another number makes all of them anew
LIBRARIES = ("torch", "diffusers", "transformers")
TRAINING_KEYS = {entry.name for entry in fields(TrainingInputs)} | {"trim", "crop", "mover"}
KEYED = ("seed", "steps", "guidance", "prompt", "fit", "method", "without", "scope")  # of FORMAT 2
UNSEEN = ("seed", "steps", "guidance")  # do not matter to whether pictures and masks fit

TRAINING_KEYS -= {"validate_every"}  # nobody watches


class EvaluationLine(BaseModel):
    """A video to score. ``request``: a request's or recipe's file, or the JSON itself; ``metrics``
    None takes those whose judges are there."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    video: str
    request: str | dict[str, Any] | None = None
    references: tuple[str, ...] = Field(default=(), strict=False)
    reference_masks: tuple[str, ...] = Field(default=(), strict=False)
    method: str | None = None
    metrics: tuple[str, ...] | None = Field(default=None, strict=False)
    model: str | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """``entries``: the line without kind and id, complete in itself; ``key`` of its contents."""

    entries: dict[str, Any]
    key: str


@dataclass(frozen=True, eq=False)
class _Model:
    checkpoint: Checkpoint
    base: str
    digest: str
    library: Library
    tokenizer: PromptTokenizer | None


class Ingredients:
    """Reads what lines name. ``remembered``: where digests are kept between runs."""

    def __init__(self, settings: Settings, *, remembered: Path) -> None:
        self._settings = settings
        self._digests = Digests(remembered)
        self._model = cache(self._read_model)
        self._stock = cache(self._read_stock)
        self._library = cache(lambda model: Library(settings.motion_folders(model)))
        self._fitting: set[str] = set()
        running = running_of(settings)
        self._running = {"running": running} if running else {}

    def save(self) -> None:
        """Keep the digests for the next run."""
        self._digests.save()

    def of(self, kind: str, entries: Mapping[str, Any], folder: Path) -> Prepared:
        """A line of ``kind`` whose paths start from ``folder``. Raises MotionAppError for what
        cannot be run, OSError for a file that cannot be read."""
        prepare = {"generate": self._generate, "train": self._train, "evaluate": self._evaluate}
        complete, contents = prepare[kind](dict(entries), folder)
        return Prepared(complete, _key({"kind": kind, **contents}))

    def _read_model(self, source: str) -> _Model:
        checkpoint = Checkpoint.find(source)
        folder = checkpoint.folder
        weights = folder / "transformer"
        files = [file for file in listed(weights) if file.is_file()]
        place = str(weights.resolve())
        base = self._digests.made(place, files, lambda: checkpoint.fingerprint)
        parts = {"transformer": base}
        for path in sorted([*folder.glob("*.json"), *folder.glob("*/*")]):
            name = path.relative_to(folder)
            if is_leftover(name) or name.parts[0] in ("motions", "transformer"):
                continue
            if path.is_file():
                parts[str(name)] = self._digests.of(path)
        return _Model(
            checkpoint,
            base,
            _key(parts),
            self._library(source),
            PromptTokenizer.load_if_there(checkpoint),
        )

    # videos

    def _generate(self, entries: dict[str, Any], folder: Path) -> tuple[dict, dict]:
        merged: dict[str, Any] = {}
        given = entries.pop("request", None)
        if isinstance(given, str):
            path = located(folder, given)
            merged = _rooted(parse_request(path).model_dump(), path.resolve().parent)
        elif isinstance(given, Mapping):
            merged = _rooted(parse_request(given).model_dump(), folder)
        elif given is not None:
            raise RequestError(f'"request" is {str(given)[:40]!r}; give a file or its JSON')
        request = parse_request({**merged, **_rooted(entries, folder)})
        source = request.model or self._settings.model
        request = request.model_copy(update={"model": source})
        model = self._model(source)
        contents = self._contents_of(request, model)
        seen = _key({name: contents[name] for name in contents if name not in UNSEEN})
        if seen not in self._fitting:
            build_request(
                request,
                geometry=model.checkpoint.geometry,
                library=model.library,
                base=model.base,
                tokenizer=model.tokenizer,
                limits=self._settings.limits,
            )
            self._fitting.add(seen)
        contents |= {"model": model.digest, "badge": self._settings.badge, **self._running}
        return request.model_dump(mode="json"), contents

    def _contents_of(self, request: RequestFile, model: _Model) -> dict[str, Any]:
        """The request with digests in the place of files."""
        objects = []
        for entry in request.objects:
            file = entry.motion and model.library.find(entry.motion, base=model.base).path
            motion = self._digests.of(file) if file else None
            objects.append(
                entry.model_dump() | {"mask": self._picture(entry.mask), "motion": motion}
            )
        kept = request.model_dump(exclude={"image", "objects", "model"})
        # An option that came after this FORMAT counts where it is chosen: older results stay known.
        usual = Options().to_json()
        kept = {n: value for n, value in kept.items() if n in KEYED or value != usual.get(n)}
        if request.options.stock is not None:
            kept["stock"] = self._stock(request.options.stock)
        return kept | {"image": self._picture(request.image), "objects": objects}

    def _read_stock(self, name: str) -> str:
        """The digest of all files of a model of others."""
        folder = StockFiles.find(name, among=self._settings.stock_models).folder
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        named = {str(path.relative_to(folder)): path for path in files}
        return _key({n: self._digests.of(p) for n, p in named.items() if not is_leftover(Path(n))})

    def _picture(self, source: str | None) -> str | None:
        if source is None:
            return None
        if source.startswith("data:"):
            return hashlib.sha256(decode_data_uri(source)).hexdigest()
        return self._named(Path(source))

    def _named(self, path: Path) -> str:
        if not path.is_file():
            raise RequestError(f"there is no file {path}; check the path")
        return self._digests.of(path)

    # motions

    def _train(self, entries: dict[str, Any], folder: Path) -> tuple[dict, dict]:
        source = entries.pop("model", None) or self._settings.model
        unknown = sorted(set(entries) - TRAINING_KEYS)
        if unknown:
            known = ", ".join(sorted(TRAINING_KEYS | {"model"}))
            raise RequestError(f'unknown key "{unknown[0]}"; known: {known}')
        files = entries.get("clips")
        if isinstance(files, list):
            entries["clips"] = [_absolute(folder, str(file)) for file in files]
        inputs = training_inputs(entries)
        inputs.check_count(self._settings.limits)
        model = self._model(str(source))
        config = inputs.config(model.checkpoint.defaults.training_of(inputs.method))
        if model.tokenizer is not None:
            model.tokenizer.check(config.caption)
        clips = [self._named(clip.file) for clip in inputs.clips]
        contents = inputs.to_json() | {
            "clips": clips,
            "model": model.digest,
            "learned": config.told_apart_by(),
        }
        contents |= self._running
        marked = any(clip.mover for clip in inputs.clips)
        if marked and self._settings.segmenter is not None:  # else it is among the model's files
            contents["segmenter"] = self._settings.segmenter
        return entries | {"model": str(source)}, contents

    # scores

    def _evaluate(self, entries: dict[str, Any], folder: Path) -> tuple[dict, dict]:
        from motion_app.evaluation.scoring import check_metrics

        try:
            line = EvaluationLine.model_validate(entries)
        except ValidationError as error:
            raise RequestError("; ".join(_explain(fault) for fault in error.errors())) from error
        model = line.model or self._settings.model
        metrics = self._default_metrics() if line.metrics is None else list(line.metrics)
        check_metrics(metrics)
        request = line.request
        if request is not None:
            start = folder
            if isinstance(request, str):
                file = located(folder, request)
                start = file.resolve().parent
                parsed = parse_request(file)
            else:
                parsed = parse_request(request)
            request = _rooted(parsed.model_dump(mode="json"), start)
            count = len(line.references)
            if count not in (0, len(parsed.objects)):
                raise RequestError(
                    f"{count} references came for {len(parsed.objects)} objects; give one for each"
                )
        complete = line.model_dump(mode="json") | {
            "video": _absolute(folder, line.video),
            "references": [_absolute(folder, path) for path in line.references],
            "reference_masks": [_absolute(folder, path) for path in line.reference_masks],
            "request": request,
            "metrics": metrics,
            "model": model,
        }
        return complete, self._contents_scored(complete, self._library(model))

    def _default_metrics(self) -> list[str]:
        from motion_app.evaluation.catalogue import default_ids
        from motion_app.evaluation.networks import WeightStore

        return list(default_ids(WeightStore(self._settings.judges)))

    def _contents_scored(self, entries: Mapping[str, Any], library: Library) -> dict[str, Any]:
        contents = {name: entries[name] for name in ("method", "metrics")}
        video = Path(entries["video"])
        contents["video"] = self._named(video)
        lossless = lossless_frames(video)
        contents["frames"] = None if lossless is None else self._named(lossless)
        for name in ("references", "reference_masks"):
            contents[name] = [self._named(Path(path)) for path in entries[name]]
        request = entries["request"]
        if request is not None:
            request = json.loads(json.dumps(request))
            request["image"] = self._picture(request["image"])
            for item in request["objects"]:
                item["mask"] = self._picture(item.get("mask"))
                item["motion"] = item["motion"] and self._motion_and_preview(
                    item["motion"], library
                )
        contents["request"] = request
        contents["segmenter"] = self._settings.segmenter or self._segmenter_of(entries["model"])
        return contents

    def _segmenter_of(self, model: str | None) -> str | None:
        """The one that a model on this machine names; None where it names none: then references are
        marked by what moves in them."""
        folder = Path(model or self._settings.model)
        try:
            return Checkpoint.read(folder).segmenter() if folder.is_dir() else None
        except CheckpointError:
            return None

    def _motion_and_preview(self, motion: str, library: Library) -> list[str]:
        found = library.find(motion)
        files = [found.path] if found.preview is None else [found.path, found.preview]
        return [self._digests.of(file) for file in files]


def training_inputs(entries: Mapping[str, Any]) -> TrainingInputs:
    """What a line of the kind "train" asks for, its clips' paths as they are written; RequestError
    for another form."""
    inputs = TrainingInputs.from_json(entries, Path())
    clips = zip(inputs.clips, entries["clips"], strict=True)
    return replace(inputs, clips=tuple(replace(clip, file=Path(path)) for clip, path in clips))


def lossless_frames(video: Path) -> Path | None:
    """The frames that were kept without loss beside a video made here."""
    kept = video.with_name("frames.npz")
    return kept if kept.is_file() else None


def _absolute(folder: Path, written: str) -> str:
    return str(located(folder, written).resolve())


def _rooted(entries: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The entries of a request with absolute paths; what is no path stays as it is."""

    def rooted(value: Any) -> Any:
        if not isinstance(value, str) or value.startswith("data:"):
            return value
        return _absolute(folder, value)

    rooted_entries = dict(entries)
    if "image" in entries:
        rooted_entries["image"] = rooted(entries["image"])
    objects = entries.get("objects")
    if isinstance(objects, (list, tuple)):
        rooted_entries["objects"] = [_rooted_object(item, rooted) for item in objects]
    return rooted_entries


def _rooted_object(item: Any, rooted: Any) -> Any:
    if isinstance(item, ObjectEntry):
        item = item.model_dump()
    if not isinstance(item, Mapping):
        return item
    changed = dict(item)
    if "mask" in item:
        changed["mask"] = rooted(item["mask"])
    if str(item.get("motion")).endswith(".safetensors"):
        changed["motion"] = rooted(item["motion"])
    return changed


def _key(contents: Mapping[str, Any]) -> str:
    """sha256 of ``contents`` as canonical JSON."""
    versions = {name: version(name) for name in LIBRARIES}
    text = json.dumps(
        {"format": FORMAT, "versions": versions, "contents": contents},
        sort_keys=True,
        separators=(",", ":"),
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _explain(fault: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f'unknown key "{key}"; known: {", ".join(EvaluationLine.model_fields)}'
    if fault["type"] == "missing":
        return f'"{key}" is missing'
    message = fault["msg"]
    return f'"{key}" is {str(fault["input"])[:60]!r}: {message[0].lower()}{message[1:]}'


class Digests:
    """``remembered``: the file they are kept in between runs; one that is broken is made anew."""

    def __init__(self, remembered: Path) -> None:
        self._file = remembered
        self._changed = False
        try:
            kept = json.loads(remembered.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = {}
        self._kept: dict[str, list[str]] = kept if isinstance(kept, dict) else {}

    def of(self, path: Path) -> str:
        """The digest of one file; OSError where it cannot be read."""
        return self.made(str(path.resolve()), [path], lambda: file_digest(path))

    def made(self, name: str, files: Sequence[Path], make: Callable[[], str]) -> str:
        """What ``make`` says of ``files``, made again when one of them has changed."""
        states = [file.stat() for file in files]
        state = " ".join(f"{s.st_size}-{s.st_mtime_ns}-{s.st_ino}" for s in states)
        known = self._kept.get(name)
        if not (isinstance(known, list) and len(known) == 2 and known[0] == state):
            known = self._kept[name] = [state, make()]
            self._changed = True
        return known[1]

    def save(self) -> None:
        """Keep them for the next run, in one step."""
        if self._changed:
            text = json.dumps(self._kept, sort_keys=True)
            write_whole(self._file, lambda part: part.write_text(text, encoding="utf-8"))
            self._changed = False
