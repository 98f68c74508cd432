"""The nouns every stage exchanges: frozen, numpy on the outside, no models.

Images are ``(H, W, 3)`` uint8 RGB and masks ``(H, W)`` bool, both in the *model frame*: the picture
after it was fitted to the size the checkpoint generates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from motion_app.methods import PACK_METHODS, TOKEN_METHODS
from motion_app.wording import as_read

NEUTRAL_PHRASE = "is moving"


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
    ``[T, 2]`` in pixels (y, x) where the reference clip was rendered and it is known. ``created``:
    ISO time, ``noun`` what moved in the reference, ``steps`` of its training: "" and 0 where the
    file does not say. ``method``: "fleximmt" for motion tokens, "synmotion" for embeddings and an
    adapter, "both".
    """

    name: str
    phrase: str
    path: Path
    base: str
    method: str = "fleximmt"
    preview: Path | None = None
    track: tuple[tuple[float, float], ...] | None = None
    digest: str = ""
    created: str = ""
    noun: str = ""
    steps: int = 0

    @property
    def has_pack(self) -> bool:
        """Whether its file holds what SynMotion learned."""
        return self.method in PACK_METHODS

    @property
    def has_tokens(self) -> bool:
        """Whether its file holds motion tokens."""
        return self.method in TOKEN_METHODS or self.method not in PACK_METHODS


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One thing in the picture and what it shall do.

    ``mask``: (H, W) bool. ``sentence`` holds ``phrase``, the words that name its motion. ``motion``
    None leaves the object to its text alone; ``strength`` scales its motion tokens' softmax weight.
    """

    mask: np.ndarray
    sentence: str
    phrase: str = NEUTRAL_PHRASE
    motion: Motion | None = None
    strength: float = 1.0
    name: str = ""


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """Everything that determines a video.

    ``image``: (H, W, 3) uint8 in the model frame. ``prompt`` None composes the objects' sentences.
    ``steps`` and ``guidance`` None take the checkpoint's own defaults. ``without`` names ablations
    (docs/method.md, section 3), ``method`` one of ``METHODS`` in ``assignment``.
    """

    image: np.ndarray
    objects: tuple[SceneObject, ...] = ()
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    prompt: str | None = None
    method: str = "fleximmt"
    without: frozenset[str] = frozenset()
    scope: str = "released"

    def full_prompt(self) -> str:
        """The edited prompt, or the objects' sentences in order, as it is read (``as_read``): what
        the tokenizer gets and what phrases are found in."""
        if self.prompt is not None:
            return as_read(self.prompt)
        sentences = [as_read(scene_object.sentence) for scene_object in self.objects]
        return " ".join(sentence for sentence in sentences if sentence)


@dataclass(frozen=True, eq=False)
class GeneratedVideo:
    """``frames`` (T, H, W, 3) uint8 RGB at ``fps``; ``masks`` (N, F, h, w) bool, the object masks
    the last steps used on the token grid; ``recipe`` plain JSON that replays the generation;
    ``latents`` (1, F, C, H', W') float array as the decoder received them."""

    frames: np.ndarray
    masks: np.ndarray
    recipe: dict[str, Any]
    fps: float
    latents: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class StepReport:
    """What one denoising step tells the outside. ``step`` counts from 1 to ``steps``; ``latents``
    is the step's estimate of the clean latents, (F, C, H', W') float32; ``masks`` (N, F, h, w) bool
    are those the *next* step will use; ``masks_settled`` says that RMPM has stopped for good."""

    step: int
    steps: int
    seconds: float
    latents: np.ndarray
    masks: np.ndarray
    masks_settled: bool
