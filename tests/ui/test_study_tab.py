"""The app's own Study tab: studies of results made in the app, by who made them."""

from __future__ import annotations

import base64
import dataclasses
import json
import multiprocessing
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import postgres
import pytest
from fastapi.testclient import TestClient

from motion_app.errors import RequestError
from motion_app.media.files import write_video
from motion_app.settings import Settings
from motion_app.study.archive import StudyArchive
from motion_app.study.database import connect
from motion_app.study.plan import QUESTIONS, StudyConfig
from motion_app.study.site.app import StudySettings, build_study_app
from motion_app.text_files import STAGING
from motion_app.ui.form_faults import FormFaults
from motion_app.ui.markup import Texts
from motion_app.ui.study_form import StudyRequest, read_form
from motion_app.ui.study_tab import MadeStudy, OwnStudies, studies_html

METHODS_MADE = ("fleximmt", "none")


@pytest.fixture
def studies(tmp_path: Path, database: str | None) -> OwnStudies:
    """Two results of one scene, made by the browser "ann"."""
    clip = tmp_path / "reference.mp4"
    write_video(clip, np.full((8, 64, 96, 3), 90, np.uint8), 8)
    picture = cv2.imencode(".png", np.full((64, 96, 3), 90, np.uint8))[1].tobytes()
    request = {
        "image": "data:image/png;base64," + base64.b64encode(picture).decode(),
        "objects": [{"motion": "roll"}],
    }
    for place, method in enumerate(METHODS_MADE):
        folder = tmp_path / "jobs" / f"{place:032x}"
        folder.mkdir(parents=True)
        shutil.copy(clip, folder / "video.mp4")
        recipe = {"method": method, "prompt": "A ball rolls.", "request": request}
        (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    return studies_in(tmp_path, database)


def studies_in(tmp_path: Path, database: str | None) -> OwnStudies:
    """Those of the results that lie there."""
    rows = [
        SimpleNamespace(
            id=f"{place:032x}",
            title="A ball",
            state="done",
            created=0.0,
            inputs={"request": {"method": method}},
        )
        for place, method in enumerate(METHODS_MADE)
    ]
    library = SimpleNamespace(preview_of={"roll": tmp_path / "reference.mp4"}.get)
    library.seen_by = lambda user: library
    host = SimpleNamespace(
        settings=Settings(outputs=tmp_path / "outputs", study_database=database),
        jobs=SimpleNamespace(
            rows=lambda owner, kind: rows if owner == "ann" else [],
            folder=lambda job: tmp_path / "jobs" / job,
        ),
        library=library,
    )
    return OwnStudies(host)


def create(
    studies: OwnStudies,
    owner: str,
    jobs: Sequence[str] = (),
    *,
    title: str,
    upload: Path | None = None,
    **options: Any,
) -> MadeStudy:
    return studies.create(owner, StudyRequest(title, tuple(jobs), upload, options))


def test_a_study_made_in_the_page_is_served_and_its_maker_alone_has_the_secret(
    studies: OwnStudies, database: str | None
) -> None:
    jobs = [job for _, job in studies.results("ann")]
    made = create(studies, "ann", jobs, title="Balls", raters=2)
    assert studies.list("ann") == [made] and studies.list("ben") == []
    with TestClient(build_study_app(StudySettings(studies.folder, database))) as client:
        client.post(f"/{made.name}/admin/login", data={"secret": made.secret})
        assert client.get(f"/{made.name}/admin/api/progress").json()["title"] == "Balls"
    assert made.secret not in repr(made)


def test_sixteen_studies_are_opened_at_once(tmp_path: Path) -> None:
    files = [tmp_path / str(number) / "study.sqlite" for number in range(16)]
    with ThreadPoolExecutor(16) as makers:
        assert len({id(engine) for engine in makers.map(connect, files)}) == 16
    assert all(file.is_file() for file in files)


WRITERS = 8
TITLE = "The same balls"


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_eight_studies_of_one_title_and_one_file_name_are_made_at_once_and_kept_apart(
    studies: OwnStudies, tmp_path: Path
) -> None:
    """Of results and of ZIP files that are all called alike, by browsers that know nothing of each
    other, in two programs on one folder."""
    for place in range(WRITERS):
        zipped(tmp_path / f"{place}" / "items", f"balls {place}")
    shares = [range(WRITERS)[0::2], range(WRITERS)[1::2]]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        told = pool.map(partial(made_in_one_program, tmp_path), shares)
    made = [study for pair in zip(*told, strict=True) for study in pair]
    assert len({study.name for study in made}) == len({study.secret for study in made}) == WRITERS
    by_name = {study.name: study for study in made}
    listed = {study.name: study for study in studies.list("ann")}
    assert listed == {made[n].name: made[n] for n in range(WRITERS) if n % 4 < 2}
    assert {path.name for path in studies.folder.iterdir()} == by_name.keys()  # nothing half
    for writer, study in enumerate(made):
        assert study.title == TITLE
        if writer % 4 < 2:
            continue
        assert studies.list(f"{writer:032d}") == [study]
        archive = StudyArchive.open(studies.folder / study.name, database=studies._database)
        captions = {item.caption for item in archive.items.values() if item.kind == "main"}
        assert captions == {f"balls {writer}"}  # its own, of all that were called alike
        archive.close()


def zipped(folder: Path, caption: str) -> Path:
    """One item in a file that is called ``items.zip``."""
    item = folder / "fox"
    item.mkdir(parents=True)
    (item / "caption.txt").write_text(caption)
    cv2.imwrite(str(item / "first_frame.png"), np.full((64, 96, 3), 90, np.uint8))
    for clip in ("reference", "ours", "theirs"):
        shutil.copy(folder.parents[1] / "reference.mp4", item / f"{clip}.mp4")
    return Path(shutil.make_archive(str(folder), "zip", folder))


def made_in_one_program(tmp_path: Path, writers: Sequence[int]) -> list[MadeStudy]:
    """What they make at once, each in a thread of its own."""
    studies = studies_in(tmp_path, None)
    jobs = [job for _, job in studies.results("ann")]

    def make(writer: int) -> MadeStudy:
        bare = {"title": TITLE, "raters": 1, "practice": 0, "gold": 0}
        if writer % 4 < 2:
            return create(studies, "ann", jobs, **bare)
        upload = tmp_path / f"{writer}" / "items.zip"
        return create(studies, f"{writer:032d}", upload=upload, **bare)

    with ThreadPoolExecutor(len(writers)) as pool:
        return list(pool.map(make, writers))


def test_what_a_killed_program_left_of_a_study_is_not_listed_and_goes(studies: OwnStudies) -> None:
    jobs = [job for _, job in studies.results("ann")]
    left = studies.folder / f"{STAGING}{'0' * 16}"
    for folder in (left, studies.folder / f"{STAGING}{'1' * 16}"):
        (folder / "media").mkdir(parents=True)
        (folder / "owner").write_text("ann")
    os.utime(left, (0, 0))
    made = create(studies, "ann", jobs, title="Balls", raters=1)
    assert studies.list("ann") == [made]
    names = {path.name for path in studies.folder.iterdir()}
    assert names == {made.name, f"{STAGING}{'1' * 16}"}  # somebody may be writing there


@pytest.mark.parametrize("database", postgres.one_every_day("sqlite"), indirect=True)
def test_a_broken_study_hides_no_other_and_a_half_written_secret_is_made_anew(
    studies: OwnStudies,
) -> None:
    jobs = [job for _, job in studies.results("ann")]
    made = [create(studies, "ann", jobs, title=title, raters=1) for title in "abcde"]
    spoiled = [studies.folder / study.name for study in made[:3]]
    (spoiled[0] / "study.json").write_text("{", encoding="utf-8")
    (spoiled[1] / "study.json").write_text('{"study": "x", "database": "y", "dataset": null}')
    (spoiled[2] / "owner").write_bytes(b"\xff")
    (studies.folder / made[3].name / "admin-secret").write_bytes(b"")
    left = {study.title: study for study in studies.list("ann")}
    assert set(left) == {"d", "e"} and left["e"] == made[4]
    assert len(left["d"].secret) > 12 and studies.list("ann")[0].secret in {
        study.secret for study in left.values()
    }


def test_results_are_told_apart_by_their_method(studies: OwnStudies) -> None:
    titles = [title for title, _ in studies.results("ann")]
    assert [title.split(" · ")[:2] for title in titles] == [
        ["A ball", "fleximmt"],
        ["A ball", "none"],
    ]


def test_nobody_makes_a_study_of_anothers_results(studies: OwnStudies) -> None:
    jobs = [job for _, job in studies.results("ann")]
    for owner, chosen in (("ben", jobs), ("ann", jobs[:1]), ("ann", [*jobs, "f" * 32])):
        with pytest.raises(RequestError, match="two results or more"):
            create(studies, owner, chosen, title="Balls", raters=2)
    with pytest.raises(RequestError, match="no title"):
        create(studies, "ann", jobs, title=" ", raters=2)
    with pytest.raises(RequestError, match="names the method"):
        create(studies, "ann", jobs, title="Is FlexiMMT better?", raters=2)
    assert studies.list("ann") == []


def test_scenes_made_with_one_method_alone_are_no_study(studies: OwnStudies) -> None:
    jobs = [job for _, job in studies.results("ann")]
    recipe = studies.host.jobs.folder(jobs[1]) / "recipe.json"
    made = json.loads(recipe.read_text())
    for changed, said in (
        ({**made, "method": "fleximmt"}, "both called fleximmt"),
        ({**made, "prompt": "Another."}, "was not made with"),
        ({**made, "method": "fleximmt", "prompt": "Another."}, "2 to 8 named methods, got 1"),
    ):
        recipe.write_text(json.dumps(changed))
        with pytest.raises(RequestError, match=said):
            create(studies, "ann", jobs, title="Balls", raters=2)
    assert studies.list("ann") == []


def test_a_title_in_the_list_is_shown_as_written() -> None:
    made = MadeStudy("0" * 16, "<b>x</b>", 0.0, 3, 1, "a <secret>")
    shown = studies_html([made], Texts("zh"), new=made.name)
    assert "&lt;b&gt;" in shown and "<b>x" not in shown
    assert "a &lt;secret&gt;" in shown and "<details open>" in shown
    assert f'action="./study/{made.name}/admin/login?lang=zh"' in shown
    assert 'name="secret" value="a &lt;secret&gt;"' in shown


def filled(**given: Any) -> list[Any]:
    """The form as it is when nothing was touched, but for ``given``."""
    untouched = {
        "source": "results",
        "jobs": [],
        "upload": None,
        "benchmark": None,
        "title": "Balls",
        "form": "single",
        "raters": 20,
        "questions": list(QUESTIONS),
        "order": "fixed",
        "analysis": "all",
        "items": 0,
        "repeats": 5,
        "practice": 2,
        "gold": "",
        "closes": "",
        "link_days": 0,
        "consent": "",
        "minutes": 0,
        "contact": "",
        "code": "",
        "seed": 0,
    }
    assert untouched.keys() >= given.keys()
    return list({**untouched, **given}.values())


def test_an_untouched_form_makes_the_study_that_the_command_line_makes() -> None:
    options = read_form(Texts("en"), *filled(jobs=["a", "b"])).options
    practice, gold = options.pop("practice"), options.pop("gold")
    assert (practice, gold) == (2, None)
    methods = ("A", "B")
    made = StudyConfig.build(title="Balls", methods=methods, **options)
    assert made == StudyConfig.build(title="Balls", methods=methods)


def test_everything_that_is_filled_in_is_in_the_study() -> None:
    asked = read_form(
        Texts("en"),
        *filled(
            source="zip",
            upload="items.zip",
            form="pair",
            raters=7,
            items=3,
            questions=["AC", "MF"],
            order="random",
            analysis="unflagged",
            repeats=20,
            practice=1,
            gold="4",
            closes="2027-01-31",
            link_days=9,
            consent=" Ours. ",
            minutes=12,
            contact="me@lab.example",
            code="ABCD-1",
            seed=5,
        ),
    )
    assert asked.upload == Path("items.zip") and asked.jobs == ()
    config = StudyConfig.build(
        title="x",
        methods=("A", "B"),
        **{k: v for k, v in asked.options.items() if k not in ("practice", "gold")},
    )
    assert config.questions == ("MF", "AC") and config.repeat_share == 0.2
    assert (config.form, config.raters, config.items_per_rater, config.seed) == ("pair", 7, 3, 5)
    assert (config.question_order, config.analysis) == ("random", "unflagged")
    assert (config.consent, config.minutes, config.contact) == ("Ours.", 12, "me@lab.example")
    assert (config.link_days, config.completion_code) == (9, "ABCD-1")
    assert (asked.options["practice"], asked.options["gold"]) == (1, 4)
    assert config.closes == pytest.approx(1801440000, abs=86_400)  # the night after that day


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"source": "zip"}, "no ZIP file"),
        ({"closes": "31.1.2027"}, "write it as 2027-01-31"),
        ({"gold": "many"}, "no number of gold items"),
    ],
)
def test_what_cannot_be_read_of_the_form_is_told(given: dict[str, Any], said: str) -> None:
    with pytest.raises(FormFaults, match=said):
        read_form(Texts("en"), *filled(**{"jobs": ["a", "b"], **given}))


