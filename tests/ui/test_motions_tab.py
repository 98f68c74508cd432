"""The Motions tab below its components: what is drawn, what is submitted, what is kept apart."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from motion_app import ui
from motion_app.errors import MotionAppError, RequestError
from motion_app.geometry import mask_to_grid
from motion_app.jobs.folder import JobRow
from motion_app.jobs.progress import JobProgress
from motion_app.library.library import Library
from motion_app.library.motion_clip import read_motion_clip
from motion_app.library.owners import LibraryUser
from motion_app.models.checkpoint import Checkpoint
from motion_app.settings import Limits, Settings
from motion_app.training.inputs import ClipSelection, TrainingInputs
from motion_app.training.mover import moving_share
from motion_app.training.trainer import TrainingReport, ValidationVideo
from motion_app.ui.form_faults import FormFaults
from motion_app.ui.markup import LANGUAGES, Texts
from motion_app.ui.motion_cards import (
    cards_html,
    gain_words,
    library_html,
    moves_how,
    path_key,
    shape_key,
)
from motion_app.ui.motions.clips import (
    COLUMNS,
    DraftClip,
    changed_clips,
    editor_html,
    frame_sheet,
)
from motion_app.ui.motions.form import TrainingForm, TrainingState
from motion_app.ui.motions.tab import LibraryPanel
from motion_app.ui.motions.training import (
    loss_curve_svg,
    rows_html,
    smoothed_losses,
    status_html,
    submit_training,
    training_command,
    validation_html,
    view_html,
)
from motion_app.ui.pictures import Previews
from motion_app.ui.visitor import library_user
from motion_app.wording import NEUTRAL_PHRASE

EN = Texts("en")
POCKET = Path(__file__).resolve().parents[2] / "checkpoints" / "pocket"
MEDIA = Path(__file__).parents[1] / "fixtures" / "media"
GEOMETRY = Checkpoint.read(POCKET).geometry


def draft_clip(key: str = "a", count: int = 24) -> DraftClip:
    selection = ClipSelection(Path(f"{key}.mp4"))
    return DraftClip(key, f"{key}.mp4", selection, 8.0, count, (160, 90), "data:,")


def row(state: str = "running", **changes: object) -> JobRow:
    return JobRow(**{"id": "0" * 32, "kind": "train", "owner": "me", "state": state,
                     "title": "<jump>", "created": 1.8e9, **changes})  # fmt: skip


def report(step: int = 3, **changes: object) -> TrainingReport:
    frames = np.zeros((3, 16, 24, 3), np.uint8)
    shown = {"view_frames": frames, "view_mask": np.ones((3, 4, 6), bool)}
    return TrainingReport(step, 6, 0.5, 1.0, 1.0, losses=(0.5,) * step, **{**shown, **changes})


@pytest.mark.parametrize("count", [1, 9, 10, 11, 37])
def test_each_frame_has_its_place_on_the_sheet(count: int) -> None:
    frames = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)
    sheet = frame_sheet(frames)
    for t in range(count):
        top, left = t // COLUMNS * 4, t % COLUMNS * 6
        assert (sheet[top : top + 4, left : left + 6] == t).all()


def test_a_choice_changes_its_own_clip_alone() -> None:
    clips = (draft_clip("a"), draft_clip("b"))
    entry = {"start": 0.5, "stop": 2.0, "box": [0.1, 0.1, 0.9, 0.9], "mover": None}
    first, second = changed_clips(clips, "b", entry)
    assert first is clips[0]
    assert second.selection == ClipSelection(
        Path("b.mp4"), start=0.5, stop=2.0, box=(0.1, 0.1, 0.9, 0.9)
    )
    assert [clip.key for clip in changed_clips(clips, "a", None)] == ["b"]
    with pytest.raises(RequestError, match="this clip is gone"):
        changed_clips(clips, "c", entry)


def test_a_choice_cannot_name_another_file() -> None:
    (clip,) = changed_clips((draft_clip(),), "a", {"file": "/etc/passwd", "start": 0})
    assert clip.selection.file == Path("a.mp4")


def test_a_stop_at_the_end_is_no_stop() -> None:
    (clip,) = changed_clips((draft_clip(),), "a", {"start": 0, "stop": 3.0})
    assert clip.selection.stop is None


def test_names_from_strangers_are_text_in_the_page() -> None:
    clip = DraftClip("a", "<b>.mp4", ClipSelection(Path("a.mp4")), 8.0, 4, (16, 9), "data:,")
    assert "<b>" not in editor_html([clip], geometry=GEOMETRY, texts=EN).replace('<b class="', "")
    assert "<jump>" not in rows_html([row()], shown="", texts=EN)
    assert "<jump>" not in status_html(JobProgress(row(), "training"), EN)


def test_the_smoothed_loss_is_the_mean_of_the_last_steps() -> None:
    losses = np.random.default_rng(0).random(40)
    smooth = smoothed_losses(losses, window=25)
    assert smooth[0] == losses[0] and smooth[9] == pytest.approx(losses[:10].mean())
    assert smooth[-1] == pytest.approx(losses[-25:].mean())


def test_the_curve_stays_in_its_frame_and_falls_with_the_loss() -> None:
    svg = loss_curve_svg([0.9, 0.5, 0.1, 40.0], steps=10, texts=EN)
    points = svg.split('class="curve-steps" points="')[1].split('"')[0].split()
    places = np.array([[float(n) for n in point.split(",")] for point in points])
    assert (places >= 0).all() and places[:, 0].max() <= 520 and places[:, 1].max() <= 190
    assert places[0, 1] < places[1, 1] < places[2, 1], "down the page is down in loss"
    assert (np.diff(places[:, 0]) > 0).all()
    assert "curve-empty" in loss_curve_svg([], steps=10, texts=EN)


def test_a_long_training_is_drawn_with_few_points() -> None:
    assert len(loss_curve_svg([0.1] * 20_000, steps=20_000, texts=EN)) < 20_000


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "state", ["queued", "running", "done", "failed", "cancelled", "interrupted"]
)
def test_every_state_of_a_training_has_words(language: str, state: str) -> None:
    texts = Texts(language)
    stages = ("queued", "loading", "preparing", "encoding_clips", "training", "saving")
    for stage in ("done",) if state not in ("queued", "running") else stages:
        assert status_html(JobProgress(row(state), stage, news=report(), step=3, steps=6), texts)
    assert texts(f"motions.state_{state}") in rows_html([row(state)], shown="", texts=texts)


def test_a_training_offers_what_its_state_allows() -> None:
    offered = {
        state: [what for what in ("show", "again", "use", "delete")
                if f'data-what="{what}"' in rows_html([row(state)], shown="", texts=EN)]
        for state in ("running", "done", "failed", "interrupted")
    }  # fmt: skip
    assert offered == {
        "running": ["show"],
        "done": ["use", "delete"],
        "failed": ["again", "delete"],
        "interrupted": ["again", "delete"],
    }


def test_a_mask_on_the_background_asks_to_point_at_the_mover() -> None:
    clip = read_motion_clip(POCKET / "motions" / "jump.safetensors", name="jump")
    mover = mask_to_grid(clip.masks[::4], 16, 24)
    told = []
    for mask, step in ((mover, 60), (~mover, 60), (~mover, 2)):
        news = report(view_frames=clip.frames[::4], view_mask=mask, step=step)
        shown = view_html(JobProgress(row(), "training", news=news), EN)
        told.append(EN("motions.mask_astray") in shown)
    assert told == [False, True, False]


def test_every_shipped_motion_says_what_moves_how_and_no_two_the_same() -> None:
    motions = Library([POCKET / "motions"]).list()
    told = {motion.name: moves_how(motion, EN) for motion in motions}
    assert all(motion.noun in told[motion.name] for motion in motions)
    assert len(set(told.values())) == len(motions)
    keys = {m.name: shape_key(m.outline) or path_key(m.track) for m in motions}
    assert keys == {
        "circle": "loop",
        "tilted loop": "loop",
        "figure eight": "eight",
        "hop left": "left_hops",
        "jump": "updown",
        "sway": "sides",
        "rise": "up",
        "sink": "down",
        "walk left": "left",
        "walk right": "right",
        "crouch": "ducks",
        "grow": "grows",
        "shrink": "shrinks",
        "wave": "part",
    }
    page = cards_html(motions, EN)
    assert page.count(EN("transfer.cards_neutral", phrase=NEUTRAL_PHRASE)) == 1


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("turned", range(4))
def test_a_path_turned_by_a_quarter_is_told_so(language: str, turned: int) -> None:
    straight = [(20.0, 10.0 + 4 * t) for t in range(9)]
    hops = [(20.0 - 9 * (t % 2), 10.0 + 3 * t) for t in range(9)]
    for path, ending in ((straight, ""), (hops, "_hops")):
        places = np.array(path)
        for _ in range(turned):
            places = np.stack([places[:, 1], -places[:, 0]], axis=1)  # a quarter clockwise
        key = ("right", "down", "left", "up")[turned] + ending
        assert path_key(places.tolist()) == key
        assert Texts(language)(f"motions.path_{key}")
    assert path_key(None) == "" and path_key([(3.0, 3.0)] * 5) == "still"


@pytest.mark.parametrize("name", ["jump", "sway", "circle", "walk-left"])
def test_shipped_masks_lie_on_what_moves_and_what_is_left_does_not(name: str) -> None:
    clip = read_motion_clip(POCKET / "motions" / f"{name}.safetensors", name=name)
    assert moving_share(clip.frames, clip.masks) > 0.9
    assert moving_share(clip.frames, ~clip.masks) < 0.45


def test_the_newest_video_and_the_last_view_are_shown() -> None:
    assert validation_html(JobProgress(row(), "training", news=report()), EN) == ""
    video = ValidationVideo(2, np.zeros((3, 16, 24, 3), np.uint8), 8.0)
    progress = JobProgress(row(), "training", news=report(validation=video))
    assert "After step 2" in validation_html(progress, EN)
    assert EN("motions.view_mask") in view_html(progress, EN)
    everything = JobProgress(row(), "training", news=report(view_mask=None))
    assert EN("motions.view_all") in view_html(everything, EN)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_library_says_what_may_be_done_with_each_motion(language: str) -> None:
    texts = Texts(language)
    motions = Library([POCKET / "motions"]).list()[:2]
    page = library_html(
        motions,
        base="another model",
        whose={motions[0].digest: "mine", motions[1].digest: "shipped"},
        private={motions[0].digest: True},
        deleted=None,
        problems=["x.safetensors is <broken>"],
        previews=Previews(Limits()),
        texts=texts,
    )
    assert page.count('data-what="export"') == 2
    for what in ("rename", "share", "delete"):
        assert page.count(f'data-what="{what}"') == 1
    assert 'data-what="hide"' not in page and page.count(texts("motions.private")) == 1
    mine, shipped = (html.escape(gain_words(motion.clip_errors, texts)) for motion in motions)
    assert mine in page and shipped not in page, "who refined it wants to know what that gained"
    assert page.count(texts("motions.other")) == 2 and page.count(texts("motions.shipped")) == 1
    assert "&lt;broken&gt;" in page and motions[0].noun in page


class Line:
    """Stands in for the queue: keeps what was submitted."""

    def __init__(self) -> None:
        self.came: list[dict] = []

    def submit(self, kind: str, inputs: dict, **options: object) -> JobRow:
        self.came.append({"kind": kind, "inputs": inputs, **options})
        return row("queued", title=str(options["title"]))


class Host:
    """As much of a ModelHost as a submission needs."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.settings, self.no_training = Settings(motions=(folder,), **settings), ""
        self.learns = self.settings.training
        self.library = Library([POCKET / "motions", folder])
        self.jobs = Line()


