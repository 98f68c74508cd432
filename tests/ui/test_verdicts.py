"""Whether the model knows a picture's like is found out without holding the call that asks."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_sessions import draft_of

from motion_app.ui.transfer.session import Action, Session, Verdicts
from motion_app.ui.transfer.tab import TransferTab

PATIENCE = 60.0  # s


class BusyModel:
    """Knows dark pictures; at work on something else until it is ``free``."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.began = threading.Event()
        self.seen: list[Any] = []

    def __call__(self, image: np.ndarray) -> bool | None:
        self.began.set()
        assert self.free.wait(PATIENCE)
        self.seen.append(image)
        return bool(image.mean() < 64)


def with_picture(session: Session | None = None) -> Session:
    session = Session() if session is None else session
    session.put(draft_of(0.2), Action("picture"))
    return session


@pytest.fixture
def model() -> BusyModel:
    return BusyModel()


def test_a_picture_is_judged_behind_the_calls_while_the_model_is_at_work(model: BusyModel) -> None:
    verdicts, sessions = Verdicts(model), [with_picture() for _ in range(6)]
    began = time.monotonic()
    assert [verdicts.ask(session, wait=0.01) for session in sessions] == [False] * 6
    assert time.monotonic() - began < PATIENCE  # six calls ended, and the model is still busy
    assert all(verdicts.awaited(session) and not session.unfamiliar for session in sessions)
    model.free.set()
    assert all(verdicts.ask(session, wait=PATIENCE) for session in sessions)
    assert all(session.unfamiliar and not verdicts.awaited(session) for session in sessions)


def test_a_verdict_that_takes_longer_is_asked_for_by_the_timer(model: BusyModel) -> None:
    verdicts, session = Verdicts(model), with_picture()
    actions = SimpleNamespace(
        encode=lambda session: None,
        verdicts=SimpleNamespace(ask=lambda session: verdicts.ask(session, wait=0.01)),
    )
    tab = SimpleNamespace(actions=actions, _canvas=lambda session: "unfamiliar")
    *_, (stage, timer) = TransferTab.prepare(tab, session)
    assert timer.active and "markup" not in stage
    model.free.set()
    assert verdicts.ask(session, wait=PATIENCE)
    *_, (stage, timer) = TransferTab.prepare(tab, session)
    assert stage["markup"] == "unfamiliar" and not getattr(timer, "active", False)


def test_of_a_sessions_pictures_the_last_one_alone_waits(model: BusyModel) -> None:
    verdicts, other, session = Verdicts(model), with_picture(), Session()
    verdicts.ask(other, wait=0)
    assert model.began.wait(PATIENCE)
    for _ in range(5):
        verdicts.ask(with_picture(session), wait=0)
    model.free.set()
    assert verdicts.ask(session, wait=PATIENCE)
    assert len(model.seen) == 2 and model.seen[-1] is session.draft.fitted.image
    assert verdicts.ask(session, wait=0)  # what is known is not asked again
    assert len(model.seen) == 2


def test_a_fault_leaves_a_picture_unjudged_and_the_next_one_is_judged() -> None:
    faults = [ValueError("broken"), None]

    def knows(image: np.ndarray) -> bool:
        fault = faults.pop(0)
        if fault is not None:
            raise fault
        return False

    verdicts, first, second = Verdicts(knows), with_picture(), with_picture()
    assert verdicts.ask(first, wait=PATIENCE) and not first.unfamiliar
    assert verdicts.ask(second, wait=PATIENCE) and second.unfamiliar
