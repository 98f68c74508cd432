"""Learns one motion from its reference clips: motion tokens (docs/method.md, sections 4 and 5) or
what SynMotion learns (docs/synmotion.md).

The transformer is alone on the device meanwhile: views and captions were encoded before, so text
encoder and VAE wait in main memory. The backward pass needs all weights where they are used.

On the way a short video is made on a picture that is not the reference: a clip's own first frame
says nothing, it alone suggests how it goes on. Mirrored and in other colours it is a new picture,
in which the moving thing's place is still known.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np

from motion_app.engine.backbone import Backbone
from motion_app.engine.footprint import GIGABYTE, footprint, training_bytes
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import CheckpointError, GenerationCancelled, RequestError
from motion_app.geometry import ModelGeometry, fit_frames, fit_image, mask_to_grid
from motion_app.library.motion_clip import MotionClip
from motion_app.library.motion_file import read_motion
from motion_app.media.files import Clip, write_video
from motion_app.scene import GenerationRequest, Motion, Options, SceneObject
from motion_app.training.config import ClipTraining, LoraTraining, MotionTraining, SynMotionTraining
from motion_app.training.inputs import ClipSelection
from motion_app.training.motion_lora import LoraRun, prepare_lora
from motion_app.training.mover import (
    Segment,
    follow_by_movement,
    moving_region,
)
from motion_app.training.processes import ALONE, Share
from motion_app.training.seen_clips import (
    look_at,
    mover_masks,
    read_clips,
    seen_clip,
    tell_what_is_cut,
)
from motion_app.training.synmotion import SynMotionRun, prepare_synmotion
from motion_app.training.tokens import LearningRun, TrainingRun, prepare_lesson

SMOOTHING = 25  # steps whose mean is the smoothed loss
log = logging.getLogger(__name__)
HUE_TURN = 60  # of OpenCV's 180 hues: a third of the circle, red becomes green


@dataclass(frozen=True, eq=False)
class TrainingReport:
    """One step's news: ``step`` from 1 to ``steps``, its ``loss``, seconds so far and to go.

    ``losses``: of every step from the first, also of those before a resume; ``learning_rate`` the
    one of this step; ``step_seconds`` the mean so far. ``view_frames`` (F, H, W, 3) uint8 shows the
    view that was learned from, one frame per latent frame, and ``view_mask`` (F, h, w) bool who saw
    the tokens in it, what most layers say (None where all did). ``validation``: the newest video
    made with the tokens so far, None before the first.
    """

    step: int
    steps: int
    loss: float
    seconds: float
    seconds_left: float
    learning_rate: float = 0.0
    step_seconds: float = 0.0
    losses: tuple[float, ...] = field(default=(), repr=False)
    view_frames: np.ndarray | None = field(default=None, repr=False)
    view_mask: np.ndarray | None = field(default=None, repr=False)
    validation: ValidationVideo | None = field(default=None, repr=False)

    @property
    def smoothed(self) -> float:
        """The mean loss of the last steps: a single one says little, its noise level is drawn."""
        last = self.losses[-SMOOTHING:] or (self.loss,)
        return sum(last) / len(last)


OnProgress = Callable[[TrainingReport], bool | None]


def train_motion(
    clips: Sequence[Path | Clip | ClipSelection],
    config: ClipTraining,
    *,
    engine: MotionEngine,
    out: Path,
    masks: Sequence[np.ndarray] | None = None,
    track: Sequence[Sequence[float]] | None = None,
    segment: Segment | None = None,
    tokens: Path | None = None,
    validation: ValidationScene | None = None,
    on_progress: OnProgress | None = None,
    share: Share = ALONE,
    still: bool = False,
) -> Motion:
    """Trains, writes ``out`` (safetensors) with a preview beside it, and returns the motion.

    ``clips`` are files, selections of files, or clips already at the model's frame rate; ``masks``
    their objects, (T', H0, W0) bool each, for ``mask="given"``; ``track`` the reference's true
    centroids where known. Where selections point at a mover, ``segment`` finds its masks and they
    are what is "given"; where an encoder looks, it draws the edge of what moves by itself.
    ``config`` decides what is learned: MotionTraining motion tokens, SynMotionTraining embeddings
    and an adapter, LoraTraining a LoRA, which look at the whole picture; ``tokens`` is a motion
    file whose motion tokens are kept beside SynMotion's. ``validation``: the picture of
    ``validate_every``, None for the first clip's first frame in other colours.

    ``on_progress`` returning False stops with GenerationCancelled and keeps the checkpoint ``out``
    + ".training", from which the next call with the same config continues: it ends with the same
    tokens as an undisturbed run. A loss or gradient that is not finite stops with RequestError and
    keeps the last good state there. ``share``: this process's part where several learn together.
    A file in which nothing moves is refused, unless the motion is to stand ``still``.
    """
    if not clips:
        raise RequestError("no reference clip came; give at least one")
    backbone, geometry = engine.backbone, engine.geometry
    config.check_model(geometry)
    selected = read_clips(clips, fps=geometry.fps, still=still)
    read = [chosen.clip for chosen in selected]
    tell_what_is_cut(read, geometry)
    if any(chosen.mover is not None for chosen in selected):
        masks = mover_masks(selected, segment)
        if isinstance(config, MotionTraining):
            config = replace(config, mask="given")
    if not isinstance(config, MotionTraining) and share.count > 1:
        raise RequestError(
            f'"{config.method}" learns in one process, {share.count} were started; start one, or '
            "learn motion tokens"
        )
    pointed = masks is not None
    if isinstance(config, SynMotionTraining):
        lesson = prepare_synmotion(read, config, backbone, tokens=tokens)
        run: LearningRun = SynMotionRun(lesson, config, backbone, out)
    elif isinstance(config, LoraTraining):
        seen = seen_clip(read, masks, geometry)
        run = LoraRun(prepare_lora(read, seen, config, backbone), config, backbone, out)
    else:
        start = None
        if config.start == "encoder":
            start = look_at(read, masks, engine, segment)
            config = replace(config, tokens=start.tokens)
        run = _token_run(read, config, backbone, out, masks, share, start=start)
        pointed = config.mask == "given"
    if config.validate_every is not None and validation is None:
        validation = held_out_scene(read[0], geometry, mask=masks[0][0] if pointed else None)
    with LearningPlacement(backbone, config) as placement:
        _learn(run, validation, on_progress, placement, engine)
        errors = run.clip_errors() if run.share.first else None  # who writes it measures
    return _finish(run, read[0], track, None if masks is None else masks[0], errors)


def _token_run(
    clips: Sequence[Clip],
    config: MotionTraining,
    backbone: Backbone,
    out: Path,
    masks: Sequence[np.ndarray] | None,
    share: Share,
    *,
    start: MotionTokens | None,
) -> TrainingRun:
    if config.mask == "given" and masks is None:
        raise RequestError('mask "given" needs the object masks of every clip')
    lesson = prepare_lesson(clips, config, backbone, masks=masks)
    return TrainingRun(lesson, config, backbone, out, share, start=start)


def _learn(
    run: LearningRun,
    scene: ValidationScene | None,
    on_progress: OnProgress | None,
    placement: LearningPlacement,
    engine: MotionEngine,
) -> None:
    """All steps from where ``run`` stands, with checkpoints and news."""
    config = run.config
    started, first = time.monotonic(), run.step
    validation: ValidationVideo | None = None
    while run.step < config.steps:
        loss = run.advance()
        due = scene is not None and run.share.first
        if due and run.step % config.validate_every == 0:
            with placement.whole():
                validation = make_validation(
                    run.save_motion,
                    scene,
                    config,
                    engine,
                    step=run.step,
                    file=run.file.with_suffix(".validation.safetensors"),
                )
        seconds = time.monotonic() - started
        per_step = seconds / (run.step - first)
        report = TrainingReport(
            step=run.step,
            steps=config.steps,
            loss=loss,
            seconds=seconds,
            seconds_left=per_step * (config.steps - run.step),
            learning_rate=run.optimiser.param_groups[0]["lr"],
            step_seconds=per_step,
            losses=tuple(run.losses),
            view_frames=run.view_frames(),
            view_mask=run.view_mask(),
            validation=validation,
        )
        stop = run.share.decided(on_progress is not None and on_progress(report) is False)
        if stop or run.step % config.checkpoint_every == 0:
            run.save()
        if stop:
            raise GenerationCancelled(
                f"training stopped at step {run.step} of {config.steps}; start it again with "
                "the same settings to go on"
            )


def _finish(
    run: LearningRun,
    clip: Clip,
    track: Sequence[Sequence[float]] | None,
    masks: np.ndarray | None,
    errors: tuple[float, float] | None,
) -> Motion:
    """Writes the motion with its clip inside and its preview beside, then lets the checkpoint go.
    Where nobody pointed at what moves, it is followed by its movement."""
    config, out, checkpoint = run.config, run.out, run.backbone.checkpoint
    if not run.share.first:
        run.share.decided(True)  # written
        return read_motion(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    preview = out.with_suffix(".mp4")
    export, geometry = checkpoint.defaults.export, checkpoint.geometry
    height, width = geometry.height, geometry.width
    if export:
        height, width = export.height // 4 * 2, export.width // 4 * 2  # even
    write_video(preview, fit_frames(clip.frames[: geometry.frames], height, width), clip.fps)
    metadata = MotionMetadata(
        name=config.name,
        phrase=config.phrase,
        base=checkpoint.fingerprint,
        method=config.learned_by,
        config=run.learned_with(),
        track=None if track is None else [[float(y), float(x)] for y, x in track],
        noun=config.noun,
        preview=preview.name,
        preview_sha256=hashlib.sha256(preview.read_bytes()).hexdigest(),
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        clip_errors=errors,
    )
    run.save_motion(out, metadata)
    masks = follow_by_movement(clip.frames) if masks is None else masks
    MotionClip.fitted(clip.frames, clip.fps, geometry, masks=masks).save_into(out)
    run.file.unlink(missing_ok=True)
    run.share.decided(True)
    return read_motion(out)


class LearningPlacement:
    """Use as a context around the steps; ``whole`` is for making a video in between."""

    def __init__(self, backbone: Backbone, config: ClipTraining) -> None:
        profile = backbone.profile
        if profile.placement.weights is not None:
            raise CheckpointError(
                f"a motion cannot be learned on weights of eight bits ({profile.placement.name}); "
                "load the model with the profile model-offload"
            )
        self.backbone = backbone
        # On a CPU nothing is saved by moving, and computing layers twice only takes longer.
        self.moves = profile.device.type != "cpu"
        self.checkpoints = self.moves or profile.placement.where == "group"
        if self.moves:
            needs = footprint(backbone.checkpoint, item=profile.dtype.itemsize)
            tokens = getattr(config, "tokens", 0)
            needed = training_bytes(backbone.geometry, needs, tokens=tokens, batch=config.batch)
            log.info("learning takes about %.1f GB of the device", needed / GIGABYTE)

    def __enter__(self) -> LearningPlacement:
        self._alone()
        return self

    def __exit__(self, *exception: object) -> None:
        self._together()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All models where the profile wants them, as a generation needs."""
        self._together()
        try:
            yield
        finally:
            self._alone()

    def _alone(self) -> None:
        if self.checkpoints:
            self.backbone.begin_learning()

    def _together(self) -> None:
        if self.checkpoints:
            self.backbone.end_learning()


@dataclass(frozen=True, eq=False)
class ValidationScene:
    """``image`` (H, W, 3) uint8 or None, ``mask`` (H, W) bool of what moves, in the model frame."""

    image: np.ndarray | None
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class ValidationVideo:
    """``frames`` (T, H, W, 3) uint8 made with the tokens after ``step`` training steps."""

    step: int
    frames: np.ndarray
    fps: float


def held_out_scene(
    clip: Clip, geometry: ModelGeometry, *, mask: np.ndarray | None = None
) -> ValidationScene:
    """The clip's first frame mirrored, with its hues turned, or none where the model takes none.
    ``mask`` (H0, W0) bool of the moving thing in it; None finds what moves away from where it was.
    """
    if not geometry.with_picture:
        return ValidationScene(None, np.ones((geometry.height, geometry.width), bool))
    where = moving_region(clip.frames) if mask is None else mask
    fitted = fit_image(clip.frames[0], geometry.height, geometry.width, "crop")
    inside = fitted.fit_mask(where)
    if not mask_to_grid(inside, geometry.grid_height, geometry.grid_width).any():
        inside = np.ones_like(inside)
    hues = cv2.cvtColor(fitted.image, cv2.COLOR_RGB2HSV)
    hues[..., 0] = (hues[..., 0].astype(int) + HUE_TURN) % 180
    recoloured = cv2.cvtColor(hues, cv2.COLOR_HSV2RGB)
    return ValidationScene(
        np.ascontiguousarray(recoloured[:, ::-1]), np.ascontiguousarray(inside[:, ::-1])
    )


def make_validation(
    save: Callable[[Path, MotionMetadata], None],
    scene: ValidationScene,
    config: ClipTraining,
    engine: MotionEngine,
    *,
    step: int,
    file: Path,
) -> ValidationVideo:
    """Generates with what ``save`` writes, the same noise every time. ``file``: a path that may
    be written and is gone again afterwards. Every random number comes from a generator of its own,
    so the training goes on as if nothing had been."""
    metadata = MotionMetadata(name=config.name, phrase=config.phrase, base=engine.fingerprint)
    try:
        save(file, metadata)
        moving = SceneObject(
            mask=scene.mask,
            sentence=config.caption,
            phrase=config.phrase,
            motion=read_motion(file),
            name=config.noun,
        )
        request = GenerationRequest(
            image=scene.image,
            objects=(moving,),
            options=Options(
                seed=config.seed,
                steps=config.validation_steps,
                method=config.shown_by,
            ),
        )
        video = engine.generate(request)
    finally:
        file.unlink(missing_ok=True)
    return ValidationVideo(step, video.frames, video.fps)
