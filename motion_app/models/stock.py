"""Image-to-video models of others as they are: told a picture and words, no masks and no motions.

They are rows to compare with. Each is one of diffusers' own pipelines, chosen by a checkpoint's
``model_index.json``; sizes come from its configs, settings are its authors'. Nothing is fetched.
Where the weights lie is chosen by ``StockOutlook``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from motion_app.errors import CheckpointError, GenerationCancelled, RequestError
from motion_app.geometry import fit_frames
from motion_app.models.devices import READING
from motion_app.models.hub import one_line
from motion_app.models.stock_files import BY_PART, RESIDENT, StockFiles, StockOutlook

OnStep = Callable[[int, int], bool | None]  # a step from 1, and how many; False cancels


@dataclass(frozen=True)
class StockOptions:
    """What is asked of a video; None takes the model's own. ``height`` and ``width`` px."""

    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            given = getattr(self, item.name)
            least = 0 if item.name in ("seed", "guidance") else 1
            if given is not None and not least <= given < math.inf:
                raise RequestError(f"{item.name} is {given}; it must be at least {least}")


@dataclass(frozen=True, eq=False)
class StockVideo:
    """``frames`` (T, H, W, 3) uint8 at ``fps``; ``recipe``: plain JSON of how it was made;
    ``calls``: videos that the transformer saw for it."""

    frames: np.ndarray
    fps: float
    recipe: dict[str, Any]
    calls: int = 0

    def resampled(self, *, count: int, fps: float, height: int, width: int) -> StockVideo:
        """``count`` frames at ``fps``, each the nearest in time, the last one held where there are
        no more; cut to ``height`` × ``width``."""
        frames = resampled(self.frames, self.fps, count=count, fps=fps, height=height, width=width)
        told = {"resampled": {"frames": count, "fps": fps, "made_at_fps": self.fps}}
        return replace(self, frames=frames, fps=fps, recipe={**self.recipe, **told})


