"""How one motion is learned, as motion tokens, by SynMotion or as a LoRA: a training's settings,
some of which a checkpoint overrides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar, Self

from motion_app.errors import CheckpointError, RequestError
from motion_app.geometry import ModelGeometry
from motion_app.methods import (
    ENCODED,
    LEARNED,
    METHOD_TABLE,
    PICTURELESS_METHODS,
    REFINED,
    REFINED_SHARE,
)
from motion_app.wording import NEUTRAL_PHRASE, as_read

MASK_SOURCES = ("dmem", "given", "none")
STARTS = ("drawn", "encoder")
MASK_REACHES = ("frame", "grown", "swept", "lagging")
COUNTS = ("steps", "batch", "views", "checkpoint_every", "validate_every", "validation_steps")
LATER = ("mask_reach", "start")  # settings that came when others had been learned with already
WATCHING = ("checkpoint_every", "validate_every", "validation_steps")
PARTS = ("mot", "sub", "refiner", "lora")  # the rows of the supplement's Table 3, one by one
ZERO_CONVS = ("full", "depthwise")
SPV_RESIDUALS = ("detach", "omit")
ENCODINGS = ("joint", "apart")
ADAPTED = ("to_q", "to_k", "to_v", "to_out")
RENDERED = "rendered"  # the SPV set of the pocket: its own creatures, drawn when they are needed


@dataclass(frozen=True)
class ClipTraining:
    """What learning from reference clips needs, whatever is learned. Defaults are the FlexiMMT
    release's for CogVideoX-5B-I2V, but for ``sample_latents``.

    ``phrase`` are the motion words and ``noun`` the moving thing's words in the caption
    "A {noun} {phrase}.". AdamW at ``learning_rate`` with a cosine over ``steps``, gradients clipped
    at ``clip_norm``. Timesteps are uniform over the noisier ``noisy_share``. ``moving_weight``
    weighs the squared error where the clip differs from its first frame. The caption is emptied and
    the first frame's latents are dropped with the probabilities given. ``sample_latents`` draws the
    latents of clip and first frame anew from the VAE's posterior at every step, as the release
    does. The default learns from their means: on the pocket (four motions learned each way, 24
    tuning scenes of two) own minus other is 0.53 both ways, means ahead by -0.01 [-0.02, 0.00], and
    where it makes no difference a view shall look the same at every step. ``validate_every``: a
    short video with what is learned so far after every so many steps, None for none; what is
    learned is the same either way. ``validation_steps``: denoising steps of it.
    """

    method: ClassVar[str] = ""
    counts: ClassVar[tuple[str, ...]] = COUNTS

    name: str
    phrase: str = NEUTRAL_PHRASE
    noun: str = "thing"
    steps: int = 2000
    batch: int = 1
    learning_rate: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    noisy_share: float = 1.0
    moving_weight: float = 1.0
    caption_dropout: float = 0.10
    image_dropout: float = 0.05
    sample_latents: bool = False
    views: int = 12
    zoom: tuple[float, float] = (1.0, 1.3)
    shift: float = 0.1
    permute_colours: bool = False
    checkpoint_every: int = 50
    validate_every: int | None = None
    validation_steps: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.counts:
            least = self.least(name)
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise RequestError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not self.name.strip():
            raise RequestError("the motion has no name; give it one, for example --name jump")
        if not self.phrase.strip() or not self.noun.strip():
            raise RequestError("phrase and noun must not be empty: the caption needs both")

    def check_model(self, geometry: ModelGeometry) -> None:
        """RequestError where no video could show with this model what was learned."""
        if geometry.with_picture or METHOD_TABLE[self.shown_by].pictureless:
            return
        able = ", ".join(name for name in PICTURELESS_METHODS if name in LEARNED)
        raise RequestError(
            f'this model makes videos from words alone, and "{self.shown_by}" needs a picture; '
            f"learn the motion by {able}, or load an image-to-video model"
        )

    @classmethod
    def for_checkpoint(cls, defaults: Mapping[str, Any], **given: Any) -> Self:
        """The checkpoint's own settings under what was ``given``; None means not given."""
        known = {entry.name: entry for entry in fields(cls)}
        unknown = sorted((set(defaults) | set(given)) - set(known))
        if unknown:
            raise CheckpointError(f"unknown training settings {', '.join(unknown)}")
        chosen = {name: setting for name, setting in given.items() if setting is not None}
        merged = {**defaults, **chosen}
        for name, setting in merged.items():
            if isinstance(setting, list):  # JSON has no tuples
                merged[name] = tuple(setting)
        return cls(**merged)

    def least(self, count: str) -> int:
        """The smallest number that makes sense of a count."""
        return 1

    @property
    def learned_by(self) -> str:
        """The method that a motion learned so belongs to."""
        return self.method

    @property
    def caption(self) -> str:
        """ "A tiger walks on snow." """
        return training_caption(self.noun, self.phrase)

    @property
    def shown_by(self) -> str:
        """The method that a video is made with to show what has been learned."""
        return self.method

    def learned_with(self) -> dict[str, Any]:
        """The settings on which what is learned depends, as plain JSON: all but those of
        watching."""
        entries = asdict(self)
        return {name: entries[name] for name in entries if name not in WATCHING}

    def told_apart_by(self) -> dict[str, Any]:
        """``learned_with`` as a key of what was learned has it: without the settings of LATER that
        have their default, so that what was made before they came is known again."""
        unchosen = self.unchosen()
        return {
            name: value
            for name, value in self.learned_with().items()
            if name not in LATER or value != unchosen[name]
        }

    @classmethod
    def unchosen(cls) -> dict[str, Any]:
        """The defaults of the settings on which what is learned depends, as a file has them."""
        known = {entry.name: entry.default for entry in fields(cls) if entry.name not in WATCHING}
        defaults = {name: value for name, value in known.items() if value is not MISSING}
        return json.loads(json.dumps(defaults))


