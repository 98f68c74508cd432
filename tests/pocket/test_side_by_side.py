"""Processes that train one network together end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from motion_app.settings import ROOT

PATIENCE = 60.0  # s
WORK = """
import os, time
from motion_app.pocket.side_by_side import side_by_side

def work(seat):
    seat.take(1)
    print("seat", seat.rank, os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    side_by_side(work, count=2)
"""
DRAW = """
import multiprocessing, time
from motion_app.pocket.stream import drawn_ahead
from motion_app.world.world import WorldConfig

if __name__ == "__main__":
    with drawn_ahead(WorldConfig(), workers=1, seed=7, count=2) as source:
        source(60.0)
        print("seat 1", multiprocessing.active_children()[0].pid, flush=True)
        time.sleep(600)
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are read from /proc")
@pytest.mark.parametrize("program", [WORK, DRAW], ids=["trains", "draws"])
def test_a_killed_training_leaves_no_process_behind(tmp_path: Path, program: str) -> None:
    file = tmp_path / "program.py"
    file.write_text(program)
    options = {"stdout": subprocess.PIPE, "text": True, "cwd": tmp_path}
    own = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen([sys.executable, file], env=own, **options)
    try:
        other = 0
        while not other:
            words = first.stdout.readline().split()
            assert words, "the program ended by itself"
            if words[:2] == ["seat", "1"]:
                other = int(words[2])
        assert is_running(other)
        first.send_signal(signal.SIGKILL)
        first.wait(PATIENCE)
        ends = time.monotonic() + PATIENCE
        while is_running(other) and time.monotonic() < ends:
            time.sleep(0.1)
        assert not is_running(other)
    finally:
        first.kill()
        first.wait()
