"""The parts of CogVideoX around its transformer: prompts in, pixels out.

The text encoder's answers, computed once a prompt; the encoder may be dropped in between.

Latents back to pixels: the finished video, and a cheap preview while it is made.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import CogVideoXImageToVideoPipeline
from torch import Tensor

from motion_app.engine.memory import DeviceProfile
from motion_app.errors import CheckpointError, RequestError
from motion_app.geometry import ModelGeometry
from motion_app.models.hub import one_line
from motion_app.request.phrases import Clause

log = logging.getLogger(__name__)
REMEMBERED = 8  # prompts; 1.85 MB each for CogVideoX-5B


class PromptStates:
    """States (1, L, text width) of prompts. ``keep`` False reads the encoder from ``folder`` for a
    new prompt and lets it go: 9.5 GB of main memory for CogVideoX-5B."""

    def __init__(
        self,
        pipe: CogVideoXImageToVideoPipeline,
        folder: Path,
        *,
        profile: DeviceProfile,
        text_tokens: int,
        keep: bool = True,
    ) -> None:
        self.pipe, self.folder, self.profile = pipe, folder, profile
        self.text_tokens, self.keep = text_tokens, keep
        self._known: OrderedDict[str, Tensor] = OrderedDict()
        if not keep:
            pipe.text_encoder = None

    def encode(
        self, prompt: str, *, guided: bool, apart: Sequence[Clause] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """The states of ``prompt``, and those of the empty one where ``guided``, as the stock
        pipeline computes them. CheckpointError where the encoder cannot be read; ``apart`` as
        ``encode_all`` has it."""
        prompts = [prompt, ""] if guided else [prompt]
        states = self.encode_all(prompts, apart=[apart, ()][: len(prompts)])
        return states[0], states[1] if guided else None

    def encode_all(
        self, prompts: Sequence[str], *, apart: Sequence[Sequence[Clause]] | None = None
    ) -> list[Tensor]:
        """The states of each of ``prompts``; a dropped encoder is read once for all of them.

        ``apart``: clauses of each prompt whose subject and motion words get the states that they
        have when each is all there is to read. RequestError where they are other tokens then.
        """
        spans = [
            (number, span)
            for number, clauses in enumerate(apart or ())
            for clause in clauses
            for span in clause.spans
        ]
        alone = [self._words(prompts[number], span) for number, span in spans]
        texts = [*alone, *prompts]  # the prompts last: they are the ones remembered longest
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        if missing:
            self._learn(missing)
        for text in texts:
            self._known.move_to_end(text)
        found = [self._known[text] for text in texts]
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        states = found[len(alone) :]
        for (number, (start, stop)), words in zip(spans, found, strict=False):
            states[number] = states[number].clone()
            states[number][:, start:stop] = words[:, : stop - start]  # (1, n, text width)
        return states

    def _words(self, prompt: str, span: tuple[int, int]) -> str:
        """What the tokens of ``span`` say."""
        ids = self.pipe.tokenizer(prompt)["input_ids"][slice(*span)]
        words = self.pipe.tokenizer.decode(ids).strip()
        if self.pipe.tokenizer(words)["input_ids"][: len(ids)] != ids:
            raise RequestError(
                f'"{words}" is read as other tokens alone than in "{prompt}"; put spaces around it'
            )
        return words

    def forget(self) -> None:
        """Every prompt so far, where the next one is somebody else's."""
        self._known.clear()

    @torch.no_grad()
    def _learn(self, texts: list[str]) -> None:
        borrowed = self.pipe.text_encoder is None
        if borrowed:
            self.pipe.text_encoder = self._read()
        try:
            for text in texts:
                self._known[text] = self.pipe.encode_prompt(
                    text,
                    None,
                    do_classifier_free_guidance=False,
                    max_sequence_length=self.text_tokens,
                    device=self.profile.device,
                )[0]
        finally:
            if borrowed:
                self.pipe.text_encoder = None
                if self.profile.device.type == "cuda":
                    torch.cuda.empty_cache()

    def _read(self) -> torch.nn.Module:
        """The encoder alone, on the device: nothing else of size need be there beside it."""
        from transformers import T5EncoderModel

        log.info("reading the text encoder for a new prompt")
        try:
            encoder = T5EncoderModel.from_pretrained(
                self.folder / "text_encoder", dtype=self.profile.dtype, local_files_only=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the text encoder of {self.folder.name} cannot be read: {one_line(error)}"
            ) from error
        return encoder.eval().to(self.profile.device)


