"""The administrator's page and calls, behind one secret.

The outcome of an unblinded study, as the administrator's page shows it and hands it out.

The statistics are imported when they are asked for: they take longer to load than all the rest, and
until a study is unblinded its pages do without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import parse_qs, urlencode

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import RedirectResponse, Response

from motion_app.errors import RequestError
from motion_app.study.acceptance import link_end
from motion_app.study.analysis_set import analysis_set, choose_analysis
from motion_app.study.answers import Study
from motion_app.study.site.demo import PREVIEW, PreviewHall
from motion_app.study.site.documents import base, document, language_of, table
from motion_app.study.site.guard import (
    CONTENT_POLICY,
    COOKIE,
    KNOWN_COOKIE,
    KNOWN_SECONDS,
    OPEN_SECONDS,
    Door,
    TooManyTries,
)
from motion_app.study.unblinding import answer_rows, overview, record, unblind, unblinded

# The plots set styles on what they draw; the rater's page needs nothing of the kind.
PLOT_POLICY = CONTENT_POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
PROLIFIC_QUERY = (
    "?PROLIFIC_PID={{%PROLIFIC_PID%}}&STUDY_ID={{%STUDY_ID%}}&SESSION_ID={{%SESSION_ID%}}"
)
DOWNLOADS: Mapping[str, str] = MappingProxyType(
    {
        "answers.csv": "text/csv; charset=utf-8",
        "answers.parquet": "application/vnd.apache.parquet",
        "results.json": "application/json",
        "table.tex": "application/x-tex; charset=utf-8",
        "codebook.md": "text/markdown; charset=utf-8",
    }
)


class More(BaseModel):
    """How many personal links to hand out."""

    model_config = ConfigDict(extra="forbid")

    count: int = Field(ge=1, le=1000)


class Link(BaseModel):
    """An address as people type it, to be shown as a QR code."""

    model_config = ConfigDict(extra="forbid")

    address: str = Field(min_length=1, max_length=500)


class Release(BaseModel):
    """Whose place is given back, and when they joined as the page shows it."""

    model_config = ConfigDict(extra="forbid")

    number: int
    joined: float | None


class CountedRaters(BaseModel):
    """Who is counted: a rule of ``analysis_set``, and for "by hand" the raters who are not."""

    model_config = ConfigDict(extra="forbid")

    rule: str = Field(max_length=32)
    without: list[int] = Field(default=[], max_length=5000)


class Confirmation(BaseModel):
    """The study's title, typed by who unblinds it."""

    model_config = ConfigDict(extra="forbid")

    confirm: str = Field(max_length=300)


def admin_router(
    study: Study, door: Door, *, trial: str | None = None, previews: PreviewHall | None = None
) -> APIRouter:
    """Everything below ``/admin``. ``trial``: "demo" or "preview", of which nothing is kept;
    ``previews``: where previews of the study are."""
    router = APIRouter(prefix="/admin")

    def inside(request: Request) -> None:
        if not door.admits(request.cookies.get(COOKIE, "")):
            raise HTTPException(401, "this needs the administrator's secret; sign in again")

    @router.get("")
    @router.get("/")
    def page(request: Request) -> Response:
        if not door.admits(request.cookies.get(COOKIE, "")):
            return document("login", request, notice="")
        title = study.archive.config.title
        response = document("admin", request, title=title, trial=trial or "")
        response.headers["content-security-policy"] = PLOT_POLICY
        return response

    _add_session(router, door)
    _add_running(router, study, inside)
    _add_analysis(router, study, inside)
    _add_outcome(router, study, inside)
    if previews is not None:
        _add_previews(router, previews, inside)
    return router


def _add_previews(router: APIRouter, previews: PreviewHall, inside: Callable[..., None]) -> None:
    @router.post("/preview/{page}", dependencies=[Depends(inside)])
    def preview(request: Request, page: Literal["rater", "admin"]) -> Response:
        """A new one: its rater's page or its administrator's."""
        root = base(request) + PREVIEW
        return previews.hall.begin(request, root, inside="admin/" if page == "admin" else "")


