"""Objects, motions and sentences become a GenerationRequest, or an error that says what is missing.

``find_phrases`` (of ``phrases``) is part of it: where each object's motion words lie in the tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from motion_app.errors import RequestError
from motion_app.geometry import FitMode, FittedImage, ModelGeometry, fit_image, mask_to_grid
from motion_app.library.library import Library
from motion_app.media.files import decode_data_uri, encode_data_uri, read_image, read_mask
from motion_app.methods import (
    ABLATIONS,
    METHOD_TABLE,
    METHODS,
    PACK_ABLATIONS,
    PACK_METHODS,
    SCOPES,
    TOKEN_METHODS,
)
from motion_app.request.phrases import check_phrase, find_phrases, phrase_spans
from motion_app.scene import NEUTRAL_PHRASE, GenerationRequest, SceneObject
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.text_files import located, read_json

LONGEST_TEXT = 4000  # characters; what a model reads of it is counted in its own tokens
MAX_STRENGTH = 4.0  # a factor on the softmax weight; beyond it a motion drowns the picture


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ObjectEntry(_Entry):
    """One object of a request file. ``mask``: a PNG's path, or the PNG itself as a data URI; white
    is the object, at the size of the original picture or of the model frame."""

    mask: str
    sentence: str = Field(max_length=LONGEST_TEXT)
    phrase: str = Field(default=NEUTRAL_PHRASE, max_length=LONGEST_TEXT)
    motion: str | None = Field(default=None, max_length=LONGEST_TEXT)
    strength: float = Field(default=1.0, ge=0, le=MAX_STRENGTH, allow_inf_nan=False)
    name: str = Field(default="", max_length=LONGEST_TEXT)


class RequestFile(_Entry):
    """A request as JSON, the form the command line takes and a recipe has."""

    image: str
    objects: tuple[ObjectEntry, ...] = Field(default=(), strict=False)
    seed: int = Field(default=0, ge=0, lt=2**63)
    steps: int | None = Field(default=None, ge=1, le=1000)
    guidance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    prompt: str | None = Field(default=None, max_length=LONGEST_TEXT)
    fit: FitMode = "crop"
    model: str | None = None
    method: str = "fleximmt"
    without: tuple[str, ...] = Field(default=(), strict=False)
    scope: str = "released"

    @field_validator("method")
    @classmethod
    def _known_method(cls, method: str) -> str:
        return _one_of(method, METHODS)

    @field_validator("scope")
    @classmethod
    def _known_scope(cls, scope: str) -> str:
        return _one_of(scope, SCOPES)

    @field_validator("without")
    @classmethod
    def _known_ablations(cls, without: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_one_of(name, (*ABLATIONS, *PACK_ABLATIONS)) for name in without)


def _one_of(value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"choose one of {', '.join(known)}")
    return value


def parse_request(source: Path | str | Mapping[str, Any]) -> RequestFile:
    """Read a request from a JSON file or a mapping; RequestError says which key is wrong.

    A recipe, which has its request inside, is read as that request; the model it names belongs to
    the machine that wrote it and is left out.
    """
    if isinstance(source, Mapping):
        entries: Any = dict(source)
    else:
        entries = read_json(source, f"the request {Path(source).name}")
    if not isinstance(entries, dict):
        raise RequestError(f"a request is one JSON object, got {type(entries).__name__}")
    if isinstance(entries.get("request"), dict) and "base" in entries:
        entries = {**entries["request"], "model": None}
    try:
        return RequestFile.model_validate(entries)
    except ValidationError as error:
        raise RequestError("; ".join(_explain(fault) for fault in error.errors())) from error


def _explain(fault: Mapping[str, Any]) -> str:
    """One fault of the JSON in words. Keys are counted as a person does, objects from 1."""
    place = list(fault["loc"])
    key = next((part for part in reversed(place) if isinstance(part, str)), "request")
    owner = ""
    if len(place) > 1 and place[0] == "objects":
        owner = f" of object {int(place[1]) + 1}"
        key = key if len(place) > 2 else "entry"
    if fault["type"] == "extra_forbidden":
        known = ObjectEntry.model_fields if owner else RequestFile.model_fields
        return f'unknown key "{key}"{owner}; known: {", ".join(known)}'
    if fault["type"] == "missing":
        return f'"{key}"{owner} is missing'
    reason = fault["msg"].removeprefix("Value error, ")
    shown = repr(fault["input"])
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return f'"{key}"{owner} is {shown}: {reason[0].lower()}{reason[1:]}'


def build_request(
    request_file: RequestFile,
    *,
    geometry: ModelGeometry,
    library: Library,
    base: str | None,
    folder: Path | str = ".",
    tokenizer: Any = None,
    limits: Limits = DEFAULT_LIMITS,
) -> GenerationRequest:
    """Load and check everything a request names.

    ``base``: fingerprint of the loaded base model (None takes motions of any). ``folder``: what the
    request's relative paths start from. ``tokenizer`` as in ``check_request``. Raises RequestError,
    MediaError or MotionFileError.
    """
    _check_count(len(request_file.objects), limits)
    fitted = fit_image(
        read_image(_source(request_file.image, folder), limits=limits),
        geometry.height,
        geometry.width,
        request_file.fit,
    )
    objects = tuple(
        _scene_object(entry, number, fitted, geometry, library, base, folder, limits)
        for number, entry in enumerate(request_file.objects, start=1)
    )
    request = GenerationRequest(
        image=fitted.image,
        objects=objects,
        seed=request_file.seed,
        steps=request_file.steps,
        guidance=request_file.guidance,
        prompt=request_file.prompt,
        method=request_file.method,
        without=frozenset(request_file.without),
        scope=request_file.scope,
    )
    check_request(request, geometry=geometry, tokenizer=tokenizer, limits=limits)
    check_method(request, library=library)
    return request


def _source(text: str, folder: Path | str) -> Path | bytes:
    return decode_data_uri(text) if text.startswith("data:") else located(folder, text)


def _scene_object(
    entry: ObjectEntry,
    number: int,
    fitted: FittedImage,
    geometry: ModelGeometry,
    library: Library,
    base: str | None,
    folder: Path | str,
    limits: Limits,
) -> SceneObject:
    mask = read_mask(_source(entry.mask, folder), limits=limits)
    frame = (geometry.height, geometry.width)
    if mask.shape not in (frame, fitted.source_size):
        raise RequestError(
            f"the mask of object {number} is {mask.shape[1]}×{mask.shape[0]}; it must have the "
            f"size of the picture, {fitted.source_size[1]}×{fitted.source_size[0]}, or of the "
            f"model's frame, {frame[1]}×{frame[0]}"
        )
    if not mask.any():
        raise RequestError(f"the mask of object {number} is empty; mark the object")
    if mask.shape == fitted.source_size:
        mask = fitted.fit_mask(mask)
        if not mask.any():
            raise RequestError(
                f"object {number} lies in the part of the picture that was cut off "
                f'({fitted.summary()}); choose another object or the fit "pad"'
            )
    motion = None if entry.motion is None else library.find(_motion_path(entry, folder), base=base)
    return SceneObject(mask, entry.sentence, entry.phrase, motion, entry.strength, entry.name)


def _motion_path(entry: ObjectEntry, folder: Path | str) -> str | Path:
    """A motion given as a path is relative to the request, one given as a name is the library's."""
    motion = str(entry.motion)
    return located(folder, motion) if motion.endswith(".safetensors") else motion