def asked(folder: Path, *names: str, name: str = "leap") -> TrainingInputs:
    for file in names:
        (folder / file).write_bytes(b"clip")
    clips = tuple(ClipSelection(folder / file, start=0.5) for file in names)
    return TrainingInputs(name, "leaps", "cat", clips)


def test_a_submitted_training_is_complete_in_itself(tmp_path: Path) -> None:
    host = Host(tmp_path / "motions")
    inputs = asked(tmp_path, "mine.MOV", "yours.mp4")
    submit_training(host, inputs, owner="me")
    (came,) = host.jobs.came
    assert (came["kind"], came["owner"], came["title"]) == ("train", "me", "leap")
    assert came["files"] == {
        "clip-1.mov": tmp_path / "mine.MOV",
        "clip-2.mp4": tmp_path / "yours.mp4",
    }
    again = TrainingInputs.from_json(came["inputs"], tmp_path)
    assert [clip.file.name for clip in again.clips] == ["clip-1.mov", "clip-2.mp4"]
    assert [clip.start for clip in again.clips] == [0.5, 0.5]


def test_what_cannot_be_trained_is_told_at_submit(tmp_path: Path) -> None:
    host = Host(tmp_path / "motions")
    with pytest.raises(MotionAppError, match='there is a motion "jump" already'):
        submit_training(host, asked(tmp_path, "a.mp4", name="jump"), owner="me")
    gone = asked(tmp_path, "b.mp4")
    (tmp_path / "b.mp4").unlink()
    with pytest.raises(RequestError, match=r"b\.mp4 is gone"):
        submit_training(host, gone, owner="me")
    with pytest.raises(RequestError, match="13 clips came; at most 12"):
        many = asked(tmp_path, *(f"{i}.mp4" for i in range(13)))
        submit_training(host, many, owner="me")
    hosted = Host(tmp_path / "motions", training=False)
    with pytest.raises(RequestError, match="training is off"):
        submit_training(hosted, asked(tmp_path, "a.mp4"), owner="me")
    assert host.jobs.came == hosted.jobs.came == []


