"""No generated video leaves unmarked, and what it carries can be read back."""

import datetime
import json
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import av
import cv2
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from motion_app.__main__ import main
from motion_app.errors import MediaError, MotionAppError, RequestError
from motion_app.geometry import ExportSize
from motion_app.media.files import encode_data_uri, read_clip, read_mask, upscale, write_video
from motion_app.media.provenance import (
    Certificate,
    certificate_of,
    export_gif,
    export_video,
    read_recipe,
    verify_video,
)
from motion_app.media.results import save_result
from motion_app.scene import GeneratedVideo
from motion_app.settings import Limits, Settings

MOTIONS = Path(__file__).resolve().parents[2] / "checkpoints" / "pocket" / "motions"
SIZE = (576, 384)


def small_frames() -> np.ndarray:
    """A clip of the pocket at the model's own size, (13, 64, 96, 3) uint8."""
    frames = read_clip(MOTIONS / "jump.mp4").frames
    return np.stack([cv2.resize(f, (96, 64), interpolation=cv2.INTER_AREA) for f in frames])


def recipe_of(seed: int) -> dict:
    """A recipe as large as one of 720×480, which no compression makes smaller."""
    picture = np.random.default_rng(seed).integers(0, 256, (480, 720, 3), dtype=np.uint8)
    return {"seed": seed, "prompt": "Ein Bär 跳 “hüpft”.", "image": encode_data_uri(picture)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "video.mp4"
    export_video(path, small_frames(), 8, recipe=recipe_of(1), size=SIZE)
    return path


def test_an_exported_video_says_in_every_way_that_it_was_generated(exported):
    found = verify_video(exported)
    assert found.detected and found.z > 6
    assert found.payload_fits and found.tagged and found.recipe
    assert (found.c2pa, found.signer) == ("absent", None)
    assert json.loads(json.dumps(found.to_json()))["detected"] is True


def test_an_exported_video_plays_in_browsers_and_keeps_its_colours(exported):
    content = exported.read_bytes()
    assert content.find(b"moov") < content.find(b"mdat")
    with av.open(str(exported)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.codec_context.colorspace == 1 and stream.frames == 13
        assert container.metadata["comment"].startswith("AI-generated")
        assert "synopsis" in container.metadata  # as ffprobe shows it
    frames = read_clip(exported).frames.astype(int)
    assert np.abs(frames - upscale(small_frames(), *SIZE)).mean() < 2


def test_the_recipe_comes_out_of_the_video_as_it_went_in(exported):
    assert read_recipe(exported) == recipe_of(1)
    assert read_recipe(exported.read_bytes()) == recipe_of(1)


def test_the_recipe_outlives_copying_into_another_file(exported, tmp_path):
    copy = tmp_path / "copy.mp4"
    with av.open(str(exported)) as source, av.open(str(copy), "w") as target:
        target.metadata.update(source.metadata)
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert read_recipe(copy) == recipe_of(1)


def test_the_mark_outlives_what_the_tags_do_not(exported, tmp_path):
    clip = read_clip(exported)
    write_video(tmp_path / "again.mp4", clip.frames, clip.fps)
    found = verify_video(tmp_path / "again.mp4")
    assert found.detected and found.payload == verify_video(exported).payload
    assert not (found.tagged or found.recipe) and found.payload_fits is None


def test_a_recipe_of_another_video_is_noticed(tmp_path, exported):
    clip = read_clip(exported)
    export_video(tmp_path / "b.mp4", small_frames()[:4], 8, recipe=recipe_of(2), size=SIZE)
    with av.open(str(tmp_path / "b.mp4")) as container:
        foreign = dict(container.metadata)
    from motion_app.media.files import encode_video

    encode_video(tmp_path / "c.mp4", clip.frames, 8, tags=foreign)
    assert verify_video(tmp_path / "c.mp4").payload_fits is False


def test_a_video_that_was_not_generated_carries_nothing(tmp_path):
    write_video(tmp_path / "a.mp4", upscale(small_frames(), *SIZE), 8)
    found = verify_video(tmp_path / "a.mp4")
    assert abs(found.z) < 4 and found.payload is None
    assert not (found.detected or found.tagged or found.recipe)
    with pytest.raises(MediaError, match=r"a\.mp4 carries no recipe.*recipe\.json"):
        read_recipe(tmp_path / "a.mp4")


def test_the_badge_is_drawn_when_asked_for(tmp_path):
    frames = small_frames()[:3]
    for badge in (False, True):
        export_video(tmp_path / f"{badge}.mp4", frames, 8, recipe=None, size=SIZE, badge=badge)
    plain, badged = (read_clip(tmp_path / f"{badge}.mp4").frames for badge in (False, True))
    changed = np.abs(plain.astype(int) - badged).max(axis=-1) > 60
    assert changed[:, 336:, 440:].mean() > 0.2 and not changed[:, :330].any()


def test_an_odd_size_is_refused(tmp_path):
    with pytest.raises(MediaError, match="47×32"):
        export_video(tmp_path / "a.mp4", np.zeros((2, 32, 47, 3), np.uint8), 8, recipe=None)


def test_a_gif_leaves_marked_small_and_commented(tmp_path):
    export_gif(tmp_path / "a.gif", small_frames(), 8, recipe=recipe_of(1), size=SIZE)
    assert (tmp_path / "a.gif").stat().st_size < 2 * 2**20
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.size, gif.n_frames, gif.info["loop"]) == ((480, 320), 13, 0)
        gif.seek(gif.n_frames - 1)
        gif.load()
    assert b"AI-generated" in (tmp_path / "a.gif").read_bytes()
    assert verify_video(tmp_path / "a.gif").detected


# recipes from elsewhere -------------------------------------------------------------------------


def test_a_recipe_is_read_from_json_with_or_without_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_text('{"seed": 0}', encoding="utf-8-sig")
    assert read_recipe(tmp_path / "a.json") == read_recipe(b'{"seed": 0}') == {"seed": 0}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[1]", b"3", b"null"])
def test_what_is_no_recipe_is_refused(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    for source in (content, tmp_path / "a.json"):
        with pytest.raises(RequestError):
            read_recipe(source)


def test_a_recipe_file_of_hundreds_of_megabytes_is_not_read(tmp_path):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(400 * 2**20)
    with pytest.raises(MediaError, match="no recipe"):
        read_recipe(tmp_path / "a.json")
    with pytest.raises(MediaError, match=r"none\.json cannot be read"):
        read_recipe(tmp_path / "none.json")
    with pytest.raises(MediaError, match="MB are allowed"):
        read_recipe(b"\0\0\0\x18ftyp" + bytes(2**20), limits=Limits(clip_megabytes=0.5))


def test_a_recipe_that_unpacks_to_a_gigabyte_is_refused(tmp_path):
    import base64
    import zlib

    from motion_app.media.files import encode_video
    from motion_app.media.provenance import RECIPE_PREFIX, RECIPE_TAG

    bomb = base64.b64encode(zlib.compress(bytes(2**28), 9)).decode()
    frames = np.zeros((2, 32, 48, 3), np.uint8)
    for packed in (bomb, "§", "AAAA"):
        path = tmp_path / "a.mp4"
        encode_video(path, frames, 8, tags={RECIPE_TAG: RECIPE_PREFIX + packed})
        with pytest.raises(MediaError, match="damaged"):
            read_recipe(path)
        assert not verify_video(path).recipe


def test_a_recipe_too_large_for_a_video_is_refused_when_it_is_written(tmp_path):
    with pytest.raises(RequestError, match="at most 32 MB"):
        export_video(
            tmp_path / "a.mp4",
            np.zeros((1, 32, 48, 3), np.uint8),
            8,
            recipe={"image": "x" * 2**25},
        )


# signatures -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A signer's certificate from an authority made on the spot."""
    folder = tmp_path_factory.mktemp("authority")
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = issue("Test Authority", "Test Authority", root_key, root_key, authority=True)
    leaf = issue("Motion Tester", "Test Authority", key, root_key, authority=False)
    pem = serialization.Encoding.PEM
    (folder / "chain.pem").write_bytes(leaf.public_bytes(pem) + root.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Certificate(folder / "chain.pem", folder / "key.pem")


def issue(subject, issuer, key, issuers_key, *, authority):
    def named(name):
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )

    now = datetime.datetime.now(datetime.UTC)
    names = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    usage = dict.fromkeys((*names, "encipher_only", "decipher_only"), False)
    usage |= {"digital_signature": not authority}
    usage |= {"key_cert_sign": authority, "crl_sign": authority}
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuers_key.public_key()), False
        )
    )
    if not authority:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(issuers_key, hashes.SHA256())


