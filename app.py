"""The app: ``python app.py`` opens the page; on a hosted Space this file is the entry as well."""

from __future__ import annotations

import contextlib

with contextlib.suppress(ImportError):  # only a hosted GPU Space has it, and wants it first
    import spaces  # noqa: F401

import argparse
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from motion_app.errors import MotionAppError
from motion_app.settings import ROOT, Settings, load_settings


def main(argv: list[str] | None = None) -> int:
    """Serve the page until it is stopped; 2 for a wrong flag or setting."""
    options = _parser().parse_args(argv)
    given = {"port": options.port, "host": options.host, "model": options.model}
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks itself things at start
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder below is removed
    try:
        settings = load_settings(
            **{key: value for key, value in given.items() if value is not None}
        )
        credentials = _credentials(options.auth)
        settings.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="run-", dir=settings.cache) as folder:
            _serve(settings, Path(folder), credentials)
    except MotionAppError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Multi-object motion transfer in the browser.")
    parser.add_argument("--port", type=int, help="default 7860")
    parser.add_argument("--host", help="default 127.0.0.1: this machine alone")
    parser.add_argument("--model", help="folder or hub id of a CogVideoX image-to-video checkpoint")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask visitors for these")
    return parser


def _credentials(auth: str | None) -> tuple[str, str] | None:
    if auth is None:
        return None
    user, colon, password = auth.partition(":")
    if not (user and colon and password):
        raise MotionAppError("--auth needs USER:PASSWORD, both not empty")
    return user, password


def _serve(settings: Settings, folder: Path, credentials: tuple[str, str] | None) -> None:
    # Read when gradio is imported: its uploads and copies go where they are deleted at the end.
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

    from motion_app.ui.examples import load_examples
    from motion_app.ui.host import ModelHost
    from motion_app.ui.page import build_page, launch_options

    host = ModelHost(settings)
    page = build_page(host, load_examples(ROOT / "assets" / "examples"))
    page.launch(
        server_name=settings.host,
        server_port=settings.port or None,
        auth=credentials,
        max_file_size=int(settings.limits.image_megabytes * 2**20),
        enable_monitoring=False,
        allowed_paths=[str(settings.outputs / "jobs")],
        prevent_thread_lock=True,
        **launch_options(),
    )
    host.start()  # after the page is up: importing torch takes longer than opening it
    page.block_thread()


if __name__ == "__main__":
    sys.exit(main())
