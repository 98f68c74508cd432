"""Videos that come with the app, to look at before the first one of one's own, and to take over:
``NAME.json``, the recipe, with the small moving ``NAME.webp`` beside it."""

from __future__ import annotations

import base64
import html
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from motion_app.assignment import parse_request
from motion_app.errors import MotionAppError
from motion_app.leftovers import listed
from motion_app.ui.gallery import title_of
from motion_app.ui.overlay import picture_uri
from motion_app.ui.texts import Texts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShippedResult:
    """``recipe``: its file; ``moving`` and ``still`` are ``data:`` addresses."""

    name: str
    title: str
    recipe: Path
    moving: str
    still: str


def shipped_results(folder: Path, *, model: str, texts: Texts) -> tuple[ShippedResult, ...]:
    """Those of ``folder`` that ``model`` made; broken ones are logged and left out."""
    found = []
    for file in listed(folder, "*.json"):
        try:
            recipe = json.loads(file.read_text(encoding="utf-8"))
            if recipe["model"] != model:
                continue
            moving = file.with_suffix(".webp")
            with Image.open(moving) as picture:
                still = picture_uri(np.asarray(picture.convert("RGB")))
            address = base64.b64encode(moving.read_bytes()).decode("ascii")
            title = title_of(parse_request(recipe["request"]), texts)
        except (OSError, ValueError, KeyError, TypeError, MotionAppError) as error:
            logger.warning("result left out: %s: %s", file.name, error)
            continue
        moving_uri = f"data:image/webp;base64,{address}"
        found.append(ShippedResult(file.stem, title, file, moving_uri, still))
    return tuple(found)


def showcase_html(results: Sequence[ShippedResult], texts: Texts) -> str:
    """A card for each; "" without one."""
    if not results:
        return ""
    cards = "".join(_card(result, texts) for result in results)
    return (
        f'<section class="showcase"><h3 class="motions-sub">{texts("video.showcase")}</h3>'
        f'<p class="quiet">{texts("video.showcase_help")}</p>'
        f'<ul class="showcase-list" aria-label="{texts("video.showcase")}">{cards}</ul></section>'
    )


def _card(result: ShippedResult, texts: Texts) -> str:
    title = html.escape(result.title)
    label = texts("video.take_over")
    return (
        f'<li class="showcase-card"><picture>'
        f'<source media="(prefers-reduced-motion: reduce)" srcset="{result.still}">'
        f'<img class="showcase-picture" src="{result.moving}" alt=""></picture>'
        f'<p class="showcase-title" title="{title}">{title}</p>'
        f'<button type="button" class="plain" data-act="take_over"'
        f' data-name="{html.escape(result.name)}" aria-label="{label}: {title}">{label}</button>'
        "</li>"
    )
