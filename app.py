"""The app: ``python app.py`` opens the page; on a hosted Space this file is the entry as well."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

from motion_app.errors import MotionAppError
from motion_app.settings import Hosting, Settings
from motion_app.study.site.address import believe_private_networks, listener
from motion_app.ui.launch import PreparedApp, UploadFolder, prepare_app, prepare_space

if TYPE_CHECKING:
    from motion_app.study.site.address import PublicAddress
    from motion_app.study.site.app import StudySettings

HOSTING = Hosting.detect()
if HOSTING.space:  # else all its visitors have the address of its proxy
    believe_private_networks()
# A Space makes its page, and on ZeroGPU loads its model, while this file is imported.
PREPARED = prepare_space(HOSTING) if HOSTING.space else None
demo = PREPARED.page if PREPARED is not None else None


def main(argv: list[str] | None = None) -> int:
    """Serve the page, or the studies alone, until stopped; 2 for a wrong flag or setting."""
    options = _parser().parse_args(argv)
    names = ("port", "host", "model", "root_path")
    given = {name: getattr(options, name) for name in names}
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks itself things at start
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder below is removed
    try:
        settings = HOSTING.settings(
            **{key: value for key, value in given.items() if value is not None}
        )
        with listener(settings.host, settings.port) as bound:
            if options.study_only:
                _serve_studies(settings, bound)
                return 0
        served = {"credentials": _credentials(options.auth), "mcp": options.mcp}
        served["studies"] = _study_settings(settings)  # what is wrong is told before the page
        if PREPARED is not None:
            _serve(PREPARED, settings, **served)
            return 0
        with UploadFolder(
            settings.cache, most_bytes=settings.limits.upload_gigabytes * 2**30
        ) as uploads:
            _serve(prepare_app(settings, uploads, HOSTING), settings, **served)
    except MotionAppError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except OSError as error:  # a port that was taken meanwhile, a file without permission
        sys.stderr.write(f"error: {error}; choose another port or place\n")
        return 2
    return 0


class _OneSentence(argparse.ArgumentParser):
    """Says of a wrong flag what is wrong, and nothing else."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see python app.py --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _OneSentence(description="Multi-object motion transfer in the browser.")
    parser.add_argument("--port", type=int, help="default 7860")
    parser.add_argument("--host", help="default 127.0.0.1: this machine alone")
    parser.add_argument("--model", help="folder or hub id of a CogVideoX image-to-video checkpoint")
    parser.add_argument(
        "--root-path",
        metavar="/PATH",
        help="where browsers find it behind a proxy: /motion, or https://lab.example/motion",
    )
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask visitors for these")
    parser.add_argument("--mcp", action="store_true", help="serve the API as MCP tools too")
    parser.add_argument(
        "--study-only", action="store_true", help="serve the human studies alone, without torch"
    )
    return parser


def _credentials(auth: str | None) -> tuple[str, str] | None:
    if auth is None:
        return None
    user, colon, password = auth.partition(":")
    if not (user.strip() and colon and password):
        raise MotionAppError("--auth needs USER:PASSWORD, both not empty")
    return user.strip(), password  # gradio reads names so


def _public(settings: Settings) -> PublicAddress:
    """Where browsers find the app; gradio's own variable says it too."""
    from motion_app.study.site.address import PublicAddress

    return PublicAddress.parse(settings.root_path or os.environ.get("GRADIO_ROOT_PATH", ""))


def _serve_studies(settings: Settings, bound: socket.socket) -> None:
    from motion_app.study.site.app import serve

    studies = _study_settings(settings)
    here = studies.public.origin or f"http://{settings.host}:{settings.port}"
    sys.stdout.write(f"* Studies on {here}{studies.public.path}/NAME/\n")
    sys.stdout.flush()
    serve(studies, listener=bound)


def _study_settings(settings: Settings) -> StudySettings:
    from motion_app.study.site.app import StudySettings

    folder = settings.outputs / "studies"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MotionAppError(
            f"the folder {folder} cannot be made: {error.strerror}; choose another with "
            "MOTION_APP_OUTPUTS"
        ) from error
    database = settings.study_database
    return StudySettings(
        folder=folder,
        database=None if database is None else database.get_secret_value(),
        host=settings.host,
        port=settings.port,
        public=_public(settings),
        frames=settings.frames,
        raters_per_address=settings.limits.raters_per_address,
    )


def _serve(
    prepared: PreparedApp,
    settings: Settings,
    *,
    credentials: tuple[str, str] | None,
    mcp: bool,
    studies: StudySettings,
) -> None:
    from gradio import set_static_paths
    from starlette.routing import Mount

    from motion_app.study.site.app import build_study_app
    from motion_app.ui.access import Login
    from motion_app.ui.page import launch_options
    from motion_app.ui.server import Serving
    from motion_app.ui.sessions import PLACES

    page, host, limits = prepared.page, prepared.host, settings.limits
    login = None if credentials is None else Login(*credentials)
    serving = Serving(page, settings, prepared.uploads, public=studies.public, login=login, mcp=mcp)
    # Served where they lie: of a copy in gradio's folder a link would outlive the job.
    results = host.jobs.files
    set_static_paths([results])
    server, _, _ = page.launch(
        server_name=settings.host,
        server_port=settings.port or None,
        allowed_paths=[str(results)],  # a player takes files of nowhere else, static or not
        auth=credentials,
        max_file_size=int(max(limits.clip_megabytes, limits.motion_megabytes) * 2**20),
        max_threads=PLACES,
        enable_monitoring=False,
        ssr_mode=False,  # the page's own scripts draw into what gradio's server would have drawn
        mcp_server=False,  # gradio's own would read files of this machine for a caller
        prevent_thread_lock=True,
        strict_cors=False,  # our own rules are stricter, see motion_app.ui.access
        app_kwargs=serving.app_kwargs,
        root_path=str(studies.public),
        **launch_options(),
    )
    # Before gradio's own routes, of which one takes every path.
    server.router.routes.insert(0, Mount("/study", build_study_app(studies)))
    prepared.uploads.start(
        file for block in page.blocks.values() for file in getattr(block, "keep_in_cache", ())
    )
    host.start()  # after the page is up: importing torch takes longer than opening it
    try:
        page.block_thread()
    finally:
        host.stop()  # what is being made can be taken up again


if __name__ == "__main__":
    sys.exit(main())
