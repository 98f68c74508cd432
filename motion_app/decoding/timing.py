"""When which frame of a clip is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

UNEVEN = 0.25  # of the usual time between two frames: what differs more is no constant rate
MOSTLY = 0.8  # of the frames, whose usual time then is the rate of an uneven clip
FASTEST = 60.0  # frames per second that an uneven clip is given at most
USUAL_RATE = 25.0  # where a file tells none


@dataclass(frozen=True, eq=False)
class TimedFrame:
    """A ``frame`` and the seconds, from the clip's beginning, from ``start`` to ``stop``, between
    which it is shown. The next one's start counts before its own stop."""

    start: float
    stop: float
    frame: Any


def pace(gaps: Sequence[float], last: float, told: float) -> tuple[float, bool]:
    """Frames per second of a clip, and whether all of its frames are shown about equally long.

    ``gaps``: seconds from each frame to the next, all above 0; ``last``: for which the last is
    shown, 0 where that is not known. ``told``: the rate in the file's header, which an even clip
    has. An uneven one has that of most frames, or of the shortest, so that none is lost.
    """
    if not gaps:
        return told, True
    usual = sorted(gaps)[len(gaps) // 2]
    regular = [gap for gap in gaps if abs(gap - usual) <= UNEVEN * usual]
    if len(regular) == len(gaps) and last <= (1 + UNEVEN) * usual:
        return told, True
    if len(regular) >= MOSTLY * len(gaps):
        return min(len(regular) / sum(regular), FASTEST), False
    return min(1 / min(gaps), FASTEST), False


def frames_at(
    timed: Iterable[TimedFrame], fps: float, frame_seconds: float
) -> Iterator[tuple[Any, int]]:
    """Each frame with the number of times i / ``fps`` at which it is shown, in order.

    ``frame_seconds``: how long a frame of the clip usually is shown; a time is looked up half of
    that, or half of 1 / ``fps`` if it is less, later: of frames at a constant rate the nearest is
    taken, and whatever is held stays for its own time. However short the clip, one frame comes.
    """
    later = min(frame_seconds, 1 / fps) / 2
    held: TimedFrame | None = None
    shown = 0
    for now in timed:
        if held is not None:
            due = _ticks_before(now.start - later, fps)
            yield held.frame, max(0, due - shown)
            shown = max(shown, due)
        held = now
    if held is not None:
        due = max(1, _ticks_before(held.stop, fps))
        yield held.frame, max(0, due - shown)


def _ticks_before(seconds: float, fps: float) -> int:
    """How many i >= 0 have i / fps < seconds; a rounding error does not make one more."""
    return max(0, math.ceil(seconds * fps - 1e-6))
