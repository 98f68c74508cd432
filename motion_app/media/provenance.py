"""How a generated video leaves, and what can be read back from one: watermark, tag, recipe, C2PA.

``export_video`` and ``export_gif`` are the only ways out, so that nothing leaves unmarked. The
recipe travels in the MP4 tag "synopsis" (its long description, which remuxing keeps), as JSON,
deflated, in base64, behind a prefix that names the form.

Signed provenance by C2PA: who says that this video was generated, and that it was not changed.

Optional: the package c2pa-python comes with the extra ``c2pa``. The signature is metadata: any
re-encoding, and most copying between containers, removes it, which the watermark outlives.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from motion_app.errors import MediaError, MotionAppError, RequestError
from motion_app.media.files import encode_video, read_clip, upscale, write_gif
from motion_app.media.sandbox import decode
from motion_app.media.watermark import detect, draw_badge, embed, payload_of
from motion_app.settings import DEFAULT_LIMITS, Limits, Settings
from motion_app.text_files import decoded, parsed_json

GENERATED_COMMENT = "AI-generated video (motion transfer)"
GENERATED = "AI-generated"  # the words that make a comment such a tag
RECIPE_TAG = "synopsis"
RECIPE_PREFIX = "motion-app recipe 1 zlib base64:"
RECIPE_BYTES = 32 * 2**20  # of JSON
GIF_WIDTH = 480  # pixels at most
VERIFY_FPS, VERIFY_SIDE = 8.0, 480  # the mark is the same in every frame
VIDEO_STARTS = ((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (0, b"GIF8"))
C2PA_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")  # its extended type in MP4
# The kind of source in IPTC's list that means "made by a trained model".
TRAINED_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
MANIFEST_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Verification:
    """What a video says of its own making.

    ``detected``: the invisible mark is there, with evidence ``z`` in standard deviations and
    ``payload``, which stands for the recipe it was made with; ``payload_fits``: that is the recipe
    ``recipe`` says is inside (None where one of the two is missing). ``tagged``: the metadata says
    "AI-generated". ``c2pa`` and ``signer``: see ``media.provenance.Signature``.
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
        "motion_app.media.decoders.clips:decode_tags", path, options, name=path.name, limits=limits
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


@dataclass(frozen=True)
class Certificate:
    """``chain``: PEM file with the signer's certificate first; ``key``: PEM file with its private
    key, without a password."""

    chain: Path
    key: Path


@dataclass(frozen=True)
class Signature:
    """``state``: "absent", "valid" (it fits the file, whoever ``signer`` is), "invalid", or
    "unchecked" where c2pa-python is not installed."""

    state: str
    signer: str | None = None


def certificate_of(settings: Settings) -> Certificate | None:
    """The certificate the settings name; MotionAppError where one half of it is missing."""
    chain, key = settings.c2pa_certificate, settings.c2pa_key
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise MotionAppError(
            "signing needs both settings, c2pa_certificate and c2pa_key; one of them is missing"
        )
    return Certificate(chain, key)


def sign(path: Path, certificate: Certificate) -> None:
    """Sign the video at ``path``, replacing it. MotionAppError without c2pa-python, and for a
    certificate or key that cannot be used."""
    if find_spec("c2pa") is None:
        raise MotionAppError(
            'signing needs c2pa-python, which is not installed; pip install "motion-app[c2pa]", '
            "or leave c2pa_certificate unset"
        )
    import c2pa

    try:
        chain, key = certificate.chain.read_bytes(), certificate.key.read_bytes()
    except OSError as error:
        raise MotionAppError(
            f"the certificate cannot be read: {Path(error.filename).name}: {error.strerror}"
        ) from error
    info = c2pa.C2paSignerInfo(_algorithm(key), chain, key, None)  # no time-stamping service
    signed = path.with_suffix(".signed.mp4")
    try:
        with (
            c2pa.Context(c2pa.Settings.from_dict(OFFLINE)) as context,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(_manifest(), context=context) as builder,
        ):
            builder.sign_file(path, signed, signer)
        signed.replace(path)
    except c2pa.C2paError as error:
        raise MotionAppError(
            f"the video cannot be signed with {certificate.chain.name}: {error}"
        ) from error
    finally:
        signed.unlink(missing_ok=True)


def _algorithm(key: bytes) -> str:
    """C2PA's name for how a private key signs."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise MotionAppError(
            f"c2pa_key is no private key in PEM without a password: {error}"
        ) from error
    if isinstance(private, ec.EllipticCurvePrivateKey):
        curves = {256: "es256", 384: "es384", 521: "es512"}
        return curves[private.curve.key_size]
    if isinstance(private, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise MotionAppError("c2pa_key is of a kind C2PA does not know; use P-256, Ed25519 or RSA")


def _manifest() -> str:
    created = {"action": "c2pa.created", "digitalSourceType": TRAINED_MODEL}
    return json.dumps(
        {
            "claim_generator_info": [{"name": "motion-app"}],
            "title": "AI-generated video",
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
        }
    )


def read_signature(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> Signature:
    """What the C2PA manifest inside a video says of itself, checked in a guarded child process."""
    if not _has_manifest(path):
        return Signature("absent")
    if find_spec("c2pa") is None:
        return Signature("unchecked")
    try:
        facts = decode(
            "motion_app.media.provenance:decode_manifest", path, {}, name=path.name, limits=limits
        ).facts
    except MediaError:  # a manifest that the reader cannot read is no signature
        return Signature("invalid")
    return Signature(facts["state"], facts["signer"])


def decode_manifest(source: Path) -> Iterator[Mapping[str, Any]]:
    """The facts ``state`` and ``signer`` of a video's manifest; runs in the child process."""
    import c2pa

    try:
        with (
            source.open("rb") as file,
            c2pa.Context(c2pa.Settings.from_dict(OFFLINE)) as context,
            c2pa.Reader("video/mp4", file, context=context) as reader,
        ):
            fits = reader.get_validation_state() in ("Valid", "Trusted")
            signature = (reader.get_active_manifest() or {}).get("signature_info", {})
    except c2pa.C2paError as error:
        raise MediaError(f"{source.name} has a damaged C2PA manifest: {error}") from error
    signer = signature.get("common_name") or signature.get("issuer")
    yield {"state": "valid" if fits else "invalid", "signer": signer}


def _has_manifest(path: Path) -> bool:
    """Whether one of the file's outermost MP4 boxes is C2PA's. Nothing inside is read."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        place = 0
        while place + 24 <= end:
            file.seek(place)
            size, kind = struct.unpack(">I4s", file.read(8))
            head = 8
            if size == 1:
                size, head = struct.unpack(">Q", file.read(8))[0], 16
            if kind == b"uuid" and file.read(16) == C2PA_BOX:
                return True
            if size < head:  # 0: to the end of the file; less: damaged
                return False
            place += size
    return False
