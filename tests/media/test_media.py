"""Pictures, masks and clips in; video out."""

import base64
import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from motion_app.errors import MediaError
from motion_app.media.decoders.frames import HLG, PQ, TimedFrame, frames_at, tone_curve
from motion_app.media.files import (
    decode_data_uri,
    encode_data_uri,
    read_clip,
    read_image,
    read_mask,
    upscale,
    write_gif,
    write_video,
)
from motion_app.settings import Limits

COLOURS = np.array([(200, 30, 40), (20, 180, 60), (30, 60, 220), (240, 240, 240)], np.uint8)


def stripes(height: int = 16, width: int = 32) -> np.ndarray:
    """Four upright stripes of different colours, (H, W, 3) uint8."""
    return np.repeat(np.repeat(COLOURS[None], width // 4, axis=1), height, axis=0)


def as_file(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def test_a_png_comes_in_as_it_is(tmp_path):
    Image.fromarray(stripes()).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), stripes())


def test_a_photo_is_turned_upright_by_its_exif_tag():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned a quarter to the right
    content = as_file(Image.fromarray(stripes()), "PNG", exif=exif)
    assert np.array_equal(read_image(content), np.rot90(stripes(), -1))


def test_heic_photos_open(tmp_path):
    pillow_heif.from_pillow(Image.fromarray(stripes(64, 64))).save(tmp_path / "a.heic", quality=95)
    image = read_image(tmp_path / "a.heic")
    assert np.abs(image.astype(int) - stripes(64, 64)).mean() < 8


def test_transparency_becomes_white():
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2, :, 3] = 255
    image = read_image(as_file(Image.fromarray(rgba), "PNG"))
    assert (image[:2] == 0).all() and (image[2:] == 255).all()


def test_a_colour_profile_is_applied():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = read_image(as_file(Image.fromarray(stripes()), "PNG", icc_profile=lab))
    assert np.abs(same.astype(int) - stripes()).max() <= 1
    broken = read_image(as_file(Image.fromarray(stripes()), "PNG", icc_profile=b"nonsense"))
    assert np.array_equal(broken, stripes())


def test_sixteen_bit_grey_is_scaled_not_clipped():
    grey = np.full((4, 4), 0x8000, np.uint16)
    assert (read_image(as_file(Image.fromarray(grey), "PNG")) == 0x80).all()


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "CMYK"])
def test_every_kind_of_pixel_becomes_rgb(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    image = read_image(as_file(Image.fromarray(stripes()).convert(mode), kind))
    assert image.shape == (16, 32, 3) and image.dtype == np.uint8


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        as_file(Image.effect_noise((64, 64), 90), "PNG")[:900],
    ],
)
def test_what_is_no_picture_is_refused(content):
    with pytest.raises(MediaError, match="picture"):
        read_image(content)


def test_a_missing_picture_is_refused(tmp_path):
    with pytest.raises(MediaError, match=r"none\.png does not exist"):
        read_image(tmp_path / "none.png")


