"""How good the pocket is, against the renderer's ground truth, on scenes it never saw.

Every judgement of motion transfer starts from the first frame's masks alone: true masks of later
frames would give the place away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from motion_app.engine.layout import SequenceLayout
from motion_app.engine.pipeline import MotionEngine
from motion_app.engine.propagation import propagate
from motion_app.engine.steering import GenerationSteering, steered
from motion_app.evaluation.extractors import colour_track
from motion_app.evaluation.metrics import (
    assignment_similarity,
    bootstrap_interval,
    follows_own,
    mask_iou,
)
from motion_app.pocket.world import RenderedClip, WorldConfig, draw_scene, render
from motion_app.scene import GeneratedVideo, GenerationRequest, Motion, SceneObject
from motion_app.training.clips import encode_views, grid_masks
from motion_app.training.velocity_error import image_condition, ofs_input, padded

CASE_SEED = 500_000  # far from every seed the training draws from


@dataclass(frozen=True, eq=False)
class Case:
    """An unseen scene whose creatures have room for the motions they shall get."""

    seed: int
    rendered: RenderedClip
    motions: tuple[Motion, ...]

    def request(self, *, method: str = "fleximmt", steps: int | None = None) -> GenerationRequest:
        """The first frame, its masks, neutral sentences: nothing tells the motion but the
        tokens."""
        creatures = self.rendered.scene.creatures
        objects = tuple(
            SceneObject(
                mask=self.rendered.masks[k, 0],
                sentence=creature.neutral_sentence,
                motion=self.motions[k],
                name=creature.noun,
            )
            for k, creature in enumerate(creatures)
        )
        image = self.rendered.frames[0]
        return GenerationRequest(image, objects, seed=self.seed, steps=steps, method=method)

    def with_motions(self, motions: Mapping[str, Motion]) -> Case:
        """The same scene with other tokens of the same motions, by name."""
        return replace(self, motions=tuple(motions[motion.name] for motion in self.motions))


@dataclass(frozen=True)
class ObjectScore:
    """Similarity of one generated object's track to its own motion's reference and to the most
    similar of the other objects' motions."""

    case: int
    motion: str
    own: float
    other: float

    @property
    def follows(self) -> bool:
        return follows_own(self.own, self.other)


def draw_cases(
    motions: Sequence[Motion],
    count: int,
    *,
    objects: int = 2,
    config: WorldConfig = WorldConfig(),
    seed: int = CASE_SEED,
) -> list[Case]:
    """``count`` scenes; each draws its motions without repetition from those with a known track."""
    tracked = [motion for motion in motions if motion.track is not None]
    cases = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        picked = [tracked[j] for j in rng.permutation(len(tracked))[:objects]]
        scene = draw_scene(rng, config, objects=objects, motions=[m.name for m in picked])
        cases.append(Case(i, render(scene), tuple(picked)))
    return cases


def score_video(case: Case, video: GeneratedVideo) -> list[ObjectScore]:
    """Each object's own and other similarity, from the colour it has under its first-frame mask."""
    scores = []
    references = [np.asarray(motion.track) for motion in case.motions]
    for k, motion in enumerate(case.motions):
        track = colour_track(video.frames, case.rendered.masks[k, 0])
        alike = [assignment_similarity(track, reference) for reference in references]
        others = [value for j, value in enumerate(alike) if j != k]
        scores.append(ObjectScore(case.seed, motion.name, alike[k], max(others, default=0.0)))
    return scores


@dataclass(frozen=True, eq=False)
class MethodFigures:
    """One method over all cases: mean ``own`` and ``other`` similarity, the share of objects that
    ``follows`` their own motion, and own minus other of every object, in a fixed order."""

    own: float
    other: float
    follows: float
    margins: np.ndarray

    @classmethod
    def of(cls, scores: Sequence[ObjectScore]) -> MethodFigures:
        own, other = ([getattr(s, name) for s in scores] for name in ("own", "other"))
        share = np.mean([score.follows for score in scores])
        margins = np.subtract(own, other)
        return cls(float(np.mean(own)), float(np.mean(other)), float(share), margins)


