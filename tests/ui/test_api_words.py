"""What the API and the batch say they take is what they take: units, ranges, names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import annotated_types
import pytest
from gradio.utils import get_function_description
from pydantic import BaseModel

from motion_app.errors import RequestError
from motion_app.geometry import FIT_MODES
from motion_app.host import ModelHost
from motion_app.jobs.content_keys import TRAINING_KEYS, EvaluationLine
from motion_app.jobs.kinds import FILES
from motion_app.library.library import motion_entry
from motion_app.library.motion_file import MAX_LETTERS
from motion_app.media.provenance import Verification
from motion_app.methods import ABLATIONS, LEARNED, METHODS, PACK_ABLATIONS, SCOPES
from motion_app.request.request import ObjectEntry, RequestFile, parse_request, request_names
from motion_app.scene import Motion, Options
from motion_app.settings import DEFAULT_LIMITS, ROOT, Settings
from motion_app.training.inputs import MOST_LETTERS, MOST_STEPS, TrainingInputs
from motion_app.ui.api import files
from motion_app.ui.api.hub import HubEndpoints
from motion_app.ui.api.jobs import ENTRY_PATHS, JobEndpoints, MotionEndpoints
from motion_app.ui.api.pictures import LONGEST_WORD, MOST_WORDS, PictureEndpoints
from motion_app.ui.api.transfer import ThingEntry, TransferEndpoint

OWNERS = (PictureEndpoints, JobEndpoints, MotionEndpoints, TransferEndpoint, HubEndpoints)
ENDPOINTS = {
    name: method
    for owner in OWNERS
    for name, method in vars(owner).items()
    if not name.startswith("_")
}
HIDDEN = {"self", "http"}  # not of the caller


def told(endpoint: str) -> tuple[dict[str, str], str]:
    """What ``/?view=api`` and MCP show of an endpoint: of each parameter, and of the answer."""
    _, parameters, returns = get_function_description(files.checked_endpoint(ENDPOINTS[endpoint]))
    shown = {name: words for name, words in parameters.items() if name not in HIDDEN}
    (answer,) = returns
    return shown, answer


def keys_of(text: str) -> set[str]:
    """The keys of the JSON object that ``text`` describes."""
    return set(re.findall(r'"([\w-]+)"', text))


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_parameter_and_answer_of_the_api_is_described(endpoint):
    parameters, answer = told(endpoint)
    assert answer and all(parameters.values())


def test_all_keys_of_a_clicked_thing_are_told():
    words = told("transfer")[0]["things"]
    assert set(ThingEntry.model_fields) <= keys_of(words)
    assert f"1 to {MOST_STEPS}" in words and "in pixels" in words


SHARES = {"crop": [0.1, 0.2, 0.9, 1.0], "mover": [0.5, 0.25]}
PIXELS = {"crop": [10, 20, 90, 60], "mover": [50, 25]}


def learned(**columns: Any) -> TrainingInputs:
    clip = {"name": "hop", "phrase": "hops", "noun": "fox", "clips": ["a.mp4"]}
    return TrainingInputs.from_json({**clip, **columns}, Path())


@pytest.mark.parametrize("key", SHARES)
def test_places_in_clips_are_shares_and_are_said_to_be(key):
    learned(**{key: [SHARES[key]]})
    with pytest.raises(RequestError, match="as shares of width and height"):
        learned(**{key: [PIXELS[key]]})
    for words in (told("train_motion")[0][key], batch_rows()[key]):
        assert "shares" in words and "0 to 1" in words and "pixel" not in words


def test_spans_of_clips_are_seconds_and_are_said_to_be():
    learned(trim=[[0.5, None]])
    for words in (told("train_motion")[0]["trim"], batch_rows()["trim"]):
        assert "seconds" in words


@pytest.mark.parametrize("key", ["points", "box"])
def test_clicks_on_a_picture_are_pixels_and_are_said_to_be(key):
    assert "in pixels of the picture" in told("segment")[0][key]


def test_the_numbers_of_a_training_are_those_that_are_taken():
    parameters, _ = told("train_motion")
    assert f"1 to {MOST_STEPS}" in parameters["steps"]
    assert f"1 to {MAX_LETTERS['name']} characters" in parameters["name"]
    for key in ("phrase", "noun"):
        assert f"1 to {MOST_LETTERS} characters" in parameters[key]
    assert keys_of(parameters["method"]) == set(LEARNED)
    assert f"at most {MAX_LETTERS['name']} characters" in told("import_motion")[0]["name"]
    words = told("find")[0]
    assert "0 to 1" in words["threshold"]
    assert (
        f"at most {MOST_WORDS}" in words["words"]
        and f"{LONGEST_WORD} characters" in (words["words"])
    )


@pytest.mark.parametrize("endpoint", ["generate", "submit"])
def test_a_request_is_described_as_it_is_read(endpoint):
    words = told(endpoint)[0]["request"]
    known = set(request_names()) | set(ObjectEntry.model_fields)
    assert keys_of(words) == known - {"model"} | set(FIT_MODES)  # a page serves one model
    low, high = bounds("strength", ObjectEntry)
    assert f'"strength": {low:g} to {high:g}' in words
    low, high = bounds("steps", RequestFile)
    assert f'"steps": {low:g} to {high:g}' in words
    assert '"seed": 0 or more' in words and '"guidance": 0 or more' in words


def rules(field: str, model: type[BaseModel]) -> list:
    """What holds for a key of the JSON that ``model`` reads."""
    known = {**model.model_fields, **(Options.__pydantic_fields__ if model is RequestFile else {})}
    return known[field].metadata


def bounds(field: str, model: type[BaseModel]) -> tuple[float | None, float | None]:
    """What a number of a request may be at least and at most."""
    found: dict[type, float] = {}
    for rule in rules(field, model):
        for kind, name in ((annotated_types.Ge, "ge"), (annotated_types.Le, "le")):
            if isinstance(rule, kind):
                found[kind] = getattr(rule, name)
    return found.get(annotated_types.Ge), found.get(annotated_types.Le)


def test_the_answers_of_the_api_have_the_keys_they_are_said_to_have():
    verified = Verification(0.0, False, None, None, False, False, "none", None).to_json()
    assert keys_of(told("verify")[1]) == set(verified)
    entry = set(motion_entry(Motion("a", "b", Path("c"), "d"))) - set(ENTRY_PATHS)
    assert keys_of(told("motions")[1]) == entry | {"motions", "problems"}
    assert set(FILES) <= keys_of(told("generate")[1])
    host = ModelHost(Settings(device="cpu"))
    answer = PictureEndpoints(host).model()
    assert keys_of(told("model")[1]) - {"loading", "ready", "failed"} == set(answer)


# docs/batch.md ------------------------------------------------------------------------------------


def tables() -> dict[str, dict[str, str]]:
    """Whose keys → each key's row, of the tables of ``docs/batch.md`` that describe keys."""
    found: dict[str, dict[str, str]] = {}
    rows: dict[str, str] = {}
    for line in (ROOT / "docs" / "batch.md").read_text(encoding="utf-8").splitlines():
        head = re.match(r"\| key of an? (\w+) \|", line)
        if head:
            rows = found.setdefault(head[1], {})
        elif not line.startswith("|"):
            rows = {}
        elif line.startswith("| `"):
            for key in re.findall(r"`(\w+)`", line.split("|")[1]):
                rows[key] = line
    return {owner: rows for owner, rows in found.items() if rows}