@pytest.fixture(scope="module")
def signed(certificate, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("signed") / "video.mp4"
    export_video(path, small_frames(), 8, recipe=recipe_of(3), size=SIZE, certificate=certificate)
    return path


def test_a_signed_video_names_its_signer_and_keeps_everything_else(signed):
    found = verify_video(signed)
    assert (found.c2pa, found.signer) == ("valid", "Motion Tester")
    assert found.detected and found.tagged and read_recipe(signed) == recipe_of(3)
    content = signed.read_bytes()
    assert content.find(b"moov") < content.find(b"mdat")
    assert [path.name for path in signed.parent.iterdir()] == ["video.mp4"]


def test_a_changed_video_is_no_longer_signed(signed, tmp_path):
    content = bytearray(signed.read_bytes())
    content[content.find(b"mdat") + 2000] ^= 1
    (tmp_path / "a.mp4").write_bytes(content)
    assert verify_video(tmp_path / "a.mp4").c2pa == "invalid"


def test_a_damaged_manifest_is_no_signature(signed, tmp_path):
    content = bytearray(signed.read_bytes())
    place = content.find(bytes.fromhex("d8fec3d61b0e483c"))
    content[place + 100 : place + 900] = bytes(800)
    (tmp_path / "a.mp4").write_bytes(content)
    assert verify_video(tmp_path / "a.mp4").c2pa == "invalid"


def test_without_the_package_signing_is_refused_and_a_manifest_is_unchecked(
    signed, certificate, tmp_path, monkeypatch
):
    def no_c2pa(name, *rest):
        return None if name == "c2pa" else find_spec(name, *rest)

    monkeypatch.setattr("motion_app.media.provenance.find_spec", no_c2pa)
    assert verify_video(signed).c2pa == "unchecked"
    with pytest.raises(MotionAppError, match=r"c2pa-python.*motion-app\[c2pa\]"):
        export_video(
            tmp_path / "a.mp4",
            np.zeros((1, 32, 48, 3), np.uint8),
            8,
            recipe=None,
            certificate=certificate,
        )


def test_a_certificate_that_cannot_be_used_is_named(certificate, tmp_path):
    frames = np.zeros((1, 32, 48, 3), np.uint8)
    (tmp_path / "no.pem").write_text("no key")
    wrong = [
        (Certificate(tmp_path / "none.pem", certificate.key), r"none\.pem"),
        (Certificate(certificate.chain, tmp_path / "no.pem"), "no private key"),
        (Certificate(tmp_path / "no.pem", certificate.key), r"signed with no\.pem"),
    ]
    for pair, complaint in wrong:
        with pytest.raises(MotionAppError, match=complaint):
            export_video(tmp_path / "a.mp4", frames, 8, recipe=None, certificate=pair)


def test_the_settings_name_both_halves_of_a_certificate_or_none(certificate):
    assert certificate_of(Settings()) is None
    both = Settings(c2pa_certificate=certificate.chain, c2pa_key=certificate.key)
    assert certificate_of(both) == certificate
    with pytest.raises(MotionAppError, match="both settings"):
        certificate_of(Settings(c2pa_certificate=certificate.chain))


# results and the command line -------------------------------------------------------------------


def video_of(objects: int) -> GeneratedVideo:
    masks = np.zeros((objects, 4, 8, 12), bool)
    for k in range(objects):
        masks[k, :, k : k + 3, 2:5] = True
    return GeneratedVideo(small_frames(), masks, recipe_of(4), 8.0)


def test_a_saved_result_has_every_file_the_page_offers(tmp_path):
    video = video_of(2)
    saved = save_result(video, tmp_path, export=ExportSize(*SIZE), badge=True)
    found = verify_video(saved.video)
    assert found.payload_fits and found.tagged
    assert verify_video(saved.gif).payload == found.payload
    assert json.loads(saved.recipe.read_text(encoding="utf-8")) == read_recipe(saved.video)
    with np.load(saved.frames) as lossless:  # what is measured has no mark in it
        assert np.array_equal(lossless["frames"], video.frames)
    assert [read_mask(path).shape for path in saved.masks] == [(64, 4 * 96)] * 2
    with ZipFile(saved.masks_zip) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[:5] == [
            "object-1/sheet.png",
            *(f"object-1/{f}.png" for f in range(4)),
        ]
        second = read_mask(archive.read("object-2/3.png"))
    assert np.array_equal(second, read_mask(saved.masks[1])[:, 3 * 96 :])


def test_a_result_without_objects_is_saved_as_well(tmp_path):
    saved = save_result(video_of(0), tmp_path)
    assert saved.masks == () and saved.masks_zip.is_file() and saved.gif.is_file()


def test_the_command_line_verifies_a_video(exported, tmp_path, capsys):
    assert main(["verify", str(exported)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["detected"] and told["recipe"] and told["c2pa"] == "absent"
    (tmp_path / "a.mp4").write_text("no video")
    assert main(["verify", str(tmp_path / "a.mp4")]) == 2
    assert "no clip" in capsys.readouterr().err
