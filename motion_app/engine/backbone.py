"""The video model that is steered, CogVideoX: everything the method asks of it.

No other file of the engine or of the training knows this model: its attention layers and their
call, its pipeline, its VAE, what its transformer predicts and from what. The seams are diffusers'
own: attention processors, the step-end callback, ``interrupt``, latent output. Nothing of diffusers
is forked or patched.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from PIL import Image
from torch import Tensor, nn

from motion_app.engine.joint_attention import JointAttention
from motion_app.engine.layers import AttentionLayer, System
from motion_app.engine.memory import DeviceProfile, Placing
from motion_app.engine.previews import fit_colours, patchwork, to_pixels
from motion_app.engine.prompts import PromptStates
from motion_app.errors import CheckpointError
from motion_app.geometry import ModelGeometry
from motion_app.models.checkpoint import Checkpoint
from motion_app.models.devices import READING
from motion_app.models.hub import one_line

log = logging.getLogger(__name__)

# Called after every denoising step: its number from 1, and the estimate of the clean latents
# (F, C, H', W') float32 where it was asked for. False stops.
OnDenoised = Callable[[int, Tensor | None], bool]
# The modules of the attention layers by their names in the transformer, for diffusers' caches.
ATTENTION_NAMES = r"transformer_blocks\.\d+\.attn1"
# Where the authors' published weights have a layer's motion tokens.
PUBLISHED_TOKENS = "transformer_blocks.{}.attn1.processor.motion_inversion_tokens"
# Low-rank adapters as diffusers, PEFT and kohya name them, as FlexiAct does in its processors, and
# as ours are written: the layer, the projection, and which side it is or, of kohya, the strength.
LORA_NAME = re.compile(
    r"transformer_blocks[._](\d+)[._]attn1[._](?:processor\.lora_)?"
    r"(to_q|to_k|to_v|to_out|q|k|v|proj)(?:[._]0)?"
    r"(?:\.(?:lora[._])?(A|B|down|up)(?:\.default)?\.weight|\.(alpha))$"
)
WRITTEN_LORA = "transformer.transformer_blocks.{}.attn1.{}.lora_{}.weight"
PUBLISHED_NAME = re.compile(re.escape(PUBLISHED_TOKENS).replace(r"\{\}", r"(\d+)"))


class OpenPipeline(CogVideoXImageToVideoPipeline):
    """The stock pipeline with one more seam: ``begin`` turns the noise that it has drawn and the
    picture's latents into what denoising starts from; None leaves them."""

    begin: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def prepare_latents(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        prepared = super().prepare_latents(*arguments, **options)
        return prepared if self.begin is None else self.begin(*prepared)


class Backbone:
    """One loaded checkpoint. ``pipe`` is diffusers' stock pipeline, ``profile`` where its models
    are, ``prompts`` the states of prompts. ``keep_text_encoder`` False reads the encoder for a new
    prompt and lets it go: 9.5 GB of main memory for CogVideoX-5B."""

    def __init__(
        self,
        pipe: Any,
        checkpoint: Checkpoint,
        profile: DeviceProfile,
        *,
        keep_text_encoder: bool = True,
    ) -> None:
        self.pipe, self.checkpoint, self.profile = pipe, checkpoint, profile
        if not keep_text_encoder:
            self.pipe.text_encoder = None
        self.prompts = PromptStates(self.pipe.tokenizer, self.encode_text)

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, profile: DeviceProfile, *, keep_text_encoder: bool = True
    ) -> Backbone:
        """The models of ``checkpoint``, placed by ``profile`` or, where the device runs out of
        memory, by the next smaller one. CheckpointError for what cannot be read as this model."""
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        if not keep_text_encoder:
            options["text_encoder"] = None
        kind = OpenPipeline if checkpoint.geometry.with_picture else CogVideoXPipeline
        try:
            with READING:
                pipe = kind.from_pretrained(checkpoint.folder, dtype=profile.dtype, **options)
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"{checkpoint.folder.name} cannot be loaded as a CogVideoX image-to-video or "
                f"text-to-video checkpoint: {one_line(error)}"
            ) from error
        profile = profile.place(pipe)
        pipe.set_progress_bar_config(disable=True)
        return cls(pipe, checkpoint, profile, keep_text_encoder=keep_text_encoder)

    @property
    def geometry(self) -> ModelGeometry:
        """Its sizes."""
        return self.checkpoint.geometry

    @property
    def transformer(self) -> Any:
        """The network that denoises, a ``ModelMixin`` of diffusers."""
        return self.pipe.transformer

    @property
    def tokenizer(self) -> Any:
        """What splits prompts, a fast tokenizer of transformers."""
        return self.pipe.tokenizer

    @property
    def text_width(self) -> int:
        """Width of a text state."""
        return self.transformer.config.text_embed_dim

    @property
    def training_steps(self) -> int:
        """How many noise levels the scheduler knows."""
        return self.pipe.scheduler.config.num_train_timesteps

    def blocks(self, transformer: nn.Module | None = None) -> list[Any]:
        """The transformer's blocks in order; ``transformer`` is a copy of it, None itself. Called
        with ``hidden_states`` (B, V, D), a block gives the video tokens first."""
        network: Any = transformer or self.transformer
        return list(network.transformer_blocks)

    def attention_layers(self, transformer: nn.Module | None = None) -> Sequence[AttentionLayer]:
        """The attention of each block, where motions act; ``transformer`` as ``blocks`` has it."""
        blocks = enumerate(self.blocks(transformer))
        return [JointAttention(number, block.attn1) for number, block in blocks]

    def parts_to_compile(self, transformer: nn.Module | None = None) -> list[nn.Module]:
        """What surrounds the attention of each block, modulation and feed-forward. They are alike
        in all blocks, so that each is compiled once."""
        parts = ((block.norm1, block.norm2, block.ff) for block in self.blocks(transformer))
        return [part for triple in parts for part in triple]

    def step_down(self, error: Exception) -> None:
        """The next smaller memory profile, after ``error``."""
        self.profile = self.profile.step_down(self.pipe, error)

    def begin_learning(self) -> None:
        """The transformer alone on the device, with gradient checkpointing; the others wait in main
        memory."""
        Placing(self.pipe, self.profile.device).release()
        self.transformer.to(self.profile.device)
        self.transformer.enable_gradient_checkpointing()

    def end_learning(self) -> None:
        """All models where the profile wants them."""
        self.transformer.disable_gradient_checkpointing()
        self.profile = self.profile.place(self.pipe)

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """All models in main memory while inside, and the device for others."""
        Placing(self.pipe, self.profile.device).release()
        try:
            yield
        finally:
            self.profile = self.profile.place(self.pipe)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> list[Tensor]:
        """The states of each prompt, (1, L, text width), as the stock pipeline computes them."""
        told: dict[str, Any] = {"do_classifier_free_guidance": False, "device": self.profile.device}
        told["max_sequence_length"] = self.geometry.text_tokens
        borrowed = self.pipe.text_encoder is None
        if borrowed:
            self.pipe.text_encoder = self._read_text_encoder()
        try:
            return [self.pipe.encode_prompt(prompt, None, **told)[0] for prompt in prompts]
        finally:
            if borrowed:
                self.pipe.text_encoder = None
                if self.profile.device.type == "cuda":
                    torch.cuda.empty_cache()

    def _read_text_encoder(self) -> nn.Module:
        """The encoder alone, on the device: nothing else of size need be there beside it."""
        from transformers import T5EncoderModel

        log.info("reading the text encoder for a new prompt")
        folder = self.checkpoint.folder
        options: dict[str, Any] = {"local_files_only": True, "dtype": self.profile.dtype}
        try:
            with READING:
                encoder = T5EncoderModel.from_pretrained(folder / "text_encoder", **options)
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the text encoder of {folder.name} cannot be read: {one_line(error)}"
            ) from error
        return encoder.eval().to(self.profile.device)

    @torch.no_grad()
    def encode_clip(self, frames: np.ndarray) -> tuple[Tensor, Tensor]:
        """``frames`` (T, H, W, 3), 0 to 255 → mean and deviation of the normal distribution that
        the VAE gives for their latents, (1, F, C, H', W') float32 each on the CPU, scaled as the
        transformer takes latents; a picture alone, T = 1, gives F = 1."""
        vae = self.pipe.vae
        video = torch.from_numpy(frames).to(vae.device).permute(3, 0, 1, 2)  # (3, T, H, W)
        video = (video.float() / 127.5 - 1).to(vae.dtype)
        # On a CPU conv3d at batch 1 falls to a kernel ten times slower.
        batch = torch.stack([video] * (2 if vae.device.type == "cpu" else 1))
        posterior = vae.encode(batch).latent_dist
        scaled = [
            part[:1] * vae.config.scaling_factor for part in (posterior.mode(), posterior.std)
        ]
        mean, deviation = (part.transpose(1, 2).float().cpu() for part in scaled)
        return mean, deviation

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (1, F, C, H', W') as frames (T, H, W, 3) uint8, as the stock pipeline does it.

        On the CPU the clip is decoded twice over in one batch: at batch 1 PyTorch's 3-D convolution
        takes a path ten times slower. Raises CheckpointError for another number of frames than T.
        """
        device = self.profile.device
        copies = 2 if device.type == "cpu" else 1
        latents = latents.to(device, self.pipe.vae.dtype).repeat(copies, 1, 1, 1, 1)
        video = self.pipe.decode_latents(latents)[0]  # (3, T, H, W)
        if video.shape[1] != self.geometry.frames:
            raise CheckpointError(
                f"the VAE decoded {video.shape[1]} frames, expected {self.geometry.frames}; "
                "its config and weights do not belong together"
            )
        return to_pixels(video.movedim(0, -1))  # (T, H, W, 3)

    @cached_property
    @torch.no_grad()
    def colours(self) -> np.ndarray:
        """(C + 1, 3) float32: ``fit_colours`` of this VAE."""
        vae, pictures = self.pipe.vae, patchwork(self.geometry)
        encoded = vae.encode(pictures[:, :, None].to(self.profile.device, vae.dtype))
        latents = encoded.latent_dist.mode()[:, :, 0].float().cpu()
        return fit_colours(pictures, latents * self.pipe.vae_scaling_factor_image)

    def denoise(
        self,
        image: np.ndarray | None,
        text: tuple[Tensor, Tensor | None],
        *,
        steps: int,
        guidance: float,
        seed: int,
        on_step: OnDenoised,
        estimates: bool = False,
        system: System | None = None,
    ) -> Tensor:
        """The stock pipeline's own call: latents (1, F, C, H', W') of a video that begins with
        ``image`` (H, W, 3) uint8, None for one from words alone.

        ``text``: conditional and unconditional states, (1, L, text width) each, the latter None
        where ``guidance`` is not above 1. ``on_step`` is called after each step; ``estimates``: it
        gets the estimate of the clean latents. ``system``: what it starts from, and what becomes of
        each step.
        """
        g = self.geometry
        newest: list[Tensor] = []

        def ended(pipe: Any, index: int, timestep: Tensor, tensors: dict) -> dict[str, Any]:
            if not on_step(index + 1, newest[0] if estimates else None):
                pipe._interrupt = True  # diffusers' documented way to leave the loop
            elif system is not None:
                return {"latents": system.after_step(index, tensors["latents"])}
            return {}

        watched = self._watched(guidance, newest) if estimates else nullcontext()
        with watched, self._begun(system, image) as pictured:
            latents = self.pipe(
                **pictured,
                prompt_embeds=text[0],
                negative_prompt_embeds=text[1],
                height=g.height,
                width=g.width,
                num_frames=g.frames,
                num_inference_steps=steps,
                guidance_scale=guidance,
                use_dynamic_cfg=False,  # the stock formula makes guidance jump from step to step
                generator=torch.Generator("cpu").manual_seed(seed),
                output_type="latent",
                max_sequence_length=g.text_tokens,
                callback_on_step_end=ended,
                callback_on_step_end_tensor_inputs=["latents"],
            ).frames
        return latents[:, g.spare_latent_frames :]

    @contextmanager
    def _begun(self, system: System | None, image: np.ndarray | None) -> Iterator[dict[str, Any]]:
        """Denoising starts from what ``system`` makes of the noise. Gives what the pipeline is told
        of the picture: where there is none, nothing; or, of a transformer with channels for its
        latents, that they are zeros, as in training."""
        g = self.geometry
        if not g.with_picture:
            yield {}
            return
        shown = np.zeros((g.height, g.width, 3), np.uint8) if image is None else image

        def begin(noise: Tensor, pictured: Tensor) -> tuple[Tensor, Tensor]:
            latents = noise if system is None else system.initial_latents(noise)
            return latents, torch.zeros_like(pictured) if image is None else pictured

        self.pipe.begin = begin
        try:
            yield {"image": Image.fromarray(shown)}
        finally:
            self.pipe.begin = None

    @contextmanager
    def shortened(self, blocks: int) -> Iterator[None]:
        """The transformer ends behind so many blocks while inside, for who reads the last of them;
        on a GPU what lies between two is computed again for a gradient."""
        network, recomputed = self.transformer, self.profile.device.type == "cuda"
        whole = network.transformer_blocks
        network.transformer_blocks = nn.ModuleList(whole[:blocks])
        if recomputed:
            network.enable_gradient_checkpointing()
        try:
            yield
        finally:
            network.transformer_blocks = whole
            if recomputed:
                network.disable_gradient_checkpointing()

    def timesteps(self, steps: int) -> list[int]:
        """The noise levels of a denoising of so many steps, noisiest first."""
        scheduler = copy.deepcopy(self.pipe.scheduler)
        scheduler.set_timesteps(steps)
        return [int(timestep) for timestep in scheduler.timesteps]

    def kept(self, timestep: int | None) -> float:
        """The share of the clean latents' variance at a noise level; None is none at all."""
        return 1.0 if timestep is None else self.pipe.scheduler.alphas_cumprod[timestep].item()

    @contextmanager
    def counted(self) -> Iterator[list[int]]:
        """A list that grows by a number with every forward pass: how many videos were in it."""
        counts: list[int] = []

        def count(module: nn.Module, arguments: tuple, options: dict[str, Any]) -> None:
            counts.append(len(options["hidden_states"]))

        with self.transformer.register_forward_pre_hook(count, with_kwargs=True):
            yield counts

    def current_timestep(self) -> int:
        """Of the step under way."""
        return int(self.pipe.current_timestep)

    def clean_estimate(self, noisy: Tensor, prediction: Tensor, timestep: int) -> Tensor:
        """Clean latents (B, F, C, H', W') from ``noisy`` ones and the transformer's ``prediction``,
        guidance included."""
        kept = self.pipe.scheduler.alphas_cumprod[timestep].item()
        kind = self.pipe.scheduler.config.prediction_type
        if kind == "v_prediction":
            return kept**0.5 * noisy - (1 - kept) ** 0.5 * prediction
        if kind == "epsilon":
            return (noisy - (1 - kept) ** 0.5 * prediction) / max(kept, 1e-8) ** 0.5
        return prediction

    def _watched(self, guidance: float, newest: list[Tensor]) -> AbstractContextManager:
        """Keep in ``newest`` the clean estimate (F, C, H', W') float32 of the last forward pass."""
        g = self.geometry

        def predicted(module: nn.Module, args: tuple, kwargs: dict, output: tuple) -> None:
            prediction = output[0].float()  # (1 or 2, F, C, H', W')
            if len(prediction) == 2:
                unconditional, conditional = prediction.chunk(2)
                prediction = unconditional + guidance * (conditional - unconditional)
            noisy = kwargs["hidden_states"][-1:, :, : g.latent_channels].float()
            clean = self.clean_estimate(noisy, prediction, int(kwargs["timestep"][0]))
            newest[:] = [clean[0, g.spare_latent_frames :]]

        return self.transformer.register_forward_hook(predicted, with_kwargs=True)

    def padded(self, latents: Tensor) -> Tensor:
        """``latents`` (B, F, C, H', W') with the first frame repeated in front where a token spans
        several latent frames and F does not divide, as the stock pipeline has it."""
        spare = self.geometry.padded_latent_frames - latents.shape[1]
        return torch.cat([latents[:, :spare], latents], dim=1)

    def image_condition(self, images: Tensor, latents: Tensor) -> Tensor:
        """What the stock pipeline hands the transformer beside ``latents`` (B, F, C, H', W'),
        padded, for pictures encoded alone, ``images`` (B, C, H', W'): these in front, zeros after,
        of the shape of ``latents``; no channels where the transformer has none for a picture."""
        vae, geometry = self.pipe.vae.config, self.geometry
        if not geometry.with_picture:
            return latents[:, :, :0]
        if vae.invert_scale_latents:  # 1.5 reads its picture divided by the factor
            images = images / vae.scaling_factor**2
        condition = torch.zeros_like(latents)
        condition[:, : 1 + geometry.spare_latent_frames] = images[:, None]
        return condition

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``latents`` and ``noise`` (B, F, C, H', W') mixed as the scheduler does at ``timesteps``
        (B,) int64."""
        return self.pipe.scheduler.add_noise(latents, noise, timesteps)

    def predict(self, noisy: Tensor, condition: Tensor, text: Tensor, timesteps: Tensor) -> Tensor:
        """The transformer's prediction (B, F, C, H', W') from ``noisy`` latents, padded, their
        ``image_condition`` and ``text`` (B, L, text width)."""
        transformer = self.transformer
        # The stock pipeline's own constant, for CogVideoX 1.5 alone.
        ofs = None if transformer.config.ofs_embed_dim is None else noisy.new_full((1,), 2.0)
        return transformer(
            hidden_states=torch.cat([noisy, condition], dim=2).to(transformer.dtype),
            encoder_hidden_states=text.to(transformer.dtype),
            timestep=timesteps,
            ofs=ofs,
            image_rotary_emb=self.rotary,
            return_dict=False,
        )[0]

    def velocity_miss(
        self, latents: Tensor, noise: Tensor, condition: Tensor, text: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predicted minus true velocity (B, F, C, H', W') float32, and what of a velocity's error
        is that of the clean latents, (B, 1, 1, 1, 1); the arguments as ``predict`` and ``noisy``
        have them."""
        noisy = self.noisy(latents, noise, timesteps)
        velocity = self.predict(noisy, condition, text, timesteps).float()
        kept = self.pipe.scheduler.alphas_cumprod.to(latents)[timesteps].view(-1, 1, 1, 1, 1)
        target = kept.sqrt() * noise - (1 - kept).sqrt() * latents
        return velocity - target, -(1 - kept).sqrt()

    @cached_property
    def rotary(self) -> tuple[Tensor, Tensor] | None:
        """(cos, sin) of the video tokens, (V, d) each, as the stock pipeline computes them for its
        own denoising loop; None for a checkpoint without rotary positions."""
        if not self.transformer.config.use_rotary_positional_embeddings:
            return None
        g, device = self.geometry, self.transformer.device
        with torch.autocast(device.type, enabled=False):  # learning may ask in one
            return self.pipe._prepare_rotary_positional_embeddings(
                g.height, g.width, g.padded_latent_frames, device
            )