class StockGenerator:
    """One loaded model; ``model`` is what its authors say of it, ``outlook`` where it lies."""

    def __init__(self, pipe: Any, files: StockFiles, outlook: StockOutlook) -> None:
        self.pipe, self.files, self.model, self.outlook = pipe, files, files.model, outlook

    @classmethod
    def load(cls, files: StockFiles, *, device: str | torch.device = "cpu") -> StockGenerator:
        """The model in ``files``, placed by its outlook on ``device``. CheckpointError for what
        does not fit or cannot be read."""
        device = torch.device(device)
        outlook = stock_outlook(files, device)
        outlook.check()
        kind = getattr(diffusers, files.kind)
        try:
            with READING:
                pipe = kind.from_pretrained(
                    files.folder,
                    dtype=torch.float32 if device.type == "cpu" else torch.bfloat16,
                    local_files_only=True,
                )
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"{files.folder.name} cannot be loaded: {one_line(error)}"
            ) from error
        pipe.set_progress_bar_config(disable=True)
        place(pipe, outlook.where, device)
        return cls(pipe, files, outlook)

    @property
    def name(self) -> str:
        """What it is known by."""
        return self.files.name

    def move(self, device: str | torch.device) -> None:
        """All of one that is RESIDENT to another device; of others nothing stays on one."""
        if self.outlook.where == RESIDENT:
            self.pipe.to(device)

    def generate(
        self,
        image: np.ndarray,
        prompt: str,
        options: StockOptions = StockOptions(),
        on_step: OnStep | None = None,
    ) -> StockVideo:
        """The video that begins with ``image`` (H0, W0, 3) uint8, which is fitted to a size near
        the model's own, or the one that is asked for. GenerationCancelled within a step where
        ``on_step`` returns False."""
        asked = self._filled(options, image)

        def ended(pipe: Any, index: int, timestep: Any, tensors: dict) -> dict[str, Any]:
            if on_step is not None and on_step(index + 1, asked.steps) is False:
                pipe.maybe_free_model_hooks()
                raise GenerationCancelled(f"stopped after step {index + 1} of {asked.steps}")
            return {}

        picture = fit_frames(image[None], asked.height, asked.width)[0]
        with torch.no_grad(), self._counted() as calls:
            made = self.pipe(
                image=Image.fromarray(picture),
                **self._words(prompt, guided=asked.guidance > 1),
                height=asked.height,
                width=asked.width,
                num_frames=asked.frames,
                num_inference_steps=asked.steps,
                guidance_scale=asked.guidance,
                generator=torch.Generator("cpu").manual_seed(asked.seed),
                output_type="np",
                callback_on_step_end=ended,
            ).frames[0]
        frames = (np.asarray(made) * 255).round().clip(0, 255).astype(np.uint8)
        recipe = {
            "model": self.name,
            "title": self.model.title,
            "kind": type(self.pipe).__name__,
            "licence": self.model.licence,
            "model_sha256": self.files.fingerprint,
            "prompt": prompt,
            **asdict(asked),
            "device": str(self.pipe._execution_device),
            "dtype": str(self.pipe.transformer.dtype).removeprefix("torch."),
            "profile": self.outlook.where,
            "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        }
        return StockVideo(frames, asked.fps, recipe, sum(calls))

    @contextmanager
    def _counted(self) -> Iterator[list[int]]:
        """The videos that the transformer sees while inside, call by call."""
        calls: list[int] = []

        def seen(network: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            calls.append(len(named["hidden_states"] if "hidden_states" in named else given[0]))

        hook = self.pipe.transformer.register_forward_pre_hook(seen, with_kwargs=True)
        try:
            yield calls
        finally:
            hook.remove()

    @property
    def multiple(self) -> int:
        """Pixels of which the sides must be multiples: those of one token."""
        patch = self.pipe.transformer.config.patch_size
        side = patch if isinstance(patch, int) else patch[-1]
        return self.pipe.vae_scale_factor_spatial * side

    def _filled(self, options: StockOptions, image: np.ndarray) -> StockOptions:
        """``options`` with the model's own, in sizes that it can make."""
        own = self.model
        height, width = near_size(
            image.shape[1] / image.shape[0], own.height * own.width, self.multiple
        )
        given = {
            name: getattr(options, name)
            for name in ("height", "width", "frames", "fps", "steps", "guidance")
            if getattr(options, name) is not None
        }
        filled = {
            "height": height,
            "width": width,
            "frames": own.frames,
            "fps": own.fps,
            "steps": own.steps,
            "guidance": own.guidance,
            **given,
        }
        for side in ("height", "width"):
            if filled[side] % self.multiple:
                raise RequestError(
                    f"the {side} is {filled[side]}; this model makes multiples of {self.multiple}"
                )
        ratio = self.pipe.vae_scale_factor_temporal
        filled["frames"] = 1 + max(0, filled["frames"] - 1) // ratio * ratio
        return StockOptions(seed=options.seed, **filled)

    def _words(self, prompt: str, *, guided: bool) -> dict[str, Any]:
        """What the pipeline takes as its prompt. Wan's own reading of words wants a library that
        mends broken letters; ours are whole, and are encoded here as it would do."""
        if not type(self.pipe).__name__.startswith("Wan"):
            return {"prompt": prompt}
        read = [self._states(prompt), self._states("") if guided else None]
        return {"prompt_embeds": read[0], "negative_prompt_embeds": read[1]}

    def _states(self, prompt: str, length: int = 512) -> torch.Tensor:
        """Wan's text states (1, length, width), 0 behind the last word."""
        told = self.pipe.tokenizer(
            [" ".join(prompt.split())],
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        )
        device = self.pipe._execution_device
        encoder = self.pipe.text_encoder
        mask = told.attention_mask.to(device)
        states = encoder(told.input_ids.to(device), mask).last_hidden_state
        return states * mask[..., None].to(states)


def near_size(aspect: float, area: int, multiple: int) -> tuple[int, int]:
    """Height and width, multiples of ``multiple``, of about ``area`` px in the ``aspect`` (width by
    height) of a picture."""
    height = (area / aspect) ** 0.5
    sides = (height, height * aspect)
    return tuple(max(multiple, round(side / multiple) * multiple) for side in sides)


def stock_outlook(files: StockFiles, device: torch.device) -> StockOutlook:
    """What a model takes on ``device``, beside what is there now: in 16 bits on a GPU, in 32 on a
    CPU."""
    import psutil

    on_cpu = device.type == "cpu"
    return files.outlook(
        item=4 if on_cpu else 2,
        device_free=torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None,
        main_free=psutil.virtual_memory().available,
    )


def place(pipe: Any, where: str, device: torch.device) -> None:
    """Bring the networks of a pipeline to ``device`` as an outlook says."""
    if where == RESIDENT:
        pipe.to(device)
        return
    pipe.vae.enable_tiling()  # where weights are short of room, decoded frames are too
    if where == BY_PART:
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.enable_group_offload(
            onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda"
        )


def resampled(
    frames: np.ndarray, made_at: float, *, count: int, fps: float, height: int, width: int
) -> np.ndarray:
    """``count`` of ``frames`` (T, H, W, 3) uint8 that were ``made_at`` so many a second, at
    ``fps``: each the nearest in time, the last one held where there are no more; cut to ``height``
    × ``width``."""
    nearest = np.round(np.arange(count) / fps * made_at).astype(int)
    return fit_frames(frames[np.minimum(nearest, len(frames) - 1)], height, width)
