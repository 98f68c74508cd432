"""Laws of clips that objects learn from: what a person does to them, what is wrong with them, how
they are kept, and what becomes of them once they are learned."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_drafts import GEOMETRY, JUMP, draft_with, picture, square
from test_kept_drafts import ANN, BOB, FewMotions, found

from motion_app.errors import RequestError
from motion_app.library.library import Library
from motion_app.library.motion_clip import MotionClip
from motion_app.media.files import write_video
from motion_app.methods import ENCODED, REFINED, WAYS
from motion_app.request.written import request_to_json
from motion_app.scene import Click, Motion, Options
from motion_app.settings import ROOT, Limits
from motion_app.training.inputs import TrainingInputs
from motion_app.ui.markup import LANGUAGES, Texts
from motion_app.ui.motions.clips import DraftClip
from motion_app.ui.transfer.actions import SceneActions
from motion_app.ui.transfer.draft import SceneDraft, request_of
from motion_app.ui.transfer.from_clicks import ClickedThing, scene_of_clicks
from motion_app.ui.transfer.kept_clips import MOST_CLIPS
from motion_app.ui.transfer.kept_drafts import KeptDraft, KeptDrafts
from motion_app.ui.transfer.lesson_actions import LessonActions, ReadClip
from motion_app.ui.transfer.lesson_panel import LearningOffer, refining_html
from motion_app.ui.transfer.lessons import ClipLook, SceneLesson, asked_of_job
from motion_app.ui.transfer.rows import object_problems, rows_html
from motion_app.ui.transfer.session import Action, Session
from motion_app.world.clips import load_clips

EN = Texts("en")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds, of which the last two move."""
    frames = np.full((24, 90, 160, 3), 120, np.uint8)
    for t in range(24):
        x = 20 + 5 * max(0, t - 10)
        frames[t, 30:50, x : x + 20] = (220, 40, 40)
    path = tmp_path_factory.mktemp("clips") / "Red_box-slides.mp4"
    write_video(path, frames, GEOMETRY.fps)
    return path


@pytest.fixture
def kept(tmp_path: Path) -> KeptDrafts:
    return KeptDrafts(tmp_path / "outputs", Limits(draft_hours=2))


