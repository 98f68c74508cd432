"""Files from strangers are decoded in a child process of their own, which may crash or be killed.

One small server process per program imports the decoders once and forks a child for each file, so
that a file costs milliseconds. It is started through the interpreter, not through multiprocessing,
so the program's main module is never imported a second time and a thread may start it. The child
has a limit on wall time (an alarm the kernel keeps even if the program is gone), processor time,
memory, and may write no file; what it sends back is JSON and plain bytes, never a pickle.

Needs ``fork``: Linux and macOS. macOS does not enforce the memory limit; the others hold there too.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import math
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from motion_app.errors import MediaError
from motion_app.settings import DEFAULT_LIMITS, Limits

logger = logging.getLogger(__name__)

HEAD = struct.Struct(">cQ")  # before each message: its kind and length
JOB, FACTS, PART, REFUSED, FAILED, END = b"J", b"F", b"P", b"R", b"X", b"E"
START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]);"
    "from motion_app.media.sandbox import serve; serve(int(sys.argv[2]), sys.argv[3:])"
)
DECODERS = ("motion_app.media.decoders",)  # what the server imports and prepares beforehand
PACKAGES = str(Path(__file__).resolve().parents[2])  # where this package lies
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # a process with threads must not fork
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",  # each further one reserves address space that the limit counts
    "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",
}
GRACE_SECONDS = 5.0  # beyond the child's own alarm
LARGEST_FACTS = 64 * 2**20  # bytes of JSON
OPEN_FILES = 64

# What a decoder yields: first the facts, with "shape" and "dtype" of the array, then its parts.
Parts = Iterator[dict[str, Any] | np.ndarray]


@dataclass(frozen=True, eq=False)
class Decoded:
    """``facts``: plain JSON about the file. ``array``: its pixels, None where facts have no
    ``shape``; fewer rows than announced where the decoder sent fewer."""

    facts: dict[str, Any]
    array: np.ndarray | None


def decode(
    decoder: str,
    source: Path | bytes,
    options: Mapping[str, Any],
    *,
    name: str,
    limits: Limits = DEFAULT_LIMITS,
) -> Decoded:
    """Run ``decoder``, "module:function", on a path or a file's bytes in a child process.

    The function takes ``source`` and ``options`` (JSON) and yields ``Parts``. Raises the MediaError
    it raised; and MediaError where it crashed, was killed, or went over
    ``limits.decode_seconds`` or ``limits.decode_megabytes``. ``name`` is the file's, for messages.
    """
    kind = decoder.partition(":")[0]
    with memory_for_files(limits, kind).claim(limits.decode_megabytes * 2**20):
        return _decode(decoder, source, options, name=name, limits=limits)


def _decode(
    decoder: str, source: Path | bytes, options: Mapping[str, Any], *, name: str, limits: Limits
) -> Decoded:
    own, childs = socket.socketpair()
    started = time.monotonic()
    try:
        with own:
            own.settimeout(limits.decode_seconds + GRACE_SECONDS)
            with childs:
                _server(os.getpid()).fork(childs)
            content = source if isinstance(source, bytes) else None
            job = {
                "decoder": decoder,
                "path": None if content is not None else str(Path(source).absolute()),
                "options": dict(options),
                "seconds": limits.decode_seconds,
                "megabytes": limits.decode_megabytes,
            }
            _send(own, JOB, json.dumps(job).encode())
            if content is not None:
                _send(own, JOB, content)
            return _result(own, name, limits.decode_megabytes * 2**20)
    except (EOFError, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
        # The socket closed or timed out, or what came through it is not what a decoder sends.
        if _server(os.getpid()).ended():
            raise MediaError(
                f"the process that decodes {name} ended; try again, and see the program's log"
            ) from error
        seconds = time.monotonic() - started
        raise MediaError(_why_it_ended(name, seconds, limits)) from error


class MemoryClaims:
    """Bytes that may be at work at a time, claimed in the order they were asked for; of those who
    wait there are ``most_waiting``, each of whom holds a thread."""

    def __init__(self, most: int, most_waiting: int) -> None:
        self.most, self.most_waiting = most, most_waiting
        self.claimed = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def claim(self, size: int) -> Iterator[None]:
        """Wait for ``size`` bytes, or for all of them where that is more. MediaError where too many
        wait already."""
        size, turn = min(size, self.most), object()
        with self._changed:
            if len(self._waiting) >= self.most_waiting:
                raise MediaError("many files are being read here just now; try again in a moment")
            self._waiting.append(turn)
            try:
                self._changed.wait_for(
                    lambda: self._waiting[0] is turn and self.claimed + size <= self.most
                )
                self.claimed += size
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.claimed -= size
                self._changed.notify_all()


def memory_for_files(limits: Limits, kind: str) -> MemoryClaims:
    """What all files of a kind that are worked on at a time may take, in this process. Each kind
    has its own, so that no picture waits for clips."""
    return _claims(os.getpid(), kind, limits.decodes_megabytes * 2**20, limits.decodes_waiting)


@cache
def _claims(process_id: int, kind: str, most: int, most_waiting: int) -> MemoryClaims:
    """One for all of a process."""
    return MemoryClaims(most, most_waiting)


def warm() -> None:
    """Start the server ahead of the first file: it imports the decoders, about half a second."""
    _server(os.getpid()).start()


def _why_it_ended(name: str, seconds: float, limits: Limits) -> str:
    if seconds >= limits.decode_seconds:
        return (
            f"{name} took longer than {limits.decode_seconds:g} s to decode; "
            "use a shorter or smaller one"
        )
    return (
        f"the decoder broke off at {name}: the file is damaged, or needs more than "
        f"{limits.decode_megabytes} MB of memory; save it anew with another program, or smaller"
    )


def _result(connection: socket.socket, name: str, largest: int) -> Decoded:
    """Receive facts and parts up to the end, trusting neither the kinds nor the lengths."""
    facts: dict[str, Any] = {}
    array, room, filled = None, memoryview(b""), 0
    while True:
        kind, length = HEAD.unpack(_receive(connection, HEAD.size))
        if kind == PART:
            if length > len(room) - filled:
                raise ValueError("more came than was announced")
            _receive_into(connection, room[filled : filled + length])
            filled += length
            continue
        told = json.loads(_receive(connection, min(length, LARGEST_FACTS)))
        if kind == REFUSED:
            raise MediaError(told)
        if kind == FAILED:
            logger.warning("decoding %s: %s", name, told)
            raise EOFError(told)
        if kind == END:
            break
        facts.update(told)
        if "shape" in told:
            array = _reserve(facts["shape"], facts["dtype"], largest)
            room = memoryview(array.reshape(-1).view(np.uint8))
    if array is not None and filled < array.nbytes:
        array = array[: filled // array[:1].nbytes]
    return Decoded(facts, array)


def _reserve(shape: list[int], dtype: str, largest: int) -> np.ndarray:
    """Room for what was announced; pages that nothing is written to take no memory."""
    if math.prod(shape) * np.dtype(dtype).itemsize > largest:
        raise ValueError(f"{shape} of {dtype} was announced")
    return np.empty(shape, np.dtype(dtype))


@cache
def _server(process_id: int) -> _Server:
    """The server of this process: a forked copy of the program asks for one of its own."""
    return _Server()


class _Server:
    """The process that imports the decoders once and forks for each file."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def fork(self, connection: socket.socket) -> None:
        """A new child at the other end of ``connection``; a server that died is replaced."""
        with self._lock:
            self._ensure()
            try:
                socket.send_fds(self._control, [b"f"], [connection.fileno()])
            except OSError:
                self._ensure(anew=True)
                socket.send_fds(self._control, [b"f"], [connection.fileno()])

    def start(self) -> None:
        """Start the server where it does not run."""
        with self._lock:
            self._ensure()

    def ended(self) -> bool:
        """Whether the server is gone, for instance because a package is missing."""
        return self._process is None or self._process.poll() is not None

    def _ensure(self, *, anew: bool = False) -> None:
        if not (self.ended() or anew):
            return
        if self._control is not None:
            self._control.close()
        self._control, theirs = socket.socketpair()
        with theirs:
            # "" is the current folder, where anybody's files may lie.
            paths = json.dumps([*(path for path in sys.path if path), PACKAGES])
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", START, paths, str(theirs.fileno()), *DECODERS],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **ENVIRONMENT},
                start_new_session=True,  # Ctrl-C is the program's; the server ends with its socket
            )


