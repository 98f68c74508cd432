"""Decoders as a hostile file would have them; ``test_sandbox`` runs them in the child process."""

import os
import signal
import sys
import time

import numpy as np


def crash(source):
    os.kill(os.getpid(), signal.SIGSEGV)
    yield {}


def be_killed(source):
    yield {"shape": [4, 4], "dtype": "u1"}
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(source):
    time.sleep(60)
    yield {}


def spin(source):
    while True:
        pass
    yield {}


def devour(source):
    hoard = [np.ones(2**24, np.uint8) for _ in range(2**10)]
    yield {"blocks": len(hoard)}


def fail(source):
    yield {"shape": [2], "dtype": "u1"}
    raise LookupError("a decoder's own fault")


def send_more_than_announced(source):
    yield {"shape": [4], "dtype": "u1"}
    yield np.zeros(400, np.uint8)


def announce_a_flood(source):
    yield {"shape": [2**40, 3], "dtype": "u1"}


def announce_nonsense(source):
    yield {"shape": ["x"], "dtype": "no such type"}


def write(source, *, path):
    with open(path, "w") as file:
        file.write("taken over")
    yield {}


def tell(source):
    yield {"modules": sorted(sys.modules), "source": repr(source), "pid": os.getpid()}


def send_less_than_announced(source):
    yield {"shape": [9, 2], "dtype": "u1"}
    yield np.ones((3, 2), np.uint8)
