"""The networks that judge: CLIP, DINO, RAFT, CoTracker and others, from local files alone. Each
class carries the ``source`` of its weights.

Nothing is ever fetched: a source is looked for in the judges' folder (``Settings.judges``) under
its own name, then where its own library keeps what somebody fetched before.

Frames come in as (T, H, W, 3) uint8 and arrays go out as numpy float32. A network without a
maintained package comes as a TorchScript file, run as it is. CoTracker's published weights are
CC-BY-NC: not for commercial use.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

import cv2
import numpy as np

from motion_app.errors import CheckpointError
from motion_app.evaluation.trackers import FlowPair, PointTracks, flow_enlargement

if TYPE_CHECKING:  # torch is imported by whoever computes, when it does
    import torch

BATCH = 16  # frames at a time
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KINETICS_MEAN = (114.77, 107.74, 99.48)  # of 3D ResNet-50, in 0 to 255
SEGMENT = 16  # frames 3D ResNet-50 takes at once
SMALLEST_FLOW_SIDE = 128  # RAFT's correlation pyramid needs it
logger = logging.getLogger(__name__)
REPEATS = 10  # times each question is asked
SHOWN_FRAMES = 8  # of the video, evenly spaced
MOTION_QUESTION = 'Is "{phrase}" what {subject} does in this video? Answer yes or no.'
SUBJECT_QUESTION = "Is {subject} in this video? Answer yes or no."


@dataclass(frozen=True)
class WeightSource:
    """``kind`` "hub": a folder as transformers saves it; "file": one file. ``name``: the hub id or
    the file's name. ``needs``: what a person must bring, in words."""

    name: str
    kind: Literal["hub", "file"]
    needs: str


class Network(Protocol):
    """A class here: made of what ``WeightStore.find`` gives for it, on ``device``."""

    source: ClassVar[WeightSource]

    def __init__(self, path: Path, *, device: str = "cpu") -> None: ...


N = TypeVar("N", bound=Network)


@dataclass(frozen=True)
class WeightStore:
    """``folder``: the judges' folder; it need not exist. ``caches`` False looks nowhere else."""

    folder: Path
    caches: bool = True

    def find(self, network: type[Network]) -> Path | None:
        """The folder or file of its weights, or None where they are not on this machine."""
        wanted = network.source
        own = self.folder / wanted.name.rpartition("/")[2]
        if own.exists():
            return own
        if not self.caches:
            return None
        return _hub_folder(wanted.name) if wanted.kind == "hub" else _torch_file(wanted.name)

    def missing(self, networks: Sequence[type[Network]]) -> tuple[str, ...]:
        """In words, whose weights are not here."""
        return tuple(each.source.needs for each in networks if self.find(each) is None)


class Judges:
    """The networks, each loaded when it is first asked for."""

    def __init__(self, store: WeightStore, *, device: str = "cpu") -> None:
        self.store, self.device = store, device
        self._loaded: dict[type[Network], Any] = {}

    def network(self, network: type[N]) -> N:
        """The one of that class; its weights must be there (``WeightStore.missing`` tells)."""
        if network not in self._loaded:
            from motion_app.models.devices import READING

            logger.info("loading %s", network.source.name)
            with READING:
                self._loaded[network] = network(self.store.find(network), device=self.device)
        return self._loaded[network]


def _hub_folder(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _torch_file(name: str) -> Path | None:
    """As ``torch.hub`` lays its folder out; asked without importing torch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    home = Path(os.environ.get("TORCH_HOME", cache / "torch"))
    path = home / "hub" / "checkpoints" / name
    return path if path.is_file() else None


def without_gradients(method: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.no_grad``, with torch imported at the first call."""

    @wraps(method)
    def called(*given: Any, **named: Any) -> Any:
        import torch

        with torch.no_grad():
            return method(*given, **named)

    return called


def _batches(frames: np.ndarray, device: str) -> list[torch.Tensor]:
    """Frames as float tensors (B, 3, H, W) in 0 to 255."""
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)  # (T, 3, H, W)
    return [part.float().to(device) for part in pixels.split(BATCH)]


