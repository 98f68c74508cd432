"""Signed provenance by C2PA: who says that this video was generated, and that it was not changed.

Optional: the package c2pa-python comes with the extra ``c2pa``. The signature is metadata: any
re-encoding, and most copying between containers, removes it, which the watermark outlives.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from motion_app.errors import MediaError, MotionAppError
from motion_app.sandbox import decode
from motion_app.settings import DEFAULT_LIMITS, Limits, Settings

C2PA_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")  # its extended type in MP4
# The kind of source in IPTC's list that means "made by a trained model".
TRAINED_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
MANIFEST_BYTES = 8 * 2**20


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
            "motion_app.signing:decode_manifest", path, {}, name=path.name, limits=limits
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
