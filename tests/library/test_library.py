"""The motions on disk, read from the headers of their files."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from motion_app.errors import MotionFileError
from motion_app.library.library import Library
from motion_app.library.motion_file import check_motion_file, read_motion
from motion_app.library.owners import LibraryUser
from motion_app.settings import Limits

METADATA = {
    "format": "motion-tokens/1",
    "name": "jump",
    "phrase": "jumps",
    "method": "fleximmt",
    "base": "aaaa",
    "track": "",
}


def write_motion(folder: Path, file: str = "jump", **changes: str) -> Path:
    path = folder / f"{file}.safetensors"
    save_file({"layers.0": np.zeros((4, 8), np.float32)}, path, metadata=METADATA | changes)
    return path


def test_a_motion_is_read_from_its_header_alone(tmp_path):
    (tmp_path / "jump.mp4").write_bytes(b"clip")
    motion = read_motion(write_motion(tmp_path, preview="jump.mp4", track="[[1, 2.5], [3, 4]]"))
    assert (motion.name, motion.phrase, motion.base) == ("jump", "jumps", "aaaa")
    assert motion.track == ((1.0, 2.5), (3.0, 4.0))
    assert motion.preview == tmp_path / "jump.mp4"
    assert len(motion.digest) == 64


def test_a_preview_cannot_reach_outside_the_folder(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    path = write_motion(tmp_path / "inner", preview="../secret.mp4")
    assert read_motion(path).preview is None


def test_the_library_lists_by_name_and_tells_of_files_it_cannot_use(tmp_path):
    write_motion(tmp_path, "b", name="walk")
    write_motion(tmp_path, "c", name="jump")
    (tmp_path / "d.safetensors").write_bytes(b"nonsense")
    library = Library([tmp_path, tmp_path / "missing folder"])
    assert [motion.name for motion in library.list()] == ["jump", "walk"]
    assert len(library.problems()) == 1 and "d.safetensors" in library.problems()[0]


def test_a_changed_file_is_read_again(tmp_path):
    library = Library([tmp_path])
    write_motion(tmp_path)
    assert library.list()[0].phrase == "jumps"
    write_motion(tmp_path, phrase="jumps very high")
    assert library.list()[0].phrase == "jumps very high"


def test_what_systems_leave_in_a_library_is_no_motion_and_no_problem(tmp_path):
    write_motion(tmp_path)
    for name in ("._jump.safetensors", ".~jump.safetensors", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    library = Library([tmp_path])
    assert [motion.name for motion in library.list()] == ["jump"] and not library.problems()
    deleted = library.delete("jump")
    (place,) = (tmp_path / ".trash").iterdir()
    (place / "._jump.safetensors").write_bytes(b"\0\5\x16\7")
    assert library.restore(deleted.token).name == "jump" and not place.exists()


def test_an_unknown_motion_is_refused_with_near_names(tmp_path):
    write_motion(tmp_path)
    with pytest.raises(MotionFileError, match=r'no motion "jumb".*did you mean jump\?'):
        Library([tmp_path]).find("jumb")
    with pytest.raises(MotionFileError, match="there are: jump"):
        Library([tmp_path]).find("somersault")
    with pytest.raises(MotionFileError, match="the library is empty"):
        Library([]).find("jump")


def test_a_motion_for_another_base_model_is_refused_and_names_both(tmp_path):
    path = write_motion(tmp_path)
    for source in ("jump", path):
        with pytest.raises(MotionFileError, match=r"aaaa.*bbbb"):
            Library([tmp_path]).find(source, base="bbbb")


def test_of_two_motions_with_one_name_the_fitting_one_is_taken(tmp_path):
    write_motion(tmp_path, "one")
    second = write_motion(tmp_path, "two", base="bbbb")
    assert Library([tmp_path]).find("jump", base="bbbb").path == second


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not a safetensors file"),
        (b"\xff" * 40, "not a safetensors file"),
        (struct.pack("<Q", 20) + b"not json at all.....", "broken header"),
        (struct.pack("<Q", 4) + b"[1] ", "broken header"),
        (struct.pack("<Q", 13) + b'{"a": [1, 2]}', "broken header"),
    ],
)
def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path, content, complaint):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(MotionFileError, match=complaint):
        read_motion(path)


def test_a_download_that_stopped_half_way_is_refused(tmp_path):
    path = write_motion(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(MotionFileError, match="should hold 128 bytes of tokens but holds 123"):
        read_motion(path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"format": "lora/3"}, 'format "lora/3"'),
        ({"phrase": ""}, "lacks the metadata phrase"),
        ({"track": "[1, 2]"}, "track"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(tmp_path, changes, complaint):
    with pytest.raises(MotionFileError, match=complaint):
        read_motion(write_motion(tmp_path, **changes))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(MotionFileError, match=r"none\.safetensors cannot be read"):
        Library([tmp_path]).find(tmp_path / "none.safetensors")


def test_listing_a_library_needs_no_torch(tmp_path):
    write_motion(tmp_path)
    code = (
        "import sys, json; from motion_app.library.library import Library;"
        "names = [m.name for m in Library([sys.argv[1]]).list()];"
        "print(json.dumps([names, 'torch' in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [["jump"], False]


def write_whole(folder: Path, file: str = "jump", *, preview: bytes = b"", **changes: str) -> Path:
    """A motion that can travel: two layers of 4 tokens of width 8, with a preview beside it."""
    layers = {f"layers.{i}.motion_tokens": np.full((4, 8), i, np.float16) for i in range(2)}
    counts = {"tokens": "4", "layers": "2", "width": "8", "created": "2026-01-31T12:00:00+00:00"}
    if preview:
        (folder / f"{file}.mp4").write_bytes(preview)
        counts["preview"] = f"{file}.mp4"
    path = folder / f"{file}.safetensors"
    save_file(layers, path, metadata=METADATA | counts | changes)
    return path


def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A model's own motions, and the writable ones."""
    shipped, own = tmp_path / "model" / "motions", tmp_path / "own"
    shipped.mkdir(parents=True)
    own.mkdir()
    (tmp_path / "model" / "model_index.json").write_text("{}")
    return shipped, own


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_delete_and_restore_is_as_if_nothing_had_been(tmp_path):
    _, own = folders(tmp_path)
    write_whole(own, preview=b"clip")
    library = Library([own])
    before, listed = contents(own), library.list()
    deleted = library.delete("jump")
    assert library.list() == [] and set(contents(own)) != set(before)
    assert library.restore(deleted.token) == listed[0]
    assert contents(own) == before and library.list() == listed


