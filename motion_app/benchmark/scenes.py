"""The scenes of the benchmark, and the motions they ask for.

A case is complete in itself: picture, first-frame masks, sentences, and the clip each object should
move like. Where the pocket's renderer drew it, the true continuation is there too; nothing of it
is ever shown to a method.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np

from motion_app.errors import RequestError
from motion_app.evaluation.videos import ReferenceClip
from motion_app.geometry import ModelGeometry, mask_to_grid
from motion_app.scene import GenerationRequest, Motion, Options, SceneObject
from motion_app.wording import NEUTRAL_PHRASE
from motion_app.world.creatures import MOTIONS
from motion_app.world.world import (
    RenderedClip,
    Scene,
    WorldConfig,
    draw_scene,
    render,
    render_reference,
)

TUNING, HELD_OUT = "tuning", "held out"
# Of no training, and far apart: settings were chosen on the first, methods are compared on the
# second.
SPLITS = MappingProxyType({TUNING: 500_000, HELD_OUT: 830_000})
BENCHMARK_SEED = SPLITS[HELD_OUT]
COUNT_NAMES = {1: "one", 2: "two", 3: "three"}


@dataclass(frozen=True)
class Movement:
    """One motion of the library, in however many ways it was learned: the ``files`` that share its
    name or its true track."""

    name: str
    files: tuple[Motion, ...]


@dataclass(frozen=True, eq=False)
class CaseObject:
    """``mask`` (H, W) bool of the first frame, ``motion`` a movement's name; ``reference`` the clip
    of it. ``body`` and ``reference_body``: what kind of creature each is, where that is known."""

    name: str
    sentence: str
    phrase: str
    mask: np.ndarray
    motion: str
    reference: ReferenceClip
    body: str = ""
    reference_body: str = ""


@dataclass(frozen=True, eq=False)
class BenchmarkCase:
    """``image`` (H, W, 3) uint8; ``seed`` of the generation; ``rendered`` the renderer's own
    clip, None for a picture of the real world."""

    id: str
    image: np.ndarray
    objects: tuple[CaseObject, ...]
    seed: int
    rendered: RenderedClip | None = None

    def request(
        self,
        motions: Sequence[Motion],
        *,
        method: str = "fleximmt",
        without: Collection[str] = (),
        steps: int | None = None,
        stock: str | None = None,
    ) -> GenerationRequest:
        """What a method is asked, or a model of others: ``motions`` holds each object's file, in
        order."""
        objects = tuple(
            SceneObject(thing.mask, thing.sentence, thing.phrase, motion, name=thing.name)
            for thing, motion in zip(self.objects, motions, strict=True)
        )
        left_out = tuple(sorted(without))
        chosen = Options(seed=self.seed, steps=steps, method=method, without=left_out, stock=stock)
        return GenerationRequest(self.image, objects, chosen)

    def chosen(self, motions: Iterable[Motion]) -> tuple[Motion, ...]:
        """Each object's motion among ``motions``, by name."""
        named = {motion.name: motion for motion in motions}
        return tuple(named[thing.motion] for thing in self.objects)

    @property
    def caption(self) -> str:
        return " ".join(thing.sentence for thing in self.objects)

    def facts(self) -> dict[str, Any]:
        """What the case is, as plain JSON without its pictures."""
        keys = ("name", "sentence", "phrase", "motion", "body", "reference_body")
        things = [{key: getattr(thing, key) for key in keys} for thing in self.objects]
        return {"id": self.id, "seed": self.seed, "objects": things}

    def digest(self) -> str:
        """sha256 of all that a method is shown: pictures, words, seed."""
        digest = hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode())
        for pixels in (self.image, *(thing.mask for thing in self.objects)):
            digest.update(np.ascontiguousarray(pixels).tobytes())
        return digest.hexdigest()

    def reference_digest(self) -> str:
        """sha256 of what the case is judged against."""
        digest = hashlib.sha256()
        for thing in self.objects:
            digest.update(np.ascontiguousarray(thing.reference.frames).tobytes())
            digest.update(np.ascontiguousarray(thing.reference.mask).tobytes())
            track = thing.reference.track
            digest.update(b"" if track is None else np.ascontiguousarray(track).tobytes())
        if self.rendered is not None:
            digest.update(self.rendered.frames.tobytes())
        return digest.hexdigest()


def movements(motions: Sequence[Motion]) -> tuple[Movement, ...]:
    """The library's ``motions`` sorted into movements, by name; a movement that the renderer knows
    has the renderer's name for it."""
    groups: list[list[Motion]] = []
    for motion in motions:
        known = next((g for g in groups if any(_same(motion, other) for other in g)), None)
        if known is None:
            groups.append([motion])
        else:
            known.append(motion)
    named = []
    for group in groups:
        drawn = [motion.name for motion in group if motion.name in MOTIONS]
        named.append(Movement((drawn or [group[0].name])[0], tuple(group)))
    return tuple(sorted(named, key=lambda movement: movement.name))


