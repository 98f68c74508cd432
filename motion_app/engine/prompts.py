"""The text encoder's answers, computed once a prompt. Pure: what reads them is handed in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from motion_app.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from motion_app.scene import Clause

REMEMBERED = 8  # prompts; 1.85 MB each for CogVideoX-5B


class PromptStates:
    """States (1, L, text width) of prompts. ``read``: what the text encoder says of some prompts,
    (1, L, text width) each; ``tokenizer`` the one it reads them with."""

    def __init__(self, tokenizer: Any, read: Callable[[Sequence[str]], list[Tensor]]) -> None:
        self.tokenizer, self.read = tokenizer, read
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    def encode(
        self, prompt: str, *, guided: bool, apart: Sequence[Clause] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """The states of ``prompt``, and those of the empty one where ``guided``, as the stock
        pipeline computes them. CheckpointError where the encoder cannot be read; ``apart`` as
        ``encode_all`` has it."""
        prompts = [prompt, ""] if guided else [prompt]
        whole: Sequence[Clause] = ()
        states = self.encode_all(prompts, apart=[apart, whole][: len(prompts)])
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
            self._known.update(zip(missing, self.read(missing), strict=True))
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

    def forget(self) -> None:
        """Every prompt so far, where the next one is somebody else's."""
        self._known.clear()

    def _words(self, prompt: str, span: tuple[int, int]) -> str:
        """What the tokens of ``span`` say."""
        ids = self.tokenizer(prompt)["input_ids"][slice(*span)]
        words = self.tokenizer.decode(ids).strip()
        if self.tokenizer(words)["input_ids"][: len(ids)] != ids:
            raise RequestError(
                f'"{words}" is read as other tokens alone than in "{prompt}"; put spaces around it'
            )
        return words
