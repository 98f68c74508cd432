"""The invisible mark outlives encoders, is found nowhere else, and is not seen; the badge is."""

import io
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from motion_app.media.files import read_clip, upscale
from motion_app.media.watermark import PAYLOAD_BITS, detect, draw_badge, embed, payload_of
from motion_app.media.watermark import _codewords as codewords

MOTIONS = Path(__file__).resolve().parents[2] / "checkpoints" / "pocket" / "motions"
CARTOONS = ("circle", "jump", "sway", "walk-left")
PAYLOAD = 1234


@cache
def cartoon(name: str) -> np.ndarray:
    """A clip of the pocket at the model's 96×64 pixels, enlarged to 576×384 as results are."""
    frames = read_clip(MOTIONS / f"{name}.mp4").frames
    small = np.stack([cv2.resize(f, (96, 64), interpolation=cv2.INTER_AREA) for f in frames])
    return upscale(small, 576, 384)


@cache
def texture(seed: int, *, frames: int = 17, blur: float = 2.0) -> np.ndarray:
    """A coloured texture that scrolls, (frames, 480, 720, 3) uint8."""
    noise = np.random.default_rng(seed).normal(size=(560, 800, 3)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), blur)
    noise = np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)
    return np.stack([noise[2 * t : 2 * t + 480, 3 * t : 3 * t + 720] for t in range(frames)])


def through_x264(frames: np.ndarray, crf: int) -> np.ndarray:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": str(crf)})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(np.float32) - b) ** 2))


@pytest.mark.parametrize("crf", [18, 23, 28])
@pytest.mark.parametrize("name", CARTOONS)
def test_the_mark_on_a_smooth_cartoon_outlives_the_encoder(name, crf):
    found = detect(through_x264(embed(cartoon(name), PAYLOAD), crf))
    assert found.detected and found.z > 6
    assert found.payload == PAYLOAD


@pytest.mark.parametrize("crf", [18, 23, 28])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_mark_on_a_moving_texture_outlives_the_encoder(seed, crf):
    found = detect(through_x264(embed(texture(seed), PAYLOAD), crf))
    assert found.z > 6
    assert crf > 23 or found.payload == PAYLOAD


@pytest.mark.parametrize("count", [1, 8])
def test_a_few_frames_are_enough(count):
    found = detect(through_x264(embed(cartoon("jump")[:count], PAYLOAD), 28))
    assert found.z > 6 and found.payload == PAYLOAD


def test_the_mark_outlives_scaling():
    marked = through_x264(embed(cartoon("circle"), PAYLOAD), 23)
    for width, height in ((480, 320), (1152, 768)):
        found = detect(upscale(marked, width, height))
        assert found.z > 6 and found.payload == PAYLOAD


@pytest.mark.parametrize("level", [0, 128, 255])
def test_flat_grey_black_and_white_hold_the_mark(level):
    flat = np.full((4, 480, 720, 3), level, np.uint8)
    found = detect(through_x264(embed(flat, PAYLOAD), 28))
    assert found.z > 6 and found.payload == PAYLOAD


def test_a_small_frame_holds_the_mark_through_a_good_encoder():
    small = np.stack([cv2.resize(f, (192, 128)) for f in cartoon("jump")])
    assert detect(through_x264(embed(small, PAYLOAD), 18)).payload == PAYLOAD


def test_the_mark_is_hardly_a_change():
    for frames in (*(cartoon(name) for name in CARTOONS), texture(1), texture(3, blur=1.0)):
        assert psnr(embed(frames, PAYLOAD), frames) >= 38


def test_the_mark_leaves_the_colours_alone():
    frames = cartoon("circle")[:1]
    change = embed(frames, PAYLOAD).astype(int) - frames
    inside = (frames > 12).all(axis=-1) & (frames < 243).all(axis=-1)  # nothing is cut off there
    assert (np.ptp(change, axis=-1)[inside] == 0).all() and change.any()


def test_nothing_is_found_where_nothing_was_put():
    clips = [read_clip(path).frames for path in sorted(MOTIONS.glob("*.mp4"))]
    clips += [texture(seed, frames=2, blur=blur) for seed in range(8) for blur in (1.0, 3.0, 9.0)]
    clips += [through_x264(clip, 28) for clip in clips[:6]]
    clips += [np.full((2, 480, 720, 3), level, np.uint8) for level in (0, 77, 255)]
    found = [detect(clip) for clip in clips]
    assert max(abs(detection.z) for detection in found) < 4
    assert all(not item.detected and item.payload is None for item in found)


def test_the_evidence_without_a_mark_is_standard_normal():
    z = [detect(texture(100 + seed, frames=1, blur=4.0)).z for seed in range(60)]
    assert abs(np.mean(z)) < 0.5 and 0.7 < np.std(z) < 1.3


@pytest.mark.parametrize("payload", [0, 1, 1023, 2047])
def test_every_payload_comes_back(payload):
    assert detect(embed(cartoon("jump")[:1], payload)).payload == payload


@pytest.mark.parametrize("payload", [-1, 2048])
def test_a_payload_of_too_many_bits_is_refused(payload):
    with pytest.raises(ValueError, match=str(payload)):
        embed(cartoon("jump")[:1], payload)


def test_one_wrong_bit_of_the_code_is_put_right():
    words = codewords()
    assert words.shape == (2**PAYLOAD_BITS, 16)
    distances = (16 - words @ words.T) / 2
    np.fill_diagonal(distances, 16)
    assert distances.min() == 4
    for payload in (0, 77, 2047):
        for bit in range(16):
            received = words[payload].copy()
            received[bit] *= -1
            assert int(np.argmax(words @ received)) == payload


def test_a_payload_stands_for_its_content():
    assert payload_of(b"a") == payload_of(b"a") != payload_of(b"b")
    assert all(0 <= payload_of(bytes([n])) < 2**PAYLOAD_BITS for n in range(50))


# the badge --------------------------------------------------------------------------------------


def test_the_badge_is_in_the_corner_of_every_frame_and_nowhere_else():
    frames = cartoon("circle")
    badged = draw_badge(frames)
    changed = (badged != frames).any(axis=-1)
    assert changed[:, 336:, 440:].any(axis=(1, 2)).all()
    changed[:, 336:, 440:] = False
    assert not changed.any()


@pytest.mark.parametrize("level", [0, 255])
def test_the_badge_can_be_read_on_black_and_on_white(level):
    corner = draw_badge(np.full((1, 384, 576, 3), level, np.uint8))[0, 340:, 440:]
    assert corner.max() > 240  # the letters
    assert np.quantile(corner, 0.3) < 100  # the ground they stand on


@pytest.mark.parametrize(("width", "height"), [(48, 32), (8, 8), (720, 480), (480, 720)])
def test_the_badge_fits_into_every_frame(width, height):
    frames = np.full((2, height, width, 3), 200, np.uint8)
    badged = draw_badge(frames)
    assert badged.shape == frames.shape and (badged != frames).any()


def test_the_mark_is_found_under_the_badge():
    assert detect(through_x264(embed(draw_badge(cartoon("jump")), 5), 28)).payload == 5
