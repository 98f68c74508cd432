"""Pictures and clips as strangers have them: every one comes in as a player shows it, or is refused
in words."""

import io
import re
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from motion_app.benchmark.exchange import ExternalMethod
from motion_app.errors import MediaError, RequestError
from motion_app.media.file_types import CLIP_CHOICES, CLIP_FILES, PICTURE_FILES
from motion_app.media.files import read_clip, read_image, read_mask, read_picture
from motion_app.models.checkpoint import Checkpoint
from motion_app.settings import Limits

FIXTURES = Path(__file__).parents[1] / "fixtures" / "media"


def ball(t: int, *, height: int = 48, width: int = 64, ground: int = 90) -> np.ndarray:
    """A red square on grey that has come ``t`` steps of two pixels to the right."""
    frame = np.full((height, width, 3), ground, np.uint8)
    frame[16:32, 4 + 2 * t : 20 + 2 * t] = (230, 30, 30)
    return frame


def add_film(container, frames, codec: str = "libx264", *, fmt: str = "yuv420p", rate: int = 8):
    stream = container.add_stream(codec, rate=rate, options={"qp": "0"})
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = fmt
    return stream


def mux(container, stream, frames, *, step: int = 1, rate: int = 8) -> None:
    for t, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts, picture.time_base = t * step, Fraction(1, rate)
        container.mux(stream.encode(picture))
    container.mux(stream.encode())


# the film among the streams ---------------------------------------------------------------------


def film_beside(path: Path, other: list, *, other_is: str, film_is: str = "") -> np.ndarray:
    """A file whose first stream is ``other`` and whose second is a film of eight frames."""
    film = [ball(t) for t in range(8)]
    with av.open(str(path), "w") as container:
        first = add_film(container, other, "mjpeg" if len(other) == 1 else "libx264",
                         fmt="yuvj420p" if len(other) == 1 else "yuv420p")  # fmt: skip
        second = add_film(container, film)
        for stream, role in ((first, other_is), (second, film_is)):
            stream.disposition = getattr(av.stream.Disposition, role) if role else 0
        mux(container, first, other)
        mux(container, second, film)
    return read_clip(path).frames


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
@pytest.mark.parametrize("role", ["attached_pic", "timed_thumbnails", "default", ""])
def test_a_single_picture_before_the_film_is_never_the_film(tmp_path, name, role):
    cover = np.full((96, 96, 3), 250, np.uint8)
    frames = film_beside(tmp_path / name, [cover], other_is=role)
    assert frames.shape == (8, 48, 64, 3)
    assert np.abs(frames[7].astype(int) - ball(7)).mean() < 4


def test_of_several_films_the_default_one_is_taken(tmp_path):
    other = [np.full((64, 96, 3), 20 * t, np.uint8) for t in range(12)]
    frames = film_beside(tmp_path / "a.mkv", other, other_is="", film_is="default")
    assert frames.shape == (8, 48, 64, 3)


def test_of_several_films_without_a_default_the_longest_is_taken(tmp_path):
    other = [np.full((64, 96, 3), 20 * t, np.uint8) for t in range(3)]
    assert film_beside(tmp_path / "a.mkv", other, other_is="").shape == (8, 48, 64, 3)


def test_of_equally_long_films_the_largest_is_taken(tmp_path):
    other = [np.full((24, 32, 3), 20 * t, np.uint8) for t in range(8)]
    assert film_beside(tmp_path / "a.mkv", other, other_is="").shape == (8, 48, 64, 3)


def test_sound_that_goes_on_after_the_film_is_no_length_of_it():
    assert len(read_clip(FIXTURES / "audio_longer.mp4", limits=Limits(clip_seconds=3)).frames) == 17


# time -------------------------------------------------------------------------------------------

HELD = [100, 100, 2000, 100, 3000]  # ms


def moving_picture(path: Path, durations: list[int]) -> Path:
    first, *rest = [Image.fromarray(np.full((32, 48, 3), 20 + 40 * t, np.uint8)) for t in range(5)]
    first.save(path, save_all=True, append_images=rest, duration=durations, lossless=True)
    return path