def check_request(
    request: GenerationRequest,
    *,
    geometry: ModelGeometry,
    tokenizer: Any = None,
    limits: Limits = DEFAULT_LIMITS,
) -> None:
    """Refuse a request that cannot be generated as it stands, however it was put together.

    Raises RequestError for a wrong image or mask, too small an object, numbers out of range, a
    phrase missing from its sentence, an edited prompt that does not hold every phrase. With a
    ``tokenizer`` (a fast transformers tokenizer or a ``PromptTokenizer``) also for a prompt longer
    than the model reads, and phrases that share a token.
    """
    frame = (geometry.height, geometry.width)
    if request.image.shape != (*frame, 3) or request.image.dtype != np.uint8:
        raise RequestError(
            f"the image is {request.image.shape} of {request.image.dtype}, expected "
            f"({frame[0]}, {frame[1]}, 3) of uint8; fit it to the model's frame first"
        )
    _check_count(len(request.objects), limits)
    if request.steps is not None and request.steps < 1:
        raise RequestError(f"steps is {request.steps}; at least 1 is needed")
    if request.guidance is not None and not (
        math.isfinite(request.guidance) and request.guidance >= 0
    ):
        raise RequestError(f"guidance is {request.guidance}; a number from 0 up is needed")
    for number, scene_object in enumerate(request.objects, start=1):
        _check_object(scene_object, number, geometry)
    if not request.full_prompt().strip() and request.objects:
        raise RequestError("the prompt is empty; say in words what the objects do")
    if tokenizer is None:
        phrase_spans(request.full_prompt(), request.objects)
    else:
        find_phrases(request.full_prompt(), request.objects, tokenizer, geometry.text_tokens)