def test_the_command_line_that_is_shown_is_one_a_shell_takes() -> None:
    assert "--phrase 'is jumping'" in training_command()


def test_two_browsers_share_nothing_and_a_new_follower_ends_the_old_one() -> None:
    from copy import deepcopy

    first = TrainingState()
    first.clips = (draft_clip(),)
    assert deepcopy(first).clips == ()
    assert first.follow() != first.follow()


def test_a_clip_in_which_nothing_moves_is_told_when_it_comes_and_refused_when_it_is_to_be_learned(
    tmp_path: Path,
):
    moving, held = (
        DraftClip.read(MEDIA / name, GEOMETRY, Limits()) for name in ("clip.m4v", "still.mp4")
    )
    assert moving.moving and not held.moving
    state, library = TrainingState(), Library([tmp_path])
    asked = ("stand", "stands still", "ball", "fleximmt", 2, False)
    state.clips = (moving, held)
    with pytest.raises(RequestError, match=r"nothing moves in still\.mp4"):
        TrainingForm.read(Texts("en"), library, state, *asked, False)
    assert TrainingForm.read(Texts("en"), library, state, *asked, True).still
    state.clips = (moving,)
    assert not TrainingForm.read(Texts("en"), library, state, *asked, False).still


def test_all_that_is_wrong_with_a_training_is_told_by_field() -> None:
    state, library = TrainingState(), Library([POCKET / "motions"])
    rest = ("fleximmt", 2, False)
    with pytest.raises(FormFaults) as told:
        TrainingForm.read(Texts("en"), library, state, " ", "", None, *rest)
    assert set(told.value.faults) == {"clips", "name", "noun", "phrase"}
    state.clips = (draft_clip(),)
    with pytest.raises(FormFaults) as told:
        TrainingForm.read(Texts("en"), library, state, "jump", "leaps", "cat", *rest)
    assert set(told.value.faults) == {"name"} and "already" in told.value.faults["name"]


