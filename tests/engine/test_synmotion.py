"""SynMotion on a tiny CogVideoX: what it adds, where, what learns when, and how motions compose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_tokenizer
from torch import Tensor

from motion_app.acceleration import Acceleration
from motion_app.engine import prompts
from motion_app.engine.adapters import Adapter, GatedAdapters, adapted, token_gates
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.engine.pipeline import MotionEngine
from motion_app.engine.synmotion import DualEmbedding, MotionPack
from motion_app.errors import MotionFileError, RequestError
from motion_app.library.library import Library
from motion_app.library.motion_file import check_motion_file, read_motion
from motion_app.media.files import Clip
from motion_app.request.phrases import Clause, find_clauses
from motion_app.request.request import check_method
from motion_app.scene import GenerationRequest, Motion, SceneObject
from motion_app.training.config import SynMotionTraining
from motion_app.training.subject_videos import MANIFEST, find_subjects, make_subjects, read_subjects
from motion_app.training.synmotion import SynMotionRun, motion_steps, prepare_synmotion
from motion_app.training.tokens import LearningRun
from motion_app.training.trainer import train_motion
from motion_app.world.world import WorldConfig, draw_scene, render

HEIGHT, WIDTH, TEXT = 32, 48, 24
CLAUSE = Clause(motion=(4, 6), subject=(1, 3))
SMALL = {
    "steps": 4,
    "batch": 2,
    "views": 2,
    "rank": 4,
    "lora_alpha": 4.0,
    "refiner_width": 16,
    "refiner_heads": 2,
    "refiner_feed_forward": 32,
    "learning_rate": 0.02,
    "lora_learning_rate": 0.02,
    "spv": "rendered",
    "spv_clips": 2,
    "caption_dropout": 0.0,
    "init_prompt": "a {motion}",
    "checkpoint_every": 2,
}


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> MotionEngine:
    return MotionEngine.load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def reference() -> Clip:
    world = WorldConfig(height=HEIGHT, width=WIDTH)
    scene = draw_scene(np.random.default_rng(2), world, objects=1, motions=["jump"])
    return Clip(render(scene).frames, 8.0)


@pytest.fixture(scope="module")
def lesson(engine: MotionEngine, reference: Clip):
    return prepare_synmotion([reference], settings(alpha=0.5), engine.backbone)


def settings(**changes) -> SynMotionTraining:
    return SynMotionTraining(**{"name": "hop", "noun": "red fox", **SMALL, **changes})


def new_run(engine, lesson, tmp_path: Path, **changes) -> SynMotionRun:
    return SynMotionRun(lesson, settings(**changes), engine.backbone, tmp_path / "run.safetensors")


def on_steps(run: SynMotionRun, *kinds: bool) -> None:
    """Take one step of each kind: True on the motion's clips, False on the SPV set."""
    run._on_motion = np.concatenate([run._on_motion[: run.step], kinds, [True] * 9])
    for _ in kinds:
        run.advance()


def values(run: SynMotionRun, part: str) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in run.parts[part]]


def changed(before: Sequence[Tensor], run: SynMotionRun, part: str) -> bool:
    now = values(run, part)
    return not all(torch.equal(a, b) for a, b in zip(before, now, strict=True))


def embedding(seed: int = 0, *, warm: bool = True, kind: str = "full", parts=None) -> DualEmbedding:
    torch.manual_seed(seed)
    dual = DualEmbedding(
        torch.randn(2, 32),
        torch.randn(3, 32),
        parts=parts or ("mot", "sub", "refiner"),
        kind=kind,
        width=16,
        layers=2,
        heads=2,
        feed_forward=32,
    )
    if warm:
        for conv in (dual.z_mot, dual.z_sub, dual.z_ref):
            if conv is not None:
                torch.nn.init.normal_(conv.weight, std=0.3)
    return dual


def random_adapter(engine: MotionEngine, seed: int) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    adapter = Adapter.fresh(
        engine.backbone.attention_layers(),
        rank=4,
        alpha=4.0,
        places=("to_q", "to_k", "to_v"),
        generator=generator,
    ).requires_grad_(False)
    for up in adapter.up.values():
        up.copy_(torch.randn(up.shape, generator=generator))
    return adapter


