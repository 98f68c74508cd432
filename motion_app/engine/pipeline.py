"""MotionEngine: a stock CogVideoX image-to-video pipeline, steered from outside.

The seams are diffusers' own: attention processors, the step-end callback, ``interrupt``, latent
output. Nothing of diffusers is forked or patched.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import CogVideoXImageToVideoPipeline
from PIL import Image
from torch import Tensor, nn

from motion_app.assignment import (
    ABLATIONS,
    PACK_METHODS,
    TOKEN_METHODS,
    check_method,
    check_request,
    find_phrases,
    request_to_json,
)
from motion_app.engine.adapters import GatedAdapters, adapted
from motion_app.engine.attention import KeyValues, check_ablations
from motion_app.engine.checkpoint import (
    checkpoint_folder,
    fingerprint,
    one_line,
)
from motion_app.engine.decoding import LatentDecoder
from motion_app.engine.layout import SequenceLayout, Span
from motion_app.engine.memory import DeviceProfile
from motion_app.engine.motion_pack import MotionPack
from motion_app.engine.motion_tokens import MotionTokens
from motion_app.engine.propagation import MaskTrack, PropagationConfig
from motion_app.engine.steering import AdapterSteering, GenerationSteering, steered
from motion_app.engine.synmotion import check_words
from motion_app.errors import CheckpointError, GenerationCancelled, RequestError
from motion_app.geometry import GenerationDefaults, ModelGeometry, mask_to_grid
from motion_app.library import file_digest
from motion_app.phrases import Clause, find_clauses
from motion_app.scene import GeneratedVideo, GenerationRequest, SceneObject, StepReport
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
        self._busy = threading.Lock()

    @classmethod
    def load(
        cls,
        path_or_hub_id: str | Path = DEFAULT_CHECKPOINT,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        threads: int | None = None,
    ) -> MotionEngine:
        """Load a diffusers-format CogVideoX I2V checkpoint from a folder or the hub.

        ``device`` and ``dtype`` None are chosen by ``DeviceProfile``; ``threads`` sets PyTorch's
        CPU threads for the whole process, None leaves them. Raises CheckpointError.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        folder = checkpoint_folder(path_or_hub_id)
        weight_bytes = sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))
        profile = DeviceProfile.choose(weight_bytes, device=device, dtype=dtype)
        try:
            pipe = CogVideoXImageToVideoPipeline.from_pretrained(
                folder, dtype=profile.dtype, local_files_only=True
            )
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder.name} cannot be loaded as a CogVideoX image-to-video checkpoint: "
                f"{one_line(error)}"
            ) from error
        profile.place(pipe)
        pipe.set_progress_bar_config(disable=True)
        defaults = GenerationDefaults.read(folder)
        return cls(pipe, folder=folder, defaults=defaults, profile=profile)

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
            scene = self._prepare(request)
            run = _Run(self, request, scene, on_step)
            with scene.installed(self.pipe.transformer), run.watching():
                latents = self._denoise(request, scene, run)
            if run.cancelled:
                raise GenerationCancelled(
                    f"stopped after step {run.step} of {request.steps}, as asked"
                )
            latents = latents[:, self.geometry.padded_latent_frames - self.geometry.latent_frames :]
            return GeneratedVideo(
                frames=self._decoder.decode(latents),
                masks=run.track.masks.cpu().numpy(),
                recipe=self._recipe(request, scene),
                fps=self.geometry.fps,
                latents=latents.float().cpu().numpy(),  # (1, F, C, H', W')
            )

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

    def _prepare(self, request: GenerationRequest) -> _Scene:
        """Motions, words and masks of the request as the transformer will meet them."""
        g = self.geometry
        objects = request.objects
        first = [mask_to_grid(item.mask, g.grid_height, g.grid_width) for item in objects]
        first = torch.from_numpy(np.stack(first)) if first else torch.zeros(0, *g.grid[1:]).bool()
        track = MaskTrack.start(first.to(self.profile.device), g.grid_frames)
        # Also where nothing is steered: the stock pipeline cuts a long prompt off in silence.
        spans = find_phrases(request.full_prompt(), objects, self.pipe.tokenizer, g.text_tokens)
        if request.method == "none" or all(item.motion is None for item in objects):
            return _Scene(track)
        motions = self._load_motions(objects, request.method)
        packs = self._load_packs(objects, request.method)
        adapters = self._adapters(request, packs, track)
        steering = None
        if request.method in TOKEN_METHODS or not _everywhere(request):
            steering = self._steering(request, track, spans, motions, packs, adapters)
        return _Scene(
            track,
            steering,
            tuple("" if item.motion is None else file_digest(item.motion.path) for item in objects),
            adapters,
            self._text(request, packs),
        )

    def _steering(
        self,
        request: GenerationRequest,
        track: MaskTrack,
        spans: Sequence[Span | None],
        motions: Sequence[MotionTokens | None],
        packs: Sequence[MotionPack | None],
        adapters: AdapterSteering | None,
    ) -> GenerationSteering:
        """MDMA for every object with a motion, whether it has motion tokens or not."""
        g, objects = self.geometry, request.objects
        layout = SequenceLayout(
            text=g.text_tokens,
            phrases=spans,
            motion=[0 if motion is None else motion.tokens for motion in motions],
            grid=g.grid,
            members=[k for k, item in enumerate(objects) if item.motion is not None],
        )
        without = {"infer_mask"} if request.method == "concat" else set(request.without)
        without &= set(ABLATIONS)
        strengths = [item.strength for item in objects]
        halves = [strengths]
        if request.guidance > 1:  # the stock pipeline then runs an unconditional half first
            unconditional = [0.0] * len(objects)
            halves.insert(0, strengths if self.defaults.motion_in_unconditional else unconditional)
        propagates = without.isdisjoint({"infer_mask", "rmpm"})
        return GenerationSteering(
            layout,
            track.masks,
            self._key_values(motions, packs if "lora" not in request.without else (), strengths),
            halves=halves,
            scope=request.scope,
            without=without,
            feature_layers=self.propagation.feature_layers(g.layers) if propagates else 0,
            nouns=self._nouns(request) if "rmpm" in without else None,
            adapters=adapters,
        )

    def _load_motions(
        self, objects: Sequence[SceneObject], method: str
    ) -> list[MotionTokens | None]:
        """Each object's motion tokens; None without a motion, or where the method uses none."""
        if method not in TOKEN_METHODS:
            return [None] * len(objects)
        paths = {item.motion.path for item in objects if item.motion is not None}
        g = self.geometry
        loaded = {
            path: MotionTokens.load(
                path, layers=g.layers, width=g.width_tokens, base=self.fingerprint
            )
            for path in paths
        }
        return [None if item.motion is None else loaded[item.motion.path] for item in objects]

    def _load_packs(self, objects: Sequence[SceneObject], method: str) -> list[MotionPack | None]:
        """What SynMotion learned of each object's motion; None as in ``_load_motions``."""
        if method not in PACK_METHODS:
            return [None] * len(objects)
        loaded = {
            path: MotionPack.load(
                path,
                transformer=self.pipe.transformer,
                text_width=self.pipe.transformer.config.text_embed_dim,
                base=self.fingerprint,
            ).to(self.profile.device)
            for path in {item.motion.path for item in objects if item.motion is not None}
        }
        return [None if item.motion is None else loaded[item.motion.path] for item in objects]

    def _clauses(
        self, request: GenerationRequest, packs: Sequence[MotionPack | None]
    ) -> list[Clause | None]:
        """Each object's words; RequestError for other motion words than a pack was learned with."""
        clauses = find_clauses(
            request.full_prompt(), request.objects, self.pipe.tokenizer, self.geometry.text_tokens
        )
        for item, pack, clause in zip(request.objects, packs, clauses, strict=True):
            if pack is not None:
                motion = item.motion
                check_words(pack.pieces, clause.pieces, name=motion.name, phrase=motion.phrase)
        return clauses

    def _text(
        self, request: GenerationRequest, packs: Sequence[MotionPack | None]
    ) -> tuple[Tensor, Tensor | None] | None:
        """The prompt's states with every clause enriched and those of the empty one (None where no
        unconditional half runs), (1, L, text width) each; None where no pack is used."""
        if all(pack is None for pack in packs):
            return None
        prompt, empty = self.pipe.encode_prompt(
            request.full_prompt(),
            None,
            do_classifier_free_guidance=request.guidance > 1,
            max_sequence_length=self.geometry.text_tokens,
            device=self.profile.device,
        )
        states = prompt[0]  # (L, text width)
        clauses = self._clauses(request, packs)
        for item, pack, clause in zip(request.objects, packs, clauses, strict=True):
            if pack is not None:
                states = pack.branch(
                    states, clause, strength=item.strength, without=request.without
                )
        return states[None], empty

    def _adapters(
        self, request: GenerationRequest, packs: Sequence[MotionPack | None], track: MaskTrack
    ) -> AdapterSteering | None:
        """The objects' adapters, gated by the masks of step 0; None where there are none."""
        clauses = self._clauses(request, packs) if any(packs) else []
        acting = [
            k
            for k, pack in enumerate(packs)
            if pack is not None and pack.adapter is not None and "lora" not in request.without
        ]
        if not acting:
            return None
        halves = [True]
        if request.guidance > 1:
            halves.insert(0, self.defaults.motion_in_unconditional)
        adapters = AdapterSteering(
            [packs[k].adapter for k in acting],
            acting,
            [clauses[k].spans for k in acting],
            strengths=[request.objects[k].strength for k in acting],
            halves=halves,
            text=self.geometry.text_tokens,
            everywhere=_everywhere(request),
        )
        adapters.set_masks(track.masks)
        return adapters

    def _key_values(
        self,
        motions: Sequence[MotionTokens | None],
        packs: Sequence[MotionPack | None],
        strengths: Sequence[float],
    ) -> list[KeyValues]:
        """Per layer the keys and values of all objects' motions, (1, heads, ΣM, d) each. An
        object's own adapter acts on its motion tokens too."""
        g, transformer = self.geometry, self.pipe.transformer
        projected: dict[tuple[int, float], list[KeyValues]] = {}
        chosen: list[tuple[int, float]] = []
        for k, motion in enumerate(motions):
            if motion is None:
                continue
            adapter = packs[k].adapter if packs and packs[k] is not None else None
            key = (id(motion), 1.0 if adapter is None else strengths[k])
            chosen.append(key)
            if key in projected:
                continue
            motion = motion.to(transformer.device)
            gates = torch.full((1, 1, motion.tokens), key[1], device=transformer.device)
            adapters = GatedAdapters([] if adapter is None else [adapter], gates)
            with adapted(transformer, adapters):
                projected[key] = motion.key_values(transformer)
        if not chosen:
            nothing = torch.zeros(1, g.heads, 0, g.head_dim, device=self.profile.device)
            return [(nothing, nothing)] * g.layers
        per_object = [projected[key] for key in chosen]
        return [
            tuple(
                torch.cat([pairs[layer][part] for pairs in per_object], dim=2).to(
                    self.profile.device
                )
                for part in (0, 1)
            )
            for layer in range(self.geometry.layers)
        ]

    def _nouns(self, request: GenerationRequest) -> list[tuple[int, int] | None]:
        """Text positions of each moving object's name, for the ablation ``rmpm``."""
        named = []
        for number, item in enumerate(request.objects, start=1):
            if item.motion is not None and not item.name.strip():
                raise RequestError(
                    f'without "rmpm" the masks come from the objects\' names; object {number} has '
                    f'none. Name it by the word of its sentence "{item.sentence}"'
                )
            named.append(replace(item, phrase=item.name))
        return find_phrases(
            request.full_prompt(), named, self.pipe.tokenizer, self.geometry.text_tokens
        )

    def _denoise(self, request: GenerationRequest, scene: _Scene, run: _Run) -> Tensor:
        """The stock pipeline's own call; latents (1, F, C, H', W'), padding included."""
        g = self.geometry
        words: dict[str, Any] = {"prompt": request.full_prompt()}
        if scene.text is not None:
            words = {"prompt_embeds": scene.text[0], "negative_prompt_embeds": scene.text[1]}
        return self.pipe(
            image=Image.fromarray(request.image),
            **words,
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

    def _recipe(self, request: GenerationRequest, scene: _Scene) -> dict[str, Any]:
        """Plain JSON that replays the generation; ``request`` alone is what the command line takes,
        picture and masks included."""
        g = self.geometry
        digests = scene.motion_digests or ("",) * len(request.objects)
        return {
            "request": request_to_json(request, model=self.defaults.name),
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
            "model": self.defaults.name,
            "base": self.fingerprint,
            "motion_in_unconditional": self.defaults.motion_in_unconditional,
            "propagation": asdict(self.propagation),
            "width": g.width,
            "height": g.height,
            "frames": g.frames,
            "fps": g.fps,
            "device": str(self.profile.device),
            "dtype": str(self.profile.dtype).removeprefix("torch."),
            "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        }


@dataclass(frozen=True, eq=False)
class _Scene:
    """A request made ready: masks for step 0, the steering (None: stock attention), the digests of
    the motion files in the objects' order, SynMotion's adapters and the text states (conditional,
    unconditional); None where there are none."""

    track: MaskTrack
    steering: GenerationSteering | None = None
    motion_digests: tuple[str, ...] = ()
    adapters: AdapterSteering | None = None
    text: tuple[Tensor, Tensor | None] | None = None

    @contextmanager
    def installed(self, transformer: nn.Module) -> Iterator[None]:
        """What acts on the transformer during the generation; nothing for a stock one."""
        with ExitStack() as acting:
            if self.steering is not None:
                acting.enter_context(steered(transformer, self.steering))
            if self.adapters is not None:
                acting.enter_context(adapted(transformer, self.adapters.bank))
            yield


def _everywhere(request: GenerationRequest) -> bool:
    """Whether adapters act on all tokens: averaged, without masks, or for an object that is alone
    in its request, as SynMotion itself has it."""
    if request.method == "lora-average" or "infer_mask" in request.without:
        return True
    return request.method == "synmotion" and len(request.objects) == 1


class _Run:
    """The denoising steps of one generation as they are watched: masks, reports, cancelling."""

    def __init__(
        self,
        engine: MotionEngine,
        request: GenerationRequest,
        scene: _Scene,
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
            self.track = self.track.after(steering.features(), self.engine.propagation)
            steering.recording = not self.track.settled
            if steering.recording:
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


def _propagation_config(defaults: GenerationDefaults) -> PropagationConfig:
    try:
        return PropagationConfig(**defaults.rmpm)
    except TypeError as error:
        raise CheckpointError(f'the checkpoint\'s "rmpm" settings are wrong: {error}') from error
