"""Where each object's motion phrase lies in the prompt: in its characters, then in its tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from motion_app.errors import RequestError
from motion_app.scene import GenerationRequest, SceneObject

PART_END = re.compile(r"[.,;:!?\n]")  # a subject does not reach beyond one
LEAD = re.compile(r"\s*(?:and\s+)?(?:(?:an?|the)\s+)?", re.IGNORECASE)


def occurrences(phrase: str, text: str) -> list[tuple[int, int]]:
    """Character spans of ``phrase`` in ``text`` as whole words."""
    phrase = phrase.strip()
    if not phrase:
        return []
    pattern = rf"(?<!\w){re.escape(phrase)}(?!\w)"
    return [match.span() for match in re.finditer(pattern, text)]


def phrase_spans(prompt: str, objects: Sequence[SceneObject]) -> list[tuple[int, int] | None]:
    """Character spans (start, stop) of each object's motion phrase in ``prompt``; None for one
    without a motion.

    A prompt composed of the objects' sentences has each phrase inside its own sentence. In an
    edited one the k-th use of a wording belongs to the k-th object that has it; objects without a
    motion count where their own sentence has the wording. RequestError where the counts differ.
    """
    composed = GenerationRequest(image=np.empty(0), objects=tuple(objects)).full_prompt()
    if prompt == composed:
        return _spans_in_sentences(objects)
    wordings = [
        item.phrase.strip()
        if item.motion is not None or occurrences(item.phrase, item.sentence)
        else None
        for item in objects
    ]
    moving = {item.phrase.strip() for item in objects if item.motion is not None}
    # The longest wording first, so that "is moving" is not found inside "is moving up".
    ordered = sorted({wording for wording in wordings if wording}, key=len, reverse=True)
    found: dict[str, list[tuple[int, int]]] = {wording: [] for wording in ordered}
    pattern = "|".join(rf"(?<!\w){re.escape(wording)}(?!\w)" for wording in ordered)
    for match in re.finditer(pattern, prompt) if ordered else ():
        found[match.group()].append(match.span())
    for wording, wanted in Counter(wordings).items():
        if wording in moving and len(found[wording]) != wanted:
            raise RequestError(
                f'the motion phrase "{wording}" is needed {wanted} times but occurs '
                f'{len(found[wording])} times in the prompt "{prompt}"; '
                "write it once for each object that has it"
            )
    queues = {wording: iter(spans) for wording, spans in found.items()}
    taken = [None if wording is None else next(queues[wording], None) for wording in wordings]
    return [
        span if item.motion is not None else None for span, item in zip(taken, objects, strict=True)
    ]


def _spans_in_sentences(objects: Sequence[SceneObject]) -> list[tuple[int, int] | None]:
    spans: list[tuple[int, int] | None] = []
    start = 0
    for number, item in enumerate(objects, start=1):
        sentence = item.sentence.strip()
        if item.motion is None:
            spans.append(None)
        else:
            uses = occurrences(item.phrase, sentence)
            if len(uses) != 1:
                raise RequestError(
                    f'the motion phrase "{item.phrase}" of object {number} occurs {len(uses)} '
                    f'times in its sentence "{sentence}"; write it there exactly once'
                )
            spans.append((start + uses[0][0], start + uses[0][1]))
        start += len(sentence) + 1  # full_prompt joins the sentences with one space
    return spans


def find_phrases(
    prompt: str, objects: Sequence[SceneObject], tokenizer: Any, text_tokens: int
) -> list[tuple[int, int] | None]:
    """Token spans (start, stop) of each object's motion phrase; None for one without a motion.

    ``tokenizer``: a fast transformers tokenizer (it knows each token's characters);
    ``text_tokens``: L, the tokens the checkpoint reads. RequestError for a prompt that is too long,
    or a phrase that is missing, ambiguous or shares a token with another object's.
    """
    _, pieces = _read_pieces(prompt, tokenizer, text_tokens)
    spans = [
        None if characters is None else _token_span(prompt, characters, pieces)
        for characters in phrase_spans(prompt, objects)
    ]
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


@dataclass(frozen=True)
class Clause:
    """Where one object's words lie among a prompt's tokens: ``motion`` and ``subject`` (start,
    stop), the subject None where nothing names it; ``pieces``: the token ids of the motion words.
    Every other token is instruction, punctuation or padding and belongs to no object."""

    motion: tuple[int, int]
    subject: tuple[int, int] | None = None
    pieces: tuple[int, ...] = ()

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Both, where both are there."""
        return (self.motion,) if self.subject is None else (self.subject, self.motion)


def find_clauses(
    prompt: str, objects: Sequence[SceneObject], tokenizer: Any, text_tokens: int
) -> list[Clause | None]:
    """Token roles of each object's clause in ``prompt``; None for an object without a motion.

    The subject is the object's ``name`` where that stands before its motion words in the same part
    of the sentence, else all words there but a leading "and" and article. Errors and arguments as
    ``find_phrases``.
    """
    motions = find_phrases(prompt, objects, tokenizer, text_tokens)
    ids, pieces = _read_pieces(prompt, tokenizer, text_tokens)
    characters = phrase_spans(prompt, objects)
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
    lead = LEAD.match(part).end()
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
    if len(ids) > text_tokens:
        raise RequestError(
            f"the prompt has {len(ids)} tokens, the model reads {text_tokens}; shorten it"
        )
    return ids, _word_offsets(prompt, encoded["offset_mapping"], encoded["special_tokens_mask"])


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
