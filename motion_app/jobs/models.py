"""The one place where a deployment's models are loaded: engine, segmenter, finder, judges, and the
models of others.

Commands, workers and the page all come here, so that a setting (``Settings``) holds for all of them
or is refused by all in the same words. Nothing is imported or loaded before it is asked for.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from motion_app.acceleration import Acceleration, StepCache
from motion_app.errors import RequestError
from motion_app.models.checkpoint import Checkpoint
from motion_app.models.hub import OnBytes, checkpoint_folder, config_folder
from motion_app.models.stock_files import (
    RESIDENT,
    StockFiles,
    StockOutlook,
    check_names,
    stock_name,
)
from motion_app.scene import Click, Options
from motion_app.settings import Settings

if TYPE_CHECKING:  # torch is imported by whoever computes, when it does
    import torch

    from motion_app.engine.memory import Outlook
    from motion_app.engine.pipeline import MotionEngine
    from motion_app.evaluation.networks import Judges
    from motion_app.models.clicks import PictureSegmenter
    from motion_app.models.stock import StockGenerator
    from motion_app.models.words import ObjectFinder


class Models:
    """What ``settings`` say is loaded, each when it is first asked for; the last engine, the last
    segmenter and the last model of others are kept. ``device`` in place of the settings' own;
    ``threads`` of the CPU for the whole process, None leaves PyTorch's.

    Whatever is loaded, ``check`` comes first: CheckpointError or RequestError for a setting that
    cannot hold here.
    """

    def __init__(
        self, settings: Settings, *, device: str | None = None, threads: int | None = None
    ) -> None:
        self.settings = settings
        self.device = device or settings.device
        self.threads = threads
        self._checked = False
        self._checkpoints: dict[Path, Checkpoint] = {}
        self._engine: tuple[str, MotionEngine] | None = None
        self._segmenter: tuple[str, PictureSegmenter] | None = None
        self._judges: tuple[str, Judges] | None = None
        self._stock: _OpenStock | None = None

    def check(self) -> None:
        """Refuse, before anything is loaded, settings that cannot hold on this machine: an unknown
        or missing device, kernel, memory profile or cache, a segmenter or another model that is not
        there."""
        if self._checked:
            return
        if self._needs_look:
            from motion_app.engine.runtime import check_acceleration
            from motion_app.models.devices import device_named

            check_acceleration(self.acceleration, device_named(self.device))
        if self.settings.segmenter is not None:
            from motion_app.models.clicks import check_source

            check_source(self.settings.segmenter)
        check_names(self.settings.stock_models)
        for source in self.settings.stock_models:
            StockFiles.find(source)
        self._checked = True

    @property
    def _needs_look(self) -> bool:
        """Whether there is something that does not hold on every machine."""
        options = set(self.acceleration.changed()) - {"keep_text_encoder"}
        return self.device not in (None, "cpu") or bool(options)

    def _prepare(self) -> None:
        """Before anything is loaded."""
        self.check()
        if self.threads is not None:
            from motion_app.models.devices import use_threads

            use_threads(self.threads)

    @cached_property
    def acceleration(self) -> Acceleration:
        """How engines are run."""
        return self.settings.acceleration

    def with_cache(self, cache: StepCache | None) -> Models:
        """The same with another step cache than the settings', to compare them; nothing loaded is
        shared."""
        other = Models(self.settings, device=self.device, threads=self.threads)
        other.acceleration = replace(self.acceleration, cache_steps=cache)
        return other

    def checkpoint(
        self,
        model: str | Path | None = None,
        *,
        weights: bool = False,
        on_bytes: OnBytes | None = None,
    ) -> Checkpoint:
        """What ``model``, a folder or hub id (None: the settings' own), says of itself; read once.
        ``weights``: they are there too, fetched where they were not, of which ``on_bytes`` hears as
        ``Checkpoint.find`` has it. CheckpointError."""
        name = model or self.settings.model
        find = partial(checkpoint_folder, on_bytes=on_bytes) if weights else config_folder
        folder = find(name)
        if folder not in self._checkpoints:
            self._checkpoints[folder] = Checkpoint.read(folder)
        return self._checkpoints[folder]

    def engine(
        self,
        model: str | Path | None = None,
        *,
        on_outlook: Callable[[Outlook], None] | None = None,
    ) -> MotionEngine:
        """The engine of ``model``, a folder or hub id (None: the settings' own). One is kept: the
        memory of the last, and of a model of others, is let go before another is read. Raises as
        ``MotionEngine.load``."""
        name = str(model or self.settings.model)
        if self._engine is None or self._engine[0] != name:
            self._prepare()
            from motion_app.engine.pipeline import MotionEngine

            self._engine = self._stock = None
            loaded = MotionEngine.load(
                self.checkpoint(name, weights=True),
                device=self.device,
                acceleration=self.acceleration,
                on_outlook=on_outlook,
            )
            self._engine = (name, loaded)
        return self._engine[1]

    def forget(self) -> None:
        """Let go of what was loaded, and its memory."""
        self._engine = self._segmenter = self._judges = self._stock = None

    @cached_property
    def stock_models(self) -> tuple[str, ...]:
        """The names of the models of others that the settings offer."""
        return tuple(stock_name(source) for source in self.settings.stock_models)

    def stock_files(self, name: str) -> StockFiles:
        """What the files of a model of others say: one that the settings offer by its ``name``, or
        any folder or fetched hub id. CheckpointError."""
        return StockFiles.find(name, among=self.settings.stock_models)

    def stock_outlook(self, name: str) -> StockOutlook:
        """What that model takes, beside what is loaded now. CheckpointError."""
        from motion_app.models.devices import device_named
        from motion_app.models.stock import stock_outlook

        files, opened = self.stock_files(name), self._stock
        if opened is not None and opened.folder == files.folder and opened.generator is not None:
            return opened.generator.outlook
        return stock_outlook(files, device_named(self.device))

    def frame(self, model: str | Path | None, options: Options) -> MotionEngine | Checkpoint:
        """What a video with ``options`` is asked of: the engine of ``model``, or where a model of
        others makes it, only the checkpoint whose frame its picture has."""
        if options.stock is None:
            return self.engine(model)
        return self.checkpoint(model, weights=True)

    @contextmanager
    def stock(self, name: str, engine: MotionEngine | None = None) -> Iterator[StockGenerator]:
        """The model of others with that name, for one video. It is kept, and the memory of the last
        one is let go before another is read. Where it does not fit beside an engine, that is let go
        too; ``engine``, which others hold, is set aside meanwhile. CheckpointError for what is not
        here, or takes more than this machine has."""
        files = self.stock_files(name)
        self._prepare()
        from motion_app.models.devices import device_named

        device = device_named(self.device)
        if self._stock is None or self._stock.folder != files.folder:
            self._stock = None
            self._stock = self._opened(files, device, engine)
        opened = self._stock
        with engine.set_aside() if engine is not None and opened.alone else nullcontext():
            if opened.generator is None:
                from motion_app.models.stock import StockGenerator

                opened.generator = StockGenerator.load(files, device=device)
            opened.generator.move(device)
            try:
                yield opened.generator
            finally:
                if opened.alone:
                    opened.generator.move("cpu")
                    _empty(device)

    def _opened(
        self, files: StockFiles, device: torch.device, engine: MotionEngine | None
    ) -> _OpenStock:
        """A place for it, and nothing loaded yet."""
        from motion_app.models.stock import stock_outlook

        _empty(device)
        outlook = stock_outlook(files, device)
        crowded = not outlook.fits or outlook.where != RESIDENT
        if crowded and engine is None:
            self._engine = None
            _empty(device)
        alone = crowded and engine is not None and device.type != "cpu"
        return _OpenStock(files.folder, alone)

    def segmenter(
        self,
        model: str | Path | None = None,
        *,
        given: str | None = None,
        default: str | None = None,
    ) -> PictureSegmenter:
        """A SAM 2, an original ``.pt`` checkpoint or a transformers model: the one ``given``, else
        the settings' own, else the one that ``model`` names, else ``default``. Raises
        CheckpointError."""
        source = given or self.settings.segmenter
        if source is None:
            source = self.checkpoint(model).segmenter(default=default)
        if self._segmenter is None or self._segmenter[0] != source:
            self._prepare()
            from motion_app.models.clicks import load_segmenter

            self._segmenter = (source, load_segmenter(source, device=self.clicks_device))
        return self._segmenter[1]

    @property
    def clicks_device(self) -> str | None:
        """Where segmenter and finder compute."""
        return self.device

    def mark(
        self, model: str | Path | None = None
    ) -> Callable[[np.ndarray, Sequence[Click]], np.ndarray]:
        """What marks what clicks (in pixels) show in an image (H, W, 3) uint8: a mask (H, W) bool.
        The segmenter of ``model`` is loaded when it is first called."""
        return lambda image, clicks: self.segmenter(model).segment(image, clicks).mask

    def mark_at(
        self, model: str | Path | None = None
    ) -> Callable[[np.ndarray, tuple[float, float]], np.ndarray]:
        """As ``mark``, for one point (y, x) in pixels."""
        segment = self.mark(model)
        return lambda image, at: segment(image, [Click(at[1], at[0])])

    @cached_property
    def finder(self) -> ObjectFinder:
        """What finds things by words. RequestError where none is set, CheckpointError where it
        cannot be loaded."""
        source = self.settings.finder
        if source is None:
            raise RequestError(
                "no finder of things by words is set up here; set MOTION_APP_FINDER to a Grounding "
                "DINO or SAM 3 model, for example IDEA-Research/grounding-dino-tiny"
            )
        self._prepare()
        from motion_app.models.words import ObjectFinder

        return ObjectFinder.load(source, device=self.clicks_device)

    def judges(self, *, device: str | None = None) -> Judges:
        """The networks that score videos, each loaded when it is first used, on ``device`` (None:
        this deployment's, the CPU where none is set)."""
        device = device or self.device or "cpu"
        if self._judges is None or self._judges[0] != device:
            self._prepare()
            from motion_app.evaluation.networks import Judges, WeightStore

            self._judges = (device, Judges(WeightStore(self.settings.judges), device=device))
        return self._judges[1]


@dataclass(eq=False)
class _OpenStock:
    """A model of others: its ``generator``, None before it is loaded, and whether it needs the
    device ``alone``."""

    folder: Path
    alone: bool
    generator: StockGenerator | None = None


def _empty(device: torch.device) -> None:
    """What nobody holds any more is the device's again."""
    gc.collect()
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def running_of(settings: Settings) -> dict[str, Any]:
    """Of how ``settings`` run a model what may change a video's numbers and is not the default;
    {} for settings that leave it as it is. What is kept under a key of its ingredients needs it."""
    changed = settings.acceleration.changed()
    changed.pop("keep_text_encoder", None)  # which changes nothing but memory
    profile = changed.pop("profile", None)
    if profile is not None:
        from motion_app.engine.memory import placement_named

        weights = placement_named(profile).weights  # where the others lie changes nothing
        changed |= {} if weights is None else {"weights": weights}
    return changed