class LatentDecoder:
    """The VAE's way back, for one checkpoint on ``device``."""

    def __init__(
        self, pipe: CogVideoXImageToVideoPipeline, geometry: ModelGeometry, device: torch.device
    ) -> None:
        self.pipe = pipe
        self.geometry = geometry
        self.device = device

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (1, F, C, H', W') as frames (T, H, W, 3) uint8, as the stock pipeline does it.

        On the CPU the clip is decoded twice over in one batch: at batch 1 PyTorch's 3-D convolution
        takes a path ten times slower. Raises CheckpointError for another number of frames than T.
        """
        copies = 2 if self.device.type == "cpu" else 1
        latents = latents.to(self.device, self.pipe.vae.dtype).repeat(copies, 1, 1, 1, 1)
        video = self.pipe.decode_latents(latents)[0]  # (3, T, H, W)
        if video.shape[1] != self.geometry.frames:
            raise CheckpointError(
                f"the VAE decoded {video.shape[1]} frames, expected {self.geometry.frames}; "
                "its config and weights do not belong together"
            )
        return _to_pixels(video.movedim(0, -1))  # (T, H, W, 3)

    def preview(self, latents: np.ndarray) -> np.ndarray:
        """``draw_preview`` by this VAE's own colours."""
        return draw_preview(latents, self.colours, self.geometry)

    @cached_property
    @torch.no_grad()
    def colours(self) -> np.ndarray:
        """(C + 1, 3) float32, the linear map from latent channels to colour that fits this VAE
        best: least squares from the latents of a patchwork of colours to its pixels."""
        size = (self.geometry.height, self.geometry.width)
        draws = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
        picture = F.interpolate(draws, size, mode="nearest") * 2 - 1  # (2, 3, H, W)
        vae = self.pipe.vae
        encoded = vae.encode(picture[:, :, None].to(self.device, vae.dtype)).latent_dist.mode()
        latents = encoded[:, :, 0].float().cpu() * self.pipe.vae_scaling_factor_image
        small = F.interpolate(picture, latents.shape[-2:], mode="area")  # (2, 3, H', W')
        rows = _with_one(latents.movedim(1, -1).flatten(0, 2))  # (2 * H' * W', C + 1)
        return torch.linalg.lstsq(rows, small.movedim(1, -1).flatten(0, 2)).solution.numpy()


def draw_preview(latents: np.ndarray, colours: np.ndarray, geometry: ModelGeometry) -> np.ndarray:
    """Latents (F, C, H', W') float as frames (F, H, W, 3) uint8, one per latent frame; ``colours``
    as ``LatentDecoder.colours``. On the CPU, wherever the VAE is."""
    channels = torch.as_tensor(latents).float().movedim(1, -1)  # (F, H', W', C)
    pixels = (_with_one(channels) @ torch.from_numpy(colours)).movedim(-1, 1)  # (F, 3, H', W')
    size = (geometry.height, geometry.width)
    pixels = F.interpolate(pixels, size, mode="bilinear")  # (F, 3, H, W)
    return _to_pixels(pixels.movedim(1, -1))  # (F, H, W, 3)


def _with_one(channels: Tensor) -> Tensor:
    """(…, C) → (…, C + 1): a constant channel for the offset."""
    return F.pad(channels, (0, 1), value=1.0)


def _to_pixels(values: Tensor) -> np.ndarray:
    """Values around [-1, 1] as uint8, rounded as diffusers does."""
    return ((values.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