@pytest.fixture(scope="module")
def motions(engine: MotionEngine, tmp_path_factory) -> dict[str, Motion]:
    """Packs "hop" and "turn", motion tokens "old", and "full" with both, of strong random
    numbers."""
    folder = tmp_path_factory.mktemp("packs")
    tokens = MotionTokens.fresh(
        layers=2,
        tokens=4,
        width=32,
        scale=3.0,
        distribution="normal",
        generator=torch.Generator().manual_seed(0),
    )
    pieces = tuple(tiny_tokenizer()("is moving")["input_ids"][:-1])
    found = {}
    for seed, name in enumerate(("hop", "turn", "full")):
        pack = MotionPack(embedding(seed).fold(), random_adapter(engine, seed), pieces)
        pack.save(
            folder / f"{name}.safetensors",
            MotionMetadata(name=name, phrase="is moving", base=engine.fingerprint),
            layers=2,
            width=32,
            tokens=tokens if name == "full" else None,
        )
        found[name] = read_motion(folder / f"{name}.safetensors")
    old = MotionMetadata(name="old", phrase="is moving", base=engine.fingerprint)
    tokens.save(folder / "old.safetensors", old)
    return {**found, "old": read_motion(folder / "old.safetensors")}


def scene(*chosen: Motion | None, **options) -> GenerationRequest:
    masks = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    masks[0, 4:20, 4:20], masks[1, 8:28, 28:44] = True, True
    nouns = ("red robot", "blue fox")
    objects = tuple(
        SceneObject(masks[k], f"A {nouns[k]} is moving.", "is moving", motion, name=nouns[k])
        for k, motion in enumerate(chosen)
    )
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return GenerationRequest(
        image, **{"objects": objects, "steps": 2, "method": "synmotion", **options}
    )


# The semantic branch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["full", "depthwise"])
def test_an_untrained_embedding_changes_no_bit(dtype: torch.dtype, kind: str) -> None:
    text = torch.randn(TEXT, 32).to(dtype)
    assert torch.equal(embedding(warm=False, kind=kind)(text, CLAUSE), text)


