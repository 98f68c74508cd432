"""MotionEngine: a stock CogVideoX image-to-video pipeline, steered from outside.

The seams are diffusers' own: attention processors, the step-end callback, ``interrupt``, latent
output. Nothing of diffusers is forked or patched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import CogVideoXImageToVideoPipeline
from PIL import Image
from torch import Tensor

from motion_app.assignment import check_method, check_request
from motion_app.engine.acceleration import STOCK, Acceleration
from motion_app.engine.checkpoint import checkpoint_folder, fingerprint, one_line
from motion_app.engine.decoding import LatentDecoder
from motion_app.engine.generation_run import GenerationRun, OnStep
from motion_app.engine.memory import DeviceProfile
from motion_app.engine.outlook import Outlook, look_ahead
from motion_app.engine.preparation import PreparedScene, prepare_scene
from motion_app.engine.prompt_states import PromptStates
from motion_app.engine.propagation import PropagationConfig
from motion_app.engine.recipe import recipe_of
from motion_app.engine.runtime import Runtime
from motion_app.engine.visibility import check_ablations
from motion_app.errors import CheckpointError, GenerationCancelled, RequestError
from motion_app.geometry import GenerationDefaults, ModelGeometry
from motion_app.methods import ABLATIONS
from motion_app.scene import GeneratedVideo, GenerationRequest
from motion_app.settings import Limits

DEFAULT_CHECKPOINT = "checkpoints/pocket"


class MotionEngine:
    """One loaded checkpoint. ``pipe`` is the stock pipeline, ``geometry`` its sizes, ``defaults``
    its own settings. One generation runs at a time; others wait."""

    def __init__(
        self,
        pipe: CogVideoXImageToVideoPipeline,
        *,
        folder: Path,
        defaults: GenerationDefaults,
        profile: DeviceProfile,
        acceleration: Acceleration = STOCK,
    ) -> None:
        self.pipe = pipe
        self.folder = folder
        self.defaults = defaults
        self.profile = profile
        self.propagation = _propagation_config(defaults)
        self.geometry = ModelGeometry.from_configs(
            pipe.transformer.config,
            pipe.vae.config,
            height=defaults.height,
            width=defaults.width,
            frames=defaults.frames,
            fps=defaults.fps,
        )
        self._decoder = LatentDecoder(pipe, self.geometry, profile.device)
        self.prompts = PromptStates(
            pipe,
            folder,
            profile=profile,
            text_tokens=self.geometry.text_tokens,
            keep=acceleration.keep_text_encoder,
        )
        if acceleration.cache is not None:
            cache = acceleration.cache.for_model(defaults.mag_ratios, name=defaults.name)
            acceleration = replace(acceleration, cache=cache)
        self.runtime = Runtime(pipe.transformer, acceleration, device=profile.device)
        self._busy = threading.Lock()

    @classmethod
    def load(
        cls,
        path_or_hub_id: str | Path = DEFAULT_CHECKPOINT,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        threads: int | None = None,
        acceleration: Acceleration = STOCK,
        on_outlook: Callable[[Outlook], None] | None = None,
    ) -> MotionEngine:
        """Load a diffusers-format CogVideoX I2V checkpoint from a folder or the hub.

        ``device`` and ``dtype`` None are chosen by ``DeviceProfile``; ``threads`` sets PyTorch's
        CPU threads for the whole process, None leaves them. ``acceleration``: memory profile,
        attention kernel, compilation, cache, second device; what of it cannot be had is refused
        before any weight is read, when ``on_outlook`` hears what the model will take. Raises
        CheckpointError.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        folder = checkpoint_folder(path_or_hub_id)
        defaults = GenerationDefaults.read(folder)
        if acceleration.cache is not None:
            acceleration.cache.for_model(defaults.mag_ratios, name=defaults.name)
        profile, outlook = look_ahead(folder, device=device, dtype=dtype, acceleration=acceleration)
        acceleration.check(profile.device)
        if on_outlook is not None:
            on_outlook(outlook)
        try:
            pipe = CogVideoXImageToVideoPipeline.from_pretrained(
                folder,
                dtype=profile.dtype,
                local_files_only=True,
                trust_remote_code=False,
                **({} if acceleration.keep_text_encoder else {"text_encoder": None}),
            )
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder.name} cannot be loaded as a CogVideoX image-to-video checkpoint: "
                f"{one_line(error)}"
            ) from error
        profile = profile.place(pipe)
        pipe.set_progress_bar_config(disable=True)
        return cls(
            pipe,
            folder=folder,
            defaults=defaults,
            profile=profile,
            acceleration=acceleration,
        )

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the transformer's config and weights as they lie on disk: what a motion belongs
        to. Read once, when first asked for."""
        return fingerprint(self.folder / "transformer")

    def rotary_embedding(self) -> tuple[Tensor, Tensor] | None:
        """(cos, sin) of the video tokens, (V, d) each, as the stock pipeline computes them for its
        own denoising loop; None for a checkpoint without rotary positions."""
        if not self.pipe.transformer.config.use_rotary_positional_embeddings:
            return None
        g = self.geometry
        return self.pipe._prepare_rotary_positional_embeddings(
            g.height, g.width, g.padded_latent_frames, self.pipe.transformer.device
        )

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
                self._step_down(full)

    def _generate(self, request: GenerationRequest, on_step: OnStep | None) -> GeneratedVideo:
        scene = prepare_scene(self, request)
        run = GenerationRun(self, request, scene, on_step)
        with self.runtime.installed(scene), run.watching():
            latents = self._denoise(request, scene, run)
        if run.cancelled:
            raise GenerationCancelled(f"stopped after step {run.step} of {request.steps}, as asked")
        latents = latents[:, self.geometry.padded_latent_frames - self.geometry.latent_frames :]
        return GeneratedVideo(
            frames=self._decoder.decode(latents),
            masks=run.track.masks.cpu().numpy(),
            recipe=recipe_of(self, request, scene),
            fps=self.geometry.fps,
            latents=latents.float().cpu().numpy(),  # (1, F, C, H', W')
        )

    def _step_down(self, error: torch.OutOfMemoryError) -> None:
        """The next smaller memory profile, for this generation and those after it."""
        self.profile = self.profile.step_down(self.pipe, error)
        self.prompts.profile = self.profile

    @property
    def colours(self) -> np.ndarray:
        """What draws ``preview`` elsewhere; see ``LatentDecoder.colours``."""
        return self._decoder.colours

    def preview(self, latents: np.ndarray) -> np.ndarray:
        """A cheap look at latents (F, C, H', W') float: frames (F, H, W, 3) uint8, one per latent
        frame."""
        return self._decoder.preview(latents)

    def _resolve(self, request: GenerationRequest) -> GenerationRequest:
        """``request`` checked, with the checkpoint's defaults filled in."""
        # How many objects a page may ask for is the deployment's affair, not the engine's.
        limits = Limits(objects=max(1, len(request.objects)))
        check_request(request, geometry=self.geometry, limits=limits)
        check_method(request)
        check_ablations(request.without & set(ABLATIONS), request.scope)
        if not 0 <= request.seed < 2**63:
            raise RequestError(f"the seed is {request.seed}; it must lie between 0 and 2^63 - 1")
        steps = self.defaults.steps if request.steps is None else request.steps
        trained = self.pipe.scheduler.config.num_train_timesteps
        if steps > trained:
            raise RequestError(f"steps is {steps}; this checkpoint knows {trained} at most")
        guidance = self.defaults.guidance if request.guidance is None else request.guidance
        return replace(request, steps=steps, guidance=guidance)

    def _denoise(
        self, request: GenerationRequest, scene: PreparedScene, run: GenerationRun
    ) -> Tensor:
        """The stock pipeline's own call; latents (1, F, C, H', W'), padding included."""
        g = self.geometry
        text = scene.text
        if text is None:
            text = self.prompts.encode(request.full_prompt(), guided=request.guidance > 1)
        return self.pipe(
            image=Image.fromarray(request.image),
            prompt_embeds=text[0],
            negative_prompt_embeds=text[1],
            height=g.height,
            width=g.width,
            num_frames=g.frames,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            use_dynamic_cfg=False,  # the stock formula makes guidance jump from step to step
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type="latent",
            max_sequence_length=g.text_tokens,
            callback_on_step_end=run.step_ended,
            callback_on_step_end_tensor_inputs=["latents"],
        ).frames


def _propagation_config(defaults: GenerationDefaults) -> PropagationConfig:
    try:
        return PropagationConfig(**defaults.rmpm)
    except TypeError as error:
        raise CheckpointError(f'the checkpoint\'s "rmpm" settings are wrong: {error}') from error
