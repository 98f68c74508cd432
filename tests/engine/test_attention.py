"""Who sees whom, and that attending by parts is exactly masked attention."""

import math

import pytest
import torch
from tiny_models import attention_layers, tiny_pipeline

from motion_app.engine.attention import AttentionPlan, attend, noun_mask, positions
from motion_app.engine.layout import SequenceLayout
from motion_app.engine.motion_tokens import MotionTokens
from motion_app.engine.steering import GenerationSteering, TrainingSample, TrainingSteering, steered
from motion_app.engine.visibility import visibility
from motion_app.errors import RequestError
from motion_app.methods import ABLATIONS

CASES = [("released", ()), ("paper", ()), ("released", ("m2v", "t2t")), ("paper", ("t2x",))]
CASES += [("released", (name,)) for name in ABLATIONS]


def random_scene(seed: int) -> tuple[SequenceLayout, torch.Tensor]:
    """1 to 5 objects, some without a motion, with overlapping, empty and full masks."""
    draw = torch.Generator().manual_seed(seed)
    objects = 1 + seed % 5
    phrases, motion, start = [], [], 1
    for k in range(objects):
        length = int(torch.randint(1, 4, (1,), generator=draw))
        moves = k == 0 or bool(torch.rand(1, generator=draw) < 0.75)
        phrases.append((start, start + length) if moves else None)
        motion.append(int(torch.randint(1, 5, (1,), generator=draw)) if moves else 0)
        start += length + 1
    grid = (3, 4, 3)
    masks = torch.rand(objects, *grid, generator=draw) < 0.4
    if seed % 3 == 0:
        masks[-1] = False
    if seed % 4 == 0:
        masks[0] = True
    return SequenceLayout(text=start + 2, phrases=phrases, motion=motion, grid=grid), masks


def may_see(layout, masks, scope, without) -> torch.Tensor:
    """The definition, token by token, apart from the code it tests: bool (queries, keys)."""
    opened = set(without)
    opened |= {"m2v", "m2m"} if "m2x" in opened else set()
    opened |= {"t2v", "t2t", "t2m"} if "t2x" in opened else set()

    def text(position):
        for k in layout.steered:
            start, stop = layout.phrases[k]
            if start <= position < stop:
                return ("phrase", {k})
        return ("free", set())

    flat = masks.flatten(1)
    texts = [text(position) for position in range(layout.text)]
    videos = [("video", {k for k in layout.steered if flat[k, v]}) for v in range(layout.video)]
    motions = [("motion", {k}) for k, m in enumerate(layout.motion) for _ in range(m)]

    def allowed(query, key):
        kinds = {query[0], key[0]}
        shared = bool(query[1] & key[1])
        if "infer_mask" in opened or kinds in ({"free"}, {"video"}, {"free", "phrase"}):
            return True
        if kinds == {"free", "video"}:
            return scope == "released"
        if kinds == {"free", "motion"}:
            return "t2m" in opened
        name = {
            frozenset({"phrase"}): "t2t",
            frozenset({"phrase", "motion"}): "t2m",
            frozenset({"phrase", "video"}): "t2v",
            frozenset({"video", "motion"}): "m2v",
        }[frozenset(kinds)]
        return shared or name in opened

    owned = (part for k in range(layout.objects) for part in (("phrase", {k}), ("motion", {k})))
    own = [
        part
        for part in owned
        for _ in range((texts if part[0] == "phrase" else motions).count(part))
    ]
    free = [part for part in texts if part[0] == "free"]
    rows = [[allowed(q, k) for k in free + videos + own] for q in texts + videos]
    return torch.tensor(rows)


def random_tokens(layout: SequenceLayout, batch: int = 2) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(7)
    sizes = (layout.queries, layout.keys, layout.keys)
    return tuple(torch.randn(batch, 2, size, 16, generator=draw) for size in sizes)


def masked_softmax(query, key, value, seen, bias=0.0) -> torch.Tensor:
    logits = query.double() @ key.double().mT / math.sqrt(query.shape[-1]) + bias
    return logits.masked_fill(~seen, -torch.inf).softmax(-1) @ value.double()


