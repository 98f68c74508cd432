"""The recipe of a video: plain JSON that replays it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import diffusers
import torch

from motion_app.assignment import request_to_json
from motion_app.engine.preparation import PreparedScene
from motion_app.scene import GenerationRequest

if TYPE_CHECKING:
    from motion_app.engine.pipeline import MotionEngine


def recipe_of(
    engine: MotionEngine, request: GenerationRequest, scene: PreparedScene
) -> dict[str, Any]:
    """Plain JSON that replays the generation; ``request`` alone is what the command line takes,
    picture and masks included."""
    g = engine.geometry
    digests = scene.motion_digests or ("",) * len(request.objects)
    return {
        "request": request_to_json(request, model=engine.defaults.name),
        "seed": request.seed,
        "steps": request.steps,
        "guidance": request.guidance,
        "prompt": request.full_prompt(),
        "method": request.method,
        "without": sorted(request.without),
        "scope": request.scope,
        "objects": [
            {
                "sentence": item.sentence,
                "phrase": item.phrase,
                "name": item.name,
                "motion": None if item.motion is None else item.motion.name,
                "motion_sha256": digest,
                "strength": item.strength,
            }
            for item, digest in zip(request.objects, digests, strict=True)
        ],
        "model": engine.defaults.name,
        "base": engine.fingerprint,
        "motion_in_unconditional": engine.defaults.motion_in_unconditional,
        "propagation": asdict(engine.propagation),
        "width": g.width,
        "height": g.height,
        "frames": g.frames,
        "fps": g.fps,
        "device": str(engine.profile.device),
        "dtype": str(engine.profile.dtype).removeprefix("torch."),
        "profile": engine.profile.placement.name,
        "acceleration": engine.runtime.acceleration.to_json(),
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
    }
