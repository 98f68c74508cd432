"""The app as a person starts it: in its own process, on a free port, its files in one folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 240.0  # on a free machine it takes 9


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


class RunningApp:
    """``python app.py`` with some ``flags``; ``start`` it again after ``kill`` and it finds what it
    had in ``folder``. That lies in neither of the two places gradio shows files of by itself, as on
    a machine where results have a disk of their own."""

    def __init__(self, folder: Path, *flags: str, **settings: str) -> None:
        self.folder, self.flags = folder, flags
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.log = folder / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = os.environ | {
            "MOTION_APP_CACHE": str(folder / "cache"),
            "MOTION_APP_OUTPUTS": str(folder / "outputs"),
            "MOTION_APP_MOTIONS": f'["{folder / "motions"}"]',
            "TMPDIR": str(folder / "tmp"),
            **settings,
        }

    def start(self) -> RunningApp:
        """Wait until the page answers; the model may still be loading then."""
        began = time.monotonic()
        Path(self.environment["TMPDIR"]).mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "app.py", "--port", str(self.port), *self.flags],
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        while not answers(self.url):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - began < START_SECONDS, self.log.read_text()
            time.sleep(0.1)
        return self

    def stop(self) -> None:
        """As Ctrl-C or a service manager does."""
        self.process.terminate()
        self.process.wait(timeout=60)

    def kill(self) -> None:
        """As a power cut does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=60)

    def __enter__(self) -> RunningApp:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