def test_what_a_model_ships_with_cannot_be_deleted(tmp_path):
    shipped, own = folders(tmp_path)
    write_whole(shipped)
    library = Library([shipped, own])
    with pytest.raises(MotionFileError, match="belongs to its model"):
        library.delete("jump")
    assert not library.writable(library.list()[0]) and library.home == own
    with pytest.raises(MotionFileError, match="no folder that may be written"):
        _ = Library([shipped]).home
    with pytest.raises(MotionFileError, match="no motion"):
        library.delete("jmp")


def test_a_file_outside_the_library_cannot_be_deleted(tmp_path):
    _, own = folders(tmp_path)
    path = write_whole(tmp_path)
    with pytest.raises(MotionFileError, match="outside the library"):
        Library([own]).delete(path)
    assert path.exists()


def test_a_place_that_was_taken_meanwhile_is_not_overwritten(tmp_path):
    _, own = folders(tmp_path)
    write_whole(own)
    library = Library([own])
    deleted = library.delete("jump")
    write_whole(own, phrase="jumps anew")
    with pytest.raises(MotionFileError, match='another motion "jump"'):
        library.restore(deleted.token)
    assert library.list()[0].phrase == "jumps anew"


def test_the_trash_is_emptied_by_age(tmp_path):
    _, own = folders(tmp_path)
    write_whole(own)
    library = Library([own])
    deleted = library.delete("jump")
    assert library.empty_trash(days=1) == 0
    assert library.empty_trash(days=0) == 1
    for token in (deleted.token, "", "0" * 32, "../" + deleted.token):
        with pytest.raises(MotionFileError, match="not in the trash"):
            library.restore(token)


