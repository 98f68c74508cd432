"""Files and requests from strangers: whatever comes, the answer is one of the app's own errors, and
it comes soon."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st

from motion_app.errors import MotionAppError
from motion_app.library.library import Library
from motion_app.library.motion_file import check_motion_file, read_motion
from motion_app.media.files import encode_data_uri
from motion_app.models.checkpoint import Checkpoint
from motion_app.request.request import build_request, parse_request

ROOT = Path(__file__).resolve().parents[2]
POCKET = ROOT / "checkpoints" / "pocket"
REAL = (POCKET / "motions" / "jump.safetensors").read_bytes()
HEADER = struct.unpack("<Q", REAL[:8])[0]
PATIENCE = 10.0  # s of the processor's time
MANY = fuzz(120)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def answered(use: Callable[[], Any]) -> bool:
    """Whether ``use`` was refused by the app itself; any other exception fails the test."""
    began = time.process_time()
    try:
        use()
    except MotionAppError as error:
        assert str(error).strip()
        refused = True
    else:
        refused = False
    assert time.process_time() - began < PATIENCE
    return refused


@MANY
@given(at=st.integers(0, HEADER + 7), bits=st.integers(1, 255), cut=st.integers(0, 200))
def test_a_header_with_wrong_bytes_is_refused_or_still_a_motion(tmp_path, at, bits, cut):
    content = bytearray(REAL)
    content[at] ^= bits
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(content[: len(content) - cut]))
    refused = answered(lambda: check_motion_file(path))
    assert refused or not cut, "a file that was cut off is never a motion"
    answered(lambda: read_motion(path))
    assert len(Library([tmp_path]).list()) + len(Library([tmp_path]).problems()) == 1


@MANY
@given(content=st.binary(max_size=400), claimed=st.none() | st.integers(0, 2**64 - 1))
def test_arbitrary_bytes_are_no_motion(tmp_path, content, claimed):
    path = tmp_path / "x.safetensors"
    path.write_bytes((b"" if claimed is None else struct.pack("<Q", claimed)) + content)
    assert answered(lambda: check_motion_file(path))


@MANY
@given(
    place=st.sampled_from(["__metadata__", "layers.0.motion_tokens", "preview", "dtype", "shape"]),
    key=st.sampled_from(["", "name", "track", "config", "created", "tokens", "data_offsets"]),
    value=JSON,
)
def test_a_header_with_anything_in_it_is_refused_or_still_a_motion(tmp_path, place, key, value):
    header = json.loads(REAL[8 : 8 + HEADER])
    if key and isinstance(header.get(place), dict):
        header[place][key] = value
    else:
        header[place] = value
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + REAL[8 + HEADER :])
    answered(lambda: check_motion_file(path))
    answered(lambda: read_motion(path))


@MANY
@given(layer=st.integers(0, 5), at=st.integers(0, 24_575), high=st.sampled_from([0x7C, 0xFC]))
def test_a_number_that_is_none_is_found_wherever_it_is(tmp_path, layer, at, high):
    content = bytearray(REAL)
    content[8 + HEADER + layer * 24_576 + (at | 1)] = high  # an exponent of ones: inf or NaN
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(content))
    assert answered(lambda: check_motion_file(path))


@pytest.fixture(scope="module")
def sound_request() -> dict[str, Any]:
    mask = np.zeros((64, 96), bool)
    mask[20:44, 30:60] = True
    thing = {"mask": encode_data_uri(mask), "sentence": "A cat is moving.", "motion": "jump"}
    image = encode_data_uri(np.full((64, 96, 3), 128, np.uint8))
    return {"image": image, "objects": [thing], "seed": 1}


def build(entries: Any) -> None:
    build_request(
        parse_request(entries),
        geometry=Checkpoint.read(POCKET).geometry,
        library=Library([POCKET / "motions"]),
        base=None,
    )


def test_the_request_that_is_spoiled_below_is_sound(sound_request):
    build(sound_request)


@MANY
@given(
    key=st.sampled_from(["image", "objects", "seed", "steps", "guidance", "prompt", "fit", "x"]),
    value=JSON,
)
def test_a_request_with_anything_in_it_is_refused_or_sound(sound_request, key, value):
    answered(lambda: build(sound_request | {key: value}))


@MANY
@given(
    key=st.sampled_from(["mask", "sentence", "phrase", "motion", "strength", "name", "x"]),
    value=JSON,
)
def test_an_object_with_anything_in_it_is_refused_or_sound(sound_request, key, value):
    objects = [sound_request["objects"][0] | {key: value}]
    answered(lambda: build(sound_request | {"objects": objects}))


@MANY
@given(value=JSON, wrapped=st.booleans())
def test_a_recipe_of_anything_is_refused(tmp_path, value, wrapped):
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"request": value, "base": ""} if wrapped else value))
    assert answered(lambda: build(path))


@MANY
@given(text=st.text(max_size=80), at=st.integers(0, 300), cut=st.integers(0, 60))
def test_a_picture_address_with_wrong_letters_is_refused_or_a_picture(sound_request, text, at, cut):
    image = sound_request["image"]
    spoiled = image[:at] + text + image[at + cut :]
    answered(lambda: build(sound_request | {"image": spoiled}))
