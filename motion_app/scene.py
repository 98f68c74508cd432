"""The nouns every stage exchanges: frozen, numpy on the outside, no models.

Images are ``(H, W, 3)`` uint8 RGB and masks ``(H, W)`` bool, both in the *model frame*: the picture
after it was fitted to the size the checkpoint generates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import (
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass as checked_dataclass

from motion_app.errors import RequestError, fault_in_words
from motion_app.methods import (
    ABLATIONS,
    LORA_METHODS,
    METHODS,
    PACK_ABLATIONS,
    PACK_METHODS,
    SCOPES,
    STOCK_METHOD,
    TOKEN_METHODS,
)
from motion_app.wording import NEUTRAL_PHRASE, as_read

DrawnPath = tuple[tuple[float, float], ...]  # (x, y), shares of the frame's width and height
LONGEST_TEXT = 4000  # characters; what a model reads of it is counted in its own tokens


@dataclass(frozen=True)
class Click:
    """One point a person pressed, in pixels of the model frame (x right, y down)."""

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True)
class Box:
    """A box drawn by a person, in pixels of the model frame."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Motion:
    """A learned motion on disk, as the library lists it.

    ``path`` is its safetensors file, ``phrase`` the motion words its training captions used,
    ``base`` the fingerprint of the base model it was learned on, ``track`` the true centroid track
    ``[T, 2]`` in pixels (y, x) where the reference clip was rendered and it is known, ``outline``
    what the masks of its mover say, ``[T, 6]`` as ``motion_clip.outline`` has it. ``created``: ISO
    time, ``noun`` what moved in the reference, ``steps`` of its training: "" and 0 where the file
    does not say. ``method``: "fleximmt" for motion tokens, "synmotion" for embeddings and an
    adapter, "both", "i2vedit" for a LoRA. ``has_clip``: its file holds the reference clip itself,
    ``has_mover``: and what moves in it, in all frames. ``clip_errors``, of one that was refined:
    the mean squared error of predicting the clip at the same noise, with the tokens that an encoder
    gave and with those that were learned from there; None where nobody measured.
    """

    name: str
    phrase: str
    path: Path
    base: str
    method: str = "fleximmt"
    preview: Path | None = None
    track: tuple[tuple[float, ...], ...] | None = None
    outline: tuple[tuple[float, ...], ...] | None = None
    digest: str = ""
    created: str = ""
    noun: str = ""
    steps: int = 0
    has_clip: bool = False
    has_mover: bool = False
    clip_errors: tuple[float, float] | None = None

    @property
    def has_pack(self) -> bool:
        """Whether its file holds what SynMotion learned."""
        return self.method in PACK_METHODS

    @property
    def has_lora(self) -> bool:
        """Whether its file holds a low-rank adapter of the whole model."""
        return self.method in LORA_METHODS

    @property
    def has_tokens(self) -> bool:
        """Whether its file holds motion tokens."""
        return self.method in TOKEN_METHODS or not (self.has_pack or self.has_lora)


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One thing in the picture and what it shall do.

    ``mask``: (H, W) bool, the whole frame where there is no picture. ``sentence`` holds ``phrase``,
    the words that name its motion. ``motion`` None leaves the object to its text alone;
    ``strength`` scales its motion tokens' softmax weight. ``path``: a line along which it goes
    instead, from its own place; see ``request.paths``.
    """

    mask: np.ndarray
    sentence: str
    phrase: str = NEUTRAL_PHRASE
    motion: Motion | None = None
    strength: float = 1.0
    name: str = ""
    path: DrawnPath | None = None


@checked_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class Options:
    """How a video shall be made of a picture and its objects: the one list of what can be chosen.

    ``steps`` of denoising and ``guidance``, the scale of classifier-free guidance: None takes the
    checkpoint's own. ``prompt`` None composes the objects' sentences. ``method`` is one of
    ``methods.METHODS``, ``without`` names ablations (docs/method.md, section 3), ``scope`` is one
    of ``methods.SCOPES``. ``stock``: another model that is to make it, with the method "none"
    alone, as ``models.stock_files`` knows it; None is the checkpoint; its own settings count then.
    Raises RequestError for a value that cannot be.
    """

    seed: int = Field(default=0, ge=0, lt=2**63)
    steps: int | None = Field(default=None, ge=1, le=1000)
    guidance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    prompt: str | None = Field(default=None, max_length=LONGEST_TEXT)
    method: str = "fleximmt"
    without: tuple[str, ...] = Field(default=(), strict=False)
    scope: str = "released"
    stock: str | None = Field(default=None, min_length=1, max_length=LONGEST_TEXT)

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

    @model_validator(mode="wrap")
    @classmethod
    def _in_words(cls, given: Any, handler: ModelWrapValidatorHandler[Options]) -> Options:
        try:
            options = handler(given)
        except ValidationError as error:
            told = [fault_in_words(fault, option_names()) for fault in error.errors()]
            raise RequestError("; ".join(told)) from error
        if options.stock is not None and options.method != STOCK_METHOD:
            raise RequestError(
                f'"stock" is "{options.stock}" with the method "{options.method}"; a model of '
                f'others is told no motion: choose "{STOCK_METHOD}", or leave "stock" out'
            )
        return options

    def to_json(self) -> dict[str, Any]:
        """All of them as plain JSON, ``without`` in order; ``stock`` where there is one, so that
        what is older stays as it is."""
        entries = asdict(self) | {"without": sorted(self.without)}
        if self.stock is None:
            del entries["stock"]
        return entries


def option_names() -> tuple[str, ...]:
    """The names of ``Options``, as a request file writes them."""
    return tuple(item.name for item in fields(Options))


def _one_of(value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"choose one of {', '.join(known)}")
    return value


@dataclass(frozen=True)
class Clause:
    """Where one object's words lie among a prompt's tokens: ``motion`` and ``subject`` (start,
    stop), the subject None where nothing names it; ``pieces``: the token ids of the motion words.
    Every other token is instruction, punctuation or padding and belongs to no object."""

    motion: tuple[int, int]
    subject: tuple[int, int] | None = None
    pieces: tuple[int, ...] = ()

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Both, where both are there."""
        return (self.motion,) if self.subject is None else (self.subject, self.motion)


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """Everything that determines a video: ``image`` (H, W, 3) uint8 in the model frame, None for
    one that is made from words alone, the ``objects`` in it, and the ``options``.

    ``clauses``: where each object's words lie in the prompt, None for one without a motion. Only
    ``request.request.checked_request`` finds them, once; a copy with other parts has none.
    """

    image: np.ndarray | None
    objects: tuple[SceneObject, ...] = ()
    options: Options = field(default_factory=Options)
    clauses: tuple[Clause | None, ...] | None = field(default=None, init=False, repr=False)

    @property
    def picture(self) -> np.ndarray:
        """``image``, for what was checked to have one."""
        if self.image is None:
            raise ValueError("the request has no picture; check_sizes lets none in that needs one")
        return self.image

    @property
    def marked(self) -> tuple[SceneObject, ...]:
        """The objects whose place somebody marked: none where there is no picture."""
        return () if self.image is None else self.objects

    @property
    def checked(self) -> bool:
        """Whether it was checked as it is, its words by the model's tokenizer: nobody has to do so
        again, but for the sizes."""
        return self.clauses is not None

    def with_clauses(self, clauses: Sequence[Clause | None]) -> GenerationRequest:
        """The same, checked: what ``checked_request`` returns."""
        same = replace(self)
        object.__setattr__(same, "clauses", tuple(clauses))
        return same

    def with_options(self, **changes: Any) -> GenerationRequest:
        """The same made otherwise; unchecked. RequestError for an option that cannot be."""
        return replace(self, options=replace(self.options, **changes))

    def with_numbers(self, *, steps: int, guidance: float) -> GenerationRequest:
        """The same with the checkpoint's defaults filled in; as checked as before."""
        filled = self.with_options(steps=steps, guidance=guidance)
        return filled if self.clauses is None else filled.with_clauses(self.clauses)

    def full_prompt(self) -> str:
        """See ``prompt_of``."""
        return prompt_of(self.objects, self.options.prompt)


