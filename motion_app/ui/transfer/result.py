"""A finished video as the page shows it: large, beside what moves how in it, its facts and files.

A finished job and its files, as the page reads them.

A finished video with the masks of its objects drawn over it: as a second video, made when first
asked for, and as a sheet of pictures.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from motion_app.errors import RequestError
from motion_app.geometry import ExportSize, grid_to_mask
from motion_app.jobs.folder import JobRow
from motion_app.media.files import upscale
from motion_app.media.provenance import export_video, read_recipe
from motion_app.scene import Motion
from motion_app.text_files import write_whole
from motion_app.ui.markup import Texts, icon, in_words, note_html, script
from motion_app.ui.pictures import (
    Previews,
    css_colour,
    draw_objects,
    enlarge_masks,
    ink_on,
    mask_sheet,
)
from motion_app.ui.transfer.compare import method_words

DOWNLOADS = ("video", "gif", "masks_zip", "recipe", "frames")  # keys of a job's outcome
SHEET_FILE = "masks-sheet.png"
OVERLAY_FILE = "video-with-masks.mp4"


class ResultPanel:
    """The components; build it inside ``gr.Blocks``. Hidden until there is a result. ``motion_of``:
    a motion of the library by its name, None where it has gone."""

    def __init__(
        self, texts: Texts, previews: Previews, motion_of: Callable[[str], Motion | None]
    ) -> None:
        self.texts, self.previews, self.motion_of = texts, previews, motion_of
        with gr.Column(visible=False, elem_id="result") as self.box:
            gr.HTML(f"<h2>{texts('video.result')}</h2>", apply_default_css=False)
            with gr.Row(elem_classes="result-main"):
                with gr.Column(elem_classes="result-film", min_width=280):
                    self._build_film()
                with gr.Column(elem_classes="result-side", min_width=280):
                    self._build_side()
            with gr.Accordion(texts("video.sheet"), open=False, elem_id="tracks") as self.tracks:
                gr.HTML(note_html(texts("video.sheet_note")), apply_default_css=False)
                self.sheet = gr.Image(
                    label=texts("video.sheet"),
                    show_label=False,
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id="sheet",
                    alt_text=texts("video.sheet_alt"),
                )

    def _build_film(self) -> None:
        self.player = gr.Video(
            label=self.texts("video.finished"),
            show_label=False,
            autoplay=False,  # arrive.js plays it, where that is wanted
            loop=True,
            elem_id="video",
            buttons=[],
        )
        self.overlay = gr.Checkbox(
            value=False, label=self.texts("video.overlay"), container=False, elem_id="overlay"
        )

    def _build_side(self) -> None:
        texts = self.texts
        self.references = gr.HTML(apply_default_css=False, elem_id="references")
        self.facts = gr.HTML(
            js_on_load=script("arrive", "facts"), apply_default_css=False, elem_id="facts"
        )
        with gr.Row(elem_classes="downloads"):
            self.downloads = [
                gr.DownloadButton(
                    texts(f"video.download_{key}"),
                    size="sm",
                    min_width=84,
                    elem_id=key.replace("_", "-") if key != "video" else "mp4",
                )
                for key in DOWNLOADS
            ]
        self.again = gr.Button(texts("video.use_again"), size="sm", elem_id="use-again")

    @property
    def outputs(self) -> list[Any]:
        """What ``updates``, ``kept`` and ``hidden`` update."""
        return [
            *(self.box, self.player, self.overlay, self.references, self.facts),
            *self.downloads,
            *(self.tracks, self.sheet),
        ]

    def kept(self) -> list[Any]:
        """Nothing changes."""
        return [gr.skip()] * len(self.outputs)

    def hidden(self) -> list[Any]:
        return [gr.update(visible=False), *[gr.skip()] * (len(self.outputs) - 1)]

    def updates(self, result: Result, *, arrives: bool = False) -> list[Any]:
        """``result`` on show; one that ``arrives`` was waited for and comes into view.
        RequestError where its files have gone."""
        recipe = read_recipe(result.file("recipe"))
        sheet = str(result.sheet()) if result.moving else None
        return [
            gr.update(visible=True),
            str(result.video),
            gr.update(value=False, visible=result.moving),
            references_html(result.row, self.motion_of, self.previews, self.texts),
            facts_html(result.row, str(recipe.get("model", "")), self.texts, arrives=arrives),
            *(str(result.file(key)) for key in DOWNLOADS),
            gr.update(visible=result.moving),
            sheet,
        ]


def references_html(
    row: JobRow, motion_of: Callable[[str], Motion | None], previews: Previews, texts: Texts
) -> str:
    """What each object of a video was to move like: the clip of its motion in the object's colour,
    its number and its words."""
    cards = "".join(
        _reference_card(number, item, slot, motion_of, previews, texts)
        for number, (item, slot) in enumerate(
            zip(row.inputs["request"]["objects"], slots_of(row), strict=True), start=1
        )
    )
    title = html.escape(texts("video.references"))
    return f'<h3 class="motions-sub">{title}</h3><ul class="references">{cards}</ul>'


def _reference_card(
    number: int,
    item: Mapping[str, Any],
    slot: int,
    motion_of: Callable[[str], Motion | None],
    previews: Previews,
    texts: Texts,
) -> str:
    name = html.escape(item.get("name") or texts("video.object", n=number))
    asked = item.get("motion")
    motion = motion_of(asked) if asked else None
    clip = "" if motion is None else previews.motion(motion)
    picture = '<span class="preview preview-none" aria-hidden="true">–</span>'
    if clip:
        still = previews.motion(motion, still=True)
        picture = (
            '<picture class="preview"><source media="(prefers-reduced-motion: reduce)"'
            f' srcset="{still}"><img src="{clip}" alt=""></picture>'
        )
    if item.get("path"):
        picture = f'<span class="preview preview-none" aria-hidden="true">{icon("path")}</span>'
        words = texts("transfer.path_name")
    elif not asked:
        words = texts("video.no_reference")
    elif motion is None:
        words = f"{asked}: {texts('video.reference_gone')}"
    else:
        words = str(asked)
    paint = f"--colour: {css_colour(slot)}; --ink: {ink_on(slot)}"
    return (
        f'<li class="reference" style="{paint}">{picture}<p><span class="badge">{number}</span>'
        f'<span><b>{name}</b> <span class="quiet">{html.escape(words)}</span></span></p></li>'
    )


def facts_html(row: JobRow, model: str, texts: Texts, *, arrives: bool = False) -> str:
    """What made the video, in words and numbers, with a button that copies the seed."""
    outcome = row.outcome
    seed = str(outcome["seed"])
    copy = (
        f'<button type="button" class="plain" data-copy="{seed}"'
        f' data-done="{texts("video.copied")}">{texts("video.copy_seed")}</button>'
    )
    facts = (
        ("video.seed", f"<b>{seed}</b> {copy}"),
        ("video.method", html.escape(method_words(row, texts))),
        ("video.steps", str(outcome["steps"])),
        ("video.guidance", f"{outcome['guidance']:g}"),
        ("video.took", in_words(outcome["seconds"], texts)),
        ("video.model", html.escape(model)),
    )
    rows = "".join(f"<div><dt>{texts(key)}</dt><dd>{value}</dd></div>" for key, value in facts)
    come = f' data-arrived="{row.id}"' if arrives else ""
    return f'<dl class="facts"{come}>{rows}</dl>'


@dataclass(frozen=True)
class Result:
    """A job that is done, and the ``folder`` where its files lie."""

    row: JobRow
    folder: Path

    @property
    def video(self) -> Path:
        return self.file("video")

    @property
    def slots(self) -> list[int]:
        """The colour slots of its objects."""
        return slots_of(self.row)

    @property
    def moving(self) -> bool:
        """Some object had a motion, and a place. Without a motion the stock model ran, which knows
        of no masks after the first frame, and without a picture nothing was marked."""
        request = self.row.inputs["request"]
        moved = any(item.get("motion") for item in request["objects"])
        return request["image"] is not None and moved and request.get("method") != "none"

    def file(self, key: str) -> Path:
        """One of DOWNLOADS; RequestError where it has been tidied away."""
        path = self.folder / self.row.outcome[key]
        if not path.is_file():
            raise RequestError(
                "the files of this video have been tidied away; run it again with the same seed"
            )
        return path

    def sheet(self) -> Path:
        """The sheet of its masks, drawn once into its folder: it goes with the job."""
        path = self.folder / SHEET_FILE
        if not path.is_file():
            sheet = Image.fromarray(self.frames().sheet(self.slots))
            write_whole(path, lambda part: sheet.save(part, "PNG"), ending=path.suffix)
        return path

    def frames(self) -> SavedFrames:
        return SavedFrames.read(self.file("frames"))


def slots_of(row: JobRow) -> list[int]:
    """The colour slots of a job's objects: those chosen on the page, else in their order."""
    count = len(row.inputs["request"]["objects"])
    return list(row.inputs.get("colours") or range(count))


