"""Laws of what goes into a study: sources are read as they are, files come out alike and blind."""

from __future__ import annotations

import csv
import gc
import json
import tempfile
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from motion_app.errors import MediaError, MotionAppError, RequestError
from motion_app.media.files import encode_data_uri, frozen_heap, read_clip, write_video
from motion_app.media.provenance import export_video
from motion_app.study.creation import create_study, named_method
from motion_app.study.items import (
    VideoChoice,
    alike,
    choose_format,
    damaged,
    fitted,
    prepare_items,
)
from motion_app.study.records import VideoFormat
from motion_app.study.sources import ResultFolder, SourceItem, read_sources, sources_from_results

METHODS = ("our method", "baseline")


def frames(count: int = 8, height: int = 32, width: int = 48, *, value: int = 60) -> np.ndarray:
    clip = np.full((count, height, width, 3), value, np.uint8)
    for t in range(count):
        clip[t, 8:20, 2 * t : 2 * t + 12] = (240, 220, 90)
    return clip


def draw_items(folder: Path, count: int = 3, *, methods=METHODS) -> Path:
    for k in range(count):
        item = folder / f"item-{k}"
        item.mkdir(parents=True)
        (item / "caption.txt").write_text(f"Scene {k}.\n", encoding="utf-8")
        Image.fromarray(frames(1, value=40 + k)[0]).save(item / "first_frame.png")
        for name in ("reference", *methods):
            (item / f"{name}.mp4").write_bytes(marked_clip(40 + k, name))
    return folder