def batch_rows() -> dict[str, str]:
    return tables()["training"]


def test_every_key_of_a_manifest_is_described_and_no_other():
    described = tables()
    assert set(described["request"]) == set(request_names())
    assert set(described["object"]) == set(ObjectEntry.model_fields)
    assert set(described["training"]) == TRAINING_KEYS | {"model"}
    assert set(described["score"]) == set(EvaluationLine.model_fields)


@pytest.mark.parametrize(
    ("owner", "key", "values"),
    [
        ("request", "method", METHODS),
        ("request", "fit", FIT_MODES),
        ("request", "without", (*ABLATIONS, *PACK_ABLATIONS)),
        ("request", "scope", SCOPES),
        ("training", "method", tuple(LEARNED)),
    ],
)
def test_the_words_a_key_takes_are_listed(owner, key, values):
    column = tables()[owner][key].split("|")[3]
    assert tuple(re.findall(r"`([\w-]+)`", column)) == values


def test_the_ranges_of_a_manifest_are_those_that_are_taken():
    request, thing, training = (tables()[name] for name in ("request", "object", "training"))
    for rows, model in ((request, RequestFile), (thing, ObjectEntry)):
        for key in rows:
            low, high = bounds(key, model)
            if high is not None:
                assert f"{low:g} to {high:g}" in rows[key], key
            elif key == "guidance":
                assert f"{low:g} or more" in rows[key]
            for rule in rules(key, model):
                if isinstance(rule, annotated_types.MaxLen):
                    assert f"at most {rule.max_length} characters" in rows[key], key
    parse_request({"image": "a", "seed": 2**63 - 1})
    with pytest.raises(RequestError):
        parse_request({"image": "a", "seed": 2**63})
    assert "0 to 2^63 - 1" in request["seed"]
    assert f"at most {DEFAULT_LIMITS.objects} " in request["objects"]
    assert f"1 to {MOST_STEPS}" in training["steps"]
    assert f"at most {DEFAULT_LIMITS.reference_clips} " in training["clips"]
    assert (
        f"1 to {MOST_LETTERS} characters, the name 1 to {MAX_LETTERS['name']}" in (training["name"])
    )
