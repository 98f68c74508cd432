"""From request JSON to a GenerationRequest, and each phrase to its tokens."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from tiny_models import tiny_tokenizer
from transformers import T5TokenizerFast

from motion_app.engine.visibility import OPENS
from motion_app.errors import MediaError, MotionAppError, MotionFileError, RequestError
from motion_app.geometry import ModelGeometry
from motion_app.library.library import Library
from motion_app.methods import ABLATIONS
from motion_app.models.checkpoint import Checkpoint
from motion_app.request.phrases import PromptTokenizer, find_phrases
from motion_app.request.request import build_request, checked_request, parse_request
from motion_app.request.written import request_to_json
from motion_app.scene import GenerationRequest, Motion, Options, SceneObject
from motion_app.wording import as_read

SIZES = ModelGeometry(
    height=64,
    width=96,
    frames=9,
    fps=8.0,
    latent_frames=3,
    grid_height=8,
    grid_width=12,
    text_tokens=24,
    layers=2,
    heads=2,
    head_dim=16,
    width_tokens=32,
    latent_channels=4,
    spatial_ratio=4,
    temporal_ratio=4,
    patch_size=2,
)
BASE = "a" * 64
JUMP = Motion("jump", "is moving", Path("jump.safetensors"), BASE)


def block(y: int = 16, x: int = 16, side: int = 24, shape=(64, 96)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[y : y + side, x : x + side] = True
    return mask


def save_mask(folder: Path, name: str, mask: np.ndarray) -> str:
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / name)
    return name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture, two masks, and a library with the motions jump and walk."""
    Image.fromarray(np.full((64, 96, 3), 120, np.uint8)).save(tmp_path / "image.png")
    save_mask(tmp_path, "robot.png", block(x=8))
    save_mask(tmp_path, "fox.png", block(x=60))
    for name in ("jump", "walk"):
        metadata = {
            "format": "motion-tokens/1",
            "name": name,
            "phrase": "is moving",
            "method": "fleximmt",
            "base": BASE,
        }
        save_file({"x": np.zeros(1)}, tmp_path / f"{name}.safetensors", metadata=metadata)
    return tmp_path


def entries(**changes) -> dict:
    """A good request of two objects."""
    return {
        "image": "image.png",
        "objects": [
            {
                "mask": "robot.png",
                "sentence": "A red robot is moving.",
                "phrase": "is moving",
                "motion": "jump",
                "strength": 1.0,
            },
            {"mask": "fox.png", "sentence": "A blue fox is moving.", "motion": "walk"},
        ],
        "seed": 0,
    } | changes


def one_object(**changes) -> dict:
    """A request of one object with some keys changed."""
    only = {"mask": "robot.png", "sentence": "A red robot is moving.", "motion": "jump"}
    return entries(objects=[only | changes])


def build(folder: Path, request: dict, base: str | None = BASE) -> GenerationRequest:
    return build_request(
        parse_request(request),
        geometry=SIZES,
        library=Library([folder]),
        base=base,
        folder=folder,
    )


def test_a_good_request_becomes_arrays_and_motions(folder):
    request = build(folder, entries())
    assert request.image.shape == (64, 96, 3)
    assert [item.motion.name for item in request.objects] == ["jump", "walk"]
    assert np.array_equal(request.objects[1].mask, block(x=60))
    chosen = request.options
    assert (chosen.seed, chosen.steps, chosen.guidance) == (0, None, None)
    assert request.full_prompt() == "A red robot is moving. A blue fox is moving."


def test_a_request_is_read_from_a_file_too(folder):
    path = folder / "request.json"
    path.write_text(json.dumps(entries(steps=3, guidance=2)))
    assert (parse_request(path).options.steps, parse_request(path).options.guidance) == (3, 2.0)


def test_an_object_without_a_motion_needs_no_phrase(folder):
    request = build(folder, one_object(motion=None, sentence="A red robot."))
    assert request.objects[0].motion is None


def test_a_mask_of_the_original_picture_is_fitted_like_the_picture(folder):
    Image.fromarray(np.zeros((128, 400, 3), np.uint8)).save(folder / "image.png")
    save_mask(folder, "robot.png", block(40, 160, 60, shape=(128, 400)))
    request = build(folder, one_object())
    rows, columns = np.nonzero(request.objects[0].mask)
    assert (rows.min(), rows.max()) == (20, 49)
    assert (columns.min(), columns.max()) == (28, 57)  # (160 - 104) / 2 …


