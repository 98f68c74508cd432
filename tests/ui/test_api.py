"""The JSON API over HTTP, as a program uses it, and what a stranger must not get from it."""

from __future__ import annotations

import base64
import json
import pickle
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from serving import ROOT, RunningApp

from motion_app.media.files import decode_data_uri, encode_data_uri, read_mask

EXAMPLE = sorted((ROOT / "assets" / "examples").glob("*.png"))[0]
DRAFT_STEPS = 3


@pytest.fixture(scope="module")
def client(app: RunningApp) -> Client:
    return Client(app.url, verbose=False)


def boxes() -> list[list[float]]:
    notes = json.loads(EXAMPLE.with_suffix(".json").read_text())
    return [item["box"] for item in notes["objects"]]


def marked(client: Client, box: list[float]) -> dict[str, Any]:
    x, y = (box[0] + box[2]) / 2, 0.42 * box[1] + 0.58 * box[3]
    return client.predict(handle_file(str(EXAMPLE)), [[x, y, 1]], None, api_name="/segment")


@pytest.fixture(scope="module")
def request_json(client: Client) -> dict[str, Any]:
    """Two objects, a motion for each, three steps."""
    motions = client.predict(api_name="/motions")["motions"][:2]
    return {
        "image": encode_data_uri(np.asarray(Image.open(EXAMPLE).convert("RGB"))),
        "objects": [
            {
                "mask": marked(client, box)["mask"],
                "sentence": f"The {noun} {motion['phrase']}.",
                "phrase": motion["phrase"],
                "motion": motion["name"],
            }
            for box, noun, motion in zip(
                boxes(), ("first thing", "other thing"), motions, strict=True
            )
        ],
        "seed": 7,
        "steps": DRAFT_STEPS,
    }


def test_the_whole_job_runs_through_the_client(
    client: Client, request_json: dict[str, Any]
) -> None:
    made = client.predict(request_json, api_name="/generate")
    assert made["seed"] == 7 and made["steps"] == DRAFT_STEPS and made["seconds"] > 0
    for name in ("video", "gif", "recipe", "frames", "masks_zip"):
        assert Path(made[name]).stat().st_size > 0, name
    verdict = client.predict(handle_file(made["video"]), api_name="/verify")
    assert verdict["detected"] and verdict["tagged"] and verdict["recipe"]
    recipe = json.loads(Path(made["recipe"]).read_text())
    again = client.predict(recipe, api_name="/generate")  # a recipe is a request too
    frames = [np.load(files["frames"])["frames"] for files in (made, again)]
    assert np.array_equal(*frames)


def test_a_click_gives_the_object_and_three_readings_of_it(client: Client) -> None:
    found = marked(client, boxes()[0])
    mask = read_mask(decode_data_uri(found["mask"]))
    x0, y0, x1, y1 = (round(side) for side in boxes()[0])
    assert mask.shape == Image.open(EXAMPLE).size[::-1]
    assert mask[y0:y1, x0:x1].sum() > 0.9 * mask.sum()
    assert found["candidates"][0]["mask"] == found["mask"] and len(found["candidates"]) == 3


def test_a_job_is_followed_cancelled_and_started_again(
    client: Client, request_json: dict[str, Any]
) -> None:
    job = client.predict({**request_json, "steps": 200}, api_name="/submit")["job"]
    assert re.fullmatch("[0-9a-f]{32}", job)
    client.predict(job, api_name="/cancel")
    state = client.predict(job, api_name="/job")
    while state["state"] == "running":  # the current step may end first
        state = client.predict(job, api_name="/job")
    assert state["state"] == "cancelled"
    assert client.predict(job, api_name="/again")["state"] == "queued"
    client.predict(job, api_name="/cancel")


def test_the_videos_score_comes_with_its_stand_ins_named(
    client: Client, request_json: dict[str, Any]
) -> None:
    made = client.predict(request_json, api_name="/generate")
    scores = client.predict(
        handle_file(made["video"]), None, None, ["temporal_flickering"], api_name="/evaluate"
    )
    (row,) = scores["rows"]
    assert row["weights"] == "none" and 0.5 < row["value"] <= 1, row


