"""The pocket world's ground truth is true."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from motion_app.evaluation.metrics import assignment_similarity
from motion_app.evaluation.trackers import colour_track
from motion_app.world.creatures import MOTIONS
from motion_app.world.retold import draw_motions, render_looking_back, retold
from motion_app.world.world import WorldConfig, draw_scene, render, vocabulary


def test_the_same_seed_draws_the_same_clip() -> None:
    one, two = (render(draw_scene(np.random.default_rng(5))) for _ in range(2))
    assert np.array_equal(one.frames, two.frames)
    assert one.scene.caption == two.scene.caption


@pytest.mark.parametrize("seed", range(8))
def test_creatures_stay_in_the_picture_and_apart(seed: int) -> None:
    clip = render(draw_scene(np.random.default_rng(seed), objects=2))
    assert all(creature.stays_inside(clip.scene.config) for creature in clip.scene.creatures)
    assert not (clip.masks[0] & clip.masks[1]).any()
    areas = clip.masks.sum(axis=(2, 3))
    assert areas.min() > 60


def test_masks_and_tracks_agree() -> None:
    clip = render(draw_scene(np.random.default_rng(3), objects=1, motions=["circle"]))
    for t in range(len(clip.frames)):
        rows, columns = np.nonzero(clip.masks[0, t])
        assert np.allclose((rows.mean(), columns.mean()), clip.tracks[0, t] - 0.33, atol=0.7)


def test_named_motions_are_determined_by_their_words() -> None:
    first, second = (
        render(draw_scene(np.random.default_rng(seed), objects=1, motions=["walk left"]))
        for seed in (1, 2)
    )
    assert assignment_similarity(first.tracks[0], second.tracks[0]) > 0.99


def test_an_unknown_motion_is_named() -> None:
    with pytest.raises(ValueError, match="moonwalk"):
        draw_scene(np.random.default_rng(0), objects=1, motions=["moonwalk"])


def test_training_never_draws_a_novel_motion() -> None:
    rng = np.random.default_rng(0)
    drawn = {c.motion for _ in range(200) for c in draw_scene(rng).creatures}
    novel = {name for name, kind in MOTIONS.items() if kind.novel}
    assert len(novel) >= 3 and not drawn & novel


def test_the_vocabulary_covers_every_caption() -> None:
    rng, words = np.random.default_rng(0), set(vocabulary())
    for _ in range(50):
        caption = draw_scene(rng, WorldConfig(level=1)).caption
        assert set(caption.replace(",", "").replace(".", "").split()) <= words


def test_colour_finds_the_creature_where_it_is() -> None:
    clip = render(draw_scene(np.random.default_rng(11), objects=2, motions=["jump", "sway"]))
    for k in range(2):
        track = colour_track(clip.frames, clip.masks[k, 0])
        assert assignment_similarity(track, clip.tracks[k]) > 0.95


def test_the_place_does_not_tell_whose_motion_is_whose() -> None:
    for seed in range(5):
        scene = draw_scene(np.random.default_rng(seed), objects=2, motions=["walk right", "rise"])
        first, second = scene.creatures
        for creature, path in ((first, second.path), (second, first.path)):
            assert replace(creature, path=path).stays_inside(scene.config)


def test_motions_are_told_again_by_others_in_another_place():
    rng = np.random.default_rng(8)
    config = WorldConfig()
    for _ in range(5):
        first = draw_scene(rng, config, objects=2, motions=draw_motions(rng, 2, config))
        second = retold(rng, first, kinds=("robot",))
        for one, other in zip(first.creatures, second.creatures, strict=True):
            assert other.path is one.path and other.words == one.words
            assert other.kind == "robot" and (other.x, other.y) != (one.x, one.y)
            assert other.stays_inside(config)
        assert second.creatures[0].colour != second.creatures[1].colour


def test_who_looks_back_stands_and_goes_where_it_did():
    rng = np.random.default_rng(9)
    scene = draw_scene(rng, WorldConfig(kinds=("ghost",)), objects=1, motions=["walk left"])
    ahead, back = render(scene), render_looking_back(scene)
    assert np.abs(ahead.tracks - back.tracks).max() < 0.5, "a ghost is nearly symmetric"
    overlap = (ahead.masks & back.masks).sum() / (ahead.masks | back.masks).sum()
    assert overlap > 0.9
    bird = draw_scene(rng, WorldConfig(kinds=("bird",)), objects=1, motions=["walk left"])
    ahead, back = render(bird), render_looking_back(bird)
    step = np.diff(ahead.tracks, axis=1) - np.diff(back.tracks, axis=1)
    assert np.abs(step).max() < 0.5 and not np.array_equal(ahead.masks, back.masks)
