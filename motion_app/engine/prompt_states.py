"""The text encoder's answers, computed once a prompt; the encoder may be dropped in between."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import CogVideoXImageToVideoPipeline
from torch import Tensor

from motion_app.engine.memory import DeviceProfile
from motion_app.errors import CheckpointError
from motion_app.hub import one_line

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

    def encode(self, prompt: str, *, guided: bool) -> tuple[Tensor, Tensor | None]:
        """The states of ``prompt``, and those of the empty one where ``guided``, as the stock
        pipeline computes them. CheckpointError where the encoder cannot be read."""
        states = self.encode_all([prompt, ""] if guided else [prompt])
        return states[0], states[1] if guided else None

    def encode_all(self, prompts: Sequence[str]) -> list[Tensor]:
        """The states of each of ``prompts``; a dropped encoder is read once for all of them."""
        missing = [text for text in dict.fromkeys(prompts) if text not in self._known]
        if missing:
            self._learn(missing)
        for text in prompts:
            self._known.move_to_end(text)
        states = [self._known[text] for text in prompts]
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return states

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