def test_an_exported_motion_is_one_file_and_comes_back_byte_for_byte(tmp_path):
    _, own = folders(tmp_path)
    other = tmp_path / "other"
    first = write_whole(own, preview=b"a clip of some bytes")
    parcel = Library([own]).export_file(Library([own]).list()[0], tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["jump.safetensors"]
    assert check_motion_file(parcel).name == "jump"
    arrived = Library([other]).import_file(parcel, base="aaaa", layers=2, width=8)
    assert arrived.path.read_bytes() == first.read_bytes()
    assert arrived.preview.read_bytes() == b"a clip of some bytes"
    assert arrived.digest == read_motion(first).digest


def test_a_motion_without_a_preview_travels_too(tmp_path):
    _, own = folders(tmp_path)
    first = write_whole(own)
    parcel = Library([own]).export_file(read_motion(first), tmp_path / "out")
    assert parcel.read_bytes() == first.read_bytes()
    arrived = Library([tmp_path / "other"]).import_file(parcel)
    assert arrived.preview is None and arrived.path.read_bytes() == first.read_bytes()


def test_a_name_that_is_taken_is_refused_and_another_one_helps(tmp_path):
    _, own = folders(tmp_path)
    parcel = write_whole(tmp_path, preview=b"clip")
    library = Library([own])
    library.import_file(parcel)
    before = contents(own)
    with pytest.raises(MotionFileError, match='there is a motion "jump" already'):
        library.import_file(parcel)
    assert contents(own) == before
    renamed = library.import_file(parcel, name="跳 / jump")
    assert renamed.name == "跳 / jump" and renamed.path.parent == own
    assert [motion.name for motion in library.list()] == ["jump", "跳 / jump"]


def test_names_that_make_one_file_name_get_files_of_their_own(tmp_path):
    _, own = folders(tmp_path)
    parcel = write_whole(tmp_path)
    library = Library([own])
    paths = [library.import_file(parcel, name=name).path.name for name in ("a b", "a/b", "../..")]
    assert paths == ["a-b.safetensors", "a-b-2.safetensors", "motion.safetensors"]


def test_a_listed_motion_knows_when_and_how_it_was_made(tmp_path):
    motion = read_motion(write_whole(tmp_path, noun="cat", config=json.dumps({"steps": 150})))
    assert (motion.created, motion.noun, motion.steps) == ("2026-01-31T12:00:00+00:00", "cat", 150)
    plain = read_motion(write_motion(tmp_path, "plain"))
    assert (plain.created, plain.noun, plain.steps) == ("", "", 0)


def packed(header: dict, payload: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


def broken_files() -> dict[str, tuple[bytes, str]]:
    """Twenty-four ways for a motion file to be wrong, and what is said of each."""
    entry = {"dtype": "F16", "shape": [4, 8], "data_offsets": [0, 64]}
    second = {"dtype": "F16", "shape": [4, 8], "data_offsets": [64, 128]}
    told = METADATA | {"tokens": "4", "layers": "2", "width": "8"}
    names = ("layers.0.motion_tokens", "layers.1.motion_tokens")
    sound = {"__metadata__": told, names[0]: entry, names[1]: second}
    body = bytes(128)

    def with_told(**changes: object) -> bytes:
        return packed(sound | {"__metadata__": told | changes}, body)

    def with_first(**changes: object) -> bytes:
        return packed(sound | {names[0]: entry | changes}, body)

    nan = np.full(32, np.nan, "<f2").tobytes()
    extra = {"dtype": "F16", "shape": [0], "data_offsets": [128, 128]}
    clip = {"dtype": "U8", "shape": [3], "data_offsets": [128, 131]}
    wrong_clip = packed(
        sound | {"__metadata__": told | {"preview_sha256": "00"}, "preview": clip}, body + b"abc"
    )
    return {
        "empty": (b"", "not a safetensors file"),
        "a zip": (b"PK\x03\x04" + bytes(200), "not a safetensors file"),
        "a header longer than the file": (struct.pack("<Q", 999) + b"{}", "was cut off"),
        "a header that is no object": (packed([], b""), "broken header"),
        "metadata that is a list": (packed({"__metadata__": [1]}, b""), "no texts"),
        "metadata that is a number": (with_told(name=7), "no texts"),
        "cut off": (packed(sound, body)[:-1], "copy or download it again"),
        "too long": (packed(sound, body + b"x"), "copy or download it again"),
        "another format": (with_told(format="lora"), 'the format "lora"'),
        "no phrase": (with_told(phrase=""), "lacks the metadata phrase"),
        "a name of a thousand letters": (with_told(name="a" * 1000), "1000 characters"),
        "a name with a line break": (with_told(name="a\nb"), "unprintable"),
        "a track that is none": (with_told(track="[1]"), '"track"'),
        "a track to infinity": (with_told(track="[[1, Infinity]]"), '"track"'),
        "a date that is none": (with_told(created="yesterday"), '"created"'),
        "settings that are none": (with_told(config="{"), '"config"'),
        "no count of layers": (with_told(layers="two"), '"layers"'),
        "a layer too few": (with_told(layers="3"), "promises 3 layers and holds 2"),
        "a strange tensor": (packed(sound | {"evil": extra}, body), "unexpected tensor"),
        "a wrong shape": (with_first(shape=[8, 4]), "expected"),
        "whole numbers": (with_first(dtype="I16"), "expected"),
        "a hole between tensors": (with_first(data_offsets=[0, 32]), "broken, get it again"),
        "offsets that run backwards": (with_first(data_offsets=[64, 0]), "broken"),
        "no number where one must be": (with_first(data_offsets=[None, 64]), "broken header"),
        "numbers that are none": (packed(sound, nan + nan), "NaN or infinity"),
        "a damaged preview": (wrong_clip, "preview inside .* was damaged"),
    }


@pytest.mark.parametrize("fault", broken_files())
def test_a_broken_file_is_refused_and_nothing_is_written(tmp_path, fault):
    _, own = folders(tmp_path)
    content, complaint = broken_files()[fault]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(MotionFileError, match=complaint):
        Library([own]).import_file(path)
    assert contents(own) == {}


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ({"base": "bbbb"}, r"aaaa.*bbbb"),
        ({"layers": 42}, "layers 2, the model 42"),
        ({"width": 3072}, "width 8, the model 3072"),
        ({"limits": Limits(motion_megabytes=1e-5)}, "a motion file may have"),
    ],
)
def test_a_motion_that_does_not_fit_the_model_is_refused(tmp_path, wanted, complaint):
    _, own = folders(tmp_path)
    with pytest.raises(MotionFileError, match=complaint):
        Library([own]).import_file(write_whole(tmp_path), **wanted)
    assert contents(own) == {}


