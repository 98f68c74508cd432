"""Laws of batches: a manifest is right as a whole, and every item has one result in the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from near_workers import work_nearby
from PIL import Image
from play_workshop import PlayWorkshop, attempts, broken, play_item

from motion_app.__main__ import main
from motion_app.errors import RequestError
from motion_app.jobs.batch import Attempt, Backlog, BatchOutcome, Patience, StopRequest, run_batch
from motion_app.jobs.content_keys import Ingredients
from motion_app.jobs.kinds import WorkerConfig
from motion_app.jobs.manifest import Item, Shard, read_manifest, shard_of
from motion_app.jobs.results import Ledger
from motion_app.jobs.workers import Workers, attempt, handle
from motion_app.media.files import read_clip, write_video
from motion_app.settings import ROOT, Settings
from motion_app.world.world import WorldConfig, draw_scene, render

QUICK = Patience(retries=2, deaths=2, first_wait=0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture, a mask, a clip and a request."""
    Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(tmp_path / "image.png")
    mask = np.zeros((32, 48), np.uint8)
    mask[8:24, 8:24] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    world = WorldConfig(height=32, width=48)
    scene = draw_scene(np.random.default_rng(2), world, objects=1, motions=["jump"])
    write_video(tmp_path / "clip.mp4", render(scene).frames, 8.0)
    (tmp_path / "request.json").write_text(json.dumps(request()))
    return tmp_path


def request(**changes: Any) -> dict[str, Any]:
    only = {"mask": "mask.png", "sentence": "A red robot is moving."}
    return {"image": "image.png", "objects": [only], "seed": 3, **changes}


def video(**changes: Any) -> dict[str, Any]:
    return {"kind": "generate", **request(**changes)}


def motion(**changes: Any) -> dict[str, Any]:
    words = {"name": "hop", "phrase": "is moving", "noun": "fox"}
    return {"kind": "train", **words, "clips": ["clip.mp4"], "steps": 2, **changes}


def score(**changes: Any) -> dict[str, Any]:
    return {"kind": "evaluate", "video": "clip.mp4", "request": "request.json", **changes}


def write(folder: Path, *lines: dict[str, Any] | str) -> Path:
    path = folder / "manifest.jsonl"
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n")
    return path


@pytest.fixture
def read(tiny_checkpoint: Path, folder: Path) -> Callable[..., tuple[Item, ...]]:
    """Reads these lines, or a manifest, with the tiny model."""
    settings = Settings(model=str(tiny_checkpoint), motions=(folder / "library",))

    def reading(*lines: dict[str, Any] | str, **changes: Any) -> tuple[Item, ...]:
        known = Ingredients(settings.model_copy(update=changes), remembered=folder / "known.json")
        items = read_manifest(write(folder, *lines), known)
        known.save()
        return items

    return reading


# the manifest -----------------------------------------------------------------------------------


def test_every_wrong_line_is_told_with_its_number_before_anything_runs(read, folder):
    with pytest.raises(RequestError) as told:
        read(
            video(),
            "{",
            '{"kind": "generate", "kind": "train"}',
            '{"kind": "generate", "seed": NaN}',
            "",
            {"kind": "dance"},
            video(image="none.png"),
            video(speed=3),
            video(id="a/b", seed=9),
            motion(clips=["none.mp4"]),
            motion(noun=""),
            motion(validate_every=2),
            score(metrics=["beauty"]),
            score(video=3),
            score(references=["clip.mp4", "clip.mp4"]),
            {"kind": "generate", "request": "none.json"},
        )
    text = str(told.value)
    told_lines = [
        (2, "not JSON"),
        (3, '"kind" is written twice'),
        (4, "NaN"),
        (6, "'dance'"),
        (7, "none.png"),
        (8, '"speed"'),
        (9, '"id"'),
        (10, "none.mp4"),
        (11, "noun"),
        (12, "validate_every"),
        (13, "beauty"),
        (14, '"video"'),
        (15, "2 references came for 1 objects"),
        (16, "none.json"),
    ]
    parts = dict(part.split(": ", 1) for part in text.split("line ", 1)[1].split("; line "))
    assert {int(number) for number in parts} == {number for number, _ in told_lines}
    for number, word in told_lines:
        assert word in parts[str(number)]
    assert text.startswith("14 of 15 lines") and "\n" not in text
    assert {path.name for path in folder.iterdir()}.isdisjoint({"results", "unfinished", "logs"})