def _add_session(router: APIRouter, door: Door) -> None:
    @router.post("/login")
    async def login(request: Request) -> Response:
        # A form as browsers send one; the gate has bounded its size.
        fields = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=4)
        given = fields.get("secret", [""])[0]
        try:
            address = request.client.host if request.client else ""
            known = request.cookies.get(KNOWN_COOKIE, "")
            cookie = door.knock(given, address, known=known)
        except TooManyTries as error:
            response = document("login", request, status=429, notice=str(error))
            response.headers["retry-after"] = str(int(error.seconds) + 1)
            return response
        if cookie is None:
            return document(
                "login", request, status=403, notice=table(language_of(request))["admin.wrong"]
            )
        asked = "lang" in request.query_params
        ending = "?" + urlencode({"lang": language_of(request)}) if asked else ""
        inside = RedirectResponse(f"{base(request)}admin/{ending}", status_code=303)
        for name, told, seconds in (
            (COOKIE, cookie, OPEN_SECONDS),
            (KNOWN_COOKIE, door.known(), KNOWN_SECONDS),
        ):
            inside.set_cookie(
                name,
                told,
                max_age=seconds,
                path=base(request) + "admin",
                secure=request.url.scheme == "https",
                httponly=True,
                samesite="strict",
            )
        return inside

    @router.post("/logout")
    def logout(request: Request) -> Response:
        response = RedirectResponse(base(request) + "admin/", status_code=303)
        response.delete_cookie(COOKIE, path=base(request) + "admin", httponly=True)
        return response


def _add_running(router: APIRouter, study: Study, inside: Callable[..., None]) -> None:
    @router.get("/api/progress", dependencies=[Depends(inside)])
    def progress() -> dict[str, Any]:
        return describe_progress(study)

    @router.get("/api/links", dependencies=[Depends(inside)])
    def links() -> dict[str, Any]:
        return describe_links(study)

    @router.post("/api/links", dependencies=[Depends(inside)])
    def more_links(more: More) -> dict[str, Any]:
        study.raters.hand_out(more.count)
        return describe_links(study)

    @router.post("/api/qr", dependencies=[Depends(inside)])
    def code(given: Link) -> Response:
        return Response(qr_picture(given.address), media_type="image/svg+xml")

    @router.post("/api/release", dependencies=[Depends(inside)])
    def release(given: Release) -> dict[str, int]:
        return {"deleted": study.raters.release(given.number, joined=given.joined)}


def _add_analysis(router: APIRouter, study: Study, inside: Callable[..., None]) -> None:
    @router.post("/api/analysis", dependencies=[Depends(inside)])
    def choose(given: CountedRaters) -> dict[str, Any]:
        without = frozenset(given.without)
        return asdict(choose_analysis(study.archive, given.rule, without=without, by="admin page"))


def _add_outcome(router: APIRouter, study: Study, inside: Callable[..., None]) -> None:
    def opened() -> None:
        if unblinded(study.archive) is None:
            raise HTTPException(403, "the results are hidden until the study is unblinded")

    @router.post("/api/unblind", dependencies=[Depends(inside)])
    def open_results(given: Confirmation) -> dict[str, float]:
        if given.confirm.strip() != study.archive.config.title.strip():
            raise RequestError(
                f'to unblind, type the study\'s title, "{study.archive.config.title}"; '
                f'got "{given.confirm[:80]}"'
            )
        return {"unblinded": unblind(study.archive)}

    @router.get("/api/results", dependencies=[Depends(inside), Depends(opened)])
    def results() -> dict[str, Any]:
        return describe_results(study)

    @router.get("/plots.js", dependencies=[Depends(inside)])
    def plots() -> Response:
        headers = {"cache-control": "private, max-age=86400"}
        return Response(plot_script(), media_type="text/javascript", headers=headers)

    @router.get("/download/{name}", dependencies=[Depends(inside), Depends(opened)])
    def download_file(name: str) -> Response:
        if name not in DOWNLOADS:
            raise HTTPException(404, f"there are {', '.join(DOWNLOADS)}")
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        media_type = DOWNLOADS[name]
        return Response(download(study, name), media_type=media_type, headers=headers)


