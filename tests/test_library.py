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
from motion_app.library import Library, read_motion

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
        "import sys, json; from motion_app.library import Library;"
        "names = [m.name for m in Library([sys.argv[1]]).list()];"
        "print(json.dumps([names, 'torch' in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [["jump"], False]
