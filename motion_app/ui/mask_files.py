"""Masks as files to take away."""

from __future__ import annotations

import base64
import io
import re
import zipfile

from motion_app.errors import RequestError
from motion_app.media import decode_data_uri, encode_data_uri
from motion_app.ui.drafts import SceneDraft


def mask_file(draft: SceneDraft) -> tuple[str, str]:
    """(file name, ``data:`` address) of the selected object's mask: a PNG at the size of the model
    frame, white on black. RequestError where no object is selected."""
    if draft.selected is None:
        raise RequestError("no object is selected; press “Refine” on one first")
    return _name(draft, draft.selected), encode_data_uri(draft.objects[draft.selected].mask)


def masks_file(draft: SceneDraft) -> tuple[str, str]:
    """The same of all objects' masks in a zip; RequestError where there is none."""
    if not draft.objects:
        raise RequestError("nothing is marked yet; click on an object in the picture first")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for index, item in enumerate(draft.objects):
            archive.writestr(_name(draft, index), decode_data_uri(encode_data_uri(item.mask)))
    body = base64.b64encode(file.getvalue()).decode("ascii")
    return "masks.zip", f"data:application/zip;base64,{body}"


def _name(draft: SceneDraft, index: int) -> str:
    """mask-2-red-robot.png"""
    words = re.findall(r"\w+", draft.objects[index].name.lower())
    return "-".join(["mask", str(index + 1), *words]) + ".png"