@dataclass(frozen=True)
class MotionTraining(ClipTraining):
    """How the motion tokens of one motion are learned; a checkpoint's ``generation.json`` overrides
    the defaults under ``motion_training``.

    ``tokens`` is M. ``init_distribution`` and ``init_scale``: uniform in ±0.003. ``delta_weight``
    weighs the released loss on adjacent latent frames (the paper does not print it). ``mask``: who
    sees the tokens: "dmem" (section 4, ``mask_drop`` of it let go), "given" masks of the clip, or
    "none" (concat). ``mask_reach``: how far given masks go, one of MASK_REACHES: "frame" over the
    mover in each latent frame, "grown" over one token more on every side, "swept" in all frames
    over wherever it is in one, "lagging" behind it as a generation's own masks lag, the more the
    noisier the step. ``start``: initial tokens are "drawn", or what the checkpoint's
    "encoder" says of the clip (section 12), as many as that gives; then 0 ``steps`` are enough.
    """

    method: ClassVar[str] = "fleximmt"
    counts: ClassVar[tuple[str, ...]] = (*COUNTS, "tokens")

    tokens: int = 226
    init_distribution: str = "uniform"
    init_scale: float = 0.003
    delta_weight: float = 1.0
    mask: str = "dmem"
    mask_drop: float = 0.3
    mask_reach: str = "frame"
    start: str = "drawn"

    def __post_init__(self) -> None:
        super().__post_init__()
        words = {"mask": MASK_SOURCES, "mask_reach": MASK_REACHES, "start": STARTS}
        for name, known in words.items():
            chosen = getattr(self, name)
            if chosen not in known:
                raise RequestError(f'unknown {name} "{chosen}"; choose {", ".join(known)}')

    def least(self, count: str) -> int:
        return 0 if count == "steps" and self.start == "encoder" else super().least(count)

    @property
    def learned_by(self) -> str:
        if self.start != "encoder":
            return self.method
        return REFINED if self.steps else ENCODED

    @property
    def shown_by(self) -> str:
        return "concat" if self.mask == "none" else self.method

    @classmethod
    def by(cls, method: str, defaults: Mapping[str, Any], **given: Any) -> MotionTraining:
        """As ``for_checkpoint``, for a method of ``methods.LEARNED`` that learns motion tokens."""
        given["mask"] = LEARNED[method] or given.get("mask")
        if METHOD_TABLE[method].encoder:
            given["start"] = "encoder"
        if method == ENCODED:
            given.update(steps=0, views=1)  # nothing is learned from views
        elif given.get("steps") is None:
            given["steps"] = own_steps(method, defaults)
        return cls.for_checkpoint(defaults, **given)


