"""A checked request that a job keeps: its JSON beside one npz of its picture, masks and words.
Nothing is encoded, decoded or looked for again."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from motion_app.errors import RequestError
from motion_app.library.library import Library
from motion_app.scene import Clause, GenerationRequest, Options, SceneObject, option_names


def with_motions(
    request: GenerationRequest, library: Library, *, base: str | None
) -> GenerationRequest:
    """``request`` with the motions that the library has now under their names, for the model
    ``base`` (None: any). It stays checked where none is another file than it was. Raises
    MotionFileError."""
    motions = [
        None if item.motion is None else library.find(item.motion.name, base=base)
        for item in request.objects
    ]
    objects = tuple(
        replace(item, motion=motion) for item, motion in zip(request.objects, motions, strict=True)
    )
    found = replace(request, objects=objects)
    same = all(
        item.motion is None or motion is None or item.motion.digest == motion.digest
        for item, motion in zip(request.objects, motions, strict=True)
    )
    return found.with_clauses(request.clauses) if same and request.clauses is not None else found


def request_bytes(request: GenerationRequest) -> bytes:
    """An npz of what JSON does not hold: ``image`` (H, W, 3) uint8, which is not there where the
    request has none, ``masks`` (N, H, W) bool, and ``words``, the clauses and the motions' digests
    as JSON."""
    words = {
        "clauses": request.clauses
        and [None if clause is None else asdict(clause) for clause in request.clauses],
        "digests": ["" if item.motion is None else item.motion.digest for item in request.objects],
    }
    masks = [item.mask for item in request.objects]
    kept: dict[str, Any] = {
        "masks": np.stack(masks) if masks else np.zeros((0, 1, 1), bool),
        "words": json.dumps(words),
    }
    if request.image is not None:
        kept["image"] = request.image
    file = io.BytesIO()
    np.savez_compressed(file, **kept)
    return file.getvalue()


def read_request(
    file: Path, entries: Mapping[str, Any], *, library: Library, base: str | None
) -> GenerationRequest:
    """What ``request_bytes`` wrote into ``file``, with the ``entries`` of the request's JSON. It is
    checked where it was, and its motions are still the same files. Raises RequestError for a file
    that cannot be read, and MotionFileError."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            image = None if entries["image"] is None else kept["image"]
            masks = kept["masks"]
            words = json.loads(str(kept["words"]))
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(
            f"the request {file.name} of this job cannot be read; hand it in again"
        ) from error
    objects, same = [], True
    for entry, mask, digest in zip(entries["objects"], masks, words["digests"], strict=True):
        motion = entry["motion"] and library.find(entry["motion"], base=base)
        same = same and (motion is None or motion.digest == digest)
        known = {name: entry[name] for name in ("sentence", "phrase", "strength", "name")}
        path = entry.get("path") and tuple(map(tuple, entry["path"]))
        objects.append(SceneObject(mask, motion=motion, path=path, **known))
    options = Options(**{name: entries[name] for name in option_names() if name in entries})
    request = GenerationRequest(image, tuple(objects), options)
    if not same or words["clauses"] is None:
        return request
    return request.with_clauses([clause and _clause(clause) for clause in words["clauses"]])


def _clause(entries: Mapping[str, Any]) -> Clause:
    subject = entries["subject"]
    return Clause(
        tuple(entries["motion"]),
        None if subject is None else tuple(subject),
        tuple(entries["pieces"]),
    )
