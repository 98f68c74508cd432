"""The whole plan of a study, drawn from its seed before the first answer: who sees what, when, and
which method stands where.

The protocol is the paper's (FlexiMMT, A.3, Figs 8 and 9): every candidate of an item side by side,
four single-choice questions. ``pair`` (two-way forced choice) and ``best_worst`` are the same
machinery with other presentations.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from motion_app.errors import RequestError
from motion_app.wording import lookalike

QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        "MF": "Which video has objects whose movements are most similar to the Reference Motions?",
        "TC": "Which video is the smoothest and more realistic?",
        "TS": "Which video is most consistent with the description in the text?",
        "AC": "Which video has subsequent frames that are more consistent in appearance with the "
        "first frame?",
    }
)  # Fig. 9, word for word

CONSENT = (
    "You will watch short videos made by computer programs and say which ones fit best. Taking "
    "part is voluntary and you may stop at any time. We store your answers, when you gave them and "
    "how much of each video was played. We store no name and no network address. You can delete "
    "your data from this page at any time."
)

DEMO_CONSENT = (
    "This is a demo: try what a rater sees. Nothing that you answer is kept: it is in no study, "
    "and goes when you leave. Afterwards the study is unblinded for you, and you see its report as "
    "an administrator would, with the answers of seven simulated raters who chose by lot."
)

Form = Literal["single", "pair", "best_worst"]
QuestionOrder = Literal["fixed", "random"]
AnalysisRule = Literal["all", "finished", "unflagged"]
Kind = Literal["main", "gold", "practice"]
Role = Literal["practice", "main", "gold", "repeat"]


class StudyConfig(BaseModel):
    """One study. ``methods`` are what is compared, in the order of the report; ``items_per_rater``
    None gives every rater all items; ``pairs_per_item`` counts for ``pair`` alone; ``coverage`` is
    the share of a candidate's frames that must have been shown before an answer counts;
    ``completion_code`` None makes one for each rater; an unfinished rater's link ends ``link_days``
    days after it was first opened, None: never. Who took a place by the open link and answered
    nothing for ``place_hours`` hours loses it to the next who needs one; 0: never. ``analysis``:
    whose answers are to be counted, registered before there are any; see ``analysis_set``. After
    ``closes``, unix seconds, nobody answers any more. ``question_order``: as listed, or "random",
    one order for each rater. ``minutes`` it takes and the ``contact`` for questions stand beside
    the consent text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(min_length=1, max_length=200)
    methods: tuple[str, ...]
    form: Form = "single"
    questions: tuple[str, ...] = tuple(QUESTIONS)
    raters: int = Field(default=20, ge=1, le=5000)  # the paper's number
    items_per_rater: int | None = Field(default=None, ge=1)
    pairs_per_item: int = Field(default=1, ge=1)
    repeat_share: float = Field(default=0.05, ge=0, le=0.5)
    coverage: float = Field(default=0.95, ge=0, le=1)
    consent: str = Field(default=CONSENT, min_length=1)
    completion_code: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]{4,40}$")
    link_days: int | None = Field(default=None, ge=1, le=3650)
    place_hours: float = Field(default=2.0, ge=0, le=8760)  # the first answer takes some minutes
    analysis: AnalysisRule = "all"
    closes: float | None = Field(default=None, gt=0)
    question_order: QuestionOrder = "fixed"
    minutes: int | None = Field(default=None, ge=1, le=600)
    contact: str | None = Field(default=None, min_length=1, max_length=200)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _sensible(self) -> StudyConfig:
        if not 2 <= len(self.methods) <= 8 or not all(name.strip() for name in self.methods):
            raise ValueError(f"a study compares 2 to 8 named methods, got {len(self.methods)}")
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("two methods have the same name")
        unknown = [name for name in self.questions if name not in QUESTIONS]
        if unknown or not self.questions or len(set(self.questions)) < len(self.questions):
            raise ValueError(
                f"questions are some of {', '.join(QUESTIONS)}, each once; "
                f"got {', '.join(self.questions) or 'none'}"
            )
        pairs = len(self.methods) * (len(self.methods) - 1) // 2
        if self.pairs_per_item > pairs:
            raise ValueError(f"{len(self.methods)} methods have {pairs} pairs for an item")
        return self

    @classmethod
    def build(cls, **given: Any) -> StudyConfig:
        """The config, or RequestError with the first thing that is wrong in one line."""
        try:
            return cls(**given)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"])
            text = str(fault["msg"]).removeprefix("Value error, ")
            raise RequestError(f"the study's {where or 'config'} is wrong: {text}") from error

    @property
    def asked(self) -> tuple[str, ...]:
        """The names answers are saved under: the questions, or ``MF.best``, ``MF.worst``, …"""
        if self.form != "best_worst":
            return self.questions
        return tuple(f"{name}.{end}" for name in self.questions for end in ("best", "worst"))

    @property
    def shown(self) -> int:
        """Candidates on the screen at once."""
        return 2 if self.form == "pair" else len(self.methods)