def test_two_lines_never_share_a_folder(read):
    with pytest.raises(RequestError, match="line 2: the id .fox. is that of line 1"):
        read(video(id="fox"), video(id="fox", seed=4))
    with pytest.raises(RequestError, match="line 2: it asks for the same as line 1"):
        read(video(), video())
    named = read(video(id="one"), video(id="two"))
    assert named[0].key == named[1].key and named[0].name != named[1].name


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_manifest_is_a_mistake(read, text):
    with pytest.raises(RequestError, match="holds no job"):
        read(text)


def test_the_key_follows_contents_and_not_names(read, folder):
    (before,) = read(video())
    (folder / "image.png").rename(folder / "picture.png")
    (renamed,) = read(video(image="picture.png"))
    (by_file,) = read({"kind": "generate", "request": request(image="picture.png"), "id": "x"})
    assert before.key == renamed.key == by_file.key
    Image.fromarray(np.full((32, 48, 3), 91, np.uint8)).save(folder / "picture.png")
    (repainted,) = read(video(image="picture.png"))
    assert repainted.key != before.key


def test_whatever_changes_a_result_changes_its_key(read, folder):
    lines = [
        video(),
        video(seed=4),
        video(steps=2),
        video(prompt="A red robot is moving."),
        video(method="none"),
        motion(),
        motion(steps=3),
        motion(noun="cat"),
        motion(method="concat"),
        motion(trim=[[0.0, 1.0]]),
        score(),
        score(references=["clip.mp4"]),
        score(metrics=["temporal_flickering"]),
    ]
    keys = [item.key for item in read(*lines)]
    keys += [item.key for item in read(video(), badge=True)]
    assert len(set(keys)) == len(lines) + 1


def test_another_model_makes_other_results(read, tiny_checkpoint, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in tiny_checkpoint.iterdir():
        (other / path.name).symlink_to(path)
    (other / "generation.json").unlink()
    (other / "generation.json").write_text('{"name": "tiny", "steps": 4, "guidance": 3.0}')
    (own,), (others,), (same,) = (
        read(video(model=str(model))) for model in (tiny_checkpoint, other, tiny_checkpoint)
    )
    assert own.key == same.key != others.key


def test_keys_of_one_line_override_its_request_file(read):
    (item,) = read({"kind": "generate", "request": "request.json", "seed": 8, "steps": 2})
    assert (item.entries["seed"], item.entries["steps"]) == (8, 2)
    assert Path(item.entries["image"]).is_absolute()


def test_a_record_is_a_line_whatever_json_allows_inside_its_strings(read, folder):
    names = "a\u2028b\x85c\u2029d\x7fe"
    lines = [
        "\ufeff" + json.dumps(video(prompt=f"A red robot {names} is moving."), ensure_ascii=False),
        "\r",
        json.dumps(video(seed=4, prompt="left " * 3)) + "\r",
    ]
    items = read(*lines)
    assert [item.line for item in items] == [1, 3]
    assert names in items[0].entries["prompt"]


def test_paths_of_a_manifest_may_be_written_as_windows_writes_them(read, folder):
    (folder / "in" / "deep").mkdir(parents=True)
    for name in ("image.png", "mask.png", "request.json", "clip.mp4"):
        (folder / name).rename(folder / "in" / "deep" / name)
    only = {"mask": "in\\deep\\mask.png", "sentence": "A red robot is moving."}
    made, taken, learned, scored = read(
        {"kind": "generate", "image": ".\\in\\deep\\image.png", "objects": [only], "seed": 8},
        {"kind": "generate", "request": "in\\deep\\request.json"},
        motion(clips=["in\\deep\\clip.mp4"]),
        score(video="in\\deep\\clip.mp4", request="in\\deep\\request.json"),
    )
    image = str((folder / "in" / "deep" / "image.png").resolve())
    assert made.entries["image"] == taken.entries["image"] == image
    assert scored.entries["request"]["image"] == image
    assert learned.entries["clips"] == [str(folder / "in" / "deep" / "clip.mp4")]
    with pytest.raises(RequestError, match="line 1: .*a path of a Windows drive"):
        read(video(image="C:\\in\\image.png"))


def test_words_too_long_for_the_model_are_told_before_anything_runs(read):
    long = "left " * 40
    with pytest.raises(RequestError) as told:
        read(video(prompt=long), video(seed=5), motion(noun=long, name="other"))
    parts = str(told.value).split("; line ")
    assert "line 1: the prompt has 41 tokens, the model reads 24" in parts[0]
    assert parts[1].startswith("3: the prompt has ") and len(parts) == 2


def test_what_systems_leave_in_a_models_folder_changes_no_key(read, tiny_checkpoint, tmp_path):
    own = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, own)
    (before,) = read(video(), model=str(own))
    for place in (own, own / "transformer", own / "vae"):
        for name in (".DS_Store", "._config.json", "._x.safetensors", "Thumbs.db"):
            (place / name).write_bytes(b"\0\5\x16\7")
    (after,) = read(video(), model=str(own))
    assert before.key == after.key