def test_a_request_written_as_json_reads_back_the_same(folder):
    first = build(folder, entries(steps=4, guidance=1.5, without=["m2v"]))
    (folder / "image.png").unlink()  # the JSON holds the pictures itself
    again = build(folder, json.loads(json.dumps(request_to_json(first))))
    assert np.array_equal(again.image, first.image)
    for one, other in zip(first.objects, again.objects, strict=True):
        assert np.array_equal(one.mask, other.mask)
        assert (one.sentence, one.phrase, one.motion) == (
            other.sentence,
            other.phrase,
            other.motion,
        )
    assert again.options == Options(steps=4, guidance=1.5, without=("m2v",))


def test_a_recipe_is_read_as_the_request_inside_it(folder):
    recipe = {"request": entries(model="theirs", seed=5), "base": BASE, "versions": {}}
    request_file = parse_request(recipe)
    assert (request_file.options.seed, request_file.model) == (5, None)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"stepps": 3}, 'unknown key "stepps"; known: .*steps'),
        ({"steps": -1}, '"steps" is -1: .*greater than or equal to 1'),
        ({"steps": 0}, '"steps" is 0'),
        ({"steps": "12"}, "\"steps\" is '12'"),
        ({"guidance": float("nan")}, '"guidance" is nan: .*finite'),
        ({"guidance": float("inf")}, '"guidance" is inf'),
        ({"guidance": -2}, '"guidance" is -2'),
        ({"seed": -1}, '"seed" is -1'),
        ({"seed": 1.5}, '"seed" is 1.5'),
        ({"seed": True}, '"seed" is True'),
        ({"fit": "squeeze"}, "\"fit\" is 'squeeze': .*crop"),
        ({"method": "magic"}, "\"method\" is 'magic': choose one of fleximmt"),
        ({"without": ["m3v"]}, '"without" is .*m3v.*: choose one of m2v'),
        ({"objects": "robot"}, "\"objects\" is 'robot'"),
        ({"objects": [3]}, '"entry" of object 1|of object 1'),
    ],
)
def test_a_wrong_key_is_named_with_what_came_and_what_is_allowed(changes, complaint):
    with pytest.raises(RequestError, match=complaint):
        parse_request(entries(**changes))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"strength": 4.5}, '"strength" of object 1 is 4.5'),
        ({"strength": -0.1}, '"strength" of object 1 is -0.1'),
        ({"strength": float("nan")}, '"strength" of object 1 is nan'),
        ({"colour": "red"}, 'unknown key "colour" of object 1'),
        ({"sentence": 5}, '"sentence" of object 1 is 5'),
    ],
)
def test_a_wrong_key_of_an_object_names_the_object(changes, complaint):
    with pytest.raises(RequestError, match=complaint):
        parse_request(one_object(**changes))


def test_a_missing_key_is_named():
    with pytest.raises(RequestError, match='"sentence" of object 1 is missing'):
        parse_request({"image": "a.png", "objects": [{"mask": "a.png"}]})


@pytest.mark.parametrize(("text", "complaint"), [("{", "not JSON"), ("[]", "one JSON object")])
def test_a_broken_request_file_is_refused(tmp_path, text, complaint):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(RequestError, match=complaint):
        parse_request(tmp_path / "r.json")
    with pytest.raises(RequestError, match="cannot be read"):
        parse_request(tmp_path / "missing.json")


def test_more_objects_than_allowed_are_refused(folder):
    only = one_object()["objects"]
    with pytest.raises(RequestError, match="9 objects; at most 8"):
        build(folder, entries(objects=only * 9))


def test_a_phrase_missing_from_its_sentence_is_refused_with_both_quoted(folder):
    with pytest.raises(RequestError, match='"spins".*does not occur in.*"A red robot is moving."'):
        build(folder, one_object(phrase="spins"))
    with pytest.raises(RequestError, match='"jump".*does not occur in.*"A robot jumps."'):
        build(folder, one_object(phrase="jump", sentence="A robot jumps."))


def test_a_phrase_that_is_twice_in_its_sentence_is_refused(folder):
    with pytest.raises(RequestError, match="occurs 2 times in its sentence"):
        build(folder, one_object(sentence="It is moving and is moving."))


def test_an_edited_prompt_without_a_phrase_is_refused_with_both_quoted(folder):
    with pytest.raises(RequestError, match='"is moving" is needed 2 times.*1 times.*"Only one is'):
        build(folder, entries(prompt="Only one is moving."))
    with pytest.raises(RequestError, match='"is moving" is needed 1 times.*0 times.*"A robot."'):
        build(folder, one_object() | {"prompt": "A robot."})


