"""SynMotion's training: embedding-specific steps on the motion's clips and on subject prior videos.

    L = α · E_motion[ L_diff(x, p; θ_mot, θ_sub) ]
      + (1 − α) · E_SPV[ L_diff(x', p'; stopgrad(e_mot), e_sub) ]       (supplement, section 3.1)

as one draw a step: with probability α a batch of the motion's clips, else one of the SPV set.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from motion_app.engine.adapters import Adapter, GatedAdapters, adapted
from motion_app.engine.backbone import Backbone
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.engine.synmotion import DualEmbedding, MotionPack
from motion_app.errors import RequestError
from motion_app.media.files import Clip
from motion_app.request.phrases import find_clauses
from motion_app.scene import Clause, Motion, SceneObject
from motion_app.training.config import SynMotionTraining
from motion_app.training.subject_videos import SubjectClip, find_subjects
from motion_app.training.tokens import LearningRun, draw_noise, weighted_error
from motion_app.training.views import CachedViews, ViewConfig, cache_views


@dataclass(frozen=True, eq=False)
class WordedViews:
    """Views and, for each of them, its caption's states ``texts`` (n, L, text width) and the roles
    of its words."""

    views: CachedViews
    texts: Tensor
    clauses: tuple[Clause, ...]


@dataclass(frozen=True, eq=False)
class SynMotionLesson:
    """Everything a step draws from, computed once. ``subjects``: the SPV set, None where no step
    uses it. ``init_states`` (L_m, text width): the motion words' states in the init prompt,
    ``deviation`` that of all its states. ``tokens``: motion tokens to be saved with the pack."""

    motion: WordedViews
    subjects: WordedViews | None
    empty_text: Tensor
    init_states: Tensor
    deviation: float
    tokens: MotionTokens | None = field(default=None)


def moved_by_subjects(config: SynMotionTraining) -> tuple[str, ...]:
    """The parts that learn from SPV steps."""
    learns = {
        "mot": config.spv_train_motion and config.spv_motion_residual == "detach",
        "sub": True,
        "refiner": config.spv_train_refiner,
        "lora": config.spv_train_lora,
    }
    return tuple(part for part in config.parts if learns[part])


def motion_steps(config: SynMotionTraining) -> np.ndarray:
    """(steps,) bool: which steps are on the motion's clips. All of them where SPV steps would move
    nothing."""
    draws = np.random.default_rng(config.seed).random(config.steps)
    return (draws < config.alpha) | (not moved_by_subjects(config))


def prepare_synmotion(
    clips: Sequence[Clip],
    config: SynMotionTraining,
    backbone: Backbone,
    *,
    tokens: Path | None = None,
) -> SynMotionLesson:
    """Encodes views and captions once; the encoders are not needed afterwards."""
    geometry = backbone.geometry
    alone = motion_steps(config).all()
    found = [] if alone else find_subjects(config, geometry, folder=backbone.checkpoint.folder)
    init = config.init_prompt.replace("{motion}", config.phrase)
    told = _described(
        backbone,
        [
            SubjectClip(clips[0], config.noun, config.phrase, config.caption),
            SubjectClip(clips[0], "", config.phrase, init),
            *found,
        ],
        apart=config.encoding == "apart",
    )
    spoken, (states, clause), *others = told
    if clause.pieces != spoken[1].pieces:
        raise RequestError(
            f'"{config.phrase}" is read differently in "{init}" and in "{config.caption}"; put '
            "spaces around {motion} in init_prompt"
        )
    subjects = None
    if found:
        plain = ViewConfig(count=len(found))  # other colours or places would belie their captions
        views = cache_views(backbone, [subject.clip for subject in found], plain, seed=config.seed)
        subjects = _worded(views, others)
    views = cache_views(
        backbone,
        clips,
        ViewConfig(config.views, config.zoom, config.shift, config.permute_colours),
        seed=config.seed,
    )
    return SynMotionLesson(
        motion=_worded(views, [spoken] * len(views.latents)),
        subjects=subjects,
        empty_text=backbone.prompts.encode_all([""])[0][0],
        init_states=states[slice(*clause.motion)].float(),
        deviation=float(states.float().std()),
        tokens=None if tokens is None else _load_tokens(tokens, backbone),
    )


def _load_tokens(path: Path, backbone: Backbone) -> MotionTokens:
    g, base = backbone.geometry, backbone.checkpoint.fingerprint
    return MotionTokens.load(path, layers=g.layers, width=g.width_tokens, base=base)


def _described(
    backbone: Backbone, subjects: Sequence[SubjectClip], *, apart: bool
) -> list[tuple[Tensor, Clause]]:
    """States (L, text width) and roles of each clip's prompt. ``apart``: words of subject and
    motion are read alone."""
    clauses = []
    for subject in subjects:
        told = SceneObject(
            mask=np.ones((1, 1), bool),
            sentence=subject.prompt,
            phrase=subject.motion,
            motion=Motion(subject.motion, subject.motion, Path(), backbone.checkpoint.fingerprint),
            name=subject.subject,
        )
        clauses += find_clauses(
            subject.prompt, [told], backbone.tokenizer, backbone.geometry.text_tokens
        )
    # The empty one in the same go, last: it is asked for next, and is still known then.
    states = backbone.prompts.encode_all(
        [*(subject.prompt for subject in subjects), ""],
        apart=[[clause] for clause in clauses] if apart else None,
    )[:-1]
    return [(state[0], clause) for state, clause in zip(states, clauses, strict=True)]


def _worded(views: CachedViews, described: Sequence[tuple[Tensor, Clause]]) -> WordedViews:
    texts, clauses = zip(*described, strict=True)
    return WordedViews(views, torch.stack(texts), clauses)


class SynMotionRun(LearningRun):
    """Embeddings, refiner and adapter of one motion."""

    config: SynMotionTraining

    def __init__(
        self, lesson: SynMotionLesson, config: SynMotionTraining, backbone: Backbone, out: Path
    ) -> None:
        device = backbone.transformer.device
        self.lesson = lesson
        generator = torch.Generator().manual_seed(config.seed)
        self.dual = new_embedding(lesson, config, generator).to(device)
        self.adapter = None
        if "lora" in config.parts:
            self.adapter = Adapter.fresh(
                backbone.attention_layers(),
                rank=config.rank,
                alpha=config.lora_alpha,
                places=config.adapted,
                generator=generator,
            ).to(device)
        lora = [] if self.adapter is None else list(self.adapter.parameters())
        self.parts = {**self.dual.groups(), "lora": lora}
        semantic = [p for part in ("mot", "sub", "refiner") for p in self.parts[part]]
        groups = [
            {"params": params, "lr": rate}
            for params, rate in (
                (semantic, config.learning_rate),
                (lora, config.lora_learning_rate),
            )
            if params
        ]
        self._on_motion = motion_steps(config)
        self._seen = (lesson.motion, 0)
        learned = nn.ModuleDict({"dual": self.dual})
        if self.adapter is not None:
            learned["adapter"] = self.adapter
        super().__init__(learned, groups, config, backbone, out)

    def installed(self) -> AbstractContextManager:
        adapters = GatedAdapters([] if self.adapter is None else [self.adapter])
        return adapted(self.backbone.attention_layers(), adapters)

    def view_frames(self) -> np.ndarray:
        worded, view = self._seen
        return worded.views.frames[view]

    def view_mask(self) -> None:
        """The whole picture is learned from."""

    def save_motion(self, path: Path, metadata: MotionMetadata) -> None:
        geometry = self.backbone.geometry
        self.pack().save(
            path,
            metadata,
            layers=geometry.layers,
            width=geometry.width_tokens,
            tokens=self.lesson.tokens,
            dtype=torch.float16,
        )

    def pack(self) -> MotionPack:
        """What is learned so far, folded."""
        pieces = self.lesson.motion.clauses[0].pieces
        apart = self.config.encoding == "apart"
        return MotionPack(self.dual.fold(), self.adapter, pieces, apart)

    def held(self) -> Sequence[nn.Parameter]:
        if self._on_motion[self.step]:
            return ()
        free = moved_by_subjects(self.config)
        return [p for part, params in self.parts.items() if part not in free for p in params]

    def loss(self) -> Tensor:
        """The v error (x0 error weighted 1 / (1 - ᾱ)) of one batch of either kind."""
        config, lesson = self.config, self.lesson
        rng = np.random.default_rng([config.seed, self.step])
        self.generator.manual_seed(int(rng.integers(2**62)))
        on_motion = bool(self._on_motion[self.step])
        worded = lesson.motion if on_motion else lesson.subjects
        picked = rng.integers(len(worded.views.latents), size=config.batch)
        self._seen = (worded, int(picked[0]))
        draws = draw_noise(
            worded.views,
            picked,
            config,
            self.backbone,
            rng=rng,
            generator=self.generator,
            image_noise=config.image_noise,
        )
        spoken = rng.random(config.batch) >= config.caption_dropout
        residual = "learn" if on_motion else self._subject_residual()
        texts = torch.stack(
            [
                self.dual(worded.texts[i], worded.clauses[i], motion_residual=residual)
                if said
                else lesson.empty_text
                for i, said in zip(picked, spoken, strict=True)
            ]
        )  # (B, L, text width)
        miss, _ = draws.velocity_miss(texts, self.backbone)
        return weighted_error(miss, draws, moving_weight=config.moving_weight)

    def _subject_residual(self) -> str:
        config = self.config
        trained = config.spv_train_motion and config.spv_motion_residual == "detach"
        return "learn" if trained else config.spv_motion_residual


def new_embedding(
    lesson: SynMotionLesson, config: SynMotionTraining, generator: torch.Generator
) -> DualEmbedding:
    """Fresh embeddings: the motion's from its words' states, the subject's from noise as large."""
    e_sub = torch.randn((config.subject_rows, lesson.init_states.shape[1]), generator=generator).to(
        lesson.init_states
    )
    with torch.random.fork_rng(devices=[]):  # torch's layers draw from the global generator
        torch.manual_seed(config.seed)
        return DualEmbedding(
            lesson.init_states,
            e_sub * lesson.deviation,
            parts=config.parts,
            kind=config.zero_conv,
            width=config.refiner_width,
            layers=config.refiner_layers,
            heads=config.refiner_heads,
            feed_forward=config.refiner_feed_forward,
        )