def questions_of(config: StudyConfig, slot: int | None) -> tuple[str, ...]:
    """The questions in the order that the rater in ``slot`` reads them."""
    if config.question_order == "fixed" or slot is None:
        return config.questions
    order = np.random.default_rng([config.seed, slot, 2]).permutation(len(config.questions))
    return tuple(config.questions[k] for k in order)


@dataclass(frozen=True)
class StudyItem:
    """One scene and every method's video of it. Media are opaque file names inside the study;
    ``candidates`` is method → media. ``answer`` is the method that is right for every question:
    gold and practice items have one. ``name`` is for the report alone."""

    id: str
    name: str
    kind: Kind
    caption: str
    first_frame: str
    references: tuple[str, ...]
    candidates: Mapping[str, str]
    answer: str | None = None


@dataclass(frozen=True)
class Presentation:
    """One screen of one rater. ``number`` counts from 0 in the rater's own order; ``order`` are the
    methods from the first place to the last; a repeat names the number it repeats."""

    number: int
    item: str
    role: Role
    order: tuple[str, ...]
    repeats: int | None = None


@dataclass(frozen=True)
class Plan:
    """``slots[s]`` is everything the rater in slot s sees, in order."""

    seed: int
    slots: tuple[tuple[Presentation, ...], ...]

    def digest(self) -> str:
        """SHA-256 over the plan: publish it before the first answer, compare it afterwards."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def williams_square(size: int) -> np.ndarray:
    """Rows of a Williams design for ``size`` treatments: (R, size) int, R = size, or 2 * size where
    it is odd. Every treatment stands equally often in every column, and every ordered pair of
    neighbours occurs equally often (E. J. Williams, 1949)."""
    steps = np.arange(size)
    first = np.where(steps % 2 == 1, (steps + 1) // 2, (size - steps // 2) % size)  # 0 1 n-1 2 n-2
    square = (first[None, :] + np.arange(size)[:, None]) % size  # (size, size)
    return np.concatenate([square, square[:, ::-1]]) if size % 2 else square


def draw_plan(config: StudyConfig, items: Sequence[StudyItem]) -> Plan:
    """Draw the plan of every slot. RequestError where the items do not fit the config.

    Practice items come first, in their order. Gold items and repeats are spread evenly over the
    rest; a repeat comes at least a third of the main presentations after its first showing, with
    the candidates in other places.
    """
    check_items(config, items)
    rng = np.random.default_rng(config.seed)
    main = [item for item in items if item.kind == "main"]
    shuffled = [main[i] for i in rng.permutation(len(main))]
    labels = [config.methods[i] for i in rng.permutation(len(config.methods))]
    orders = _orders(config, labels)
    share = config.items_per_rater or len(main)
    slots = []
    for slot in range(config.raters):
        chosen = [shuffled[(slot * share + j) % len(main)] for j in range(share)]
        shift = slot if share % len(orders) == 0 or share == len(main) else slot * share
        screens = [
            (item.id, orders[(shift + j * config.pairs_per_item + p) % len(orders)])
            for j, item in enumerate(chosen)
            for p in range(config.pairs_per_item)
        ]
        slots.append(_slot(config, items, screens, slot, rng))
    return Plan(config.seed, tuple(slots))


def check_items(config: StudyConfig, items: Sequence[StudyItem]) -> None:
    """RequestError where an item lacks a method, or there are too few items."""
    for item in items:
        if set(item.candidates) != set(config.methods):
            odd = sorted(set(config.methods) ^ set(item.candidates))
            raise RequestError(
                f'the item "{item.name}" must have one video of each method; '
                f"missing or unknown: {', '.join(odd)}" + lookalike(config.methods, item.candidates)
            )
        if item.kind != "main" and item.answer not in config.methods:
            raise RequestError(
                f'the {item.kind} item "{item.name}" needs the method that is its right answer, '
                f'got "{item.answer}"' + lookalike(config.methods, [str(item.answer)])
            )
    count = sum(item.kind == "main" for item in items)
    if count < 1:
        raise RequestError("the study has no items; at least one is needed")
    if (config.items_per_rater or 0) > count:
        raise RequestError(
            f"{config.items_per_rater} items for each rater are more than the {count} there are"
        )


def _orders(config: StudyConfig, labels: Sequence[str]) -> list[tuple[str, ...]]:
    """All arrangements, to be dealt out in turn; each method is equally often in each place."""
    if config.form == "pair":
        # All pairs one way, then all the other way: a whole number of rounds is balanced, and half
        # a round has every pair.
        pairs = [p if i % 2 else p[::-1] for i, p in enumerate(combinations(labels, 2))]
        return [*pairs, *(pair[::-1] for pair in pairs)]
    return [tuple(labels[i] for i in row) for row in williams_square(len(labels))]


def _slot(
    config: StudyConfig,
    items: Sequence[StudyItem],
    screens: Sequence[tuple[str, tuple[str, ...]]],
    slot: int,
    rng: np.random.Generator,
) -> tuple[Presentation, ...]:
    """One rater's presentations: ``screens`` in random order, with gold and repeats among them."""
    order = [screens[i] for i in rng.permutation(len(screens))]
    repeats = 0
    if config.repeat_share > 0 and len(order) > 1:
        repeats = max(1, round(config.repeat_share * len(order)))
    keyed: list[tuple[float, str, tuple[str, ...], Role, int | None]] = [
        (float(place), item, shown, "main", None) for place, (item, shown) in enumerate(order)
    ]
    for source, place in _repeat_places(len(order), repeats, rng):
        item, shown = order[source]
        keyed.append((place, item, _elsewhere(shown, rng), "repeat", source))
    gold = [item for item in items if item.kind == "gold"]
    for k, index in enumerate(rng.permutation(len(gold))):
        place = (k + rng.uniform(0.2, 0.8)) * len(order) / len(gold)
        keyed.append((place, gold[index].id, _shown(config, gold[index], rng), "gold", None))
    keyed.sort(key=lambda entry: entry[0])

    practice = [item for item in items if item.kind == "practice"]
    found = [
        Presentation(number, item.id, "practice", _shown(config, item, rng))
        for number, item in enumerate(practice)
    ]
    number_of: dict[int, int] = {}
    for place, item_id, shown, role, repeated in keyed:
        number = len(found)
        if role == "main":
            number_of[int(place)] = number
        first = None if repeated is None else number_of[repeated]
        found.append(Presentation(number, item_id, role, shown, first))
    return tuple(found)


def _repeat_places(count: int, repeats: int, rng: np.random.Generator) -> list[tuple[int, float]]:
    """(index of the screen that is repeated, where the repeat stands), at least count / 3 on."""
    gap = max(1, count // 3)
    sources = rng.choice(count - gap, size=min(repeats, count - gap), replace=False)
    return [
        (int(source), float(rng.integers(source + gap, count)) + 0.5 + 1e-6 * k)
        for k, source in enumerate(sources)
    ]


def _elsewhere(order: tuple[str, ...], rng: np.random.Generator) -> tuple[str, ...]:
    """The same candidates, every one in another place."""
    shift = int(rng.integers(1, len(order)))
    return order[shift:] + order[:shift]


def _shown(config: StudyConfig, item: StudyItem, rng: np.random.Generator) -> tuple[str, ...]:
    """A random arrangement that holds the right answer."""
    others = [name for name in config.methods if name != item.answer]
    rng.shuffle(others)
    shown = [str(item.answer), *others[: config.shown - 1]]
    rng.shuffle(shown)
    return tuple(shown)
