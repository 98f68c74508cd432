"""How a generated video leaves, and what can be read back from one: watermark, tag, recipe, C2PA.

``export_video`` and ``export_gif`` are the only ways out, so that nothing leaves unmarked. The
recipe travels in the MP4 tag "synopsis" (its long description, which remuxing keeps), as JSON,
deflated, in base64, behind a prefix that names the form.
"""

from __future__ import annotations

import base64
import binascii
import json
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from motion_app.errors import MediaError, RequestError
from motion_app.sandbox import decode
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.signing import Certificate, Signature, read_signature, sign
from motion_app.text_files import decoded, parsed_json
from motion_app.video import encode_video, read_clip, upscale, write_gif
from motion_app.watermark import detect, draw_badge, embed, payload_of

GENERATED_COMMENT = "AI-generated video (motion transfer)"
GENERATED = "AI-generated"  # the words that make a comment such a tag
RECIPE_TAG = "synopsis"
RECIPE_PREFIX = "motion-app recipe 1 zlib base64:"
RECIPE_BYTES = 32 * 2**20  # of JSON
GIF_WIDTH = 480  # pixels at most
VERIFY_FPS, VERIFY_SIDE = 8.0, 480  # the mark is the same in every frame
VIDEO_STARTS = ((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (0, b"GIF8"))


@dataclass(frozen=True)
class Verification:
    """What a video says of its own making.

    ``detected``: the invisible mark is there, with evidence ``z`` in standard deviations and
    ``payload``, which stands for the recipe it was made with; ``payload_fits``: that is the recipe
    ``recipe`` says is inside (None where one of the two is missing). ``tagged``: the metadata says
    "AI-generated". ``c2pa`` and ``signer``: see ``signing.Signature``.
    """

    z: float
    detected: bool
    payload: int | None
    payload_fits: bool | None
    tagged: bool
    recipe: bool
    c2pa: str
    signer: str | None

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON, z to two places."""
        return {**asdict(self), "z": round(self.z, 2)}


def export_video(
    path: Path | str,
    frames: np.ndarray,
    fps: float,
    *,
    recipe: Mapping[str, Any] | None,
    size: tuple[int, int] | None = None,
    badge: bool = False,
    certificate: Certificate | None = None,
) -> None:
    """Write generated ``frames`` (T, H, W, 3) uint8 as an MP4 that says what it is.

    Upscaled to ``size`` (width, height), watermarked, tagged "AI-generated", with ``recipe`` (JSON)
    inside; ``badge`` draws the words into a corner; ``certificate`` signs the file last. MediaError
    for an odd size, MotionAppError for a certificate that cannot be used.
    """
    tags = {"comment": GENERATED_COMMENT}
    if recipe is not None:
        tags[RECIPE_TAG] = _packed(recipe)
    encode_video(path, _marked(frames, size, recipe, badge), fps, tags=tags)
    if certificate is not None:
        sign(Path(path), certificate)


def export_gif(
    path: Path | str,
    frames: np.ndarray,
    fps: float,
    *,
    recipe: Mapping[str, Any] | None,
    size: tuple[int, int] | None = None,
    badge: bool = False,
) -> None:
    """The same as a looping GIF at most 480 pixels wide, marked and commented; without a recipe
    inside."""
    height, width = frames.shape[1:3]
    width, height = size or (width, height)
    scale = min(1.0, GIF_WIDTH / width)
    size = (round(width * scale), round(height * scale))
    write_gif(path, _marked(frames, size, recipe, badge), fps, comment=GENERATED_COMMENT)


def _marked(
    frames: np.ndarray,
    size: tuple[int, int] | None,
    recipe: Mapping[str, Any] | None,
    badge: bool,
) -> np.ndarray:
    if size is not None:
        frames = upscale(frames, *size)
    if badge:
        frames = draw_badge(frames)
    return embed(frames, _payload(recipe))


def _payload(recipe: Mapping[str, Any] | None) -> int:
    """The payload for a recipe, whatever the order of its keys; 0 without one."""
    return 0 if recipe is None else payload_of(json.dumps(recipe, sort_keys=True).encode())


def _packed(recipe: Mapping[str, Any]) -> str:
    plain = json.dumps(recipe, ensure_ascii=False, separators=(",", ":")).encode()
    if len(plain) > RECIPE_BYTES:
        raise RequestError(
            f"the recipe has {len(plain) / 2**20:.0f} MB; at most {RECIPE_BYTES >> 20} MB fit "
            "into a video; use a smaller picture"
        )
    return RECIPE_PREFIX + base64.b64encode(zlib.compress(plain, 9)).decode("ascii")


def _unpacked(text: str, name: str) -> dict[str, Any]:
    try:
        packed = base64.b64decode(text.removeprefix(RECIPE_PREFIX), validate=True)
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(packed, RECIPE_BYTES)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise MediaError(
            f"the recipe inside {name} is damaged: {error}; use the recipe.json"
        ) from error
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise MediaError(f"the recipe inside {name} is damaged or too long; use the recipe.json")
    return _parsed(plain, name)


def _parsed(plain: bytes, name: str) -> dict[str, Any]:
    try:
        recipe = parsed_json(decoded(plain, "it"), "it")
    except RequestError as error:
        raise RequestError(f"{name} is neither a video nor a recipe in JSON: {error}") from error
    if not isinstance(recipe, dict):
        raise RequestError(f"a recipe is one JSON object, got {type(recipe).__name__} in {name}")
    return recipe


def read_recipe(source: Path | str | bytes, *, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """The recipe in a JSON file, or inside a video made here; ``source`` a path or a file's bytes.

    MediaError for a video that carries none, or a damaged one, and for a file that cannot be read
    or is too large; RequestError for what is no JSON object.
    """
    if isinstance(source, bytes):
        if not _is_video(source[:16]):
            return _parsed_within(source, "the recipe")
        if len(source) > limits.clip_megabytes * 2**20:
            raise MediaError(
                f"the video has {len(source) / 2**20:.0f} MB; "
                f"at most {limits.clip_megabytes:g} MB are allowed"
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video"
            path.write_bytes(source)
            return read_recipe(path, limits=limits)
    path = Path(source)
    try:
        with path.open("rb") as file:
            start = file.read(16)
            if not _is_video(start):
                return _parsed_within(start + file.read(RECIPE_BYTES), path.name)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MediaError(f"{path.name} cannot be read: {reason}") from error
    packed = _tags(path, limits).get(RECIPE_TAG, "")
    if not packed.startswith(RECIPE_PREFIX):
        raise MediaError(
            f"{path.name} carries no recipe; only videos made here do, as they were downloaded: "
            "use the recipe.json saved beside it"
        )
    return _unpacked(packed, path.name)


def _is_video(start: bytes) -> bool:
    return any(start[place : place + len(magic)] == magic for place, magic in VIDEO_STARTS)


def _parsed_within(plain: bytes, name: str) -> dict[str, Any]:
    if len(plain) > RECIPE_BYTES:
        raise MediaError(f"{name} has more than {RECIPE_BYTES >> 20} MB; that is no recipe")
    return _parsed(plain, name)


def _tags(path: Path, limits: Limits) -> dict[str, str]:
    """The container's tags, read in a child process, their names in lower case."""
    options = {"limits": limits.model_dump()}
    decoded = decode(
        "motion_app.decoding.clips:decode_tags", path, options, name=path.name, limits=limits
    )
    return {key.lower(): value for key, value in decoded.facts["tags"].items()}


def verify_video(path: Path | str, *, limits: Limits = DEFAULT_LIMITS) -> Verification:
    """Look for every mark ``export_video`` leaves. MediaError for a file that is no video; a video
    without marks, or with broken ones, is no error."""
    path = Path(path)
    clip = read_clip(path, fps=VERIFY_FPS, short_side=VERIFY_SIDE, limits=limits)
    mark = detect(clip.frames)
    tags = _tags(path, limits)
    recipe = None
    if tags.get(RECIPE_TAG, "").startswith(RECIPE_PREFIX):
        try:
            recipe = _unpacked(tags[RECIPE_TAG], path.name)
        except (MediaError, RequestError):
            recipe = None
    known = recipe is not None and mark.payload is not None
    signature: Signature = read_signature(path, limits=limits)
    return Verification(
        z=mark.z,
        detected=mark.detected,
        payload=mark.payload,
        payload_fits=mark.payload == _payload(recipe) if known else None,
        tagged=GENERATED.lower() in tags.get("comment", "").lower(),
        recipe=recipe is not None,
        c2pa=signature.state,
        signer=signature.signer,
    )
