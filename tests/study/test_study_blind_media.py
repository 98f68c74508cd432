"""What a rater's browser gets of a clip tells nothing of its method: no mark of this app's in some
alone, no smaller file for a smoother one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from test_watermark import PAYLOAD, cartoon, texture

from motion_app.media.files import read_clip, write_video
from motion_app.media.provenance import export_video
from motion_app.media.watermark import DETECTED, detect, embed, unmarked
from motion_app.study.creation import CreatedStudy, create_study
from motion_app.study.sources import SourceItem

OURS, OTHERS, STILL = "fleximmt", "elsewhere", "still"


@pytest.fixture(scope="module")
def created(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CreatedStudy]:
    """One scene: this app's own export, the same from elsewhere, and one that stands still."""
    folder = tmp_path_factory.mktemp("blind")
    frames = cartoon("jump")
    export_video(folder / "ours.mp4", frames, 8, recipe={"method": OURS})
    write_video(folder / "others.mp4", frames, 8, comment="")
    write_video(folder / "still.mp4", np.repeat(frames[:1], len(frames), 0), 8, comment="")
    Image.fromarray(frames[0]).save(folder / "first.png")
    videos = {OURS: "ours.mp4", OTHERS: "others.mp4", STILL: "still.mp4"}
    source = SourceItem(
        name="scene",
        caption="A creature jumps.",
        first_frame=folder / "first.png",
        references=(folder / "others.mp4",),
        videos={method: folder / name for method, name in videos.items()},
    )
    assert detect(read_clip(folder / "ours.mp4").frames).detected
    made = create_study(folder / "study", [source], title="Jumps", raters=1, practice=1, gold=1)
    yield made
    made.study.close()


def candidates(created: CreatedStudy) -> list[dict[str, Path]]:
    archive = created.study.archive
    return [
        {method: archive.media_path(name) for method, name in item.candidates.items()}
        for item in archive.items.values()
    ]


def test_no_clip_of_a_study_carries_the_mark(created: CreatedStudy) -> None:
    for item in candidates(created):
        evidence = {method: detect(read_clip(path).frames).z for method, path in item.items()}
        assert max(map(abs, evidence.values())) < DETECTED / 2, evidence
        assert abs(evidence[OURS] - evidence[OTHERS]) < DETECTED / 2, evidence


def test_all_clips_of_a_screen_have_one_size_and_play(created: CreatedStudy) -> None:
    for item in candidates(created):
        assert len({path.stat().st_size for path in item.values()}) == 1
        for path in item.values():
            with av.open(str(path)) as container:
                frames = sum(1 for _ in container.decode(video=0))
            assert frames == created.prepared.video.frames


@pytest.mark.parametrize("clip", ["cartoon", "texture"])
def test_the_mark_is_taken_away_and_nothing_else(clip: str) -> None:
    plain = cartoon("sway")[:6] if clip == "cartoon" else texture(3, frames=6)
    cleaned = unmarked(embed(plain, PAYLOAD))
    assert abs(detect(cleaned).z - detect(plain).z) < DETECTED / 2
    error = np.abs(cleaned.astype(int) - plain).mean()
    assert error < np.abs(embed(plain, PAYLOAD).astype(int) - plain).mean() / 2
    assert unmarked(plain) is plain
