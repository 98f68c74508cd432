"""The administrator's door: one secret, a signed cookie for who knew it, and patience for who did
not."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable

COOKIE = "study_admin"
OPEN_SECONDS = 12 * 3600
TRIES, TRIES_SECONDS = 5, 60.0  # wrong secrets of one address
TRIES_IN_ALL = 60  # of all addresses, in the same time
SHORTEST_SECRET = 12


class TooManyTries(Exception):
    """Wrong secrets came too fast; ``seconds`` until the next may be tried."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many wrong secrets; wait {seconds:.0f} s")
        self.seconds = seconds


class Door:
    """Opens for ``secret``. ``name`` keeps the cookie of one study from opening another's.

    Addresses are counted under a hash that lives as long as the program, and are written nowhere.
    """

    def __init__(
        self, secret: str, *, name: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        if len(secret) < SHORTEST_SECRET:
            raise ValueError(f"the secret has {len(secret)} letters, at least {SHORTEST_SECRET}")
        self._secret = hashlib.sha256(secret.encode()).digest()
        self._key = hmac.digest(self._secret, f"cookie {name}".encode(), hashlib.sha256)
        self._salt = secrets.token_bytes(16)
        self._clock = clock
        self._wrong: dict[bytes, deque[float]] = defaultdict(deque)
        self._lock = threading.Lock()

    def knock(self, given: str, address: str) -> str | None:
        """The cookie's value for the right secret, None for a wrong one; TooManyTries after five
        wrong ones of an ``address`` in a minute, whatever comes then."""
        caller = hmac.digest(self._salt, address.encode(), hashlib.sha256)
        with self._lock:
            now = self._clock()
            self._forget(now)
            if len(self._wrong[caller]) >= TRIES:
                raise TooManyTries(self._wrong[caller][0] + TRIES_SECONDS - now)
            if sum(map(len, self._wrong.values())) >= TRIES_IN_ALL:
                raise TooManyTries(TRIES_SECONDS)
            digest = hashlib.sha256(given.encode()).digest()
            if not hmac.compare_digest(digest, self._secret):
                self._wrong[caller].append(now)
                return None
            self._wrong.pop(caller, None)
        return self._signed(f"{int(now) + OPEN_SECONDS}.{secrets.token_hex(8)}")

    def admits(self, cookie: str) -> bool:
        """Whether a cookie was signed here and is not too old."""
        text, _, _ = cookie.rpartition(".")
        if not hmac.compare_digest(self._signed(text).encode(), cookie.encode("utf-8", "replace")):
            return False
        return int(text.partition(".")[0]) > self._clock()

    def _signed(self, text: str) -> str:
        mac = hmac.digest(self._key, text.encode("utf-8", "replace"), hashlib.sha256)
        return f"{text}.{mac.hex()}"

    def _forget(self, now: float) -> None:
        for caller, times in list(self._wrong.items()):
            while times and times[0] <= now - TRIES_SECONDS:
                times.popleft()
            if not times:
                del self._wrong[caller]
