"""What gradio keeps of each visit, and whose call is next: bounded, and fair to each visitor.

gradio gives every session a copy of the page's whole description, keeps ten thousand of them, and
keeps every value that was ever sent with one; a call of a program is a session of its own. And it
serves the calls of one function in the order they came, so that who holds a button is served before
everybody behind him. Both classes here change what those of gradio's do through their own seams.
"""

from __future__ import annotations

import copy
import datetime
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from gradio.components import HTML, State
from gradio.queueing import Event, Queue
from gradio.state_holder import SessionState, StateHolder

from motion_app.settings import Limits
from motion_app.ui.visitor import BrowserState, address_of

logger = logging.getLogger(__name__)
PLACES = 512  # calls that may be at work at once; most wait for something and hold no thread
AT_ONCE = 6  # calls of one session at work; the others wait for them
LOOK_SECONDS = 1.0  # between two looks at what all sessions hold
QUEUE_SECONDS = 0.02  # between two looks at whether a call waits; 1 ms took 4% of a core
STATELESS_SECONDS = 60.0  # how long a session that chose nothing stays after its last call
LEFT_SECONDS = 2 * 3600.0  # without a call: browsers let hidden pages call seldom, or not at all


class LightState(SessionState):
    """What a session chose and what it is shown, without a description of the whole page, which
    gradio keeps for its deep links."""

    def __init__(self, blocks: Any) -> None:
        self.blocks_config = copy.copy(blocks.default_config)
        self.config_values: dict[int, Any] = {}
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, tuple[float | None, datetime.datetime]] = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = 3600

    def __setitem__(self, key: int, value: Any) -> None:
        block = self.blocks_config.blocks.get(key)
        if isinstance(block, State):
            self._state_ttl[key] = (block.time_to_live, datetime.datetime.now())
            self.state_data[key] = value
        else:
            self.blocks_config.blocks[key] = value

    def _update_config(self, key: int) -> None:
        """Nothing: no link is made of what is shown."""

    def _update_value_in_config(self, key: int, value: Any) -> None:
        """Nothing: what was sent is not kept."""

    def kept(self) -> list[BrowserState]:
        """What the visitor chose."""
        return [value for value in self.state_data.values() if isinstance(value, BrowserState)]

    def forget_markup(self, blocks: Any) -> None:
        """Let go of the HTML that the session was shown, of which nothing is read again."""
        fresh = blocks.default_config.blocks
        for key, block in list(self.blocks_config.blocks.items()):
            if isinstance(block, HTML) and key in fresh:
                self.blocks_config.blocks[key] = fresh[key]