def huge_png(side: int) -> bytes:
    """A PNG of a few bytes whose header promises ``side`` × ``side`` pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [7000, 12000, 60000])
def test_a_huge_picture_is_refused_by_its_header(side):
    with pytest.raises(MediaError):
        read_image(huge_png(side))


def test_the_limits_name_what_came_and_what_is_allowed(tmp_path):
    Image.fromarray(stripes()).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match=r"32×16 pixels.*at most 0.0001 MP"):
        read_image(tmp_path / "a.png", limits=Limits(image_megapixels=0.0001))
    with pytest.raises(MediaError, match="at most 1e-05 MB"):
        read_image(tmp_path / "a.png", limits=Limits(image_megabytes=0.00001))


def test_arrays_pass_only_in_the_right_form():
    assert read_image(stripes()) is not None
    with pytest.raises(MediaError, match="float64"):
        read_image(np.zeros((4, 4, 3)))
    with pytest.raises(MediaError, match="mask"):
        read_mask(np.zeros((4, 4), np.uint8))


# masks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "RGBA", "P"])
def test_white_is_the_object_in_every_kind_of_mask(mode):
    mask = np.zeros((8, 8), bool)
    mask[2:5, 1:7] = True
    drawn = Image.fromarray(mask.astype(np.uint8) * 255).convert(mode)
    assert np.array_equal(read_mask(as_file(drawn, "PNG")), mask)


def test_transparent_parts_of_a_mask_are_not_the_object():
    rgba = np.full((4, 4, 4), 255, np.uint8)
    rgba[2:, :, 3] = 0
    mask = read_mask(as_file(Image.fromarray(rgba), "PNG"))
    assert mask[:2].all() and not mask[2:].any()


def test_a_mask_of_ones_instead_of_255_is_refused_rather_than_read_as_empty():
    with pytest.raises(MediaError, match="brighter than 1 of 255"):
        read_mask(as_file(Image.fromarray(np.ones((4, 4), np.uint8)), "PNG"))


def test_an_unreadable_mask_is_refused():
    with pytest.raises(MediaError):
        read_mask(b"no mask")


def test_pictures_travel_inside_json_unchanged():
    assert np.array_equal(read_image(decode_data_uri(encode_data_uri(stripes()))), stripes())
    mask = stripes()[..., 0] > 100
    assert np.array_equal(read_mask(decode_data_uri(encode_data_uri(mask))), mask)


@pytest.mark.parametrize(
    "text", ["data:text/html,x", "data:image/png;base64", "data:image/png;base64,§", "file:///etc"]
)
def test_other_addresses_are_refused(text):
    with pytest.raises(MediaError, match="data"):
        decode_data_uri(text)


def test_a_data_address_with_a_broken_picture_is_refused():
    text = "data:image/png;base64," + base64.b64encode(b"x" * 40).decode()
    with pytest.raises(MediaError, match="picture"):
        read_image(decode_data_uri(text))


# video ------------------------------------------------------------------------------------------


def moving(count: int = 9, height: int = 32, width: int = 48) -> np.ndarray:
    return np.stack([np.roll(stripes(height, width), 2 * t, axis=1) for t in range(count)])


def test_a_video_is_what_browsers_play(tmp_path):
    path = tmp_path / "new" / "a.mp4"
    write_video(path, moving(), 8, size=(96, 64), comment="a walk")
    content = path.read_bytes()
    assert content.find(b"moov") < content.find(b"mdat")  # plays while it loads
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        encoder = stream.codec_context
        assert (encoder.name, encoder.pix_fmt, encoder.width, encoder.height) == (
            *("h264", "yuv420p"),
            *(96, 64),
        )
        assert (stream.average_rate, stream.frames) == (8, 9)
        tags = (encoder.color_primaries, encoder.color_trc, encoder.colorspace, encoder.color_range)
        assert tags == (1, 1, 1, 1)  # BT.709, limited range
        assert container.metadata["comment"] == "a walk"


def test_what_was_not_generated_does_not_say_that_it_was(tmp_path):
    write_video(tmp_path / "a.mp4", moving(), 8)
    assert b"AI-generated" not in (tmp_path / "a.mp4").read_bytes()


def test_colours_survive_the_way_through_a_video(tmp_path):
    write_video(tmp_path / "a.mp4", np.stack([stripes(64, 128)] * 5), 8)
    clip = read_clip(tmp_path / "a.mp4")
    assert (clip.frames.shape, clip.fps) == ((5, 64, 128, 3), 8)
    middles = clip.frames[2, 32, 16::32].astype(int)
    assert np.abs(middles - COLOURS).max() <= 6


def test_an_odd_size_is_refused(tmp_path):
    with pytest.raises(MediaError, match="47×32"):
        write_video(tmp_path / "a.mp4", moving()[:, :, :47], 8)


def test_a_gif_loops_in_its_own_colours(tmp_path):
    write_gif(tmp_path / "a.gif", moving(), 8)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.info["loop"], gif.size) == (9, 0, (48, 32))
        assert np.abs(np.asarray(gif.convert("RGB"), int) - moving()[0]).mean() < 4
    assert read_clip(tmp_path / "a.gif").frames.shape == (9, 32, 48, 3)


def test_upscaling_keeps_flat_colours_and_reaches_the_size():
    large = upscale(moving(2), 96, 64)
    assert large.shape == (2, 64, 96, 3)
    assert np.array_equal(upscale(moving(2), 48, 32), moving(2))
    assert np.array_equal(large[0, 32, 12::24], COLOURS)


# clips ------------------------------------------------------------------------------------------


def write_plain(path: Path, frames: np.ndarray, times: list[int], base: Fraction, **stream) -> None:
    """A lossless MP4 with the given frame times, and any other attribute of the stream."""
    with av.open(str(path), "w") as container:
        out = container.add_stream("libx264", rate=24, options={"qp": "0"})
        out.height, out.width = frames.shape[1:3]
        out.pix_fmt = "yuv420p"
        out.codec_context.time_base = base
        for name, value in stream.items():
            setattr(out, name, value)
        for time, frame in zip(times, frames, strict=True):
            image = av.VideoFrame.from_ndarray(frame, format="rgb24")
            image.pts, image.time_base = time, base
            container.mux(out.encode(image))
        container.mux(out.encode())


def grey_levels(frames: np.ndarray) -> list[int]:
    return [round(level / 10) for level in frames.mean(axis=(1, 2, 3))]


def flat(levels: range) -> np.ndarray:
    return np.stack([np.full((16, 16, 3), 10 * level, np.uint8) for level in levels])


def test_a_clip_of_24_frames_a_second_is_thinned_to_8_by_time(tmp_path):
    write_plain(tmp_path / "a.mp4", flat(range(24)), list(range(24)), Fraction(1, 24))
    clip = read_clip(tmp_path / "a.mp4", fps=8)
    assert (grey_levels(clip.frames), clip.fps) == ([0, 3, 6, 9, 12, 15, 18, 21], 8)


def test_a_clip_of_changing_speed_is_read_by_its_times_not_its_count():
    times = [0.0, 0.1, 0.2, 1.0, 1.1]
    timed = [
        TimedFrame(time, time + 0.1, frame) for time, frame in zip(times, "abcde", strict=True)
    ]
    shown = "".join(frame * count for frame, count in frames_at(timed, 4, 0.1))
    assert shown == "acccd"  # at 0, .25, .5, .75 and 1 second: c is shown until d comes


def test_slow_clips_repeat_frames_and_keep_their_length():
    taken = list(frames_at([TimedFrame(0.0, 0.5, "a"), TimedFrame(0.5, 1.0, "b")], 8, 0.5))
    assert [count for _, count in taken] == [4, 4]
    assert list(frames_at([TimedFrame(0.0, 0.001, "a")], 8, 0.001)) == [("a", 1)]


def test_large_frames_are_scaled_down_and_keep_their_shape(tmp_path):
    write_plain(tmp_path / "a.mp4", moving(3, 64, 96), [0, 1, 2], Fraction(1, 24))
    assert read_clip(tmp_path / "a.mp4", short_side=32).frames.shape == (3, 32, 48, 3)


def test_pixels_that_are_not_square_are_made_square(tmp_path):
    frames = moving(3, 32, 48)
    write_plain(
        tmp_path / "a.mp4", frames, [0, 1, 2], Fraction(1, 24), sample_aspect_ratio=Fraction(2, 1)
    )
    assert read_clip(tmp_path / "a.mp4").frames.shape == (3, 32, 96, 3)


def display(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Give an MP4 a display matrix: x' = a x + c y, y' = b x + d y, with y downward."""
    content = bytearray(path.read_bytes())
    place = content.find(b"tkhd") + 4 + 40  # version 0: the matrix comes after 40 bytes
    one = 1 << 16
    matrix = (a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    content[place : place + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda f: f),
        ((0, 1, -1, 0), lambda f: np.rot90(f, -1)),  # a telephone held upright
        ((-1, 0, 0, -1), lambda f: np.rot90(f, 2)),
        ((0, -1, 1, 0), lambda f: np.rot90(f)),
        ((-1, 0, 0, 1), lambda f: f[:, ::-1]),  # a front camera
        ((1, 0, 0, -1), lambda f: f[::-1]),
        ((0, 1, 1, 0), lambda f: f.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda f: np.rot90(f, 2).transpose(1, 0, 2)),
    ],
)
def test_a_clip_is_turned_and_mirrored_as_it_is_shown(tmp_path, matrix, shown):
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:16, :24], frame[:16, 24:], frame[16:, :24] = 80, 160, 240  # each corner is another
    write_plain(tmp_path / "a.mp4", np.stack([frame] * 3), [0, 1, 2], Fraction(1, 24))
    display(tmp_path / "a.mp4", *matrix)
    upright = read_clip(tmp_path / "a.mp4").frames[1].astype(int)
    assert upright.shape == shown(frame).shape
    assert np.abs(upright - shown(frame)).mean() < 3


