"""Models are read one at a time, whoever asks: the libraries change torch while they read one."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from diffusers import CogVideoXImageToVideoPipeline
from transformers import Sam2Model

from motion_app.engine.pipeline import MotionEngine
from motion_app.models.clicks import ClickSegmenter
from motion_app.settings import ROOT

POCKET = ROOT / "checkpoints" / "pocket"


def test_two_models_that_are_asked_for_at_once_are_read_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_work, most = [], 0
    started = threading.Barrier(4)

    def watched(kind: Any) -> None:
        read = kind.from_pretrained.__func__

        def reading(cls: Any, *given: Any, **named: Any) -> Any:
            nonlocal most
            at_work.append(cls)
            most = max(most, len(at_work))
            time.sleep(0.05)  # long enough for the others to come
            try:
                return read(cls, *given, **named)
            finally:
                at_work.remove(cls)

        monkeypatch.setattr(kind, "from_pretrained", classmethod(reading))

    def load(number: int) -> bool:
        started.wait(60)
        if number % 2:
            model = ClickSegmenter.load(POCKET / "sam2", device="cpu").model
            return all(not value.is_meta for value in model.parameters())
        engine = MotionEngine.load(POCKET, device="cpu")
        return all(not value.is_meta for value in engine.backbone.pipe.transformer.parameters())

    for kind in (CogVideoXImageToVideoPipeline, Sam2Model):
        watched(kind)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(load, range(4)))
    assert most == 1
