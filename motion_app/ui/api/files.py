"""Files at the endpoints: uploads and ``data:`` URIs in, files out, mistakes in words."""

from __future__ import annotations

import base64
import contextlib
import functools
import inspect
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from pydantic import ConfigDict, ValidationError, validate_call

from motion_app.errors import MediaError, MotionAppError, server_fault
from motion_app.scene import Motion
from motion_app.ui.boundary import in_one_line

logger = logging.getLogger(__name__)

EXPORTS = "exports"
EXPORT_SECONDS = 3600.0  # how long an exported file can be fetched
ARGUMENT_DEPTH = 4  # spaces before the name of an argument
Json = dict[str, Any]
File = dict[str, Any] | str  # an upload as gradio describes it, or a data URI


def checked_endpoint(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """``endpoint`` with its mistakes as one line of plain text, and nothing else of the server; it
    sees only values of the types it names."""
    checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(endpoint)

    def shown(error: Exception) -> gr.Error:
        if isinstance(error, ValidationError):
            return gr.Error(_what_is_wrong(endpoint, error), print_exception=False)
        if isinstance(error, MotionAppError):
            return gr.Error(in_one_line(error), print_exception=False)
        return gr.Error(server_fault(logger, error), print_exception=False)

    async def answer_later(*arguments: Any, **named: Any) -> Any:
        try:
            return await checked(*arguments, **named)
        except Exception as error:
            raise shown(error) from error

    def answer_now(*arguments: Any, **named: Any) -> Any:
        try:
            return checked(*arguments, **named)
        except Exception as error:
            raise shown(error) from error

    later = inspect.iscoroutinefunction(endpoint)
    answer: Callable[..., Any] = functools.wraps(endpoint)(answer_later if later else answer_now)
    answer.__doc__ = a_line_each(endpoint.__doc__ or "")
    return answer


def a_line_each(docstring: str) -> str:
    """``docstring`` with each argument, and the answer, on a line of its own: gradio shows callers
    the first line of an argument's description and drops the others."""
    lines: list[str] = []
    section = ""
    for line in inspect.cleandoc(docstring).splitlines():
        text = line.strip()
        if text in ("Args:", "Returns:"):
            section = text
            lines.append(text)
            continue
        depth = len(line) - len(line.lstrip())
        more = depth > ARGUMENT_DEPTH if section == "Args:" else lines[-1:] != ["Returns:"]
        if section and text and more:
            lines[-1] += f" {text}"
        else:
            lines.append(line)
    return "\n".join(lines)


def _what_is_wrong(endpoint: Callable[..., Any], error: ValidationError) -> str:
    """The first value of the wrong type, by its name."""
    first = error.errors(include_url=False, include_input=False)[0]
    names = list(inspect.signature(endpoint).parameters)
    head, *rest = first["loc"]
    place = [names[head] if isinstance(head, int) and head < len(names) else head]
    place += [part for part in rest if isinstance(part, int)]  # the others name types
    where = ".".join(str(part) for part in place)[:80]
    return f"the value {where} of {endpoint.__name__} does not fit: {first['msg'][:200]}"


def let_go(upload: Path) -> None:
    """Delete an upload of which nothing more is needed: its link opens nothing from now on. A file
    that lies elsewhere stays."""
    with contextlib.suppress(OSError):  # another one lies beside it, or it has gone by itself
        if upload.resolve().is_relative_to(_uploads()):
            upload.unlink()
            upload.parent.rmdir()


def _uploads() -> Path:
    folder = os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio"
    return Path(folder).resolve()


def received(file: File | None, *, most_megabytes: float) -> Path:
    """The file on disk that an upload or a ``data:`` URI stands for.

    Raises MediaError for anything else, for a path outside the folder of uploads, and for more than
    ``most_megabytes``.
    """
    folder = _uploads()
    if isinstance(file, Mapping) and isinstance(file.get("path"), str):
        with contextlib.suppress(OSError, ValueError):  # no path at all: too long, a zero byte
            path = Path(file["path"]).resolve()
            if path.is_relative_to(folder) and path.is_file():
                return path
        raise MediaError("that is no uploaded file; upload it first (gradio_client.handle_file)")
    if isinstance(file, str) and file.startswith("data:"):
        return _written(file, folder, most_megabytes)
    raise MediaError(
        "a file must come as an upload (gradio_client.handle_file) or as a data: URI; paths and "
        f"addresses are not read; got {str(file)[:60]!r}"
    )


def _written(uri: str, folder: Path, most_megabytes: float) -> Path:
    head, comma, body = uri.partition(",")
    if not (comma and head.endswith(";base64")):
        raise MediaError(f'expected "data:TYPE;base64,…", got "{head[:40]}"')
    if len(body) * 0.75 > most_megabytes * 2**20:
        raise MediaError(
            f"the file has {len(body) * 0.75 / 2**20:.0f} MB; at most {most_megabytes:g} MB"
        )
    try:
        content = base64.b64decode(body, validate=True)
    except ValueError as error:
        raise MediaError(f"the file inside the data: URI is damaged: {error}") from error
    path = folder / secrets.token_hex(16) / "upload"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def handed_out(path: Path) -> Json:
    """A file as gradio sends it: the client downloads it, a browser gets a link."""
    return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def new_export_folder(motion: Motion) -> Path:
    """A folder for one exported motion, in gradio's own temporary one; old ones are removed. Its
    name ends in 128 random bits: who does not know it cannot ask for what is in it."""
    root = Path(get_upload_folder()) / EXPORTS
    before = time.time() - EXPORT_SECONDS
    for folder in root.glob("*"):
        if folder.stat().st_mtime < before:
            shutil.rmtree(folder, ignore_errors=True)
    return root / f"{motion.digest[:16]}-{secrets.token_hex(16)}"


def forget_exports(motion: Motion) -> None:
    """The files that ``motion`` was exported to go with it."""
    for folder in (Path(get_upload_folder()) / EXPORTS).glob(f"{motion.digest[:16]}-*"):
        shutil.rmtree(folder, ignore_errors=True)
