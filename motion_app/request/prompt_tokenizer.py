"""A checkpoint's tokenizer without its networks: counts a prompt before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from motion_app.errors import CheckpointError
from motion_app.models.checkpoint import Checkpoint
from motion_app.models.hub import one_line
from motion_app.request.phrases import check_length

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FOLDER = "tokenizer"  # of a checkpoint


class PromptTokenizer:
    """Reads prompts as the loaded pipeline does. ``text_tokens``: L, the tokens the checkpoint
    reads. Many threads may ask it at once."""

    def __init__(self, tokenizer: Tokenizer, text_tokens: int) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self.text_tokens = tokenizer, text_tokens

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> PromptTokenizer:
        """The tokenizer of ``checkpoint``; CheckpointError where it cannot be read. Takes
        transformers, half a second, and no torch."""
        from transformers import T5TokenizerFast  # type: ignore[attr-defined]

        folder = checkpoint.folder
        try:
            read = T5TokenizerFast.from_pretrained(folder / FOLDER, local_files_only=True)
        except Exception as error:  # its converters raise what the files make them
            raise CheckpointError(
                f"the tokenizer of {folder.name} cannot be read: {one_line(error)}"
            ) from error
        return cls(read.backend_tokenizer, checkpoint.geometry.text_tokens)

    @classmethod
    def load_if_there(cls, checkpoint: Checkpoint) -> PromptTokenizer | None:
        """As ``load``; None where the checkpoint's tokenizer is not in its folder (yet)."""
        place = checkpoint.folder / FOLDER
        return cls.load(checkpoint) if place.is_dir() and any(place.iterdir()) else None

    def __call__(self, prompt: str, **asked: Any) -> dict[str, Any]:
        """What a fast transformers tokenizer answers when asked for special tokens, offsets and no
        truncation; ``asked`` changes nothing."""
        encoded = self._tokenizer.encode(prompt, add_special_tokens=True)
        return {
            "input_ids": encoded.ids,
            "offset_mapping": encoded.offsets,
            "special_tokens_mask": encoded.special_tokens_mask,
        }

    def count(self, prompt: str) -> int:
        """Tokens of ``prompt``, the end token included."""
        return len(self(prompt)["input_ids"])

    def check(self, prompt: str) -> None:
        """RequestError for more tokens than the checkpoint reads."""
        check_length(self.count(prompt), self.text_tokens)