def test_masks_that_cannot_be_used_are_refused(folder):
    save_mask(folder, "empty.png", block(side=0))
    with pytest.raises(RequestError, match="mask of object 1 is empty"):
        build(folder, one_object(mask="empty.png"))
    save_mask(folder, "odd.png", block(shape=(50, 70)))
    with pytest.raises(RequestError, match=r"70×50; it must have the size of the picture, 96×64"):
        build(folder, one_object(mask="odd.png"))
    with pytest.raises(MediaError, match=r"none\.png does not exist"):
        build(folder, one_object(mask="none.png"))
    (folder / "text.png").write_text("no picture")
    with pytest.raises(MediaError, match=r"text\.png"):
        build(folder, one_object(mask="text.png"))


def test_too_small_an_object_is_refused_and_told_how_big_it_must_be(folder):
    save_mask(folder, "small.png", block(13, 13, 5))
    with pytest.raises(RequestError, match=r"25 pixels.*8×8 pixels\); it must be at least 12×12"):
        build(folder, one_object(mask="small.png"))


def test_an_object_in_the_part_that_is_cut_off_is_refused(folder):
    Image.fromarray(np.zeros((64, 300, 3), np.uint8)).save(folder / "image.png")
    save_mask(folder, "robot.png", block(10, 2, 40, shape=(64, 300)))
    with pytest.raises(RequestError, match='cut off.*"pad"'):
        build(folder, one_object())


def test_pictures_that_cannot_be_used_are_refused(folder):
    with pytest.raises(MediaError, match=r"none\.png does not exist"):
        build(folder, entries(image="none.png"))
    (folder / "image.png").write_bytes(b"nothing")
    with pytest.raises(MediaError, match="cannot be read as a picture"):
        build(folder, entries())


def test_motions_that_cannot_be_used_are_refused(folder):
    with pytest.raises(MotionFileError, match='"jumb".*did you mean jump'):
        build(folder, one_object(motion="jumb"))
    with pytest.raises(
        MotionFileError, match="learned on the base model aaaaaaaaaaaa, this is bbbb"
    ):
        build(folder, one_object(), base="b" * 64)
    with pytest.raises(MotionFileError, match=r"none\.safetensors"):
        build(folder, one_object(motion="none.safetensors"))
    assert build(folder, one_object(motion="jump.safetensors")).objects[0].motion.name == "jump"


@pytest.mark.parametrize(
    "changes",
    [
        {"image": np.zeros((64, 90, 3), np.uint8)},
        {"image": np.zeros((64, 96, 3))},
        {"steps": 0},
        {"guidance": float("inf")},
        {"objects": (SceneObject(block().astype(np.uint8), "It is moving."),)},
        {"objects": (SceneObject(block(), "It is moving.", strength=float("nan")),)},
        {"objects": (SceneObject(block(), "It is moving."),), "prompt": "  "},
    ],
)
def test_requests_put_together_in_code_are_checked_the_same(changes):
    good = GenerationRequest(np.zeros((64, 96, 3), np.uint8), (SceneObject(block(), "A fox."),))
    checked_request(good, geometry=SIZES)
    with pytest.raises(MotionAppError):
        parts = {name: changes[name] for name in ("image", "objects") if name in changes}
        options = {name: changes[name] for name in changes if name not in parts}
        checked_request(replace(good.with_options(**options), **parts), geometry=SIZES)


def test_the_ablations_a_request_may_name_are_those_the_attention_knows():
    assert tuple(OPENS) == ABLATIONS


# phrases ----------------------------------------------------------------------------------------

TOKENIZER = tiny_tokenizer()


def thing(sentence: str, phrase: str = "is moving", motion: Motion | None = JUMP) -> SceneObject:
    return SceneObject(block(), sentence, phrase, motion)


def words_of(prompt: str, span: tuple[int, int]) -> str:
    ids = TOKENIZER(prompt)["input_ids"][slice(*span)]
    return TOKENIZER.decode(ids).strip()


def test_each_phrase_is_found_in_its_own_sentence():
    objects = [thing("A red robot is moving."), thing("A blue fox is jumping.", "is jumping")]
    prompt = "A red robot is moving. A blue fox is jumping."
    spans = find_phrases(prompt, objects, TOKENIZER, 24)
    assert [words_of(prompt, span) for span in spans] == ["is moving", "is jumping"]


