"""A request as JSON again: complete in itself, for recipes and for jobs that wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from motion_app.media.files import encode_data_uri
from motion_app.scene import GenerationRequest, SceneObject


def request_to_json(
    request: GenerationRequest, *, model: str | None = None, picture: str | None = None
) -> dict[str, Any]:
    """The request as the JSON that ``parse_request`` reads, complete in itself: the fitted image
    and the masks are inside as PNG data URIs, so that it replays where the files are gone. With
    ``picture``, the name of a file that holds them all, that name stands in their place."""
    return {
        "image": _as_uri(request.image, picture),
        "objects": [
            {
                **_mask_entry(request, item, picture),
                "sentence": item.sentence,
                "phrase": item.phrase,
                "motion": None if item.motion is None else item.motion.name,
                "strength": item.strength,
                "name": item.name,
                **_path_entry(item),
            }
            for item in request.objects
        ],
        **request.options.to_json(),
        "model": model,
    }


def _as_uri(image: np.ndarray | None, picture: str | None) -> str | None:
    return None if image is None else picture or encode_data_uri(image)


def _mask_entry(
    request: GenerationRequest, item: SceneObject, picture: str | None
) -> dict[str, Any]:
    return {} if request.image is None else {"mask": picture or encode_data_uri(item.mask)}


def told_objects(request: GenerationRequest, digests: Sequence[str]) -> list[dict[str, Any]]:
    """What a recipe says of each object: its words, its motion, and the motion's digest."""
    return [
        {
            "sentence": item.sentence,
            "phrase": item.phrase,
            "name": item.name,
            "motion": None if item.motion is None else item.motion.name,
            "motion_sha256": digest,
            "strength": item.strength,
            **_path_entry(item),
        }
        for item, digest in zip(request.objects, digests, strict=True)
    ]


def _path_entry(item: SceneObject) -> dict[str, Any]:
    return {} if item.path is None else {"path": [list(point) for point in item.path]}