def test_quotas_are_told_in_words(app: RunningApp, request_json: dict[str, Any]) -> None:
    own = Client(app.url, verbose=False)
    jobs = []
    with pytest.raises(AppError, match="of your jobs are waiting or running, and 3 is the most"):
        for _ in range(5):
            made = own.predict({**request_json, "steps": 300}, api_name="/submit")
            jobs.append(made["job"])
    assert len(jobs) == 3
    for job in jobs:
        own.predict(job, api_name="/cancel")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image": "/etc/passwd"}, "send the picture itself, as a data: URI"),
        ({"image": "http://127.0.0.1/a.png"}, "send the picture itself, as a data: URI"),
        ({"image": None}, 'give the picture as "image", or, for a video from words alone'),
        (
            {"image": None, "objects": [], "prompt": "A fox."},
            "has not learned to make videos from words",
        ),
        ({"steps": -1}, "steps"),
        ({"unknown": 1}, "unknown"),
        ({"objects": [{"mask": "/etc/passwd", "sentence": "A thing is moving."}]}, "data: URI"),
        ({"objects": [{"mask": "", "sentence": "", "motion": "../x.safetensors"}]}, "library"),
    ],
)
def test_a_request_that_reaches_for_the_server_is_refused_in_words(
    client: Client, request_json: dict[str, Any], change: dict[str, Any], told: str
) -> None:
    with pytest.raises(AppError, match=told):
        client.predict({**request_json, **change}, api_name="/submit")


@pytest.mark.parametrize("endpoint", ["/submit", "/generate"])
def test_a_prompt_longer_than_the_model_reads_is_refused_when_it_is_handed_in(
    client: Client, request_json: dict[str, Any], endpoint: str
) -> None:
    long = {**request_json, "objects": [], "prompt": "left " * 300}
    with pytest.raises(AppError, match=r"the prompt has 301 tokens, the model reads 64; shorten"):
        client.predict(long, api_name=endpoint)


def test_no_path_of_the_server_is_taken_for_an_upload(app: RunningApp, client: Client) -> None:
    with pytest.raises(AppError, match="paths and addresses are not read"):
        client.predict("/etc/hostname", [[1, 1, 1]], None, api_name="/segment")
    # As raw HTTP: the client itself would upload the caller's own file of that name.
    upload = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
    answer = posted(app, "segment", [upload, [[1, 1, 1]], None])
    assert "event: error" in answer and "event: complete" not in answer


def posted(app: RunningApp, endpoint: str, data: list[Any]) -> str:
    """What the server says to one raw call: its stream of events, or the refusal."""
    address = f"{app.url}gradio_api/call/{endpoint}"
    call = urllib.request.Request(
        address, json.dumps({"data": data}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(call, timeout=60) as response:
        event = json.load(response)["event_id"]
    with urllib.request.urlopen(f"{address}/{event}", timeout=60) as response:
        return response.read().decode()


def test_a_pickle_is_refused_and_not_run(client: Client, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(tmp_path / "sprung"), "w")

    for name in ("trap.pt", "trap.safetensors"):
        file = tmp_path / name
        file.write_bytes(pickle.dumps(Trap()))
        with pytest.raises(AppError):
            client.predict(handle_file(str(file)), "trap", "", api_name="/import_motion")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "{outputs}/jobs.sqlite3", "{root}/app.py", "{outputs}/jobs/../jobs.sqlite3"],
)
def test_files_outside_the_jobs_are_not_served(app: RunningApp, path: str) -> None:
    path = path.format(outputs=app.folder / "outputs", root=ROOT)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{app.url}gradio_api/file={path}", timeout=30)
    assert refused.value.code in (403, 404)


def test_an_unknown_job_says_nothing_about_others(client: Client) -> None:
    with pytest.raises(AppError, match="there is no job"):
        client.predict("0" * 32, api_name="/job")
    with pytest.raises(AppError, match="is no job id|there is no job"):
        client.predict("../../etc", api_name="/job")


def test_motions_go_out_and_come_back(client: Client, tmp_path: Path) -> None:
    name = client.predict(api_name="/motions")["motions"][0]["name"]
    exported = client.predict(name, api_name="/export_motion")["file"]
    brought = client.predict(handle_file(exported), "brought back", "", api_name="/import_motion")
    assert brought["name"] == "brought back"
    token = client.predict("brought back", api_name="/delete_motion")["token"]
    assert "brought back" not in names(client)
    client.predict(token, api_name="/restore_motion")
    assert "brought back" in names(client)
    client.predict("brought back", api_name="/delete_motion")


