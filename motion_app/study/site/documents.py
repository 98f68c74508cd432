"""The HTML pages in a language, and the files beside them. Read once when the application is built;
nothing of a rater or of the study's methods is in them."""

from __future__ import annotations

import csv
import hashlib
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from motion_app.study.plan import CONSENT, QUESTIONS

STATIC = Path(__file__).parent / "static"
LANGUAGES = ("en", "zh")
HTML_LANGUAGES = {"en": "en", "zh": "zh-Hans"}
TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
ADMIN_TEXTS = frozenset({"admin", "copy"})  # what each page's scripts are given
RATER_TEXTS = frozenset(
    {"consent", "intro", "ready", "item", "transport", "saved", "break", "done", "deleted"}
    | {"problem", "copy"}
)
FIELD = re.compile(r"\{\{([\w.]+)\}\}")


@cache
def table(language: str) -> Mapping[str, str]:
    """Every text of the pages in one language, by key."""
    with (STATIC / "texts.csv").open(encoding="utf-8", newline="") as file:
        return MappingProxyType({row["key"]: row[language] for row in csv.DictReader(file)})


def language_of(request: Request) -> str:
    """``?lang=``, else the first of the browser's languages; English where it is neither."""
    asked = request.query_params.get("lang")
    if asked in LANGUAGES:
        return asked
    preferred = request.headers.get("accept-language", "").lower()
    return "zh" if preferred.startswith("zh") else "en"


def question_text(question: str, language: str) -> str:
    """A question in the paper's words, or those translated."""
    return QUESTIONS[question] if language == "en" else table(language)["question." + question]


def consent_text(consent: str, language: str) -> str:
    """The study's consent; the app's own one translated, another as it was written."""
    return table(language)["consent.text"] if consent == CONSENT else consent


def document(name: str, request: Request, *, status: int = 200, **values: str) -> HTMLResponse:
    """The page ``name``.html in the request's language. ``values`` fill ``{{name}}``; everything is
    escaped. Addresses in it are relative to where the application is mounted. A rater's page gets
    none of the administrator's words: they tell what is watched for."""
    language = language_of(request)
    texts = table(language)
    prefixes = ADMIN_TEXTS if name == "admin" else RATER_TEXTS
    own = {key: words for key, words in texts.items() if key.partition(".")[0] in prefixes}
    script = json.dumps(own, ensure_ascii=False).replace("<", "\\u003c")
    fields = {
        **texts,
        **values,
        "language": HTML_LANGUAGES[language],
        "other_language": "en" if language == "zh" else "zh",
        "base": base(request),
    }
    page = FIELD.sub(
        lambda field: script if field[1] == "texts" else html.escape(fields[field[1]]),
        (STATIC / f"{name}.html").read_text(encoding="utf-8"),
    )
    return HTMLResponse(page, status, headers={"vary": "Accept-Language"})


def notice(name: str, request: Request, *, status: int = 200, **said: str) -> HTMLResponse:
    """A page that says one thing: ``link`` (use your own), ``identity``, ``ended``, ``missing`` or
    ``closed``. ``said`` fills ``{name}`` in its text."""
    texts = table(language_of(request))
    heading, text = texts[f"notice.{name}_heading"], texts[f"notice.{name}_text"]
    for key, value in said.items():
        text = text.replace(f"{{{key}}}", value)
    return document("notice", request, status=status, heading=heading, text=text)


def asks_for_page(request: Request) -> bool:
    """Whether a person looks for a page here, not a script for an answer."""
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")


def base(request: Request) -> str:
    """The path the application is mounted at, with a slash at its end."""
    return request.scope.get("root_path", "").rstrip("/") + "/"


@dataclass(frozen=True)
class StaticFile:
    """A script, style or drawing: its bytes, type and the digest that tells when it changed."""

    content: bytes
    media_type: str
    tag: str

    def response(self, request: Request) -> Response:
        headers = {"etag": f'"{self.tag}"', "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def static_files() -> Mapping[str, StaticFile]:
    """The files that are served as they are, by name; templates and texts are not among them."""
    found = {}
    for path in sorted(STATIC.iterdir()):
        if path.suffix in TYPES:
            content = path.read_bytes()
            tag = hashlib.sha256(content).hexdigest()[:20]
            found[path.name] = StaticFile(content, TYPES[path.suffix], tag)
    return MappingProxyType(found)