@cache
def marked_clip(value: int, method: str) -> bytes:
    """A clip as the app hands one out; encoded once, whoever needs its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        export_video(path, frames(value=value), 8, recipe={"method": method})
        return path.read_bytes()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return draw_items(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def created(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "study"
    return create_study(folder, read_sources(source), title="T", raters=2, practice=1, gold=1)


def test_a_folder_is_read_as_it_lies(source):
    found = read_sources(source)
    assert [item.name for item in found] == ["item-0", "item-1", "item-2"]
    assert found[1].caption == "Scene 1." and set(found[1].videos) == set(METHODS)
    assert [path.name for path in found[0].references] == ["reference.mp4"]


def test_a_table_gives_the_same_items_as_the_folder(source):
    table = source.parent / f"{source.name}.csv"
    with table.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "caption", "first_frame", "references", *METHODS])
        for k in range(3):
            place = f"{source.name}/item-{k}"
            files = [f"{place}/{name}.mp4" for name in METHODS]
            first, reference = f"{place}/first_frame.png", f"{place}/reference.mp4"
            writer.writerow([f"item-{k}", f"Scene {k}.", first, reference, *files])
    assert [vars(item) for item in read_sources(table)] == [
        {**vars(item), "videos": {m: item.videos[m] for m in METHODS}}
        for item in read_sources(source)
    ]


def test_every_candidate_has_one_format_and_no_name_in_it(created):
    study, video = created.study, created.prepared.video
    assert video == VideoFormat(48, 32, 8.0, 8) == study.archive.video
    for item in study.archive.items.values():
        for name in item.candidates.values():
            with av.open(str(study.archive.media_path(name))) as container:
                stream = container.streams.video[0]
                assert stream.codec_context.name == "h264"
                assert (stream.width, stream.height, stream.frames) == (48, 32, 8)
                assert float(stream.average_rate) == 8 and len(container.streams) == 1
                assert set(container.metadata) <= {
                    "major_brand",
                    "minor_version",
                    "compatible_brands",
                    "encoder",
                }


def test_no_byte_a_rater_may_fetch_names_a_method(created):
    media = created.study.archive.folder / "media"
    listed = sorted(path.name for path in media.iterdir())
    assert len(listed) == len(set(listed)) == 3 * 4 + 2 * 4
    for path in media.iterdir():
        assert len(path.stem) == 32 and set(path.stem) <= set("0123456789abcdef")
        content = path.read_bytes()
        assert not any(word in content for word in (b"our method", b"baseline", b"recipe", b"AI-"))


def test_checks_show_the_reference_once_and_spoil_the_others(created):
    study = created.study
    for kind in ("practice", "gold"):
        (item,) = [entry for entry in study.archive.items.values() if entry.kind == kind]
        reference = read_clip(study.archive.media_path(item.references[0])).frames.astype(int)
        for method, name in item.candidates.items():
            clip = read_clip(study.archive.media_path(name)).frames.astype(int)
            difference = np.abs(clip - reference).mean()
            assert difference < 3 if method == item.answer else difference > 40


def test_no_caption_tells_a_gold_item_from_those_that_count(created):
    captions = {kind: set() for kind in ("main", "gold", "practice")}
    for item in created.study.archive.items.values():
        captions[item.kind].add(item.caption)
    assert captions["gold"] and captions["gold"] <= captions["main"]


def test_longer_is_cut_and_shorter_holds_its_last_frame():
    video = VideoFormat(48, 32, 8.0, 6)
    clip = frames(8)
    assert np.array_equal(alike(clip, video), clip[:6])
    held = alike(clip[:4], video)
    assert np.array_equal(held[:4], clip[:4])
    assert all(np.array_equal(frame, clip[3]) for frame in held[4:])


def test_another_shape_is_centred_on_black_and_a_slight_one_stretched():
    wide = fitted(np.full((1, 20, 80, 3), 255, np.uint8), 40, 40)
    assert wide.shape == (1, 40, 40, 3)
    assert wide[0, 15:25].min() == 255 and wide[0, :15].max() == 0 and wide[0, 25:].max() == 0
    assert fitted(np.full((1, 100, 101, 3), 255, np.uint8), 40, 40).min() == 255
    assert fitted(np.full((1, 10, 10, 3), 9, np.uint8), 64, 48)[0, :, 8:56].min() == 9


def test_the_format_is_what_most_candidates_have(tmp_path):
    shapes = {"a": (8, 32, 48), "b": (12, 32, 48), "c": (10, 40, 64)}
    for name, (count, height, width) in shapes.items():
        write_video(tmp_path / f"{name}.mp4", frames(count, height, width), 8)
    videos = {name: tmp_path / f"{name}.mp4" for name in shapes}
    item = SourceItem("x", "c", b"", (), videos)
    assert choose_format([item], VideoChoice()) == VideoFormat(48, 32, 8.0, 10)
    chosen = VideoChoice(size=(64, 64), fps=4, frames=5)
    assert choose_format([item], chosen) == VideoFormat(64, 64, 4, 5)
    made = draw_items(tmp_path / "items", 1)
    mixed = [
        SourceItem(
            "x", "c", made / "item-0/first_frame.png", (made / "item-0/reference.mp4",), videos
        )
    ]
    prepared = prepare_items(mixed, tmp_path / "media", tuple(videos), practice=0)
    assert (prepared.cut, prepared.held, prepared.resized) == (1, 1, 1)


@pytest.mark.parametrize("bad", [{"size": (47, 32)}, {"size": (8, 8)}, {"fps": 0.1}, {"frames": 0}])
def test_a_format_that_cannot_be_encoded_is_refused(bad):
    whole = {"size": (48, 32), "fps": 8.0, "frames": 8}
    with pytest.raises(RequestError, match=r"give"):
        choose_format([], VideoChoice(**{**whole, **bad}))


def test_damage_leaves_neither_order_nor_colours():
    clip = frames()
    spoiled = damaged(clip, np.random.default_rng(0))
    assert spoiled.shape == clip.shape
    assert not any(np.array_equal(a, b) for a in spoiled for b in clip)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("caption.txt", "no caption.txt"),
        ("first_frame.png", "no first_frame.png"),
        ("reference.mp4", "no reference.mp4"),
        ("baseline.mp4", "missing or unknown: baseline"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_left_behind(tmp_path, missing, said):
    source = draw_items(tmp_path / "source", 2)
    (source / "item-1" / missing).unlink()
    with pytest.raises(RequestError, match=said):
        create_study(tmp_path / "study", read_sources(source), title="T")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"title": "Is OUR-METHOD better?"}, 'the title and it names the method "our method"'),
        ({"title": "与baseline比较"}, "the title"),
        ({"consent": "You will see the Baseline, too."}, "the consent"),
        ({"completion_code": "baseline-77"}, "the completion code"),
        ({"folder": "baseline_study"}, "the folder's name"),
        ({"caption": "A fox, made by our_method."}, 'the caption of "item-1"'),
    ],
)
def test_a_text_that_names_a_method_is_refused_before_anything_is_made(tmp_path, changed, said):
    source = draw_items(tmp_path / "source", 2)
    if "caption" in changed:
        (source / "item-1" / "caption.txt").write_text(changed.pop("caption"))
    folder = tmp_path / changed.pop("folder", "study")
    with pytest.raises(RequestError, match=said):
        create_study(folder, read_sources(source), **{"title": "T", **changed})
    assert not folder.exists()


def test_words_that_only_look_like_a_method_are_left_alone():
    methods = ("A", "both", "I2V", "C++")
    for text in ("A cat and a dog, both asleep", "I2VEdit is I2Vx", "Vitamin C"):
        assert named_method(text, methods) is None
    assert named_method("with i2v.", methods) == "I2V" and named_method("c++", methods) == "C++"


def test_a_broken_video_leaves_no_half_study(tmp_path):
    source = draw_items(tmp_path / "source", 2)
    (source / "item-1" / "baseline.mp4").write_bytes(b"no video at all")
    with pytest.raises(MediaError, match="baseline"):
        create_study(
            tmp_path / "study", read_sources(source), title="T", video=VideoChoice((48, 32), 8, 8)
        )
    assert not (tmp_path / "study" / "media").exists()
    assert not (tmp_path / "study" / "study.json").exists()


def test_ones_own_checks_take_the_place_of_made_ones(tmp_path):
    source = draw_items(tmp_path / "source", 2)
    (source / "item-1").rename(source / "gold-1")
    with pytest.raises(RequestError, match=r"no answer\.txt"):
        read_sources(source)
    (source / "gold-1" / "answer.txt").write_text("baseline")
    study = create_study(
        tmp_path / "study", read_sources(source), title="T", practice=0, gold=1, raters=2
    ).study
    assert [(i.kind, i.answer) for i in study.archive.items.values()] == [
        ("gold", "baseline"),
        ("main", None),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("item,caption\n", "no column first_frame, references"),
        ("item,caption,first_frame,references,a,b\nx,y,z.png,r.mp4,1,2\n", 'no file "z.png"'),
        ("item,caption,first_frame,references,a,b\nx,y\n", "not as many cells"),
        ("item,caption,first_frame,references,a,b\n", "no items"),
        (
            "item,caption,first_frame,references,kind,a,b\nx,y,t.csv,t.csv,odd,t.csv,t.csv\n",
            '"odd"',
        ),
    ],
)
def test_a_table_with_a_mistake_is_told_where(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(RequestError, match=said):
        read_sources(tmp_path / "t.csv")


def test_a_video_of_a_kind_that_is_not_read_is_refused_by_name(tmp_path):
    draw_items(tmp_path, 1)
    (tmp_path / "item-0" / "theirs.wmv").write_bytes(b"a video")
    with pytest.raises(RequestError, match=r"item-0.*theirs\.wmv.*no clip this app reads"):
        read_sources(tmp_path)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("our method.webm", r"our method\.mp4 and our method\.webm"),
        ("first_frame.jpg", r"first_frame\.jpg, first_frame\.png; keep one"),
    ],
)
def test_two_files_that_would_stand_for_one_are_refused(tmp_path, extra, said):
    draw_items(tmp_path, 1)
    (tmp_path / "item-0" / extra).write_bytes(b"another")
    with pytest.raises(RequestError, match=said):
        read_sources(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("item,caption,first_frame,references,a,a\nx,y,t.csv,t.csv,t.csv,t.csv\n", '"a" twice'),
        (
            "item,caption,first_frame,references,a,b\n" + 2 * "x,y,t.csv,t.csv,t.csv,t.csv\n",
            'two items called "x"',
        ),
    ],
)
def test_columns_and_rows_of_one_name_are_refused(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(RequestError, match=said):
        read_sources(tmp_path / "t.csv")


def test_a_source_that_is_neither_folder_nor_table_is_refused(tmp_path):
    with pytest.raises(RequestError, match="neither"):
        read_sources(tmp_path / "nothing.xlsx")
    (tmp_path / "latin.csv").write_bytes(b"caf\xe9")
    with pytest.raises(MotionAppError, match="UTF-8"):
        read_sources(tmp_path / "latin.csv")


def result(
    folder: Path, method: str, *, motion="circle", prompt="A fox jumps.", without=()
) -> Path:
    folder.mkdir(parents=True)
    picture = encode_data_uri(frames(1)[0])
    recipe = {
        "request": {"image": picture, "objects": [{"motion": motion}]},
        "prompt": prompt,
        "method": method,
        "without": list(without),
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "video.mp4").write_bytes(marked_clip(60, method))
    return folder


def test_results_of_one_scene_stand_side_by_side(tmp_path):
    write_video(tmp_path / "circle.mp4", frames(), 8)
    results = [
        ResultFolder(result(tmp_path / "1", "fleximmt")),
        ResultFolder(result(tmp_path / "2", "fleximmt", without=["m2v"])),
        ResultFolder(result(tmp_path / "3", "fleximmt", prompt="A cat jumps.")),
        ResultFolder(result(tmp_path / "4", "none", prompt="A cat jumps."), "fleximmt without m2v"),
    ]
    found = sources_from_results(results, reference={"circle": tmp_path / "circle.mp4"}.get)
    assert [item.caption for item in found] == ["A fox jumps.", "A cat jumps."]
    assert all(set(i.videos) == {"fleximmt", "fleximmt without m2v"} for i in found)
    study = create_study(tmp_path / "study", found, title="T", raters=2, practice=0, gold=0).study
    assert len(study.archive.items) == 2


def test_results_that_cannot_be_compared_are_refused(tmp_path):
    one = ResultFolder(result(tmp_path / "1", "fleximmt"))
    twin = ResultFolder(result(tmp_path / "2", "fleximmt"))
    other = ResultFolder(result(tmp_path / "3", "none", prompt="Another."))
    clip = {"circle": tmp_path / "1" / "video.mp4"}.get
    for results, reference, said in (
        ([one, twin], clip, "both called fleximmt"),
        ([one, other], clip, "was not made with none"),
        ([one], {}.get, "no reference clip to show for circle"),
        ([ResultFolder(tmp_path)], clip, "no result of this app"),
    ):
        with pytest.raises(RequestError, match=said):
            sources_from_results(results, reference=reference)


def beside(source: Path) -> dict[str, str]:
    """The files of item-0 as a table beside ``source`` names them."""
    names = ("first_frame.png", "reference.mp4", *(f"{method}.mp4" for method in METHODS))
    return {name: f"{source.name}/item-0/{name}" for name in names}


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("slash", ["/", "\\"])
def test_a_table_is_read_as_a_spreadsheet_on_windows_writes_it(
    source, tmp_path, delimiter, encoding, slash
):
    head = ["item", "caption", "first_frame", "references", *METHODS, ""]
    files = [path.replace("/", slash) for path in beside(source).values()]
    rows = [head, ["fox", '"A fox\njumps, high; yes."', *files, ""], [""] * len(head), [""]]
    table = source.parent / f"{tmp_path.name}.csv"
    table.write_bytes("\r\n".join(delimiter.join(row) for row in rows).encode(encoding))
    (item,) = read_sources(table)
    assert (item.name, item.caption) == ("fox", "A fox\njumps, high; yes.")
    assert set(item.videos) == set(METHODS) and all(p.is_file() for p in item.videos.values())


def test_a_mistake_in_a_table_is_told_with_the_line_an_editor_shows(source, tmp_path):
    paths = ",".join(beside(source).values())
    head = f"item,caption,first_frame,references,{','.join(METHODS)}\n"
    table = source.parent / f"{tmp_path.name}.csv"
    lost = paths.replace("reference.mp4", "lost.mp4")
    table.write_text(f'{head}\na,"two\nlines",{paths}\n\nb,one,{lost}\n')
    with pytest.raises(RequestError, match=r'line 6 of .* references: there is no file ".*lost'):
        read_sources(table)
    table.write_text(f"{head}a,one,{paths}\na,two,{paths}\n")
    with pytest.raises(RequestError, match='two items called "a"'):
        read_sources(table)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_texts_of_a_folder_may_begin_with_a_byte_order_mark(tmp_path, mark):
    source = draw_items(tmp_path / "source", 2)
    (source / "item-1").rename(source / "gold-1")
    (source / "gold-1" / "answer.txt").write_bytes(mark + "\u00a0baseline\r\n".encode())
    (source / "item-0" / "caption.txt").write_bytes(mark + b"A fox.\r\nIt jumps.\r\n")
    items = {item.name: item for item in read_sources(source)}
    assert items["gold-1"].answer == "baseline"
    assert items["item-0"].caption == "A fox.\nIt jumps."


def test_an_answer_that_only_looks_like_a_method_is_told_by_its_code_points(tmp_path):
    source = draw_items(tmp_path / "source", 2)
    (source / "item-1").rename(source / "gold-1")
    (source / "gold-1" / "answer.txt").write_text("b\u0430seline", encoding="utf-8")
    with pytest.raises(RequestError, match="U\\+0430 CYRILLIC SMALL LETTER A where U\\+0061"):
        create_study(tmp_path / "study", read_sources(source), title="T")


def test_what_systems_and_editors_leave_in_a_folder_is_no_item_and_no_method(tmp_path):
    source = draw_items(tmp_path / "source", 2)
    expected = [vars(item) for item in read_sources(source)]
    for folder in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        (source / folder).mkdir()
    for place in (source, source / "item-0"):
        for name in ("._baseline.mp4", ".DS_Store", "Thumbs.db", "desktop.ini", "~$caption.txt"):
            (place / name).write_bytes(b"\0\5\x16\7")
    assert [vars(item) for item in read_sources(source)] == expected


def test_two_files_of_one_method_are_refused_and_not_merged(tmp_path):
    source = draw_items(tmp_path / "source", 1)
    (source / "item-0" / "baseline.mov").write_bytes(b"")
    with pytest.raises(RequestError, match=r"baseline.mov and baseline.mp4, both of"):
        read_sources(source)


def test_what_a_program_has_frozen_stays_so_and_what_is_frozen_for_a_study_is_thawed():
    """Else every video that the app makes after a study waits for all that was imported."""
    gc.freeze()
    before = gc.get_freeze_count()
    try:
        with frozen_heap():
            pass
        assert gc.get_freeze_count() > before / 2 > 0, "but for what has gone meanwhile"
        gc.unfreeze()
        with frozen_heap():
            assert gc.get_freeze_count() > 0
        assert gc.get_freeze_count() == 0
    finally:
        gc.freeze()