def test_shards_share_a_manifest_without_rest_or_overlap(read):
    items = read(*(video(seed=seed) for seed in range(7)))
    shares = [Shard(k, 3).take(items) for k in range(3)]
    assert sorted(item.key for share in shares for item in share) == sorted(i.key for i in items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "8"}, Shard(5, 8)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "3",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "1",
            },
            Shard(2, 4),
        ),
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "7"}, Shard(1, 2)),
        ({"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "4"}, Shard(0, 4)),
    ],
)
def test_launchers_say_which_shard_a_process_is(environment, shard):
    assert shard_of("env", environment) == shard


@pytest.mark.parametrize("text", ["3/3", "4", "a/b", "-1/2", "env"])
def test_a_shard_that_is_none_is_a_mistake(text):
    with pytest.raises(RequestError, match="shard"):
        shard_of(text, {})


# the bookkeeping --------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_fault_is_tried_again_after_waits_that_double():
    clock, item = Clock(), play_item("fox")
    backlog = Backlog([item], Patience(retries=3, first_wait=2.0, longest_wait=5.0), clock)
    for due in (2.0, 6.0, 11.0):
        assert backlog.next() is item and backlog.next() is None
        assert backlog.settle(Attempt(item, "fault", "no room")) is None
        assert clock.seconds + backlog.wait() == due
        clock.seconds = due - 0.25
        assert backlog.next() is None
        clock.seconds = due
    assert backlog.next() is item
    assert backlog.settle(Attempt(item, "fault", "no room")).why == "fault"
    assert backlog.over and backlog.retries == 3


def test_a_mistake_is_not_tried_again():
    backlog = Backlog([play_item("fox")])
    assert backlog.settle(Attempt(backlog.next(), "mistake", "no name")).why == "mistake"
    assert backlog.over and backlog.retries == 0


def test_an_item_that_waits_holds_up_nobody():
    clock, (slow, quick) = Clock(), [play_item("a"), play_item("b")]
    backlog = Backlog([slow, quick], Patience(first_wait=60.0), clock)
    backlog.settle(Attempt(backlog.next(), "fault"))
    assert backlog.next() is quick


# the results ------------------------------------------------------------------------------------


def test_of_many_workers_at_one_item_one_commits(tmp_path):
    item, ledger = play_item("fox"), Ledger(tmp_path)
    together = threading.Barrier(8)
    won: list[bool] = []

    def race(number: int) -> None:
        with ledger.workspace(item) as folder:
            (folder / "who.txt").write_text(f"{number}")
            together.wait()
            won.append(ledger.commit(item, folder, {"who": number}))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    assert ledger.record(item)["who"] == int((ledger.place(item) / "who.txt").read_text())
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_what_breaks_off_leaves_nothing_but_a_trainings_state(tmp_path):
    item, ledger = play_item("fox"), Ledger(tmp_path)
    with pytest.raises(KeyError), ledger.workspace(item) as first:
        (first / "half.mp4").write_text("half")
        (first / "masks").mkdir()
        (first / "hop.safetensors.training").write_text("40 steps")
        raise KeyError
    assert ledger.record(item) is None
    with ledger.workspace(item) as second:
        assert [path.name for path in second.iterdir()] == ["hop.safetensors.training"]


