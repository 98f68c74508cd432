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
from motion_app.errors import CheckpointError, RequestError
from motion_app.hub import one_line
from motion_app.phrases import Clause

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
