"""How many clips a device should take at once, found on it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from motion_app.errors import RequestError

SIZES = (32, 64, 128, 256, 512, 1024, 2048)
GAIN = 1.1  # a batch twice as large must be so much faster, or it only costs steps
FAMILIAR = 16  # the batch that the learning rates were found at
MOST_RATE = 2.0


def choose_batch(seconds_of: Callable[[int], float]) -> tuple[int, float]:
    """(clips, clips a second) of the largest of SIZES that fits and still gains by its size;
    ``seconds_of`` a step with so many raises OutOfMemoryError where they do not fit. RequestError
    where none does."""
    found: tuple[int, float] | None = None
    for size in SIZES:
        try:
            pace = size / seconds_of(size)
        except torch.OutOfMemoryError:
            break
        if found is not None and pace < GAIN * found[1]:
            break
        found = (size, pace)
    if found is None:
        raise RequestError(
            f"not even {SIZES[0]} clips fit into this device's memory; give a smaller --batch"
        )
    return found


def rate_for(batch: int) -> float:
    """The factor on the learning rates: the root of the batch over FAMILIAR, MOST_RATE at most."""
    return min(MOST_RATE, max(1.0, (batch / FAMILIAR) ** 0.5))