def levels(frames: np.ndarray) -> list[int]:
    return [round((level - 20) / 40) for level in frames.mean(axis=(1, 2, 3))]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.apng"])
def test_a_picture_that_is_held_is_held(tmp_path, name):
    path = moving_picture(tmp_path / name, HELD)
    shown = levels(read_clip(path, fps=10).frames)
    assert shown == [0, 1, *[2] * 20, 3, *[4] * 30]
    own = read_clip(path)
    assert round(own.fps) == 10 and levels(own.frames) == shown


def test_pictures_held_in_a_film_are_held(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        frames = [np.full((32, 48, 3), 20 + 40 * t, np.uint8) for t in range(4)]
        stream = add_film(container, frames, rate=8)
        mux(container, stream, frames, step=16)  # two seconds each
    shown = levels(read_clip(tmp_path / "a.mp4", fps=4).frames)
    assert shown[:24] == [*[0] * 8, *[1] * 8, *[2] * 8]


def test_a_webp_that_does_not_move_is_a_clip_of_one_frame(tmp_path):
    Image.fromarray(ball(0)).save(tmp_path / "a.webp", lossless=True)
    assert np.array_equal(read_clip(tmp_path / "a.webp").frames[0], ball(0))


def test_a_picture_held_beyond_the_limit_is_too_long(tmp_path):
    path = moving_picture(tmp_path / "a.gif", [100, 100, 100, 100, 30_000])
    with pytest.raises(MediaError, match=r"30\.4 s long"):
        read_clip(path)


def test_many_frames_a_second_are_thinned_by_time():
    whole = read_clip(FIXTURES / "slowmo240.mp4")
    assert (len(whole.frames), whole.fps) == (17, 240)
    assert len(read_clip(FIXTURES / "slowmo240.mp4", fps=60).frames) == 5


# what is shown ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["alpha.gif", "alpha_png.mov", "alpha_prores.mov", "alpha_vp9.webm"]
)
def test_what_is_transparent_in_a_clip_is_white_as_in_a_picture(name):
    frames = read_clip(FIXTURES / name).frames.astype(int)
    picture = read_image(FIXTURES / "alpha_first.png").astype(int)
    assert frames.shape == (17, 96, 160, 3)
    assert np.quantile(np.abs(frames[0] - picture), 0.98) < 24  # all but the soft edge
    assert (frames[8, 5:20] > 250).all()


def test_half_transparent_colours_are_mixed_with_white(tmp_path):
    frame = np.zeros((32, 48, 4), np.uint8)
    frame[..., 0], frame[..., 3] = 200, 128
    pictures = [Image.fromarray(frame), Image.fromarray(frame[::-1, :, [1, 0, 2, 3]])]
    pictures[0].save(
        tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=100, lossless=True
    )
    shown = read_clip(tmp_path / "a.webp").frames[0, 5, 5].astype(int)
    assert np.abs(shown - [227, 127, 127]).max() <= 2


def combs(frames: np.ndarray) -> float:
    """How much more a row differs from the next one than from the next but one."""
    grey = frames.astype(float).mean(axis=-1)
    near = np.abs(grey[:, 1:-1] - grey[:, 2:]).mean()
    far = np.abs(grey[:, :-2] - grey[:, 2:]).mean()
    return near / max(far, 1e-6)


def test_interlaced_frames_have_no_combs():
    with av.open(str(FIXTURES / "interlaced.mp4")) as container:
        stored = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    clip = read_clip(FIXTURES / "interlaced.mp4")
    assert clip.frames.shape == stored.shape and clip.fps == 25
    moving = slice(2, None)
    assert combs(clip.frames[moving]) < 0.75 < combs(stored[moving])


def test_a_film_that_is_not_interlaced_stays_as_it_is(tmp_path):
    frames = [ball(t) for t in range(6)]
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = add_film(container, frames, "ffv1", fmt="bgr0")
        mux(container, stream, frames)
    assert np.array_equal(read_clip(tmp_path / "a.mkv").frames, np.stack(frames))