def own_steps(method: str, training: Mapping[str, Any]) -> int:
    """The steps that learning by ``method`` takes with a checkpoint's own settings ``training``."""
    if method == ENCODED:
        return 0
    share = REFINED_SHARE if method == REFINED else 1
    return int(training.get("steps", ClipTraining.steps // share))


def training_caption(noun: str, phrase: str) -> str:
    """tiger, walks on snow → "A tiger walks on snow."; both must not be empty."""
    article = "An" if noun[0].lower() in "aeiou" else "A"
    return as_read(f"{article} {noun} {phrase}.")


@dataclass(frozen=True)
class SynMotionTraining(ClipTraining):
    """How one motion is learned by SynMotion. Steps, AdamW, ``learning_rate`` and ``alpha`` are the
    paper's; what it leaves open is a field. A checkpoint's ``generation.json`` overrides the
    defaults under ``synmotion_training``.

    ``alpha``: the share of steps on the motion's clips; the others are on the subject prior videos
    (SPV) of ``spv``, a folder, "rendered", or None for the checkpoint's own; 1 needs none and is
    the paper's row without the training strategy. ``spv_train_*``: what SPV steps move besides the
    subject's embedding; ``spv_motion_residual``: "detach" adds the motion's residual to their verb
    without learning it, "omit" leaves the verb as it is. ``spv_clips`` of the set are used.

    ``parts``: what is learned at all (Tables 3 and 4; ("lora",) is the adapter alone).
    ``encoding``: "joint" reads subject and motion in their sentence, as the paper does; "apart"
    each alone, so that a bidirectional encoder tells neither of the other.
    ``init_prompt`` holds the motion words whose states the motion embedding starts from,
    ``subject_rows`` the length of the subject's. ``zero_conv``: "full" or "depthwise".
    ``refiner_*`` are its width, layers, heads and feed-forward width. ``rank``, ``lora_alpha`` and
    ``adapted`` describe the adapter, learned at ``lora_learning_rate``. ``image_noise``: mean and
    deviation of ln σ of the noise on the first frame's latents, () for none.
    """

    method: ClassVar[str] = "synmotion"
    counts: ClassVar[tuple[str, ...]] = (
        *(*COUNTS, "subject_rows", "refiner_width", "refiner_layers", "refiner_heads"),
        *("refiner_feed_forward", "rank", "spv_clips"),
    )

    learning_rate: float = 2e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    lora_learning_rate: float = 1e-4
    alpha: float = 0.75
    parts: tuple[str, ...] = PARTS
    encoding: str = "joint"
    init_prompt: str = "a person {motion}"
    subject_rows: int = 16
    zero_conv: str = "full"
    refiner_width: int = 512
    refiner_layers: int = 2
    refiner_heads: int = 8
    refiner_feed_forward: int = 2048
    rank: int = 32
    lora_alpha: float = 32.0
    adapted: tuple[str, ...] = ("to_q", "to_k", "to_v")
    image_noise: tuple[float, ...] = (-3.0, 0.5)
    spv: str | None = None
    spv_clips: int = 100
    spv_motion_residual: str = "detach"
    spv_train_motion: bool = False
    spv_train_refiner: bool = True
    spv_train_lora: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise RequestError(
                f"alpha is {self.alpha}; it is the share of steps on the motion's clips, 0 to 1"
            )
        for name, known in (
            ("zero_conv", ZERO_CONVS),
            ("spv_motion_residual", SPV_RESIDUALS),
            ("encoding", ENCODINGS),
        ):
            if getattr(self, name) not in known:
                raise RequestError(
                    f'unknown {name} "{getattr(self, name)}"; choose one of {", ".join(known)}'
                )
        for name, known in (("parts", PARTS), ("adapted", ADAPTED)):
            chosen = getattr(self, name)
            if not chosen or not set(chosen) <= set(known):
                raise RequestError(
                    f"{name} is {', '.join(chosen) or 'empty'}; choose from {', '.join(known)}"
                )
        if "{motion}" not in self.init_prompt:
            raise RequestError(f'init_prompt is "{self.init_prompt}"; it must hold {{motion}}')
        if self.refiner_width % self.refiner_heads:
            raise RequestError(
                f"refiner_width {self.refiner_width} does not divide by refiner_heads "
                f"{self.refiner_heads}; choose a multiple"
            )
        if len(self.image_noise) not in (0, 2):
            raise RequestError("image_noise is (mean, deviation) of ln sigma, or () for none")


@dataclass(frozen=True)
class LoraTraining(ClipTraining):
    """How the LoRA of one motion is learned, for I2VEdit. Rank, AdamW and its rates are the
    published ones; the clip is learned from as it is and without words. A checkpoint's
    ``generation.json`` overrides the defaults under ``lora_training``.

    ``spatial_share``: the part of the steps in which an adapter of its own learns what the clip's
    frames look like, attention being closed between frames; it stays, frozen, while the motion is
    learned beside it, and is thrown away. 0 leaves it out. ``rank``, ``lora_alpha`` and ``adapted``
    describe both adapters.
    """

    method: ClassVar[str] = "i2vedit"
    counts: ClassVar[tuple[str, ...]] = (*COUNTS, "rank")

    steps: int = 360
    learning_rate: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    caption_dropout: float = 1.0
    image_dropout: float = 0.0
    views: int = 1
    zoom: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    spatial_share: float = 0.3
    rank: int = 32
    lora_alpha: float = 32.0
    adapted: tuple[str, ...] = ADAPTED

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.spatial_share < 1:
            raise RequestError(
                f"spatial_share is {self.spatial_share}; it is the share of steps before the "
                "motion is learned, from 0 to below 1"
            )
        if not self.adapted or not set(self.adapted) <= set(ADAPTED):
            raise RequestError(
                f"adapted is {', '.join(self.adapted) or 'empty'}; choose from {', '.join(ADAPTED)}"
            )

    @property
    def spatial_steps(self) -> int:
        """How many steps come before those that learn the motion; fewer than all."""
        return min(round(self.spatial_share * self.steps), self.steps - 1)
