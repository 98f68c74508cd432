"""Reference clips that are other than the library's, and what is learned from them for a benchmark.

The library's motions were learned from one clip each, in which one creature goes one way, and with
words that tell nothing. Here are clips in which a bystander moves as well, in which the way is
mirrored or the creature is half as large again, and words that name the motion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from motion_app.benchmark.scenes import BENCHMARK_SEED, world_of
from motion_app.evaluation.videos import ReferenceClip
from motion_app.geometry import ModelGeometry
from motion_app.methods import LORA_METHODS, REFINED, WAYS
from motion_app.wording import NEUTRAL_PHRASE
from motion_app.world.creatures import MOTIONS
from motion_app.world.retold import mirrored
from motion_app.world.world import (
    Creature,
    RenderedClip,
    WorldConfig,
    draw_scene,
    render,
    render_reference,
)

# Which set of motion files: the library's own, the same learned without masks or from tokens that
# are drawn, and those that the benchmark learns by itself, each named for what it is learned from.
LIBRARY, UNMASKED, SCRATCH = "library", "unmasked", "from scratch"
MARKED, BY_NOUN = "movers, marked", "movers, by noun"
SHAPED, MIRRORED, LARGER, WORDED = "shapes", "mirrored", "larger", "worded"
LEARNED = (MARKED, BY_NOUN, SHAPED, MIRRORED, LARGER, WORDED)
PACKED = "packs"  # SynMotion's, beside the library's motion tokens
LOOKED_AT = "refined"  # what an encoder said of the library's clips, refined
LORAS = "LoRAs"  # of the library's clips, for the method that needs them
POINTED, NAMED, WHOLE = "pointed at", "named", "whole picture"  # where a lesson looks
BYSTANDERS = ("walk right", "walk left", "rise")
ENLARGED = 1.5
MOVER_SEED = BENCHMARK_SEED + 3


@dataclass(frozen=True, eq=False)
class ClipLesson:
    """What the movement ``name`` is learned from: the first creature of ``rendered``, a ``noun``
    that does it, with the words ``phrase``. ``looks``: at what is pointed at, at what the noun
    finds, or at the whole picture; ``method`` learns it."""

    name: str
    noun: str
    phrase: str
    rendered: RenderedClip
    looks: str = POINTED
    method: str = "fleximmt"


def lesson(tokens: str, name: str, geometry: ModelGeometry, *, usual: str = WAYS[0]) -> ClipLesson:
    """The lesson of ``name`` for the set ``tokens``: of LEARNED, UNMASKED, SCRATCH, PACKED,
    LOOKED_AT or LORAS; the same each time. ``usual``: how the library's motions come of their
    clips, of ``methods.WAYS``."""
    phrase = MOTIONS[name].words if tokens == WORDED else NEUTRAL_PHRASE
    if tokens in (MARKED, BY_NOUN):
        clip = crowded_clip(name, geometry)
    else:
        clip = reference_clip(tokens, name, world_of(geometry))
    noun = clip.scene.creatures[0].noun
    looks = {BY_NOUN: NAMED, UNMASKED: WHOLE, PACKED: WHOLE}.get(tokens, POINTED)
    return ClipLesson(name, noun, phrase, clip, looks, taught_by(tokens, usual=usual))


def taught_by(tokens: str, *, usual: str) -> str:
    """The method by which the set ``tokens`` is learned: the ``usual`` one where other clips alone
    tell it from the library's."""
    others = {PACKED: "synmotion", LOOKED_AT: REFINED, LORAS: LORA_METHODS[0]}
    if tokens in LEARNED and tokens != BY_NOUN:
        return usual
    return others.get(tokens, WAYS[0])


def reference_clip(tokens: str, name: str, config: WorldConfig) -> RenderedClip:
    """The clip of one creature from which ``name`` of the set ``tokens`` is learned."""
    usual = render_reference(name, config).rendered
    if tokens not in (MIRRORED, LARGER):
        return usual
    (creature,) = usual.scene.creatures
    if tokens == MIRRORED:
        changed = mirrored(replace(creature, x=config.width - creature.x))
    else:
        changed = enlarged(creature, config)
        if changed is None:
            raise ValueError(f"{name} has no room at {ENLARGED} times the size; see fits_enlarged")
    return render(replace(usual.scene, creatures=(changed,)))


def reference_view(tokens: str, name: str, config: WorldConfig) -> tuple[ReferenceClip, str]:
    """``reference_clip`` as what videos are judged by, and the body it shows."""
    clip = reference_clip(tokens, name, config)
    reference = ReferenceClip(f"{name}, {tokens}", clip.frames, clip.masks[0, 0], clip.tracks[0])
    return reference, clip.scene.creatures[0].kind


def crowded_clip(name: str, geometry: ModelGeometry) -> RenderedClip:
    """The reference of ``name`` with a bystander that walks or rises; the same name draws the same
    clip."""
    beside = next(other for other in BYSTANDERS if other != name)
    rng = np.random.default_rng([MOVER_SEED, list(MOTIONS).index(name)])
    return render(draw_scene(rng, world_of(geometry), objects=2, motions=[name, beside]))


def enlarged(creature: Creature, config: WorldConfig) -> Creature | None:
    """``creature`` ENLARGED times as large, as near to its place as the picture has room for all of
    its path; None where there is none."""
    large = replace(creature, radius=creature.radius * ENLARGED)
    x0, y0, x1, y1 = large.bounds()
    if x1 - x0 > config.width or y1 - y0 > config.height:
        return None
    right, down = np.clip(0, -x0, config.width - x1), np.clip(0, -y0, config.height - y1)
    return replace(large, x=large.x + right, y=large.y + down)


def fits_enlarged(name: str, config: WorldConfig) -> bool:
    """Whether the reference of ``name`` has room at ENLARGED times its size."""
    (creature,) = render_reference(name, config).rendered.scene.creatures
    return enlarged(creature, config) is not None