def encoded(path: Path, frames: np.ndarray, codec: str, fmt: str, **stream) -> Path:
    """``frames`` through any codec, at 24 frames a second; other attributes for its context."""
    with av.open(str(path), "w") as container:
        out = container.add_stream(codec, rate=24, options={"crf": "6", "qp": "6"})
        out.height, out.width = frames.shape[1:3]
        out.pix_fmt = fmt
        for name, value in stream.items():
            setattr(out.codec_context, name, value)
        for frame in frames:
            container.mux(out.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(out.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec", "fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mp4", "libx264", "yuv420p10le"),
        ("a.mp4", "libx265", "yuv420p"),
        ("a.mov", "libx265", "yuv420p10le"),
        ("a.mkv", "libx264", "yuv444p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.mp4", "libsvtav1", "yuv420p10le"),
        ("a.mov", "prores_ks", "yuv422p10le"),
    ],
)
def test_what_cameras_and_browsers_record_comes_in(tmp_path, name, codec, fmt):
    path = encoded(tmp_path / name, np.stack([stripes(64, 128)] * 6), codec, fmt)
    clip = read_clip(path)
    assert (clip.frames.shape, clip.fps) == ((6, 64, 128, 3), 24)
    middles = clip.frames[3, 32, 16::32].astype(int)
    assert np.abs(middles - COLOURS).max() <= 14