def _same(a: Motion, b: Motion) -> bool:
    return a.name == b.name or (a.track is not None and a.track == b.track)


def world_of(geometry: ModelGeometry, **options: Any) -> WorldConfig:
    """The world at the size a checkpoint generates."""
    return WorldConfig(
        height=geometry.height,
        width=geometry.width,
        frames=geometry.frames,
        fps=round(geometry.fps),
        **options,
    )


@cache
def reference_of(name: str, config: WorldConfig) -> tuple[ReferenceClip, str]:
    """The rendered clip of a movement with its true mask and track, and the body it shows."""
    rendered = render_reference(name, config).rendered
    clip = ReferenceClip(name, rendered.frames, rendered.masks[0, 0], rendered.tracks[0])
    return clip, rendered.scene.creatures[0].kind


def pocket_case(
    id: str,
    scene: Scene,
    seed: int,
    names: Sequence[str],
    *,
    view: Callable[[str, WorldConfig], tuple[ReferenceClip, str]] = reference_of,
) -> BenchmarkCase:
    """``scene`` as a case: neutral sentences, so that nothing but a motion's file tells it.
    ``view``: a movement's reference and the body it shows."""
    rendered = render(scene)
    world = replace(scene.config, kinds=WorldConfig().kinds)  # references show any kind
    objects = []
    for k, (creature, name) in enumerate(zip(scene.creatures, names, strict=True)):
        reference, body = view(name, world)
        objects.append(
            CaseObject(
                name=creature.noun,
                sentence=creature.neutral_sentence,
                phrase=NEUTRAL_PHRASE,
                mask=rendered.masks[k, 0],
                motion=name,
                reference=reference,
                body=creature.kind,
                reference_body=body,
            )
        )
    return BenchmarkCase(id, rendered.frames[0], tuple(objects), seed, rendered)


def draw_cases(
    names: Sequence[str],
    counts: Mapping[int, int],
    *,
    geometry: ModelGeometry,
    prefix: str = "",
    kinds: Sequence[str] | None = None,
    seed: int = BENCHMARK_SEED,
) -> list[BenchmarkCase]:
    """``counts``: how many scenes of 1, 2 and 3 objects. Each draws its movements from ``names``
    without repetition; scene i of n objects depends on (seed, n, i), the names and the kinds
    alone. RequestError where there are fewer names than objects."""
    config = world_of(geometry, **({} if kinds is None else {"kinds": tuple(kinds)}))
    cases = []
    for objects, count in sorted(counts.items()):
        _check_enough(names, objects if count else 0)
        for i in range(count):
            scene, picked = visible_scene(names, objects, config, geometry, [seed, objects, i])
            id = f"{prefix}{COUNT_NAMES[objects]}-{i:03d}"
            cases.append(pocket_case(id, scene, i, picked))
    return cases


def tuning_cases(
    names: Sequence[str], counts: Mapping[int, int], *, geometry: ModelGeometry
) -> list[BenchmarkCase]:
    """The scenes of the split TUNING, as ``draw_cases`` but that scene i depends on (seed, i) and
    ``names`` in their order, and none is drawn again for an object smaller than a token: so they
    were drawn when settings were chosen on them. RequestError as there."""
    cases = []
    for objects, count in sorted(counts.items()):
        _check_enough(names, objects if count else 0)
        for i in range(count):
            rng = np.random.default_rng([SPLITS[TUNING], i])
            picked = [names[j] for j in rng.permutation(len(names))[:objects]]
            scene = draw_scene(rng, world_of(geometry), objects=objects, motions=picked)
            cases.append(pocket_case(f"tuning-{COUNT_NAMES[objects]}-{i:03d}", scene, i, picked))
    return cases


def _check_enough(names: Sequence[str], objects: int) -> None:
    if objects > len(names):
        raise RequestError(
            f"scenes of {objects} objects need {objects} different motions with a known track, "
            f"there are {len(names)}: {', '.join(names)}"
        )


def visible_scene(
    names: Sequence[str],
    objects: int,
    config: WorldConfig,
    geometry: ModelGeometry,
    key: Sequence[int],
) -> tuple[Scene, list[str]]:
    """The first scene drawn from ``key`` in which every object fills a token of the model."""
    for attempt in itertools.count():
        rng = np.random.default_rng([*key, attempt])
        picked = [names[j] for j in rng.permutation(len(names))[:objects]]
        scene = draw_scene(rng, config, objects=objects, motions=picked)
        masks = render(scene).masks[:, 0]
        grid = mask_to_grid(masks, geometry.grid_height, geometry.grid_width)
        if grid.any(axis=(1, 2)).all():
            return scene, picked
    raise AssertionError("unreachable: itertools.count has no end")
