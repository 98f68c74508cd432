"""Step 4 of the Transfer tab: settings, Generate, progress, and the video."""

from __future__ import annotations

import html
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from motion_app.assignment import build_request, parse_request
from motion_app.errors import GenerationCancelled, RequestError
from motion_app.jobs.generation import GenerationJob
from motion_app.results import save_result
from motion_app.scene import GeneratedVideo, GenerationRequest, StepReport
from motion_app.ui.boundary import listen
from motion_app.ui.host import ModelHost
from motion_app.ui.overlay import animation_uri, mask_sheet, preview_frames
from motion_app.ui.progress import (
    host_banner,
    in_words,
    note_html,
    progress_html,
    step_heading,
)
from motion_app.ui.results import new_result_folder
from motion_app.ui.session import SceneDraft, Session, request_entries
from motion_app.ui.texts import Texts

if TYPE_CHECKING:
    from motion_app.engine.pipeline import MotionEngine

ReadRows = Callable[[Session, Sequence[Any]], SceneDraft]
MOST_STEPS = 100
MOST_GUIDANCE = 15.0
CANCEL_READY = {"value": "Cancel", "interactive": True}
TICK_SECONDS = 1.0  # how often a waiting page is told that time passes
EMPTY_VIDEO = '<div class="video-empty">The video will appear here.</div>'