def test_the_stage_of_a_clip_has_the_clips_own_shape() -> None:
    tall = replace(draft_clip(), size=(76, 135))
    shown = editor_html([tall], geometry=GEOMETRY, texts=EN)
    assert 'style="--width: 76; --height: 135;' in shown
    style = (Path(ui.__file__).parent / "static" / "style.css").read_text(encoding="utf-8")
    stage = re.search(r"\.clip-stage \{([^}]*)\}", style).group(1)
    assert "aspect-ratio: var(--width) / var(--height)" in stage and "max-height" not in stage


def test_how_much_of_a_clip_is_seen_is_known_from_its_shape_and_its_crop() -> None:
    wide = GEOMETRY.width / GEOMETRY.height
    clip = replace(draft_clip(), size=(100, 200))
    assert clip.seen(GEOMETRY) == pytest.approx(0.5 / wide)
    cropped = replace(clip.selection, box=(0.0, 0.0, 1.0, 0.5 / wide))
    assert replace(clip, selection=cropped).seen(GEOMETRY) == pytest.approx(1.0)


def visit(host: str = "127.0.0.1:7860", address: str = "127.0.0.1", **headers: str) -> Any:
    client = SimpleNamespace(host=address)
    return SimpleNamespace(client=client, headers={"Host": host, **headers})


