"""A request whose video a model of others makes, told its picture and its words alone.

The picture is the one in the checkpoint's frame that every other method sees, fitted to the model's
own size; frames, rate and, where nothing is asked, steps and guidance are the model's own too. What
comes out is a video as any other: with a recipe that replays, and the objects' masks in its first
frame, the only one that anybody knows them in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from motion_app.errors import RequestError
from motion_app.geometry import fit_image, mask_to_grid
from motion_app.request.request import checked_request
from motion_app.request.written import request_to_json, told_objects
from motion_app.scene import GeneratedVideo, GenerationRequest, StepReport

if TYPE_CHECKING:  # torch is imported by whoever computes, when it does
    from motion_app.engine.pipeline import MotionEngine
    from motion_app.models.checkpoint import Checkpoint
    from motion_app.models.stock import StockGenerator, StockVideo

    Frame = MotionEngine | Checkpoint  # in whose frame the picture is
# Opens a model by its name; beside the engine that is loaded in this process, where one stays.
OpenStock = Callable[..., AbstractContextManager["StockGenerator"]]
NOT_DRAWN = np.zeros((0, 0, 0, 0), np.float32)  # its latents are no checkpoint's


def no_stock(name: str, engine: Any = None) -> NoReturn:
    """What opens a model where none is offered: RequestError."""
    raise RequestError(
        f'the model "{name}" is not offered here; leave "stock" out, or have it named in '
        "MOTION_APP_STOCK_MODELS"
    )


def generate_stock(
    request: GenerationRequest,
    frame: Frame,
    open_stock: OpenStock,
    on_step: Callable[[StepReport], bool | None] | None = None,
) -> GeneratedVideo:
    """The video of ``request`` by the model that its options name. ``frame``: the loaded engine, or
    where none is, the checkpoint whose frame the picture has. ``on_step`` as of
    ``MotionEngine.generate``, without latents. Raises as that, and CheckpointError for a model that
    is not here or does not fit."""
    from motion_app.models.stock import StockOptions

    if not request.checked:
        request = checked_request(request, geometry=frame.geometry)
    chosen, started = request.options, time.perf_counter()

    def stepped(step: int, steps: int) -> bool | None:
        nonlocal started
        now = time.perf_counter()
        seconds, started = now - started, now
        report = StepReport(step, steps, seconds, NOT_DRAWN, no_masks, masks_settled=True)
        return None if on_step is None else on_step(report)

    no_masks = np.zeros((len(request.objects), 0, 0, 0), bool)
    loaded = frame if hasattr(frame, "set_aside") else None
    with open_stock(str(chosen.stock), loaded) as generator:
        asked = StockOptions(seed=chosen.seed, steps=chosen.steps, guidance=chosen.guidance)
        started = time.perf_counter()  # not the loading, which is no step
        made = generator.generate(request.picture, request.full_prompt(), asked, stepped)
        multiple = generator.multiple
    return GeneratedVideo(
        frames=made.frames,
        masks=first_masks(request, made.frames.shape[1:3], multiple),
        recipe=stock_recipe(request, made, frame),
        fps=made.fps,
        calls=made.calls,
    )


def first_masks(request: GenerationRequest, size: tuple[int, int], multiple: int) -> np.ndarray:
    """The objects' masks in the first frame of a video of ``size`` (height, width), on its token
    grid: (N, 1, h, w) bool."""
    height, width = size
    grid = (height // multiple, width // multiple)
    fitted = fit_image(request.picture, height, width)
    masks = [mask_to_grid(fitted.fit_mask(item.mask), *grid) for item in request.objects]
    return np.stack(masks)[:, None] if masks else np.zeros((0, 1, *grid), bool)  # (N, 1, h, w)


def stock_recipe(request: GenerationRequest, made: StockVideo, frame: Frame) -> dict[str, Any]:
    """Plain JSON that replays the generation, as ``pipeline.recipe_of`` has it: ``model``, its
    licence and what it was asked, and the ``base`` in whose frame the picture is."""
    told = made.recipe
    request = replace(
        request,
        options=replace(request.options, steps=told["steps"], guidance=told["guidance"]),
    )
    digests = ["" if item.motion is None else item.motion.digest for item in request.objects]
    return {
        "request": request_to_json(request, model=frame.defaults.name),
        **told,
        **request.options.to_json(),
        "prompt": request.full_prompt(),
        "objects": told_objects(request, digests),
        "model": told["title"],
        "base": frame.fingerprint,
    }
