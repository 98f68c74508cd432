"""Jobs of the kind "generate": a request becomes a video and its files.

inputs   {"request": what ``assignment.parse_request`` reads, with the picture and the masks
         inside as data: URIs; "badge": bool; any other key is the page's own}
outcome  {"video", "gif", "recipe", "frames", "masks_zip": file names in the job's folder;
         "seed", "steps", "guidance", "seconds"}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from motion_app.assignment import RequestFile, build_request, parse_request, request_to_json
from motion_app.errors import RequestError
from motion_app.geometry import GenerationDefaults, ModelGeometry
from motion_app.jobs.store import JobRow
from motion_app.jobs.timing import JobSize
from motion_app.jobs.work import WaitForEngine, Work, engine_for
from motion_app.library import Library
from motion_app.prompt_tokenizer import PromptTokenizer
from motion_app.results import SavedVideo, save_result
from motion_app.scene import GenerationRequest, StepReport
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.signing import Certificate

KIND = "generate"
FILES = ("video", "gif", "recipe", "frames", "masks_zip")


def check_generation(
    request: Mapping[str, Any] | RequestFile,
    *,
    geometry: ModelGeometry,
    library: Library,
    base: str | None = None,
    badge: bool = False,
    tokenizer: PromptTokenizer | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> dict[str, Any]:
    """The inputs of a job that makes the video of ``request``: everything checked that can be
    without the model, and the picture as the model will see it.

    ``base``: the loaded model's fingerprint, None while it is loading; ``badge``: a visible
    "AI-generated" on the video; ``tokenizer`` counts the prompt. Raises RequestError, MediaError
    or MotionFileError.
    """
    entries = dict(request) if isinstance(request, Mapping) else request.model_dump()
    built = _built(
        entries,
        geometry=geometry,
        library=library,
        base=base,
        tokenizer=tokenizer,
        limits=limits,
    )
    return {"request": request_to_json(built), "badge": badge}


def _built(
    entries: Mapping[str, Any],
    *,
    geometry: ModelGeometry,
    library: Library,
    base: str | None,
    limits: Limits,
    tokenizer: PromptTokenizer | None = None,
) -> GenerationRequest:
    request_file = parse_request(entries)
    _check_sources(request_file)
    return build_request(
        request_file,
        geometry=geometry,
        library=library,
        base=base,
        tokenizer=tokenizer,
        limits=limits,
    )


def _check_sources(request_file: RequestFile) -> None:
    """A job comes from a browser: it names no file of this machine."""
    pictures = {"image": request_file.image}
    for number, entry in enumerate(request_file.objects, start=1):
        pictures[f"mask of object {number}"] = entry.mask
        motion = entry.motion or ""
        if "/" in motion or "\\" in motion or motion.endswith(".safetensors"):
            raise RequestError(
                f'the motion of object {number} is the file "{Path(motion).name[:60]}"; use the '
                "name of a motion in the library, or import the file first"
            )
    for what, source in pictures.items():
        if not source.startswith("data:"):
            raise RequestError(
                f'the {what} is "{source[:40]}"; send the picture itself, as a data: URI'
            )


class GenerationRunner:
    """``geometry`` and ``defaults`` ask for the model's, which may be known before it is loaded;
    ``base`` for its fingerprint, None until then; ``tokenizer`` for what counts a prompt, None
    where only the engine can; ``badge`` puts the badge on every video and ``certificate`` a
    signature."""

    def __init__(
        self,
        *,
        wait_for_engine: WaitForEngine,
        library: Library,
        geometry: Callable[[], ModelGeometry],
        defaults: Callable[[], GenerationDefaults],
        base: Callable[[], str | None],
        tokenizer: Callable[[], PromptTokenizer | None] = lambda: None,
        badge: bool = False,
        certificate: Certificate | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._wait_for_engine = wait_for_engine
        self._library = library
        self._geometry = geometry
        self._defaults = defaults
        self._base = base
        self._tokenizer = tokenizer
        self._badge = badge
        self._certificate = certificate
        self._limits = limits

    def check(self, inputs: Mapping[str, Any], files: Sequence[str]) -> dict[str, Any]:
        """A mistake is told at once, not when the job's turn comes."""
        request, badge = inputs.get("request"), inputs.get("badge", False)
        if not isinstance(request, Mapping) or not isinstance(badge, bool):
            raise RequestError('a video needs {"request": the request\'s JSON, "badge": bool}')
        checked = check_generation(
            request,
            geometry=self._geometry(),
            library=self._library,
            base=self._base(),
            badge=badge,
            tokenizer=self._tokenizer(),
            limits=self._limits,
        )
        return {**inputs, **checked}

    def check_line(self, inputs: Mapping[str, Any], active: Sequence[JobRow]) -> None:
        """Two jobs may make the same video."""

    def size(self, inputs: Mapping[str, Any]) -> JobSize:
        request = parse_request(inputs["request"])
        return JobSize(request.steps or self._defaults().steps, len(request.objects))

    def run(self, work: Work) -> dict[str, Any]:
        """Generate and save. Raises GenerationCancelled within the step in which it is asked to."""
        engine = engine_for(work, self._wait_for_engine)
        work.enter("preparing")
        request = _built(
            work.row.inputs["request"],
            geometry=engine.geometry,
            library=self._library,
            base=engine.fingerprint,
            limits=self._limits,
        )
        work.check_stop()

        def on_step(report: StepReport) -> bool:
            last = report.step == report.steps
            return work.stepped(
                report,
                step=report.step,
                steps=report.steps,
                seconds=report.seconds,
                stage="decoding" if last else "denoising",
            )

        video = engine.generate(request, on_step=on_step)
        work.check_stop()
        work.enter("saving")
        badge = self._badge or bool(work.row.inputs.get("badge"))
        saved = save_result(
            video,
            work.folder,
            export=engine.defaults.export,
            badge=badge,
            certificate=self._certificate,
        )
        return {
            **_named(saved, work.folder),
            "seed": video.recipe["seed"],
            "steps": video.recipe["steps"],
            "guidance": video.recipe["guidance"],
            "seconds": round(work.seconds, 3),
        }


def _named(saved: SavedVideo, folder: Path) -> dict[str, str]:
    """The result's files relative to the job's folder."""
    return {name: str(getattr(saved, name).relative_to(folder)) for name in FILES}
