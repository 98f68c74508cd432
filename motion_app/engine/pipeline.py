"""MotionEngine: a video model steered from outside, and what a generation leaves behind.

``recipe_of`` is the recipe of a video: plain JSON that replays it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import numpy as np
import torch

from motion_app.acceleration import STOCK, Acceleration
from motion_app.engine.backbone import Backbone
from motion_app.engine.memory import DeviceProfile, Outlook, look_ahead
from motion_app.engine.preparation import prepare_scene
from motion_app.engine.prepared import PreparedScene
from motion_app.engine.previews import draw_preview
from motion_app.engine.propagation import PropagationConfig
from motion_app.engine.run import GenerationRun
from motion_app.engine.runtime import Runtime, check_acceleration
from motion_app.engine.systems.table import chosen_settings
from motion_app.errors import CheckpointError, GenerationCancelled, RequestError
from motion_app.geometry import GenerationDefaults, ModelGeometry
from motion_app.models.checkpoint import Checkpoint
from motion_app.request.request import check_sizes, checked_request
from motion_app.request.written import request_to_json, told_objects
from motion_app.scene import GeneratedVideo, GenerationRequest
from motion_app.settings import Limits

if TYPE_CHECKING:
    from motion_app.engine.run import OnStep

MOST_KEPT = 16  # features of clips, of up to some 300 MB each
DEFAULT_CHECKPOINT = "checkpoints/pocket"


class MotionEngine:
    """One loaded checkpoint: ``backbone`` is its model, ``runtime`` how it is run. One generation
    runs at a time; others wait."""

    def __init__(self, backbone: Backbone, *, acceleration: Acceleration = STOCK) -> None:
        self.backbone = backbone
        self.propagation = _propagation_config(self.defaults)
        self.runtime = Runtime(backbone, acceleration)
        self.features = Kept(MOST_KEPT)
        self._busy = threading.Lock()

    @classmethod
    def load(
        cls,
        checkpoint: str | Path | Checkpoint = DEFAULT_CHECKPOINT,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        threads: int | None = None,
        acceleration: Acceleration = STOCK,
        on_outlook: Callable[[Outlook], None] | None = None,
    ) -> MotionEngine:
        """Load a diffusers-format CogVideoX I2V ``checkpoint``: a folder, a hub id, or one read
        before.

        ``device`` and ``dtype`` None are chosen by ``DeviceProfile``; ``threads`` sets PyTorch's
        CPU threads for the whole process, None leaves them. ``acceleration``: memory profile,
        attention kernel, compilation, cache, second device; what of it cannot be had is refused
        before any weight is read, when ``on_outlook`` hears what the model will take. Raises
        CheckpointError.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = Checkpoint.find(checkpoint)
        defaults, keep = checkpoint.defaults, acceleration.keep_text_encoder
        acceleration = acceleration.for_model(defaults.mag_ratios, name=defaults.name)
        profile, outlook = look_ahead(
            checkpoint,
            device=device,
            dtype=dtype,
            placement=acceleration.profile,
            keep_text_encoder=keep,
        )
        check_acceleration(acceleration, profile.device)
        if on_outlook is not None:
            on_outlook(outlook)
        backbone = Backbone.load(checkpoint, profile, keep_text_encoder=keep)
        return cls(backbone, acceleration=acceleration)

    @property
    def geometry(self) -> ModelGeometry:
        """The model's sizes."""
        return self.backbone.geometry

    @property
    def defaults(self) -> GenerationDefaults:
        """The checkpoint's own settings."""
        return self.backbone.checkpoint.defaults

    @property
    def fingerprint(self) -> str:
        """What a motion belongs to; see ``Checkpoint.fingerprint``."""
        return self.backbone.checkpoint.fingerprint

    @property
    def profile(self) -> DeviceProfile:
        """Where the model is, and in which precision."""
        return self.backbone.profile

    @property
    def colours(self) -> np.ndarray:
        """What draws ``preview`` elsewhere; see ``previews.fit_colours``."""
        return self.backbone.colours

    def preview(self, latents: np.ndarray) -> np.ndarray:
        """A cheap look at latents (F, C, H', W') float: frames (F, H, W, 3) uint8, one per latent
        frame."""
        return draw_preview(latents, self.colours, self.geometry)

    def reconstruction_error(self, image: np.ndarray) -> float:
        """What the VAE misses of a picture (H, W, 3) uint8 in the model frame, held for the length
        of a video: mean difference as a share, 0 to 1, of the range of a channel."""
        with self._busy:
            latents, _ = self.backbone.encode_clip(np.stack([image] * self.geometry.frames))
            made = self.backbone.decode(latents)[0]  # (H, W, 3)
        return float(np.abs(made.astype(np.int16) - image).mean() / 255)

    def generate(self, request: GenerationRequest, on_step: OnStep | None = None) -> GeneratedVideo:
        """Generate the video of ``request``.

        ``on_step`` is called after every denoising step; returning False cancels, and
        GenerationCancelled is raised within that step. Raises RequestError and MotionFileError
        before anything is computed. With no object that has a motion, or with method "none", no
        processor is installed: the latents are the stock pipeline's, bit for bit.
        """
        with self._busy, torch.no_grad():
            request = self._resolve(request)
            while True:
                try:
                    return self._generate(request, on_step)
                except torch.OutOfMemoryError as error:
                    full = error.with_traceback(None)  # its frames hold what must be freed
                self.backbone.step_down(full)

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """The device is another model's while inside; what is asked of this one waits."""
        with self._busy, self.backbone.set_aside():
            yield

    def _generate(self, request: GenerationRequest, on_step: OnStep | None) -> GeneratedVideo:
        backbone, chosen = self.backbone, request.options
        steps, guidance = chosen.steps, chosen.guidance
        if steps is None or guidance is None:
            raise ValueError("the request has no steps or no guidance; fill in the defaults first")
        guided = guidance > 1  # the stock pipeline then runs an unconditional half first
        with backbone.counted() as calls:
            scene = prepare_scene(
                backbone, request, self.propagation, guided=guided, features=self.features
            )
        run = GenerationRun(
            scene, self.propagation, self.runtime, on_step, steps=steps, guided=guided
        )
        with self.runtime.installed(scene), backbone.counted() as more:
            text = scene.text
            if text is None:
                text = backbone.prompts.encode(request.full_prompt(), guided=guided)
            latents = backbone.denoise(
                request.image,
                text,
                steps=steps,
                guidance=guidance,
                seed=chosen.seed,
                on_step=run.step_ended,
                estimates=on_step is not None,
                system=scene.system,
            )
        if run.cancelled:
            raise GenerationCancelled(f"stopped after step {run.step} of {steps}, as asked")
        return GeneratedVideo(
            frames=backbone.decode(latents),
            masks=run.track.masks.cpu().numpy(),
            recipe=recipe_of(self, request, scene),
            fps=self.geometry.fps,
            latents=latents.float().cpu().numpy(),  # (1, F, C, H', W')
            calls=sum(calls) + sum(more),
        )

    def _resolve(self, request: GenerationRequest) -> GenerationRequest:
        """``request`` checked, with the checkpoint's defaults filled in."""
        if request.options.stock is not None:
            raise ValueError("the request asks for another model; jobs.kinds.generate opens it")
        if request.checked:
            check_sizes(request, self.geometry)
        else:
            request = checked_request(
                request,
                geometry=self.geometry,
                tokenizer=self.backbone.tokenizer,
                # How many objects a page may ask for is the deployment's affair.
                limits=Limits(objects=max(1, len(request.objects))),
            )
        chosen = request.options
        steps = self.defaults.steps if chosen.steps is None else chosen.steps
        trained = self.backbone.training_steps
        if steps > trained:
            raise RequestError(f"steps is {steps}; this checkpoint knows {trained} at most")
        guidance = self.defaults.guidance if chosen.guidance is None else chosen.guidance
        return request.with_numbers(steps=steps, guidance=guidance)