class Sessions(StateHolder):
    """All sessions, within ``limits``: those that chose nothing go after a minute, all others when
    they called no more for hours. What they chose is put to rest when they did not call for some
    minutes, or when all hold too much, those first that called longest ago; a session that rests
    goes on with its next call."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits
        self._ended = threading.Event()

    def set_blocks(self, blocks: Any) -> None:
        super().set_blocks(blocks)
        self.capacity = self.limits.sessions

    def __getitem__(self, session_id: str) -> SessionState:
        with self.lock:
            state = self.session_data.get(session_id)
            if state is None:
                state = self.session_data[session_id] = LightState(self.blocks)
            self.time_last_used[session_id] = datetime.datetime.now()
        self.update(session_id)
        return state

    def start(self) -> None:
        """Look after them from now on."""
        threading.Thread(target=self._look_after, name="sessions", daemon=True).start()

    def stop(self) -> None:
        self._ended.set()

    def _look_after(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                self.tidy()
            except Exception:
                logger.exception("the sessions could not be looked after")

    def tidy(self) -> None:
        """Forget, put to rest and drop what is due."""
        now = datetime.datetime.now()
        minutes = self.limits.rest_minutes
        held, resting = 0, 0
        for name, state, idle in self._by_last_call(now):
            parts = state.kept()
            if idle > (LEFT_SECONDS if parts else STATELESS_SECONDS):
                self._forget(name)
                continue
            room = self.limits.sessions_gigabytes * 2**30 - held
            if idle > 60 * minutes or sum(part.held_bytes for part in parts) > room:
                resting += self._rest(state, parts, resting)
            held += sum(part.held_bytes for part in parts)

    def _rest(self, state: LightState, parts: list[BrowserState], resting: int) -> int:
        """Put a session to rest, or drop what it chose where those that rest hold too much already;
        the bytes it rests with."""
        state.forget_markup(self.blocks)
        most = self.limits.resting_gigabytes * 2**30
        for part in parts:
            part.rest()
            if resting + part.resting_bytes > most:
                part.drop()
        return sum(part.resting_bytes for part in parts)

    def _by_last_call(self, now: datetime.datetime) -> Iterator[tuple[str, LightState, float]]:
        """Name, state and seconds since the last call, who called last first."""
        with self.lock:
            known = list(self.session_data.items())
            times = dict(self.time_last_used)
        for name, state in reversed(known):
            if isinstance(state, LightState):
                yield name, state, (now - times.get(name, now)).total_seconds()

    def _forget(self, name: str) -> None:
        with self.lock:
            self.session_data.pop(name, None)
            self.time_last_used.pop(name, None)


class FairQueue(Queue):
    """Calls that wait, of which the next is one of the session, then of the address, that has
    fewest at work. What is too much for one session, one address or all is refused at once.

    A page's calls of one function of it are done in the order they came: each answer is what the
    page then shows, and an older one that came after a newer would be shown for good. Functions
    without a limit number their answers, or stream."""

    def __init__(self, blocks: Any, limits: Limits, *, calls_of_one_function: int) -> None:
        super().__init__(
            live_updates=True,
            concurrency_count=PLACES,
            update_intervals=1,
            max_size=None,
            blocks=blocks,
            default_concurrency_limit=calls_of_one_function,
        )
        self.limits = limits
        self.sleep_when_free = QUEUE_SECONDS

    def compute_analytics_summary(self, records: Any) -> Any:
        """None: nobody is shown it, and gradio goes through ten thousand calls after each."""
        return self.cached_event_analytics_summary

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """As gradio's; refused with "queue_full" and words where too much waits."""
        refusal = self._too_much(body, request)
        if refusal:
            return False, refusal, "queue_full"
        return await super().push(body=body, request=request, username=username)

    def _too_much(self, body: Any, request: Any) -> str:
        waiting = [event for lane in self._lanes() for event in lane.queue]
        own = sum(event.session_hash == body.session_hash for event in waiting)
        address = address_of(request)
        near = sum(address_of(event.request) == address for event in waiting)
        if own >= self.limits.waiting_per_session or near >= self.limits.waiting_per_address:
            return f"{max(own, near)} calls of yours are waiting; let some of them end first"
        size = sum(_body_bytes(event) for event in (*waiting, *self._at_work()))
        if size + _body_bytes_of(request) > self.limits.calls_megabytes * 2**20:
            return "the calls that wait hold too much already; try again in a while"
        return ""

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        """The next call: see the class."""
        at_work = self._at_work()
        sessions = Counter(event.session_hash for event in at_work)
        addresses = Counter(address_of(event.request) for event in at_work)
        in_order = {(event.session_hash, event.fn._id) for event in at_work if in_turn(event)}
        best: tuple[tuple[int, int, float], Event, Any] | None = None
        for lane in self._lanes():
            most = lane.concurrency_limit
            if most is not None and lane.current_concurrency >= most:
                continue
            for event in lane.queue:
                own = sessions[event.session_hash]
                if own >= AT_ONCE:
                    continue
                if (event.session_hash, event.fn._id) in in_order:
                    continue
                rank = (own, addresses[address_of(event.request)], event.enqueue_time)
                if best is None or rank < best[0]:
                    best = (rank, event, lane)
        if best is None:
            return None
        _, event, lane = best
        lane.queue.remove(event)
        return [event], False, lane.concurrency_id

    def _lanes(self) -> list[Any]:
        """A queue for each function, or for functions that share one."""
        return list(self.event_queue_per_concurrency_id.values())

    def _at_work(self) -> list[Event]:
        return [event for job in self.active_jobs if job is not None for event in job]


def in_turn(event: Event) -> bool:
    """A call of one of the page's own functions whose answers carry no number."""
    return event.fn.api_visibility == "private" and event.fn.concurrency_limit is not None


def _body_bytes(event: Event) -> int:
    return _body_bytes_of(event.request)


def _body_bytes_of(request: Any) -> int:
    """What ``bodies.BodyLimit`` counted."""
    return int(getattr(request, "scope", {}).get("body_bytes", 0))
