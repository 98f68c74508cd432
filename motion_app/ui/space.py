"""The app as a hosted Space runs it: made while ``app.py`` is imported, served when it is run."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motion_app.errors import MotionAppError
from motion_app.settings import ROOT, Hosting, Settings
from motion_app.ui.uploads import UploadFolder

if TYPE_CHECKING:
    import gradio as gr

    from motion_app.host import ModelHost

EXAMPLES = ROOT / "assets" / "examples"


@dataclass(frozen=True, eq=False)
class Stage:
    """A page that is ready to be launched, and what stands behind it."""

    uploads: UploadFolder
    host: ModelHost
    page: gr.Blocks


def prepare_stage(settings: Settings, uploads: UploadFolder, hosting: Hosting) -> Stage:
    """Build the page. On ZeroGPU the model is loaded here; elsewhere once the page is up."""
    # Read when gradio is imported: its uploads and copies go where they are deleted at the end.
    os.environ["GRADIO_TEMP_DIR"] = str(uploads.path)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    lend = _lender()  # before torch and gradio

    from motion_app.ui.page import build_page
    from motion_app.ui.transfer.picture import load_examples

    host = _new_host(settings, hosting, lend)
    return Stage(uploads, host, build_page(host, load_examples(EXAMPLES)))


def _lender() -> Callable[..., Any] | None:
    """``spaces.GPU``; None where there is no such package, as everywhere but on a Space."""
    try:
        import spaces
    except ImportError:
        return None
    return spaces.GPU


def _new_host(settings: Settings, hosting: Hosting, lend: Callable[..., Any] | None) -> ModelHost:
    from motion_app.host import ModelHost

    if not hosting.zero_gpu:
        return ModelHost(settings)
    if lend is None:
        raise MotionAppError("ZeroGPU needs the package spaces; add it to requirements.txt")

    from motion_app.ui.zero_gpu import LentHost

    return LentHost(settings, lend=lend)


def open_space(hosting: Hosting) -> Stage:
    """The stage of a Space, whose uploads go when the program ends."""
    settings = hosting.settings()
    uploads = UploadFolder(settings.cache, most_bytes=settings.limits.upload_gigabytes * 2**30)
    atexit.register(uploads.__exit__, None, None, None)
    return prepare_stage(settings, uploads.__enter__(), hosting)
