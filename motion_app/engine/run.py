"""One generation under way: it watches the denoising steps for masks, reports and cancelling."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from motion_app.engine.prepared import PreparedScene
from motion_app.engine.propagation import PropagationConfig
from motion_app.engine.runtime import Runtime

if TYPE_CHECKING:
    from motion_app.scene import StepReport

    OnStep = Callable[[StepReport], bool | None]


class GenerationRun:
    """``step`` steps are done; ``track`` holds the masks of the next one; ``cancelled``: the person
    asked to stop."""

    def __init__(
        self,
        scene: PreparedScene,
        propagation: PropagationConfig,
        runtime: Runtime,
        on_step: OnStep | None,
        *,
        steps: int,
        guided: bool,
    ) -> None:
        self.propagation, self.runtime = propagation, runtime
        self.steps, self.guided = steps, guided
        self.steering, self.has_system = scene.steering, scene.system is not None
        self.track = scene.track
        self.on_step = on_step
        self.step = 0
        self.cancelled = False
        self._started = time.perf_counter()

    def step_ended(self, step: int, clean: Tensor | None) -> bool:
        """What ``Backbone.denoise`` calls; False stops it."""
        self.step = step
        self._propagate()
        moving = self.steering is not None and self.steering.tracks_masks
        moving = moving or self.has_system  # whose own passes a cache would mix with these
        self.runtime.cache.step_ended(
            step,
            self.steps,
            masks_move=moving,
            guided=self.guided,
            timestep=self.runtime.backbone.current_timestep,
        )
        if self.on_step is not None:
            self.cancelled = self._report(clean, self.on_step, settled=not moving) is False
        return not self.cancelled

    def _report(self, clean: Tensor | None, on_step: OnStep, *, settled: bool) -> bool | None:
        if clean is None:
            raise ValueError("a report needs the estimate of the clean latents; ask denoise for it")
        from motion_app.scene import StepReport

        now = time.perf_counter()
        report = StepReport(
            step=self.step,
            steps=self.steps,
            seconds=now - self._started,
            latents=clean.cpu().numpy(),
            masks=self.track.masks.cpu().numpy(),
            masks_settled=settled,
        )
        self._started = now
        return on_step(report)

    def _propagate(self) -> None:
        """RMPM on this step's features, or DMEM's masks; they hold from the next step on."""
        steering = self.steering
        if steering is None:
            return
        if steering.nouns is not None:
            self.track = replace(self.track, masks=steering.layer_masks())
        elif steering.recording and self.step < self.steps:
            features = steering.features().to(self.track.masks.device)
            self.track = self.track.after(features, self.propagation)
            steering.recording = not self.track.settled
            if steering.recording or not steering.masked:
                steering.set_masks(self.track.masks)
        steering.begin_step()
