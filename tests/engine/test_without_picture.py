"""Videos from words alone: text-to-video checkpoints, and image-to-video ones that learned it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from PIL import Image
from tiny_models import POSITIONS, stock_latents, tiny_text_pipeline, tiny_tokenizer
from torch import nn

from motion_app.engine.adapters import Adapter, GatedAdapters, adapted
from motion_app.engine.motion_tokens import MotionMetadata
from motion_app.engine.pipeline import MotionEngine
from motion_app.engine.synmotion import DualEmbedding, MotionPack
from motion_app.errors import RequestError
from motion_app.library.library import Library
from motion_app.library.motion_file import read_motion
from motion_app.media.files import Clip
from motion_app.media.results import save_result
from motion_app.request.kept import read_request, request_bytes
from motion_app.request.phrases import find_clauses
from motion_app.request.request import build_request, parse_request
from motion_app.request.written import request_to_json
from motion_app.scene import GenerationRequest, Motion, Options, SceneObject
from motion_app.training.config import MotionTraining, SynMotionTraining
from motion_app.training.subject_videos import make_subjects, read_subjects
from motion_app.training.trainer import train_motion
from motion_app.world.world import WorldConfig, draw_scene, render

HEIGHT, WIDTH = 32, 48
SENTENCE = "A red robot is moving."
SETTINGS = '{"name": "tiny", "steps": 3, "guidance": 3.0'
PICTURE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def engine(text_checkpoint: Path) -> MotionEngine:
    """A text-to-video model."""
    return MotionEngine.load(text_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def taught(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> MotionEngine:
    """An image-to-video model that says it can do without."""
    folder = tmp_path_factory.mktemp("taught") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "generation.json").write_text(SETTINGS + ', "without_picture": true}')
    return MotionEngine.load(folder, device="cpu")


@pytest.fixture(params=["text-to-video", "image-to-video"])
def able(request: pytest.FixtureRequest) -> MotionEngine:
    return request.getfixturevalue("engine" if request.param == "text-to-video" else "taught")


def words(*motions: Motion | None, **options) -> GenerationRequest:
    """One robot, or nothing but a prompt."""
    frame = np.ones((HEIGHT, WIDTH), bool)
    objects = tuple(SceneObject(frame, SENTENCE, motion=motion, name="robot") for motion in motions)
    chosen = {"seed": 5, "method": "synmotion", "prompt": None if motions else SENTENCE, **options}
    return GenerationRequest(None, objects, Options(**chosen))


def pack_of(engine: MotionEngine, path: Path) -> Motion:
    """A motion "hop" of strong random numbers."""
    torch.manual_seed(1)
    sizes = {"kind": "full", "width": 16, "layers": 2, "heads": 2, "feed_forward": 32}
    parts = ("mot", "sub", "refiner")
    dual = DualEmbedding(torch.randn(2, 32), torch.randn(3, 32), parts=parts, **sizes)
    for conv in (dual.z_mot, dual.z_sub, dual.z_ref):
        nn.init.normal_(conv.weight, std=0.3)
    generator = torch.Generator().manual_seed(1)
    places = ("to_q", "to_k", "to_v")
    layers = engine.backbone.attention_layers()
    adapter = Adapter.fresh(layers, rank=4, alpha=4.0, places=places, generator=generator)
    for up in adapter.requires_grad_(False).up.values():
        up.copy_(torch.randn(up.shape, generator=generator))
    pieces = tuple(tiny_tokenizer()("is moving")["input_ids"][:-1])
    metadata = MotionMetadata(name="hop", phrase="is moving", base=engine.fingerprint)
    MotionPack(dual.fold(), adapter, pieces).save(path, metadata, layers=2, width=32)
    return read_motion(path)


@contextmanager
def emptied(pipe) -> Iterator[None]:
    """The stock image-to-video pipeline with zeros where the picture's latents are."""

    def empty(module: nn.Module, arguments: tuple, options: dict) -> tuple[tuple, dict]:
        seen = options["hidden_states"].clone()
        seen[:, :, 4:] = 0
        return arguments, options | {"hidden_states": seen}

    hook = pipe.transformer.register_forward_pre_hook(empty, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def stock_of(engine: MotionEngine, **told) -> np.ndarray:
    """Without a picture, by the stock pipeline of ``engine``'s checkpoint."""
    folder = engine.backbone.checkpoint.folder
    if not engine.geometry.with_picture:
        return stock_latents(CogVideoXPipeline.from_pretrained(folder), **told)
    pipe = CogVideoXImageToVideoPipeline.from_pretrained(folder)
    with emptied(pipe):
        return stock_latents(pipe, image=Image.new("RGB", (WIDTH, HEIGHT)), **told)


@pytest.mark.parametrize("positions", POSITIONS)
def test_without_a_motion_it_is_the_stock_text_pipeline_bit_for_bit(positions, tmp_path):
    tiny_text_pipeline(positions).save_pretrained(tmp_path)
    (tmp_path / "generation.json").write_text(SETTINGS + "}")
    engine = MotionEngine.load(tmp_path, device="cpu")
    stock = stock_of(engine, prompt=SENTENCE)
    for asked in (words(method="none"), words(None, method="none"), words(None)):
        made = engine.generate(asked, lambda report: None)
        assert np.array_equal(made.latents, stock)
    assert made.frames.shape == (13, HEIGHT, WIDTH, 3) and made.masks.shape == (0, 7, 8, 12)


def test_a_model_that_learned_it_sees_zeros_where_the_picture_was(taught):
    made = taught.generate(words(method="none"))
    assert np.array_equal(made.latents, stock_of(taught, prompt=SENTENCE))
    # and a picture afterwards as ever
    pipe = CogVideoXImageToVideoPipeline.from_pretrained(taught.backbone.checkpoint.folder)
    pictured = taught.generate(replace(words(method="none"), image=PICTURE))
    stock = stock_latents(pipe, image=Image.fromarray(PICTURE), prompt=SENTENCE)
    assert np.array_equal(pictured.latents, stock)


def test_a_pack_acts_everywhere_as_it_does_with_a_picture(able, tmp_path):
    """Its words are enriched and its adapter is a plain LoRA of the stock pipeline."""
    motion = pack_of(able, tmp_path / "hop.safetensors")
    made = able.generate(words(motion))
    layers = able.backbone.attention_layers()
    pack = MotionPack.load(motion.path, layers=layers, text_width=32, base=able.fingerprint)
    prompt, empty = able.backbone.prompts.encode(SENTENCE, guided=True)
    (clause,) = find_clauses(SENTENCE, words(motion).objects, able.backbone.tokenizer, 24)
    told = {"prompt_embeds": pack.branch(prompt[0], clause)[None], "negative_prompt_embeds": empty}
    pipe = able.backbone.pipe
    with torch.no_grad(), adapted(layers, GatedAdapters([pack.adapter])):
        if able.geometry.with_picture:
            with emptied(pipe):
                stock = stock_latents(pipe, image=Image.new("RGB", (WIDTH, HEIGHT)), **told)
        else:
            stock = stock_latents(pipe, **told)
    assert np.allclose(made.latents, stock, atol=1e-5)
    still = able.generate(words(method="none")).latents
    assert np.abs(made.latents - still).max() > 1e-2
    (robot,) = words(motion).objects
    unmoved = replace(words(motion), objects=(replace(robot, strength=0.0),))
    assert np.allclose(able.generate(unmoved).latents, still, atol=1e-5)


def test_a_recipe_and_a_kept_request_make_the_same_video(able, tmp_path):
    motion = pack_of(able, tmp_path / "hop.safetensors")
    made = able.generate(words(motion))
    library = Library([tmp_path])
    given = parse_request(made.recipe)
    assert made.recipe["request"]["image"] is None and given.image is None
    assert "mask" not in made.recipe["request"]["objects"][0]
    sources = {"library": library, "base": able.fingerprint}
    replayed = build_request(
        given, geometry=able.geometry, tokenizer=able.backbone.tokenizer, **sources
    )
    assert np.array_equal(able.generate(replayed).frames, made.frames)
    kept = tmp_path / "request.npz"
    kept.write_bytes(request_bytes(replayed))
    entries = request_to_json(replayed, picture=kept.name)
    again = read_request(kept, entries, **sources)
    assert again.image is None and again.checked
    assert np.array_equal(able.generate(again).frames, made.frames)
    saved = save_result(made, tmp_path / "result")
    assert saved.video.is_file() and not (tmp_path / "result" / "masks").exists()


ROBOT = {"sentence": SENTENCE}
REFUSED = [
    ({"prompt": SENTENCE, "method": "fleximmt"}, '"fleximmt" begins with a picture, .* has none'),
    ({"objects": [ROBOT, ROBOT]}, "no picture and 2 objects"),
    ({"objects": [{**ROBOT, "mask": "m.png"}]}, "object 1 has a mask or a path"),
    ({"objects": [{**ROBOT, "path": [[0, 0], [1, 1]]}]}, "object 1 has a mask or a path"),
    ({}, "the prompt is empty"),
    ({"prompt": SENTENCE, "method": "none", "stock": "wan"}, '"wan" begins with a picture'),
]


@pytest.mark.parametrize(("entries", "words_of_it"), REFUSED)
def test_what_needs_a_picture_is_refused_without_one(entries, words_of_it, engine, tmp_path):
    asked = parse_request({"method": "synmotion", **entries})
    with pytest.raises(RequestError, match=words_of_it):
        build_request(asked, geometry=engine.geometry, library=Library([tmp_path]), base=None)


def test_a_mark_in_no_picture_is_refused(engine):
    (robot,) = words(None).objects
    some = np.zeros((HEIGHT, WIDTH), bool)
    some[:8] = True
    with pytest.raises(RequestError, match="nothing can be marked"):
        engine.generate(replace(words(), objects=(replace(robot, mask=some),)))


def test_a_model_that_has_not_learned_it_asks_for_the_picture(tiny_checkpoint):
    engine = MotionEngine.load(tiny_checkpoint, device="cpu")
    with pytest.raises(RequestError, match="begins with a picture, and the request has none"):
        engine.generate(words(method="none"))


def test_a_text_to_video_model_takes_no_picture(engine):
    with pytest.raises(RequestError, match="takes no picture"):
        engine.generate(replace(words(method="none"), image=PICTURE))


@pytest.fixture(scope="module")
def reference() -> Clip:
    world = WorldConfig(height=HEIGHT, width=WIDTH)
    scene = draw_scene(np.random.default_rng(2), world, objects=1, motions=["jump"])
    return Clip(render(scene).frames, 8.0)


def test_a_pack_is_learned_beside_subjects_made_from_their_names(engine, reference, tmp_path):
    spv = tmp_path / "spv"
    make_subjects([], engine, spv, subjects=["red fox", "cat"], actions=("walks",), steps=1)
    found = read_subjects(spv, fps=8.0)
    assert [subject.prompt for subject in found] == ["A red fox walks.", "A cat walks."]
    config = SynMotionTraining(
        name="hop",
        noun="robot",
        phrase="is moving",
        spv=str(spv),
        steps=6,
        batch=2,
        views=2,
        rank=4,
        refiner_width=16,
        refiner_heads=2,
        refiner_feed_forward=32,
        learning_rate=0.02,
        lora_learning_rate=0.02,
        init_prompt="a {motion}",
        alpha=0.5,
        caption_dropout=0.0,
        validate_every=6,
        validation_steps=1,
        spv_clips=2,
    )
    news = []
    out = tmp_path / "hop.safetensors"
    motion = train_motion([reference], config, engine=engine, out=out, on_progress=news.append)
    assert motion.method == "synmotion" and len(news) == 6
    assert news[-1].validation.frames.shape == (13, HEIGHT, WIDTH, 3)
    moved = engine.generate(words(motion)).latents
    assert not np.array_equal(moved, engine.generate(words(method="none")).latents)


def test_what_a_text_to_video_model_could_not_use_is_not_learned(engine, reference, tmp_path):
    config = MotionTraining(name="hop", noun="robot", phrase="is moving", steps=2)
    with pytest.raises(RequestError, match='"fleximmt" needs a picture; learn .* synmotion'):
        train_motion([reference], config, engine=engine, out=tmp_path / "hop.safetensors")
