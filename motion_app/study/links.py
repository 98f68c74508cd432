"""What is signed and hashed: rater links, Prolific's ids, completion codes. No network address is
kept anywhere in the study."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

from motion_app.errors import RequestError

ALPHABET = "ABCDEFGHJKMNPQRSTVWXYZ23456789"  # none that is taken for another
OPEN = "open"


class LinkError(RequestError):
    """A link that opens nothing: it was not signed here, or its place was given back."""


class LinkEnded(LinkError):
    """A link that was good, and whose days are over."""


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
        """An outside id (``kind`` names which: pid, study or session) that can be compared but not
        read: HMAC under the study's secret, hex."""
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
    """Who a recruiting service says has come (``PROLIFIC_PID``, ``STUDY_ID``, ``SESSION_ID``)."""

    pid: str
    study: str = ""
    session: str = ""

    def __post_init__(self) -> None:
        for name, value in (("PROLIFIC_PID", self.pid), ("STUDY_ID", self.study)):
            if len(value) > 200:
                raise RequestError(f"{name} has {len(value)} letters; at most 200 are expected")
        if len(self.session) > 200 or not self.pid.strip():
            raise RequestError(
                "PROLIFIC_PID is empty or SESSION_ID too long; open the link from the service again"
            )