def test_a_clip_with_odd_sides_comes_in_whole(tmp_path):
    frames = np.repeat(moving(4, 33, 48)[:, :, :47], 1, axis=0)
    path = encoded(tmp_path / "a.mp4", frames, "libx264", "yuv444p")
    assert read_clip(path).frames.shape == (4, 33, 47, 3)


def test_frames_of_changing_length_keep_their_times(tmp_path):
    times = [0, 2, 4, 20, 22]  # twelfths of a second
    write_plain(tmp_path / "a.mkv", flat(range(5)), times, Fraction(1, 12))
    own = read_clip(tmp_path / "a.mkv")
    assert round(own.fps) == 6
    assert grey_levels(own.frames) == [0, 1, *[2] * 8, 3, 4]
    assert grey_levels(read_clip(tmp_path / "a.mkv", fps=3).frames) == [0, 2, 2, 2, 2, 3]


def test_frames_an_edit_list_hides_stay_hidden(tmp_path):
    write_plain(tmp_path / "whole.mp4", flat(range(12)), list(range(12)), Fraction(1, 24))
    with (
        av.open(str(tmp_path / "whole.mp4")) as whole,
        av.open(str(tmp_path / "cut.mp4"), "w", options={"avoid_negative_ts": "disabled"}) as cut,
    ):
        stream = cut.add_stream_from_template(whole.streams.video[0])
        skipped = round(Fraction(4, 24) / whole.streams.video[0].time_base)
        for packet in whole.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - skipped, packet.dts - skipped
                packet.stream = stream
                cut.mux(packet)
    assert grey_levels(read_clip(tmp_path / "cut.mp4").frames) == list(range(4, 12))


def test_a_recording_without_a_length_in_its_header_comes_in(tmp_path):
    with av.open(
        str(tmp_path / "a.webm"), "w", format="webm", container_options={"live": "1"}
    ) as container:
        out = container.add_stream("libvpx-vp9", rate=24)
        out.height, out.width = 32, 48
        out.pix_fmt = "yuv420p"
        for frame in moving(10):
            container.mux(out.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(out.encode())
    with av.open(str(tmp_path / "a.webm")) as container:
        assert container.duration is None and container.streams.video[0].frames == 0
    assert read_clip(tmp_path / "a.webm").frames.shape == (10, 32, 48, 3)


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_a_clip_with_a_high_dynamic_range_keeps_its_order_and_its_white(tmp_path, transfer):
    codes = {PQ: (0, 80, 148, 200), HLG: (0, 80, 191, 240)}[transfer]  # the third: 203 cd/m²
    grey = np.repeat(np.array(codes, np.uint8), 16)[None, :, None]
    frames = np.broadcast_to(grey, (3, 64, 64, 3)).copy()
    path = encoded(
        tmp_path / "a.mp4",
        frames,
        "libx265",
        "yuv420p10le",
        color_trc=transfer,
        color_primaries=9,
        colorspace=9,
    )
    shown = read_clip(path).frames[1, 32, 8::16].astype(int)
    assert (np.ptp(shown, axis=1) <= 8).all()  # grey stays grey
    levels = shown.mean(axis=1)
    assert levels[0] < 6 and (np.diff(levels) > 10).all()
    assert 225 < levels[2] < 250 < levels[3] + 8


def test_a_curve_of_ordinary_range_changes_nothing():
    assert tone_curve(1) is None and tone_curve(2) is None


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"clip_frames": 5}, "at most 5"),
        ({"clip_seconds": 0.1}, "0.1 s are allowed"),
        ({"clip_width": 40}, "at most 40×"),
        ({"clip_megabytes": 0.0001}, "MB are allowed"),
    ],
)
def test_a_clip_over_the_limits_is_refused(tmp_path, limits, complaint):
    write_plain(tmp_path / "a.mp4", moving(24), list(range(24)), Fraction(1, 24))
    with pytest.raises(MediaError, match=complaint):
        read_clip(tmp_path / "a.mp4", limits=Limits(**limits))


@pytest.mark.parametrize(
    "content",
    [b"", b"#EXTM3U\n#EXTINF:1,\nhttp://example.com/a.ts\n", b"\x00\x00\x00\x18ftypmp42" * 3],
)
def test_what_is_no_clip_is_refused(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(MediaError, match=r"a\.mp4"):
        read_clip(tmp_path / "a.mp4")


def test_a_missing_clip_is_refused(tmp_path):
    with pytest.raises(MediaError, match=r"none\.mp4 cannot be read"):
        read_clip(tmp_path / "none.mp4")


def test_a_picture_of_a_billion_pixels_is_too_large_not_broken(tmp_path: Path) -> None:
    png = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(90_001)))):
        checksum = zlib.crc32(kind + content)
        png += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    path = tmp_path / "bomb.png"
    path.write_bytes(png)
    with pytest.raises(MediaError, match="too large"):
        read_image(path)
