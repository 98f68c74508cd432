"""Where each object's motion phrase lies in the prompt: in its characters, then in its tokens.

A checkpoint's tokenizer is read without its networks, so that a prompt is counted before anything
is computed."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from motion_app.errors import CheckpointError, RequestError
from motion_app.models.checkpoint import Checkpoint
from motion_app.models.hub import one_line
from motion_app.scene import Clause, SceneObject
from motion_app.wording import Reading, difference, uses

if TYPE_CHECKING:
    from tokenizers import Tokenizer


PART_END = re.compile(r"[.,;:!?。、\n]")  # a subject does not reach beyond one
LEAD = re.compile(r"\s*(?:and\s+)?(?:(?:an?|the)\s+)?", re.IGNORECASE)
TOKENIZER_FOLDER = "tokenizer"  # of a checkpoint


def occurrences(phrase: str, text: str) -> list[tuple[int, int]]:
    """Character spans of ``phrase`` in ``text`` as whole words, both as they are read: white space
    and Unicode's forms are alike (``wording.Reading``)."""
    reading = Reading.of(text)
    found = uses([Reading.of(phrase).text], reading.text)
    return [reading.written(start, stop) for _, start, stop in found]


def check_phrase(item: SceneObject, number: int) -> None:
    """RequestError where the sentence of object ``number``, from 1, does not hold its motion phrase
    exactly once."""
    count = len(occurrences(item.phrase, item.sentence))
    if count == 1:
        return
    fault = f"occurs {count} times in" if count else "does not occur in"
    raise RequestError(
        f'the motion phrase "{item.phrase}" of object {number} {fault} its sentence '
        f'"{item.sentence}"; write it there exactly once'
        + ("" if count else difference(item.phrase.strip(), item.sentence))
    )


def phrase_spans(prompt: str, objects: Sequence[SceneObject]) -> list[tuple[int, int] | None]:
    """Character spans (start, stop) of each object's motion phrase in ``prompt``; None for one
    without a motion.

    A prompt composed of the objects' sentences has each phrase inside its own sentence. In an
    edited one the k-th use of a wording belongs to the k-th object that has it; objects without a
    motion count where their own sentence has the wording. RequestError where the counts differ.
    """
    reading = Reading.of(prompt)
    sentences = [Reading.of(item.sentence).text for item in objects]
    composed = " ".join(sentence for sentence in sentences if sentence)
    if reading.text == composed:
        spans = _spans_in_sentences(objects, sentences)
    else:
        spans = _spans_in_edited(prompt, reading.text, objects)
    return [None if span is None else reading.written(*span) for span in spans]


def _spans_in_sentences(
    objects: Sequence[SceneObject], sentences: Sequence[str]
) -> list[tuple[int, int] | None]:
    """Spans in the ``sentences`` as they are read, joined by single spaces."""
    spans: list[tuple[int, int] | None] = []
    start = 0
    for number, (item, sentence) in enumerate(zip(objects, sentences, strict=True), start=1):
        if item.motion is None:
            spans.append(None)
        else:
            check_phrase(item, number)
            ((_, first, last),) = uses([Reading.of(item.phrase).text], sentence)
            spans.append((start + first, start + last))
        start += len(sentence) + 1 if sentence else 0
    return spans


def _spans_in_edited(
    prompt: str, text: str, objects: Sequence[SceneObject]
) -> list[tuple[int, int] | None]:
    """Spans in ``text``, which is ``prompt`` as it is read."""
    wordings = [
        Reading.of(item.phrase).text
        if item.motion is not None or occurrences(item.phrase, item.sentence)
        else None
        for item in objects
    ]
    moving = {w for w, item in zip(wordings, objects, strict=True) if item.motion is not None}
    # The longest wording first, so that "is moving" is not found inside "is moving up".
    ordered = sorted({wording for wording in wordings if wording}, key=len, reverse=True)
    found: dict[str | None, list[tuple[int, int]]] = {wording: [] for wording in wordings}
    for wording, start, stop in uses(ordered, text):
        found[wording].append((start, stop))
    for needed, wanted in Counter(wordings).items():
        if needed in moving and len(found[needed]) != wanted:
            count = len(found[needed])
            raise RequestError(
                f'the motion phrase "{needed}" is needed {wanted} times but occurs {count} times '
                f'in the prompt "{prompt}"; write it once for each object that has it'
                + (difference(str(needed), prompt) if count < wanted else "")
            )
    queues = {wording: iter(spans) for wording, spans in found.items()}
    taken = [None if wording is None else next(queues[wording], None) for wording in wordings]
    return [
        span if item.motion is not None else None for span, item in zip(taken, objects, strict=True)
    ]


def find_phrases(
    prompt: str, objects: Sequence[SceneObject], tokenizer: Any, text_tokens: int
) -> list[tuple[int, int] | None]:
    """Token spans (start, stop) of each object's motion phrase; None for one without a motion.

    ``tokenizer``: a fast transformers tokenizer (it knows each token's characters);
    ``text_tokens``: L, the tokens the checkpoint reads. RequestError for a prompt that is too long,
    or a phrase that is missing, ambiguous or shares a token with another object's.
    """
    _, pieces = _read_pieces(prompt, tokenizer, text_tokens)
    return _token_spans(prompt, objects, phrase_spans(prompt, objects), pieces)