@dataclass(frozen=True, eq=False)
class SavedFrames:
    """What a result's ``frames.npz`` holds: ``frames`` (T, H, W, 3) uint8 at ``fps``, ``masks``
    (N, F, h, w) bool on the token grid."""

    frames: np.ndarray
    masks: np.ndarray
    fps: float

    @classmethod
    def read(cls, path: Path) -> SavedFrames:
        """RequestError where the file has gone or is damaged."""
        try:
            with np.load(path) as saved:
                return cls(saved["frames"], saved["masks"], float(saved["fps"]))
        except (OSError, ValueError, KeyError) as error:
            raise RequestError(
                "the frames of this video cannot be read any more; make the video again"
            ) from error

    def sheet(self, slots: Sequence[int]) -> np.ndarray:
        """Every token frame's masks as one picture (H', W', 3) uint8."""
        return mask_sheet(self.frames, self.masks, slots)


def masked_frames(saved: SavedFrames, slots: Sequence[int], *, size: tuple[int, int]) -> np.ndarray:
    """The frames at ``size`` (width, height) with each object's mask, colour and number:
    (T, height, width, 3) uint8.

    Latent frame 0 stands for the first frame alone, each later one for the (T − 1) / (F − 1)
    frames up to its own, as in the causal autoencoder.
    """
    count, moments = len(saved.frames), saved.masks.shape[1]
    held = [
        0 if moments == 1 else int(np.ceil(t * (moments - 1) / max(1, count - 1)))
        for t in range(count)
    ]
    full = grid_to_mask(saved.masks, *saved.frames.shape[1:3])  # (N, F, H, W)
    large = upscale(saved.frames, *size)
    smooth = [enlarge_masks(full[:, f], *size) for f in range(moments)]
    return np.stack([draw_objects(large[t], smooth[f], slots) for t, f in enumerate(held)])


