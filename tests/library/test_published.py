"""Motions on the hub: the real client against a hub on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_hub import READER, WRITER, FakeHub, running_hub, send_client_to
from huggingface_hub import constants
from safetensors.numpy import save_file

from motion_app.__main__ import main
from motion_app.errors import MotionFileError
from motion_app.library.library import Library
from motion_app.library.motion_file import read_motion
from motion_app.library.published import MotionRepository, card_text
from motion_app.settings import Limits

NAME = "lab/motions"
POCKET = Path(__file__).resolve().parents[2] / "checkpoints" / "pocket"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """Where the client asks, with a login that may write and nothing kept from before."""
    with running_hub() as hub:
        send_client_to(hub.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", WRITER)
        monkeypatch.setenv("MOTION_APP_MOTIONS", json.dumps([str(tmp_path / "mine")]))
        monkeypatch.setenv("MOTION_APP_MODEL", str(tmp_path / "no-model"))
        yield hub


def motion_in(folder: Path, name: str, *, preview: bytes = b"a clip", **changes: str) -> Path:
    """A motion of two layers of 4 tokens of width 8, with a preview beside it."""
    folder.mkdir(exist_ok=True)
    told = {"format": "motion-tokens/1", "name": name, "phrase": "jumps high", "noun": "cat"}
    told |= {"method": "fleximmt", "base": "a" * 64, "tokens": "4", "layers": "2", "width": "8"}
    path = folder / f"{name.replace(' ', '-')}.safetensors"
    layers = {f"layers.{i}.motion_tokens": np.full((4, 8), i, np.float16) for i in range(2)}
    if preview:
        path.with_suffix(".mp4").write_bytes(preview)
        told["preview"] = path.with_suffix(".mp4").name
    save_file(layers, path, metadata=told | changes)
    return path


def push(*paths: Path, repository: str = NAME, **how: object):
    return MotionRepository(repository).push([read_motion(path) for path in paths], **how)


def names(repository: str = NAME) -> list[str]:
    return [one.motion.name for one in MotionRepository(repository).list().motions]


def test_what_is_pushed_is_listed_and_comes_back_byte_for_byte(hub: FakeHub, tmp_path: Path):
    first = motion_in(tmp_path / "there", "snow walk")
    second = motion_in(tmp_path / "there", "跳", preview=b"")
    done = push(first, second, create="private")
    assert done.added == ("snow walk", "跳") and not (done.replaced or done.unchanged)
    assert hub.repositories[NAME].private and done.url.endswith(hub.repositories[NAME].head)
    assert hub.repositories[NAME].files["snow-walk.mp4"] == b"a clip"

    repository = MotionRepository(NAME)
    listing = repository.list()
    assert [one.motion.name for one in listing.motions] == ["snow walk", "跳"]
    entry = listing.find("snow walk", base="a" * 64)
    assert (entry.motion.phrase, entry.motion.noun) == ("jumps high", "cat")
    file = repository.fetch(entry, listing.revision, tmp_path / "came", limits=Limits())
    brought = Library([tmp_path / "mine"]).import_file(file)
    assert brought.path.read_bytes() == first.read_bytes()
    assert brought.preview.read_bytes() == b"a clip"


def test_a_second_push_adds_what_is_new_and_a_second_list_asks_for_it_alone(
    hub: FakeHub, tmp_path: Path
):
    there = tmp_path / "there"
    first = motion_in(there, "jump")
    push(first, create="public")
    repository = MotionRepository(NAME)
    repository.list()
    done = push(first, motion_in(there, "walk"))
    assert (done.added, done.unchanged) == (("walk",), ("jump",))
    hub.asked.clear()
    assert [one.motion.name for one in repository.list().motions] == ["jump", "walk"]
    assert [call for call in hub.asked if "/resolve/" in call] == [
        f"GET /{NAME}/resolve/{hub.repositories[NAME].head}/walk.safetensors"
    ]
    before = len(hub.repositories[NAME].commits)
    assert push(first).unchanged == ("jump",) and len(hub.repositories[NAME].commits) == before


def test_a_name_that_is_taken_is_replaced_only_when_told_to(hub: FakeHub, tmp_path: Path):
    push(motion_in(tmp_path / "one", "jump"), create="public")
    other = motion_in(tmp_path / "two", "jump", phrase="jumps higher", preview=b"another clip")
    head = hub.repositories[NAME].head
    with pytest.raises(MotionFileError, match=r'another motion "jump" already.*--replace'):
        push(other)
    assert hub.repositories[NAME].head == head
    assert push(other, replace=True).replaced == ("jump",)
    assert hub.repositories[NAME].files["jump.mp4"] == b"another clip"
    (entry,) = MotionRepository(NAME).list().motions
    assert entry.motion.phrase == "jumps higher"
    elsewhere = motion_in(tmp_path / "three", "jump", base="b" * 64)  # is no other one's
    assert push(elsewhere).added == ("jump",)
    assert {"jump.safetensors", "jump-2.safetensors"} <= hub.repositories[NAME].files.keys()


def test_the_card_lists_all_motions_and_keeps_what_its_owner_wrote(hub: FakeHub, tmp_path: Path):
    push(motion_in(tmp_path / "there", "jump"), create="public")
    repository = hub.repositories[NAME]
    card = repository.files["README.md"].decode()
    assert card.startswith("---\npipeline_tag: image-to-video\n") and "[clip](jump.mp4)" in card
    assert f'motions pull "jump" --repo {NAME}' in card
    mine = card.replace("# motions", "# Our cats") + "\nThank you.\n"
    repository.commit(repository.files | {"README.md": mine.encode()})
    push(motion_in(tmp_path / "there", "walk"))
    card = repository.files["README.md"].decode()
    assert "# Our cats" in card and card.endswith("\nThank you.\n")
    assert card.count("| motion |") == 1 and "| jump |" in card and "| walk |" in card


def test_words_of_strangers_are_nothing_but_words_on_the_card(tmp_path: Path):
    evil = read_motion(motion_in(tmp_path, "x", phrase="a | b <script> [c](d) `e`"))
    card = card_text(NAME, [("x.safetensors", evil)], (), told="mine")
    row = next(line for line in card.splitlines() if line.startswith("| x"))
    assert r"a \| b \<script\> \[c\](d) \`e\`" in row and card.startswith("mine\n")


def test_without_a_login_nothing_is_asked(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(MotionFileError, match="no login for the hub; log in with: hf auth login"):
        push(motion_in(tmp_path, "jump"), create="public")
    assert not hub.asked


def test_each_refusal_says_what_to_do(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = motion_in(tmp_path / "there", "jump")
    with pytest.raises(MotionFileError, match=r"no repository lab/motions .*--create private"):
        push(path)
    hub.add(NAME, private=True)
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(MotionFileError, match="may not write to lab/motions"):
        push(path)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(MotionFileError, match="hf auth login"):
        names()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(MotionFileError, match="no repository lab/motions on the hub, or"):
        names()
    monkeypatch.setenv("HF_TOKEN", WRITER)
    assert names() == []
    with pytest.raises(MotionFileError, match='has no revision "nightly"'):
        names(f"{NAME}@nightly")
    with pytest.raises(MotionFileError, match="expected owner/name"):
        names("https://hub.example/lab/motions")


def test_a_commit_of_meanwhile_is_not_written_over(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    repository = hub.add(NAME)
    listing = MotionRepository._listing

    def overtaken(self, info):
        seen = listing(self, info)
        repository.commit(repository.files | {"theirs.txt": b"1"})
        return seen

    monkeypatch.setattr(MotionRepository, "_listing", overtaken)
    with pytest.raises(MotionFileError, match="was changed meanwhile; push again"):
        push(motion_in(tmp_path, "jump"))
    assert "theirs.txt" in repository.files and "jump.safetensors" not in repository.files


def test_offline_it_says_so(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = motion_in(tmp_path, "jump")
    send_client_to("http://127.0.0.1:1", monkeypatch)
    for ask in (names, lambda: push(path)):
        with pytest.raises(MotionFileError, match="the hub cannot be reached .*motions export"):
            ask()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MotionFileError, match="HF_HUB_OFFLINE is set"):
        names()


def test_files_that_are_no_motions_are_told_of_and_hide_no_other(hub: FakeHub, tmp_path: Path):
    sound = motion_in(tmp_path, "jump", preview=b"").read_bytes()
    other = tmp_path / "other.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, other, metadata={"format": "pt"})
    files = {"jump.safetensors": sound, "deep/other.safetensors": other.read_bytes()}
    hub.add(NAME, files | {"cut.safetensors": b"\xff" * 40, "plain.safetensors": sound[:8]})
    listing = MotionRepository(NAME).list()
    assert [one.motion.name for one in listing.motions] == ["jump"]
    assert sorted(line.split()[0] for line in listing.problems) == [
        *("cut.safetensors", "other.safetensors", "plain.safetensors")
    ]


def test_what_comes_is_what_was_promised_and_not_too_large(hub: FakeHub, tmp_path: Path):
    push(motion_in(tmp_path / "there", "jump"), create="public")
    repository = MotionRepository(NAME)
    listing = repository.list()
    (entry,) = listing.motions
    hub.asked.clear()
    small = Limits(motion_megabytes=0.0001)
    with pytest.raises(MotionFileError, match="a motion file may have 0.0001 MB"):
        repository.fetch(entry, listing.revision, tmp_path / "came", limits=small)
    assert not hub.asked
    hub.damaged = True
    with pytest.raises(MotionFileError, match="came damaged from the hub"):
        repository.fetch(entry, listing.revision, tmp_path / "came", limits=Limits())


def test_an_unknown_motion_and_one_for_another_model_are_refused(hub: FakeHub, tmp_path: Path):
    push(motion_in(tmp_path, "snow walk"), create="public")
    listing = MotionRepository(NAME).list()
    with pytest.raises(MotionFileError, match=r'has no motion "snow wolk"; did you mean snow walk'):
        listing.find("snow wolk")
    with pytest.raises(MotionFileError, match="base model aaaaaaaaaaaa, this is bbbbbbbbbbbb"):
        listing.find("snow walk", base="b" * 64)


def run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, dict, str]:
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, json.loads(printed.out.splitlines()[-1]) if printed.out else {}, printed.err


def test_the_commands_publish_list_and_bring_in(
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    motion_in(tmp_path / "mine", "jump")
    assert "no repository is named" in run(capsys, "motions", "push", "jump")[2]
    code, done, _ = run(capsys, "motions", "push", "jump", "--repo", NAME, "--create", "public")
    assert (code, done["added"]) == (0, ["jump"])
    monkeypatch.setenv("MOTION_APP_MOTION_REPO", NAME)
    monkeypatch.setenv("MOTION_APP_MOTIONS", json.dumps([str(tmp_path / "other")]))
    _, listed, _ = run(capsys, "motions", "list", "--repo")
    assert listed["repo"] == NAME and [one["name"] for one in listed["motions"]] == ["jump"]
    assert listed["motions"][0]["path"] == "jump.safetensors" and listed["motions"][0]["bytes"]
    code, brought, _ = run(capsys, "motions", "pull", "jump")
    assert (code, brought["motions"][0]["name"]) == (0, "jump")
    assert [one.name for one in Library([tmp_path / "other"]).list()] == ["jump"]
    code, _, error = run(capsys, "motions", "pull", "jump", "--model", POCKET)
    assert code == 2 and "was learned on the base model aaaaaaaaaaaa" in error
    monkeypatch.setenv("MOTION_APP_MOTION_REPO", "https://hub.example")
    assert "MOTION_APP_MOTION_REPO is wrong" in run(capsys, "motions", "list")[2]
