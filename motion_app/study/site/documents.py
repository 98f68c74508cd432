"""The HTML pages in a language, and the files beside them. Nothing of a rater or of the study's
methods is in them. What is served as it is lies in ``static``, what is filled in before in
``templates``."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from motion_app.study.plan import CONSENT, DEMO_CONSENT, QUESTIONS

STATIC = Path(__file__).parent / "static"
TEMPLATES = Path(__file__).parent / "templates"
LANGUAGES = ("en", "zh")
HTML_LANGUAGES = {"en": "en", "zh": "zh-Hans"}
ADMIN_TEXTS = frozenset({"admin", "copy", "item"})  # what each page's scripts are given
RATER_TEXTS = frozenset(
    {"consent", "intro", "ready", "item", "transport", "saved", "break", "done", "deleted"}
    | {"problem", "copy"}
)


@cache
def table(language: str) -> Mapping[str, str]:
    """Every text of the pages in one language, by key."""
    with (TEMPLATES / "texts.csv").open(encoding="utf-8", newline="") as file:
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
    """The study's consent; the app's own ones translated, another as it was written."""
    own = {CONSENT: "consent.text", DEMO_CONSENT: "demo.consent"}
    return table(language)[own[consent]] if consent in own else consent


@cache
def pages() -> Environment:
    """The templates. Every value is escaped; one that is missing is an error."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
    )
    found.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    return found


def document(name: str, request: Request, *, status: int = 200, **values: str) -> HTMLResponse:
    """The page ``name``.html in the request's language. ``values`` fill ``{{name}}``; everything is
    escaped. Addresses in it are relative to where the application is mounted. A rater's page gets
    none of the administrator's words: they tell what is watched for."""
    language = language_of(request)
    words = table(language)
    prefixes = ADMIN_TEXTS if name == "admin" else RATER_TEXTS
    fields = {
        **_grouped(words),
        **values,
        "texts": {key: text for key, text in words.items() if key.partition(".")[0] in prefixes},
        "language": HTML_LANGUAGES[language],
        "other_language": "en" if language == "zh" else "zh",
        "base": base(request),
    }
    page = pages().get_template(f"{name}.html").render(fields)
    return HTMLResponse(page, status, headers={"vary": "Accept-Language"})


def _grouped(words: Mapping[str, str]) -> dict[str, SimpleNamespace]:
    """``{{item.next}}`` of a template is the text ``item.next``."""
    groups: dict[str, SimpleNamespace] = {}
    for key, text in words.items():
        group, _, name = key.partition(".")
        setattr(groups.setdefault(group, SimpleNamespace()), name, text)
    return groups


def notice(
    name: str, request: Request, *, status: int = 200, link: str = "", **said: str
) -> HTMLResponse:
    """A page that says one thing: ``link`` (use your own), ``identity``, ``ended``, ``missing`` or
    ``closed``. ``link``: where the demo is, if it is offered; ``said`` fills ``{name}`` in its
    text."""
    texts = table(language_of(request))
    heading, text = texts[f"notice.{name}_heading"], texts[f"notice.{name}_text"]
    for key, value in said.items():
        text = text.replace(f"{{{key}}}", value)
    return document("notice", request, status=status, heading=heading, text=text, link=link)


def asks_for_page(request: Request) -> bool:
    """Whether a person looks for a page here, not a script for an answer."""
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")


def base(request: Request) -> str:
    """The path the application is mounted at, with a slash at its end."""
    return request.scope.get("root_path", "").rstrip("/") + "/"


class PageFiles(StaticFiles):
    """Scripts, styles and drawings. A browser asks for each of them again at every visit, and is
    told in a line where it has the newest (ETag)."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["cache-control"] = "no-cache"
        if "content-type" in response.headers and str(full_path).endswith(".js"):
            # What a script is called differs between machines and versions of Python.
            response.headers["content-type"] = "text/javascript; charset=utf-8"
        return response
