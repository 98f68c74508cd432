"""Motions of the hub over the API: whose rights a call has, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_hub import READER, WRITER, FakeHub, running_hub, send_client_to
from gradio_client import Client
from gradio_client.exceptions import AppError
from huggingface_hub import constants
from serving import RunningApp

from motion_app.errors import MotionFileError, RequestError
from motion_app.library.library import Library
from motion_app.library.published import MotionRepository
from motion_app.settings import ROOT, Settings
from motion_app.ui.api.hub import MOST_NAMES, HubEndpoints

OWN = "lab/own"
SHIPPED = ROOT / "checkpoints" / "pocket" / "motions"


def test_a_program_publishes_lists_and_brings_in(app: RunningApp, app_hub: FakeHub):
    client = Client(app.url, verbose=False)
    offered = client.predict(api_name="/published_motions")
    assert offered["repo"] == app.environment["MOTION_APP_MOTION_REPO"]

    pushed = client.predict(["jump"], OWN, WRITER, "private", api_name="/push_motions")
    assert pushed["added"] == ["jump"] and OWN in pushed["url"]
    assert "README.md" in app_hub.repositories[OWN].files
    again = client.predict(["jump"], OWN, WRITER, api_name="/push_motions")
    assert again["unchanged"] == ["jump"] and not again["url"]
    listed = client.predict(OWN, READER, api_name="/published_motions")
    (motion,) = listed["motions"]
    assert (motion["name"], motion["file"]) == ("jump", "jump.safetensors")
    assert motion["bytes"] > 0 and not {"path", "preview"} & motion.keys()

    brought = client.predict(["jump"], OWN, READER, api_name="/pull_motions")["motions"]
    assert brought[0]["name"] == "jump 2"  # its name is taken here
    assert client.predict("jump 2", api_name="/delete_motion")["deleted"] == "jump 2"
    with pytest.raises(AppError, match="may not write"):
        client.predict(["rise"], OWN, READER, api_name="/push_motions")
    with pytest.raises(AppError, match="is a file"):
        client.predict(["../jump.safetensors"], OWN, WRITER, api_name="/push_motions")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """Where the server's own login may write."""
    with running_hub() as hub:
        send_client_to(hub.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", WRITER)
        for name in ("lab/offered", "lab/secret"):
            hub.add(name, private=True)
        yield hub


def endpoints(tmp_path: Path, offered: str = "lab/offered") -> HubEndpoints:
    """Of a server that others use too."""
    host: Any = SimpleNamespace(
        settings=Settings(motion_repo=offered, single_user=False),
        library=Library([SHIPPED, tmp_path]),
        published=MotionRepository(offered) if offered else None,
    )
    return HubEndpoints(host)


def test_the_servers_login_reads_what_is_offered_to_strangers_and_nothing_else(
    hub: FakeHub, tmp_path: Path
):
    api = endpoints(tmp_path)
    assert api.published_motions()["repo"] == "lab/offered"
    for ask in (api.published_motions, lambda repo: api.pull_motions(["jump"], repo)):
        with pytest.raises(RequestError, match="give a token"):
            ask("lab/secret")
    with pytest.raises(RequestError, match="needs a token"):
        api.push_motions(["jump"])
    asked = [line for line in hub.asked if "secret" in line or "POST" in line]
    assert asked == []
    with pytest.raises(MotionFileError, match="does not take this login"):
        api.push_motions(["jump"], token="hf_stranger")
    assert api.push_motions(["jump"], token=WRITER)["added"] == ("jump",)
    with pytest.raises(RequestError, match="offers no repository"):
        endpoints(tmp_path, offered="").published_motions()


@pytest.mark.parametrize("names", [[], [str(number) for number in range(MOST_NAMES + 1)]])
def test_how_many_motions_a_call_may_name(tmp_path: Path, names: list[str]):
    with pytest.raises(RequestError, match=f"name 1 to {MOST_NAMES}"):
        endpoints(tmp_path).push_motions(names, token=WRITER)