class ClipEmbedder:
    """CLIP, for AC, TC, TS and what SynMotion measures with it."""

    source = WeightSource("openai/clip-vit-base-patch32", "hub", "CLIP ViT-B/32")

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        self.device = device
        self.model = CLIPModel.from_pretrained(folder, local_files_only=True).to(device).eval()
        self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    @without_gradients
    def images(self, frames: np.ndarray) -> np.ndarray:
        """Image embeddings [T, D] of ``frames``."""
        rows = []
        for start in range(0, len(frames), BATCH):
            inputs = self.processor(list(frames[start : start + BATCH]), return_tensors="pt")
            found = self.model.get_image_features(inputs["pixel_values"].to(self.device))
            rows.append(found.pooler_output.cpu().float().numpy())
        return np.concatenate(rows)

    @without_gradients
    def text(self, caption: str) -> np.ndarray:
        """The embedding [D] of ``caption``, cut at the tokens CLIP can read (77), not at
        letters."""
        most = self.model.config.text_config.max_position_embeddings
        inputs = self.tokenizer(caption, truncation=True, max_length=most, return_tensors="pt")
        found = self.model.get_text_features(
            inputs["input_ids"].to(self.device),
            attention_mask=inputs["attention_mask"].to(self.device),
        )
        return found.pooler_output[0].cpu().float().numpy()


class DinoEmbedder:
    """DINO's class token of the frames' middle: shorter side 256, crop 224."""

    source = WeightSource("facebook/dino-vitb16", "hub", "DINO ViT-B/16")

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        from transformers import ViTModel

        self.device = device
        self.model = ViTModel.from_pretrained(
            folder, local_files_only=True, add_pooling_layer=False
        )
        self.model.to(device).eval()
        self.side = self.model.config.image_size

    @without_gradients
    def images(self, frames: np.ndarray) -> np.ndarray:
        """Features [T, D] of ``frames``."""
        import torch

        mean, std = (
            torch.tensor(values, device=self.device)[:, None, None]
            for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        rows = []
        for pixels in _batches(frames, self.device):
            middle = _middle(pixels, round(self.side * 256 / 224), self.side)
            found = self.model(pixel_values=(middle / 255 - mean) / std)
            rows.append(found.last_hidden_state[:, 0].cpu().float().numpy())
        return np.concatenate(rows)


def _middle(pixels: torch.Tensor, short_side: int, crop: int) -> torch.Tensor:
    """(B, 3, crop, crop): (B, 3, H, W) with the shorter side resized, then cut from the middle."""
    import torch

    height, width = pixels.shape[2:]
    scale = short_side / min(height, width)
    size = (round(height * scale), round(width * scale))
    resized = torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True)
    top, left = (size[0] - crop) // 2, (size[1] - crop) // 2
    return resized[:, :, top : top + crop, left : left + crop].clamp(0, 255)