def test_all_that_is_wrong_with_the_form_is_told_by_field() -> None:
    with pytest.raises(FormFaults) as told:
        read_form(Texts("en"), *filled(title=" ", closes="soon", gold="many"))
    assert set(told.value.faults) == {"results", "title", "closes", "gold"}
    assert "two results or more, 0 were chosen" in told.value.faults["results"]
    for source, field in (("zip", "upload"), ("benchmark", "benchmark")):
        with pytest.raises(FormFaults) as told:
            read_form(Texts("en"), *filled(source=source, title=""))
        assert set(told.value.faults) == {field, "title"}


@pytest.mark.parametrize("database", postgres.one_every_day("sqlite"), indirect=True)
def test_a_zip_makes_a_study_and_one_from_the_command_line_is_listed_to_this_machine_s_user(
    studies: OwnStudies, tmp_path: Path
) -> None:
    items = tmp_path / "items"
    for name in ("fox", "cat"):
        folder = items / name
        folder.mkdir(parents=True)
        (folder / "caption.txt").write_text(f"A {name} rolls.")
        cv2.imwrite(str(folder / "first_frame.png"), np.full((64, 96, 3), 90, np.uint8))
        for clip in ("reference", "ours", "theirs"):
            shutil.copy(tmp_path / "reference.mp4", folder / f"{clip}.mp4")
    upload = Path(shutil.make_archive(str(tmp_path / "items"), "zip", items))
    made = create(studies, "ann", title="Rolling", upload=upload, raters=2)
    archive = StudyArchive.open(studies.folder / made.name, database=studies._database)
    assert archive.config.methods == ("ours", "theirs")
    assert sorted(item.name for item in archive.items.values() if item.kind == "main") == [
        "cat",
        "fox",
    ]
    archive.close()
    assert studies.benchmarks(local=True) == []
    run = studies.folder.parent / "benchmark"
    shutil.copytree(items, run / "study_items")
    assert studies.benchmarks(local=True) == ["benchmark"] and studies.benchmarks(local=False) == []
    asked = read_form(Texts("en"), *filled(source="benchmark", benchmark="benchmark", raters=2))
    assert studies.create("ann", asked, local=True).raters == 2
    for name, local in (("benchmark", False), ("../benchmark", True), ("studies", True)):
        with pytest.raises(RequestError, match="not there any more"):
            studies.create("ann", dataclasses.replace(asked, benchmark=name), local=local)
    listed = studies.list("ann")
    assert len(listed) == 2
    shutil.rmtree(studies.folder / next(one.name for one in listed if one != made))
    (studies.folder / made.name / "owner").unlink()  # as the command line leaves it
    assert studies.list("ann") == [] and studies.list("ann", local=True) == [made]
