"""What is wrong with an object before anything is generated, at the grid the model sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from motion_app.errors import RequestError
from motion_app.geometry import ModelGeometry, mask_to_grid
from motion_app.request.phrases import occurrences, phrase_spans
from motion_app.ui.transfer.draft import SceneDraft
from motion_app.ui.transfer.object_draft import ObjectDraft
from motion_app.wording import difference


@dataclass(frozen=True)
class Problem:
    """``key`` and ``values`` of a text. ``fatal``: a request with it is refused."""

    key: str
    values: Mapping[str, object] = field(default_factory=dict)
    fatal: bool = True


def object_grids(draft: SceneDraft, geometry: ModelGeometry) -> np.ndarray:
    """(N, h, w) bool: the tokens of each object."""
    masks = [item.mask for item in draft.objects]
    masks = np.stack(masks) if masks else np.zeros((0, *draft.frame_size), dtype=bool)
    return mask_to_grid(masks, geometry.grid_height, geometry.grid_width)


def object_problems(draft: SceneDraft, geometry: ModelGeometry) -> list[list[Problem]]:
    """For every object what is wrong with its mask and its sentence; [] where nothing is."""
    grids = object_grids(draft, geometry)
    return [
        [
            *_mask_problems(item, grids[k], geometry),
            *_overlaps(draft, grids, k),
            *_sentence_problems(item),
        ]
        for k, item in enumerate(draft.objects)
    ]


def _mask_problems(item: ObjectDraft, grid: np.ndarray, geometry: ModelGeometry) -> list[Problem]:
    if not item.mask.any():
        return [Problem("transfer.notice_empty")]
    if grid.any():
        return []
    pixels, side = int(item.mask.sum()), geometry.smallest_object
    return [Problem("transfer.notice_small", {"pixels": pixels, "side": side})]


def _overlaps(draft: SceneDraft, grids: np.ndarray, k: int) -> list[Problem]:
    """Objects may share tokens, but then the model cannot tell there which motion is meant."""
    problems = []
    for other, item in enumerate(draft.objects):
        shared = int((grids[k] & grids[other]).sum())
        if other != k and shared:
            share = round(100 * shared / int(grids[k].sum()))
            name = item.name and f" ({item.name})"
            values = {"number": other + 1, "name": name, "tokens": shared, "share": share}
            problems.append(Problem("transfer.notice_overlap", values, fatal=False))
    return problems


def _sentence_problems(item: ObjectDraft) -> list[Problem]:
    """The request wants the phrase in the sentence even where the whole prompt was edited."""
    if item.motion is None:
        return []
    count = len(occurrences(item.phrase, item.sentence))
    if count == 1:
        return []
    told = "" if count else difference(item.phrase.strip(), item.sentence)
    values = {
        "phrase": item.phrase,
        "sentence": item.sentence,
        "count": count,
        "difference": told,
    }
    return [Problem("transfer.notice_phrase", values)]


def prompt_fault(draft: SceneDraft) -> str:
    """Why an edited prompt would be refused, with both texts quoted; "" where it would not."""
    if draft.prompt is None:
        return ""
    if not draft.prompt.strip():
        return "the prompt is empty; say in words what the objects do"
    try:
        phrase_spans(draft.prompt, draft.scene_objects())
    except RequestError as error:
        return str(error)
    return ""