# In the server and its children -----------------------------------------------------------------


def serve(descriptor: int, decoders: list[str]) -> None:
    """Fork a child for each socket that comes through ``descriptor``, until that is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    for module in decoders:
        importlib.import_module(module).prepare()
    with socket.socket(fileno=descriptor) as control:
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            if not message:
                return
            if not descriptors:
                continue
            connection = socket.socket(fileno=descriptors[0])
            if os.fork() == 0:
                control.close()
                _work(connection)
            connection.close()


def _work(connection: socket.socket) -> NoReturn:
    """What a child does: one job, then the end, without any clean-up of the server's."""
    try:
        job = json.loads(_receive_message(connection))
        source = Path(job["path"]) if job["path"] else _receive_message(connection)
        _limit(job["seconds"], job["megabytes"])
        module, _, function = job["decoder"].partition(":")
        decoder = getattr(importlib.import_module(module), function)
        _run(decoder, source, job["options"], connection)
    except Exception as error:  # a decoder's own fault, told to the program's log
        _send(connection, FAILED, json.dumps(f"{type(error).__name__}: {error}").encode())
    finally:
        os._exit(0)


def _run(
    decoder: Callable[..., Parts],
    source: Path | bytes,
    options: dict[str, Any],
    connection: socket.socket,
) -> None:
    try:
        for part in decoder(source, **options):
            if isinstance(part, dict):
                _send(connection, FACTS, json.dumps(part).encode())
            elif part.size:
                _send(connection, PART, memoryview(np.ascontiguousarray(part)).cast("B"))
    except MediaError as error:
        _send(connection, REFUSED, json.dumps(str(error)).encode())
    else:
        _send(connection, END, b"null")