def test_two_never_work_in_one_folder(tmp_path):
    item, ledger = play_item("fox"), Ledger(tmp_path)
    with ledger.workspace(item) as first, ledger.workspace(item) as second:
        assert first != second


def test_the_log_of_an_item_tells_each_attempt(tmp_path):
    item = play_item("fox", diary=str(tmp_path / "diary"), mistake=True)
    ledger = Ledger(tmp_path / "out")
    make = PlayWorkshop(WorkerConfig(Settings())).make
    answers = [handle(item, ledger, make, lambda: True) for _ in range(2)]
    assert [answer.ending for answer in answers] == ["mistake", "mistake"]
    text = ledger.log(item).read_text()
    assert text.count("RequestError: the fox has no name") == 2 and "Traceback" in text


# workers ----------------------------------------------------------------------------------------


def batch(
    tmp_path: Path,
    *items: Item,
    workers: int = 2,
    patience: Patience = QUICK,
    opens: Callable[[WorkerConfig], Any] = PlayWorkshop,
    stop: StopRequest | None = None,
    on_news: Callable[[Workers], None] | None = None,
) -> BatchOutcome:
    started = []

    def hire(missing: int) -> Workers:
        configs = [WorkerConfig(Settings(), "cpu", threads=1)] * workers
        started.append(Workers(configs, opens, partial(attempt, tmp_path / "out")))
        return started[0]

    return run_batch(
        items,
        Ledger(tmp_path / "out"),
        hire,
        patience=patience,
        stop=stop,
        on_news=None if on_news is None else lambda news: on_news(started[0]),
    )


def results(tmp_path: Path) -> list[str]:
    """The ids of what was committed, each folder once."""
    return sorted(
        json.loads(path.read_text())["id"] for path in tmp_path.glob("out/results/*/result.json")
    )


def test_every_item_has_one_result_though_workers_die_and_disks_are_full(tmp_path):
    diary = str(tmp_path / "diary")
    items = [
        *(play_item(f"plain-{n}", diary=diary) for n in range(4)),
        play_item("deadly", diary=diary, die=1, state=True),
        play_item("full", diary=diary, fault=2),
        play_item("wrong", diary=diary, mistake=True),
        play_item("poison", diary=diary, die=99),
        play_item("hopeless", diary=diary, fault=99),
    ]
    outcome = batch(tmp_path, *items)
    made = sorted(["full", "deadly", *(f"plain-{n}" for n in range(4))])
    assert results(tmp_path) == made
    assert {f.item.id: f.why for f in outcome.failures} == {
        "wrong": "mistake",
        "poison": "deaths",
        "hopeless": "fault",
    }
    counted = {item.id: attempts(Path(diary), item.id) for item in items}
    assert (counted["wrong"], counted["poison"], counted["hopeless"]) == (1, 2, 3)
    assert (counted["deadly"], counted["full"]) == (2, 3)
    assert (outcome.lost, outcome.left, outcome.exit_code) == (3, 0, 1)
    kept = [path.name for path in (tmp_path / "out" / "unfinished").rglob("*")]
    assert not [name for name in kept if name.startswith(("plain", "full", "wrong", "hopeless"))]
    again = batch(tmp_path, *(item for item in items if item.id in made))
    assert again.kept == 6 and attempts(Path(diary), "deadly") == 2


def test_a_model_that_does_not_open_is_told_of_every_item(tmp_path):
    items = [play_item(name, diary="none") for name in ("a", "b")]
    outcome = batch(tmp_path, *items, workers=1, opens=broken)
    assert [f.why for f in outcome.failures] == ["mistake", "mistake"]
    assert "the model is not there" in outcome.failures[0].message


def test_a_slow_item_keeps_no_other_from_a_free_worker(tmp_path):
    diary, gate = tmp_path / "diary", tmp_path / "gate"
    slow = play_item("slow", diary=str(diary), until=str(gate))
    others = [play_item(f"plain-{n}", diary=str(diary)) for n in range(5)]

    def open_the_gate(pool: Workers) -> None:
        if len(results(tmp_path)) == 5:
            gate.touch()

    outcome = batch(tmp_path, slow, *others, on_news=open_the_gate)
    assert len(outcome.answers) == 6 and outcome.answers[-1].item.id == "slow"


