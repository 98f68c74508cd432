"""Captions told to their creatures by place: the engine's own rules, with masks that lag."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from motion_app.engine.layout import SequenceLayout
from motion_app.engine.visibility import visibility_table
from motion_app.models.checkpoint import Checkpoint
from motion_app.pocket import grounding
from motion_app.pocket.grounding import (
    Caption,
    drawn_caption,
    grounded_bias,
)
from motion_app.pocket.network import TEXT_TOKENS, new_tokenizer
from motion_app.pocket.vae import clip_codes, scene_sentences
from motion_app.settings import ROOT
from motion_app.training.views import grid_masks, lagging
from motion_app.wording import NEUTRAL_PHRASE
from motion_app.world.world import draw_scene, render

SAID = [("A red cat", "jumps up and down"), ("An orange bird", "sinks slowly")]


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    return clip_codes([render(draw_scene(np.random.default_rng(3), objects=2))])  # (1, F, h, w)


def test_a_caption_says_where_each_creatures_motion_words_lie():
    rng = np.random.default_rng(0)
    orders = set()
    for _ in range(8):
        caption = drawn_caption(SAID, rng, neutral_share=0.0)
        orders.add(caption.text)
        assert [caption.text[slice(*span)] for span in caption.spans] == [w for _, w in SAID]
    assert len(orders) == 2
    neutral = drawn_caption(SAID, rng, neutral_share=1.0)
    assert {neutral.text[slice(*span)] for span in neutral.spans} == {NEUTRAL_PHRASE}


def test_codes_are_the_grid_masks_that_training_has():
    clip = render(draw_scene(np.random.default_rng(5), objects=3))
    geometry = Checkpoint.read(ROOT / "checkpoints" / "pocket").geometry
    masks = grid_masks(clip.masks, geometry)  # (3, F, h, w)
    (codes,) = clip_codes([clip])
    assert codes.shape == masks.shape[1:]
    for k, mask in enumerate(masks):
        assert np.array_equal((codes >> k & 1).astype(bool), mask)


def test_who_sees_whom_is_the_engines_table(codes: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(grounding, "TAKES_PART", 1.0)
    monkeypatch.setattr(grounding, "lagging", lambda masks, noise, rng: masks)
    rng, tokenizer = np.random.default_rng(1), new_tokenizer()
    caption = drawn_caption(SAID, rng, neutral_share=0.0)
    (bias,) = grounded_bias([caption], codes, [0.0], tokenizer, rng, share=1.0, text=TEXT_TOKENS)
    encoded = tokenizer(caption.text)
    spans = []
    for start, stop in caption.spans:
        inside = {encoded.char_to_token(i) for i in range(start, stop)} - {None}
        spans.append((min(inside), max(inside) + 1))
    layout = SequenceLayout(TEXT_TOKENS, spans, motion=(0, 0), grid=codes.shape[1:], members=(0, 1))
    masks = np.stack([(codes[0] >> k & 1).astype(bool) for k in range(2)])
    classes = layout.classify(torch.from_numpy(masks))
    table = torch.from_numpy(visibility_table(2, classes.sets, scope="released", without=()))
    seen = table[classes.queries][:, classes.queries]
    assert torch.equal(bias == 0, seen) and not bool(seen.all())


def test_a_clip_that_is_not_grounded_sees_all(codes: np.ndarray):
    rng, tokenizer = np.random.default_rng(1), new_tokenizer()
    captions = [drawn_caption(SAID, rng, neutral_share=0.0), Caption("")]
    both = np.concatenate([codes, codes])
    kinds = {"share": 0.0, "text": TEXT_TOKENS}
    assert not grounded_bias(captions, both, [0.5, 0.5], tokenizer, rng, **kinds).any()
    kinds["share"] = 1.0
    grounded = grounded_bias(captions, both, [0.0, 0.0], tokenizer, rng, **kinds)
    assert grounded[0].any() and not grounded[1].any(), "an empty caption has nothing to ground"


def test_masks_lag_the_more_the_noisier_and_start_where_the_creature_does(codes: np.ndarray):
    rng = np.random.default_rng(2)
    behind = {}
    for noise in (0.0, 0.5, 1.0):
        drawn = [lagging(codes[0], noise, rng) for _ in range(200)]
        behind[noise] = np.mean([np.mean((d != codes[0])[-1]) for d in drawn])
    assert behind[0.0] < behind[0.5] < behind[1.0]
    still = [lagging(codes[0], 1.0, rng) for _ in range(50)]
    assert any(np.array_equal(d, codes[0][:1].repeat(len(codes[0]), axis=0)) for d in still)


def test_sentences_and_codes_count_creatures_alike():
    scene = draw_scene(np.random.default_rng(9), objects=3)
    (codes,) = clip_codes([render(scene)])
    assert len(scene_sentences(scene)) == 3 and int(np.bitwise_or.reduce(codes, axis=None)) == 0b111