def _token_spans(
    prompt: str,
    objects: Sequence[SceneObject],
    characters: Sequence[tuple[int, int] | None],
    pieces: Sequence[tuple[int, int] | None],
) -> list[tuple[int, int] | None]:
    spans = [None if span is None else _token_span(prompt, span, pieces) for span in characters]
    taken: set[int] = set()
    for span, item in zip(spans, objects, strict=True):
        tokens = set() if span is None else set(range(*span))
        if tokens & taken:
            raise RequestError(
                f'the motion phrase "{item.phrase}" shares a word with another object\'s in '
                f'"{prompt}"; put a space or full stop between them'
            )
        taken |= tokens
    return spans


def find_clauses(
    prompt: str, objects: Sequence[SceneObject], tokenizer: Any, text_tokens: int
) -> list[Clause | None]:
    """Token roles of each object's clause in ``prompt``; None for an object without a motion.

    The subject is the object's ``name`` where that stands before its motion words in the same part
    of the sentence, else all words there but a leading "and" and article. Errors and arguments as
    ``find_phrases``.
    """
    ids, pieces = _read_pieces(prompt, tokenizer, text_tokens)
    characters = phrase_spans(prompt, objects)
    motions = _token_spans(prompt, objects, characters, pieces)
    clauses: list[Clause | None] = []
    for motion, span, item in zip(motions, characters, objects, strict=True):
        if motion is None or span is None:
            clauses.append(None)
            continue
        before = [other[1] for other in characters if other and other[1] <= span[0]]
        named = _subject_characters(prompt, max(before, default=0), span[0], item.name.strip())
        subject = None if named is None else _token_span(prompt, named, pieces)
        clauses.append(Clause(motion, subject, tuple(ids[slice(*motion)])))
    return clauses


def _subject_characters(prompt: str, start: int, stop: int, name: str) -> tuple[int, int] | None:
    """Characters of the subject between the clause before and the motion words at ``stop``."""
    start += max((mark.end() for mark in PART_END.finditer(prompt[start:stop])), default=0)
    part = prompt[start:stop]
    uses = occurrences(name, part)
    if uses:
        return start + uses[-1][0], start + uses[-1][1]
    leading = LEAD.match(part)
    lead = leading.end() if leading else 0
    end = len(part.rstrip())
    return (start + lead, start + end) if lead < end else None


def _read_pieces(
    prompt: str, tokenizer: Any, text_tokens: int
) -> tuple[list[int], list[tuple[int, int] | None]]:
    """Ids and characters of the prompt's tokens; RequestError for more than the model reads."""
    encoded = tokenizer(
        prompt,
        add_special_tokens=True,
        truncation=False,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    ids = list(encoded["input_ids"])
    check_length(len(ids), text_tokens)
    return ids, _word_offsets(prompt, encoded["offset_mapping"], encoded["special_tokens_mask"])


def check_length(tokens: int, most: int) -> None:
    """RequestError where a prompt has more ``tokens``, its end token included, than the model
    reads: the rest would be cut off in silence."""
    if tokens > most:
        raise RequestError(f"the prompt has {tokens} tokens, the model reads {most}; shorten it")


def _word_offsets(
    prompt: str, offsets: Sequence[tuple[int, int]], special: Sequence[int]
) -> list[tuple[int, int] | None]:
    """Each token's characters without white space; None for special tokens.

    SentencePiece counts the space before a word as the word's, and may make a token of the space
    alone: such a token belongs to the word after it.
    """
    pieces: list[tuple[int, int] | None] = []
    following: tuple[int, int] | None = None
    for (start, stop), is_special in reversed(list(zip(offsets, special, strict=True))):
        if is_special:
            pieces.append(None)
            continue
        text = prompt[start:stop]
        stripped = text.strip()
        if stripped:
            start += len(text) - len(text.lstrip())
            following = (start, start + len(stripped))
        pieces.append(following)
    return pieces[::-1]


def _token_span(
    prompt: str, characters: tuple[int, int], pieces: Sequence[tuple[int, int] | None]
) -> tuple[int, int]:
    start, stop = characters
    inside = [
        index
        for index, piece in enumerate(pieces)
        if piece is not None and piece[0] < stop and start < piece[1]
    ]
    if not inside:
        raise RequestError(
            f'the tokenizer has no tokens for "{prompt[start:stop]}" in "{prompt}"; use other words'
        )
    return inside[0], inside[-1] + 1


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
            read = T5TokenizerFast.from_pretrained(folder / TOKENIZER_FOLDER, local_files_only=True)
        except Exception as error:  # its converters raise what the files make them
            raise CheckpointError(
                f"the tokenizer of {folder.name} cannot be read: {one_line(error)}"
            ) from error
        return cls(read.backend_tokenizer, checkpoint.geometry.text_tokens)

    @classmethod
    def load_if_there(cls, checkpoint: Checkpoint) -> PromptTokenizer | None:
        """As ``load``; None where the checkpoint's tokenizer is not in its folder (yet)."""
        place = checkpoint.folder / TOKENIZER_FOLDER
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


class TokenizerOnce:
    """A checkpoint's tokenizer, read when it is first there. ``importing`` is held meanwhile: of
    two threads that import transformers at once, one may find half of it."""

    def __init__(self) -> None:
        self.importing = threading.Lock()
        self._read: PromptTokenizer | None = None

    def of(self, checkpoint: Checkpoint, *, wait: bool) -> PromptTokenizer | None:
        """None where it is not there, and without ``wait`` while another thread imports."""
        if not self.importing.acquire(blocking=wait):
            return None
        try:
            if self._read is None:
                self._read = PromptTokenizer.load_if_there(checkpoint)
            return self._read
        finally:
            self.importing.release()
