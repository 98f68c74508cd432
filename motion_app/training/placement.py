"""Where the models are while a motion is learned: the transformer alone on the device.

Views and captions were encoded before, so text encoder and VAE wait in main memory. The backward
pass needs all weights where they are used, which rules out blocks that come and go.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from motion_app.engine.footprint import GIGABYTE, read_footprint, training_bytes
from motion_app.engine.memory import Placing
from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import CheckpointError
from motion_app.training.config import ClipTraining

log = logging.getLogger(__name__)


class LearningPlacement:
    """Use as a context around the steps; ``whole`` is for making a video in between."""

    def __init__(self, engine: MotionEngine, config: ClipTraining) -> None:
        placement = engine.profile.placement
        if placement.weights is not None:
            raise CheckpointError(
                f"a motion cannot be learned on weights of eight bits ({placement.name}); load the "
                "model with the profile model-offload"
            )
        self.engine = engine
        # On a CPU nothing is saved by moving, and computing layers twice only takes longer.
        self.moves = engine.profile.device.type != "cpu"
        self.checkpoints = self.moves or placement.where == "group"
        if self.moves:
            footprint = read_footprint(engine.folder, item=engine.profile.dtype.itemsize)
            tokens = getattr(config, "tokens", 0)
            needed = training_bytes(engine.geometry, footprint, tokens=tokens, batch=config.batch)
            log.info("learning takes about %.1f GB of the device", needed / GIGABYTE)

    def __enter__(self) -> LearningPlacement:
        self._alone()
        return self

    def __exit__(self, *exception: object) -> None:
        self._together()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All models where the engine's profile wants them, as a generation needs."""
        self._together()
        try:
            yield
        finally:
            self._alone()

    def _alone(self) -> None:
        engine, pipe = self.engine, self.engine.pipe
        if self.checkpoints:
            Placing(pipe, engine.profile.device).release()
            pipe.transformer.to(engine.profile.device)
            pipe.transformer.enable_gradient_checkpointing()

    def _together(self) -> None:
        engine, pipe = self.engine, self.engine.pipe
        if self.checkpoints:
            pipe.transformer.disable_gradient_checkpointing()
            engine.profile = engine.profile.place(pipe)
