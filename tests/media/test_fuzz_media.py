"""Whatever file comes in, a picture of the right form comes out, or an error a person can read."""

import base64
import io
import json
import struct
import time
import zlib
from functools import cache
from pathlib import Path

import av
import numpy as np
import pillow_heif
import pytest
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from motion_app.errors import MotionAppError
from motion_app.media.files import decode_data_uri, read_clip, read_image, read_mask
from motion_app.media.provenance import export_video, read_recipe, verify_video
from motion_app.settings import Limits

FIXTURES = Path(__file__).parents[1] / "fixtures" / "media"
SECONDS = 60
LIMITS = Limits(decode_seconds=50, decode_megabytes=512)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@cache
def pictures() -> tuple[bytes, ...]:
    """One small file of every kind of picture that is read."""
    files = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        file = io.BytesIO()
        Image.fromarray(picture()).save(file, format=kind)
        files.append(file.getvalue())
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(picture())).save(file)
    return (*files, file.getvalue())


@cache
def clips() -> tuple[bytes, ...]:
    """One small file of every kind of clip that is read."""
    files = []
    kinds = (
        *(("mp4", "libx264"), ("mov", "libx265"), ("webm", "libvpx-vp9"), ("gif", "gif")),
        *(("avi", "mpeg4"), ("mpegts", "libx264"), ("mpeg", "mpeg2video")),
    )
    for container, codec in kinds:
        file = io.BytesIO()
        with av.open(file, "w", format=container) as out:
            stream = out.add_stream(codec, rate=25 if codec == "mpeg2video" else 8)
            stream.height, stream.width = 24, 32
            stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
            for t in range(5):
                frame = av.VideoFrame.from_ndarray(np.roll(picture(), t, 1), format="rgb24")
                out.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
            out.mux(stream.encode())
        files.append(file.getvalue())
    files += [(FIXTURES / name).read_bytes() for name in ("alpha_vp9.webm", "interlaced.mp4")]
    for kind in ("WEBP", "PNG"):
        file = io.BytesIO()
        first, *rest = [Image.fromarray(np.roll(picture(), t, 1)) for t in range(5)]
        first.save(file, format=kind, save_all=True, append_images=rest, duration=100)
        files.append(file.getvalue())
    return tuple(files)


@cache
def generated(folder: Path) -> bytes:
    """A video made here, with a recipe inside."""
    export_video(folder / "made.mp4", picture()[None], 8, recipe={"seed": 1, "prompt": "x" * 99})
    return (folder / "made.mp4").read_bytes()


@pytest.fixture(scope="module", autouse=True)
def the_decoders_are_loaded():
    """Once for the program, before any file's time is taken."""
    read_image(pictures()[0])