def test_an_untrained_adapter_changes_no_bit_of_the_transformer(engine: MotionEngine) -> None:
    adapter = Adapter.fresh(
        engine.backbone.attention_layers(),
        rank=4,
        alpha=4.0,
        places=("to_q", "to_k", "to_v", "to_out"),
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(predicted(engine), predicted(engine, GatedAdapters([adapter])))


def predicted(engine: MotionEngine, adapters: GatedAdapters | None = None) -> Tensor:
    """The tiny transformer's output on fixed random input."""
    generator = torch.Generator().manual_seed(3)
    layers = engine.backbone.attention_layers()
    with torch.no_grad(), adapted(layers, adapters or GatedAdapters([])):
        return engine.backbone.transformer(
            hidden_states=torch.randn(1, 7, 8, 16, 24, generator=generator),
            encoder_hidden_states=torch.randn(1, TEXT, 32, generator=generator),
            timestep=torch.tensor([500]),
            image_rotary_emb=engine.backbone.rotary,
            return_dict=False,
        )[0]


def test_only_subject_and_motion_words_are_touched() -> None:
    text = torch.randn(TEXT, 32)
    out = embedding()(text, CLAUSE)
    inside = [1, 2, 4, 5]
    outside = [i for i in range(TEXT) if i not in inside]
    assert torch.equal(out[outside], text[outside])
    assert (out[inside] != text[inside]).any(dim=1).all()


@pytest.mark.parametrize("parts", [("mot",), ("mot", "sub"), ("mot", "sub", "refiner"), ("sub",)])
def test_folded_is_unfolded(parts: tuple[str, ...]) -> None:
    text = torch.randn(TEXT, 32)
    dual = embedding(parts=parts)
    with torch.no_grad():
        assert torch.equal(dual.fold()(text, CLAUSE), dual(text, CLAUSE))


def test_each_clause_is_enriched_alone_and_dropping_one_restores_it() -> None:
    text = torch.randn(TEXT, 32)
    one, two = embedding(1).fold(), embedding(2).fold()
    other = Clause(motion=(12, 14), subject=(9, 11))
    both = two(one(text, CLAUSE), other)
    assert torch.equal(both, one(two(text, other), CLAUSE)), "the order does not matter"
    alone = one(text, CLAUSE)
    assert torch.equal(both[:8], alone[:8]) and torch.equal(alone[8:], text[8:])
    assert torch.equal(one(text, CLAUSE, strength=0.0), text)


def test_a_long_subject_takes_the_last_row_for_the_rest() -> None:
    dual = embedding(parts=("sub",))
    with torch.no_grad():
        added = dual(torch.zeros(TEXT, 32), Clause(motion=(9, 11), subject=(1, 7)))
    assert torch.equal(added[3:6], added[4:7]) and not torch.equal(added[1], added[2])


# Roles


def clauses_of(prompt: str, *objects: SceneObject) -> list[list[str] | None]:
    """The words of each subject and motion."""
    tokenizer = tiny_tokenizer()
    ids = tokenizer(prompt)["input_ids"]
    return [
        None if clause is None else [tokenizer.decode(ids[slice(*span)]) for span in clause.spans]
        for clause in find_clauses(prompt, objects, tokenizer, TEXT)
    ]


def told(sentence: str, *, name: str = "") -> SceneObject:
    motion = Motion("hop", "is moving", Path(), "")
    return SceneObject(np.ones((1, 1), bool), sentence, "is moving", motion, name=name)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red fox is moving.", ""),
        ("A red fox is moving, then up and left.", ""),
        ("then up, a red fox is moving.", ""),
        ("The red fox is moving.", "red fox"),
        ("A red fox is moving.", "robot"),
    ],
)
def test_subject_and_motion_are_found_and_an_instruction_is_neither(prompt: str, name: str) -> None:
    item = told(prompt, name=name)
    assert clauses_of(prompt, item) == [["red fox", "is moving"]]


def test_every_object_has_its_own_clause_also_in_one_sentence() -> None:
    prompt = "A red fox is moving and a blue cat is moving."
    objects = (told("A red fox is moving."), told("A blue cat is moving."))
    found = clauses_of(prompt, *objects)
    assert found == [["red fox", "is moving"], ["blue cat", "is moving"]]


def test_a_prompt_that_is_too_long_is_refused_in_our_words() -> None:
    sentence = "A red fox is moving" + " up" * TEXT
    with pytest.raises(RequestError, match=rf"tokens, the model reads {TEXT}"):
        find_clauses(sentence, [told(sentence)], tiny_tokenizer(), TEXT)


def test_other_motion_words_than_the_learned_ones_are_refused(engine, motions) -> None:
    request = scene(motions["hop"])
    item = replace(request.objects[0], sentence="A red robot walks.", phrase="walks")
    with pytest.raises(RequestError, match='learned by SynMotion with the words "is moving"'):
        engine.generate(replace(request, objects=(item,)))


# Adapters


def test_a_closed_gate_is_the_base_model_and_an_open_one_the_ordinary_lora(engine) -> None:
    adapter = random_adapter(engine, 0)
    tokens = TEXT + 7 * 8 * 12
    base, plain = predicted(engine), predicted(engine, GatedAdapters([adapter]))
    assert not torch.equal(base, plain)
    for gate, expected in ((0.0, base), (1.0, plain)):
        gates = torch.full((1, 1, tokens), gate)
        assert torch.equal(predicted(engine, GatedAdapters([adapter], gates)), expected)
    merged = merge(engine, adapter)
    torch.testing.assert_close(plain, merged, rtol=1e-3, atol=1e-4)


