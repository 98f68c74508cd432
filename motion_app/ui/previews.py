"""Small looping pictures of the library's motions."""

from __future__ import annotations

import html
import logging
import threading
from collections import OrderedDict

from motion_app.errors import MediaError
from motion_app.media import read_clip, upscale
from motion_app.scene import Motion
from motion_app.settings import Limits
from motion_app.ui.overlay import animation_uri

logger = logging.getLogger(__name__)

PREVIEW_WIDTH = 144  # px
PREVIEW_FPS = 8.0
MOST_KEPT = 256  # some 20 KB each


class MotionPreviews:
    """Previews by the digest of their motion, made once: the same for every browser."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._made: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def html(self, motion: Motion | None) -> str:
        """The motion's preview, or words where there is none."""
        if motion is None:
            return '<div class="preview preview-none">moves as its sentence says</div>'
        address = self._address(motion)
        if not address:
            return '<div class="preview preview-none">no preview</div>'
        alt = html.escape(f"Preview of the motion {motion.name}: something {motion.phrase}")
        return f'<div class="preview"><img src="{address}" alt="{alt}"></div>'

    def _address(self, motion: Motion) -> str:
        if motion.preview is None:
            return ""
        with self._lock:
            if motion.digest in self._made:
                self._made.move_to_end(motion.digest)
                return self._made[motion.digest]
        address = self._make(motion)
        with self._lock:
            self._made[motion.digest] = address
            while len(self._made) > MOST_KEPT:
                self._made.popitem(last=False)
        return address

    def _make(self, motion: Motion) -> str:
        try:
            clip = read_clip(motion.preview, fps=PREVIEW_FPS, limits=self._limits)
        except MediaError as error:
            logger.warning("no preview of %s: %s", motion.name, error)
            return ""
        height, width = clip.frames.shape[1:3]
        size = (PREVIEW_WIDTH, max(1, round(height * PREVIEW_WIDTH / width)))
        return animation_uri(upscale(clip.frames, *size), clip.fps)
