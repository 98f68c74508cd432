"""Reference clips as learning has them: read and selected, with masks of what moves in them; and as
a checkpoint's motion encoder sees them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from motion_app.engine.motion_encoder import encode_clip
from motion_app.engine.motion_tokens import MotionTokens
from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import RequestError
from motion_app.geometry import ModelGeometry, fit_image
from motion_app.library.motion_clip import MotionClip
from motion_app.media.files import Clip
from motion_app.training.inputs import ClipSelection, SelectedClip, read_selection
from motion_app.training.mover import Segment, check_movement, follow_by_movement, follow_mover

CUT_WORTH_SAYING = 0.05  # of a clip's picture, that learning does not see
log = logging.getLogger(__name__)


def look_at(
    clips: Sequence[Clip],
    masks: Sequence[np.ndarray] | None,
    engine: MotionEngine,
    segment: Segment | None = None,
) -> MotionTokens:
    """What the checkpoint's encoder says of the one clip, as new tokens. ``masks`` and ``segment``
    as ``seen_clip`` has them. RequestError for several clips, and where nothing can be followed;
    CheckpointError where there is no encoder."""
    if len(clips) > 1:
        raise RequestError(
            f"the encoder looks at one clip, {len(clips)} came; give one, or learn from them"
        )
    seen = seen_clip(clips, masks, engine.geometry, segment)
    said = encode_clip(engine.backbone, seen, engine.features)
    return MotionTokens([tokens.detach().clone() for tokens in said.layers])


def look_at_selection(
    selection: ClipSelection, engine: MotionEngine, segment: Segment
) -> MotionClip:
    """A look at a clip before its motion is asked for: whoever asks then gets what was kept. What
    was seen of it, with masks of what moves; ``segment`` as of ``train_motion``. MediaError
    and RequestError where it cannot be seen, CheckpointError where there is no encoder."""
    (chosen,) = read_clips([selection], fps=engine.geometry.fps)
    masks = None if chosen.mover is None else mover_masks([chosen], segment)
    seen = seen_clip([chosen.clip], masks, engine.geometry, segment)
    encode_clip(engine.backbone, seen, engine.features)
    return seen


def seen_clip(
    clips: Sequence[Clip],
    masks: Sequence[np.ndarray] | None,
    geometry: ModelGeometry,
    segment: Segment | None = None,
) -> MotionClip:
    """The first clip in the model frame. ``masks`` (T', H0, W0) bool of what moves in each, else it
    is followed by its movement, ``segment`` drawing its edge; RequestError where it cannot be."""
    mask = follow_by_movement(clips[0].frames, segment) if masks is None else masks[0]
    if mask is None:
        raise RequestError(
            "what moves in the clip cannot be told from the rest; point at it (--mover, or a click "
            "on the page)"
        )
    return MotionClip.fitted(clips[0].frames, clips[0].fps, geometry, masks=mask)


def read_clips(
    clips: Sequence[Path | Clip | ClipSelection], *, fps: float, still: bool = False
) -> list[SelectedClip]:
    """Each clip at ``fps`` frames per second, trimmed and cropped; MediaError as ``read_clip``, and
    RequestError for a file in which nothing moves where that is not meant to be (``still``)."""
    read = []
    for clip in clips:
        if isinstance(clip, Clip):
            read.append(SelectedClip(clip))
            continue
        selection = clip if isinstance(clip, ClipSelection) else ClipSelection(clip)
        read.append(read_selection(selection, fps=fps))
        if not still:
            check_movement(read[-1].clip.frames, selection.file.name)
    return read


def tell_what_is_cut(clips: Sequence[Clip], geometry: ModelGeometry) -> None:
    """The views of a clip are cut from it, never squashed; a person can choose the part."""
    for number, clip in enumerate(clips, start=1):
        fitted = fit_image(clip.frames[0], geometry.height, geometry.width, "crop")
        if fitted.cut > CUT_WORTH_SAYING:
            log.warning("clip %d: %s", number, fitted.summary())


def mover_masks(clips: Sequence[SelectedClip], segment: Segment | None) -> list[np.ndarray]:
    """Masks (T', H0, W0) bool of the mover of each clip. RequestError where some clips have none,
    or no segmenter came; MediaError where it cannot be followed."""
    missing = [number for number, chosen in enumerate(clips, start=1) if chosen.mover is None]
    if missing:
        raise RequestError(
            f"clip {missing[0]} has no mover, others have; point at the moving thing in every clip "
            "or in none"
        )
    if segment is None:
        raise RequestError("a mover needs a segmenter, and this model names none; leave it out")
    return [
        follow_mover(chosen.clip.frames, chosen.mover, segment, name=f"clip {number}")
        for number, chosen in enumerate(clips, start=1)
    ]
