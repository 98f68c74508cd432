"""Nothing is ever stretched: a disc in a clip of any shape is a disc wherever the clip is shown,
learned from or judged by."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence

from motion_app.benchmark.charts import SheetRow, draw_sheet
from motion_app.benchmark.exchange import REFERENCE_CLIP, read_reference
from motion_app.geometry import fit_frames
from motion_app.library.motion_clip import MotionClip
from motion_app.media.files import Clip, read_clip, read_image, write_video
from motion_app.models.checkpoint import Checkpoint
from motion_app.scene import Motion
from motion_app.settings import ROOT, Limits
from motion_app.study.items import alike, fitted
from motion_app.study.records import VideoFormat
from motion_app.training.views import ViewConfig, draw_views
from motion_app.ui.motions.clips import COLUMNS, DraftClip
from motion_app.ui.pictures import Previews
from motion_app.ui.transfer.draft import SceneDraft

SIZES = ((720, 1280), (1920, 800), (500, 500))  # width, height
GEOMETRY = Checkpoint.read(ROOT / "checkpoints" / "pocket").geometry
LIMITS = Limits()
ROUND = 0.08  # a pixel or two of the smallest pictures


@dataclass(frozen=True)
class OddClip:
    """A clip with a disc in its middle: its frames, and its file."""

    frames: np.ndarray
    file: Path


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: "x".join(map(str, size)))
def odd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OddClip:
    width, height = request.param
    frames = np.full((26, height, width, 3), 30, np.uint8)
    for t, frame in enumerate(frames):
        radius = min(width, height) // 5 - t // 2  # it changes, as what is learned must
        cv2.circle(frame, (width // 2, height // 2), radius, (250, 250, 250), -1, cv2.LINE_AA)
    file = tmp_path_factory.mktemp("odd") / "disc.mp4"
    write_video(file, frames, GEOMETRY.fps)
    return OddClip(frames, file)


def assert_round(picture: np.ndarray) -> None:
    """The bright disc in ``picture`` (H, W, 3) is as wide as high."""
    rows, columns = np.nonzero(picture.max(axis=-1) > 140)
    assert len(rows), "the disc is gone"
    wide, high = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert abs(wide - high) <= max(1.5, ROUND * high), f"{wide} wide and {high} high"


def pictures_in(address: str) -> list[np.ndarray]:
    body = base64.b64decode(address.partition(",")[2])
    with Image.open(io.BytesIO(body)) as file:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(file)]


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_picture_in_the_models_frame(odd: OddClip, fit: str) -> None:
    assert_round(SceneDraft.of(odd.frames[0], fit, GEOMETRY).fitted.image)


def test_the_editor_of_a_training(odd: OddClip) -> None:
    clip = DraftClip.read(odd.file, GEOMETRY, LIMITS)
    width, height = clip.size
    (sheet,) = pictures_in(clip.sheet)
    assert clip.count == len(odd.frames) and sheet.shape[1] == COLUMNS * width
    assert_round(sheet[:height, :width])


def test_what_is_learned_is_what_its_preview_shows(odd: OddClip) -> None:
    """The first view of a training is the clip as it is; the preview is written by the same cut."""
    clip = read_clip(odd.file, fps=GEOMETRY.fps)
    views, _ = draw_views([clip], GEOMETRY, ViewConfig(count=1), seed=0)
    learned = views[0]
    preview = fit_frames(clip.frames[: GEOMETRY.frames], GEOMETRY.height, GEOMETRY.width)
    kept = MotionClip.fitted(clip.frames, clip.fps, GEOMETRY).frames
    for shown in (learned, preview, kept):
        assert_round(shown[0])
    first = clip.frames.shape[0] - GEOMETRY.frames  # a view begins somewhere in the clip
    assert min(_unlike(learned[0], frame) for frame in _cut(clip, first)) < 6
    assert _unlike(preview[0], kept[0]) < 6


def _cut(clip: Clip, last: int) -> np.ndarray:
    return fit_frames(clip.frames[: last + 1], GEOMETRY.height, GEOMETRY.width)


def _unlike(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("still", [False, True])
def test_a_motions_card_in_the_dialog_and_the_library(odd: OddClip, still: bool) -> None:
    """Also of a motion that was imported with a clip of its own shape."""
    motion = Motion("disc", "grows", odd.file, "base", preview=odd.file, digest=str(odd.file))
    for picture in pictures_in(Previews(LIMITS).motion(motion, still=still))[:3]:
        assert_round(picture)


def test_references_and_checks_of_a_study(odd: OddClip) -> None:
    clip = read_clip(odd.file)
    video = VideoFormat(480, 320, 8.0, 13)
    assert_round(alike(clip.frames, video)[0])
    assert_round(fitted(clip.frames[:2], video.width, video.height)[0])


def test_the_clip_that_a_video_is_judged_by(odd: OddClip) -> None:
    assert_round(read_clip(odd.file, short_side=240, limits=LIMITS).frames[0])


def test_a_reference_of_the_published_benchmark_and_its_mask(odd: OddClip, tmp_path: Path) -> None:
    clips = tmp_path / "reference_videos" / "animal" / "disc_crop"
    masks = tmp_path / "reference_video_masks_eval" / "animal" / "disc"
    for folder in (clips, masks):
        folder.mkdir(parents=True)
    (clips / f"{REFERENCE_CLIP}.mp4").write_bytes(odd.file.read_bytes())
    Image.fromarray(odd.frames[0]).save(masks / f"{REFERENCE_CLIP}.png")
    reference = read_reference(tmp_path, "disc")
    assert_round(reference.frames[0])
    assert_round(np.repeat(reference.mask[..., None], 3, axis=2) * np.uint8(255))
    assert read_image(masks / f"{REFERENCE_CLIP}.png").shape == odd.frames[0].shape


def test_a_sheet_of_the_benchmark_shows_what_is_seen_whole(odd: OddClip) -> None:
    sheet = draw_sheet([SheetRow("", [odd.frames[0]])], size=(288, 192), words=0)
    assert_round(np.where(sheet > 252, 0, sheet))
