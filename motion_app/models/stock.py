"""Image-to-video models of others as they are: told a picture and words, no masks and no motions.

They are rows to compare with. Each is one of diffusers' own pipelines, chosen by a checkpoint's
``model_index.json``; sizes come from its configs, settings are its authors'. Nothing is fetched.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from motion_app.errors import CheckpointError, GenerationCancelled, RequestError
from motion_app.geometry import fit_frames
from motion_app.models.hub import one_line
from motion_app.text_files import listed

ROOM = 0.8  # of a GPU's free memory, that weights may take; activations need the rest
OnStep = Callable[[int, int], bool | None]  # a step from 1, and how many; False cancels


@dataclass(frozen=True)
class StockModel:
    """What a published model makes where nothing else is asked: ``frames`` of ``height`` ×
    ``width`` px at ``fps`` in ``steps`` at ``guidance``. ``title`` and ``licence`` as people read
    them."""

    title: str
    height: int
    width: int
    frames: int
    fps: float
    steps: int
    guidance: float
    licence: str


WAN = StockModel("Wan 2.1 image-to-video", 480, 832, 81, 16.0, 50, 5.0, "Apache 2.0")
WAN_DENSE = StockModel("Wan 2.2 TI2V", 704, 1280, 121, 24.0, 50, 5.0, "Apache 2.0")
HUNYUAN = StockModel(
    *("HunyuanVideo image-to-video", 720, 1280, 129, 24.0, 50, 6.0),
    "Tencent Hunyuan Community, which does not hold in the EU, the UK and South Korea",
)
STOCK_PIPELINES: Mapping[str, StockModel] = MappingProxyType(
    {"WanImageToVideoPipeline": WAN, "HunyuanVideoImageToVideoPipeline": HUNYUAN}
)


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
    """``frames`` (T, H, W, 3) uint8 at ``fps``; ``recipe``: plain JSON of how it was made."""

    frames: np.ndarray
    fps: float
    recipe: dict[str, Any]

    def resampled(self, *, count: int, fps: float, height: int, width: int) -> StockVideo:
        """``count`` frames at ``fps``, each the nearest in time, the last one held where there are
        no more; cut to ``height`` × ``width``."""
        nearest = np.round(np.arange(count) / fps * self.fps).astype(int)
        frames = self.frames[np.minimum(nearest, len(self.frames) - 1)]
        told = {"resampled": {"frames": count, "fps": fps, "made_at_fps": self.fps}}
        return replace(
            self, frames=fit_frames(frames, height, width), fps=fps, recipe={**self.recipe, **told}
        )


class StockGenerator:
    """One loaded model; ``model`` is what its authors say of it."""

    def __init__(self, pipe: Any, model: StockModel, name: str) -> None:
        self.pipe, self.model, self.name = pipe, model, name

    @classmethod
    def load(cls, source: str | Path, *, device: str | torch.device = "cpu") -> StockGenerator:
        """The model in a folder, or one that the hub's client has fetched. CheckpointError for
        what is not here, is none of ``STOCK_PIPELINES`` or cannot be read."""
        folder, device = stock_folder(source), torch.device(device)
        model = stock_model(folder)
        kind = getattr(diffusers, _index(folder)["_class_name"])
        try:
            pipe = kind.from_pretrained(
                folder,
                dtype=torch.float32 if device.type == "cpu" else torch.bfloat16,
                local_files_only=True,
            )
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{folder.name} cannot be loaded: {one_line(error)}") from error
        pipe.set_progress_bar_config(disable=True)
        if device.type != "cpu":
            free, _ = torch.cuda.mem_get_info(device)
            if weight_bytes(folder) < ROOM * free:
                pipe.to(device)
            else:
                pipe.enable_model_cpu_offload(device=device)
        return cls(pipe, model, str(source))

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
        with torch.no_grad():
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
            "kind": type(self.pipe).__name__,
            "licence": self.model.licence,
            "prompt": prompt,
            **asdict(asked),
            "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        }
        return StockVideo(frames, asked.fps, recipe)

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


def stock_folder(source: str | Path) -> Path:
    """The folder of a model, by path or hub id; CheckpointError where it is not here."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError) as error:
        titles = " or ".join(f"{model.title} ({model.licence})" for model in (WAN, HUNYUAN))
        raise CheckpointError(
            f'"{source}" is no folder, and nobody fetched a model of that name; get {titles} with: '
            "hf download, for example Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"
        ) from error


def stock_model(folder: Path) -> StockModel:
    """Which model a folder holds; CheckpointError for one that is not known."""
    index = _index(folder)
    kind = index.get("_class_name")
    if kind not in STOCK_PIPELINES:
        raise CheckpointError(
            f'{folder.name} is a "{kind}"; this command runs {", ".join(STOCK_PIPELINES)}'
        )
    return WAN_DENSE if index.get("expand_timesteps") else STOCK_PIPELINES[kind]


def _index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder.name} has no model_index.json that can be read: {error}"
        ) from error
    if not isinstance(index, dict):
        raise CheckpointError(f"model_index.json of {folder.name} must hold one JSON object")
    return index


def weight_bytes(folder: Path) -> int:
    """Of all weight files of a model."""
    return sum(
        file.stat().st_size
        for part in folder.iterdir()
        if part.is_dir()
        for file in listed(part, "*.safetensors")
    )


def near_size(aspect: float, area: int, multiple: int) -> tuple[int, int]:
    """Height and width, multiples of ``multiple``, of about ``area`` px in the ``aspect`` (width by
    height) of a picture."""
    height = (area / aspect) ** 0.5
    sides = (height, height * aspect)
    return tuple(max(multiple, round(side / multiple) * multiple) for side in sides)