def test_the_first_and_the_last_word_of_a_prompt_can_be_phrases():
    spans = find_phrases("moving up", [thing("moving up", "moving")], TOKENIZER, 24)
    assert words_of("moving up", spans[0]) == "moving"
    spans = find_phrases("up moving", [thing("up moving", "moving")], TOKENIZER, 24)
    assert words_of("up moving", spans[0]) == "moving"


def test_equal_wordings_go_to_the_objects_in_order():
    objects = [thing("A fox is moving."), thing("A cat is moving.")]
    prompt = "Then the fox is moving and the cat is moving."
    first, second = find_phrases(prompt, objects, TOKENIZER, 64)
    assert first[1] <= second[0]
    assert words_of(prompt, first) == words_of(prompt, second) == "is moving"


def test_an_object_without_a_motion_takes_its_use_of_a_wording_with_it():
    objects = [thing("A fox is moving.", motion=None), thing("A cat is moving.")]
    prompt = "The fox is moving, the cat is moving"
    spans = find_phrases(prompt, objects, TOKENIZER, 64)
    assert spans[0] is None
    assert prompt.index("cat") < len("The fox is moving, the ") + 4
    assert spans[1][1] == len(TOKENIZER(prompt)["input_ids"]) - 1  # the last use; then comes </s>


def test_a_wording_inside_a_longer_one_is_not_taken_for_it():
    objects = [thing("A fox is moving up.", "is moving up"), thing("A cat is moving.")]
    prompt = "The cat is moving then the fox is moving up"
    spans = find_phrases(prompt, objects, TOKENIZER, 64)
    assert [words_of(prompt, span) for span in spans] == ["is moving up", "is moving"]


def test_letters_of_a_word_are_not_taken_for_the_phrase():
    objects = [thing("A cat is moving.", "cat")]
    prompt = "catcat cat is moving"
    (span,) = find_phrases(prompt, objects, TOKENIZER, 64)
    assert words_of(prompt, span) == "cat" and span[0] > 0


def test_words_the_tokenizer_spells_out_are_found_whole():
    objects = [thing("A fox gallops away.", "gallops")]
    (span,) = find_phrases("A fox gallops away.", objects, TOKENIZER, 64)
    assert words_of("A fox gallops away.", span) == "gallops"


def test_extra_white_space_moves_no_phrase():
    objects = [thing("A fox is moving.")]
    prompt = "  A  fox \n is moving  . "
    (span,) = find_phrases(prompt, objects, TOKENIZER, 64)
    assert words_of(prompt, span) == "is moving"


def one_token(prompt: str, **options) -> dict:
    """A tokenizer that makes one token of everything."""
    return {
        "input_ids": [5, 1],
        "offset_mapping": [(0, len(prompt)), (0, 0)],
        "special_tokens_mask": [0, 1],
    }


def test_two_phrases_in_one_token_are_refused():
    objects = [thing("Go up-", "up"), thing("go left.", "left")]
    with pytest.raises(RequestError, match='"left" shares a word with .* "up-left"'):
        find_phrases("up-left", objects, one_token, 64)


def test_a_prompt_longer_than_the_model_reads_is_refused():
    with pytest.raises(RequestError, match=r"has \d+ tokens, the model reads 24"):
        find_phrases("robot " * 40, [], TOKENIZER, 24)


def test_a_phrase_missing_from_the_prompt_is_refused_with_both_quoted():
    with pytest.raises(RequestError, match='"is moving".*"A fox."'):
        find_phrases("A fox.", [thing("A fox is moving.")], TOKENIZER, 24)


@pytest.mark.parametrize("gap", ["\u00a0", "  ", "\t", "\u2009", "\u3000", "\n", "\u200b "])
def test_one_white_space_is_as_good_as_another_in_phrase_and_sentence(gap):
    for sentence, phrase in (
        (f"A fox is{gap}moving.", "is moving"),
        ("A fox is moving.", f"is{gap}moving"),
    ):
        objects = (thing(sentence, phrase),)
        request = GenerationRequest(np.zeros((64, 96, 3), np.uint8), objects)
        checked_request(request, geometry=SIZES, tokenizer=TOKENIZER)
        (span,) = find_phrases(request.full_prompt(), objects, TOKENIZER, 24)
        assert words_of(request.full_prompt(), span) == "is moving"


