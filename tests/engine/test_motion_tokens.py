"""Motion files are strict: what is not exactly right is refused, and nothing is made up."""

import re
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import attention_layers, tiny_pipeline

from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.errors import MotionFileError
from motion_app.library.motion_file import read_motion

METADATA = MotionMetadata(
    name="hop", phrase="is hopping", base="f" * 64, config={"steps": 3}, track=[[1.0, 2.5]]
)


def fresh(seed: int = 0, **options) -> MotionTokens:
    draw = torch.Generator().manual_seed(seed)
    sizes = {"layers": 2, "tokens": 3, "width": 32}
    return MotionTokens.fresh(**{**sizes, **options}, generator=draw)


@pytest.fixture
def motion_file(tmp_path):
    path = tmp_path / "hop.safetensors"
    fresh().save(path, METADATA)
    return path


def rewrite(path, *, tensors=None, metadata=None) -> None:
    entries = load_file(path)
    strings = {**METADATA.to_strings(), "tokens": "3", "layers": "2", "width": "32"}
    save_file({**entries, **(tensors or {})}, path, metadata={**strings, **(metadata or {})})


def test_a_saved_motion_comes_back_the_same(motion_file):
    loaded = MotionTokens.load(motion_file, layers=2, width=32, base="f" * 64)
    assert all(
        torch.equal(one, other) for one, other in zip(fresh().layers, loaded.layers, strict=True)
    )
    assert loaded.metadata.name == "hop" and loaded.metadata.config == {"steps": 3}
    assert (loaded.metadata.tokens, loaded.metadata.layers, loaded.metadata.width) == (3, 2, 32)
    assert loaded.metadata.track == [[1.0, 2.5]]


def test_the_library_lists_what_the_engine_saved(motion_file):
    motion = read_motion(motion_file)
    assert (motion.name, motion.phrase, motion.base) == ("hop", "is hopping", "f" * 64)


def test_half_precision_files_come_back_as_float32(tmp_path):
    fresh().save(tmp_path / "half.safetensors", METADATA, dtype=torch.float16)
    loaded = MotionTokens.load(tmp_path / "half.safetensors")
    assert loaded.layers[0].dtype == torch.float32
    assert torch.equal(loaded.layers[0], fresh().layers[0].half().float())


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"layers.2.motion_tokens": torch.zeros(3, 32)}, "unexpected layers.2.motion_tokens"),
        ({"layers.1.motion_tokens": torch.zeros(3, 31)}, r"is \(3, 31\).*expected \(3, 32\)"),
        ({"layers.0.motion_tokens": torch.full((3, 32), torch.nan)}, "layers.0.*NaN"),
        ({"layers.0.motion_tokens": torch.zeros(3, 32, dtype=torch.long)}, "torch.int64"),
    ],
)
def test_wrong_tensors_are_refused_by_name(motion_file, tensors, words):
    rewrite(motion_file, tensors=tensors)
    with pytest.raises(MotionFileError, match=words):
        MotionTokens.load(motion_file)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"layers": "3"}, "lacks layers.2.motion_tokens"),
        ({"format": "motion-tokens/9"}, r'"motion-tokens/9", expected "motion-tokens/1"'),
        ({"tokens": "many"}, "broken metadata"),
        ({"config": "{"}, "broken metadata"),
        ({"layers": "0"}, "claims 0 layers"),
    ],
)
def test_wrong_metadata_is_refused(motion_file, metadata, words):
    rewrite(motion_file, metadata=metadata)
    with pytest.raises(MotionFileError, match=words):
        MotionTokens.load(motion_file)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"layers": 4}, "has 2 layers, the model 4"),
        ({"width": 48}, "width 32, the model has width 48"),
        ({"base": "e" * 64}, "base model ffffffffffff, this is eeeeeeeeeeee"),
    ],
)
def test_a_motion_for_another_model_is_refused_with_both_values(motion_file, model, words):
    with pytest.raises(MotionFileError, match=words):
        MotionTokens.load(motion_file, **model)