def seen_by(plan: AttentionPlan) -> torch.Tensor:
    """What a plan lets every query row see, bool (queries, keys), without keys of no weight."""
    seen = torch.zeros(plan.layout.queries, plan.layout.keys, dtype=torch.bool)
    seen[:, plan.common] = True
    for part in plan.own:
        rows, keys = (positions(index, seen.device) for index in (part.rows, part.keys))
        seen[rows[:, None], keys if part.bias is None else keys[part.bias > -1000]] = True
    seen[plan.narrow] = plan.logits > -math.inf
    return seen


@pytest.mark.parametrize(("scope", "without"), CASES)
@pytest.mark.parametrize("seed", range(10))
def test_attention_by_parts_equals_masked_attention_in_double_precision(scope, without, seed):
    layout, masks = random_scene(seed)
    query, key, value = random_tokens(layout)
    plan = AttentionPlan.build(layout, masks, scope=scope, without=without)
    expected = masked_softmax(query, key, value, may_see(layout, masks, scope, without))
    assert (attend(query, key, value, plan) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("scope", ["released", "paper"])
@pytest.mark.parametrize("objects", [0, 1, 3])
def test_the_table_is_symmetric_and_names_every_set_of_objects(scope, objects):
    names, table = visibility(objects, scope=scope)
    assert len(names) == len(set(names)) == 1 + 2 * objects + 2**objects
    assert names[1 + 2 * objects] == "video_{}"
    assert table.dtype == bool and (table == table.T).all() and table.diagonal().all()


def test_the_table_says_what_the_method_says():
    names, table = visibility(2)
    see = {(a, b): table[i, j] for i, a in enumerate(names) for j, b in enumerate(names)}
    assert see["free", "phrase_1"] and not see["free", "motion_0"] and see["free", "video_{0,1}"]
    assert not see["phrase_0", "phrase_1"] and not see["phrase_0", "motion_1"]
    assert see["phrase_0", "video_{0,1}"] and not see["phrase_0", "video_{1}"]
    assert see["motion_1", "video_{0,1}"] and not see["motion_1", "video_{}"]
    assert not see["motion_0", "motion_1"] and see["video_{0}", "video_{1}"]
    paper = visibility(2, scope="paper")[1]
    assert not paper[names.index("free"), names.index("video_{}")]


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_only_ever_opens(name):
    closed, opened = visibility(3)[1], visibility(3, without=(name,))[1]
    assert (opened >= closed).all()
    assert (opened > closed).any() == (name not in ("rmpm", "step0_mask"))


def test_unknown_names_are_refused_with_the_valid_ones():
    with pytest.raises(RequestError, match=r'"m2z".*m2v, m2m, t2v, t2t, t2m, m2x, t2x'):
        visibility(1, without=("m2z",))
    with pytest.raises(RequestError, match=r'"papers".*released, paper'):
        visibility(1, scope="papers")


@pytest.mark.parametrize("scope", ["released", "paper"])
def test_without_any_motion_it_is_the_stock_attention_bit_for_bit(scope):
    layout = SequenceLayout(text=5, phrases=[None, None], motion=[0, 0], grid=(2, 3, 3))
    masks = torch.ones(2, 2, 3, 3, dtype=torch.bool)
    query, key, value = random_tokens(layout)
    plan = AttentionPlan.build(layout, masks, scope=scope)
    stock = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert torch.equal(attend(query, key, value, plan), stock)


@pytest.mark.parametrize("without", [(), ("t2v",), ("t2t",), ("t2m",), ("t2x",)])
def test_no_video_token_outside_an_object_sees_its_motion(without):
    for seed in range(12):
        layout, masks = random_scene(seed)
        seen = seen_by(AttentionPlan.build(layout, masks, without=without))[layout.video_rows]
        for k in layout.steered:
            inside = masks[k].flatten()
            assert not seen[~inside][:, layout.motion_keys(k)].any()
            assert seen[inside][:, layout.motion_keys(k)].all()


def test_changing_a_motion_changes_nothing_outside_its_object():
    layout, masks = random_scene(1)
    query, key, value = random_tokens(layout)
    plan = AttentionPlan.build(layout, masks)
    before = attend(query, key, value, plan)
    key[:, :, layout.motion_keys(0)] += 1.0
    moved = (attend(query, key, value, plan) != before).any(-1).any(1).any(0)
    assert torch.equal(moved[layout.video_rows], masks[0].flatten())


def test_swapping_two_objects_motions_swaps_what_they_do():
    phrases, grid = [(1, 3), (4, 6)], (2, 3, 4)
    masks = torch.zeros(2, *grid, dtype=torch.bool)
    masks[0, :, :, :1], masks[1, :, :, 2:] = True, True
    layout = SequenceLayout(text=8, phrases=phrases, motion=[3, 3], grid=grid)
    query, key, value = random_tokens(layout)
    swap = torch.arange(layout.keys)
    one, other = (swap[layout.motion_keys(k)].clone() for k in range(2))
    swap[layout.motion_keys(0)], swap[layout.motion_keys(1)] = other, one
    swapped_motions = attend(
        query, key[:, :, swap], value[:, :, swap], AttentionPlan.build(layout, masks)
    )
    other_way = SequenceLayout(text=8, phrases=phrases[::-1], motion=[3, 3], grid=grid)
    order = torch.arange(layout.keys)  # the same motions, each behind the other phrase
    one, other = (order[layout.phrase_keys(k)].clone() for k in range(2))
    order[layout.phrase_keys(0)], order[layout.phrase_keys(1)] = other, one
    swapped_objects = attend(
        query, key[:, :, order], value[:, :, order], AttentionPlan.build(other_way, masks.flip(0))
    )
    assert torch.allclose(swapped_motions, swapped_objects, atol=1e-6)
    assert not torch.allclose(
        swapped_motions, attend(query, key, value, AttentionPlan.build(layout, masks)), atol=1e-3
    )


@pytest.mark.parametrize("without", [(), ("m2v",), ("infer_mask",)])
def test_strength_weighs_the_motion_keys_by_its_factor(without):
    layout, masks = random_scene(2)
    query, key, value = random_tokens(layout)
    strengths = [0.25 + k for k in range(layout.objects)]
    bias = torch.zeros(layout.keys, dtype=torch.double)
    for k, strength in enumerate(strengths):
        bias[layout.motion_keys(k)] = math.log(strength)
    plan = AttentionPlan.build(layout, masks, without=without, strengths=strengths)
    seen = may_see(layout, masks, "released", without)
    expected = masked_softmax(query, key, value, seen, bias)
    assert (attend(query, key, value, plan) - expected).abs().max() < 1e-5


def test_strength_zero_drops_the_keys_and_strength_one_changes_no_bit():
    layout, masks = random_scene(4)
    query, key, value = random_tokens(layout)
    plain = attend(query, key, value, AttentionPlan.build(layout, masks))
    ones = AttentionPlan.build(layout, masks, strengths=[1.0] * layout.objects)
    assert torch.equal(attend(query, key, value, ones), plain)
    seen = may_see(layout, masks, "released", ())
    for k in layout.steered:
        seen[:, layout.motion_keys(k)] = False
    zeros = AttentionPlan.build(layout, masks, strengths=[0.0] * layout.objects)
    expected = masked_softmax(query, key, value, seen)
    assert (attend(query, key, value, zeros) - expected).abs().max() < 1e-5
    with pytest.raises(RequestError, match="strength of object 0 is -1"):
        AttentionPlan.build(layout, masks, strengths=[-1.0] * layout.objects)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scope", ["released", "paper"])
def test_the_gradient_is_that_of_masked_attention(scope, seed):
    layout, masks = random_scene(seed)
    strengths = [0.5 + k for k in range(layout.objects)]
    bias = torch.zeros(layout.keys, dtype=torch.double)
    for k, strength in enumerate(strengths):
        bias[layout.motion_keys(k)] = math.log(strength)
    seen = may_see(layout, masks, scope, ())
    plan = AttentionPlan.build(layout, masks, scope=scope, strengths=strengths)
    tokens = [part.double().requires_grad_() for part in random_tokens(layout)]
    found, expected = attend(*tokens, plan), masked_softmax(*tokens, seen, bias)
    assert torch.allclose(found, expected, atol=1e-6)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).double()
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), tokens),
        torch.autograd.grad((expected * weights).sum(), tokens),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_call_over_most_keys_depends_on_no_mask():
    layout, masks = random_scene(1)
    for part in (masks, ~masks, masks.flip(1)):
        plan = AttentionPlan.build(layout, part)
        assert plan.common == slice(0, layout.video_keys.stop)


