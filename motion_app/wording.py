"""Text as a reader sees it: one white space is as good as another, and so is one way to encode a
letter; and in what two texts differ that look alike.

T5's own tokenizer reads NFKC with single spaces, so nothing it tells apart is lost here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
SPACES = "\u200b\u2581"  # no white space by Unicode's category, but read as one
VOICED = "\uff9e\uff9f"  # half-width marks that join the letter before though they are letters
LAST_LATIN = "\u024f"
JAMO = re.compile("[\u1160-\u11ff]")  # vowels and finals of a Hangul syllable
# Letters of scripts that are written without spaces between words: Thai, Lao, Myanmar, Khmer, Tai,
# CJK radicals, kana, bopomofo, Han.
UNSPACED = re.compile(
    "[\u0e01-\u0e4e\u0e81-\u0edf\u1000-\u109f\u1780-\u17d3\u1950-\u19df\u1a20-\u1aad"
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303b\u3041-\u30ff\u3105-\u312f"
    "\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# What is drawn like an ASCII character: Cyrillic and Greek letters, quotes, dashes.
LOOKS = str.maketrans(
    "аеорсухіјѕһԁԛԝѵνοαρικυχАВЕЅІЈКМНОРСТУХΑΒΕΖΗΙΚΜΝΟΡΤΥΧı‘’‛′´`“”„″‐‑‒–—―−",
    "aeopcyxijshdqwvvoapikuxABESIJKMHOPCTYXABEZHIKMNOPTYXi''''''\"\"\"\"-------",
)
MOST_SHOWN = 3
NEUTRAL_PHRASE = "is moving"  # of a sentence that names no motion


@dataclass(frozen=True)
class Reading:
    """``text`` as it is read, and ``sources``: for each of its characters the (start, stop) of what
    it was read from in the text as it was written."""

    text: str
    sources: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, written: str) -> Reading:
        """NFKC; format characters left out; any run of white space one space, none at the ends; a
        space between letters of a script that writes none and Latin ones, without which a tokenizer
        would not know the Latin word. Halves of surrogate pairs, which JSON may hold, become
        U+FFFD."""
        return cls._collect(written, _read_cluster, apart=True)

    @classmethod
    def _collect(cls, written: str, read: Callable[[str], str], *, apart: bool) -> Reading:
        letters: list[str] = []
        sources: list[tuple[int, int]] = []
        gap: tuple[int, int] | None = None  # white space that was not taken up yet
        for start, cluster in _clusters(written):
            source = (start, start + len(cluster))
            for letter in read(cluster):
                if letter.isspace():
                    gap = (source if gap is None else (gap[0], source[1])) if letters else None
                    continue
                if apart and gap is None and letters and _scripts_meet(letters[-1], letter):
                    gap = (start, start)
                if gap is not None:
                    letters.append(" ")
                    sources.append(gap)
                    gap = None
                letters.append(letter)
                sources.append(source)
        return cls("".join(letters), tuple(sources))

    def written(self, start: int, stop: int) -> tuple[int, int]:
        """Where characters ``start`` to ``stop`` of ``text``, at least one, were written."""
        return self.sources[start][0], self.sources[stop - 1][1]


def as_read(written: str) -> str:
    """``written`` as a ``Reading`` has it, but with a line break for white space that holds one."""
    reading = Reading.of(written)
    gaps = (
        letter == " " and any(sign in BREAKS for sign in written[slice(*source)])
        for letter, source in zip(reading.text, reading.sources, strict=True)
    )
    return "".join("\n" if gap else c for gap, c in zip(gaps, reading.text, strict=True))


def as_named(written: str) -> str:
    """A name or a cell of a table: NFC, white space as one space, no format characters."""
    kept = "".join(_space(letter) for letter in written if not _dropped(letter))
    return unicodedata.normalize("NFC", " ".join(kept.split()))


def _clusters(text: str) -> Iterator[tuple[int, str]]:
    """Letters with the marks that join them, and where each begins."""
    start = 0
    for place in range(1, len(text) + 1):
        if place == len(text) or not _joins(text[place]):
            yield start, text[start:place]
            start = place


def _joins(letter: str) -> bool:
    mark = unicodedata.category(letter)[0] == "M"
    return mark or letter in VOICED or JAMO.match(letter) is not None


def _scripts_meet(one: str, other: str) -> bool:
    """Whether of two neighbours one is Latin and the other of a script without spaces."""
    for latin, letter in ((one, other), (other, one)):
        if latin.isalpha() and latin <= LAST_LATIN and UNSPACED.match(letter):
            return True
    return False


def _dropped(letter: str) -> bool:
    """A format character: invisible, and part of no word."""
    return letter not in SPACES and unicodedata.category(letter) == "Cf"


def _space(letter: str) -> str:
    return " " if letter in SPACES else letter


def _read_cluster(cluster: str) -> str:
    kept = "".join(_space(letter) for letter in cluster if not _dropped(letter))
    whole = kept.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFKC", whole)


# words ------------------------------------------------------------------------------------------


def uses(wordings: Sequence[str], text: str) -> list[tuple[str, int, int]]:
    """Where ``wordings`` stand in ``text`` as whole words: (wording, start, stop), not overlapping;
    at one place the wording that comes first in the list. Both are texts of a ``Reading``.

    Between two letters of scripts that write no spaces, and between such a letter and another
    script's, a word may begin anywhere.
    """
    found: list[tuple[str, int, int]] = []
    place = 0
    while place < len(text):
        wording = next((w for w in wordings if _stands(w, text, place)), None)
        if wording is None:
            place += 1
        else:
            found.append((wording, place, place + len(wording)))
            place += len(wording)
    return found


def _stands(wording: str, text: str, place: int) -> bool:
    return (
        bool(wording)
        and text.startswith(wording, place)
        and not _inside_word(text, place)
        and not _inside_word(text, place + len(wording))
    )


def _inside_word(text: str, place: int) -> bool:
    """Whether the characters before and after ``place`` belong to one word."""
    if place in (0, len(text)):
        return False
    return _joins(text[place]) or (_spaced(text[place - 1]) and _spaced(text[place]))


def _spaced(letter: str) -> bool:
    """A character of a word in a script that writes spaces between words."""
    word = letter.isalnum() or letter == "_" or unicodedata.category(letter)[0] == "M"
    return word and UNSPACED.match(letter) is None


# differences ------------------------------------------------------------------------------------


def difference(wanted: str, text: str) -> str:
    """The end of an error's message, where ``text`` holds something that looks like ``wanted`` but
    is not: in what they differ, by code points. "" where it holds nothing of the kind."""
    look = _look(wanted).text
    seen = _look(text)
    place = seen.text.find(look) if look else -1
    while place >= 0:
        start, stop = seen.written(place, place + len(look))
        told = _changes(wanted, text[start:stop])
        if told:
            return told
        place = seen.text.find(look, place + 1)
    return ""


def lookalike(wanted: Iterable[str], given: Iterable[str]) -> str:
    """``difference`` of the first of ``given`` that is none of ``wanted`` but looks, as a whole,
    like one of them; "" where there is none."""
    known, given = list(wanted), list(given)
    pairs = ((one, other) for other in given if other not in known for one in known)
    return next((difference(one, other) for one, other in pairs if _same_look(one, other)), "")


def _same_look(one: str, other: str) -> bool:
    return bool(one) and _look(one).text == _look(other).text


def _changes(wanted: str, window: str) -> str:
    """In what ``window``, which looks like ``wanted``, differs from it; "" where it does not."""
    changes = [
        f"{_points(window[c:d])} where {_points(wanted[a:b])} is expected"
        for kind, a, b, c, d in SequenceMatcher(None, wanted, window, autojunk=False).get_opcodes()
        if kind != "equal"
    ]
    if not changes:
        return ""
    more = f" and {len(changes) - MOST_SHOWN} more" if len(changes) > MOST_SHOWN else ""
    return (
        f'; "{window}" only looks like "{wanted}": it has {"; ".join(changes[:MOST_SHOWN])}{more}'
    )


def _look(text: str) -> Reading:
    """What a text looks like: no white space, marks, case or invisible characters, and one letter
    for all that are drawn like it."""

    def drawn(cluster: str) -> str:
        parts = unicodedata.normalize("NFKD", _read_cluster(cluster)).translate(LOOKS)
        return "".join(p for p in parts.casefold() if unicodedata.category(p)[0] not in "MZC")

    return Reading._collect(text, drawn, apart=False)


def _points(text: str) -> str:
    """ "U+00A0 NO-BREAK SPACE"."""
    if not text:
        return "nothing"
    shown = [f"U+{ord(c):04X} {unicodedata.name(c, '(unnamed)')}" for c in text[:MOST_SHOWN]]
    return " + ".join(shown) + (" …" if len(text) > MOST_SHOWN else "")
