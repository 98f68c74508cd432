"""A vision-language model that answers yes or no about a video: SynMotion's two accuracies."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

logger = logging.getLogger(__name__)

REPEATS = 10  # times each question is asked
SHOWN_FRAMES = 8  # of the video, evenly spaced
MOTION_QUESTION = 'Is "{phrase}" what {subject} does in this video? Answer yes or no.'
SUBJECT_QUESTION = "Is {subject} in this video? Answer yes or no."


class Judge(Protocol):
    """Answers one question about a video."""

    def ask(self, frames: np.ndarray, question: str, *, repeats: int = REPEATS) -> list[str]:
        """``repeats`` independent answers about ``frames`` (T, H, W, 3) uint8."""
        ...


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
    """Qwen2.5-VL, asked several times with sampling."""

    def __init__(self, folder: Path, *, device: str = "cpu", seed: int = 0) -> None:
        self.device, self.seed = device, seed
        self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, dtype="auto"
        )
        self.model.to(device).eval()

    @torch.no_grad()
    def ask(self, frames: np.ndarray, question: str, *, repeats: int = REPEATS) -> list[str]:
        """See ``Judge``. The same question about the same frames gets the same answers."""
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
