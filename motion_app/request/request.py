"""Objects, motions and sentences become a GenerationRequest, or an error that says what is
missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from motion_app.errors import RequestError, fault_in_words
from motion_app.geometry import FitMode, FittedImage, ModelGeometry, fit_image, mask_to_grid
from motion_app.library.library import Library
from motion_app.media.files import decode_data_uri, read_image, read_mask
from motion_app.methods import (
    CLIP_METHODS,
    ENCODED,
    LORA_METHODS,
    METHOD_TABLE,
    PACK_METHODS,
    PICTURELESS_METHODS,
    REFINED,
    TOKEN_METHODS,
)
from motion_app.request.paths import framed_path, read_path
from motion_app.request.phrases import check_phrase, find_clauses, phrase_spans
from motion_app.scene import (
    LONGEST_TEXT,
    DrawnPath,
    GenerationRequest,
    Options,
    SceneObject,
    option_names,
)
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.text_files import located, read_json
from motion_app.wording import NEUTRAL_PHRASE

MAX_STRENGTH = 4.0  # a factor on the softmax weight; beyond it a motion drowns the picture


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ObjectEntry(_Entry):
    """One object of a request file. ``mask``: a PNG's path, or the PNG itself as a data URI; white
    is the object, at the size of the original picture or of the model frame; None where the request
    has no picture. ``path``: points as shares of the width and height of the picture as it came."""

    mask: str | None = None
    sentence: str = Field(max_length=LONGEST_TEXT)
    phrase: str = Field(default=NEUTRAL_PHRASE, max_length=LONGEST_TEXT)
    motion: str | None = Field(default=None, max_length=LONGEST_TEXT)
    strength: float = Field(default=1.0, ge=0, le=MAX_STRENGTH, allow_inf_nan=False)
    name: str = Field(default="", max_length=LONGEST_TEXT)
    path: DrawnPath | None = None

    @field_validator("path", mode="before")
    @classmethod
    def _line(cls, points: Any) -> DrawnPath | None:
        return None if points is None else read_path(points)

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        entries = handler(self)
        for name in ("path", "mask"):  # what is older stays as it is
            if entries[name] is None:
                del entries[name]
        return entries


class RequestFile(_Entry):
    """A request as JSON, the form the command line takes and a recipe has. ``image`` None: the
    video is made from words alone."""

    image: str | None = None
    objects: tuple[ObjectEntry, ...] = Field(default=(), strict=False)
    options: Options = Options()
    fit: FitMode = "crop"
    model: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, entries: Any) -> Any:
        """In the JSON the options stand beside the picture, not in an object of their own."""
        if not isinstance(entries, Mapping) or isinstance(entries.get("options"), Options):
            return entries
        chosen = {name: entries[name] for name in option_names() if name in entries}
        others = {name: entry for name, entry in entries.items() if name not in chosen}
        return {"options": Options(**chosen), **others}

    @model_serializer(mode="wrap")
    def _spread(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        entries = handler(self)
        options = entries.pop("options", {})
        if options.get("stock", "") is None:  # as ``Options.to_json`` has it
            del options["stock"]
        return entries | options


def request_names() -> tuple[str, ...]:
    """The keys of a request file."""
    names = [name for name in RequestFile.model_fields if name != "options"]
    return (*names, *option_names())


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
    if "options" in entries:
        raise RequestError(f'unknown key "options"; known: {", ".join(request_names())}')
    try:
        return RequestFile.model_validate(entries)
    except ValidationError as error:
        raise RequestError("; ".join(_explain(fault) for fault in error.errors())) from error


def _explain(fault: Mapping[str, Any]) -> str:
    inside = len(fault["loc"]) > 1
    return fault_in_words(fault, tuple(ObjectEntry.model_fields) if inside else request_names())


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
    request's relative paths start from. ``tokenizer`` as in ``checked_request``. Raises
    RequestError, MediaError or MotionFileError.
    """
    _check_count(len(request_file.objects), limits)
    frame = (geometry.height, geometry.width)
    fitted, image = None, None
    if request_file.image is not None:
        picture = read_image(_source(request_file.image, folder), limits=limits)
        fitted = fit_image(picture, *frame, request_file.fit)
        image = fitted.image
    objects = tuple(
        _scene_object(entry, number, fitted, frame, library, base, folder, limits)
        for number, entry in enumerate(request_file.objects, start=1)
    )
    return checked_request(
        GenerationRequest(image, objects, request_file.options),
        geometry=geometry,
        tokenizer=tokenizer,
        limits=limits,
        library=library,
    )