def merge(engine: MotionEngine, adapter: Adapter) -> Tensor:
    """The output with W + B·A written into the weights, which are put back afterwards."""
    linears = [
        (block.attn1.get_submodule(name), adapter.up[name][i] @ adapter.down[name][i])
        for i, block in enumerate(engine.backbone.transformer.transformer_blocks)
        for name in adapter.up
    ]
    before = [linear.weight.data.clone() for linear, _ in linears]
    try:
        for linear, change in linears:
            linear.weight.data += change
        return predicted(engine)
    finally:
        for (linear, _), weight in zip(linears, before, strict=True):
            linear.weight.data.copy_(weight)


def test_disjoint_masks_do_not_talk_to_each_other(engine: MotionEngine) -> None:
    one, two = random_adapter(engine, 1), random_adapter(engine, 2)
    masks = torch.zeros(2, 1, 1, 4, dtype=torch.bool)
    masks[0, ..., 0], masks[1, ..., 3] = True, True
    gates = token_gates(masks, [[(0, 1)], [(1, 2)]], text=3)
    tokens = torch.randn(1, 7, 32)
    together = GatedAdapters([one, two], gates[None]).added(0, "to_q", tokens)
    assert torch.equal(together[:, [0, 3]], one(0, "to_q", tokens)[:, [0, 3]])
    assert torch.equal(together[:, [1, 6]], two(0, "to_q", tokens)[:, [1, 6]])
    assert not together[:, [2, 4, 5]].any(), "free text and background stay the base model's"


def test_overlapping_masks_share_a_token_and_everywhere_is_the_average() -> None:
    masks = torch.tensor([[1, 1, 0], [0, 1, 1]], dtype=torch.bool).view(2, 1, 1, 3)
    gates = token_gates(masks, [[], []], text=1)
    assert gates.tolist() == [[0, 1, 0.5, 0], [0, 0, 0.5, 1]]
    assert (token_gates(masks, [[], []], text=1, everywhere=True) == 0.5).all()


def test_the_model_is_as_before_after_an_error_too(engine: MotionEngine) -> None:
    before = predicted(engine)
    bank = GatedAdapters([random_adapter(engine, 0)])
    with pytest.raises(KeyboardInterrupt), adapted(engine.backbone.attention_layers(), bank):
        raise KeyboardInterrupt
    assert torch.equal(before, predicted(engine))


# Training


def test_at_first_only_zero_convs_and_the_adapters_way_up_have_a_gradient(
    engine, lesson, tmp_path
) -> None:
    run = new_run(engine, lesson, tmp_path, alpha=1.0)
    with run.installed():
        run.loss().backward()
    grads = {name: parameter.grad for name, parameter in run.learned.named_parameters()}
    for name, grad in grads.items():
        first = ".z_" in name or ".up." in name
        assert grad is not None and bool(grad.any()) == first, name


def test_a_motion_step_moves_every_part(engine, lesson, tmp_path) -> None:
    run = new_run(engine, lesson, tmp_path)
    on_steps(run, True)
    before = {
        name: parameter.detach().clone() for name, parameter in run.learned.named_parameters()
    }
    on_steps(run, True)
    still = [n for n, p in run.learned.named_parameters() if torch.equal(before[n], p)]
    assert not [name for name in still if not name.endswith("in_proj_bias")]


def test_a_subject_step_leaves_motion_and_adapter_to_the_bit(engine, lesson, tmp_path) -> None:
    run = new_run(engine, lesson, tmp_path)
    on_steps(run, True, True)
    assert run.optimiser.state[run.dual.e_mot]["exp_avg"].any(), "there is momentum to move it"
    before = {part: values(run, part) for part in run.parts}
    on_steps(run, False)
    moved = {part for part in run.parts if changed(before[part], run, part)}
    assert moved == {"sub", "refiner"}


def test_a_zero_gradient_in_place_of_none_would_move_what_is_frozen(
    engine, lesson, tmp_path, monkeypatch
) -> None:
    run = new_run(engine, lesson, tmp_path)
    on_steps(run, True, True)
    before = values(run, "mot")
    held = run.held

    def zeros():
        for parameter in held():
            parameter.grad = torch.zeros_like(parameter)
        return ()

    monkeypatch.setattr(run, "held", zeros)
    on_steps(run, False)
    assert changed(before, run, "mot"), "this is why held parameters lose their gradient"