def _limit(seconds: float, megabytes: int) -> None:
    """Bounds that the kernel keeps. The signals' default action ends the process at once."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    cores = os.cpu_count() or 1
    _bound(resource.RLIMIT_CPU, math.ceil(seconds * cores))
    _bound(resource.RLIMIT_CORE, 0)
    _bound(resource.RLIMIT_FSIZE, 0)
    _bound(resource.RLIMIT_NOFILE, OPEN_FILES)
    _bound(resource.RLIMIT_AS, _address_space() + megabytes * 2**20)


def _bound(what: int, limit: int) -> None:
    hard = resource.getrlimit(what)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    try:
        resource.setrlimit(what, (limit, limit))
    except (ValueError, OSError) as error:  # macOS knows RLIMIT_AS and refuses it
        if what != resource.RLIMIT_AS:
            raise
        logger.debug("no limit on memory here: %s", error)


def _address_space() -> int:
    """Bytes of address space this process has now; 0 where /proc does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * resource.getpagesize()


# Messages: a letter for the kind, eight bytes of length, then as many bytes ----------------------


def _send(connection: socket.socket, kind: bytes, content: bytes | memoryview) -> None:
    connection.sendall(HEAD.pack(kind, len(content)))
    connection.sendall(content)


def _receive_message(connection: socket.socket) -> bytes:
    _, length = HEAD.unpack(_receive(connection, HEAD.size))
    return _receive(connection, length)


def _receive(connection: socket.socket, length: int) -> bytes:
    content = bytearray(length)
    _receive_into(connection, memoryview(content))
    return bytes(content)


def _receive_into(connection: socket.socket, room: memoryview) -> None:
    filled = 0
    while filled < len(room):
        count = connection.recv_into(room[filled:])
        if count == 0:
            raise EOFError("the other side ended")
        filled += count