def _source(text: str, folder: Path | str) -> Path | bytes:
    return decode_data_uri(text) if text.startswith("data:") else located(folder, text)


def _scene_object(
    entry: ObjectEntry,
    number: int,
    fitted: FittedImage | None,
    frame: tuple[int, int],
    library: Library,
    base: str | None,
    folder: Path | str,
    limits: Limits,
) -> SceneObject:
    motion = None if entry.motion is None else library.find(_motion_path(entry, folder), base=base)
    path: DrawnPath | None = None
    if fitted is not None:
        mask = _object_mask(entry, number, fitted, frame, folder, limits)
        path = None if entry.path is None else framed_path(entry.path, fitted)
    elif entry.mask is None and entry.path is None:
        mask = np.ones(frame, bool)
    else:
        raise RequestError(
            f"object {number} has a mask or a path, and the request no picture to see it in; give "
            'the picture as "image", or, for a video from words alone, leave "mask" and "path" out'
        )
    return SceneObject(mask, entry.sentence, entry.phrase, motion, entry.strength, entry.name, path)


def _object_mask(
    entry: ObjectEntry,
    number: int,
    fitted: FittedImage,
    frame: tuple[int, int],
    folder: Path | str,
    limits: Limits,
) -> np.ndarray:
    """Of an object in a picture, (H, W) bool in the model frame."""
    if entry.mask is None:
        raise RequestError(f'object {number} has no "mask"; mark the object in the picture')
    mask = read_mask(_source(entry.mask, folder), limits=limits)
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
    return mask


def _motion_path(entry: ObjectEntry, folder: Path | str) -> str | Path:
    """A motion given as a path is relative to the request, one given as a name is the library's."""
    motion = str(entry.motion)
    return located(folder, motion) if motion.endswith(".safetensors") else motion


def checked_request(
    request: GenerationRequest,
    *,
    geometry: ModelGeometry,
    tokenizer: Any = None,
    limits: Limits = DEFAULT_LIMITS,
    library: Library | None = None,
) -> GenerationRequest:
    """``request`` as it may be generated, however it was put together.

    Raises RequestError for a wrong image or mask, no picture where the model or the method needs
    one, too small an object, a phrase missing from its sentence, an edited prompt that does not
    hold every phrase, an ablation that is none of the method, and a motion that lacks what the
    method needs (``library``: whose motions that have it are named). With a ``tokenizer`` (a fast
    transformers tokenizer or a ``PromptTokenizer``) also for a prompt longer than the model reads,
    and phrases that share a token; only then it counts as ``checked``.
    """
    check_sizes(request, geometry)
    _check_count(len(request.objects), limits)
    for number, scene_object in enumerate(request.objects, start=1):
        _check_object(scene_object, number, geometry)
    if not request.full_prompt().strip() and (request.objects or request.image is None):
        raise RequestError("the prompt is empty; say in words what the objects do")
    _check_method(request, library)
    prompt = request.full_prompt()
    if tokenizer is None:
        phrase_spans(prompt, request.objects)
        return request
    return request.with_clauses(
        find_clauses(prompt, request.objects, tokenizer, geometry.text_tokens)
    )


def check_sizes(request: GenerationRequest, geometry: ModelGeometry) -> None:
    """RequestError where the image or a mask does not have the model's frame, and where the model
    or the method cannot do without a picture, or with one."""
    frame = (geometry.height, geometry.width)
    image = request.image
    check_picture(geometry, given=image is not None)
    if image is None:
        _check_without_picture(request)
    elif image.shape != (*frame, 3) or image.dtype != np.uint8:
        raise RequestError(
            f"the image is {image.shape} of {image.dtype}, expected "
            f"({frame[0]}, {frame[1]}, 3) of uint8; fit it to the model's frame first"
        )
    for number, item in enumerate(request.objects, start=1):
        if item.mask.shape != frame or item.mask.dtype != np.bool_:
            raise RequestError(
                f"the mask of object {number} is {item.mask.shape} of {item.mask.dtype}, expected "
                f"{frame} of bool"
            )