@pytest.mark.parametrize("residual", ["detach", "omit"])
def test_no_gradient_of_a_subject_step_reaches_the_motion(
    residual: str, engine, lesson, tmp_path
) -> None:
    run = new_run(engine, lesson, tmp_path, spv_motion_residual=residual)
    on_steps(run, True)
    run._on_motion[run.step] = False
    with run.installed():
        run.loss().backward()
    assert all(parameter.grad is None for parameter in run.parts["mot"])
    assert run.dual.e_sub.grad.any()


def test_alpha_is_the_share_of_motion_steps() -> None:
    assert abs(motion_steps(settings(steps=2000)).sum() - 1500) < 60
    assert motion_steps(settings(steps=50, alpha=1.0)).all()
    assert not motion_steps(settings(steps=50, alpha=0.0)).any()
    assert motion_steps(settings(steps=50, parts=("lora",))).all(), "subjects would teach nothing"


def test_alpha_one_needs_no_subjects_and_alpha_zero_never_moves_the_motion(
    engine, reference, lesson, tmp_path
) -> None:
    alone = prepare_synmotion([reference], settings(alpha=1.0, spv="nowhere"), engine.backbone)
    assert alone.subjects is None
    run = new_run(engine, lesson, tmp_path, alpha=0.0)
    before = {part: values(run, part) for part in run.parts}
    for _ in range(3):
        run.advance()
    assert not changed(before["mot"], run, "mot") and changed(before["sub"], run, "sub")


@pytest.mark.parametrize(
    "parts", [("mot",), ("mot", "sub"), ("mot", "sub", "refiner"), ("lora",), ("sub", "lora")]
)
def test_every_row_of_the_ablation_tables_can_be_learned(parts, engine, lesson, tmp_path) -> None:
    run = new_run(engine, lesson, tmp_path, parts=parts)
    assert {part for part, params in run.parts.items() if params} == set(parts)
    on_steps(run, True, True)
    assert np.isfinite(run.losses).all()
    run.save_motion(tmp_path / "x.safetensors", MotionMetadata("x", "is moving", "b"))
    loaded = MotionPack.load(tmp_path / "x.safetensors")
    assert (loaded.adapter is not None) == ("lora" in parts)
    assert (loaded.branch.motion is not None) == ("mot" in parts)


def test_a_killed_and_resumed_training_is_an_undisturbed_one(engine, reference, tmp_path) -> None:
    config = settings(alpha=0.5, caption_dropout=0.3)
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    motion = train_motion([reference], config, engine=engine, out=whole)
    assert motion.method == "synmotion" and motion.has_pack and not motion.has_tokens

    def killed(report) -> None:
        if report.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_motion([reference], config, engine=engine, out=broken, on_progress=killed)
    steps = []
    train_motion(
        [reference],
        replace(config, validate_every=2, validation_steps=1),
        engine=engine,
        out=broken,
        on_progress=lambda report: steps.append((report.step, report.validation is not None)),
    )
    assert steps == [(3, False), (4, True)]
    one, two = MotionPack.load(whole), MotionPack.load(broken)
    for a, b in zip(one._tensors().values(), two._tensors().values(), strict=True):
        assert torch.equal(a, b)


