"""Where tokens sit, and which class each belongs to."""

import pytest
import torch

from motion_app.engine.layout import SequenceLayout
from motion_app.errors import RequestError


def test_every_key_is_free_text_video_or_one_objects_in_that_order():
    layout = SequenceLayout(
        text=6, phrases=[(1, 3), None, (4, 5)], motion=[4, 0, 2], grid=(2, 2, 3)
    )
    own = [part for k in range(3) for part in (layout.phrase_keys(k), layout.motion_keys(k))]
    ranges = [layout.free_keys, layout.video_keys, *own]
    found = [position for part in ranges for position in range(layout.keys)[part]]
    assert found == list(range(layout.keys)) == list(range(6 + 4 + 0 + 2 + 12))
    assert [part.stop - part.start for part in ranges] == [3, 12, 2, 4, 0, 0, 1, 2]
    assert range(layout.queries)[layout.video_rows] == range(6, 18)
    assert layout.free_text == ((0, 1), (3, 4), (5, 6)) and layout.steered == (0, 2)


@pytest.mark.parametrize("phrases", [[(1, 3), None, (4, 5)], [(3, 6), None, (0, 3)]])
def test_arranged_tokens_lie_where_the_layout_says(phrases):
    layout = SequenceLayout(text=6, phrases=phrases, motion=[4, 0, 2], grid=(2, 2, 3))
    tokens = torch.arange(18.0).expand(2, 3, 18)[..., None]  # text 0 to 5, video 6 to 17
    motion = torch.arange(100.0, 106.0).expand(2, 3, 6)[..., None]
    found = layout.arrange(tokens, motion)[1, 2, :, 0]
    assert found[layout.video_keys].tolist() == list(range(6, 18))
    for k, moves in ((0, [100, 101, 102, 103]), (2, [104, 105])):
        assert found[layout.phrase_keys(k)].tolist() == list(range(*phrases[k]))
        assert found[layout.motion_keys(k)].tolist() == moves
    free = [i for i in range(6) if not any(i in range(*phrases[k]) for k in (0, 2))]
    assert found[layout.free_keys].tolist() == free and len(found) == layout.keys


def test_a_video_token_lies_in_exactly_the_masks_that_cover_it():
    layout = SequenceLayout(text=2, phrases=[(0, 1), (1, 2)], motion=[1, 1], grid=(1, 1, 4))
    masks = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.bool).view(2, 1, 1, 4)
    classes = layout.classify(masks)
    video = [classes.sets[c - 1 - 2 * 2] for c in classes.queries[2:].tolist()]
    assert video == [{0}, {0, 1}, {1}, set()]
    assert classes.keys.tolist() == [*classes.queries[2:].tolist(), 1, 3, 2, 4]


def test_an_object_without_motion_is_free_text_and_marks_no_video():
    layout = SequenceLayout(text=3, phrases=[None, (1, 2)], motion=[0, 5], grid=(1, 2, 2))
    masks = torch.ones(2, 1, 2, 2, dtype=torch.bool)
    classes = layout.classify(masks)
    assert classes.sets == (frozenset({1}),)
    assert classes.queries[:3].tolist() == [0, 2, 0]


@pytest.mark.parametrize(
    ("phrases", "motion", "words"),
    [
        ([(3, 9)], [2], "outside the 6 text tokens"),
        ([(2, 2)], [2], "outside"),
        ([(0, 3), (2, 4)], [2, 2], "share text token 2"),
        ([(0, 3)], [2, 2], "1 motion phrases came for 2 motions"),
        ([(0, 3)], [-2], "no token counts"),
    ],
)
def test_a_layout_that_cannot_be_is_refused_with_its_numbers(phrases, motion, words):
    with pytest.raises(RequestError, match=words):
        SequenceLayout(text=6, phrases=phrases, motion=motion, grid=(1, 2, 2))


def test_masks_of_another_shape_are_refused_with_both_shapes():
    layout = SequenceLayout(text=2, phrases=[(0, 1)], motion=[1], grid=(2, 2, 2))
    with pytest.raises(RequestError, match=r"\(1, 2, 2, 2\), got \(1, 1, 2, 2\)"):
        layout.classify(torch.ones(1, 1, 2, 2, dtype=torch.bool))