@pytest.mark.parametrize(
    ("request_", "settings", "local"),
    [
        (visit(), {}, True),
        (visit("localhost"), {}, True),
        (visit("[::1]:7860", "::1"), {}, True),
        (visit(address="192.168.1.9"), {}, False),
        (visit("motion.example"), {}, False),  # a proxy, or a name that was pointed here
        (visit(**{"X-Forwarded-For": "203.0.113.5"}), {}, False),
        (visit(), {"host": "0.0.0.0"}, False),
        (visit(), {"single_user": False}, False),
        (None, {}, False),
    ],
)
def test_who_sits_at_this_machine_is_known_by_address_name_and_way(
    request_: Any, settings: dict[str, Any], local: bool
) -> None:
    visitor = library_user("me", request_, Settings(**settings))
    address = "" if local or request_ is None else request_.client.host  # that quotas count
    assert visitor == LibraryUser("me", local=local, address=address)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_motion_of_somebody_else_is_shown_as_such_and_refused_in_ones_language(
    tmp_path: Path, language: str
) -> None:
    texts = Texts(language)
    library = Library([POCKET / "motions", tmp_path])
    motion = library.import_file(POCKET / "motions" / "jump.safetensors", name="leap", owner="me")
    panel = LibraryPanel.__new__(LibraryPanel)  # without its components
    panel.host = SimpleNamespace(library=library, base=lambda: None)
    panel.texts, panel.previews = texts, Previews(Limits())
    state, other = TrainingState(), TrainingState()
    state.user, other.user = LibraryUser("me"), LibraryUser("you", local=True)
    assert panel.show_cards(state).count('data-what="delete"') == 1
    assert texts("motions.others") in panel.show_cards(other)
    press = SimpleNamespace(_data={"what": "delete", "digest": motion.digest})
    with pytest.raises(MotionAppError, match=re.escape(texts("motions.not_yours", name="leap"))):
        panel.act(other, press)
    panel.act(state, press)
    token = SimpleNamespace(_data={"token": state.deleted.token})
    other.deleted = state.deleted
    with pytest.raises(MotionAppError, match="not yours"):
        panel.restore(other, token)
    panel.restore(state, token)
    assert library.find("leap").name == "leap"
    shipped = SimpleNamespace(_data={"what": "delete", "digest": library.find("jump").digest})
    with pytest.raises(
        MotionAppError, match=re.escape(texts("motions.not_deletable", name="jump"))
    ):
        panel.act(state, shipped)
