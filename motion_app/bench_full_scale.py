"""One CogVideoX-5B layer at its full token counts with random weights: stock, ours, dense masks.

``python -m motion_app bench generate --shape 5b --layers 1``. All in one process, in turn, so that
a machine that slows down slows all of them. What is called ``step_extrapolated`` was not run: it is
a layer's time, times the model's number of layers, times two for the halves of the guidance;
everything outside the layers is left out.

On a CPU a 5B layer holds 0.3 GB of weights and 2 GB at its fullest, the dense mask 1 GB more, in
bfloat16; where the CPU has none, twice as much.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motion_app.errors import RequestError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from motion_app.engine.attention import AttentionPlan
    from motion_app.engine.layout import SequenceLayout

MOTIONS = (1, 2, 3, 5)
DENSE = 2  # motions of the dense-mask rival
GIGABYTE = 1e9


@dataclass(frozen=True)
class LayerShape:
    """``grid`` (F, h, w), ``text`` L, ``motion`` M of each object, ``heads`` of ``head_dim``;
    ``layers`` of the whole model, ``time_width`` of its time embedding."""

    grid: tuple[int, int, int]
    text: int
    motion: int
    heads: int
    head_dim: int
    layers: int
    time_width: int = 512

    @property
    def width(self) -> int:
        """D."""
        return self.heads * self.head_dim


SHAPES = {
    "5b": LayerShape((13, 30, 45), 226, 226, 48, 64, 42),
    "1.5-5b": LayerShape((11, 48, 85), 226, 226, 48, 64, 42),
    "tiny": LayerShape((3, 6, 8), 24, 8, 2, 64, 2, 16),
}


def bench_layers(
    shape: str = "5b",
    *,
    layers: int = 1,
    motions: Sequence[int] = MOTIONS,
    device: str = "cpu",
    repeats: int = 1,
) -> dict[str, float]:
    """Seconds a layer of each rival, the step each would give, their ratios to the stock layer,
    RMPM's seconds and share of such a step, and peak memory of activations. RequestError for an
    unknown shape."""
    import torch

    if shape not in SHAPES:
        raise RequestError(f'unknown shape "{shape}"; choose one of {", ".join(SHAPES)}')
    if layers < 1:
        raise RequestError(f"layers is {layers}; at least one must be measured")
    sizes = SHAPES[shape]
    where = torch.device(device)
    rivals = _Rivals(sizes, layers, where)
    rivals.warm()
    cases: dict[str, Callable[[], object]] = {"stock": rivals.stock}
    for count in motions:
        cases[f"motions_{count}"] = rivals.ours(count)
    cases[f"dense_{DENSE}"] = rivals.dense(DENSE)
    seconds, peaks = _measure(cases, where, repeats)
    figures: dict[str, float] = {}
    for name, taken in seconds.items():
        layer = taken / layers
        figures[f"{name}.layer"] = layer
        figures[f"{name}.step_extrapolated"] = 2 * layer * sizes.layers
        figures[f"{name}.over_stock"] = taken / seconds["stock"]
        figures[f"{name}.peak_gb"] = peaks[name] / GIGABYTE
    rmpm = rivals.propagation(DENSE)
    figures["rmpm.seconds"] = _timed(rmpm, where)
    step = figures.get(f"motions_{DENSE}.step_extrapolated", figures["stock.step_extrapolated"])
    figures["rmpm.share_of_step"] = figures["rmpm.seconds"] / (step + figures["rmpm.seconds"])
    return figures


class _Rivals:
    """The same layers and tokens for all; one half of the guidance."""

    def __init__(self, sizes: LayerShape, layers: int, device: Any) -> None:
        import torch
        from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock

        self.sizes, self.device = sizes, device
        self.dtype = _dtype_of(device)
        generator = torch.Generator().manual_seed(0)
        with torch.device(device):
            block = CogVideoXBlock(
                dim=sizes.width,
                num_attention_heads=sizes.heads,
                attention_head_dim=sizes.head_dim,
                time_embed_dim=sizes.time_width,
                attention_bias=True,
            )
        # The layers' weights have no part in their time: one block stands for each.
        self.blocks: list[nn.Module] = [block.to(self.dtype).eval()] * layers
        self.layers = layers
        tokens = sizes.grid[0] * sizes.grid[1] * sizes.grid[2]

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(device, self.dtype)

        self.video, self.text = draw(1, tokens, sizes.width), draw(1, sizes.text, sizes.width)
        self.time = draw(1, sizes.time_width)
        angles = torch.rand(tokens, sizes.head_dim, generator=generator).to(device)
        self.rotary = (angles.cos(), angles.sin())
        self.draw = draw

    def warm(self) -> None:
        """Threads and kernels are there before the first rival, on a few tokens."""
        import torch

        few = slice(64)
        with torch.no_grad():
            self.blocks[0](
                *(part[:, few] for part in (self.video, self.text)),
                self.time,
                tuple(part[few] for part in self.rotary),
            )

    def stock(self) -> None:
        """The layers as diffusers runs them."""
        self._run()

    def ours(self, objects: int) -> Callable[[], None]:
        """The grouped attention with ``objects`` motions."""
        from motion_app.engine.processor import MotionAttnProcessor

        steering = _FixedSteering(self._scene_of(objects)[2], self._motion(objects))
        return lambda: self._run(MotionAttnProcessor(0, steering))

    def dense(self, objects: int) -> Callable[[], None]:
        """One attention under a mask over all tokens, built in every call, as the authors' release
        computes it."""
        from motion_app.bench import dense_mask_builder
        from motion_app.engine.processor import MotionAttnProcessor

        layout, masks, plan = self._scene_of(objects)
        build = dense_mask_builder(layout, masks, dtype=self.dtype, device=self.device)
        steering = _FixedSteering(plan, self._motion(objects))

        def attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> Tensor:
            import torch.nn.functional as F

            mask = build()  # (L + V, L + ΣM + V)
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

        return lambda: self._run(MotionAttnProcessor(0, steering, attention))

    def propagation(self, objects: int) -> Callable[[], object]:
        """RMPM of one step."""
        from motion_app.engine.propagation import propagate

        layout, masks, _ = self._scene_of(objects)
        features = self.draw(*layout.grid, self.sizes.width).float()  # (F, h, w, D)
        first = masks[:, 0].to(self.device)
        return lambda: propagate(features, first)

    def _run(self, processor: Any = None) -> None:
        before = self.blocks[0].attn1.processor
        if processor is not None:
            self.blocks[0].attn1.set_processor(processor)
        try:
            video, text = self.video, self.text
            for block in self.blocks:
                video, text = block(video, text, self.time, self.rotary)
        finally:
            self.blocks[0].attn1.set_processor(before)

    def _motion(self, objects: int) -> tuple[Tensor, Tensor]:
        shape = (1, self.sizes.heads, objects * self.sizes.motion, self.sizes.head_dim)
        return self.draw(*shape), self.draw(*shape)

    def _scene_of(self, objects: int) -> tuple[SequenceLayout, Tensor, AttentionPlan]:
        """Objects side by side; together they cover half of every frame."""
        import torch

        from motion_app.engine.attention import AttentionPlan
        from motion_app.engine.layout import SequenceLayout

        sizes = self.sizes
        layout = SequenceLayout(
            text=sizes.text,
            phrases=[(1 + 4 * k, 3 + 4 * k) for k in range(objects)],
            motion=[sizes.motion] * objects,
            grid=sizes.grid,
        )
        masks = torch.zeros(objects, *sizes.grid, dtype=torch.bool)
        _, height, width = sizes.grid
        for k in range(objects):
            columns = slice(k * width // objects, (k + 1) * width // objects)
            masks[k, :, height // 4 : height // 4 + height // 2, columns] = True
        return layout, masks, AttentionPlan.build(layout, masks, device=self.device)


class _FixedSteering:
    """One plan and one motion for all layers."""

    def __init__(self, plan: AttentionPlan, motion: tuple[Tensor, Tensor]) -> None:
        self.plan, self.motion = plan, motion

    def plans(self, layer: int, query: Tensor, key: Tensor) -> list[AttentionPlan]:
        return [self.plan]

    def key_values(self, layer: int, attn: Any) -> tuple[Tensor, Tensor]:
        return self.motion

    def observe(self, layer: int, video: Tensor) -> None:
        """Nothing is propagated here; RMPM is timed by itself."""


def _measure(
    cases: dict[str, Callable[[], object]], device: Any, repeats: int
) -> tuple[dict[str, float], dict[str, int]]:
    """Median seconds and peak bytes of each, in turn. On a GPU one round does not count; on a CPU
    the round that counts memory is the one that warms up, unless it is the only one."""
    import statistics

    import torch

    taken: dict[str, list[float]] = {name: [] for name in cases}
    peaks: dict[str, int] = {}
    with torch.no_grad():
        for number in range(repeats + (device.type == "cuda")):
            for name, run in cases.items():
                with _peak(device, peaks, name) if number == 0 else nullcontext():
                    seconds = _timed(run, device)
                if number or device.type != "cuda":
                    taken[name].append(seconds)
    return {name: statistics.median(times) for name, times in taken.items()}, peaks


def _peak(device: Any, peaks: dict[str, int], name: str) -> AbstractContextManager:
    """Writes the most bytes that activations took into ``peaks``."""
    from contextlib import contextmanager

    import torch

    from motion_app.engine.peak_memory import PeakMemory

    @contextmanager
    def counted() -> Any:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            yield
            peaks[name] = torch.cuda.max_memory_allocated(device) - before
            return
        with PeakMemory() as counter:
            yield
        peaks[name] = counter.peak

    return counted()


def _timed(run: Callable[[], object], device: Any) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _dtype_of(device: Any) -> Any:
    """bfloat16 on GPUs and on CPUs that compute in it, else float32."""
    import torch

    fast = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32
