"""Rival ways to run the same CogVideoX layers, or a whole step, on the same random tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor, nn

    from motion_app.engine.attention import AttentionPlan
    from motion_app.engine.backbone import Backbone
    from motion_app.engine.layers import KeyValues
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


class Rivals:
    """Ways to run the same attention layers on the same random tokens: the stock way, ours and
    under a dense mask. What runs, and what the motions' keys and values are, is for a subclass to
    say. ``feature_layers``: of how many layers RMPM's features are taken."""

    feature_layers = 1

    def __init__(self, sizes: LayerShape, device: Any, dtype: Any) -> None:
        import torch

        self.sizes, self.device, self.dtype = sizes, device, dtype
        self.attention_seconds = 0.0
        self._generator = torch.Generator().manual_seed(0)

    def draw(self, *shape: int) -> Tensor:
        """Normal random numbers on the device."""
        import torch

        return torch.randn(*shape, generator=self._generator).to(self.device, self.dtype)

    def run(self, steering: GenerationSteering | None = None, attention: Any = None) -> None:
        """One pass; ``steering`` None is the stock way, ``attention`` None the engine's own."""
        raise NotImplementedError

    def key_values(self, objects: int) -> list[KeyValues]:
        """Of each layer, (1, heads, ΣM, d) each."""
        raise NotImplementedError

    def stock(self) -> None:
        """The layers as diffusers runs them."""
        self.run()

    def ours(self, objects: int, attention: Any = None) -> Callable[[], None]:
        """The engine's own steering with ``objects`` motions, on a step that takes RMPM's
        features."""
        steering = self.steering(objects)
        return lambda: self.run(steering, attention)

    def dense(self, objects: int) -> Callable[[], None]:
        """One attention under a mask over all tokens, built in every call and dropped after it, as
        the authors' release computes it."""
        import torch.nn.functional as F

        steering = self.steering(objects)
        build = dense_mask_builder(
            steering.layout, steering.object_masks.cpu(), dtype=self.dtype, device=self.device
        )

        def attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> Tensor:
            mask = build()  # (L + V, L + ΣM + V)
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

        return lambda: self.run(steering, attention)

    def propagation(self, objects: int) -> Callable[[], object]:
        """RMPM of one step."""
        from motion_app.engine.propagation import propagate

        layout, masks = self.scene_of(objects)
        features = self.draw(*layout.grid, self.sizes.width).float()  # (F, h, w, D)
        return lambda: propagate(features, masks[:, 0])

    def steering(self, objects: int) -> GenerationSteering:
        """That of ``objects`` motions of strength 1 in every share of the batch."""
        from motion_app.engine.steering import GenerationSteering

        layout, masks = self.scene_of(objects)
        return GenerationSteering(
            layout,
            masks,
            self.key_values(objects),
            halves=[(1.0,) * objects],
            feature_layers=self.feature_layers,
        )

    def scene_of(self, objects: int) -> tuple[SequenceLayout, Tensor]:
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


class LayerRivals(Rivals):
    """Some layers alone; one half of the guidance. ``attention_seconds`` grows with every layer
    that is run."""

    def __init__(self, sizes: LayerShape, layers: int, device: Any, dtype: Any) -> None:
        import torch
        from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock

        super().__init__(sizes, device, dtype)
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
        self.video = self.draw(1, tokens, sizes.width)
        self.text = self.draw(1, sizes.text, sizes.width)
        self.time = self.draw(1, sizes.time_width)
        angles = torch.rand(tokens, sizes.head_dim, generator=self._generator).to(device)
        self.rotary = (angles.cos(), angles.sin())

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

    def key_values(self, objects: int) -> list[KeyValues]:
        shape = (1, self.sizes.heads, objects * self.sizes.motion, self.sizes.head_dim)
        return [(self.draw(*shape), self.draw(*shape))]

    def run(self, steering: GenerationSteering | None = None, attention: Any = None) -> None:
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


class StepRivals(Rivals):
    """Whole passes of a model's transformer with both halves of the guidance, on random latents:
    one denoising step but for the scheduler. ``key_values`` of random motion tokens are made by the
    model's own layers, once for each number of objects."""

    def __init__(self, backbone: Backbone, *, motion: int, feature_layers: int) -> None:
        import torch

        g, transformer = backbone.geometry, backbone.transformer
        sizes = LayerShape(g.grid, g.text_tokens, motion, g.heads, g.head_dim, g.layers)
        super().__init__(sizes, backbone.profile.device, transformer.dtype)
        self.backbone, self.feature_layers = backbone, feature_layers
        shape = (2, g.padded_latent_frames, g.latent_channels)
        shape += (g.height // g.spatial_ratio, g.width // g.spatial_ratio)
        self.latents, self.condition = self.draw(*shape), self.draw(*shape)
        self.text = self.draw(2, g.text_tokens, backbone.text_width)
        self.timesteps = torch.full((2,), backbone.training_steps // 2, device=self.device)
        self.tokens = self.draw(motion, sizes.width)
        self.prediction: Tensor | None = None

    def key_values(self, objects: int) -> list[KeyValues]:
        import torch

        with torch.no_grad():
            made = [layer.key_values(self.tokens) for layer in self.backbone.attention_layers()]
        return [
            (key.repeat(1, 1, objects, 1), value.repeat(1, 1, objects, 1)) for key, value in made
        ]

    def run(self, steering: GenerationSteering | None = None, attention: Any = None) -> None:
        import torch

        from motion_app.engine.attention import attend
        from motion_app.engine.steering import steered

        with ExitStack() as acting:
            acting.enter_context(torch.no_grad())
            if steering is not None:
                steering.begin_step()
                layers = self.backbone.attention_layers()
                acting.enter_context(steered(layers, steering, attention=attention or attend))
            self.prediction = self.backbone.predict(
                self.latents, self.condition, self.text, self.timesteps
            )


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
