"""Whether what a recruiting link brings is somebody's id, or the sign that an id should have stood
in for. Links that were pasted, mailed or set up wrongly arrive with the sign itself; all who open
such a link would be one rater."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

from motion_app.errors import RequestError

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


class IdentityError(RequestError):
    """A recruiting link without an id in it."""

    reason = "identity"


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