def check_method(request: GenerationRequest, *, library: Library | None = None) -> None:
    """RequestError for a method or an ablation that is unknown or does not fit the other, and for
    a motion that lacks what the method needs; ``library``: whose motions that have it are named."""
    method = request.method
    if method not in METHODS:
        raise RequestError(f'unknown method "{method}"; choose one of {", ".join(METHODS)}')
    allowed = METHOD_TABLE[method].without
    unknown = sorted(request.without - {*ABLATIONS, *PACK_ABLATIONS})
    if unknown:
        raise RequestError(
            f'unknown ablation "{unknown[0]}"; choose from '
            + ", ".join((*ABLATIONS, *PACK_ABLATIONS))
        )
    wrong = sorted(request.without - allowed)
    if wrong:
        takes = f"it takes {', '.join(sorted(allowed))}" if allowed else "it takes none"
        raise RequestError(
            f'the ablation "{wrong[0]}" is none of the method "{method}", {takes}; leave one of '
            "them out"
        )
    motions = [] if library is None else library.list()
    for number, item in enumerate(request.objects, start=1):
        motion = item.motion
        if motion is None:
            continue
        for needs, has, what in (
            (TOKEN_METHODS, "has_tokens", "motion tokens"),
            (PACK_METHODS, "has_pack", "embeddings and an adapter learned by SynMotion"),
        ):
            if method in needs and not getattr(motion, has):
                able = [m.name for m in motions if getattr(m, has) and m.base == motion.base]
                offer = f"these have them: {', '.join(able)}" if able else "no motion here has them"
                raise RequestError(
                    f'the method "{method}" needs {what}, which the motion "{motion.name}" of '
                    f'object {number} lacks (it was learned by "{motion.method}"); {offer}'
                )


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.objects:
        raise RequestError(f"the request has {count} objects; at most {limits.objects} are allowed")


def _check_object(scene_object: SceneObject, number: int, geometry: ModelGeometry) -> None:
    mask = scene_object.mask
    frame = (geometry.height, geometry.width)
    if mask.shape != frame or mask.dtype != np.bool_:
        raise RequestError(
            f"the mask of object {number} is {mask.shape} of {mask.dtype}, expected {frame} of bool"
        )
    if not mask.any():
        raise RequestError(f"the mask of object {number} is empty; mark the object")
    if not mask_to_grid(mask, geometry.grid_height, geometry.grid_width).any():
        token, side = geometry.pixels_per_token, geometry.smallest_object
        raise RequestError(
            f"object {number} is too small: its mask has {int(mask.sum())} pixels of the "
            f"{frame[1]}×{frame[0]} frame and fills no token (the model sees one per "
            f"{token}×{token} pixels); it must be at least {side}×{side} pixels"
        )
    if not (math.isfinite(scene_object.strength) and 0 <= scene_object.strength <= MAX_STRENGTH):
        raise RequestError(
            f"the strength of object {number} is {scene_object.strength}; "
            f"it must lie between 0 and {MAX_STRENGTH:g}"
        )
    if scene_object.motion is not None:
        check_phrase(scene_object, number)


def request_to_json(request: GenerationRequest, *, model: str | None = None) -> dict[str, Any]:
    """The request as the JSON that ``parse_request`` reads, complete in itself: the fitted image
    and the masks are inside as PNG data URIs, so that it replays where the files are gone."""
    return {
        "image": encode_data_uri(request.image),
        "objects": [
            {
                "mask": encode_data_uri(item.mask),
                "sentence": item.sentence,
                "phrase": item.phrase,
                "motion": None if item.motion is None else item.motion.name,
                "strength": item.strength,
                "name": item.name,
            }
            for item in request.objects
        ],
        "seed": request.seed,
        "steps": request.steps,
        "guidance": request.guidance,
        "prompt": request.prompt,
        "model": model,
        "method": request.method,
        "without": sorted(request.without),
        "scope": request.scope,
    }
