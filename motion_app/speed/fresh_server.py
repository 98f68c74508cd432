"""The app in a process of its own, with nothing but what ships, and what it holds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

from motion_app.errors import MotionAppError
from motion_app.settings import ROOT

START_SECONDS = 240.0


class FreshServer:
    """``python app.py`` with its files in ``folder`` and ``settings`` as environment variables."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder, self.settings = folder, settings
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until the page answers."""
        environment = os.environ | {
            "MOTION_APP_CACHE": str(self.folder / "cache"),
            "MOTION_APP_OUTPUTS": str(self.folder / "outputs"),
            "MOTION_APP_MOTIONS": json.dumps([str(self.folder / "motions")]),
            **self.settings,
        }
        command = [sys.executable, "app.py", "--port", str(self.port)]
        with (self.folder / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log_end = (self.folder / "log.txt").read_text()[-400:]
                raise MotionAppError(f"the server did not start; its log ends: {log_end}")
            time.sleep(0.2)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=60)

    def memory(self) -> int:
        """Resident bytes of it and its children."""
        return resident_bytes(psutil.Process(self.process.pid))

    def temporary(self) -> int:
        """Bytes of uploads and copies."""
        sizes = 0
        for path in (self.folder / "cache").rglob("*"):
            try:
                sizes += path.lstat().st_size
            except OSError:  # it has just gone
                continue
        return sizes

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=5) as response:
                return response.status == 200
        except OSError:
            return False


def resident_bytes(server: psutil.Process) -> int:
    """Of a process and its children, some of which may end meanwhile."""
    held = 0
    for process in (server, *server.children(recursive=True)):
        try:
            held += process.memory_info().rss
        except psutil.NoSuchProcess:  # a decoder that is done
            continue
    return held