@st.composite
def tampered(draw, whole: bytes) -> bytes:
    """A real file after one to four accidents: bytes changed, cut out, doubled, or cut off."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        # Headers, where a changed byte does most, are hit as often as all the rest.
        reach = draw(st.sampled_from([64, len(content)]))
        place = draw(st.integers(0, max(0, min(reach, len(content)) - 1)))
        accident = draw(st.sampled_from(["change", "huge", "remove", "double", "end"]))
        if accident == "change":
            new = draw(st.binary(min_size=1, max_size=8))
            content[place : place + len(new)] = new
        elif accident == "huge":
            content[place : place + 4] = b"\xff\xff\xff\xf0"
        elif accident == "remove":
            del content[place : place + draw(st.integers(1, 64))]
        elif accident == "double":
            content[place:place] = content[place : place + draw(st.integers(1, 64))]
        else:
            del content[place:]
    return bytes(content)


@st.composite
def one_of(draw, files: tuple[bytes, ...]) -> bytes:
    return draw(tampered(draw(st.sampled_from(files))))


def outcome(read, *arguments, **options):
    """What ``read`` returns, or the MotionAppError it raises: one line, in time."""
    started = time.monotonic()
    try:
        return read(*arguments, **options)
    except MotionAppError as error:
        assert str(error) and "\n" not in str(error)
        return error
    finally:
        assert time.monotonic() - started < SECONDS


# real files, damaged ----------------------------------------------------------------------------


@fuzz(150)
@given(content=st.deferred(lambda: one_of(pictures())))
def test_a_damaged_picture_is_a_picture_or_an_error(content):
    found = outcome(read_image, content, limits=LIMITS)
    if not isinstance(found, MotionAppError):
        assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3


@fuzz(80)
@given(content=st.deferred(lambda: one_of(pictures())))
def test_a_damaged_mask_is_a_mask_or_an_error(content):
    found = outcome(read_mask, content, limits=LIMITS)
    if not isinstance(found, MotionAppError):
        assert found.dtype == np.bool_ and found.ndim == 2


@fuzz(300)
@given(content=st.deferred(lambda: one_of(clips())), fps=st.sampled_from([None, 8.0]))
def test_a_damaged_clip_is_a_clip_or_an_error(content, fps, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    found = outcome(read_clip, path, fps=fps, limits=LIMITS)
    if not isinstance(found, MotionAppError):
        assert found.frames.dtype == np.uint8 and found.frames.shape[3] == 3
        assert len(found.frames) >= 1 and found.fps > 0


@fuzz(60)
@given(data=st.data())
def test_a_damaged_video_made_here_gives_its_recipe_or_an_error(data, tmp_path_factory):
    content = data.draw(tampered(generated(tmp_path_factory.getbasetemp())))
    found = outcome(read_recipe, content, limits=LIMITS)
    assert isinstance(found, (dict, MotionAppError))
    path = tmp_path_factory.getbasetemp() / "damaged.mp4"
    path.write_bytes(content)
    outcome(verify_video, path, limits=LIMITS)


@fuzz(100)
@given(content=st.deferred(lambda: tampered(json.dumps({"seed": 1, "objects": [{}]}).encode())))
def test_a_damaged_recipe_is_an_object_or_an_error(content):
    assert isinstance(outcome(read_recipe, content, limits=LIMITS), (dict, MotionAppError))


# what is no picture, clip or recipe at all ------------------------------------------------------


@fuzz(100)
@given(content=st.binary(max_size=300))
def test_random_bytes_are_always_refused(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "random"
    path.write_bytes(content)
    assert isinstance(outcome(read_clip, path, limits=LIMITS), MotionAppError)
    assert isinstance(outcome(read_image, path, limits=LIMITS), MotionAppError)
    assert isinstance(outcome(read_mask, content, limits=LIMITS), MotionAppError)
    assert isinstance(outcome(verify_video, path, limits=LIMITS), MotionAppError)


@fuzz(60)
@given(
    text=st.one_of(
        st.text(max_size=60),
        st.builds("data:image/png;base64,{}".format, st.text(max_size=60)),
        st.binary(max_size=60).map(
            lambda b: "data:image/png;base64," + base64.b64encode(b).decode()
        ),
    )
)
def test_what_a_data_address_holds_is_always_refused_if_no_picture(text):
    found = outcome(decode_data_uri, text)
    if isinstance(found, bytes):
        assert isinstance(outcome(read_image, found, limits=LIMITS), MotionAppError)


@fuzz(60)
@given(
    value=st.one_of(
        st.none(),
        st.integers(),
        st.floats(),
        st.lists(st.integers(), max_size=3),
        st.text(max_size=30),
        st.just("a\0b"),
        st.just("x" * 5000),
    )
)
def test_things_that_are_no_files_are_refused(value):
    for read in (read_image, read_mask):
        assert isinstance(outcome(read, value, limits=LIMITS), MotionAppError)


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{secret}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="file://{secret}"/></svg>',
    "mvg": "push graphic-context\nimage over 0,0 9,9 '{secret}'\npop graphic-context\n",
    "eps": "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({secret}) (r) file\n",
    "dash": '<?xml version="1.0"?><MPD><BaseURL>file://{secret}</BaseURL></MPD>',
}


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n\n"])
@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("name", ["a.mp4", "a.png", "a.m3u8"])
def test_files_that_name_other_files_are_refused(tmp_path, kind, name, start):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(clips()[0])
    (tmp_path / name).write_bytes(start + PLAYLISTS[kind].format(secret=secret).encode())
    for read in (read_clip, read_image, read_mask, verify_video, read_recipe):
        assert isinstance(outcome(read, tmp_path / name, limits=LIMITS), MotionAppError)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, body: bytes, *, before: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            before,
            chunk(b"IDAT", body),
            chunk(b"IEND", b""),
        ]
    )


BOMBS = {
    "too many pixels": png(20_000, 20_000, zlib.compress(bytes(2**20))),
    "more pixels than there are": png(0x7FFFFFFF, 0x7FFFFFFF, b""),
    "no pixels": png(0, 0, b""),
    "a text of a gigabyte": png(
        8, 8, b"", before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**28)))
    ),
    "a profile of a gigabyte": png(
        8, 8, b"", before=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**28)))
    ),
    "gif of 65535": b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0,",
    "bmp of a billion": b"BM"
    + struct.pack("<IHHIIiiHHI", 54, 0, 0, 54, 40, 10**5, 10**5, 1, 24, 0)
    + bytes(40),
    "tiff that points at itself": b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0"
    + b"\x08\0\0\0",
    "webp of nothing": b"RIFF\x0c\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xff\xff\xff\xff\xff\xff",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_would_be_large_is_refused(name, tmp_path):
    for read in (read_image, read_mask):
        assert isinstance(outcome(read, BOMBS[name], limits=LIMITS), MotionAppError)
    (tmp_path / "a.gif").write_bytes(BOMBS[name])
    assert isinstance(outcome(read_clip, tmp_path / "a.gif", limits=LIMITS), MotionAppError)


MAGIC = [
    *(b"\0\0\0\x18ftypmp42", b"\x1aE\xdf\xa3", b"GIF89a", b"\0\0\1\xba", b"\0\0\0\x08wide"),
    *(b"RIFF\0\1\0\0AVI ", b"RIFF\0\1\0\0WEBP", b"\x89PNG\r\n\x1a\n", b"G" + bytes(187) + b"G"),
]


@pytest.mark.parametrize("tail", [b"#EXTM3U\nfile:///x\n", b"ffconcat version 1.0\n", b"PK\3\4"])
@pytest.mark.parametrize("magic", MAGIC)
def test_one_kind_of_file_behind_the_first_bytes_of_another_is_refused(magic, tail, tmp_path):
    (tmp_path / "a.mp4").write_bytes(magic + tail * 20)
    for read in (read_clip, verify_video, read_recipe):
        assert isinstance(outcome(read, tmp_path / "a.mp4", limits=LIMITS), MotionAppError)


@pytest.mark.parametrize("side", [1, 5000, 65535])
def test_a_clip_whose_header_lies_about_its_size_is_a_clip_or_an_error(side, tmp_path):
    content = bytearray(clips()[0])
    place = content.find(b"avc1") + 4 + 24
    content[place : place + 4] = struct.pack(">HH", side, side)
    (tmp_path / "a.mp4").write_bytes(content)
    found = outcome(read_clip, tmp_path / "a.mp4", limits=LIMITS)
    assert isinstance(found, MotionAppError) or found.frames.shape[1:] == (24, 32, 3)


def test_a_clip_that_names_a_file_beside_it_does_not_open_it(tmp_path):
    content = clips()[0].replace(b"url \0\0\0\1", b"url \0\0\0\0")  # the pictures are elsewhere
    (tmp_path / "a.mp4").write_bytes(content)
    found = outcome(read_clip, tmp_path / "a.mp4", limits=LIMITS)
    assert isinstance(found, MotionAppError) or len(found.frames) == 5


def test_folders_and_devices_are_refused(tmp_path):
    for place in (tmp_path, Path("/dev/null")):
        for read in (read_clip, read_image, read_mask, read_recipe, verify_video):
            assert isinstance(outcome(read, place, limits=LIMITS), MotionAppError)
