"""Objects from words: boxes by Grounding DINO, or masks by SAM 3, where their weights are there.

What is found is a proposal: the page shows it as an object that clicks then refine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from motion_app.errors import CheckpointError, MediaError, RequestError
from motion_app.models.devices import READING, device_named
from motion_app.models.hub import TRANSFORMERS_FILES, Repository, fetch, one_line
from motion_app.scene import Box

DEFAULT_FINDER = "IDEA-Research/grounding-dino-tiny"
KINDS = ("grounding-dino", "mm-grounding-dino", "sam3")
MOST_FOUND = 20


@dataclass(frozen=True, eq=False)
class FoundObject:
    """``words`` as they were asked for, ``score`` in [0, 1], ``box`` in pixels of the picture, and
    ``mask`` (H, W) bool where the model gives one."""

    words: str
    score: float
    box: Box
    mask: np.ndarray | None = None


class ObjectFinder:
    """A detector that reads words; stateless, so all may share it."""

    def __init__(self, model: Any, processor: Any, *, kind: str) -> None:
        self.model, self.processor, self.kind = model.eval(), processor, kind

    @classmethod
    def load(
        cls,
        path_or_name: str | Path = DEFAULT_FINDER,
        *,
        device: str | torch.device | None = None,
    ) -> ObjectFinder:
        """A transformers folder or hub id of Grounding DINO or SAM 3. Raises CheckpointError."""
        from transformers import (
            AutoModelForZeroShotObjectDetection,
            AutoProcessor,
            PreTrainedConfig,
            Sam3Model,
            Sam3Processor,
        )

        chosen = device_named(device)
        folder = Path(path_or_name)
        repository = Repository.parse(str(path_or_name))
        if not folder.is_dir() and repository is not None:
            folder = fetch(repository, TRANSFORMERS_FILES)
        try:
            kind = PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
            if kind in KINDS:
                models = {"sam3": Sam3Model}
                processors = {"sam3": Sam3Processor}
                architecture = models.get(kind, AutoModelForZeroShotObjectDetection)
                with READING:
                    model = architecture.from_pretrained(
                        folder, dtype=torch.float32, local_files_only=True
                    )
                processor = processors.get(kind, AutoProcessor).from_pretrained(
                    folder, local_files_only=True
                )
        except Exception as error:  # the loaders raise a dozen kinds, each about the same folder
            raise CheckpointError(
                f"no detector could be loaded from {folder.name}: {one_line(error)}"
            ) from error
        if kind not in KINDS:
            raise CheckpointError(
                f"{folder.name} holds a model of type {kind!r}; words need one of "
                f"{', '.join(KINDS)}"
            )
        return cls(model.to(chosen), processor, kind=kind)

    @torch.no_grad()
    def find(
        self, image: np.ndarray, words: Sequence[str], *, threshold: float = 0.3
    ) -> list[FoundObject]:
        """What in ``image`` (H, W, 3) uint8 RGB is meant by each of ``words``, the surest first.
        RequestError for no words, MediaError for another array."""
        asked = [" ".join(word.split()).lower().rstrip(".") for word in words]
        asked = [word for word in dict.fromkeys(asked) if word]
        if not asked:
            raise RequestError("no words came; name what to find, for example a red robot")
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise MediaError(
                f"expected an image (H, W, 3) of uint8, got {image.shape} of {image.dtype}"
            )
        find = self._masks if self.kind == "sam3" else self._boxes
        found = [item for word in asked for item in find(Image.fromarray(image), word, threshold)]
        return sorted(found, key=lambda item: -item.score)[:MOST_FOUND]

    def _boxes(self, image: Image.Image, word: str, threshold: float) -> list[FoundObject]:
        inputs = self.processor(images=image, text=f"{word}.", return_tensors="pt")
        inputs = inputs.to(self.model.device)
        answer = self.processor.post_process_grounded_object_detection(
            self.model(**inputs),
            inputs["input_ids"],
            threshold=threshold,
            text_threshold=0.0,
            target_sizes=[(image.height, image.width)],
        )[0]
        return _collect(word, answer, image)

    def _masks(self, image: Image.Image, word: str, threshold: float) -> list[FoundObject]:
        inputs = self.processor(images=image, text=word, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        answer = self.processor.post_process_instance_segmentation(
            self.model(**inputs), threshold=threshold, target_sizes=[(image.height, image.width)]
        )[0]
        return _collect(word, answer, image)


def _collect(word: str, answer: dict[str, Any], image: Image.Image) -> list[FoundObject]:
    masks = answer.get("masks")
    found = []
    for k, (score, box) in enumerate(zip(answer["scores"], answer["boxes"], strict=True)):
        x0, y0, x1, y1 = (float(side) for side in box)
        corners = (max(0.0, x0), max(0.0, y0), min(image.width, x1), min(image.height, y1))
        mask = None if masks is None else masks[k].cpu().numpy().astype(bool)
        found.append(FoundObject(word, float(score), Box(*corners), mask))
    return found