def check_picture(geometry: ModelGeometry, *, given: bool) -> None:
    """RequestError where the model cannot do with the picture that was given, or without one."""
    if given and not geometry.with_picture:
        raise RequestError(
            "this model makes videos from words alone (text-to-video) and takes no picture; leave "
            'the picture out ("image": null), or load an image-to-video model'
        )
    if not given and not geometry.without_picture:
        raise RequestError(
            "this model begins with a picture, and the request has none: it has not learned to "
            'make videos from words alone; give the picture as "image", or load a text-to-video '
            "model such as zai-org/CogVideoX-5b"
        )


def _check_without_picture(request: GenerationRequest) -> None:
    method, stock = request.options.method, request.options.stock
    if method not in PICTURELESS_METHODS or stock is not None:
        able = ", ".join(PICTURELESS_METHODS)
        raise RequestError(
            f'"{stock or method}" begins with a picture, and the request has none; give it as '
            f'"image", or choose the method {able} for a video from words alone'
        )
    if len(request.objects) > 1:
        raise RequestError(
            f"the request has no picture and {len(request.objects)} objects, which nothing tells "
            'apart; give one object, or the picture as "image"'
        )
    if any(item.path is not None or not item.mask.all() for item in request.objects):
        raise RequestError(
            "the request has no picture, so that nothing can be marked in it and no path begins; "
            "leave the mask and the path out"
        )


def _check_method(request: GenerationRequest, library: Library | None) -> None:
    method = request.options.method
    allowed = METHOD_TABLE[method].without
    wrong = sorted(set(request.options.without) - allowed)
    if wrong:
        takes = f"it takes {', '.join(sorted(allowed))}" if allowed else "it takes none"
        raise RequestError(
            f'the ablation "{wrong[0]}" is none of the method "{method}", {takes}; leave one of '
            "them out"
        )
    motions = [] if library is None else library.list()
    for number, item in enumerate(request.objects, start=1):
        if item.path is not None and request.options.stock is not None:
            raise RequestError(
                f'object {number} has a path, of which "{request.options.stock}" is told nothing; '
                'leave "stock" out, or take the path away'
            )
        motion = item.motion
        if motion is None:
            continue
        if method == REFINED != motion.method:
            raise RequestError(
                f'the method "{method}" needs a motion that was learned so, the motion '
                f'"{motion.name}" of object {number} was learned by "{motion.method}"; learn it '
                f"with --method {method}, or choose another method"
            )
        looking = CLIP_METHODS if motion.method == ENCODED else (*CLIP_METHODS, ENCODED)
        for needs, has, what in (
            (TOKEN_METHODS, "has_tokens", "motion tokens"),
            (PACK_METHODS, "has_pack", "embeddings and an adapter learned by SynMotion"),
            (LORA_METHODS, "has_lora", "a LoRA learned by I2VEdit"),
            (looking, "has_clip", "the reference clip"),
            (looking, "has_mover", "the masks of what moves in its reference clip"),
        ):
            if method in needs and not getattr(motion, has):
                able = [m.name for m in motions if getattr(m, has) and m.base == motion.base]
                offer = f"these have them: {', '.join(able)}" if able else "no motion here has them"
                learned = f'it was learned by "{motion.method}"'
                if needs is looking:
                    learned = "python -m motion_app motions add-clip gives it one"
                raise RequestError(
                    f'the method "{method}" needs {what}, which the motion "{motion.name}" of '
                    f"object {number} lacks ({learned}); {offer}"
                )


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.objects:
        raise RequestError(f"the request has {count} objects; at most {limits.objects} are allowed")


def _check_object(scene_object: SceneObject, number: int, geometry: ModelGeometry) -> None:
    mask = scene_object.mask
    frame = (geometry.height, geometry.width)
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
    if scene_object.path is not None:
        _check_path(scene_object, number)


def _check_path(scene_object: SceneObject, number: int) -> None:
    try:
        read_path(scene_object.path)
    except ValueError as error:
        raise RequestError(f"the path of object {number} cannot be followed: {error}") from error
    if scene_object.motion is not None:
        raise RequestError(
            f'object {number} has a path and the motion "{scene_object.motion.name}"; give it one '
            "of them"
        )