@pytest.mark.parametrize(
    ("sentence", "phrase", "words"),
    [
        ("红色的猫is moving。", "is moving", "is moving"),
        ("猫正在跳跃。", "正在跳跃", "正在跳跃"),
        ("猫が走る。", "走る", "走る"),
        ("แมวกระโดด", "กระโดด", "กระโดด"),
        ("A fox ｉｓ ｍｏｖｉｎｇ.", "is moving", "is moving"),
        ("The cafe\u0301 is moving.", "café is moving", "café is moving"),
    ],
)
def test_the_tokens_of_a_phrase_are_its_words_in_the_prompt_the_model_gets(sentence, phrase, words):
    """Scripts without spaces included; every letter of the prompt has a token here."""
    tokenizer = letters_of(sentence + phrase)
    fox = thing("A fox is jumping.", "is jumping")
    for objects, prompt in (
        ((fox, thing(sentence, phrase), fox), None),
        ((fox, thing(sentence, phrase)), f"The fox is jumping while {sentence}"),
    ):
        request = GenerationRequest(
            np.zeros((64, 96, 3), np.uint8), objects, Options(prompt=prompt)
        )
        sent = request.full_prompt()
        span = find_phrases(sent, objects, tokenizer, 226)[1]
        ids = tokenizer(sent)["input_ids"][slice(*span)]
        assert tokenizer.decode(ids).strip() == words


def letters_of(text: str):
    """``TOKENIZER`` with a piece for each letter of ``text``, as it is read."""
    known = dict.fromkeys("".join(as_read(text).split()), -8.0)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    known |= dict.fromkeys("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.", -8.0)
    return T5TokenizerFast(vocab=[*pieces, *known.items()], extra_ids=0)


def test_a_letter_of_another_alphabet_in_a_sentence_is_told_by_its_code_point():
    request = GenerationRequest(np.zeros((64, 96, 3), np.uint8), (thing("A fox is m\u043eving."),))
    with pytest.raises(RequestError, match="does not occur in .* U\\+043E CYRILLIC SMALL LETTER O"):
        checked_request(request, geometry=SIZES)
    edited = replace(
        request.with_options(prompt="fox is m\u043eving"), objects=(thing("A fox is moving."),)
    )
    with pytest.raises(RequestError, match="occurs 0 times .* U\\+043E CYRILLIC SMALL LETTER O"):
        checked_request(edited, geometry=SIZES)


def test_a_prompt_longer_than_the_model_reads_is_refused_where_it_is_checked():
    request = GenerationRequest(np.zeros((64, 96, 3), np.uint8), (), Options(prompt="robot " * 40))
    checked_request(request, geometry=SIZES)
    with pytest.raises(RequestError, match=r"has 41 tokens, the model reads 24; shorten it"):
        checked_request(request, geometry=SIZES, tokenizer=TOKENIZER)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_request_file_may_begin_with_a_byte_order_mark(tmp_path, mark):
    (tmp_path / "r.json").write_bytes(mark + b'{"image": "fox.png", "prompt": "A fox."}')
    assert parse_request(tmp_path / "r.json").options.prompt == "A fox."


# the tokenizer alone ----------------------------------------------------------------------------

POCKET = Path(__file__).resolve().parents[2] / "checkpoints" / "pocket"


def test_a_prompt_is_counted_as_the_pipeline_counts_it_and_without_torch():
    tokenizer = PromptTokenizer.load(Checkpoint.read(POCKET))
    whole = T5TokenizerFast.from_pretrained(POCKET / "tokenizer")
    assert tokenizer.text_tokens == Checkpoint.read(POCKET).geometry.text_tokens
    for prompt in ("", "A red cat is moving.", "红色的猫is moving。", "\u00a0a  b\nc", "x " * 300):
        options = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        expected = whole(prompt, **options)
        assert tokenizer(prompt) == {name: expected[name] for name in tokenizer(prompt)}
        assert tokenizer.count(prompt) == len(whole(prompt)["input_ids"])
    code = (
        "import sys; from motion_app.models.checkpoint import Checkpoint;"
        "from motion_app.request.phrases import PromptTokenizer as P;"
        f"P.load(Checkpoint.read({str(POCKET)!r})).check('A cat.'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_many_threads_may_count_at_once():
    tokenizer = PromptTokenizer.load(Checkpoint.read(POCKET))
    prompts = ["A cat is moving. " * k for k in range(1, 9)] * 25
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(tokenizer.count, prompts))
    assert counts == [tokenizer.count(prompt) for prompt in prompts]


def test_a_checkpoint_whose_tokenizer_is_not_there_yet_counts_nothing(tmp_path):
    checkpoint = replace(Checkpoint.read(POCKET), folder=tmp_path)
    assert PromptTokenizer.load_if_there(checkpoint) is None
    with pytest.raises(MotionAppError):
        PromptTokenizer.load(checkpoint)
