"""MotionEngine: a stock CogVideoX image-to-video pipeline, steered from outside.

The seams are diffusers' own: attention processors, the step-end callback, ``interrupt``, latent
output. Nothing of diffusers is forked or patched.

The denoising steps of one generation as they are watched: masks, reports, cancelling.

The recipe of a video: plain JSON that replays it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import CogVideoXImageToVideoPipeline
from PIL import Image
from torch import Tensor, nn

from motion_app.engine.acceleration import STOCK, Acceleration
from motion_app.engine.attention import check_ablations
from motion_app.engine.backbone import LatentDecoder, PromptStates
from motion_app.engine.memory import DeviceProfile
from motion_app.engine.planning import Outlook, look_ahead
from motion_app.engine.preparation import PreparedScene, prepare_scene
from motion_app.engine.propagation import PropagationConfig
from motion_app.engine.runtime import Runtime
from motion_app.errors import CheckpointError, GenerationCancelled, RequestError
from motion_app.geometry import GenerationDefaults, ModelGeometry
from motion_app.methods import ABLATIONS
from motion_app.models.hub import checkpoint_folder, fingerprint, one_line
from motion_app.request.request import check_method, check_request, request_to_json
from motion_app.scene import GeneratedVideo, GenerationRequest, StepReport
from motion_app.settings import Limits

DEFAULT_CHECKPOINT = "checkpoints/pocket"
OnStep = Callable[[StepReport], bool | None]


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


def recipe_of(
    engine: MotionEngine, request: GenerationRequest, scene: PreparedScene
) -> dict[str, Any]:
    """Plain JSON that replays the generation; ``request`` alone is what the command line takes,
    picture and masks included."""
    g = engine.geometry
    digests = scene.motion_digests or ("",) * len(request.objects)
    return {
        "request": request_to_json(request, model=engine.defaults.name),
        "seed": request.seed,
        "steps": request.steps,
        "guidance": request.guidance,
        "prompt": request.full_prompt(),
        "method": request.method,
        "without": sorted(request.without),
        "scope": request.scope,
        "objects": [
            {
                "sentence": item.sentence,
                "phrase": item.phrase,
                "name": item.name,
                "motion": None if item.motion is None else item.motion.name,
                "motion_sha256": digest,
                "strength": item.strength,
            }
            for item, digest in zip(request.objects, digests, strict=True)
        ],
        "model": engine.defaults.name,
        "base": engine.fingerprint,
        "motion_in_unconditional": engine.defaults.motion_in_unconditional,
        "propagation": asdict(engine.propagation),
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