@pytest.fixture
def site(
    clip: Path, kept: KeptDrafts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SimpleNamespace]:
    """A page's actions, an upload as the browser sends one, and a session with two objects."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    upload = tmp_path / "uploads" / "abc" / "Red_box-slides.mp4"
    upload.parent.mkdir(parents=True)
    upload.write_bytes(clip.read_bytes())
    settings = SimpleNamespace(limits=Limits())
    host = SimpleNamespace(
        settings=settings,
        library=Library([tmp_path / "motions"]),
        geometry=lambda: GEOMETRY,
        learns=True,
        has_encoder=False,
        looks=False,
        no_training="",
        motions=lambda user=None: [JUMP],
        knows_when_ready=None,
    )
    lessons = LessonActions(host, kept.keep_clip, load_clips(ROOT / "assets" / "clips"))
    session = Session()
    session.go_on_with(draft_with((20, 30), (70, 30)))
    site = SimpleNamespace(host=host, session=session, upload=upload, kept=kept, lessons=lessons)
    actions = SceneActions(host, [], lessons)
    site.act = lambda **values: actions.begin(session, values)()

    def bring(object: int = 0) -> None:
        upload.parent.mkdir(exist_ok=True)  # it goes when it has been read
        upload.write_bytes(clip.read_bytes())
        site.act(kind="clip", object=str(object), path=str(upload), name=upload.name)

    site.bring = bring
    yield site


def test_a_clip_for_an_object_is_its_motion_that_is_still_to_be_learned(site) -> None:
    site.bring()
    item = site.session.draft.objects[0]
    assert item.motion == Motion(*("Red box slides", "is moving", Path(), ""), noun="thing")
    start, stop = item.lesson.clip.span
    assert stop - start == GEOMETRY.frames and start >= 8  # where something goes on
    assert (
        item.lesson.clip.name == site.upload.name
        and not site.lessons.problems(site.session.draft)[0]
    )
    site.session.undo()
    assert site.session.draft.objects[0].motion is None


def test_where_a_model_has_an_encoder_a_lesson_is_one_look_or_more(site) -> None:
    site.bring()
    site.bring(1)
    with pytest.raises(RequestError, match="no motion encoder"):
        site.act(kind="lesson_method", object="0", text=ENCODED)
    site.host.has_encoder = True
    with pytest.raises(RequestError, match="no way to learn"):
        site.act(kind="lesson_method", object="0", text="concat")
    site.act(kind="lesson_method", object="0", text=REFINED)
    one, two = (item.lesson for item in site.session.draft.objects)
    assert one.method == two.method == REFINED and one.same_as(two)  # learned once for both
    (asked,), _ = asked_of_job([one])
    assert TrainingInputs.from_json(asked, one.clip.selection.file.parent).method == REFINED
    site.session.undo()
    assert [item.lesson.method for item in site.session.draft.objects] == ["fleximmt"] * 2


def looking(site, answer) -> list[object]:
    """The site has an encoder, which ``answer`` stands for; what it has looked at."""
    site.host.has_encoder = site.host.looks = True
    looked: list[object] = []

    def look(selection):
        looked.append(selection)
        if isinstance(answer, Exception):
            raise answer
        return answer

    site.lessons.look = look
    return looked


def seen_square() -> MotionClip:
    masks = np.zeros((GEOMETRY.frames, GEOMETRY.height, GEOMETRY.width), bool)
    masks[:, 4:10, 4:10] = True
    return MotionClip(np.full((*masks.shape, 3), 90, np.uint8), GEOMETRY.fps, masks)


def test_a_clip_is_looked_at_when_it_comes_and_again_when_another_part_is_chosen(site) -> None:
    looked = looking(site, (seen_square(), 1.25))
    site.bring()
    (lesson,) = site.session.draft.lessons
    assert lesson.ready and lesson.method == ENCODED and lesson.look.seconds == 1.25
    assert looked == [lesson.clip.selection] and lesson.look.picture.startswith("data:image")
    site.bring(1)
    one, two = (item.lesson for item in site.session.draft.objects)
    assert one.same_as(two) and len(site.session.draft.lessons) == 1
    site.act(kind="clip_choose", object="0", start=0.0, stop=2.0, box=None, mover=None)
    chosen = site.session.draft.objects[0].lesson
    assert looked[-1] == chosen.clip.selection != one.clip.selection and chosen.ready
    asked, _ = asked_of_job(site.session.draft.lessons)
    assert {entry["method"] for entry in asked} == {ENCODED}
    site.session.undo()
    assert site.session.draft.objects[0].lesson.clip.selection == one.clip.selection


def test_a_look_that_is_not_to_be_had_now_is_left_to_the_job(site) -> None:
    looking(site, None)
    site.bring()
    (lesson,) = site.session.draft.lessons
    assert lesson.method == ENCODED and lesson.look is None and not lesson.ready
    assert site.lessons.problems(site.session.draft)[0] == {}


def test_where_nobody_can_tell_what_moves_the_panel_says_so_and_learning_is_left(site) -> None:
    looking(site, RequestError("what moves in the clip cannot be told from the rest"))
    site.bring()
    assert site.lessons.problems(site.session.draft)[0] == {"clip": "transfer.lesson_unseen"}
    site.act(kind="lesson_method", object="0", text=WAYS[0])
    assert site.lessons.problems(site.session.draft)[0] == {}


def test_a_motion_of_one_look_can_be_refined_also_after_a_reload(site) -> None:
    looking(site, (seen_square(), 1.0))
    site.bring()
    with pytest.raises(RequestError, match="cannot be refined"):
        site.act(kind="lesson_refine", object="1")
    (lesson,) = site.session.draft.lessons
    motion = replace(lesson.motion, path=Path("a.safetensors"), method=ENCODED)
    draft = site.session.draft
    site.session.go_on_with(draft.changed(0, lambda item: item.settled(motion)))
    assert site.session.draft.lessons == [] and site.session.draft.objects[0].looked is lesson
    owner = site.session.owner
    site.kept.keep(owner, "tab", KeptDraft(site.session.draft, {}))
    site.kept.write()
    there = found(site.kept, owner, "tab", motion).draft
    assert there.objects[0].looked.inputs() == lesson.inputs()
    site.act(kind="lesson_refine", object="0")
    (refined,) = site.session.draft.lessons
    assert (refined.name, refined.method) == (f"{motion.name} refined", REFINED)
    assert refined.clip.selection == lesson.clip.selection and refined.made >= lesson.made
    site.session.undo()
    site.session.put(site.session.draft.moved_by(0, JUMP), Action("transfer.did_motion"))
    assert site.session.draft.objects[0].looked is None  # that was another motion


def test_one_clip_for_two_objects_is_learned_from_once(site) -> None:
    site.bring()
    site.bring(1)
    first, second = site.session.draft.objects
    assert first.motion == second.motion and first.lesson.clip.key != second.lesson.clip.key
    assert site.lessons.problems(site.session.draft) == [{}, {}]
    site.act(kind="lesson_name", object="1", text="slide")
    site.act(kind="lesson_phrase", object="0", text="slides on ice")
    assert [item.motion.name for item in site.session.draft.objects] == ["slide", "slide"]
    assert all("slides on ice" in item.sentence for item in site.session.draft.objects)
    asked, files = asked_of_job(site.session.draft.lessons)
    assert [entry["name"] for entry in asked] == ["slide"] and len(files) == 1

    # another part of it, for one of them, is another motion
    site.act(kind="clip_choose", object="1", start=0.0, stop=2.0, box=None, mover=None)
    assert [one.name for one in site.session.draft.lessons] == ["slide", "slide 2"]
    assert site.lessons.problems(site.session.draft) == [{}, {}]
    asked, files = asked_of_job(site.session.draft.lessons)
    assert [entry["name"] for entry in asked] == ["slide", "slide 2"] and len(files) == 1
    site.session.undo()
    assert len(site.session.draft.lessons) == 1


def test_one_clip_for_two_things_of_a_command_is_learned_from_once(
    clip: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "again.mp4"  # as two uploads of one file come
    copy.write_bytes(clip.read_bytes())

    def scene(**second: str) -> SceneDraft:
        things = [
            ClickedThing(clicks=(Click(20, 30),), name="cat", clip=clip),
            ClickedThing(clicks=(Click(70, 30),), name="bird", clip=copy, **second),
        ]
        library = Library([tmp_path / "motions"])
        return scene_of_clicks(
            picture(), things, fit="crop", geometry=GEOMETRY, segment=square, library=library
        )

    shared = scene()
    assert [one.name for one in shared.lessons] == ["Red box slides"]
    assert shared.objects[0].motion == shared.objects[1].motion
    for other in ({"called": "flight"}, {"noun": "bird"}, {"phrase": "flies"}):
        assert len(scene(**other).lessons) == 2, other


def test_a_thing_of_a_command_is_learned_by_the_models_first_way_or_as_it_says(
    clip: Path, tmp_path: Path
) -> None:
    def method(ways: tuple[str, ...], **told: str) -> str:
        (lesson,) = scene_of_clicks(
            picture(),
            [ClickedThing(clicks=(Click(20, 30),), clip=clip, **told)],
            fit="crop",
            geometry=GEOMETRY,
            segment=square,
            library=Library([tmp_path / "motions"]),
            ways=ways,
        ).lessons
        return lesson.method

    assert method(WAYS) == "fleximmt" and method((ENCODED, "fleximmt")) == ENCODED
    assert method(WAYS, method=REFINED) == REFINED
    with pytest.raises(RequestError, match="this model learns by fleximmt"):
        method(WAYS[:1], method=ENCODED)


def test_a_clip_that_ships_is_taken_with_one_press_and_brings_its_words(site) -> None:
    site.act(kind="clip_example", object="1", name="spin")
    (lesson,) = site.session.draft.lessons
    assert (lesson.name, lesson.noun, lesson.phrase) == ("spin", "red robot", "is moving")
    assert lesson.problems(site.host.library, [], GEOMETRY) == {}
    assert site.kept.folder in lesson.clip.selection.file.parents
    with pytest.raises(RequestError, match="not there any more"):
        site.act(kind="clip_example", object="1", name="../spin")


def test_the_upload_goes_and_a_path_of_the_servers_is_no_clip(site) -> None:
    site.bring()
    assert not site.upload.exists()  # its link opens nothing
    _, files = asked_of_job(site.session.draft.lessons)
    (file,) = files.values()
    assert file.is_file() and site.kept.folder in file.parents
    for path in ("/etc/passwd", "", str(file)):
        with pytest.raises(Exception, match="no uploaded file"):
            site.act(kind="clip", object="0", path=path, name="x.mp4")


def test_words_are_written_and_the_sentence_follows_the_phrase(site) -> None:
    site.bring()
    for name, text in (("name", "slide"), ("noun", "red box"), ("phrase", " slides  on ice ")):
        site.act(kind=f"lesson_{name}", object="0", text=text)
    item = site.session.draft.objects[0]
    assert (item.motion.name, item.motion.noun, item.phrase) == (
        "slide",
        "red box",
        "slides on ice",
    )
    assert "slides on ice" in item.sentence
    asked, _ = asked_of_job([item.lesson])
    learned = TrainingInputs.from_json(asked[0], Path())
    assert (learned.name, learned.noun, learned.phrase) == ("slide", "red box", "slides on ice")
    assert (
        request_to_json(request_of(site.session.draft, Options()))["objects"][0]["motion"]
        == "slide"
    )


def test_trimming_cropping_and_pointing_change_what_is_learned(site) -> None:
    site.bring()
    chosen = {"start": 0.5, "stop": 2.5, "box": [0.1, 0.1, 0.9, 0.9], "mover": None}
    site.act(kind="clip_choose", object="0", **chosen)
    selection = site.session.draft.lessons[0].clip.selection
    assert (selection.start, selection.stop, selection.box) == (0.5, 2.5, (0.1, 0.1, 0.9, 0.9))
    site.act(kind="clip_point", object="0", **{**chosen, "mover": [0.2, 0.45]})
    selection = site.session.draft.lessons[0].clip.selection
    assert selection.mover == (0.2, 0.45) and selection.box != (0.1, 0.1, 0.9, 0.9)
    assert (selection.start, selection.stop) == (0.5, 2.5)
    site.session.undo()
    assert site.session.draft.lessons[0].clip.selection.mover is None


def test_another_motion_takes_the_place_of_what_was_to_be_learned(site) -> None:
    site.bring()
    site.act(kind="motion", object="0", motion="jump")
    assert site.session.draft.lessons == [] and site.session.draft.objects[0].motion == JUMP
    site.bring()
    site.act(kind="motion", object="0", motion="")
    assert site.session.draft.lessons == [] and site.session.draft.objects[0].motion is None


def test_what_is_wrong_is_told_by_field(site, tmp_path: Path) -> None:
    site.bring()
    site.bring(1)
    site.act(kind="clip_choose", object="1", start=2.0, stop=2.5, box=None, mover=None)
    site.act(kind="lesson_name", object="1", text="Red box slides")
    site.act(kind="lesson_phrase", object="1", text="  ")
    first, second = site.lessons.problems(site.session.draft)
    assert first["name"] == second["name"] == "transfer.lesson_twice"
    assert second["phrase"] == "transfer.lesson_empty"
    assert second["clip"] == "transfer.lesson_short"
    with pytest.raises(RequestError, match="phrase"):
        asked_of_job(site.session.draft.lessons)
    lesson = site.session.draft.lessons[0]
    held = replace(lesson, clip=replace(lesson.clip, moving=False))
    assert held.problems(site.host.library, [], GEOMETRY) == {"clip": "transfer.lesson_still"}
    lesson.clip.selection.file.unlink()
    assert lesson.problems(site.host.library, [], GEOMETRY) == {"clip": "transfer.lesson_gone"}
    with pytest.raises(RequestError, match="not on the server any more"):
        asked_of_job([lesson])


def test_what_was_learned_is_the_motion_and_only_what_is_younger(site) -> None:
    site.bring()
    draft = site.session.draft
    lesson = draft.lessons[0]

    def like(age: float, **changes: str) -> Motion:
        created = datetime.fromtimestamp(lesson.made - age).astimezone().isoformat("T", "seconds")
        path = Path("new.safetensors")
        return replace(lesson.motion, path=path, base="base", created=created, **changes)

    assert draft.settled(FewMotions(like(3600), like(-5, phrase="flies"))) is draft
    learned = like(-60)
    after_it = draft.settled(FewMotions(learned))
    assert after_it.objects[0].motion is learned and after_it.lessons == []
    assert after_it.objects[0].sentence == draft.objects[0].sentence


def test_a_kept_scene_still_has_to_learn_and_says_where_its_clip_is_gone(site) -> None:
    site.session.owner = ANN
    site.bring()
    site.act(kind="lesson_noun", object="0", text="box")
    before = site.session.draft.lessons[0]
    site.kept.keep(ANN, "tab", KeptDraft(site.session.draft))
    draft = found(site.kept, ANN, "tab").draft
    (lesson,) = draft.lessons
    assert vars(lesson) | {"clip": None} == vars(before) | {"clip": None}
    assert lesson.clip.selection == before.clip.selection and lesson.clip.name == site.upload.name
    assert draft.objects[0].motion == lesson.motion and draft.objects[1].lesson is None
    before.clip.selection.file.unlink()
    gone = found(site.kept, ANN, "tab")
    assert gone.draft.lessons == [] and gone.lost == ("Red box slides",)


def test_clips_go_with_their_scene_with_age_and_where_they_are_too_many(
    site, tmp_path: Path
) -> None:
    site.session.owner = ANN
    site.bring()
    file = site.session.draft.lessons[0].clip.selection.file
    site.kept.keep(ANN, "one", KeptDraft(site.session.draft))
    site.kept.keep(ANN, "other", KeptDraft(site.session.draft))
    site.kept.write()
    site.kept.forget(ANN, "one")
    assert file.is_file()  # the other tab has it
    site.kept.forget(BOB, "other")
    assert file.is_file()
    site.kept.forget(ANN, "other")
    assert not file.exists()
    clips = []
    for number in range(MOST_CLIPS + 2):
        other = tmp_path / f"{number}.mp4"
        other.write_bytes(b"%d" % number)
        clips.append(site.kept.keep_clip(ANN, other, other.name))
        os.utime(clips[-1], (time.time() + number - 100,) * 2)
    site.kept.tidy()
    assert [clip.is_file() for clip in clips] == [False] * 2 + [True] * MOST_CLIPS
    site.kept.tidy(now=time.time() + 3 * 3600)
    assert not any(clip.is_file() for clip in clips)


def test_what_refining_gained_is_told_whoever_refined_it(site) -> None:
    texts, offer = Texts("en"), LearningOffer(GEOMETRY, {WAYS[0]: 150})
    item = site.session.draft.objects[0]
    for folder, told in (("own", True), (ROOT / "checkpoints" / "pocket" / "motions", False)):
        path = Path(folder) / "jump.safetensors"
        motion = Motion("jump", "jumps", path, "base", clip_errors=(0.4, 0.3))
        shown = refining_html(replace(item, motion=motion), 1, offer, texts)
        assert ("25 %" in shown) is told, folder


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_row_has_the_entrance_and_the_panel_or_why_there_is_none(site, language: str) -> None:
    texts = Texts(language)

    def shown(draft: SceneDraft, offer: LearningOffer) -> str:
        wrong = site.lessons.problems(draft)
        problems = object_problems(draft, GEOMETRY)
        return rows_html(
            draft, problems=problems, heard=0, drawn=0, texts=texts, offer=offer, wrong=wrong
        )

    offer = LearningOffer(GEOMETRY, {WAYS[0]: 150})
    plain = shown(site.session.draft, offer)
    assert plain.count('data-local="clip"') == 2 and "lesson" not in plain
    tried = shown(
        site.session.draft, replace(offer, examples=tuple(site.lessons.examples.values()))
    )
    assert tried.count('data-act="clip_example"') == 2 * len(site.lessons.examples)
    site.bring()
    site.act(kind="lesson_name", object="0", text="<b>slide</b>")
    site.act(kind="lesson_noun", object="0", text="")
    there = shown(site.session.draft, offer)
    assert texts("transfer.lesson_unmeasured", steps=150) in there
    assert texts("transfer.lesson_empty") in there and 'aria-invalid="true"' in there
    assert "<b>slide" not in there and "data:image" not in there  # the frames come once
    assert "lesson-ways" not in there  # there is one way alone
    ways = replace(offer, steps={WAYS[0]: 150, ENCODED: 0, REFINED: 30})
    there = shown(site.session.draft, ways)
    assert there.count('data-field="lesson_method"') == 3
    assert f'value="{WAYS[0]}" checked' in there and "lesson-look" not in there
    site.host.has_encoder = True
    site.act(kind="lesson_method", object="0", text=ENCODED)
    there = shown(site.session.draft, ways)
    assert f'value="{ENCODED}" checked' in there and texts("transfer.lesson_look") in there
    assert texts("transfer.lesson_at_look", name="&lt;b&gt;slide&lt;/b&gt;") in there
    draft, looked = site.session.draft, ClipLook("data:image/jpeg;base64,AA", 1.25)
    told = ReadClip(draft.objects[0].key, draft.objects[0].lesson.clip, look=looked)
    there = shown(site.lessons.with_look(draft, told), ways)
    assert texts("transfer.lesson_looked", seconds=texts("video.seconds", n="1.2")) in there
    assert texts("transfer.lesson_usable") in there and looked.picture in there
    site.act(kind="lesson_method", object="0", text=REFINED)
    assert texts("transfer.lesson_unmeasured", steps=30) in shown(site.session.draft, ways)
    closed = replace(offer, refusal="no & never", command="train it")
    refused = shown(site.session.draft, closed)
    assert 'data-local="clip"' not in refused
    assert "no &amp; never" in refused and "train it" in refused


def test_where_nothing_is_learned_a_clip_is_refused_with_the_reason(site) -> None:
    site.host.learns = False
    with pytest.raises(RequestError, match="MOTION_APP_TRAINING"):
        site.bring()
    site.host.no_training = "the GPU is lent"
    with pytest.raises(RequestError, match="the GPU is lent"):
        site.bring()


def test_a_lesson_is_what_was_written(clip: Path) -> None:
    drafted = DraftClip.read(clip, GEOMETRY, Limits(), suggest=True)
    lesson = SceneLesson(drafted, "slide", steps=7)
    again = SceneLesson.from_json(lesson.to_json(), clip.parent, GEOMETRY, Limits())
    assert again.inputs() == lesson.inputs() and again.made == lesson.made
