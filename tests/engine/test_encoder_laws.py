"""What the motion encoder that ships says of clips, by the videos that its tokens make: a clip that
is held moves nothing, a reversed one moves the other way, where the mover stands does not matter,
and of two movers the mask decides which is meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from motion_app.engine.motion_encoder import MotionEncoder, mover_shares
from motion_app.engine.motion_tokens import MotionMetadata
from motion_app.engine.pipeline import MotionEngine
from motion_app.evaluation.metrics import assignment_similarity, follows_own
from motion_app.evaluation.trackers import colour_track
from motion_app.library.motion_file import read_motion
from motion_app.scene import GenerationRequest, Motion, Options, SceneObject
from motion_app.settings import ROOT
from motion_app.wording import NEUTRAL_PHRASE
from motion_app.world.retold import retold
from motion_app.world.world import RenderedClip, WorldConfig, draw_scene, render

WORLD = WorldConfig()
SHIFT = (-12.0, 8.0)  # pixels (x, y): three tokens to the left and two down
Look = Callable[[np.ndarray, np.ndarray], Motion]


@pytest.fixture(scope="module")
def engine() -> MotionEngine:
    return MotionEngine.load(ROOT / "checkpoints" / "pocket", device="cpu")


@pytest.fixture(scope="module")
def look(engine: MotionEngine, tmp_path_factory: pytest.TempPathFactory) -> Look:
    """The motion of what moves in frames (T, H, W, 3), by its masks (T, H, W)."""
    encoder = MotionEncoder.load(engine.backbone.checkpoint)
    folder = tmp_path_factory.mktemp("looks")

    def encode(frames: np.ndarray, masks: np.ndarray) -> Motion:
        latents, _ = engine.backbone.encode_clip(frames)
        tokens = encoder.encode(latents[0], mover_shares(masks, engine.geometry))
        file = folder / f"{len(list(folder.iterdir()))}.safetensors"
        tokens.save(file, MotionMetadata(file.stem, NEUTRAL_PHRASE, engine.fingerprint))
        return read_motion(file)

    return encode


def scenes(*motions: str, seed: int) -> tuple[RenderedClip, RenderedClip]:
    """A picture's clip, in which each creature has room for each of the ``motions``, and one of
    other creatures elsewhere, who do these motions too."""
    rng = np.random.default_rng(seed)
    scene = draw_scene(rng, WORLD, objects=len(motions), motions=motions)
    return render(scene), render(retold(rng, scene, kinds=WORLD.kinds))


def tracks(engine: MotionEngine, told: RenderedClip, *motions: Motion) -> list[np.ndarray]:
    """The ways (T, 2) of the creatures of the first frame of ``told`` with these motions."""
    objects = tuple(
        SceneObject(told.masks[k, 0], creature.neutral_sentence, NEUTRAL_PHRASE, motion)
        for k, (creature, motion) in enumerate(zip(told.scene.creatures, motions, strict=True))
    )
    frames = engine.generate(GenerationRequest(told.frames[0], objects, Options(seed=1))).frames
    return [colour_track(frames, mask) for mask in told.masks[:, 0]]


def test_a_clip_that_is_held_moves_nothing(engine: MotionEngine, look: Look) -> None:
    told, reference = scenes("walk right", seed=1)
    held = (
        np.repeat(part[:1], WORLD.frames, axis=0) for part in (reference.frames, reference.masks[0])
    )
    (track,) = tracks(engine, told, look(*held))
    token = engine.geometry.height / engine.geometry.grid_height
    assert np.linalg.norm(track - track[0], axis=1).max() < token


def test_a_clip_reversed_in_time_is_the_reversed_motion(engine: MotionEngine, look: Look) -> None:
    told, reference = scenes("walk right", "walk left", seed=2)
    frames, masks, way = reference.frames, reference.masks[0], reference.tracks[0]
    forward, backward = look(frames, masks), look(frames[::-1].copy(), masks[::-1].copy())
    there, back = tracks(engine, told, forward, backward)
    for track, own, other in ((there, way, way[::-1]), (back, way[::-1], way)):
        assert follows_own(*(assignment_similarity(track, truth) for truth in (own, other)))


def test_clip_and_mask_shifted_together_move_alike(engine: MotionEngine, look: Look) -> None:
    rng = np.random.default_rng(3)
    told, reference = scenes("jump", seed=3)
    (creature,) = reference.scene.creatures
    moved = replace(creature, x=creature.x + SHIFT[0], y=creature.y + SHIFT[1])
    while not (creature.stays_inside(WORLD) and moved.stays_inside(WORLD)):
        reference = render(retold(rng, told.scene, kinds=WORLD.kinds))
        (creature,) = reference.scene.creatures
        moved = replace(creature, x=creature.x + SHIFT[0], y=creature.y + SHIFT[1])
    shifted = render(replace(reference.scene, creatures=(moved,)))
    own = []
    for clip in (reference, shifted):
        (track,) = tracks(engine, told, look(clip.frames, clip.masks[0]))
        own.append(assignment_similarity(track, told.tracks[0]))
    assert min(own) > 0.5 and abs(own[0] - own[1]) <= 0.05, own


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_movers_the_mask_decides_which(
    engine: MotionEngine, look: Look, swapped: bool
) -> None:
    told, reference = scenes("walk right", "rise", seed=4)
    order = (1, 0) if swapped else (0, 1)
    given = [look(reference.frames, reference.masks[k]) for k in order]
    for track, k in zip(tracks(engine, told, *given), order, strict=True):
        alike = [assignment_similarity(track, reference.tracks[j]) for j in (k, 1 - k)]
        assert follows_own(*alike), (k, alike)
