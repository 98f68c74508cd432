"""``speed gpu``: everything about speed that needs a GPU, measured in one go of so many minutes.

In order: a step of the transformer, whole videos, memory profiles, learning, compilation. What it
found is written after every case, so that a run that is cut off keeps it; a second run into the
same folder goes on with what is missing. A case that would not fit into the minutes is left out and
named, with what it would have needed. What makes the table fuller without changing it comes last.

It runs where nothing is installed but torch, diffusers, transformers and numpy: of a random model
made on the device, without a download.
"""

from __future__ import annotations

import _thread
import gc
import logging
import platform
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motion_app.errors import MotionAppError, one_line
from motion_app.speed.clock import Clock, OutOfTime
from motion_app.speed.gpu_report import GpuReport

if TYPE_CHECKING:
    from motion_app.speed.gpu_parts import Case

log = logging.getLogger(__name__)
PARTS = ("steps", "videos", "memory", "learning", "compiled")
SPARE = 5.0  # s: what a case may take longer than thought


@dataclass(frozen=True)
class GpuOptions:
    """``shape`` and ``device`` of the model, ``dtype`` None as the engine chooses; the ``parts`` to
    measure, of PARTS, and ``compiler``, the backend of torch.compile."""

    shape: str = "5b"
    device: str | None = None
    dtype: str | None = None
    parts: tuple[str, ...] = PARTS
    compiler: str = "inductor"


def measure_gpu(
    out: Path,
    *,
    minutes: float,
    options: GpuOptions = GpuOptions(),
    tell: Callable[[str], object] = log.info,
) -> GpuReport:
    """Measure for ``minutes``, importing and building included, into ``out``/report.json and
    report.md; ``tell`` hears a line on each case. RequestError for a shape or a setting that cannot
    be, CheckpointError for a device that this machine lacks."""
    clock = Clock(minutes)  # before torch is there

    import torch

    from motion_app.models.devices import device_named
    from motion_app.speed.gpu_parts import Workbench, cases

    device = device_named(options.device)
    chosen = options.dtype or ("float32" if device.type == "cpu" else "bfloat16")
    report = GpuReport.open(out, _setting(options.shape, device, chosen))
    report.minutes = minutes
    workbench = Workbench(
        options.shape, device, getattr(torch, chosen), clock, report, compiler=options.compiler
    )
    wanted = [case for case in cases(workbench) if case.part in options.parts]
    for case in sorted(wanted, key=lambda case: case.more):  # in their order otherwise
        _run(case, clock, report)
        tell(report.line(case.name))
        workbench.tidy()
    return report


def _run(case: Case, clock: Clock, report: GpuReport) -> None:
    """One case, unless it is there already or would take too long; whatever becomes of it is
    written down."""
    if report.has(case.name):
        return
    try:
        needed = case.estimate() + SPARE
        if needed > clock.left:
            report.skip(
                case.name, f"left out: it needs about {needed:.0f} s, {clock.left:.0f} s are left"
            )
            return
        with stopped_at_the_end(clock):
            case.run()
        report.finish(case.name)
    except OutOfTime as error:
        report.skip(case.name, str(error))
    except MotionAppError as error:
        report.skip(case.name, f"not to be had here: {error}")
    except Exception as error:  # whatever a library or a driver says, the other cases follow
        log.info("case %s", case.name, exc_info=True)
        short = "out of memory: " if type(error).__name__ == "OutOfMemoryError" else ""
        report.skip(case.name, f"failed: {short}{one_line(error)[:300]}")
    finally:
        gc.collect()
        report.spent = clock.spent
        report.write()


@contextmanager
def stopped_at_the_end(clock: Clock) -> Iterator[None]:
    """Whatever runs inside is stopped by OutOfTime when the minutes are over, compilation and
    placing too. For the main thread, also of a program whose interrupts are ignored, as those of
    one in a script's background are."""
    over = threading.Event()

    def stop() -> None:
        over.set()
        _thread.interrupt_main()

    timer = threading.Timer(clock.left, stop)
    timer.daemon = True
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        if over.is_set():
            raise OutOfTime("the minutes ran out in the middle of it") from None
        raise
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


def _setting(shape: str, device: Any, dtype: str) -> dict[str, Any]:
    """What must be the same for figures to stand in one table."""
    import diffusers
    import torch
    import transformers

    known = device.type == "cuda"
    return {
        "shape": shape,
        "device": torch.cuda.get_device_name(device) if known else device.type,
        "memory_gib": (
            round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
            if known
            else None
        ),
        "dtype": dtype,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if known else None,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
    }
