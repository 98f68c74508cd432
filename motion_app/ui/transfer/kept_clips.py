"""Clips that a scene learns from, kept until they are learned: uploads go after an hour, a scene
may wait for days. Below ``outputs/drafts/OWNER/clips`` each lies once, named by what is in it. No
gradio here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from motion_app.media.file_types import CLIP_CHOICES
from motion_app.text_files import file_digest, write_whole

CLIPS = "clips"
MOST_CLIPS = 24  # of one browser, those given last


def keep_clip(browser: Path, upload: Path, name: str) -> Path:
    """A copy of ``upload``, which a person calls ``name``, in the ``browser``'s folder."""
    suffix = Path(name).suffix.lower()
    suffix = suffix if suffix in CLIP_CHOICES else ".mp4"
    kept = browser / CLIPS / f"{file_digest(upload)[:32]}{suffix}"
    if not kept.is_file():
        write_whole(kept, lambda part: shutil.copyfile(upload, part))
    os.utime(kept)
    return kept


def tidy_clips(browser: Path, *, oldest: float) -> None:
    """Delete those that were given before ``oldest``, unix seconds, and all but the newest."""
    clips = sorted((browser / CLIPS).glob("*"), key=lambda clip: -clip.stat().st_mtime)
    for number, clip in enumerate(clips):
        if number >= MOST_CLIPS or clip.stat().st_mtime < oldest:
            clip.unlink(missing_ok=True)


def forget_clips(browser: Path, *, besides: Collection[str]) -> None:
    """Delete all but those of these names."""
    for clip in (browser / CLIPS).glob("*"):
        if clip.name not in besides:
            clip.unlink(missing_ok=True)
