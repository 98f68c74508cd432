"""What is signed and hashed: rater links, Prolific's ids, completion codes. No network address is
kept anywhere in the study.

Also whether what a recruiting link brings is somebody's id, or the sign that an id should have
stood in for. Links that were pasted, mailed or set up wrongly arrive with the sign itself; all who
open such a link would be one rater.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import unicodedata
from dataclasses import dataclass, field
from urllib.parse import unquote

from motion_app.errors import RequestError

ALPHABET = "ABCDEFGHJKMNPQRSTVWXYZ23456789"  # none that is taken for another
OPEN = "open"
LONGEST = 200
ROUNDS = 5  # of percent-encoding taken off; services that forward each other add one each
# Around the names of fields in the links of panels, surveys and mailing programs.
TEMPLATE_SIGNS = frozenset("{}[]<>$%*|^`\\\ufffd")
# What programs write for a value that is not there, and the names of the fields themselves; letters
# and digits alone are compared.
NO_VALUES = frozenset(
    {"undefined", "null", "none", "nil", "nan", "na", "unknown", "empty", "missing", "blank"}
    | {"false", "true", "anonymous", "notavailable", "assignmentidnotavailable"}
)
FIELD_NAMES = frozenset(
    {"pid", "prolificpid", "prolificid", "participant", "participantid", "participantcode", "id"}
    | {"subject", "subjectid", "user", "userid", "worker", "workerid", "rater", "raterid", "yourid"}
    | {"respondent", "respondentid", "responseid", "panelist", "panelistid", "studyid", "uid"}
    | {"sessionid", "surveycode", "assignmentid", "hitid", "rid"}
)


class LinkError(RequestError):
    """A link that opens nothing: it was not signed here, or its place was given back."""


class LinkEnded(LinkError):
    """A link that was good, and whose days are over."""


class PlaceGone(LinkError):
    """The link of a rater who never answered, and whose place somebody else has by now."""

    reason = "place_gone"


class BegunElsewhere(RequestError):
    """Somebody has answered under this id: it alone opens nothing that was answered."""

    reason = "begun"

    def __init__(self) -> None:
        super().__init__(
            "somebody has begun under this id; go on in the browser where that was, or by the "
            "link of the same session of the recruiting service"
        )


class IdentityError(RequestError):
    """A recruiting link without an id in it."""

    reason = "identity"


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
class Recruit:
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


def identity(given: str) -> str | None:
    """The id in ``given``, decoded and without the blanks around it; None where it is none.

    None for nothing but blanks or punctuation, a template's placeholder in whatever
    percent-encoding, the name of a field, and what programs write for no value (``undefined``,
    ``null``, 0, …).
    """
    text = given
    for _ in range(ROUNDS):
        decoded = unquote(text, errors="replace")
        if decoded == text:
            break
        text = decoded
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Cf").strip()
    if TEMPLATE_SIGNS.intersection(text) or any(map(_is_control, text)):
        return None
    bare = "".join(sign for sign in text.casefold() if sign.isalnum())
    if not bare.strip("0") or text == "-1":
        return None
    return None if bare in FIELD_NAMES or bare in NO_VALUES else text


def checked_identity(given: str) -> str:
    """As ``identity``; IdentityError, which quotes it, for what is none, RequestError for one of
    more than 200 letters."""
    if len(given) > LONGEST:
        raise RequestError(f"PROLIFIC_PID has {len(given)} letters; at most {LONGEST} are expected")
    found = identity(given)
    if found is None:
        raise IdentityError(
            f'PROLIFIC_PID is "{shown(given)}", which is nobody\'s id; open the study from the '
            "recruiting service's own page, which fills it in"
        )
    return found


def shown(given: str) -> str:
    """``given`` as a line of at most 60 letters."""
    return re.sub(r"[\s\0-\x1f\x7f-\x9f]+", " ", given)[:60]


def _is_control(sign: str) -> bool:
    return unicodedata.category(sign) == "Cc"