def names(client: Client) -> set[str]:
    return {motion["name"] for motion in client.predict(api_name="/motions")["motions"]}


def test_another_client_cannot_delete_or_bring_back_a_motion(
    app: RunningApp, client: Client, tmp_path: Path
) -> None:
    exported = client.predict("jump", api_name="/export_motion")["file"]
    client.predict(handle_file(exported), "mine alone", "", api_name="/import_motion")
    other = Client(app.url, verbose=False)
    with pytest.raises(AppError, match="is not yours"):
        other.predict("mine alone", api_name="/delete_motion")
    token = client.predict("mine alone", api_name="/delete_motion")["token"]
    with pytest.raises(AppError, match="is not yours"):
        other.predict(token, api_name="/restore_motion")
    client.predict(token, api_name="/restore_motion")
    client.predict("mine alone", api_name="/delete_motion")


def test_every_endpoint_says_what_it_takes_and_gives(client: Client) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert {"/segment", "/transfer", "/generate", "/train_motion", "/verify", "/evaluate"} <= set(
        endpoints
    )
    for name, endpoint in endpoints.items():
        assert len(endpoint["description"]) > 20, name


def test_the_same_endpoints_are_tools_of_an_mcp_server(app: RunningApp) -> None:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def visit() -> tuple[set[str], str]:
        async with (
            streamablehttp_client(f"{app.url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name for tool in (await session.list_tools()).tools}
            answer = await session.call_tool("model", {})
            return tools, answer.content[0].text

    tools, model = anyio.run(visit)
    assert {"segment", "generate", "job", "verify"} <= tools
    assert "pocket" in model


def test_a_data_uri_is_as_good_as_an_upload(client: Client) -> None:
    uri = "data:image/png;base64," + base64.b64encode(EXAMPLE.read_bytes()).decode()
    x0, y0, x1, y1 = boxes()[0]
    found = client.predict(uri, None, [x0, y0, x1, y1], api_name="/segment")
    assert found["score"] > 0.5


def ended(client: Client, job: str) -> dict[str, Any]:
    """What became of a job."""
    state = client.predict(job, api_name="/job")
    while state["state"] in ("queued", "running"):
        state = client.predict(job, api_name="/job")
    return state


def test_clicks_and_a_clip_are_one_call_that_learns_and_makes_the_video(client: Client) -> None:
    spots = [[(x0 + x1) / 2, 0.42 * y0 + 0.58 * y1, 1] for x0, y0, x1, y1 in boxes()]
    clip = ROOT / "assets" / "clips" / "spin.mp4"
    things = [
        {"clicks": spots[:1], "clip": handle_file(str(clip)), "name": "orange cat", "steps": 2},
        {"clicks": spots[1:2], "path": [[120, 90], [200, 90]]},
    ]
    options = {"steps": 1, "seed": 4}
    begun = client.predict(handle_file(str(EXAMPLE)), things, options, api_name="/transfer")
    (name,) = begun["learn"]
    assert name.startswith("spin") and begun["state"] == "queued"
    made = ended(client, begun["job"])
    assert made["state"] == "done", made["message"]
    assert made["seed"] == 4 and [item["name"] for item in made["learned"]] == [name]
    assert name in {motion["name"] for motion in client.predict(api_name="/motions")["motions"]}
    client.predict(name, api_name="/delete_motion")


@pytest.mark.parametrize(
    ("things", "told"),
    [
        ([], "nothing was clicked"),
        ([{"clicks": []}], "has no click"),
        ([{"clicks": [[1, 2, 3]]}], "should be 0 or 1"),
        ([{"clicks": [[9000, 2, 1]]}], "outside the part"),
        ([{"clicks": [[95, 290, 1]], "path": [[1, 2]], "motion": "jump"}], "one of them"),
        ([{"clicks": [[95, 290, 1]], "path": [[1]]}], "path"),
        ([{"clicks": [[95, 290, 1]], "speed": 3}], "unknown key"),
        ([{"clicks": [[95, 290, 1]], "motion": "../jump"}], "is a file"),
        ([{"clicks": [[95, 290, 1]], "clip": "/etc/passwd"}], "paths and addresses are not read"),
    ],
)
def test_what_cannot_be_transferred_is_told_in_words(
    client: Client, things: list[Any], told: str
) -> None:
    with pytest.raises(AppError, match=told):
        client.predict(handle_file(str(EXAMPLE)), things, api_name="/transfer")
