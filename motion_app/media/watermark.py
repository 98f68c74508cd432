"""The marks that say a video was generated: an invisible one in every frame, a visible badge.

The invisible mark is a spread-spectrum one. Each of 32 bits owns a keyed field of ±1 on a grid of
90×60 cells laid over the frame; the fields' sum, signed by the bits, is added to the brightness,
more of it where the picture is busy, the same in every frame. Sixteen bits are fixed and say that
the mark is there; the other sixteen hold 11 bits of payload in the (16, 11) extended Hamming code,
read as the nearest of its 2,048 words. Scaling and re-encoding leave the mark readable: measured
through libx264 at CRF 28, Z is 18 to 32 on the pocket's cartoons (46 to 48 dB PSNR) and 9 on a
coarse texture that scrolls, the hardest clip tried (41 dB); 4 to 8 ms a frame.

The key is public: this labels honest output and does not stop removal. Crops, turns and mirrors
hide the mark. Small frames hold less of it: below about 288×192 pixels it is added all the same,
but need not survive an encoder.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

GRID_WIDTH, GRID_HEIGHT = 90, 60  # cells; 8 pixels a cell at 720×480
KEY = b"motion_app watermark, first edition"
SYNC = 0xB25C  # eight ones, eight zeros
SYNC_BITS, CODE_BITS, PAYLOAD_BITS = 16, 16, 11
BITS = SYNC_BITS + CODE_BITS
STRENGTH = 2.0  # brightness levels, standard deviation of the mark at gain 1
FLAT_GAIN, BUSY_GAIN = 0.35, 1.4  # on an even surface; at most, where it is busy
FULL_TEXTURE = 12.0  # brightness levels of local deviation that add 1 to the gain
TEXTURE_WINDOW = 9  # pixels
SCENE_BLUR = 1.5  # cells; what is smoother than this belongs to the picture, not to the mark
LEVEL_BLUR = 3.0  # cells; over which the residue is brought to one level
OUTLIER = 2.5  # deviations; edges of the picture count no more than this
DETECTED = 6.0  # a false alarm in a billion if Z is normal
STRIP_FRAMES, STRIP_ROUNDS = 12, 4  # looked at, and tries, to take the mark away
STRIPPED = 0.5  # the |Z| that is as good as none
BADGE = "AI-generated"


@dataclass(frozen=True)
class Detection:
    """``z``: evidence for the mark in standard deviations, near 0 without one. ``payload``: its 11
    bits, None where no mark was detected."""

    z: float
    payload: int | None
    detected: bool


def payload_of(content: bytes) -> int:
    """The payload that stands for ``content``: the first 11 bits of its SHA-256."""
    first = int.from_bytes(hashlib.sha256(content).digest()[:2], "big")
    return first >> (16 - PAYLOAD_BITS)


def embed(frames: np.ndarray, payload: int) -> np.ndarray:
    """``frames`` (T, H, W, 3) uint8 RGB with the mark of ``payload``, 0 to 2047, added to the
    brightness; the colours stay. ValueError for a payload out of range."""
    if not 0 <= payload < 2**PAYLOAD_BITS:
        raise ValueError(f"a payload has {PAYLOAD_BITS} bits, got {payload}")
    return _with_mark(frames, payload, 1.0)


def unmarked(frames: np.ndarray) -> np.ndarray:
    """``frames`` (T, H, W, 3) uint8 RGB without the mark, as they were where none is detected: for
    clips that are compared, of which the mark would tell some apart. How much of it an encoder has
    left is found by the secant method: where Z is 0, it is gone."""
    found = detect(frames)
    if found.payload is None:
        return frames
    some = frames[:: -(-len(frames) // STRIP_FRAMES)]  # all have the same mark
    share, z, next_share = 0.0, detect(some).z, -1.0
    for _ in range(STRIP_ROUNDS):
        next_z = detect(_with_mark(some, found.payload, next_share)).z
        if abs(next_z) < STRIPPED or next_z == z:
            break
        step = (next_share - share) * next_z / (next_z - z)
        share, z, next_share = next_share, next_z, next_share - step
    return _with_mark(frames, found.payload, next_share)


def _with_mark(frames: np.ndarray, payload: int, share: float) -> np.ndarray:
    """``frames`` with that share of the mark added; taken away where it is negative."""
    signs = np.concatenate([_signs(SYNC, SYNC_BITS), _codewords()[payload]])
    mark = np.tensordot(signs, _fields(), 1)  # (h, w)
    height, width = frames.shape[1:3]
    mark = cv2.resize(mark, (width, height), interpolation=cv2.INTER_CUBIC)  # (H, W)
    mark *= share * STRENGTH / mark.std()
    return np.stack([_marked(frame, mark) for frame in frames])


def detect(frames: np.ndarray) -> Detection:
    """Look for the mark in ``frames`` (T, H, W, 3) uint8 RGB, of any size and however few.

    Z = Σ s_i c_i / √16 over the sync bits, c_i the correlation of bit i's field with the residue of
    the mean frame; over random keys c_i has mean 0 and deviation 1 whatever the picture.
    """
    mean = np.mean([_cells(frame) for frame in frames], axis=0)  # (h, w)
    residue = _without_scene(mean)
    level = np.sqrt(cv2.GaussianBlur(residue * residue, (0, 0), LEVEL_BLUR))
    residue = np.clip(residue / (level + 0.3), -OUTLIER, OUTLIER)
    residue = _without_scene(residue)  # as the fields would be; then they need not be
    norm = float(np.linalg.norm(residue))
    if norm == 0:
        return Detection(0.0, None, False)
    found = np.tensordot(_fields(), residue, 2) / norm  # (32,)
    z = float(found[:SYNC_BITS] @ _signs(SYNC, SYNC_BITS) / np.sqrt(SYNC_BITS))
    detected = z > DETECTED
    nearest = int(np.argmax(_codewords() @ found[SYNC_BITS:]))
    return Detection(z, nearest if detected else None, detected)


def _marked(frame: np.ndarray, mark: np.ndarray) -> np.ndarray:
    """One frame (H, W, 3) uint8 with ``mark`` (H, W) float32 added under its texture's gain."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    window = (TEXTURE_WINDOW, TEXTURE_WINDOW)
    variance = cv2.sqrBoxFilter(grey, -1, window) - cv2.blur(grey, window) ** 2
    texture = np.sqrt(np.maximum(variance, 0))
    gain = np.minimum(FLAT_GAIN + texture / FULL_TEXTURE, BUSY_GAIN)
    change = (gain * mark)[..., None]  # (H, W, 1): the same for red, green and blue
    return np.clip(np.rint(frame + change), 0, 255).astype(np.uint8)


