"""Whatever a decoder does to its own process, the program goes on."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from motion_app.errors import MediaError
from motion_app.media.files import decode_data_uri as png
from motion_app.media.files import encode_data_uri, read_clip, read_image, read_mask, write_video
from motion_app.media.sandbox import _server as server_of
from motion_app.media.sandbox import decode
from motion_app.settings import Limits

ROOT = Path(__file__).resolve().parents[2]
SHORT = Limits(decode_seconds=1.5, decode_megabytes=256)
PATIENT = Limits(decode_seconds=60, decode_megabytes=256)  # on a busy machine everything is slow
PATIENCE = 30.0  # s; who sleeps here sleeps for longer


def run(name: str, source: bytes | Path = b"x", limits: Limits = PATIENT, **options):
    return decode(f"decoders_gone_wrong:{name}", source, options, name="a.mp4", limits=limits)


@pytest.fixture(scope="module", autouse=True)
def the_server_runs():
    run("tell")


@pytest.mark.parametrize(
    "name",
    [
        *("crash", "be_killed", "devour", "fail", "send_more_than_announced"),
        *("announce_a_flood", "announce_nonsense"),
    ],
)
def test_a_decoder_that_breaks_is_an_error_that_says_what_to_do(name):
    with pytest.raises(MediaError, match=r"broke off at a\.mp4.*save it anew"):
        run(name, limits=PATIENT)
    assert run("tell").facts["source"] == "b'x'"


@pytest.mark.parametrize("name", ["sleep", "spin"])
def test_a_decoder_that_hangs_is_ended(name):
    started = time.monotonic()
    with pytest.raises(MediaError, match=r"a\.mp4 took longer than 1\.5 s"):
        run(name, limits=SHORT)
    assert time.monotonic() - started < PATIENCE


def test_a_hanging_child_ends_even_if_nobody_waits_for_it():
    before = time.monotonic()
    with pytest.raises(MediaError):
        run("sleep", limits=SHORT)
    children = Path(f"/proc/{server_of(os.getpid())._process.pid}/task")
    if children.exists():  # only Linux tells
        while any(Path(task, "children").read_text().strip() for task in children.iterdir()):
            assert time.monotonic() - before < PATIENCE
            time.sleep(0.05)


def test_a_decoder_cannot_write_a_file(tmp_path):
    with pytest.raises(MediaError):
        run("write", path=str(tmp_path / "a"))
    assert not (tmp_path / "a").exists() or (tmp_path / "a").stat().st_size == 0


def test_fewer_rows_than_announced_are_cut_to_what_came():
    assert np.array_equal(run("send_less_than_announced").array, np.ones((3, 2), np.uint8))


def test_each_file_has_a_process_of_its_own():
    pids = {run("tell").facts["pid"] for _ in range(5)}
    assert len(pids) == 5 and os.getpid() not in pids


def test_decoders_know_neither_torch_nor_the_page_nor_the_main_module():
    modules = set(run("tell").facts["modules"])
    assert "motion_app.media.decoders" in modules
    assert not {"torch", "gradio", "diffusers", "pytest", "__mp_main__"} & modules


def test_many_threads_decode_at_once():
    pictures = [np.full((40, 60, 3), n, np.uint8) for n in range(24)]
    files = [png(encode_data_uri(picture)) for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        for picture, found in zip(pictures, pool.map(read_image, files), strict=True):
            assert np.array_equal(picture, found)


def test_a_server_that_died_is_replaced():
    server = server_of(os.getpid())
    old = server._process
    old.send_signal(signal.SIGKILL)
    old.wait()
    mask = np.eye(8, dtype=bool)
    assert np.array_equal(read_mask(png(encode_data_uri(mask))), mask)
    assert server._process.pid != old.pid


def test_a_forked_copy_of_the_program_gets_a_server_of_its_own():
    program = (
        "import os, numpy as np\n"
        "from motion_app.media.files import *\n"
        "file = decode_data_uri(encode_data_uri(np.eye(8, dtype=bool)))\n"
        "read_mask(file)\n"
        "child = os.fork()\n"
        "right = read_mask(file).sum() == 8\n"
        "if child == 0: os._exit(0 if right else 1)\n"
        "assert right and os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_the_main_module_is_not_run_again(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "print('main ran', flush=True)\n"
        "import numpy as np\n"
        "from motion_app.media.files import *\n"
        "print(read_mask(decode_data_uri(encode_data_uri(np.eye(8, dtype=bool)))).sum())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split("\n")[:2] == ["main ran", "8"], done.stderr
    assert done.stderr == ""


def test_a_file_named_like_a_module_in_the_current_folder_is_not_run(tmp_path):
    for name in ("av", "json", "cv2"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken over')")
    program = (
        "import sys; sys.path.remove('')\n"
        "import numpy as np\n"
        "from motion_app.media.files import *\n"
        "assert read_mask(decode_data_uri(encode_data_uri(np.eye(8, dtype=bool)))).sum() == 8\n"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=True,
        timeout=60,
    )


def test_a_long_clip_is_scaled_down_until_it_fits_into_memory(tmp_path):
    frames = np.zeros((400, 320, 480, 3), np.uint8)
    frames[:, :, 240:] = 255
    write_video(tmp_path / "a.mp4", frames, 24)
    clip = read_clip(tmp_path / "a.mp4", limits=Limits(decode_megabytes=320))
    assert len(clip.frames) == 400
    assert clip.frames.nbytes <= 160 * 2**20 < frames.nbytes
    height, width = clip.frames.shape[1:3]
    assert abs(width / height - 480 / 320) < 0.02
    assert clip.frames[75, :, : width // 3].max() < 10 and clip.frames[75, :, -9:].min() > 245


def test_too_little_memory_for_a_clip_is_told(tmp_path):
    write_video(tmp_path / "a.mp4", np.zeros((9, 480, 640, 3), np.uint8), 24)
    with pytest.raises(MediaError, match="memory"):
        read_clip(tmp_path / "a.mp4", limits=Limits(decode_megabytes=8))


def test_too_little_memory_for_a_picture_is_told():
    large = png(encode_data_uri(np.zeros((6000, 6000, 3), np.uint8)))
    with pytest.raises(MediaError, match="picture"):
        read_image(large, limits=Limits(decode_megabytes=32))