def test_a_film_that_changes_its_shape_midway_is_not_squashed(tmp_path):
    parts = []
    for name, size in (("a", (48, 64)), ("b", (64, 48))):
        path = tmp_path / f"{name}.ts"
        with av.open(str(path), "w", format="mpegts") as container:
            frames = [np.full((*size, 3), 200, np.uint8)] * 8
            stream = add_film(container, frames, rate=25)
            mux(container, stream, frames, rate=25)
        parts.append(path.read_bytes())
    (tmp_path / "whole.ts").write_bytes(b"".join(parts))
    last = read_clip(tmp_path / "whole.ts").frames[-1]
    assert last.shape == (48, 64, 3)
    bright = (last[24] > 150).any(axis=-1)
    assert bright.sum() == 36 and not bright[:10].any()  # 48:64 within 64×48, black bars beside


# every kind of file -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.m4v", "clip.ts", "phone.3gp", "xvid.avi"])
def test_clips_of_telephones_cameras_and_old_programs_come_in(name):
    clip = read_clip(FIXTURES / name, fps=8)
    assert clip.frames.shape == (17, 96, 160, 3)
    red = clip.frames[..., 0].astype(int) - clip.frames[..., 1]
    places = [np.argwhere(frame > 100)[:, 1].mean() for frame in red]
    assert (np.diff(places) > 3).all()  # it moves to the right all the time


def test_a_disc_film_comes_in(tmp_path):
    with av.open(str(tmp_path / "a.mpg"), "w", format="mpeg") as container:
        frames = [ball(t) for t in range(10)]
        stream = container.add_stream("mpeg2video", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert read_clip(tmp_path / "a.mpg").frames.shape == (10, 48, 64, 3)


def test_a_quicktime_film_without_a_file_type_comes_in(tmp_path):
    content = (FIXTURES / "alpha_png.mov").read_bytes()
    length = int.from_bytes(content[:4])
    assert content[4:8] == b"ftyp"
    old = struct.pack(">I4s", length, b"wide") + bytes(length - 8)  # the offsets stay true
    (tmp_path / "a.mov").write_bytes(old + content[length:])
    assert len(read_clip(tmp_path / "a.mov").frames) == 17


def test_a_picture_saved_as_jfif_comes_in():
    assert read_image(FIXTURES / "photo.jfif").shape == (96, 160, 3)


# pictures of other numbers ----------------------------------------------------------------------

RAMP = np.tile(np.linspace(0, 1, 96), (32, 1))


def as_file(image: Image.Image, kind: str = "TIFF", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (RAMP.astype(np.float32), 1),
        ((255 * RAMP).astype(np.float32), 255),
        ((4000 * RAMP).astype(np.float32), 4000),
        ((70000 * RAMP).astype(np.int32), 70000),
        ((256 * RAMP).astype(np.uint16), 256),
        ((4095 * RAMP).astype(np.uint16), 4095),
    ],
)
def test_a_picture_of_other_numbers_is_scaled_and_that_is_said(values, white):
    picture = read_picture(as_file(Image.fromarray(values)))
    expected = np.rint(255 * RAMP)
    assert np.abs(picture.pixels - expected[..., None]).max() <= 1
    (note,) = picture.notes
    assert note.key == "range" and (note.values["black"], note.values["white"]) == (0, white)
    assert f"{white:g} as white" in str(note)


def test_negative_numbers_are_black_and_what_is_not_finite_too():
    values = (RAMP - 0.5).astype(np.float32)
    values[0, 0] = np.nan
    picture = read_picture(as_file(Image.fromarray(values)))
    assert picture.pixels[5, 0, 0] == 0 and picture.pixels[5, -1, 0] == 255
    assert picture.notes[0].values["black"] == -0.5


def test_ordinary_numbers_are_not_talked_about():
    for values in (np.full((4, 4), 0x8000, np.uint16), np.full((4, 4), 200, np.uint16)):
        assert read_picture(as_file(Image.fromarray(values))).notes == ()
    assert read_picture(as_file(Image.fromarray(ball(0)))).notes == ()


