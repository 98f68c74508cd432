"""A path that was drawn for an object: from the request's file to the frame, and back."""

import json

import numpy as np
import pytest
from PIL import Image
from test_assignment import BASE, JUMP, SIZES, block, build, entries, one_object

from motion_app.errors import RequestError
from motion_app.geometry import fit_image
from motion_app.library.library import Library
from motion_app.request.kept import read_request, request_bytes
from motion_app.request.paths import MOST_POINTS, framed_path, moved_path, way_along
from motion_app.request.request import checked_request, parse_request
from motion_app.request.written import request_to_json, told_objects
from motion_app.scene import GenerationRequest, SceneObject

OLD_KEYS = ["mask", "sentence", "phrase", "motion", "strength", "name"]
LINE = [[0.2, 0.5], [0.6, 0.5], [0.6, 0.9]]


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(np.full((64, 96, 3), 120, np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(block(x=8).astype(np.uint8) * 255).save(tmp_path / "robot.png")
    return tmp_path


def test_without_a_path_no_json_says_a_word_of_it(folder):
    request = build(folder, one_object(motion=None))
    written = request_to_json(request)
    assert [list(item) for item in written["objects"]] == [OLD_KEYS]
    assert "path" not in told_objects(request, [""])[0]
    parsed = parse_request(one_object(motion=None))
    for dumped in (parsed.model_dump(), parsed.model_dump(mode="json")):
        assert [list(item) for item in dumped["objects"]] == [OLD_KEYS]
        assert parse_request(dumped) == parsed


def test_a_path_comes_back_from_a_recipe_and_from_a_job_as_it_was(folder):
    first = build(folder, one_object(motion=None, path=LINE))
    assert first.objects[0].path == tuple(map(tuple, LINE))
    written = json.loads(json.dumps(request_to_json(first)))
    assert written["objects"][0]["path"] == LINE
    again = build(folder, written)
    assert request_to_json(again) == request_to_json(first)
    (folder / "kept").write_bytes(request_bytes(first))
    kept = read_request(folder / "kept", written, library=Library([]), base=BASE)
    assert kept.objects[0].path == first.objects[0].path


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ([[0.1, 0.2]], "2 to"),
        ([[0.1, 0.2]] * (MOST_POINTS + 1), f"this one {MOST_POINTS + 1}"),
        ([[0.1, float("nan")], [0.1, 0.2]], "leads nowhere"),
        ([[0.1, 0.2], [1e9, 0.2]], "leads nowhere"),
        ([[0.1, 0.2, 0.3], [0.1, 0.2]], r"list of \[x, y\]"),
        ("along", r"list of \[x, y\]"),
        (7, r"list of \[x, y\]"),
        ([[0.1, "b"], [0.1, 0.2]], r"list of \[x, y\]"),
    ],
)
def test_what_is_no_path_is_refused_with_what_came_and_what_is_wanted(folder, path, words):
    with pytest.raises(RequestError, match=rf'"path" of object 1 is .*{words}'):
        build(folder, one_object(motion=None, path=path))
    with pytest.raises(RequestError, match=rf"path of object 1 .*{words}"):
        checked_request(
            GenerationRequest(
                np.zeros((64, 96, 3), np.uint8), (SceneObject(block(), "A fox.", path=path),)
            ),
            geometry=SIZES,
        )


def test_a_motion_and_a_path_exclude_each_other():
    item = SceneObject(block(), "A fox is moving.", motion=JUMP, path=((0, 0), (1, 1)))
    request = GenerationRequest(np.zeros((64, 96, 3), np.uint8), (item,))
    with pytest.raises(RequestError, match='object 1 has a path and the motion "jump".*one of'):
        checked_request(request, geometry=SIZES)


def test_a_model_of_others_is_told_no_path(folder):
    with pytest.raises(RequestError, match='object 1 has a path, of which "wan".*take the path'):
        build(folder, one_object(motion=None, path=LINE) | {"method": "none", "stock": "wan"})


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_path_lies_on_the_same_things_in_every_fit(folder, fit):
    picture = np.full((100, 100, 3), 90, np.uint8)
    picture[30:40, 70:80] = (255, 0, 0)
    Image.fromarray(picture).save(folder / "square.png")
    mask = np.zeros((100, 100), np.uint8)
    mask[40:90, 10:60] = 255
    Image.fromarray(mask).save(folder / "robot.png")
    request = build(
        folder,
        one_object(motion=None, path=[[0.3, 0.6], [0.75, 0.35]])
        | {"image": "square.png", "fit": fit},
    )
    x, y = request.objects[0].path[1]
    assert request.image[int(y * 64), int(x * 96)].argmax() == 0
    assert request.image[int(y * 64), int(x * 96), 0] > 200, "still on the red spot"


def test_from_one_fit_to_another_and_back_a_path_is_the_same():
    picture = np.zeros((100, 60, 3), np.uint8)
    crop, pad = (fit_image(picture, 64, 96, mode) for mode in ("crop", "pad"))
    path = framed_path(((0.1, 0.4), (0.9, 0.7)), crop)
    there = moved_path(path, crop, pad)
    assert there == framed_path(((0.1, 0.4), (0.9, 0.7)), pad)
    back = np.array(moved_path(there, pad, crop))
    assert np.abs(back - path).max() < 1e-5


def test_the_way_is_as_fast_in_one_frame_as_in_another_and_begins_at_nothing():
    way = way_along(((0.0, 0.5), (0.1, 0.5), (0.5, 0.5), (0.5, 0.75)), 21, height=40, width=40)
    assert way.shape == (21, 2) and np.array_equal(way[0], [0, 0])
    assert way[-1] == pytest.approx([20, 10])
    assert np.hypot(*np.diff(way, axis=0).T) == pytest.approx(np.full(20, 1.5), abs=0.45)
    assert way[10] == pytest.approx([15, 0])
    stays = way_along(((0.3, 0.3), (0.3, 0.3)), 5, height=40, width=40)
    assert not stays.any()


def test_entries_of_old_requests_still_build(folder):
    Image.fromarray(block(x=60).astype(np.uint8) * 255).save(folder / "fox.png")
    asked = entries()
    for item in asked["objects"]:
        item["motion"] = None
    assert [item.path for item in build(folder, asked).objects] == [None, None]