def _propagation_config(defaults: GenerationDefaults) -> PropagationConfig:
    try:
        return PropagationConfig(**defaults.rmpm)
    except TypeError as error:
        raise CheckpointError(f'the checkpoint\'s "rmpm" settings are wrong: {error}') from error


class Kept(OrderedDict[tuple, Any]):
    """What is computed once and used again: the ``most`` that were asked for last."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __getitem__(self, key: tuple) -> Any:
        self.move_to_end(key)
        return super().__getitem__(key)

    def __setitem__(self, key: tuple, value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > self.most:
            self.popitem(last=False)


def recipe_of(
    engine: MotionEngine, request: GenerationRequest, scene: PreparedScene
) -> dict[str, Any]:
    """Plain JSON that replays the generation; ``request`` alone is what the command line takes,
    picture and masks included."""
    g = engine.geometry
    systems = chosen_settings(request, engine.defaults)
    digests = scene.motion_digests or ("",) * len(request.objects)
    return {
        "request": request_to_json(request, model=engine.defaults.name),
        **request.options.to_json(),
        "prompt": request.full_prompt(),
        "objects": told_objects(request, digests),
        "model": engine.defaults.name,
        "base": engine.fingerprint,
        "motion_in_unconditional": engine.defaults.motion_in_unconditional,
        "propagation": asdict(engine.propagation),
        **{name: asdict(settings) for name, settings in systems.items()},
        "width": g.width,
        "height": g.height,
        "frames": g.frames,
        "fps": g.fps,
        "device": str(engine.profile.device),
        "dtype": str(engine.profile.dtype).removeprefix("torch."),
        "profile": engine.profile.placement.name,
        "acceleration": engine.runtime.acceleration.to_json(),
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
    }
