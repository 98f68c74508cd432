"""How SynMotion's embeddings and adapter are learned: a training's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from motion_app.errors import RequestError
from motion_app.training.config import COUNTS, ClipTraining

PARTS = ("mot", "sub", "refiner", "lora")  # the rows of the supplement's Table 3, one by one
ZERO_CONVS = ("full", "depthwise")
SPV_RESIDUALS = ("detach", "omit")
ENCODINGS = ("joint", "apart")
ADAPTED = ("to_q", "to_k", "to_v", "to_out")
RENDERED = "rendered"  # the SPV set of the pocket: its own creatures, drawn when they are needed


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
