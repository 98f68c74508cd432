"""The denoising steps of one generation as they are watched: masks, reports, cancelling."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from diffusers import CogVideoXImageToVideoPipeline
from torch import Tensor, nn

from motion_app.engine.preparation import PreparedScene
from motion_app.scene import GenerationRequest, StepReport

if TYPE_CHECKING:
    from motion_app.engine.pipeline import MotionEngine

OnStep = Callable[[StepReport], bool | None]


class GenerationRun:
    """``step`` steps are done; ``track`` holds the masks of the next one; ``cancelled``: the person
    asked to stop."""

    def __init__(
        self,
        engine: MotionEngine,
        request: GenerationRequest,
        scene: PreparedScene,
        on_step: OnStep | None,
    ) -> None:
        self.engine = engine
        self.request = request
        self.steering = scene.steering
        self.track = scene.track
        self.on_step = on_step
        self.step = 0
        self.cancelled = False
        self._clean: Tensor | None = None
        self._started = time.perf_counter()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See every output of the transformer, for the estimate of the clean latents."""
        if self.on_step is None:
            yield
            return
        hook = self.engine.pipe.transformer.register_forward_hook(self._predicted, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def step_ended(
        self, pipe: CogVideoXImageToVideoPipeline, step: int, timestep: Tensor, tensors: dict
    ) -> dict[str, Any]:
        """diffusers' step-end callback."""
        self.step = step + 1
        self._propagate()
        self.engine.runtime.cache.step_ended(
            self.step,
            self.request.steps,
            masks_move=self.steering is not None and self.steering.tracks_masks,
            guided=self.request.guidance > 1,
            timestep=lambda: int(pipe.current_timestep),
        )
        if self.on_step is not None:
            now = time.perf_counter()
            report = StepReport(
                step=self.step,
                steps=self.request.steps,
                seconds=now - self._started,
                latents=self._clean.cpu().numpy(),
                masks=self.track.masks.cpu().numpy(),
                masks_settled=self.steering is None or not self.steering.tracks_masks,
            )
            self._started = now
            if self.on_step(report) is False:
                self.cancelled = True
                pipe._interrupt = True  # diffusers' documented way to leave the loop
        return {}

    def _propagate(self) -> None:
        """RMPM on this step's features, or DMEM's masks; they hold from the next step on."""
        steering = self.steering
        if steering is None:
            return
        if steering.nouns is not None:
            self.track = replace(self.track, masks=steering.layer_masks())
        elif steering.recording and self.step < self.request.steps:
            features = steering.features().to(self.track.masks.device)
            self.track = self.track.after(features, self.engine.propagation)
            steering.recording = not self.track.settled
            if steering.recording or not steering.masked:
                steering.set_masks(self.track.masks)
        steering.begin_step()

    def _predicted(self, module: nn.Module, args: tuple, kwargs: dict, output: tuple) -> None:
        """Estimate the clean latents from the transformer's output, guidance included."""
        g = self.engine.geometry
        prediction = output[0].float()  # (1 or 2, F, C, H', W')
        if len(prediction) == 2:
            unconditional, conditional = prediction.chunk(2)
            prediction = unconditional + self.request.guidance * (conditional - unconditional)
        noisy = kwargs["hidden_states"][-1:, :, : g.latent_channels].float()
        scheduler = self.engine.pipe.scheduler
        kept = scheduler.alphas_cumprod[int(kwargs["timestep"][0])].item()
        kind = scheduler.config.prediction_type
        if kind == "v_prediction":
            clean = kept**0.5 * noisy - (1 - kept) ** 0.5 * prediction
        elif kind == "epsilon":
            clean = (noisy - (1 - kept) ** 0.5 * prediction) / max(kept, 1e-8) ** 0.5
        else:
            clean = prediction
        self._clean = clean[0, g.padded_latent_frames - g.latent_frames :]  # (F, C, H', W')