def describe_progress(study: Study) -> dict[str, Any]:
    """How the study goes, and what was done to it; nothing of what was preferred."""
    found = overview(study.archive)
    return {
        **asdict(found),
        "analysis": asdict(analysis_set(study.archive, found)),
        "created": study.archive.created,
        "form": study.archive.config.form,
        "record": record(study.archive),
        "seats": {
            "all": len(found.raters),
            "joined": sum(rater.joined is not None for rater in found.raters),
            "finished": sum(rater.finished is not None for rater in found.raters),
            "flagged": sum(bool(rater.flags) for rater in found.raters),
        },
    }


def describe_links(study: Study) -> dict[str, Any]:
    """Addresses relative to the application: the open link, and those handed out by name, each with
    its place and when it ends."""
    opening = f"r/{study.archive.links.open_token()}"
    personal = [
        {
            "number": link.number,
            "page": f"r/{link.token}",
            "expires": link_end(study.archive.config, link),
            "finished": link.finished,
        }
        for link in study.raters.links()
    ]
    return {
        "open": opening,
        "recruiting": opening + PROLIFIC_QUERY,
        "personal": personal,
        "link_days": study.archive.config.link_days,
    }


def qr_picture(address: str) -> bytes:
    """``address`` as a QR code, an SVG of one unit a module with its quiet zone."""
    import cv2  # half a second, and only who asks for a code needs it

    modules = cv2.QRCodeEncoder.create().encode(address)  # (n, n) uint8, 0 where it is black
    dark = np.argwhere(modules == 0)
    path = "".join(f"M{x} {y}h1v1h-1z" for y, x in dark.tolist())
    side = len(modules)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}" '
        f'shape-rendering="crispEdges"><path fill="#fff" d="M0 0h{side}v{side}H0z"/>'
        f'<path d="{path}"/></svg>'
    ).encode()


def describe_results(study: Study) -> dict[str, Any]:
    """The report as JSON, each share also in percent as the paper prints it, the media of every
    item, and the figures."""
    from motion_app.study.figures import figures_json
    from motion_app.study.report import percent, study_report

    report = study_report(study.archive)
    shown = report.to_json()
    scenes = {item.name: item for item in study.archive.items.values()}
    for told in shown["scenes"]:
        item = scenes[told["name"]]
        told["caption"], told["first_frame"] = item.caption, f"media/{item.first_frame}"
        told["references"] = [f"media/{name}" for name in item.references]
        told["candidates"] = [f"media/{item.candidates[name]}" for name in report.methods]
    for question in shown["questions"]:
        for share in question["shares"]:
            share["percent"] = percent(share["votes"], share["total"])
    return {**shown, "figures": figures_json(report)}


def download(study: Study, name: str) -> bytes:
    """The file ``name`` of DOWNLOADS, made from the latest answers."""
    from motion_app.study import exports
    from motion_app.study.report import study_report

    if name == "answers.csv":
        return exports.to_csv(answer_rows(study.archive))
    report = study_report(study.archive)
    if name == "answers.parquet":
        return exports.to_parquet(answer_rows(study.archive), counted=report.counted)
    if name == "results.json":
        return exports.to_json(report)
    if name == "table.tex":
        return exports.to_latex(report).encode()
    return exports.codebook(report).encode()


def plot_script() -> bytes:
    """plotly's own script, which comes with its package: the page fetches nothing from outside."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().encode()
