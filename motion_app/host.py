"""The loaded model as the page sees it: loading in the background, ready, or not to be had.

Shared by all browsers, so it holds nothing of anybody's: weights, sizes, one device lock, and the
line of jobs, which gives a job to who knows its id.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from motion_app.errors import CheckpointError, MotionAppError, RequestError
from motion_app.geometry import GenerationDefaults, ModelGeometry
from motion_app.jobs import runners
from motion_app.jobs.line import DeviceLock
from motion_app.jobs.models import Models
from motion_app.jobs.progress import Runner
from motion_app.jobs.queue import JobQueue
from motion_app.jobs.timings import Measurement, Timings
from motion_app.library.library import Library
from motion_app.library.motion_file import SUFFIX
from motion_app.library.owners import LibraryUser
from motion_app.library.published import MotionRepository, PublishedMotion
from motion_app.media import sandbox
from motion_app.media.provenance import certificate_of
from motion_app.models.adapters import offered_methods
from motion_app.models.checkpoint import Checkpoint, FamiliarPictures
from motion_app.models.stock_files import StockModel
from motion_app.request.phrases import PromptTokenizer, TokenizerOnce
from motion_app.scene import Click, Motion
from motion_app.settings import Settings
from motion_app.wording import NEUTRAL_PHRASE

if TYPE_CHECKING:  # torch is imported by the loading thread: the page opens before it is there
    from motion_app.engine.expectation import Expectation
    from motion_app.engine.memory import Outlook
    from motion_app.engine.pipeline import MotionEngine
    from motion_app.models.clicks import PictureSegmenter
    from motion_app.models.words import ObjectFinder

logger = logging.getLogger(__name__)

HUB_SEGMENTER = (
    "facebook/sam2.1-hiera-small"  # where a checkpoint names none: SAM 2.1, 46 M weights
)
KEEPS_PHRASE = "an exported motion keeps its own phrase; leave that field empty"
TIMINGS = "timings.json"
CLICK_WAIT_SECONDS = 120.0
LOADING_SECONDS = 1800.0  # a picture is judged if the model has come by then
MARKS = (5, 8)  # rows and columns of trial clicks


@dataclass(frozen=True)
class HostStatus:
    """``message``: why it failed. ``load_seconds`` counts up while loading. ``fetched``: bytes that
    came and bytes in all while the model comes from the hub. ``memory``: what the model is
    estimated to take, None until its files are there. ``profile``: the memory profile it runs by,
    and ``too_large`` the one that ran out of memory before. ``expected``: how long a video will
    take, told before the first one."""

    state: Literal["loading", "ready", "failed"]
    name: str
    device: str
    load_seconds: float
    message: str = ""
    fetched: tuple[int, int] | None = None
    memory: Outlook | None = None
    profile: str = ""
    too_large: str = ""
    expected: Expectation | None = None


class ModelHost:
    """Loads one checkpoint and its segmenter on a thread; whoever needs them waits. ``lent``: the
    device is lent to a call at a time (``zero_gpu``)."""

    lent = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.models = self._new_models()
        self.library = Library(settings.motion_folders(), limits=settings.limits)
        repository = settings.motion_repo
        self.published = MotionRepository(repository) if repository else None
        self.lock = DeviceLock()
        self.jobs = self._new_jobs()
        self._error: MotionAppError | None = None
        self._engine: MotionEngine | None = None
        self._segmenter: PictureSegmenter | None = None
        self._engine_done = threading.Event()
        self._segmenter_done = threading.Event()
        self._finder_lock = threading.Lock()
        self._tokenizer = TokenizerOnce()
        self._started: float | None = None
        self._load_seconds = 0.0
        self._fetched: tuple[int, int] | None = None
        self._outlook: Outlook | None = None
        self._expected: Expectation | None = None
        self.look_seconds: float | None = None  # what the last look took

    def _new_models(self) -> Models:
        return Models(self.settings)

    def _new_jobs(self) -> JobQueue:
        settings = self.settings
        how = f"{settings.model} on {self.models.device}, {settings.acceleration}"
        timings = Timings(settings.outputs / TIMINGS, of=how)
        return JobQueue(
            settings.outputs,
            self._runners(),
            limits=settings.limits,
            lock=self.lock,
            timings=timings,
        )

    def _runners(self) -> dict[str, Runner]:
        settings = self.settings
        shared: dict[str, Any] = {
            "wait_for_engine": self.wait_for_engine,
            "library": self.library,
            "defaults": self.defaults,
            "tokenizer": self.tokenizer,
            "limits": settings.limits,
        }
        training = runners.TrainingRunner(
            segmenter=self.segmenter,
            enabled=settings.training,
            turned_off=self.no_training or runners.TURNED_OFF,
            private=settings.private_motions,
            **shared,
        )
        generation = runners.GenerationRunner(
            geometry=self.geometry,
            base=self.base,
            training=training,
            badge=settings.badge,
            certificate=certificate_of(settings),
            stock=self.stock,
            open_stock=self.models.stock,
            **shared,
        )
        return {runners.GENERATE: generation, runners.TRAIN: training}

    def start(self) -> None:
        """Begin to load and to run jobs, once. MotionAppError where the jobs' folder cannot be
        used."""
        self.jobs.start()
        self._started = time.monotonic()
        threading.Thread(target=sandbox.warm, name="warm-sandbox", daemon=True).start()
        threading.Thread(target=self._load, name="load-model", daemon=True).start()

    def stop(self) -> None:
        """Interrupt the running job, to be taken up again later, and let its folder go."""
        self.jobs.stop()

    @property
    def measured(self) -> Measurement | None:
        """How long the last video took; None before the first."""
        return self.jobs.timings.last(runners.GENERATE)

    @property
    def _name(self) -> str:
        """The model's, by its folder or hub id until its files were read."""
        read: Checkpoint | None = self.__dict__.get("_checkpoint")
        return Path(self.settings.model).name if read is None else read.defaults.name

    def status(self) -> HostStatus:
        if self._error is not None:
            return HostStatus("failed", self._name, "", self._load_seconds, str(self._error))
        if self._engine is None:
            waited = 0.0 if self._started is None else time.monotonic() - self._started
            return HostStatus(
                *("loading", self._name, "", waited),
                fetched=self._fetched,
                memory=self._outlook,
                expected=self._expected,
            )
        profile = self._engine.profile
        return HostStatus(
            *("ready", self._engine.defaults.name, str(profile.device), self._load_seconds),
            memory=self._outlook,
            profile=profile.placement.name,
            too_large=profile.too_large,
            expected=self._expected,
        )

    def geometry(self) -> ModelGeometry:
        """The sizes, known before the weights are loaded; those of a hub id are fetched first."""
        return self._checkpoint.geometry

    def defaults(self) -> GenerationDefaults:
        """The checkpoint's own settings."""
        return self._checkpoint.defaults

    def methods(self) -> tuple[str, ...]:
        """Those that can be used with this checkpoint as it is."""
        return offered_methods(self._checkpoint)

    def stock(self) -> Mapping[str, StockModel]:
        """The models of others that may be asked for a video, by name: what they make where nothing
        else is asked; none where one of them is not here, which loading refuses in words."""
        return self._stock

    @cached_property
    def _stock(self) -> Mapping[str, StockModel]:
        try:
            return {name: self.models.stock_files(name).model for name in self.models.stock_models}
        except CheckpointError:
            return {}

    @property
    def no_training(self) -> str:
        """Why motions are not learned here, where the settings alone do not say it."""
        return ""

    @property
    def learns(self) -> bool:
        """Whether motions are learned here."""
        return self.settings.training

    def lent_seconds(
        self,
        method: str = "fleximmt",
        steps: int | None = None,
        *,
        validate_every: int | None = None,
    ) -> float | None:
        """What learning a motion costs a visitor of the GPU that is lent to them, in seconds;
        ``steps`` None is the checkpoint's own number. None where none is lent."""
        return None

    @property
    def has_encoder(self) -> bool:
        """Whether the checkpoint has a motion encoder."""
        return self._checkpoint.has_encoder

    @property
    def ways(self) -> tuple[str, ...]:
        """How a clip can become motion tokens, first where nobody says how."""
        return self._checkpoint.ways

    @property
    def looks(self) -> bool:
        """Whether a clip is looked at as soon as it comes."""
        return self.has_encoder and self.learns and not self.lent

    def tokenizer(self, *, wait: bool = True) -> PromptTokenizer | None:
        """What counts a prompt's tokens before the weights are loaded; None where the checkpoint's
        tokenizer is not here, and without ``wait`` while another thread is at it: a click is not to
        wait until the model's libraries are read."""
        return self._tokenizer.of(self._checkpoint, wait=wait)

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        """What its small files say. CheckpointError for what is no checkpoint."""
        return self.models.checkpoint()

    def motions(self, user: LibraryUser = LibraryUser()) -> list[Motion]:
        """What ``user`` may see of the motions for this base model; of any, before the model is
        loaded."""
        motions = self.library.seen_by(user).list()
        base = self.base()
        return motions if base is None else [item for item in motions if item.base == base]

    def import_motion(
        self, file: Path, *, name: str = "", phrase: str = "", by: LibraryUser = LibraryUser()
    ) -> Motion:
        """Check ``file`` against the loaded model and put it into the library as ``by``'s.

        ``name`` "" keeps its own; a published ``.pt`` knows no name and no ``phrase`` of its own:
        its file's name and the neutral phrase are taken. Raises MotionFileError.
        """
        if file.suffix.lower() == ".pt":
            return self._import_published(file, name=name, phrase=phrase, by=by)
        if phrase.strip():
            raise RequestError(KEEPS_PHRASE)
        return self._bring(file, name=name, by=by)

    def import_published_motion(
        self,
        repository: MotionRepository,
        entry: PublishedMotion,
        revision: str,
        *,
        by: LibraryUser,
    ) -> Motion:
        """``entry`` of the hub's ``repository`` at the commit ``revision`` into the library as
        ``by``'s, checked as an upload is. MotionFileError."""
        with TemporaryDirectory() as folder:
            limits = self.settings.limits
            file = repository.fetch(entry, revision, Path(folder), limits=limits)
            return self._bring(file, name="", by=by, yielding=True)

    def _bring(self, file: Path, *, name: str, by: LibraryUser, yielding: bool = False) -> Motion:
        geometry = self.geometry()
        return self.library.import_file(
            file,
            name=name,
            base=self.base(),
            layers=geometry.layers,
            width=geometry.width_tokens,
            limits=self.settings.limits,
            owner=by.owner,
            address=by.address,
            private=self.settings.private_motions,
            yielding=yielding,
            counted=True,
        )

    def _import_published(self, file: Path, *, name: str, phrase: str, by: LibraryUser) -> Motion:
        """The authors' file, bound to the loaded model."""
        from motion_app.engine.motion_tokens import convert_published

        engine = self.engine()
        with TemporaryDirectory() as folder:
            parcel = Path(folder) / f"motion{SUFFIX}"
            convert_published(
                file,
                parcel,
                layers=engine.geometry.layers,
                width=engine.geometry.width_tokens,
                base=engine.fingerprint,
                name=name.strip() or file.stem,
                phrase=phrase.strip() or NEUTRAL_PHRASE,
                most_megabytes=self.settings.limits.motion_megabytes,
            )
            return self._bring(parcel, name="", by=by)

    def base(self) -> str | None:
        """The loaded model's fingerprint, to which motions belong; None while it is loading."""
        return None if self._engine is None else self._engine.fingerprint

    def engine(self) -> MotionEngine:
        """The engine, waited for; raises what loading raised."""
        while (engine := self.wait_for_engine(1.0)) is None:
            continue
        return engine

    def wait_for_engine(self, seconds: float) -> MotionEngine | None:
        """The engine, or None when it is still loading after ``seconds``."""
        self._engine_done.wait(seconds)
        if self._error is not None and self._engine is None:
            raise self._error
        return self._engine

    def segmenter(self) -> PictureSegmenter:
        """A segmenter of its own for one browser; it shares the weights. Waits for them."""
        if not self._segmenter_done.wait(CLICK_WAIT_SECONDS):
            raise CheckpointError("the model is still loading; click again in a while")
        if self._segmenter is None:
            raise self._error or CheckpointError("the click model could not be loaded")
        return self._segmenter.new_session()

    def mark_at(self, frame: np.ndarray, point: tuple[float, float]) -> np.ndarray:
        """The mask (H, W) bool of what lies at ``point`` (y, x), in pixels of ``frame`` (H, W, 3)
        uint8, by a segmenter of its own."""
        return self.segmenter().segment(frame, [Click(point[1], point[0])]).mask

    def knows(self, image: np.ndarray) -> bool | None:
        """Whether a picture (H, W, 3) uint8 in the model frame is of the world that the model was
        made for; None where it knows any, and while it is loading. It takes a moment."""
        engine = None if self.lent else self.wait_for_engine(0.0)
        familiar = FamiliarPictures.read(self._checkpoint.folder)
        if engine is None or familiar is None:
            return None
        if engine.reconstruction_error(image) > familiar.reconstruction:
            return False
        segmenter = self.segmenter()
        height, width = image.shape[:2]
        for y, x in product(*(np.linspace(0.1, 0.9, count) for count in MARKS)):
            click = Click(float(x * width), float(y * height))
            if segmenter.segment(image, [click]).score >= familiar.confidence:
                return True
        return False

    def knows_when_ready(self, image: np.ndarray) -> bool | None:
        """As ``knows``, once the model is loaded; waits for that and for what it is at work on."""
        return None if self.wait_for_engine(LOADING_SECONDS) is None else self.knows(image)

    def finder(self) -> ObjectFinder:
        """What finds things by words; loaded when first asked for. RequestError where none is set,
        CheckpointError where it cannot be loaded."""
        with self._finder_lock:
            return self.models.finder

    @property
    def clicks_ready(self) -> bool:
        return self._segmenter_done.is_set()

    def _load(self) -> None:
        began = time.monotonic() if self._started is None else self._started
        try:
            with self._tokenizer.importing:
                self.models.check()
            folder = self.models.checkpoint(weights=True, on_bytes=self._hear_bytes).folder
            self._fetched = None
            self.tokenizer()  # now, so that nobody's first prompt waits for it
            self._load_segmenter(folder)
            self._load_engine(folder)
        except MotionAppError as error:
            logger.error("the model cannot be used: %s", error)
            self._error = error
        except Exception:
            logger.exception("loading the model failed")
            self._error = CheckpointError(
                "the model could not be loaded; the server's log says why"
            )
        finally:
            self._load_seconds = time.monotonic() - began
            self._segmenter_done.set()
            self._engine_done.set()

    def _hear_bytes(self, done: int, total: int) -> None:
        self._fetched = (done, total)

    def _hear_outlook(self, outlook: Outlook) -> None:
        from motion_app.engine.expectation import Expectation
        from motion_app.models.devices import device_named

        self._outlook = outlook
        if not self.lent:  # whose calls ask for their seconds themselves
            self._expected = Expectation.of(self._checkpoint, device_named(outlook.device))

    def _load_segmenter(self, folder: Path) -> None:
        """First: it is small, and clicks come before anything else."""
        self._segmenter = self.models.segmenter(folder, default=HUB_SEGMENTER)
        self._segmenter_done.set()

    def _new_engine(self, folder: Path) -> MotionEngine:
        engine = self.models.engine(folder, on_outlook=self._hear_outlook)
        engine.fingerprint  # noqa: B018  read now, while everyone waits anyway
        return engine

    def _load_engine(self, folder: Path) -> None:
        self._engine = self._new_engine(folder)
        gc.collect()
        gc.freeze()  # writing a video collects garbage twice: not through all that was imported