def test_tensors_of_another_layout_are_refused_with_their_shapes():
    layout, masks = random_scene(1)
    query, key, value = random_tokens(layout)
    with pytest.raises(ValueError, match="got query"):
        attend(query[:, :, 1:], key, value, AttentionPlan.build(layout, masks))


def test_the_noun_finds_the_keys_that_point_its_way():
    grid, object_mask = (3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.bool)
    object_mask[:, 1:3, :2] = True
    direction = torch.nn.functional.normalize(torch.randn(2, 8), dim=-1)
    query = torch.zeros(2, 5 + 48, 8)
    query[:, 2:4] = direction[:, None]
    key = object_mask.flatten()[None, :, None] * direction[:, None]
    assert torch.equal(noun_mask(query, key, grid, (2, 4)), object_mask)


def test_dropping_lets_go_the_asked_share_and_adds_nothing():
    query, key, grid = torch.randn(2, 54, 8), torch.randn(2, 50, 8), (2, 5, 5)
    whole = noun_mask(query, key, grid, (0, 3))
    draws = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    kept = [noun_mask(query, key, grid, (0, 3), drop=0.3, generator=draw) for draw in draws]
    assert not (kept[0] & ~whole).any()
    assert kept[0].sum() == whole.sum() - int(0.3 * int(whole.sum()))
    assert torch.equal(kept[0], kept[1]) and not torch.equal(kept[0], kept[2])


