"""The cases of ``speed gpu`` and the bench they are measured on."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

import torch

from motion_app.acceleration import CACHES, STOCK, Acceleration, StepCache
from motion_app.engine.attention import attend
from motion_app.engine.backbone import Backbone
from motion_app.engine.footprint import (
    ATTENTION_AND_PRODUCTS,
    CONVOLUTIONS,
    LEAST_STEP,
    TO_DEVICE,
    decoding_operations,
    pass_operations,
)
from motion_app.engine.kernels import kernels_of
from motion_app.engine.memory import LADDER, DeviceProfile, Placing, placement_named
from motion_app.engine.propagation import PropagationConfig
from motion_app.engine.runtime import Runtime
from motion_app.errors import CheckpointError
from motion_app.speed.clock import Clock
from motion_app.speed.full_run import Memory, MotionLesson, generate
from motion_app.speed.gpu_report import GpuReport
from motion_app.speed.layers import DENSE, MOTIONS, timed
from motion_app.speed.peak_memory import peak_bytes
from motion_app.speed.random_weights import footprint_on, random_backbone, sizes_named
from motion_app.speed.rivals import StepRivals

ROUNDS, FEW_ROUNDS = 3, 2  # timed, after one that warms up
FEW_STEPS = 3  # of a video that is made for its memory and the pace of a step
CAPS = (24, 12)  # GiB
BUILDING = 15.0  # s: a first guess; and compiling, which no size tells
COMPILING = 60.0
# They lay out all logits: 60 GB and more at the 5B size.
UNFUSED = ("_native_math", "flex")
ESSENTIAL_CACHE = "mag"  # how much it skips depends on no weight here
PLACED = ("resident", "group-offload", "group-offload-fp8")
PLACED_MORE = ("model-offload", "model-offload-int8", "model-offload-fp8")


@dataclass(frozen=True)
class Case:
    """``run`` puts its figures into the report; ``estimate``: seconds, by what is known so far;
    ``more``: only where minutes are left after all others."""

    part: str
    name: str
    run: Callable[[], None]
    estimate: Callable[[], float]
    more: bool = False


class Workbench:
    """A model with random weights, made when it is asked for, and what is measured on it."""

    def __init__(
        self,
        shape: str,
        device: torch.device,
        dtype: torch.dtype,
        clock: Clock,
        report: GpuReport,
        *,
        compiler: str = "inductor",
    ) -> None:
        self.sizes = sizes_named(shape)
        self.shape, self.device, self.dtype = shape, device, dtype
        self.clock, self.report, self.compiler = clock, report, compiler
        self.memory = Memory(device)
        self._made: tuple[bool, Backbone, StepRivals] | None = None

    def model(self, *, encoder: bool = True) -> tuple[Backbone, StepRivals]:
        """A model with everything on the device, and its rivals; the one that is there, if it has
        the text ``encoder`` or none is asked for."""
        if self._made is not None and self._made[0] == encoder:
            return self._made[1:]
        self.spoil()
        made: list[tuple[Backbone, StepRivals]] = []

        def build() -> None:
            backbone = random_backbone(self.shape, self.device, self.dtype, text_encoder=encoder)
            layers = PropagationConfig().feature_layers(backbone.geometry.layers)
            made.append(
                (backbone, StepRivals(backbone, motion=self.sizes.motion, feature_layers=layers))
            )

        seconds = timed(build, self.device)
        backbone, rivals = made[0]
        self.report.add("build", {"seconds": seconds})
        self._made = (encoder, backbone, rivals)
        return backbone, rivals

    def spoil(self) -> None:
        """The model is not to be used again."""
        self._made = None
        self.tidy()

    def tidy(self) -> None:
        """What the last case left."""
        gc.collect()
        self.memory.give_back()

    # What the cases are

    def step_rivals(self) -> None:
        """One step: stock, ours, under a dense mask; RMPM alone."""
        _, rivals = self.model(encoder=False)
        makers: dict[str, Callable[[], Callable[[], object]]] = {"stock": lambda: rivals.stock}
        makers |= {f"motions_{n}": lambda n=n: rivals.ours(n) for n in MOTIONS}
        makers["rmpm"] = lambda: rivals.propagation(DENSE)
        makers[f"dense_{DENSE}"] = lambda: rivals.dense(DENSE)
        self._rounds("steps", makers)
        own = rivals.sizes.motion_numbers(DENSE) * self.dtype.itemsize / 2**30
        self.report.add("steps/own_keys_and_values", {"gib": own})

    def step_kernels(self) -> None:
        """One step with two motions by each attention kernel that is there."""
        backbone, rivals = self.model(encoder=False)
        names = [name for name in kernels_of(self.device) if name not in UNFUSED]

        def with_kernel(name: str) -> Callable[[], object]:
            runtime = Runtime(backbone, Acceleration(kernel=name))
            return rivals.ours(DENSE, runtime.attention)

        makers = {name: lambda name=name: with_kernel(name) for name in names}
        self._rounds("kernels", makers, rounds=FEW_ROUNDS)

    def _rounds(
        self,
        part: str,
        makers: Mapping[str, Callable[[], Callable[[], object]]],
        *,
        rounds: int = ROUNDS,
    ) -> None:
        """All in turn, a round that does not count first; one that runs out of memory is left out
        of the rest. Each is made when its turn comes, so that no two hold their motions at once."""
        runs: dict[str, list[float]] = {name: [] for name in makers}
        peaks: dict[str, float] = {}
        for number in range(rounds + 1):
            for name in list(runs):
                label = f"{part}/{name}"
                if runs[name] and self.clock.left < 2 * runs[name][-1]:
                    continue
                try:
                    with torch.no_grad():
                        if not number:
                            with peak_bytes(self.device) as peak:
                                makers[name]()()
                            peaks[name] = peak[0] / 2**30
                            continue
                        runs[name].append(timed(makers[name](), self.device))
                except torch.OutOfMemoryError as error:
                    self.report.skip(label, f"out of memory: {str(error)[:120]}")
                    del runs[name]
                    self.tidy()
                    continue
                figures = {"seconds": statistics.median(runs[name]), "runs": list(runs[name])}
                self.report.add(label, figures | {"peak_over_held_gib": peaks[name]})
            self.report.write()

    def video(self, name: str, *, motions: int, acceleration: Acceleration = STOCK) -> None:
        """A whole video by a model that is on the device."""
        backbone, rivals = self.model()
        self.report.add(
            name, self._generated(backbone, rivals, self.sizes.steps, motions, acceleration)
        )

    def _generated(
        self,
        backbone: Backbone,
        rivals: StepRivals,
        steps: int,
        motions: int = DENSE,
        acceleration: Acceleration = STOCK,
    ) -> dict[str, float]:
        self.memory.begin()
        found = generate(
            backbone,
            rivals,
            motions=motions,
            steps=steps,
            acceleration=acceleration,
            in_time=lambda: self.clock.left > 0,
        )
        return asdict(found) | self.memory.figures()

    def placed(self, name: str) -> None:
        """A few steps under a memory profile, the prompt and the frames included."""
        backbone, rivals = self.model()
        try:
            backbone.profile = DeviceProfile(self.device, self.dtype, placement_named(name))
            if name != LADDER[0].name:
                Placing(backbone.pipe, self.device).apply(backbone.profile.placement)
            self.report.add(f"memory/{name}", self._generated(backbone, rivals, FEW_STEPS))
        finally:
            if name != LADDER[0].name:
                del backbone, rivals
                self.spoil()

    def capped(self, gibibytes: int) -> None:
        """The largest profile that holds on a GPU of so many GiB, from the one above the estimated
        one downwards, as the app steps down. CheckpointError on a CPU."""
        if not self.memory.known:
            raise CheckpointError("the memory of a CPU cannot be capped")
        backbone, rivals = self.model()
        needs = footprint_on(backbone, item=self.dtype.itemsize)
        try:
            Placing(backbone.pipe, self.device).release()
            with self.memory.capped(gibibytes) as room:
                estimated = DeviceProfile.choose(
                    lambda item: needs, device=self.device, dtype=self.dtype, free=room
                ).placement
                first = LADDER[max(0, LADDER.index(estimated) - 1)]
                backbone.profile = DeviceProfile(self.device, self.dtype, first)
                backbone.profile = backbone.profile.place(backbone.pipe)
                figures = self._fitted(backbone, rivals)
            figures |= {"profile": backbone.profile.placement.name, "estimated": estimated.name}
            self.report.add(f"memory/capped_{gibibytes}", figures)
        finally:
            del backbone, rivals
            self.spoil()

    def _fitted(self, backbone: Backbone, rivals: StepRivals) -> dict[str, float]:
        while True:
            try:
                return self._generated(backbone, rivals, FEW_STEPS)
            except torch.OutOfMemoryError as error:
                full = error.with_traceback(None)  # its frames hold what must be freed
            backbone.step_down(full)

    def learning(self, name: str, *, checkpointing: bool) -> None:
        """Steps of learning a motion; the encoders wait elsewhere, as they do in a training."""
        backbone, rivals = self.model(encoder=False)
        backbone.pipe.vae.to("cpu")
        self.tidy()
        try:
            self.memory.begin()
            lesson = MotionLesson(backbone, rivals, checkpointing=checkpointing)
            first = timed(lesson.step, self.device)
            runs = [timed(lesson.step, self.device) for _ in range(2)]
            figures = {"seconds": statistics.median(runs), "first_seconds": first, "runs": runs}
            self.report.add(f"learning/{name}", figures | self.memory.figures())
        finally:
            backbone.pipe.vae.to(self.device)
            backbone.transformer.disable_gradient_checkpointing()

    def compiled(self, *, blocks: bool) -> None:
        """A step with two motions whose attention is compiled for fixed shapes; ``blocks``: and
        what surrounds it."""
        backbone, rivals = self.model(encoder=False)
        steering = rivals.steering(DENSE)
        steering.fix_shapes()
        plain = attend
        fixed = [timed(lambda: rivals.run(steering, plain), self.device) for _ in range(2)][-1]
        if blocks:
            options = Acceleration(compiled=True, compiler=self.compiler)
            attention = Runtime(backbone, options).attention
        else:
            attention = torch.compile(plain, backend=self.compiler, dynamic=False)
        try:
            first = timed(lambda: rivals.run(steering, attention), self.device)
            runs = [
                timed(lambda: rivals.run(steering, attention), self.device) for _ in range(ROUNDS)
            ]
        finally:
            if blocks:
                self.spoil()
            torch.compiler.reset()
        name = "attention_and_blocks" if blocks else "attention"
        self.report.add(
            f"compiled/{name}",
            {
                "seconds": statistics.median(runs),
                "first_seconds": first,
                "fixed_shapes_seconds": fixed,
            },
        )

    # How long they take, by what is known

    def step_seconds(self) -> float:
        """Of one step with two motions."""
        measured = self.report.seconds(f"steps/motions_{DENSE}")
        return self._guessed_step() if measured is None else measured

    def video_seconds(self, steps: int, *, share: float = 1.0) -> float:
        """Of a video, building included where there is no model; ``share`` of it computed."""
        known = self.report.cases.get("videos/ours", {})
        decoding = known.get("decode_seconds") or self._guessed_decoding()
        return self.build_seconds() + 3.0 + share * steps * self.step_seconds() + decoding

    def build_seconds(self) -> float:
        """Until a model is there."""
        return self.report.seconds("build") or (BUILDING if self._large else 1.0)

    def move_seconds(self) -> float:
        """From the device to main memory and, pinned, back."""
        return self.build_seconds() + 2 * self._bytes() / TO_DEVICE

    @property
    def _large(self) -> bool:
        return self.shape != "tiny"

    @cached_property
    def _meta(self) -> Backbone:
        """Sizes without weights."""
        return random_backbone(self.shape, torch.device("meta"), self.dtype)

    def _bytes(self) -> float:
        return 0.0 if not self._large else footprint_on(self._meta, item=2).weight_bytes

    def _guessed_step(self) -> float:
        meta = self._meta
        weights = sum(p.numel() for p in meta.transformer.parameters())
        return LEAST_STEP + 2 * pass_operations(meta.geometry, weights) / ATTENTION_AND_PRODUCTS

    def _guessed_decoding(self) -> float:
        backbone = self._meta
        operations = decoding_operations(backbone.geometry, backbone.checkpoint.vae)
        return 1.0 + 1.5 * operations / CONVOLUTIONS


def cases(bench: Workbench) -> list[Case]:
    """All of them, in their order."""
    rivals = len(MOTIONS) + 3
    steps = bench.sizes.steps
    compiling = COMPILING if bench.compiler == "inductor" else 1.0

    def cached(kind: str) -> Callable[[], None]:
        ratios = [1.0] * steps if kind == "mag" else ()
        options = Acceleration(cache_steps=StepCache(kind, ratios=ratios))
        return lambda: bench.video(f"videos/{kind}", motions=DENSE, acceleration=options)

    def few() -> float:
        return bench.move_seconds() + bench.video_seconds(FEW_STEPS)

    def stepping(count: float) -> Callable[[], float]:
        return lambda: bench.build_seconds() + count * bench.step_seconds()

    found = [
        Case("steps", "steps", bench.step_rivals, stepping(2.0 * rivals)),
        Case("steps", "kernels", bench.step_kernels, stepping(9.0)),
        Case(
            "videos",
            "videos/ours",
            lambda: bench.video("videos/ours", motions=DENSE),
            lambda: bench.video_seconds(steps),
        ),
        Case(
            "videos",
            f"videos/{ESSENTIAL_CACHE}",
            cached(ESSENTIAL_CACHE),
            lambda: bench.video_seconds(steps, share=0.6),
        ),
        Case(
            "videos",
            "videos/stock",
            lambda: bench.video("videos/stock", motions=0),
            lambda: bench.video_seconds(steps),
            more=True,
        ),
    ]
    for kind in CACHES:
        if kind != ESSENTIAL_CACHE:
            estimate = lambda: bench.video_seconds(steps)  # noqa: E731
            found.append(Case("videos", f"videos/{kind}", cached(kind), estimate, more=True))
    for name in (*PLACED, *PLACED_MORE):
        placing = lambda name=name: bench.placed(name)  # noqa: E731
        found.append(Case("memory", f"memory/{name}", placing, few, more=name in PLACED_MORE))
    for gibibytes in CAPS:
        capping = lambda gibibytes=gibibytes: bench.capped(gibibytes)  # noqa: E731
        found.append(
            Case("memory", f"memory/capped_{gibibytes}", capping, lambda: 2 * few(), more=False)
        )
    for name, checkpointing in (("checkpointed", True), ("whole", False)):
        found.append(
            Case(
                "learning",
                f"learning/{name}",
                lambda name=name, again=checkpointing: bench.learning(name, checkpointing=again),
                stepping(7.0),
            )
        )
    for name, blocks in (("attention", False), ("attention_and_blocks", True)):
        found.append(
            Case(
                "compiled",
                f"compiled/{name}",
                lambda blocks=blocks: bench.compiled(blocks=blocks),
                lambda: compiling + stepping(6.0)(),
                more=blocks,
            )
        )
    return found