def test_a_dropped_text_encoder_is_read_once_and_changes_no_bit_of_what_is_learned(
    engine, reference, tiny_checkpoint, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(prompts, "REMEMBERED", 2)  # fewer than the prompts of a training
    dropping = MotionEngine.load(
        tiny_checkpoint, device="cpu", acceleration=Acceleration(keep_text_encoder=False)
    )
    readings = []
    read = dropping.backbone._read_text_encoder
    dropping.backbone._read_text_encoder = lambda: readings.append(1) or read()
    config = settings(alpha=0.5, caption_dropout=0.3)
    losses = {}
    for name, one in (("kept", engine), ("dropped", dropping)):
        told = losses[name] = []
        train_motion(
            [reference],
            config,
            engine=one,
            out=tmp_path / f"{name}.safetensors",
            on_progress=lambda report, told=told: told.append(report.loss),
        )
    assert losses["kept"] == losses["dropped"] and len(losses["kept"]) == 4
    assert readings == [1] and dropping.backbone.pipe.text_encoder is None
    packs = [MotionPack.load(tmp_path / f"{name}.safetensors") for name in losses]
    for a, b in zip(*(pack._tensors().values() for pack in packs), strict=True):
        assert torch.equal(a, b)


def test_words_read_apart_do_not_know_of_each_other(engine: MotionEngine) -> None:
    prompts = ["A red fox is moving.", "A red fox is up."]
    clauses = [Clause(motion=(3, 5), subject=(1, 3))] * 2
    joint = engine.backbone.prompts.encode_all(prompts)
    apart = engine.backbone.prompts.encode_all(prompts, apart=[[clause] for clause in clauses])
    for one, other in zip(joint, apart, strict=True):
        changed = (one != other).any(dim=2)[0].nonzero()[:, 0].tolist()
        assert changed == [1, 2, 3, 4], "every other word is read in its sentence"
    fox = engine.backbone.prompts.encode_all(["red fox"])[0]
    assert torch.equal(apart[0][:, 1:3], fox[:, :2]) and torch.equal(apart[1][:, 1:3], fox[:, :2])
    assert not torch.equal(joint[0][:, 1:3], joint[1][:, 1:3])
    again = engine.backbone.prompts.encode_all(prompts)
    assert all(torch.equal(a, b) for a, b in zip(joint, again, strict=True)), "nothing is kept"


def test_words_that_are_other_tokens_alone_are_refused(engine: MotionEngine) -> None:
    with pytest.raises(RequestError, match="read as other tokens alone"):
        engine.backbone.prompts.encode_all(["A redfox is moving."], apart=[[Clause(motion=(3, 5))]])


def test_what_is_learned_apart_is_read_apart_again(engine, reference, motions, tmp_path) -> None:
    config = settings(encoding="apart", alpha=0.5)
    told = prepare_synmotion([reference], config, engine.backbone)
    fox, moving = (
        engine.backbone.prompts.encode_all([words])[0][0] for words in ("red fox", "is moving")
    )
    (subject, motion), text = told.motion.clauses[0].spans, told.motion.texts[0]
    assert torch.equal(text[slice(*subject)], fox[:2])
    assert torch.equal(text[slice(*motion)], moving[:2])
    assert torch.equal(told.init_states, moving[:2])
    pieces = MotionPack.load(motions["hop"].path).pieces
    made = {}
    for apart in (False, True):
        pack = replace(MotionPack.load(motions["hop"].path), apart=apart)
        file = tmp_path / f"{apart}.safetensors"
        pack.save(file, MotionMetadata("hop", "is moving", engine.fingerprint), layers=2, width=32)
        loaded = MotionPack.load(file)
        assert (loaded.apart, loaded.pieces) == (apart, pieces)
        made[apart] = engine.generate(scene(read_motion(file))).latents
    assert not np.array_equal(made[True], made[False])
    learned = train_motion([reference], config, engine=engine, out=tmp_path / "apart.safetensors")
    assert MotionPack.load(learned.path).apart


def test_training_leaves_the_model_alone(engine, lesson, tmp_path) -> None:
    before = predicted(engine)
    run: LearningRun = new_run(engine, lesson, tmp_path)
    run.advance()
    assert torch.equal(before, predicted(engine))


def test_settings_that_cannot_be_are_named() -> None:
    for wrong in (
        {"alpha": 1.5},
        {"parts": ()},
        {"parts": ("all",)},
        {"zero_conv": "none"},
        {"encoding": "together"},
        {"init_prompt": "a person claps"},
        {"refiner_width": 15},
        {"adapted": ("to_x",)},
        {"image_noise": (1.0,)},
        {"rank": 0},
    ):
        with pytest.raises(RequestError):
            settings(**wrong)


# The subject prior videos


def test_rendered_subjects_never_show_the_motion_itself(engine: MotionEngine) -> None:
    config = settings(name="jump", spv_clips=12)
    found = find_subjects(config, engine.geometry, folder=engine.backbone.checkpoint.folder)
    assert len(found) == 12 and not any("jumps" in subject.prompt for subject in found)
    assert len({subject.motion for subject in found}) > 5
    assert all(s.subject in s.prompt and s.motion in s.prompt for s in found)


def test_subjects_made_from_pictures_are_read_back_without_the_motion(engine, tmp_path) -> None:
    import cv2

    picture = tmp_path / "red-fox.png"
    cv2.imwrite(str(picture), np.full((HEIGHT, WIDTH, 3), 120, np.uint8))
    out = tmp_path / "made"
    make_subjects([picture], engine, out, actions=("walks", "is jumping"), steps=1)
    found = read_subjects(out, fps=8.0, exclude=("is jumping",))
    assert [(s.subject, s.motion, s.prompt) for s in found] == [
        ("red fox", "walks", "A red fox walks.")
    ]
    assert found[0].clip.frames.shape[0] == 13
    line = (
        (out / MANIFEST).read_text(encoding="utf-8").split("\n")[0].replace("fox w", "fox\u2028 w")
    )
    (out / MANIFEST).write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\r\n".encode())
    assert [s.subject for s in read_subjects(out, fps=8.0)] == ["red fox"]
    with pytest.raises(RequestError, match="make-spv"):
        find_subjects(settings(spv=None), engine.geometry, folder=tmp_path)
    (out / MANIFEST).write_text('{"video": "x"}\n')
    with pytest.raises(RequestError, match="line 1"):
        read_subjects(out, fps=8.0)


# Files


def test_a_pack_read_back_is_the_same(engine, motions, tmp_path) -> None:
    text = torch.randn(TEXT, 32)
    assert torch.equal(
        embedding(0).fold()(text, CLAUSE), MotionPack.load(motions["hop"].path).branch(text, CLAUSE)
    )
    library = Library([motions["hop"].path.parent])
    assert {m.name: m.method for m in library.list()} == {
        "full": "both",
        "hop": "synmotion",
        "old": "fleximmt",
        "turn": "synmotion",
    }
    parcel = library.export_file(motions["full"], tmp_path)
    moved = check_motion_file(parcel, base=engine.fingerprint, layers=2, width=32)
    assert moved.has_pack and moved.has_tokens
    assert MotionTokens.load(parcel).tokens == 4 and MotionPack.load(parcel).pieces


def damaged(motions: dict[str, Motion], tmp_path: Path, change) -> Path:
    """A copy of "hop" whose tensors and metadata ``change`` has had in hand."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(motions["hop"].path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(motions["hop"].path)
    change(tensors, metadata)
    save_file(tensors, tmp_path / "bad.safetensors", metadata=metadata)
    return tmp_path / "bad.safetensors"


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, said: tensors.pop("synmotion.z_ref.bias"),
        lambda tensors, said: tensors.update({"synmotion.extra": torch.zeros(2)}),
        lambda tensors, said: tensors.update({"synmotion.motion": torch.zeros(5, 32)}),
        lambda tensors, said: tensors.update({"synmotion.motion": torch.full((2, 32), np.nan)}),
        lambda tensors, said: tensors.update({"synmotion.adapter.to_q.up": torch.zeros(2, 32, 9)}),
        lambda tensors, said: said.update(synmotion="{}"),
        lambda tensors, said: said.update(synmotion='{"pieces": [1, 2], "heads": 3, "scale": 1}'),
        lambda tensors, said: said.pop("synmotion"),
        lambda tensors, said: said.update(method="fleximmt"),
        lambda tensors, said: said.update(base="0" * 64),
    ],
)
def test_a_broken_pack_is_refused(change, engine, motions, tmp_path) -> None:
    path = damaged(motions, tmp_path, change)
    with pytest.raises(MotionFileError, match=r"bad\.safetensors"):
        MotionPack.load(
            path,
            layers=engine.backbone.attention_layers(),
            text_width=32,
            base=engine.fingerprint,
        )


def test_a_pack_without_its_words_or_with_strange_tensors_does_not_get_into_the_library(
    motions, tmp_path
) -> None:
    path = damaged(motions, tmp_path, lambda tensors, said: tensors.clear())
    with pytest.raises(MotionFileError):
        check_motion_file(path)
    path = damaged(
        motions, tmp_path, lambda tensors, said: tensors.update({"layers.0.x": torch.zeros(1)})
    )
    with pytest.raises(MotionFileError, match="unexpected"):
        check_motion_file(path)


# Generation


def test_strength_zero_of_a_lone_motion_is_the_stock_video(engine, motions) -> None:
    request = scene(motions["hop"])
    silent = replace(request.objects[0], strength=0.0)
    stock = engine.generate(scene(motions["hop"], method="none")).latents
    assert np.array_equal(engine.generate(replace(request, objects=(silent,))).latents, stock)
    assert not np.array_equal(engine.generate(request).latents, stock)
    assert np.array_equal(engine.generate(scene(motions["hop"], method="none")).latents, stock)


def test_each_part_acts_and_without_all_of_them_the_model_is_the_stock_one(engine, motions) -> None:
    full = engine.generate(scene(motions["hop"])).latents
    parts = ("mot", "sub", "refiner", "lora")
    for part in parts:
        without = scene(motions["hop"], without=frozenset({part}))
        assert not np.array_equal(full, engine.generate(without).latents), part
    bare = engine.generate(scene(motions["hop"], without=frozenset(parts))).latents
    stock = engine.generate(scene(motions["hop"], method="none")).latents
    assert np.array_equal(bare, stock)


@pytest.mark.parametrize("method", ["synmotion", "lora-average"])
def test_swapping_two_motions_makes_another_video(method: str, engine, motions) -> None:
    one, two = motions["hop"], motions["turn"]
    a, b = (engine.generate(scene(*pair, method=method)) for pair in ((one, two), (two, one)))
    assert np.isfinite(a.latents).all() and not np.array_equal(a.latents, b.latents)


def test_averaged_adapters_are_not_the_gated_ones(engine, motions) -> None:
    pair = motions["hop"], motions["turn"]
    gated = engine.generate(scene(*pair)).latents
    averaged = engine.generate(scene(*pair, method="lora-average")).latents
    opened = engine.generate(scene(*pair, without=frozenset({"infer_mask"}))).latents
    assert not np.array_equal(gated, averaged)
    assert np.array_equal(averaged, opened), "no masks at all is what averaging is"


def test_tokens_and_pack_of_one_file_act_together(engine, motions) -> None:
    chosen = motions["full"], motions["full"]
    made = {
        method: engine.generate(scene(*chosen, method=method)).latents
        for method in ("fleximmt", "synmotion", "both")
    }
    assert not np.array_equal(made["both"], made["fleximmt"])
    assert not np.array_equal(made["both"], made["synmotion"])


def test_masks_taken_from_names_move_the_adapters_too(engine, motions) -> None:
    pair = motions["hop"], motions["turn"]
    made = engine.generate(scene(*pair, without=frozenset({"rmpm"}), steps=3))
    assert np.isfinite(made.latents).all()
    assert not np.array_equal(made.latents, engine.generate(scene(*pair, steps=3)).latents)


@pytest.mark.parametrize(
    ("method", "name", "words"),
    [
        ("synmotion", "old", "needs embeddings.*these have them: full, hop, turn"),
        ("fleximmt", "hop", "needs motion tokens.*these have them: full, old"),
        ("both", "hop", "needs motion tokens.*these have them: full, old"),
        ("lora-average", "old", "these have them: full, hop, turn"),
    ],
)
def test_a_motion_that_lacks_what_the_method_needs_is_refused_and_others_named(
    method: str, name: str, words: str, engine, motions
) -> None:
    request = scene(motions[name], method=method)
    with pytest.raises(RequestError, match=words):
        check_method(request, library=Library([motions[name].path.parent]))
    with pytest.raises(RequestError, match="lacks"):
        engine.generate(request)
