"""Small looping pictures of the library's motions."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

from motion_app.errors import MediaError
from motion_app.media import read_clip, upscale
from motion_app.scene import Motion
from motion_app.settings import Limits
from motion_app.ui.overlay import animation_uri, picture_uri

logger = logging.getLogger(__name__)

PREVIEW_WIDTH = 144  # px
PREVIEW_FPS = 8.0
MOST_KEPT = 512  # some 20 KB each


class MotionPreviews:
    """Previews by the digest of their motion, made once: the same for every browser."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._made: OrderedDict[tuple[str, bool], str] = OrderedDict()
        self._lock = threading.Lock()

    def address(self, motion: Motion, *, still: bool = False) -> str:
        """The motion as a ``data:`` address: an animation, or one frame of it for those who want
        nothing to move; "" where it has no preview."""
        if motion.preview is None:
            return ""
        key = (motion.digest, still)
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        address = self._make(motion, still)
        with self._lock:
            self._made[key] = address
            while len(self._made) > MOST_KEPT:
                self._made.popitem(last=False)
        return address

    def _make(self, motion: Motion, still: bool) -> str:
        try:
            clip = read_clip(motion.preview, fps=PREVIEW_FPS, limits=self._limits)
        except MediaError as error:
            logger.warning("no preview of %s: %s", motion.name, error)
            return ""
        height, width = clip.frames.shape[1:3]
        size = (PREVIEW_WIDTH, max(1, round(height * PREVIEW_WIDTH / width)))
        frames = upscale(clip.frames, *size)
        return picture_uri(frames[len(frames) // 2]) if still else animation_uri(frames, clip.fps)