class LayerInputs:
    """One attention layer of the tiny model with inputs: 24 text and 24 video tokens."""

    def __init__(self) -> None:
        self.transformer = tiny_pipeline().transformer
        self.layers = attention_layers(self.transformer)
        self.attn = self.layers[0].module
        self.grid = (2, 3, 4)
        self.video, self.text = torch.randn(2, 24, 32), torch.randn(2, 24, 32)
        self.layout = SequenceLayout(text=24, phrases=[(2, 4)], motion=[5], grid=self.grid)
        self.tokens = MotionTokens.fresh(
            layers=2, tokens=5, width=32, scale=1.0, distribution="normal"
        )
        self.rope = tuple(torch.randn(24, 16) for _ in range(2))

    def run(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.attn(self.video, encoder_hidden_states=self.text, image_rotary_emb=self.rope)


def test_the_processor_without_motion_is_the_stock_one():
    inputs = LayerInputs()
    stock = inputs.run()
    layout = SequenceLayout(text=24, phrases=[], motion=[], grid=inputs.grid)
    nothing = [(torch.zeros(1, 2, 0, 16), torch.zeros(1, 2, 0, 16))] * 2
    steering = GenerationSteering(layout, torch.zeros(0, 2, 3, 4).bool(), nothing, halves=[()])
    with steered(inputs.layers, steering):
        ours = inputs.run()
    assert all(torch.equal(one, other) for one, other in zip(stock, ours, strict=True))


def test_generation_and_training_share_one_attention():
    inputs = LayerInputs()
    masks = torch.rand(1, *inputs.grid) < 0.5
    generation = GenerationSteering(
        inputs.layout,
        masks,
        inputs.tokens.key_values(inputs.layers),
        halves=[(1.0,)],
        without=("t2v", "t2t"),
    )
    training = TrainingSteering(inputs.tokens.project)
    training.begin([TrainingSample(inputs.layout, object_masks=masks)] * 2)
    outputs = []
    for steering in (generation, training):
        with steered(inputs.layers, steering), torch.no_grad():
            outputs.append(inputs.run()[0])
    assert torch.allclose(*outputs, atol=1e-6)


def test_the_unconditional_half_can_go_without_motion():
    inputs = LayerInputs()
    masks = torch.ones(1, *inputs.grid, dtype=torch.bool)
    results = {}
    for name, scale in (("one", 1.0), ("other", 2.0)):
        pairs = [(k * scale, v * scale) for k, v in inputs.tokens.key_values(inputs.layers)]
        steering = GenerationSteering(inputs.layout, masks, pairs, halves=[(0.0,), (1.0,)])
        with steered(inputs.layers, steering), torch.no_grad():
            results[name] = inputs.run()[0]
    assert torch.equal(results["one"][0], results["other"][0])
    assert not torch.allclose(results["one"][1], results["other"][1], atol=1e-4)


def test_features_are_the_mean_output_of_the_conditional_half():
    inputs = LayerInputs()
    masks = torch.ones(1, *inputs.grid, dtype=torch.bool)
    pairs = inputs.tokens.key_values(inputs.layers)
    steering = GenerationSteering(inputs.layout, masks, pairs, halves=[(1.0,)], feature_layers=1)
    with steered(inputs.layers, steering), torch.no_grad():
        output = inputs.run()[0]
    assert torch.equal(steering.features(), output[1].view(2, 3, 4, 32))


@pytest.mark.parametrize("noun", [(5, 7), None])
def test_gradient_reaches_the_motion_tokens_and_nothing_else(noun):
    inputs = LayerInputs()
    inputs.transformer.requires_grad_(False)
    training = TrainingSteering(inputs.tokens.project, generator=torch.Generator().manual_seed(0))
    training.begin([TrainingSample(inputs.layout, noun=noun)] * 2)
    with steered(inputs.layers, training):
        inputs.run()[0].square().mean().backward()
    assert inputs.tokens.layers[0].grad.abs().min() > 0
    assert inputs.tokens.layers[1].grad is None
    assert all(weight.grad is None for weight in inputs.transformer.parameters())


def test_a_layer_run_again_for_its_gradient_meets_the_same_masks_and_a_new_step_new_ones():
    inputs = LayerInputs()
    training = TrainingSteering(inputs.tokens.project, generator=torch.Generator().manual_seed(0))
    outputs = []
    with steered(inputs.layers, training), torch.no_grad():
        for begins in (True, False, True):
            if begins:
                training.begin([TrainingSample(inputs.layout, noun=(5, 7))] * 2)
            outputs.append(inputs.run()[0])
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_the_processors_found_come_back_after_an_error():
    inputs = LayerInputs()
    transformer = inputs.transformer
    before = dict(transformer.attn_processors)
    with pytest.raises(KeyError), steered(inputs.layers, TrainingSteering(lambda _: None)):
        assert all(transformer.attn_processors[name] is not before[name] for name in before)
        raise KeyError("anything")
    assert all(transformer.attn_processors[name] is before[name] for name in before)


@pytest.mark.parametrize("compiled", [False, True])
def test_without_masks_on_step_0_the_picture_sees_no_motion_until_there_are_masks(compiled):
    """The authors' release: phrases see the whole picture, motions nothing but their phrase."""
    for seed in range(6):
        layout, masks = random_scene(seed)
        nothing = [(torch.zeros(1, 2, sum(layout.motion), 8),) * 2]
        steering = GenerationSteering(
            layout, masks, nothing, halves=[(1.0,) * layout.objects], without={"step0_mask"}
        )
        if compiled:
            steering.fix_shapes()
        query = torch.zeros(1, 2, layout.queries, 8)
        seen = seen_by(steering.plans(0, query, query)[0])
        assert torch.equal(seen, released_start(layout, masks))
        steering.set_masks(masks)
        later = seen_by(steering.plans(0, query, query)[0])
        assert torch.equal(later, may_see(layout, masks, "released", ()))


def released_start(layout: SequenceLayout, masks: torch.Tensor) -> torch.Tensor:
    """The definition of step 0: the table with every mask empty, but that phrases and video see
    each other."""
    return may_see(layout, torch.zeros_like(masks), "released", ("t2v",))