def prompt_of(objects: Sequence[SceneObject], prompt: str | None) -> str:
    """The edited ``prompt``, or the objects' sentences in order, as it is read (``as_read``): what
    the tokenizer gets and what phrases are found in."""
    if prompt is not None:
        return as_read(prompt)
    sentences = [as_read(scene_object.sentence) for scene_object in objects]
    return " ".join(sentence for sentence in sentences if sentence)


@dataclass(frozen=True, eq=False)
class GeneratedVideo:
    """``frames`` (T, H, W, 3) uint8 RGB at ``fps``; ``masks`` (N, F, h, w) bool, the object masks
    the last steps used on the token grid; ``recipe`` plain JSON that replays the generation;
    ``latents`` (1, F, C, H', W') float array as the decoder received them; ``calls``: how many
    videos the transformer saw for it, both halves of the guidance counted."""

    frames: np.ndarray
    masks: np.ndarray
    recipe: dict[str, Any]
    fps: float
    latents: np.ndarray | None = field(default=None, repr=False)
    calls: int = 0


@dataclass(frozen=True, eq=False)
class StepReport:
    """What one denoising step tells the outside. ``step`` counts from 1 to ``steps``; ``latents``
    is the step's estimate of the clean latents, (F, C, H', W') float32, F = 0 where it is not the
    checkpoint's and cannot be drawn; ``masks`` (N, F, h, w) bool are those the *next* step will
    use; ``masks_settled`` says that RMPM has stopped for good."""

    step: int
    steps: int
    seconds: float
    latents: np.ndarray
    masks: np.ndarray
    masks_settled: bool