class OverlayVideos:
    """Renders the videos with masks, one at a time: two clicks must not write one file."""

    def __init__(self, export: ExportSize | None) -> None:
        self._export = export
        self._lock = threading.Lock()

    def __call__(
        self, folder: Path, outcome: Mapping[str, str], slots: Sequence[int], *, badge: bool
    ) -> Path:
        """The video of a job with its masks, rendered once into the job's ``folder`` and marked as
        generated like the video itself. RequestError where the frames have gone."""
        path = folder / OVERLAY_FILE
        with self._lock:
            if not path.is_file():
                self._render(path, folder, outcome, slots, badge=badge)
        return path

    def _render(
        self,
        path: Path,
        folder: Path,
        outcome: Mapping[str, str],
        slots: Sequence[int],
        *,
        badge: bool,
    ) -> None:
        saved = SavedFrames.read(folder / outcome["frames"])
        recipe = read_recipe(folder / outcome["recipe"])
        height, width = saved.frames.shape[1:3]
        export = self._export
        size = (width, height) if export is None else (export.width, export.height)
        frames = masked_frames(saved, slots, size=size)

        def write(part: Path) -> None:
            export_video(part, frames, saved.fps, recipe=recipe, badge=badge)

        write_whole(path, write, ending=path.suffix)