def _cells(frame: np.ndarray) -> np.ndarray:
    """The brightness of one frame on the grid, (h, w) float32."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return cv2.resize(grey, (GRID_WIDTH, GRID_HEIGHT), interpolation=cv2.INTER_AREA)


def _without_scene(cells: np.ndarray) -> np.ndarray:
    return cells - cv2.GaussianBlur(cells, (0, 0), SCENE_BLUR)


@cache
def _fields() -> np.ndarray:
    """The bits' fields, (32, h, w) of ±1 float32. SHAKE gives the same ones in every version of
    everything, which numpy's generators do not promise."""
    count = BITS * GRID_HEIGHT * GRID_WIDTH
    keyed = np.frombuffer(hashlib.shake_256(KEY).digest(count // 8), np.uint8)
    fields = np.unpackbits(keyed).astype(np.float32).reshape(BITS, GRID_HEIGHT, GRID_WIDTH)
    return fields * 2 - 1


@cache
def _codewords() -> np.ndarray:
    """The words of the (16, 11) extended Hamming code as ±1, (2048, 16) float32: word p stands for
    payload p. Any two differ in at least 4 places."""
    places = [place for place in range(1, 16) if place & (place - 1)]  # not a power of two: data
    words = np.zeros((2**PAYLOAD_BITS, CODE_BITS), np.uint8)  # column 0: parity over all
    payloads = np.arange(2**PAYLOAD_BITS)
    for bit, place in enumerate(places):
        words[:, place] = payloads >> (PAYLOAD_BITS - 1 - bit) & 1
    for check in (1, 2, 4, 8):
        covered = [place for place in places if place & check]
        words[:, check] = words[:, covered].sum(axis=1) % 2
    words[:, 0] = words.sum(axis=1) % 2
    return words.astype(np.float32) * 2 - 1


def _signs(number: int, bits: int) -> np.ndarray:
    """The bits of ``number``, most significant first, as ±1: (bits,) float32."""
    ones = [number >> (bits - 1 - place) & 1 for place in range(bits)]
    return np.array(ones, np.float32) * 2 - 1


def draw_badge(frames: np.ndarray, text: str = BADGE) -> np.ndarray:
    """``frames`` (T, H, W, 3) uint8 with ``text`` on a dark label in the lower right corner, its
    letters a twenty-second of the height, at least 9 pixels, and never wider than the frame."""
    height, width = frames.shape[1:3]
    label = _label(text, max(9, round(height / 22)))
    if label.width > width:
        label = label.resize((width, max(1, label.height * width // label.width)))
    margin = min(round(height / 48), width - label.width, max(0, height - label.height))
    place = (width - label.width - margin, max(0, height - label.height - margin))
    badged = []
    for frame in frames:
        picture = Image.fromarray(frame)
        picture.paste(label, place, label)
        badged.append(np.asarray(picture))
    return np.stack(badged)


@cache
def _label(text: str, letters: int) -> Image.Image:
    """``text`` in white on a rounded dark ground, RGBA; drawn four times as large for its edges."""
    large = 4 * letters
    font = ImageFont.load_default(large)
    left, top, right, bottom = font.getbbox(text)
    across, down = round(0.55 * large), round(0.35 * large)
    size = (round(right - left) + 2 * across, round(bottom - top) + 2 * down)
    label = Image.new("RGBA", size, (16, 18, 24, 0))
    pen = ImageDraw.Draw(label)
    pen.rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), size[1] / 3.2, (16, 18, 24, 190))
    pen.text((across - left, down - top), text, (255, 255, 255, 255), font)
    return label.resize((size[0] // 4, size[1] // 4), Image.Resampling.LANCZOS)
