"""Rival ways to run the same CogVideoX layers on the same random tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor, nn

    from motion_app.engine.attention import AttentionPlan
    from motion_app.engine.layout import SequenceLayout
    from motion_app.engine.steering import GenerationSteering


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

    def motion_numbers(self, objects: int) -> int:
        """How many numbers the motions' own keys and values are, in all layers."""
        return 2 * objects * self.motion * self.width * self.layers


SHAPES = {
    "5b": LayerShape((13, 30, 45), 226, 226, 48, 64, 42),
    "1.5-5b": LayerShape((11, 48, 85), 226, 226, 48, 64, 42),
    "tiny": LayerShape((3, 6, 8), 24, 8, 2, 64, 2, 16),
}


class LayerRivals:
    """The same layers and tokens for all; one half of the guidance. ``attention_seconds`` grows
    with every layer that is run."""

    def __init__(self, sizes: LayerShape, layers: int, device: Any, dtype: Any) -> None:
        import torch
        from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock

        self.sizes, self.device = sizes, device
        self.dtype = dtype
        self.attention_seconds = 0.0
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
        """The engine's own steering with ``objects`` motions, on a step that takes RMPM's
        features."""
        steering = self._steering(objects)
        return lambda: self._run(steering)

    def dense(self, objects: int) -> Callable[[], None]:
        """One attention under a mask over all tokens, built in every call and dropped after it, as
        the authors' release computes it."""
        import torch.nn.functional as F

        steering = self._steering(objects)
        build = dense_mask_builder(
            steering.layout, steering.object_masks.cpu(), dtype=self.dtype, device=self.device
        )

        def attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> Tensor:
            mask = build()  # (L + V, L + ΣM + V)
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

        return lambda: self._run(steering, attention)

    def propagation(self, objects: int) -> Callable[[], object]:
        """RMPM of one step."""
        from motion_app.engine.propagation import propagate

        layout, masks = self._scene_of(objects)
        features = self.draw(*layout.grid, self.sizes.width).float()  # (F, h, w, D)
        return lambda: propagate(features, masks[:, 0])

    def _run(self, steering: GenerationSteering | None = None, attention: Any = None) -> None:
        from motion_app.engine.attention import attend
        from motion_app.engine.joint_attention import JointAttention, MotionAttnProcessor

        layer = self.blocks[0].attn1
        before = layer.processor
        if steering is not None:
            steering.begin_step()
            layer.set_processor(
                MotionAttnProcessor(JointAttention(0, layer), steering, attention or attend)
            )
        try:
            with self._clock(layer):
                video, text = self.video, self.text
                for block in self.blocks:
                    video, text = block(video, text, self.time, self.rotary)
        finally:
            layer.set_processor(before)

    @contextmanager
    def _clock(self, layer: nn.Module) -> Iterator[None]:
        """Counts the seconds of every call of ``layer``."""
        began: list[float] = []

        def leave(*_: Any) -> None:
            self.attention_seconds += time_on(self.device) - began.pop()

        hooks = (
            layer.register_forward_pre_hook(lambda *_: began.append(time_on(self.device))),
            layer.register_forward_hook(leave),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _steering(self, objects: int) -> GenerationSteering:
        from motion_app.engine.steering import GenerationSteering

        layout, masks = self._scene_of(objects)
        shape = (1, self.sizes.heads, objects * self.sizes.motion, self.sizes.head_dim)
        motion = (self.draw(*shape), self.draw(*shape))
        halves = [(1.0,) * objects]
        return GenerationSteering(layout, masks, [motion], halves=halves, feature_layers=1)

    def _scene_of(self, objects: int) -> tuple[SequenceLayout, Tensor]:
        """Objects side by side; together they cover half of every frame."""
        import torch

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
        return layout, masks.to(self.device)


def dense_mask_builder(
    layout: SequenceLayout,
    masks: Tensor,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Callable[[], Tensor]:
    """A function that builds the whole additive mask (L + V, L + ΣM + V) from the visibility table,
    in ``dtype`` (float32 where None), that of the queries in the authors' release: 648 MB in
    bfloat16 at the 5B size with two motions, and half of that in passing."""
    import torch

    from motion_app.engine.visibility import visibility

    names, table = visibility(layout.objects)
    classes = layout.classify(masks)
    sets = ["video_{" + ",".join(map(str, sorted(members))) + "}" for members in classes.sets]
    places = torch.tensor(
        [*range(1 + 2 * layout.objects), *(names.index(name) for name in sets)]
    )  # of the classes that occur, their rows in the table
    rows, query_class, key_class = (
        part.to(device)
        for part in (torch.from_numpy(table), places[classes.queries], places[classes.keys])
    )
    open_ = torch.zeros((), dtype=dtype or torch.float32, device=device)
    return lambda: open_.where(rows[query_class][:, key_class], -torch.inf)


def time_on(device: Any) -> float:
    """Seconds, once the device has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
