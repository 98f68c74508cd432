"""Requests for the pictures that are shipped."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from PIL import Image

from motion_app.media.files import encode_data_uri
from motion_app.settings import ROOT

EXAMPLE = sorted((ROOT / "assets" / "examples").glob("*.png"))[0]


def request_of(motion: str, seed: int, *, steps: int) -> dict[str, Any]:
    notes = json.loads(EXAMPLE.with_suffix(".json").read_text())["objects"][0]
    picture = np.asarray(Image.open(EXAMPLE).convert("RGB"))
    mask = np.zeros(picture.shape[:2], bool)
    x0, y0, x1, y1 = (int(side) for side in notes["box"])
    mask[y0:y1, x0:x1] = True
    item = {
        "mask": encode_data_uri(mask),
        "sentence": f"A {notes['noun']} is moving.",
        "phrase": "is moving",
        "motion": motion,
    }
    image = encode_data_uri(picture)
    return {"image": image, "objects": [item], "seed": seed, "steps": steps}
