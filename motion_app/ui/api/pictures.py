"""The endpoints about the model, a picture, and a finished video."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, astuple
from typing import Any

import gradio as gr

from motion_app.errors import MediaError, RequestError
from motion_app.evaluation.catalogue import default_ids
from motion_app.evaluation.videos import EvaluationItem
from motion_app.host import ModelHost
from motion_app.jobs import kinds
from motion_app.media.files import encode_data_uri, read_image
from motion_app.media.provenance import verify_video
from motion_app.media.sandbox import memory_for_files
from motion_app.scene import Box, Click
from motion_app.ui.api.files import File, Json, received
from motion_app.ui.visitor import client_user

BYTES_PER_PIXEL = 40  # that a click on a whole picture takes: it as numbers, three masks as scores
MOST_WORDS, LONGEST_WORD = 16, 80


class PictureEndpoints:
    """What is answered at once."""

    def __init__(self, host: ModelHost) -> None:
        self.host = host
        self.limits = host.settings.limits

    def model(self) -> Json:
        """The loaded model: its state, its sizes, its own settings and what may be brought to it.

        Returns:
            {"state": "loading" | "ready" | "failed", "name", "device", "message", "width" and
            "height" of a video in pixels, "frames" of a video, "fps": frames a second,
            "with_picture" and "without_picture": whether it makes videos that begin with one, and
            from words alone, "text_tokens": the most of a prompt, "steps" and "guidance" where a
            request names none, "limits", "profile", "memory": what it is estimated to take, in GB,
            null until its files are there, "stock": the models of others that a request may name,
            each with title, licence, and what it makes where nothing else is asked}
        """
        status, geometry = self.host.status(), self.host.geometry()
        defaults = self.host.defaults()
        return {
            "state": status.state,
            "name": status.name,
            "device": status.device,
            "message": status.message,
            "width": geometry.width,
            "height": geometry.height,
            "frames": geometry.frames,
            "fps": geometry.fps,
            "with_picture": geometry.with_picture,
            "without_picture": geometry.without_picture,
            "text_tokens": geometry.text_tokens,
            "steps": defaults.steps,
            "guidance": defaults.guidance,
            "limits": self.limits.model_dump(),
            "profile": status.profile,
            "memory": None if status.memory is None else status.memory.to_json(),
            "stock": {name: asdict(model) for name, model in self.host.stock().items()},
        }

    def segment(
        self,
        image: File,
        points: list[list[float]] | None = None,
        box: list[float] | None = None,
    ) -> Json:
        """Mask one object of a picture by clicks, by a box, or by both.

        Args:
            image: the picture, as an upload or a data: URI
            points: [[x, y, 1 or 0], ...] in pixels of the picture from its upper left corner; 1 on
                the object, 0 beside it
            box: [x0, y0, x1, y1] in pixels of the picture from its upper left corner, around the
                object

        Returns:
            {"mask": PNG as a data: URI at the picture's size, "score": 0 to 1, how sure the model
            is, "seconds": how long it took, "candidates": [{"mask", "score"}, ...], the three
            readings, best first}
        """
        clicks = [_click(point) for point in points or ()]
        edges = None if box is None else Box(*_numbers(box, 4, "box"))
        file = received(image, most_megabytes=self.limits.image_megabytes)
        picture = read_image(file, limits=self.limits)
        segmenter = self.host.segmenter()
        height, width = picture.shape[:2]
        with memory_for_files(self.limits, "clicks").claim(height * width * BYTES_PER_PIXEL):
            found = segmenter.segment(picture, clicks, edges)
        order = found.scores.argsort()[::-1]
        return {
            "mask": encode_data_uri(found.mask),
            "score": round(float(found.score), 4),
            "seconds": round(found.seconds, 3),
            "candidates": [
                {
                    "mask": encode_data_uri(found.masks[index]),
                    "score": round(float(found.scores[index]), 4),
                }
                for index in order
            ],
        }

    def find(self, image: File, words: list[str], threshold: float = 0.3) -> Json:
        """Find things of a picture by words. Their boxes can be given to ``segment``.

        Args:
            image: the picture, as an upload or a data: URI
            words: what to look for, for example ["red robot", "fox"]; at most 16, each of at most
                80 characters
            threshold: how sure it must be, 0 to 1

        Returns:
            {"objects": [{"words", "score": 0 to 1, "box": [x0, y0, x1, y1] in pixels of the picture
            from its upper left corner, "mask": PNG as a data: URI at the picture's size, or null
            where the model gives none}, ...], "seconds": how long it took}, the surest first
        """
        if len(words) > MOST_WORDS or any(len(word) > LONGEST_WORD for word in words):
            raise RequestError(
                f"at most {MOST_WORDS} words of {LONGEST_WORD} letters can be looked for at a time"
            )
        if not 0 <= threshold <= 1:
            raise RequestError(f"the threshold is {threshold:g}; it lies between 0 and 1")
        finder = self.host.finder()
        file = received(image, most_megabytes=self.limits.image_megabytes)
        picture = read_image(file, limits=self.limits)
        started = time.monotonic()
        found = finder.find(picture, words, threshold=threshold)
        return {
            "objects": [
                {
                    "words": item.words,
                    "score": round(item.score, 4),
                    "box": [round(side, 1) for side in astuple(item.box)],
                    "mask": None if item.mask is None else encode_data_uri(item.mask),
                }
                for item in found
            ],
            "seconds": round(time.monotonic() - started, 3),
        }

    def verify(self, video: File) -> Json:
        """What a video says of its own making: the invisible mark, the metadata, the recipe.

        Args:
            video: the file, as an upload or a data: URI

        Returns:
            {"z": evidence of the mark in standard deviations, "detected", "payload",
            "payload_fits", "tagged", "recipe", "c2pa", "signer"}
        """
        file = received(video, most_megabytes=self.limits.clip_megabytes)
        return verify_video(file, limits=self.limits).to_json()

    def evaluate(
        self,
        video: File,
        request: Json | None = None,
        references: list[File] | None = None,
        metrics: list[str] | None = None,
        http: gr.Request | None = None,
    ) -> Json:
        """Score one video. It is scored as it comes; a job's own video is scored without loss by
        the page and the command line, which have its frames.

        Args:
            video: the file, as an upload or a data: URI
            request: the REQUEST or recipe it was made from, complete in itself
            references: one clip for each object, in the request's order
            metrics: their ids; without it all that can be measured here

        Returns:
            {"rows": a measurement each, "averages": by method and metric, "sources", "notes"}
        """
        judges = self.host.models.judges(device="cpu")  # a GPU belongs to the job in its turn
        ids = metrics or default_ids(judges.store)
        megabytes = self.limits.clip_megabytes
        clips = [received(clip, most_megabytes=megabytes) for clip in references or ()]
        item = EvaluationItem(
            name="video",
            method=str((request or {}).get("method", "video")),
            video=received(video, most_megabytes=megabytes),
            request=request,
            references=tuple(clips),
        )
        scores = kinds.evaluate(
            item,
            ids,
            judges,
            library=self.host.library.seen_by(client_user(http, self.host.settings)),
            limits=self.limits,
            mark_at=self.host.mark_at,
        )
        (source,) = scores.report.sources
        if source.problem:
            raise MediaError(f"the video cannot be scored: {source.problem}")
        return scores.report.to_json()


def _click(point: Sequence[float]) -> Click:
    x, y, label = _numbers(point, 3, "point")
    if label not in (0, 1):
        raise RequestError(f"a point ends in 1 (on the object) or 0 (beside it), got {label:g}")
    return Click(x, y, positive=label == 1)


def _numbers(values: Any, count: int, name: str) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or any(number != number for number in numbers):
        raise RequestError(f"a {name} needs {count} numbers, got {str(values)[:60]}")
    return numbers
