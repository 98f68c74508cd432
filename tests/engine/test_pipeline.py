"""The engine on a tiny checkpoint: it is the stock pipeline until an object has a motion."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline
from PIL import Image
from tiny_models import stock_latents, tiny_pipeline

from motion_app.engine import pipeline
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import CheckpointError, GenerationCancelled, MotionFileError, RequestError
from motion_app.library.motion_file import read_motion
from motion_app.request.request import checked_request, parse_request
from motion_app.scene import GenerationRequest, Options, SceneObject

HEIGHT, WIDTH = 32, 48


@pytest.fixture(scope="module")
def engine(tiny_checkpoint) -> MotionEngine:
    return MotionEngine.load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def motions(engine, tmp_path_factory):
    """Two motions with strong random tokens."""
    folder = tmp_path_factory.mktemp("motions")
    found = []
    for seed, (name, phrase) in enumerate([("hop", "is jumping"), ("turn", "is spinning")]):
        tokens = MotionTokens.fresh(
            layers=2,
            tokens=4 + seed,
            width=32,
            scale=3.0,
            distribution="normal",
            generator=torch.Generator().manual_seed(seed),
        )
        path = folder / f"{name}.safetensors"
        tokens.save(path, MotionMetadata(name=name, phrase=phrase, base=engine.fingerprint))
        found.append(read_motion(path))
    return found


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def scene(motions, **options) -> GenerationRequest:
    masks = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    masks[0, 4:20, 4:20], masks[1, 8:28, 28:44] = True, True
    objects = (
        SceneObject(masks[0], "A red robot is moving.", motion=motions[0], name="robot"),
        SceneObject(masks[1], "A blue fox is moving.", motion=motions[1], name="fox"),
    )
    return GenerationRequest(picture(), objects, Options(**{"seed": 5, **options}))


@pytest.mark.parametrize("case", ["no objects", "no motions", "method none"])
def test_without_motion_the_latents_are_the_stock_pipelines_bit_for_bit(
    case, engine, motions, tiny_checkpoint
):
    request = scene([None, None] if case == "no motions" else motions)
    if case == "no objects":
        request = replace(request.with_options(prompt=request.full_prompt()), objects=())
    if case == "method none":
        request = request.with_options(method="none")
    video = engine.generate(request, lambda report: None)
    pipe = CogVideoXImageToVideoPipeline.from_pretrained(tiny_checkpoint)
    stock = stock_latents(pipe, image=Image.fromarray(picture()), prompt=request.full_prompt())
    assert np.array_equal(video.latents, stock)


def test_frames_are_what_the_stock_vae_makes_of_the_latents(engine, motions):
    video = engine.generate(scene(motions))
    assert video.frames.shape == (13, HEIGHT, WIDTH, 3) and video.frames.dtype == np.uint8
    assert video.fps == 8.0 and video.masks.shape == (2, 7, 8, 12)
    decoded = engine.backbone.pipe.decode_latents(torch.from_numpy(video.latents)).detach()
    stock = engine.backbone.pipe.video_processor.postprocess_video(decoded, output_type="np")[0]
    assert np.abs(video.frames - stock * 255).max() < 1  # the batch may round otherwise


def test_the_same_seed_makes_the_same_frames_and_another_seed_others(engine, motions):
    once, again = (engine.generate(scene(motions)) for _ in range(2))
    assert np.array_equal(once.frames, again.frames)
    assert np.array_equal(once.latents, again.latents)
    assert not np.array_equal(once.frames, engine.generate(scene(motions, seed=0)).frames)


def test_motions_act_and_swapping_them_acts_otherwise(engine, motions):
    straight = engine.generate(scene(motions)).latents
    crossed = engine.generate(scene(motions[::-1])).latents
    stock = engine.generate(scene(motions, method="none")).latents
    assert np.abs(straight - crossed).max() > 1e-4 and np.abs(straight - stock).max() > 1e-4


def test_the_order_in_which_objects_are_listed_does_not_matter(engine, motions):
    request = scene(motions)
    listed = request.with_options(prompt=request.full_prompt())
    words = ("is spinning", "is jumping")
    objects = tuple(
        replace(item, phrase=phrase, sentence=item.sentence.replace("is moving", phrase))
        for item, phrase in zip(request.objects, words, strict=True)
    )
    prompt = " ".join(item.sentence for item in objects)
    listed = listed.with_options(prompt=prompt)
    one = engine.generate(replace(listed, objects=objects))
    other = engine.generate(replace(listed, objects=objects[::-1]))
    assert np.allclose(one.latents, other.latents, atol=1e-4)
    assert np.array_equal(one.masks, other.masks[::-1])


def test_an_object_without_motion_restricts_nothing(engine, motions):
    request = scene([motions[0], None])
    moving, still = request.objects
    moving = replace(moving, sentence="A red robot is jumping.", phrase="is jumping")
    listed = replace(request, objects=(moving, still))
    alone = replace(listed.with_options(prompt=listed.full_prompt()), objects=(moving,))
    assert np.array_equal(engine.generate(alone).latents, engine.generate(listed).latents)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "concat"},
        {"scope": "paper"},
        *({"without": frozenset({n})} for n in ("m2v", "t2v", "t2t", "t2m", "infer_mask")),
        *({"without": frozenset({n})} for n in ("rmpm", "step0_mask")),
    ],
)
def test_every_variant_of_the_method_makes_another_video(engine, motions, options):
    plain = engine.generate(scene(motions)).latents
    variant = engine.generate(scene(motions, **options)).latents
    assert np.isfinite(variant).all() and not np.array_equal(plain, variant)


def test_what_never_acts_changes_no_bit(engine, motions):
    plain = engine.generate(scene(motions)).latents
    for without in ({"m2m"}, set()):
        again = engine.generate(scene(motions, without=frozenset(without))).latents
        assert np.array_equal(plain, again)
    concat = engine.generate(scene(motions, method="concat")).latents
    opened = engine.generate(scene(motions, without=frozenset({"infer_mask"}))).latents
    assert np.array_equal(concat, opened)


def test_masks_are_on_from_the_second_step_even_where_the_first_settles_them(engine, motions):
    """With no warm steps RMPM may stop on step 0, before it ever handed over its masks."""
    own, masked, settled = engine.propagation, [], []
    engine.propagation = replace(own, warm_steps=0, alpha=1e9)

    def watch(report):
        processor = engine.backbone.transformer.transformer_blocks[0].attn1.processor
        masked.append(processor.steering.masked)
        settled.append(report.masks_settled)

    try:
        engine.generate(scene(motions, without=frozenset({"step0_mask"})), watch)
    finally:
        engine.propagation = own
    assert settled == masked == [True] * 3


def test_strength_one_is_the_default_and_zero_silences_the_motion(engine, motions):
    request = scene(motions)

    def with_strength(strength, found):
        objects = tuple(
            replace(item, strength=strength, motion=motion)
            for item, motion in zip(request.objects, found, strict=True)
        )
        return engine.generate(replace(request, objects=objects)).latents

    silent = with_strength(0.0, motions)
    assert np.array_equal(silent, with_strength(0.0, motions[::-1]))
    assert not np.array_equal(silent, with_strength(0.5, motions))
    assert np.array_equal(with_strength(1.0, motions), engine.generate(request).latents)


def test_every_step_reports_its_number_masks_and_clean_latents(engine, motions):
    reports = []
    video = engine.generate(scene(motions, steps=4), reports.append)
    assert [report.step for report in reports] == [1, 2, 3, 4]
    assert all(report.steps == 4 and report.seconds > 0 for report in reports)
    assert all(report.masks.shape == (2, 7, 8, 12) for report in reports)
    assert np.array_equal(reports[-1].masks, video.masks)
    # The last step of the scheduler returns its estimate of the clean latents itself.
    assert np.allclose(reports[-1].latents, video.latents[0], atol=1e-4)
    preview = engine.preview(reports[-1].latents)
    assert preview.shape == (7, HEIGHT, WIDTH, 3) and preview.dtype == np.uint8


def test_a_flat_picture_is_previewed_about_flat(engine):
    flat = torch.tensor([0.8, -0.5, 0.1]).view(1, 3, 1, 1, 1).expand(1, 3, 1, HEIGHT, WIDTH)
    with torch.no_grad():
        latents = engine.backbone.pipe.vae.encode(flat).latent_dist.mode()[0].movedim(0, 1)
    scaled = (latents * engine.backbone.pipe.vae_scaling_factor_image).numpy()
    shown = engine.preview(scaled)
    assert shown.shape == (1, HEIGHT, WIDTH, 3)
    assert shown.std(axis=(0, 1, 2)).max() < 40


def test_masks_begin_at_the_first_frame_and_its_mask_stays(engine, motions):
    video = engine.generate(scene(motions))
    first = np.zeros((2, 8, 12), dtype=bool)
    first[0, 1:5, 1:5], first[1, 2:7, 7:11] = True, True
    assert np.array_equal(video.masks[:, 0], first)


@pytest.mark.parametrize("last", [1, 2])
def test_cancelling_stops_within_that_step_and_leaves_the_engine_clean(engine, motions, last):
    seen = []

    def stop(report):
        seen.append(report.step)
        return report.step < last

    before = dict(engine.backbone.transformer.attn_processors)
    with pytest.raises(GenerationCancelled, match=f"after step {last} of 3"):
        engine.generate(scene(motions), stop)
    assert seen == list(range(1, last + 1))
    assert engine.backbone.transformer.attn_processors == before
    assert not engine.backbone.transformer._forward_hooks
    assert engine.generate(scene(motions)).frames.shape[0] == 13


def test_an_error_in_a_step_leaves_the_engine_clean(engine, motions):
    def fail(report):
        raise ZeroDivisionError

    before = dict(engine.backbone.transformer.attn_processors)
    with pytest.raises(ZeroDivisionError):
        engine.generate(scene(motions), fail)
    assert engine.backbone.transformer.attn_processors == before
    assert not engine.backbone.transformer._forward_hooks


def test_the_recipe_is_json_that_names_everything_and_holds_the_request(engine, motions):
    video = engine.generate(scene(motions, without=frozenset({"t2t"})))
    recipe = json.loads(json.dumps(video.recipe))
    assert (recipe["seed"], recipe["steps"], recipe["guidance"]) == (5, 3, 3.0)
    assert recipe["base"] == engine.fingerprint and recipe["without"] == ["t2t"]
    assert [item["motion"] for item in recipe["objects"]] == ["hop", "turn"]
    assert all(len(item["motion_sha256"]) == 64 for item in recipe["objects"])
    assert recipe["versions"]["torch"] == torch.__version__
    assert parse_request(recipe["request"]).options.seed == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, '"steps" is 0'),
        ({"steps": 5000}, '"steps" is 5000: .* 1000'),
        ({"seed": -1}, '"seed" is -1'),
        ({"method": "magic"}, "'magic'.*fleximmt, concat, none"),
        ({"scope": "all"}, "'all'.*released, paper"),
        ({"without": frozenset({"v2v"})}, "'v2v'.*m2v, m2m"),
        ({"method": "concat", "without": frozenset({"m2v"})}, "leave one of them out"),
        ({"prompt": "A red robot and a blue fox."}, '"is moving" is needed 2 times'),
        ({"prompt": "red " * 40}, "41 tokens, the model reads 24"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_runs(engine, motions, options, words):
    objects = () if "tokens" in words else scene(motions).objects
    with pytest.raises(RequestError, match=words):
        request = replace(scene(motions, **options), objects=objects)
        engine.generate(request, lambda report: pytest.fail("it ran"))


def test_more_steps_than_the_checkpoint_was_trained_for_are_refused(engine, motions, monkeypatch):
    monkeypatch.setattr(type(engine.backbone), "training_steps", 500)
    with pytest.raises(RequestError, match="steps is 501; this checkpoint knows 500 at most"):
        engine.generate(scene(motions, steps=501), lambda report: pytest.fail("it ran"))


def test_a_picture_of_another_size_is_refused_however_well_the_request_was_checked(engine, motions):
    request = scene(motions)
    checked = checked_request(
        request, geometry=engine.geometry, tokenizer=engine.backbone.tokenizer
    )
    assert checked.checked and not replace(checked, image=picture()[:16]).checked
    for refused in (
        replace(request, image=picture()[:16]),
        replace(request, image=picture()[:16]).with_clauses(checked.clauses),
    ):
        with pytest.raises(RequestError, match=r"\(16, 48, 3\)"):
            engine.generate(refused, lambda report: pytest.fail("it ran"))


def test_what_was_checked_is_not_checked_again(engine, motions, monkeypatch):
    checked = checked_request(
        scene(motions), geometry=engine.geometry, tokenizer=engine.backbone.tokenizer
    )
    direct = engine.generate(scene(motions)).latents
    monkeypatch.setattr(pipeline, "checked_request", None)
    assert np.array_equal(engine.generate(checked).latents, direct)


def test_an_object_too_small_for_the_grid_is_told_how_big_it_must_be(engine, motions):
    request = scene(motions)
    speck = np.zeros((HEIGHT, WIDTH), dtype=bool)
    speck[0, 0] = True
    objects = (replace(request.objects[0], mask=speck), request.objects[1])
    with pytest.raises(RequestError, match=r"object 1 is too small.*at least 6×6 pixels"):
        engine.generate(replace(request, objects=objects))


def test_masks_from_names_need_names(engine, motions):
    request = scene(motions, without=frozenset({"rmpm"}))
    objects = (replace(request.objects[0], name=""), request.objects[1])
    with pytest.raises(RequestError, match="object 1 has none"):
        engine.generate(replace(request, objects=objects))


def test_a_motion_of_another_base_model_is_refused(engine, motions, tmp_path):
    path = tmp_path / "strange.safetensors"
    tokens = MotionTokens.fresh(layers=2, tokens=4, width=32)
    tokens.save(path, MotionMetadata(name="strange", phrase="is moving", base="0" * 64))
    with pytest.raises(MotionFileError, match="base model 000000000000"):
        engine.generate(scene([read_motion(path), motions[1]]))


def test_the_fingerprint_is_of_the_transformers_weights_and_config_alone(tiny_checkpoint, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    original = MotionEngine.load(tiny_checkpoint).fingerprint
    (copy / "generation.json").write_text('{"steps": 7}')
    config = copy / "transformer" / "config.json"
    entries = json.loads(config.read_text())
    config.write_text(json.dumps({**entries, "_diffusers_version": "9.9"}))
    assert MotionEngine.load(copy).fingerprint == original
    config.write_text(json.dumps({**entries, "norm_eps": 2e-5}))
    assert MotionEngine.load(copy).fingerprint != original


def test_a_model_with_two_latent_frames_in_a_token_is_steered_too(tmp_path):
    """CogVideoX 1.5: the stock pipeline pads the 7 latent frames to 8 and drops the first again."""
    tiny_pipeline(patch_size_t=2, use_learned_positional_embeddings=False).save_pretrained(tmp_path)
    (tmp_path / "generation.json").write_text('{"steps": 2, "guidance": 3.0}')
    engine = MotionEngine.load(tmp_path, device="cpu")
    tokens = MotionTokens.fresh(layers=2, tokens=4, width=32)
    path = tmp_path / "still.safetensors"
    tokens.save(path, MotionMetadata(name="still", phrase="is", base=engine.fingerprint))
    reports = []
    video = engine.generate(scene([read_motion(path)] * 2), reports.append)
    assert video.frames.shape == (13, HEIGHT, WIDTH, 3) and video.masks.shape == (2, 4, 8, 12)
    assert reports[0].latents.shape == video.latents[0].shape == (7, 4, 16, 24)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path, tiny_checkpoint):
    with pytest.raises(CheckpointError, match=r"no model_index\.json"):
        MotionEngine.load(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    (broken / "vae" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no diffusers checkpoint: vae/config\.json"):
        MotionEngine.load(broken)
    (broken / "generation.json").write_text('{"rmpm": {"rule": "released", "windows": 3}}')
    shutil.copytree(tiny_checkpoint / "vae", broken / "vae", dirs_exist_ok=True)
    with pytest.raises(CheckpointError, match="windows"):
        MotionEngine.load(broken)