def test_a_file_of_another_kind_is_refused_by_its_name(tmp_path):
    path = write_whole(tmp_path)
    renamed = path.rename(tmp_path / "jump.bin")
    with pytest.raises(MotionFileError, match=r"no \.safetensors file"):
        Library([tmp_path / "own"]).import_file(renamed)


def test_two_motions_of_one_name_are_told_and_the_clip_of_neither_is_taken(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    for folder, clip in ((tmp_path, b"first"), (own, b"second")):
        (folder / "jump.mp4").write_bytes(clip)
        write_motion(folder, phrase=f"jumps {clip.decode()}", preview="jump.mp4")
    library = Library([tmp_path, own])
    (told,) = library.problems()
    assert 'is called "jump"' in told and "another name" in told
    with pytest.raises(MotionFileError, match="different clips"):
        library.preview_of("jump")
    (own / "jump.mp4").write_bytes(b"first")
    assert library.preview_of("jump").read_bytes() == b"first"
    assert library.preview_of("hop") is None


def test_a_clip_that_lies_in_the_library_is_not_overwritten_by_a_preview(tmp_path):
    (tmp_path / "jump.mp4").write_bytes(b"somebody's clip")
    assert Library([tmp_path]).new_path("jump").name == "jump-2.safetensors"


OWN, OTHER, HERE = LibraryUser("1" * 32), LibraryUser("2" * 32), LibraryUser("2" * 32, local=True)


def test_only_the_browser_that_brought_a_motion_deletes_it_and_brings_it_back(tmp_path):
    source = write_whole(tmp_path)
    library = Library([tmp_path / "own"])
    motion = library.import_file(source, owner=OWN.owner)
    before = contents(tmp_path / "own")
    assert not any(OWN.owner.encode() in content for content in before.values())  # a secret
    for stranger in (OTHER, HERE, LibraryUser()):
        with pytest.raises(MotionFileError, match="is not yours"):
            library.delete(motion.name, by=stranger)
    assert contents(tmp_path / "own") == before
    token = library.delete(motion.name, by=OWN).token
    for stranger in (OTHER, HERE, LibraryUser()):
        with pytest.raises(MotionFileError, match="is not yours"):
            library.restore(token, by=stranger)
    library.restore(token, by=OWN)
    assert contents(tmp_path / "own") == before
    library.delete(motion.name)  # the command line


def test_a_motion_that_nobody_in_particular_made_is_the_machines_users(tmp_path):
    write_motion(tmp_path)
    library = Library([tmp_path])
    for stranger in (OWN, LibraryUser()):
        with pytest.raises(MotionFileError, match="is not yours"):
            library.delete("jump", by=stranger)
    token = library.delete("jump", by=HERE).token
    with pytest.raises(MotionFileError, match="is not yours"):
        library.restore(token, by=OWN)
    assert library.restore(token, by=HERE).name == "jump"


def test_an_owner_goes_with_the_motion_and_is_not_left_to_the_next_one(tmp_path):
    source = write_whole(tmp_path)
    library = Library([tmp_path / "own"])
    motion = library.import_file(source, owner=OWN.owner)
    motion.path.unlink()  # by hand
    again = library.import_file(source)
    assert again.path == motion.path and not OWN.may_change(again.path)
    assert HERE.may_change(again.path)
    parcel = library.export_file(again, tmp_path / "out")
    assert [file.name for file in parcel.parent.iterdir()] == [parcel.name]
