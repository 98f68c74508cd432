"""What is signed and hashed: rater links, Prolific's ids, completion codes. No network address is
kept anywhere in the study."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from motion_app.errors import RequestError
from motion_app.study.identity import LONGEST, checked_identity, identity

ALPHABET = "ABCDEFGHJKMNPQRSTVWXYZ23456789"  # none that is taken for another
OPEN = "open"


class LinkError(RequestError):
    """A link that opens nothing: it was not signed here, or its place was given back."""


class LinkEnded(LinkError):
    """A link that was good, and whose days are over."""


class PlaceGone(LinkError):
    """The link of a rater who never answered, and whose place somebody else has by now."""

    reason = "place_gone"


def new_secret() -> str:
    """256 random bits as hex."""
    return secrets.token_hex(32)


def new_id() -> str:
    """128 random bits as hex."""
    return secrets.token_hex(16)


@dataclass(frozen=True)
class LinkSigner:
    """Signs with HMAC-SHA256 under the study's own ``secret`` (hex). What is signed for one purpose
    or one study is worth nothing for another."""

    study: str
    secret: str = field(repr=False)

    def _mac(self, purpose: str, text: str) -> bytes:
        message = "\0".join((self.study, purpose, text)).encode()
        return hmac.digest(bytes.fromhex(self.secret), message, hashlib.sha256)

    def _signature(self, purpose: str, text: str) -> str:
        return base64.urlsafe_b64encode(self._mac(purpose, text)[:16]).rstrip(b"=").decode()

    def token(self, rater: str) -> str:
        """A rater's own link: ``rater.signature``, safe in an address."""
        return f"{rater}.{self._signature('rater', rater)}"

    def open_token(self) -> str:
        """The link that gives everyone who comes a slot, as a recruiting service needs it."""
        return f"{OPEN}.{self._signature(OPEN, OPEN)}"

    def rater(self, token: str) -> str:
        """The rater a token was signed for; LinkError for any other text."""
        rater, _, signature = token.partition(".")
        expected = self._signature("rater", rater)
        if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
            raise LinkError("this link is not valid; ask for your link again")
        return rater

    def is_open(self, token: str) -> bool:
        """Whether ``token`` is this study's open link."""
        return hmac.compare_digest(self.open_token().encode(), token.encode("utf-8", "replace"))

    def hashed(self, kind: str, given: str) -> str:
        """An outside id (``kind`` names which: pid, study, session or browser) that can be compared
        but not read: HMAC under the study's secret, hex."""
        return self._mac("external " + kind, given).hex()

    def completion_code(self, rater: str) -> str:
        """Ten letters and digits that only a finished rater is given."""
        number = int.from_bytes(self._mac("completion", rater)[:8], "big")
        letters = []
        for _ in range(10):
            number, digit = divmod(number, len(ALPHABET))
            letters.append(ALPHABET[digit])
        return "".join(letters)


@dataclass(frozen=True)
class Visitor:
    """Who has come, by an id from outside: what a recruiting service says (``PROLIFIC_PID``,
    ``STUDY_ID``, ``SESSION_ID``). IdentityError for a ``pid`` that is nobody's; the other two are
    "" where they are no ids."""

    pid: str
    study: str = ""
    session: str = ""

    def __post_init__(self) -> None:
        for name, value in (("STUDY_ID", self.study), ("SESSION_ID", self.session)):
            if len(value) > LONGEST:
                raise RequestError(
                    f"{name} has {len(value)} letters; at most {LONGEST} are expected"
                )
        object.__setattr__(self, "pid", checked_identity(self.pid))
        object.__setattr__(self, "study", identity(self.study) or "")
        object.__setattr__(self, "session", identity(self.session) or "")

    def hashes(self, links: LinkSigner) -> dict[str, str]:
        """The columns of ``raters`` that know the visitor again."""
        return {
            "pid_hash": links.hashed("pid", self.pid),
            "study_hash": links.hashed("study", self.study),
            "session_hash": links.hashed("session", self.session),
        }


@dataclass(frozen=True)
class Browser:
    """Who has come without an id: a browser that made one, 32 hex digits, so that a call sent
    twice, from two tabs too, takes one place."""

    id: str

    def __post_init__(self) -> None:
        if re.fullmatch("[0-9a-f]{32}", self.id) is None:
            raise RequestError(f'a browser\'s id is 32 hex digits, got "{self.id[:40]}"')

    def hashes(self, links: LinkSigner) -> dict[str, str]:
        """The column of ``raters`` that knows the browser again."""
        return {"pid_hash": links.hashed("browser", self.id)}