def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "hop.safetensors"
    torch.save({"layers.0.motion_tokens": torch.zeros(3, 32)}, path)
    with pytest.raises(MotionFileError, match="is not a safetensors file"):
        MotionTokens.load(path)
    with pytest.raises(MotionFileError, match="cannot be read"):
        MotionTokens.load(tmp_path / "missing.safetensors")


def test_tokens_that_are_not_finite_cannot_be_saved(tmp_path):
    tokens = fresh()
    tokens.layers[1].data[0, 0] = torch.inf
    with pytest.raises(MotionFileError, match=re.escape("layers.1.motion_tokens holds NaN")):
        tokens.save(tmp_path / "hop.safetensors", METADATA)
    assert not (tmp_path / "hop.safetensors").exists()


def published(layers: int, dtype: torch.dtype) -> OrderedDict:
    """The layout of the authors' published file."""
    return OrderedDict(
        (
            f"transformer_blocks.{layer}.attn1.processor.motion_inversion_tokens",
            torch.full((1, 3, 32), float(layer), dtype=dtype),
        )
        for layer in range(layers)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_published_file_is_imported_layer_by_layer(tmp_path, dtype):
    torch.save(published(12, dtype), tmp_path / "pytorch_model.pt")
    tokens = MotionTokens.import_published(tmp_path / "pytorch_model.pt")
    assert [layer.mean().item() for layer in tokens.layers] == list(map(float, range(12)))
    assert (tokens.tokens, tokens.width) == (3, 32)
    assert tokens.layers[0].dtype == torch.float32


class Harmful:
    def __reduce__(self):
        return (print, ("a pickle ran code",))


def test_other_content_is_never_imported(tmp_path, capsys):
    path = tmp_path / "pytorch_model.pt"
    gap = published(3, torch.float32)
    del gap["transformer_blocks.1.attn1.processor.motion_inversion_tokens"]
    for content, words in [
        (gap, "lacks layers.1.motion_tokens"),
        ({"lora_A": torch.zeros(1, 3, 32)}, '"lora_A"'),
        ({}, "no motion tokens"),
        (torch.zeros(3), "no named tensors"),
        (Harmful(), "cannot be read as weights"),
    ]:
        torch.save(content, path)
        with pytest.raises(MotionFileError, match=words):
            MotionTokens.import_published(path)
    assert "a pickle ran code" not in capsys.readouterr().out


def test_fresh_tokens_have_the_asked_spread_and_are_told_by_their_seed():
    uniform = fresh(tokens=500)
    assert 0.0029 < uniform.layers[0].abs().max() <= 0.003
    normal = fresh(tokens=500, scale=1.0, distribution="normal")
    assert 0.95 < normal.layers[0].std() < 1.05
    assert torch.equal(fresh(5).layers[0], fresh(5).layers[0])
    assert not torch.equal(fresh(5).layers[0], fresh(6).layers[0])


def test_keys_and_values_are_the_layers_own_projections():
    transformer, tokens = tiny_pipeline().transformer, fresh(scale=1.0)
    layers = attention_layers(transformer)
    pairs = tokens.key_values(layers)
    attn = layers[1].module
    key = attn.norm_k(attn.to_k(tokens.layers[1]).view(3, 2, 16).transpose(0, 1))
    value = attn.to_v(tokens.layers[1]).view(3, 2, 16).transpose(0, 1)
    assert torch.allclose(pairs[1][0][0], key) and torch.allclose(pairs[1][1][0], value)
    assert not pairs[0][0].requires_grad and tokens.project(layers[0])[0].requires_grad


def test_tokens_of_another_depth_give_no_keys():
    with pytest.raises(MotionFileError, match="3 layers of width 32, the model 2"):
        fresh(layers=3).key_values(attention_layers(tiny_pipeline().transformer))
