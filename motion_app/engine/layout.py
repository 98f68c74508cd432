"""Where text, motion tokens and video tokens sit in a sequence; the only index arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from motion_app.errors import RequestError

Span = tuple[int, int]


@dataclass(frozen=True)
class SequenceLayout:
    """The token sequence of one generation, for N objects in the request's order.

    ``text`` is L. ``phrases`` holds each object's motion words as text positions (start, stop),
    stop exclusive; ``motion`` holds M of each object; ``grid`` is (F, h, w) of the video tokens. An
    object without a motion has phrase None and motion 0, and takes no part. Video tokens run over
    frames, then rows, then columns. ``members``: the objects that take part, None for those with
    motion tokens.

    Query rows are text | video, as the model has them. Keys are free text | video | phrase_0,
    motion_0 | phrase_1, motion_1 | …: what most rows see lies together whatever the masks are, and
    so does what belongs to one object. Raises RequestError for a phrase outside the text or phrases
    that overlap.
    """

    text: int
    phrases: Sequence[Span | None]
    motion: Sequence[int]
    grid: tuple[int, int, int]
    members: Sequence[int] | None = None

    def __post_init__(self) -> None:
        spans = (None if span is None else (int(span[0]), int(span[1])) for span in self.phrases)
        object.__setattr__(self, "phrases", tuple(spans))
        object.__setattr__(self, "motion", tuple(int(tokens) for tokens in self.motion))
        object.__setattr__(self, "grid", tuple(int(side) for side in self.grid))
        if len(self.phrases) != len(self.motion):
            raise RequestError(
                f"{len(self.phrases)} motion phrases came for {len(self.motion)} motions; "
                "every object needs one of each (None and 0 for an object without a motion)"
            )
        if self.text < 0 or min(self.motion, default=0) < 0 or min(self.grid) < 1:
            raise RequestError(
                f"text {self.text}, motion {self.motion} and grid {self.grid} are no token counts"
            )
        taken: dict[int, int] = {}
        for k, span in enumerate(self.phrases):
            if span is None or k not in self.steered:
                continue
            if not 0 <= span[0] < span[1] <= self.text:
                raise RequestError(
                    f"the motion phrase of object {k} lies at tokens {span[0]} to {span[1]}, "
                    f"outside the {self.text} text tokens; shorten the sentences"
                )
            for position in range(*span):
                if position in taken:
                    raise RequestError(
                        f"objects {taken[position]} and {k} share text token {position}; give each "
                        "object its own motion phrase in the prompt"
                    )
                taken[position] = k

    @property
    def objects(self) -> int:
        """N."""
        return len(self.motion)

    @property
    def steered(self) -> tuple[int, ...]:
        """The objects that take part."""
        if self.members is not None:
            return tuple(self.members)
        return tuple(k for k, tokens in enumerate(self.motion) if tokens)

    @property
    def video(self) -> int:
        """V = F * h * w."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def queries(self) -> int:
        """L + V."""
        return self.text + self.video

    @property
    def keys(self) -> int:
        """L + ΣM + V."""
        return self.text + sum(self.motion) + self.video

    @property
    def video_rows(self) -> slice:
        """The video tokens among the queries."""
        return slice(self.text, self.queries)

    def phrase(self, k: int) -> Span | None:
        """The words of object ``k`` as text positions; None where it takes no part."""
        return self.phrases[k] if k in self.steered else None

    @cached_property
    def free_text(self) -> tuple[Span, ...]:
        """The text between the phrases, as text positions."""
        phrases = sorted(filter(None, map(self.phrase, range(self.objects))))
        edges = [0, *(edge for span in phrases for edge in span), self.text]
        return tuple((a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b)

    @property
    def free_keys(self) -> slice:
        """The free text among the keys."""
        return slice(0, sum(stop - start for start, stop in self.free_text))

    @property
    def video_keys(self) -> slice:
        """The video tokens among the keys."""
        return slice(self.free_keys.stop, self.free_keys.stop + self.video)

    def phrase_keys(self, k: int) -> slice:
        """The words of object ``k`` among the keys."""
        start = self.video_keys.stop + sum(map(self._own_keys, range(k)))
        return slice(start, start + self._own_keys(k) - self.motion[k])

    def motion_keys(self, k: int) -> slice:
        """The motion tokens of object ``k`` among the keys."""
        start = self.phrase_keys(k).stop
        return slice(start, start + self.motion[k])

    def _own_keys(self, k: int) -> int:
        start, stop = self.phrase(k) or (0, 0)
        return stop - start + self.motion[k]

    def arrange(self, tokens: Tensor, motion: Tensor) -> Tensor:
        """Keys or values (B, heads, L + ΣM + V, d) in the keys' order, from those of text | video,
        (B, heads, L + V, d), and of all motions in the objects' order, (B, heads, ΣM, d)."""
        parts = [tokens[:, :, slice(*span)] for span in self.free_text]
        parts.append(tokens[:, :, self.video_rows])
        for k, moves in enumerate(motion.split(self.motion, dim=2) if self.motion else ()):
            span = self.phrase(k)
            if span is not None:
                parts.append(tokens[:, :, slice(*span)])
            parts.append(moves)
        return torch.cat(parts, dim=2)

    def classify(self, object_masks: Tensor) -> TokenClasses:
        """Sort every token into its class (docs/method.md, section 3).

        ``object_masks``: (N, F, h, w) bool; masks may overlap and may be empty. Objects that do not
        take part restrict nothing: their words are free text and their masks are not looked at.
        Raises RequestError for masks of another shape.
        """
        object_masks = torch.as_tensor(object_masks)
        if tuple(object_masks.shape) != (self.objects, *self.grid):
            raise RequestError(
                f"expected object masks of shape {(self.objects, *self.grid)}, got "
                f"{tuple(object_masks.shape)}"
            )
        masks = object_masks.detach().to("cpu", torch.bool).flatten(1)  # (N, V)
        codes = torch.zeros(self.video, dtype=torch.long)
        for bit, k in enumerate(self.steered):
            codes |= masks[k].long() << bit
        found, video_class = codes.unique(return_inverse=True)  # (sets,), (V,)
        sets = tuple(
            frozenset(k for bit, k in enumerate(self.steered) if code >> bit & 1)
            for code in found.tolist()
        )
        video_class = video_class + 1 + 2 * self.objects
        text_class = torch.zeros(self.text, dtype=torch.long)
        key_class = torch.zeros(self.keys, dtype=torch.long)
        key_class[self.video_keys] = video_class
        for k in range(self.objects):
            span = self.phrase(k)
            if span is not None:
                text_class[slice(*span)] = 1 + k
            key_class[self.phrase_keys(k)] = 1 + k
            key_class[self.motion_keys(k)] = 1 + self.objects + k
        return TokenClasses(
            sets=sets,
            queries=torch.cat([text_class, video_class]),  # (L + V,)
            keys=key_class,  # (L + ΣM + V,)
        )


@dataclass(frozen=True, eq=False)
class TokenClasses:
    """The class of every token, counted as free, phrase_0 …, motion_0 …, then one per entry of
    ``sets``: the sets of objects that video tokens lie in. ``queries`` (L + V,) and ``keys``
    (L + ΣM + V,) are int64 on the CPU."""

    sets: tuple[frozenset[int], ...]
    queries: Tensor
    keys: Tensor