def paired_interval(
    ours: MethodFigures, theirs: MethodFigures, *, objects: int
) -> tuple[float, float]:
    """95% bootstrap interval of the mean difference of own minus other, cases being resampled (the
    ``objects`` of one scene are not independent)."""
    differences = (ours.margins - theirs.margins).reshape(-1, objects).mean(axis=1)
    return bootstrap_interval(differences)


def contact_sheet(
    videos: Sequence[np.ndarray], *, columns: int = 7, enlarge: int = 2
) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 of each video as a row of ``columns`` evenly spaced pictures."""
    rows = []
    for frames in videos:
        picked = frames[np.linspace(0, len(frames) - 1, columns).round().astype(int)]
        rows.append(np.concatenate(list(picked), axis=1))  # (H, columns * W, 3)
    sheet = np.concatenate(rows, axis=0)
    return sheet.repeat(enlarge, axis=0).repeat(enlarge, axis=1)


def measure_propagation(
    engine: MotionEngine,
    cases: Sequence[Case],
    *,
    noise_levels: Sequence[float] = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5),
    rules: Sequence[str] = ("released", "paper", "competing"),
    seed: int = 0,
) -> dict[tuple[str, float], float]:
    """Mean IoU of propagated masks (latent frames 2 to F) with the true ones on the token grid.

    Rendered clips noised to a share of the scheduler's timesteps, one forward pass with the neutral
    caption and no motion tokens; window, layers and centring are the engine's own. Keys are (rule,
    noise level).
    """
    pipe, g, settings = engine.pipe, engine.geometry, engine.propagation
    generator = torch.Generator().manual_seed(seed)
    found: dict[tuple[str, float], list[float]] = {}
    for case in cases:
        clip = case.rendered
        truth = torch.from_numpy(grid_masks(clip.masks, g))  # (N, F, h, w)
        latents = encode_views(pipe.vae, clip.frames[None]).mean  # (1, F, C, H', W')
        image = encode_views(pipe.vae, clip.frames[None, :1]).mean[:, 0]  # (1, C, H', W')
        prompt = " ".join(c.neutral_sentence for c in clip.scene.creatures)
        for level in noise_levels:
            features = noised_features(engine, latents, image, prompt, level, generator)
            features = settings.prepare(features)
            for rule in rules:
                masks = propagate(features, truth[:, 0], rule=rule, window=settings.window)
                ious = [
                    mask_iou(masks[k, 1:].numpy(), truth[k, 1:].numpy()) for k in range(len(truth))
                ]
                found.setdefault((rule, level), []).extend(ious)
    return {key: float(np.mean(values)) for key, values in found.items()}


@torch.no_grad()
def noised_features(
    engine: MotionEngine,
    latents: torch.Tensor,
    image: torch.Tensor,
    prompt: str,
    level: float,
    generator: torch.Generator,
    *,
    layers: int | None = None,
) -> torch.Tensor:
    """RMPM's features (F, h, w, D) of ``latents`` (1, F, C, H', W') noised to ``level`` of the
    scheduler's timesteps (1 is pure noise), beside ``image`` (1, C, H', W'), the first video frame
    encoded alone as it is in a generation."""
    pipe, g = engine.pipe, engine.geometry
    steps = pipe.scheduler.config.num_train_timesteps
    timestep = torch.tensor([min(steps - 1, int(level * steps))])
    latents = padded(latents, engine)
    noisy = pipe.scheduler.add_noise(
        latents, torch.randn(latents.shape, generator=generator), timestep
    )
    condition = image_condition(image, latents, engine)
    text, _ = pipe.encode_prompt(
        prompt, None, do_classifier_free_guidance=False, max_sequence_length=g.text_tokens
    )
    nothing = torch.zeros(1, g.heads, 0, g.head_dim)
    steering = GenerationSteering(
        SequenceLayout(text=g.text_tokens, phrases=[], motion=[], grid=g.grid),
        torch.zeros(0, *g.grid, dtype=torch.bool),
        [(nothing, nothing)] * g.layers,
        halves=[()],
        feature_layers=layers or engine.propagation.feature_layers(g.layers),
    )
    with steered(pipe.transformer, steering):
        pipe.transformer(
            hidden_states=torch.cat([noisy, condition], dim=2),
            encoder_hidden_states=text,
            timestep=timestep,
            ofs=ofs_input(pipe.transformer, latents),
            image_rotary_emb=engine.rotary_embedding(),
        )
    return steering.features()