def test_a_stopped_run_drops_what_is_being_made_and_ends_the_next_time(tmp_path):
    diary, gate = tmp_path / "diary", tmp_path / "gate"
    waits = play_item("waits", diary=str(diary), until=str(gate), state=True)
    items = [waits, play_item("plain", diary=str(diary))]
    stop = StopRequest()
    outcome = batch(
        tmp_path,
        *items,
        stop=stop,
        on_news=lambda pool: stop.times or stop.ask(signal.SIGTERM),
    )
    assert (outcome.left, outcome.exit_code) == (1, 128 + signal.SIGTERM)
    assert results(tmp_path) == ["plain"] and attempts(diary, "waits") == 1
    left = [path for path in (tmp_path / "out" / "unfinished").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["hop.safetensors.training"]
    gate.touch()
    assert batch(tmp_path, *items, workers=1).exit_code == 0
    assert results(tmp_path) == ["plain", "waits"]


# the command ------------------------------------------------------------------------------------


@pytest.fixture
def environment(tiny_checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTION_APP_MODEL", str(tiny_checkpoint))
    monkeypatch.setenv("MOTION_APP_MOTIONS", json.dumps([str(folder / "library")]))
    monkeypatch.setenv("MOTION_APP_DEVICE", "cpu")


def command(capfd: pytest.CaptureFixture, *arguments: object) -> tuple[int, dict[str, Any]]:
    code = main(["batch", *map(str, arguments)])
    printed = capfd.readouterr().out.splitlines()
    return code, json.loads(printed[-1])


def test_one_command_generates_trains_and_evaluates_and_does_nothing_twice(
    folder, environment, capfd, monkeypatch
):
    work_nearby(monkeypatch)  # the next but one starts a process
    manifest = write(folder, video(id="v", steps=1), motion(id="m"), score(id="s"))
    out = folder / "out"
    assert command(capfd, manifest, "--out", out, "--check")[1] == {
        "items": 3,
        "kept": 0,
        "left": 3,
    }
    assert [path.name for path in out.iterdir()] == ["digests.json"]
    code, said = command(capfd, manifest, "--out", out, "--workers", 1)
    assert (code, said["made"], said["failed"]) == (0, 3, 0), said
    placed = {path.name.split(".")[0]: path for path in (out / "results").iterdir()}
    told = {name: json.loads((path / "result.json").read_text()) for name, path in placed.items()}
    assert read_clip(placed["v"] / told["v"]["outcome"]["video"]).frames.shape == (13, 32, 48, 3)
    assert (placed["m"] / told["m"]["outcome"]["motion"]).is_file()
    assert (placed["m"] / told["m"]["outcome"]["preview"]).is_file()
    assert "temporal_flickering" in (placed["s"] / "report.csv").read_text()
    code, said = command(capfd, manifest, "--out", out)
    assert (code, said["made"], said["kept"]) == (0, 0, 3)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--workers", "0"], "--workers"),
        (["--shard", "9/3"], "shard"),
        (["--model", "no/such/model/x"], "model_index.json"),
    ],
)
def test_mistakes_of_the_command_are_one_line_and_exit_code_2(
    folder, environment, capsys, options, complaint
):
    manifest = write(folder, video())
    assert main(["batch", str(manifest), "--out", str(folder / "out"), *options]) == 2
    printed = capsys.readouterr()
    assert complaint in printed.err and len(printed.err.splitlines()) == 1 and not printed.out
    assert not (folder / "out").exists()


def test_ctrl_c_of_a_whole_terminal_ends_with_a_summary_and_whole_results(folder, environment):
    manifest = write(folder, video(id="quick", steps=1), video(id="long", steps=900))
    out = folder / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "motion_app", "batch", manifest, "--out", out, "--workers", "1"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stderr:
        if "quick: made" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    said = json.loads(printed.splitlines()[-1])
    assert process.returncode == said["exit_code"] == 130
    assert (said["made"], said["left"]) == (1, 1)
    assert [path.name.split(".")[0] for path in (out / "results").iterdir()] == ["quick"]
