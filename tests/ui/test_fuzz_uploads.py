"""Files that strangers name at any depth of a call, and strangers who write at once: nothing of the
server's is read for them, and nothing that was acknowledged is lost."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest
from fuzzing import fuzz
from hypothesis import Phase, given
from hypothesis import strategies as st
from serving import ROOT, RunningApp
from test_fuzz_http import ENDPOINTS, MOTION, NEVER_TOLD, PATHS, multipart

fuzz_calls = partial(fuzz, phases=(Phase.explicit, Phase.generate))  # a smaller one takes minutes
WRITERS = 16
BAIT = "only the server's own may read this " + "q7" * 8
KEYS = ("path", "url", "video", "image", "file", "name", "value", "background", "layers", "data")


@pytest.fixture(scope="module")
def bait(app: RunningApp) -> Iterator[list[str]]:
    """Paths of files of the server that hold something nobody may see: beside its own folders, and
    in those of its jobs and uploads."""
    places = [app.folder / "bait.png", app.folder / "outputs" / "bait.mp4"]
    places.append(app.folder / "cache" / "bait.safetensors")
    for place in places:
        place.write_text(BAIT)
    yield [str(place) for place in places]
    for place in places:
        place.unlink(missing_ok=True)


@pytest.fixture
def client(app: RunningApp) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=app.url, timeout=240) as calling:
        yield calling


def nested(paths: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """A file object in any of gradio's forms, in lists and dictionaries up to some depth."""
    marked = st.fixed_dictionaries(
        {"path": paths},
        optional={
            "meta": st.sampled_from([{"_type": "gradio.FileData"}, {"_type": "x"}, {}, None]),
            "url": paths | st.none(),
            "orig_name": paths,
            "is_stream": st.booleans() | st.just("yes"),
            "size": st.integers(-1, 2**70),
            "mime_type": st.sampled_from(["image/png", "video/mp4", None]),
        },
    )
    file = marked | paths | marked.map(json.dumps)
    return st.recursive(
        file,
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3)
            | st.dictionaries(st.sampled_from(KEYS), inner, min_size=1, max_size=3)
            | inner.map(lambda value: {"__type__": "update", "value": value})
        ),
        max_leaves=8,
    )


def told(client: httpx.Client, endpoint: str, data: Any, *, session: str | None = None) -> str:
    """All that the call is answered, until its end. ``session``: by which a program is known again;
    None for somebody new."""
    body = {"data": data} if session is None else {"data": data, "session_hash": session}
    asked = client.post(f"gradio_api/call/{endpoint}", json=body)
    if asked.status_code != 200:
        assert 400 <= asked.status_code < 500, asked.text
        return asked.text
    return client.get(f"gradio_api/call/{endpoint}/{asked.json()['event_id']}").text


@fuzz_calls(60)
@given(endpoint=st.sampled_from(sorted(ENDPOINTS)), value=st.data())
def test_no_file_that_is_named_at_any_depth_is_read_or_copied(
    client: httpx.Client, app: RunningApp, bait: list[str], endpoint: str, value: Any
) -> None:
    count = ENDPOINTS[endpoint]
    files = nested(st.sampled_from([*bait, *PATHS]))
    answer = told(client, endpoint, value.draw(st.lists(files, min_size=count, max_size=count)))
    assert BAIT not in answer and "root:x:" not in answer
    assert not [secret for secret in NEVER_TOLD[:3] if secret in answer], answer[:400]
    copies = [
        path
        for folder in (app.folder / "cache", app.folder / "outputs" / "jobs")
        for path in folder.rglob("*")
        if str(path) not in bait and path.is_file() and path.stat().st_size == len(BAIT)
    ]
    assert not [path for path in copies if path.read_bytes() == BAIT.encode()]


# writers ----------------------------------------------------------------------------------------


def at_once(calls: list[Callable[[], str]]) -> list[str]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: call(), calls))


def outcome(answer: str) -> dict[str, Any] | None:
    """What a call gave; None for a refusal in words."""
    assert "Traceback" not in answer and str(ROOT) not in answer
    event, _, data = answer.rpartition("event: ")[2].partition("\ndata: ")
    if event == "complete":
        return json.loads(data)[0]
    assert len(json.loads(data)["error"]) > 10
    return None


def upload(client: httpx.Client, file_name: str, content: bytes) -> dict[str, Any]:
    body, kind = multipart(file_name, content)
    sent = client.post("gradio_api/upload", content=body, headers={"Content-Type": kind})
    return {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}


def bring(client: httpx.Client, name: str, session: str) -> str:
    """Upload a motion by the file name that all have, and bring it in under ``name``."""
    file = upload(client, "x.safetensors", MOTION.read_bytes())
    return told(client, "import_motion", [file, name, ""], session=session)


def names(client: httpx.Client) -> list[str]:
    return [motion["name"] for motion in outcome(told(client, "motions", []))["motions"]]


def test_of_sixteen_strangers_who_bring_one_name_one_gets_it_and_the_others_are_told(
    client: httpx.Client,
) -> None:
    name = uuid.uuid4().hex
    sessions = [uuid.uuid4().hex for _ in range(WRITERS)]
    answers = at_once([partial(bring, client, name, session) for session in sessions])
    made = {
        session: motion
        for session, answer in zip(sessions, answers, strict=True)
        if (motion := outcome(answer)) is not None
    }
    ((owner, motion),) = made.items()
    assert motion["name"] == name and names(client).count(name) == 1
    deleting = [partial(told, client, "delete_motion", [name], session=one) for one in sessions]
    deleted = [outcome(answer) for answer in at_once(deleting)]
    assert [one is not None for one in deleted] == [session == owner for session in sessions]


def test_sixteen_strangers_who_write_names_of_one_stem_lose_nothing(client: httpx.Client) -> None:
    stem = uuid.uuid4().hex[:12]
    wanted = [f"{stem}{sign}x" for sign in "!?;,+*=|<>&%#@^~"]  # one file name for all of them
    sessions = [uuid.uuid4().hex for _ in wanted]

    def each(endpoint: str, values: list[list[str]], *, strangers: bool = False) -> list[Any]:
        """What comes of everybody's own call, with those of somebody else beside them."""
        own = [
            partial(told, client, endpoint, value, session=session)
            for value, session in zip(values, sessions, strict=True)
        ]
        others = [partial(told, client, endpoint, value) for value in values] if strangers else []
        answers = [outcome(answer) for answer in at_once([*own, *others])]
        assert not any(answers[WRITERS:])  # it is not theirs
        return answers[:WRITERS]

    brought = at_once(
        [partial(bring, client, *both) for both in zip(wanted, sessions, strict=True)]
    )
    assert [outcome(answer)["name"] for answer in brought] == wanted
    assert set(wanted) <= set(names(client))
    renamed = [f"{name} renamed" for name in wanted]
    pairs = [list(pair) for pair in zip(wanted, renamed, strict=True)]
    assert [one["name"] for one in each("rename_motion", pairs, strangers=True)] == renamed
    assert set(renamed) <= set(names(client))
    deleted = each("delete_motion", [[name] for name in renamed], strangers=True)
    tokens = [one["token"] for one in deleted]
    assert len(set(tokens)) == WRITERS and not set(names(client)) & {*wanted, *renamed}
    restored = each("restore_motion", [[token] for token in tokens], strangers=True)
    assert [one["name"] for one in restored] == renamed
    assert set(renamed) <= set(names(client))
    exported = each("export_motion", [[name] for name in renamed])
    assert len({one["file"]["path"] for one in exported}) == WRITERS
    each("delete_motion", [[name] for name in renamed])
    assert not set(names(client)) & set(renamed)
