"""CogVideoX-5B layers at their full token counts with random weights: stock, ours, dense masks.

``python -m motion_app bench generate --shape 5b --layers 1``. All in one process, in turn, so that
a machine that slows down slows all of them; with ``--out`` what was measured is kept, and the same
command goes on where it was stopped.

A sample is one half of the guidance. What is called ``step_extrapolated`` was not run: it is a
layer's time, times the model's number of layers, times two for the halves; everything outside the
layers is left out. On two CPU cores a 5B layer in float32 takes about a minute, 0.5 GB of weights
and 2.4 GB of activations, 2.7 GB under a dense mask.

What a long measurement has found so far, in a file that a stop leaves whole.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from motion_app.errors import RequestError
from motion_app.speed.peak_memory import peak_bytes
from motion_app.speed.rivals import SHAPES, LayerRivals, LayerShape, time_on
from motion_app.text_files import write_whole

MOTIONS = (1, 2, 3, 5)
DENSE = 2  # motions of the dense-mask rival, of RMPM and of the caches
DTYPES = ("float32", "bfloat16")
GIGABYTE = 1e9


def bench_layers(
    shape: str = "5b",
    *,
    layers: int = 1,
    motions: Sequence[int] = MOTIONS,
    device: str | None = None,
    dtype: str | None = None,
    repeats: int = 1,
    out: Path | None = None,
    on_case: OnCase | None = None,
) -> dict[str, float]:
    """Seconds a layer of each rival, the step each would give, their ratios to the stock layer,
    RMPM's seconds and share of such a step, peak memory of activations, and what each step cache
    would make of a step where it skips all that it may.

    ``device`` and ``dtype`` None as the engine chooses them: the GPU where there is one, float32 on
    a CPU, else bfloat16. ``out``: a JSON file that is written after every case; cases that it holds
    ``repeats`` times already are not run again. ``on_case`` hears of each. RequestError for a
    setting that cannot be, or that is not the one ``out`` was begun with.
    """
    if shape not in SHAPES:
        raise RequestError(f'unknown shape "{shape}"; choose one of {", ".join(SHAPES)}')
    if layers < 1 or repeats < 1 or min(motions, default=0) < 1:
        raise RequestError(
            f"{layers} layers, {repeats} repeats and motions {list(motions)} cannot be measured; "
            "each must be at least 1, and one number of motions given"
        )
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or ("float32" if where.type == "cpu" else "bfloat16")
    if dtype not in DTYPES:
        raise RequestError(f'unknown dtype "{dtype}"; choose one of {", ".join(DTYPES)}')
    setting = {
        "shape": shape,
        "layers": layers,
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else where.type,
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": platform.machine(),
    }
    record = BenchRecord.open(out, setting)
    sizes = SHAPES[shape]
    rivals = LayerRivals(sizes, layers, where, getattr(torch, dtype))
    _measure(rivals, record, motions=motions, repeats=repeats, on_case=on_case)
    numbers = {count: sizes.motion_numbers(count) for count in motions}
    gigabytes = {n: rivals.dtype.itemsize * count / GIGABYTE for n, count in numbers.items()}
    return _figures(record, sizes, layers, motion_gigabytes=gigabytes)


def _measure(
    rivals: LayerRivals,
    record: BenchRecord,
    *,
    motions: Sequence[int],
    repeats: int,
    on_case: OnCase | None,
) -> None:
    """Every case ``repeats`` times, in turn; each is made when its turn comes and let go after it,
    so that no two hold their masks and tokens at once. On a GPU one round does not count."""
    makers: dict[str, Callable[[], Callable[[], object]]] = {"stock": lambda: rivals.stock}
    makers |= {f"motions_{n}": lambda n=n: rivals.ours(n) for n in motions}
    if DENSE in motions:
        makers[f"dense_{DENSE}"] = lambda: rivals.dense(DENSE)
        makers["rmpm"] = lambda: rivals.propagation(DENSE)
    device = rivals.device
    with torch.no_grad():
        rivals.warm()
        if device.type == "cuda":
            for make in makers.values():
                make()()
        for number in range(repeats):
            for name, make in makers.items():
                if record.times(name) > number:
                    continue
                run = make()
                rivals.attention_seconds = 0.0
                with peak_bytes(device) as peak:
                    seconds = timed(run, device)
                case = TimedCase(seconds, rivals.attention_seconds, peak[0] / GIGABYTE)
                del run
                record.add(name, case)
                if on_case is not None:
                    on_case(name, case)


def _figures(
    record: BenchRecord,
    sizes: LayerShape,
    layers: int,
    *,
    motion_gigabytes: dict[int, float],
) -> dict[str, float]:
    from motion_app.speed.caches import forced_shares

    figures: dict[str, float] = {}
    stock = record.median("stock")
    for name in record.names():
        case = record.median(name)
        if name == "rmpm":
            continue
        figures[f"{name}.layer"] = case.seconds / layers
        figures[f"{name}.attention"] = case.attention_seconds / layers
        figures[f"{name}.step_extrapolated"] = 2 * case.seconds / layers * sizes.layers
        figures[f"{name}.over_stock"] = case.seconds / stock.seconds
        figures[f"{name}.peak_gb"] = case.peak_gigabytes
        if name != "stock":
            figures[f"{name}.peak_over_stock_gb"] = case.peak_gigabytes - stock.peak_gigabytes
    for count, gigabytes in motion_gigabytes.items():
        figures[f"motions_{count}.own_keys_and_values_gb"] = gigabytes
    ours, dense = f"motions_{DENSE}", f"dense_{DENSE}"
    if not {ours, dense, "rmpm"} <= set(record.names()):
        return figures
    case = record.median(ours)
    figures["dense_over_ours"] = record.median(dense).seconds / case.seconds
    rmpm, step = record.median("rmpm").seconds, figures[f"{ours}.step_extrapolated"]
    figures["rmpm.seconds"] = rmpm
    figures["rmpm.share_of_step"] = rmpm / (step + rmpm)
    for kind, share in forced_shares(sizes.layers).items():
        rest = case.seconds - case.attention_seconds
        taken = share.attention * case.attention_seconds + share.rest * rest
        figures[f"{kind}.attention_computed"] = share.attention
        figures[f"{kind}.rest_computed"] = share.rest
        figures[f"{kind}.times_faster_than_stock"] = stock.seconds / taken
    return figures


def timed(run: Callable[[], object], device: Any) -> float:
    """Seconds of ``run``, once the device has done what it was given."""
    started = time_on(device)
    run()
    return time_on(device) - started


@dataclass(frozen=True)
class TimedCase:
    """One timed run: ``seconds``, those of them in attention, the most memory that it held."""

    seconds: float
    attention_seconds: float
    peak_gigabytes: float


OnCase = Callable[[str, TimedCase], None]


@dataclass
class BenchRecord:
    """Runs of every case under one ``setting``; kept in ``path`` where there is one."""

    setting: Mapping[str, Any]
    path: Path | None = None
    cases: dict[str, list[TimedCase]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path | None, setting: Mapping[str, Any]) -> BenchRecord:
        """What ``path`` holds, or an empty record. RequestError for a file that is no record, or
        one of another setting: figures of two machines or types are no comparison."""
        if path is None or not path.exists():
            return cls(setting, path)
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            found = entries["setting"]
            cases = {
                name: [TimedCase(**run) for run in runs] for name, runs in entries["cases"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(
                f"{path.name} is no record of a measurement ({error!r}); name another file"
            ) from error
        differing = sorted(key for key in {*setting, *found} if setting.get(key) != found.get(key))
        if differing:
            key = differing[0]
            raise RequestError(
                f"{path.name} was begun with {key} {found.get(key)!r}, and this is {key} "
                f"{setting.get(key)!r}; name another file"
            )
        return cls(setting, path, cases)

    def times(self, name: str) -> int:
        """How often the case was run."""
        return len(self.cases.get(name, ()))

    def names(self) -> tuple[str, ...]:
        """All cases that were run, in the order of their first run."""
        return tuple(self.cases)

    def add(self, name: str, case: TimedCase) -> None:
        """Keep a run; the file is replaced whole."""
        self.cases.setdefault(name, []).append(case)
        if self.path is None:
            return
        runs = {name: [asdict(run) for run in kept] for name, kept in self.cases.items()}
        text = json.dumps({"setting": self.setting, "cases": runs}, indent=2) + "\n"
        write_whole(self.path, lambda part: part.write_text(text, encoding="utf-8"))

    def median(self, name: str) -> TimedCase:
        """The median of each of a case's numbers."""
        runs = self.cases[name]
        return TimedCase(
            *(
                statistics.median(getattr(run, part.name) for run in runs)
                for part in fields(TimedCase)
            )
        )