class RaftFlow:
    """RAFT (large) of torchvision."""

    source = WeightSource("raft_large_C_T_SKHT_V2-ff5fadd5.pth", "file", "RAFT of torchvision")

    def __init__(self, file: Path, *, device: str = "cpu") -> None:
        import torch
        from torchvision.models.optical_flow import raft_large

        self.device = device
        self.model = raft_large(weights=None)
        state = torch.load(file, map_location="cpu", weights_only=True)
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(
                f"{file.name} does not hold torchvision's raft_large; fetch that file again"
            ) from error
        self.model.to(device).eval()

    @without_gradients
    def flow(self, frames: np.ndarray, *, updates: int = 12) -> FlowPair:
        """Flow of ``frames`` both ways, at their own size; small frames are enlarged first, as for
        DIS. ``updates``: RAFT's own iterations."""
        import torch

        height, width = frames.shape[1:3]
        scale = flow_enlargement(height, width)
        large = [max(SMALLEST_FLOW_SIDE, -(-side * scale // 8) * 8) for side in (height, width)]
        size = (large[1], large[0])
        grown = np.stack([cv2.resize(f, size, interpolation=cv2.INTER_CUBIC) for f in frames])
        pixels = torch.cat(_batches(grown, self.device)) / 127.5 - 1  # (T, 3, H', W'), -1 to 1
        shrink = np.array([width / large[1], height / large[0]], np.float32)

        def between(start: torch.Tensor, stop: torch.Tensor) -> np.ndarray:
            fields = []
            for a, b in zip(start, stop, strict=True):
                field = self.model(a[None], b[None], num_flow_updates=updates)[-1][0]
                array = field.permute(1, 2, 0).cpu().numpy()  # (H', W', 2)
                fields.append(cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA))
            return np.stack(fields) * shrink

        return FlowPair(between(pixels[:-1], pixels[1:]), between(pixels[1:], pixels[:-1]))


class ScriptedNetwork:
    """A TorchScript file. What it takes and gives is said by the class of each."""

    def __init__(self, file: Path, *, device: str = "cpu") -> None:
        import torch

        self.device, self.name = device, file.name
        try:
            self.module = torch.jit.load(str(file), map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{file.name} is no TorchScript file; save the network with torch.jit.save"
            ) from error

    @without_gradients
    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        try:
            return self.module(*(tensor.to(self.device) for tensor in inputs))
        except RuntimeError as error:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
            raise CheckpointError(
                f"{self.name} does not take {shapes}; expected the network of that name"
            ) from error


class CoTracker(ScriptedNetwork):
    """CoTracker 3, for TF."""

    source = WeightSource("cotracker3_offline", "file", "CoTracker 3 as TorchScript (CC-BY-NC)")

    def track(self, frames: np.ndarray, points: np.ndarray) -> PointTracks:
        """``points`` [n, 2] (y, x) of the first of ``frames`` through all of them. It is
        given video [1, T, 3, H, W] in 0 to 255 and queries [1, n, 3] (t, x, y), and gives tracks
        [1, T, n, 2] (x, y) and visibility [1, T, n]."""
        import torch

        video = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float()
        queries = np.concatenate([np.zeros((len(points), 1)), points[:, ::-1]], axis=1)
        tracks, visible = self(video, torch.from_numpy(queries)[None].float())
        at = tracks[0].permute(1, 0, 2).flip(-1)  # [n, T, 2] (y, x)
        return PointTracks(at.cpu().numpy(), visible[0].T.cpu().numpy() > 0.5)


class Amt(ScriptedNetwork):
    """AMT-S, for the smoothness of motion."""

    source = WeightSource("amt-s.pt", "file", "AMT-S as TorchScript")

    def middle_frames(self, frames: np.ndarray) -> np.ndarray:
        """Frames 2, 4, … made by AMT from their neighbours, as ``trackers.half_warp`` does.

        It is given two frames [1, 3, H, W] in 0 to 1 and the time [1, 1, 1, 1], 0.5."""
        import torch

        pixels = torch.cat(_batches(frames, self.device)) / 255  # (T, 3, H, W)
        made = []
        for t in range(1, len(frames) - 1, 2):
            half = torch.full((1, 1, 1, 1), 0.5)
            frame = self(pixels[t - 1 : t], pixels[t + 1 : t + 2], half)[0]  # (3, H, W)
            made.append((frame.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())
        return np.stack(made)


class Resnet3d(ScriptedNetwork):
    """3D ResNet-50, for FVD-3DRN50."""

    source = WeightSource("resnet-50-kinetics.pt", "file", "3D ResNet-50 as TorchScript")

    def resnet_features(self, frames: np.ndarray) -> np.ndarray:
        """FVD-3DRN50's features [D]: mean over segments of 16 frames, the last one filled up with
        its last frame, at 112 pixels less the Kinetics means. It is given [S, 3, 16, 112, 112]."""
        import torch

        missing = -len(frames) % SEGMENT
        whole = np.concatenate([frames, frames[-1:].repeat(missing, axis=0)])
        pixels = _squares(whole, 112) - torch.tensor(KINETICS_MEAN)[:, None, None]
        segments = pixels.reshape(-1, SEGMENT, *pixels.shape[1:]).transpose(1, 2)
        return self(segments).flatten(1).mean(dim=0).cpu().numpy()


class I3d(ScriptedNetwork):
    """I3D, for FVD-3DInception."""

    source = WeightSource("i3d_torchscript.pt", "file", "I3D (Kinetics-400) as TorchScript")

    def i3d_features(self, frames: np.ndarray) -> np.ndarray:
        """FVD-3DInception's features [D] of the whole clip, given as [1, 3, T, 224, 224] in -1 to
        1."""
        pixels = _squares(frames, 224) / 127.5 - 1
        return self(pixels.transpose(0, 1)[None]).flatten().cpu().numpy()


class FrameRater(ScriptedNetwork):
    """A network that rates single frames."""

    def scores(self, frames: np.ndarray) -> np.ndarray:
        """A rating [T] of each of ``frames``, given as (B, 3, H, W) in 0 to 1."""
        import torch

        found = [self(pixels / 255).reshape(-1) for pixels in _batches(frames, self.device)]
        return torch.cat(found).cpu().numpy()


class Aesthetic(FrameRater):
    """LAION's aesthetic predictor."""

    source = WeightSource(
        "aesthetic-vit-l-14.pt", "file", "CLIP ViT-L/14 with LAION's head as TorchScript"
    )


class Musiq(FrameRater):
    """MUSIQ, trained on SPAQ."""

    source = WeightSource("musiq-spaq.pt", "file", "MUSIQ-SPAQ as TorchScript")


def _squares(frames: np.ndarray, side: int) -> torch.Tensor:
    """(T, 3, side, side) float in 0 to 255."""
    import torch

    resized = [cv2.resize(f, (side, side), interpolation=cv2.INTER_LINEAR) for f in frames]
    return torch.cat(_batches(np.stack(resized), "cpu"))


def share_of_yes(answers: Sequence[str]) -> float | None:
    """Share of "yes" among the answers that begin with yes or no; None where none does. Others are
    logged: they are no answer, and no "no"."""
    said = [re.match(r"\W*(yes|no)\b", answer, re.IGNORECASE) for answer in answers]
    clear = [match.group(1).lower() == "yes" for match in said if match]
    if len(clear) < len(answers):
        logger.warning(
            "%d of %d answers say neither yes nor no", len(answers) - len(clear), len(answers)
        )
    return float(np.mean(clear)) if clear else None


class QwenJudge:
    """Qwen2.5-VL, a vision-language model, asked several times with sampling: SynMotion's two
    accuracies."""

    source = WeightSource("Qwen/Qwen2.5-VL-7B-Instruct", "hub", "Qwen2.5-VL")

    def __init__(self, folder: Path, *, device: str = "cpu", seed: int = 0) -> None:
        from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

        self.device, self.seed = device, seed
        self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, dtype="auto"
        )
        self.model.to(device).eval()

    @without_gradients
    def ask(self, frames: np.ndarray, question: str, *, repeats: int = REPEATS) -> list[str]:
        """``repeats`` independent answers about ``frames`` (T, H, W, 3) uint8. The same question
        about the same frames gets the same answers."""
        import torch

        shown = frames[np.linspace(0, len(frames) - 1, SHOWN_FRAMES).round().astype(int)]
        content = [{"type": "image"} for _ in shown] + [{"type": "text", "text": question}]
        prompt = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        inputs = self.processor(text=[prompt], images=list(shown), return_tensors="pt")
        inputs = inputs.to(self.device)
        devices = [self.device] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=devices):  # generate samples from the global generator
            torch.manual_seed(self.seed)
            said = self.model.generate(
                **inputs, do_sample=True, max_new_tokens=4, num_return_sequences=repeats
            )
        answers = said[:, inputs["input_ids"].shape[1] :]
        return self.processor.batch_decode(answers, skip_special_tokens=True)