def deep_png(values: np.ndarray) -> bytes:
    """(H, W, 3 or 4) uint16 as a PNG."""
    height, width, channels = values.shape

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    packed = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + packed


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_in_a_small_part_of_sixteen_bits_are_scaled(channels):
    values = np.full((32, 96, channels), 65535, np.uint16)
    values[..., :3] = 0
    values[..., 0] = np.rint(256 * RAMP)
    picture = read_picture(deep_png(values))
    assert np.abs(picture.pixels[..., 0] - np.rint(255 * RAMP)).max() <= 1
    assert (picture.pixels[..., 1:] == 0).all()
    assert picture.notes[0].values["white"] == 256
    whole = read_picture(deep_png(values * 255))
    assert whole.notes == () and np.abs(whole.pixels[..., 0] - 255 * RAMP).max() <= 2


def test_a_mask_of_zeros_and_ones_in_floating_point_is_a_mask():
    mask = np.zeros((8, 8), bool)
    mask[2:5, 1:7] = True
    assert np.array_equal(read_mask(as_file(Image.fromarray(mask.astype(np.float32)))), mask)


def test_an_upright_photo_of_other_numbers_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    values = (RAMP * 4000).astype(np.uint16)
    turned = read_image(as_file(Image.fromarray(values), "PNG", exif=exif))
    assert turned.shape == (96, 32, 3) and turned[0, 0, 0] == 0 and turned[-1, 0, 0] == 255


# large texts and profiles -----------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("kind", ["text", "international"])
def test_a_picture_with_a_large_text_is_a_picture(kind, compressed):
    info = PngImagePlugin.PngInfo()
    text = "workflow " * 200_000
    if kind == "text":
        info.add_text("prompt", text, zip=compressed)
    else:
        info.add_itxt("prompt", text, zip=compressed)
    assert np.array_equal(
        read_image(as_file(Image.fromarray(ball(0)), "PNG", pnginfo=info)), ball(0)
    )


def test_a_picture_of_a_workflow_is_a_picture():
    assert read_image(FIXTURES / "workflow_ztxt.png").shape == (96, 160, 3)


def test_many_small_texts_are_no_more_than_one_large_one():
    info = PngImagePlugin.PngInfo()
    for number in range(100):
        info.add_text(f"layer {number}", "x" * 1_000_000, zip=True)
    assert np.array_equal(
        read_image(as_file(Image.fromarray(ball(0)), "PNG", pnginfo=info)), ball(0)
    )


def test_a_large_profile_is_used_and_one_that_is_too_large_left_out_and_said():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    large = as_file(Image.fromarray(ball(0)), "PNG", icc_profile=srgb + bytes(3 * 2**20))
    assert np.abs(read_image(large).astype(int) - ball(0)).max() <= 1
    huge = read_picture(
        as_file(Image.fromarray(ball(0)), "PNG", icc_profile=srgb + bytes(9 * 2**20))
    )
    assert np.array_equal(huge.pixels, ball(0))
    assert [note.key for note in huge.notes] == ["profile"]


# one list of endings ----------------------------------------------------------------------------


def test_every_ending_is_offered_wherever_files_come_in():
    from motion_app.study import sources
    from motion_app.ui.api import jobs as api_jobs
    from motion_app.ui.markup import Texts
    from motion_app.ui.transfer import picture as picture_panel
    from motion_app.ui.uploads import KINDS, upload_box

    offered = {".jfif", ".png", ".jpg", ".jpeg", ".webp", ".heic", ".avif", ".gif", ".tiff"}
    assert offered <= set(PICTURE_FILES)
    assert {".mp4", ".m4v", ".mov", ".3gp", ".ts", ".avi", ".mkv", ".webm"} <= set(CLIP_FILES)
    for kind in ("clip", "beside"):
        assert set(CLIP_CHOICES) <= set(KINDS[kind]) == set(upload_box(kind, "files").file_types)
    assert list(CLIP_CHOICES) == list(KINDS["clip"])
    assert set(sources.VIDEOS) == set(CLIP_FILES)
    assert set(sources.PICTURES).isdisjoint(sources.VIDEOS)
    assert f'data-endings="{" ".join(PICTURE_FILES)}"' in picture_panel.sources_html(Texts("en"))
    assert [api_jobs._suffix({"path": f"a{ending}"}) for ending in CLIP_CHOICES] == list(
        CLIP_CHOICES
    )