class VideoPanel:
    """The components of step 4 and the generator behind Generate."""

    def __init__(self, host: ModelHost, texts: Texts) -> None:
        self.host = host
        self.texts = texts
        self.folder = host.settings.outputs / "jobs"
        defaults = host.defaults()
        gr.HTML(step_heading(4, "Video", "The same seed gives the same video."))
        with gr.Row(elem_classes="seed-row"):
            self.seed = gr.Number(
                value=0, precision=0, minimum=0, label="Seed", min_width=90, elem_id="seed"
            )
            self.dice = gr.Button("Random seed", size="sm", min_width=90, scale=0, elem_id="dice")
        with gr.Accordion("Settings", open=False, elem_id="settings"):
            self.steps = gr.Slider(
                *(1, MOST_STEPS), value=defaults.steps, step=1, label="Steps", elem_id="steps-count"
            )
            self.guidance = gr.Slider(
                *(0, MOST_GUIDANCE),
                value=defaults.guidance,
                step=0.1,
                label="Guidance (how strictly text and motions are followed)",
                elem_id="guidance",
            )
        with gr.Row():
            self.generate_button = gr.Button(
                "Generate", variant="primary", min_width=120, elem_id="generate"
            )
            self.cancel_button = gr.Button("Cancel", visible=False, min_width=80, elem_id="cancel")
        self.status = gr.HTML(apply_default_css=False, elem_id="status")
        self.live = gr.HTML(EMPTY_VIDEO, apply_default_css=False, elem_id="live")
        with gr.Column(visible=False, elem_id="result") as self.result:
            self.player = gr.Video(
                label="The finished video",
                show_label=False,
                autoplay=True,
                loop=True,
                elem_id="video",
                buttons=["download"],
            )
            with gr.Column() as self.tracks:
                gr.HTML(note_html("Where the model saw each object, from first frame to last:"))
                self.sheet = gr.Image(
                    label="Masks of the objects",
                    show_label=False,
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id="sheet",
                    alt_text="Frames of the video with the mask of each object in its colour",
                )
            self.recipe = gr.DownloadButton(
                "Download the recipe (JSON)", size="sm", elem_id="recipe"
            )

    def wire(
        self, session: gr.State, fields: Sequence[Any], read_rows: ReadRows, banner: gr.HTML
    ) -> None:
        """Bind the buttons. ``fields``: all rows' fields, which ``read_rows`` understands."""
        self._read_rows = read_rows
        listen(self.dice.click, self.roll, outputs=[self.seed])
        listen(
            self.generate_button.click,
            self.generate,
            inputs=[session, self.seed, self.steps, self.guidance, *fields],
            outputs=self._outputs(banner),
            api_name="generate",
            concurrency_limit=None,  # the device lock keeps the order, and says the place in it
        )
        listen(
            self.cancel_button.click,
            self.cancel,
            inputs=[session],
            outputs=[self.cancel_button],
            api_name="cancel",
            queue=False,
        )

    def _outputs(self, banner: gr.HTML) -> list[Any]:
        return [
            *(self.generate_button, self.cancel_button, self.status, self.live, self.result),
            *(self.player, self.tracks, self.sheet, self.recipe, banner),
        ]

    def roll(self) -> int:
        """A random seed from 0 to 2^31 − 1, which JavaScript keeps exactly."""
        return secrets.randbelow(2**31)

    def cancel(self, session: Session) -> Any:
        """Stop at the end of the current step."""
        if session.job is not None:
            session.job.cancel()
        return gr.update(value="Stopping…", interactive=False)

    def generate(
        self, session: Session, seed: float, steps: float, guidance: float, *fields: Any
    ) -> Iterator[list[Any]]:
        """One video: yields the panel's state at every step, then the result."""
        draft = self._read_rows(session, fields)
        job = self._new_job(session, draft, seed=seed, steps=steps, guidance=guidance)
        ready = "" if session.finished else EMPTY_VIDEO
        try:
            yield self._panel(busy=True, live=EMPTY_VIDEO, result=gr.update(visible=False))
            drawn = None
            for progress in job.progress(every=TICK_SECONDS):
                status = progress_html(progress, self.host.measured, stopping=job.cancelling)
                new_step = progress.report is not None and progress.report is not drawn
                live = self._live(progress.report, draft) if new_step else None
                drawn = progress.report
                yield self._panel(busy=True, status=status, live=live)
            video = job.result()
            yield self._finished(session, job, video, draft)
        except GenerationCancelled as stopped:
            note = note_html(f"{str(stopped).capitalize()}. Everything you chose is kept.")
            shown = gr.update(visible=session.finished)
            yield self._panel(busy=False, status=note, live=ready, result=shown)
        except Exception:
            shown = gr.update(visible=session.finished)
            yield self._panel(busy=False, status="", live=ready, result=shown)
            raise
        finally:
            job.cancel()  # a closed browser ends here too, and nobody waits for its video

    def _new_job(
        self, session: Session, draft: SceneDraft, *, seed: float, steps: float, guidance: float
    ) -> GenerationJob:
        """Check everything that can be checked without the model, then join the line."""
        for label, number in (("seed", seed), ("steps", steps), ("guidance", guidance)):
            if number is None:
                raise RequestError(f"the {label} is empty; fill in a number")
        entries = request_entries(draft, seed=int(seed), steps=int(steps), guidance=float(guidance))
        request_file = parse_request(entries)

        def make_request(engine: MotionEngine | None) -> GenerationRequest:
            return build_request(
                request_file,
                geometry=self.host.geometry(),
                library=self.host.library,
                base=None if engine is None else engine.fingerprint,
                limits=self.host.settings.limits,
            )

        make_request(None)  # a mistake is told at once, not when its turn comes
        with session.lock:
            if session.job is not None and session.job.running:
                raise RequestError("a video is being made already; wait for it, or cancel it")
            if len(self.host.lock) >= self.host.settings.limits.jobs:
                raise RequestError("too many videos are waiting already; try again in a while")
            session.job = GenerationJob(
                make_request, wait_for_engine=self.host.wait_for_engine, lock=self.host.lock
            )
        return session.job.start()

    def _panel(
        self,
        *,
        busy: bool,
        status: Any = None,
        live: Any = None,
        result: Any = None,
        files: Sequence[Any] = (),
        banner: Any = None,
    ) -> list[Any]:
        """One update for each output; None leaves it as it is."""
        skipped = gr.skip()
        return [
            gr.update(interactive=not busy),
            gr.update(visible=True) if busy else gr.update(visible=False, **CANCEL_READY),
            skipped if status is None else status,
            skipped if live is None else live,
            skipped if result is None else result,
            *(files or [skipped] * 4),
            skipped if banner is None else banner,
        ]

    def _live(self, report: StepReport, draft: SceneDraft) -> str:
        """A step's picture of the video to be, with the masks the next step will use."""
        engine = self.host.engine()
        slots = [item.slot for item in draft.objects]
        frames = preview_frames(engine.preview(report.latents), report.masks, slots)
        seconds = engine.geometry.frames / engine.geometry.fps
        alt = f"Preview after step {report.step} of {report.steps}, with the current masks"
        return (
            f'<figure class="live"><img src="{animation_uri(frames, len(frames) / seconds)}"'
            f' alt="{html.escape(alt)}"><figcaption>rough preview</figcaption></figure>'
        )

    def _finished(
        self, session: Session, job: GenerationJob, video: GeneratedVideo, draft: SceneDraft
    ) -> list[Any]:
        files = save_result(
            video, new_result_folder(self.folder), export=self.host.defaults().export
        )
        self.host.record(
            job.seconds,
            steps=video.recipe["steps"],
            objects=len(draft.objects),
            step_seconds=job.step_seconds,
        )
        session.finished = True
        slots = [item.slot for item in draft.objects]
        # Without a motion the stock model ran, which knows of no masks after the first frame.
        moving = any(item.motion is not None for item in draft.objects)
        recipe = video.recipe
        note = note_html(
            f"Done in {in_words(job.seconds)}: seed {recipe['seed']}, {recipe['steps']} steps, "
            f"guidance {recipe['guidance']:g}."
        )
        return self._panel(
            busy=False,
            status=note,
            live="",
            result=gr.update(visible=True),
            files=[
                str(files.video),
                gr.update(visible=moving),
                mask_sheet(video.frames, video.masks, slots),
                gr.update(value=str(files.recipe)),
            ],
            banner=host_banner(self.host),
        )