def test_no_other_module_has_a_list_of_its_own():
    package = Path(__file__).parents[2] / "motion_app"
    several = re.compile(r'"\.(?:mp4|webm|jpg|png)",\s*"\.\w+"')
    found = [str(file.relative_to(package)) for file in package.rglob("*.py")
             if several.search(file.read_text(encoding="utf-8"))]  # fmt: skip
    assert set(found) <= {"media/file_types.py"}


def test_a_method_whose_video_is_not_read_is_told_of_it(tmp_path):
    (tmp_path / "case-1.wmv").write_bytes(b"x")
    (tmp_path / "case-2.MOV").write_bytes(b"x")
    (tmp_path / "case-3.json").write_text("{}")
    method = ExternalMethod("theirs", tmp_path)
    with pytest.raises(RequestError, match=r"case-1\.wmv is no clip this app reads; use MP4"):
        method.find("case-1")
    assert method.find("case-2") == tmp_path / "case-2.MOV"
    assert method.find("case-3") is None and method.find("case") is None


def test_a_clip_of_a_kind_that_is_not_read_is_refused_by_name(tmp_path):
    (tmp_path / "a.wmv").write_bytes(bytes.fromhex("3026b2758e66cf11") + bytes(900))
    with pytest.raises(MediaError, match=r"a\.wmv is no clip this app reads; use MP4, MOV, WebM"):
        read_clip(tmp_path / "a.wmv")


# what is said -----------------------------------------------------------------------------------


def test_the_command_line_says_what_was_done_to_a_picture(tmp_path):
    Image.fromarray((256 * RAMP).astype(np.uint16)).save(tmp_path / "dark.png")
    told = subprocess.run(
        [sys.executable, "-c", "from motion_app.__main__ import set_logging\n"
         "from motion_app.media.files import read_image\n"
         "set_logging(verbose=False)\n"
         f"read_image({str(tmp_path / 'dark.png')!r})"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert "dark.png: its values are no ordinary 8 or 16 bits" in told.stderr


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_says_what_was_done_to_a_picture(language):
    from motion_app.ui.markup import Texts
    from motion_app.ui.transfer.draft import SceneDraft
    from motion_app.ui.transfer.picture import fit_html

    sizes = Checkpoint.read(Path(__file__).parents[2] / "checkpoints" / "pocket").geometry
    picture = read_picture(as_file(Image.fromarray((256 * RAMP).astype(np.uint16))))
    draft = SceneDraft.of(picture.pixels, "crop", sizes)
    plain = fit_html(draft, "crop", sizes, Texts(language), hours=72)
    told = fit_html(replace(draft, notes=picture.notes), "crop", sizes, Texts(language), hours=72)
    assert "warning" not in plain and told.count('class="note warning"') == 1
    assert "256" in told


def test_the_mask_of_a_reference_is_of_its_clips_shape(tmp_path):
    from motion_app.evaluation.videos import _clip

    mask = np.zeros((192, 320), np.uint8)
    mask[60:120, 10:60] = 255
    Image.fromarray(mask).save(tmp_path / "same.png")
    Image.fromarray(mask[:, :192]).save(tmp_path / "square.png")
    clip = FIXTURES / "clip.m4v"
    found, _ = _clip(clip, tmp_path / "same.png", None, "", Limits(), None, [])
    assert found.mask.shape == (96, 160)
    found, problem = _clip(clip, tmp_path / "square.png", None, "", Limits(), None, [])
    assert found is None and "192×192, its clip 160×96" in problem
