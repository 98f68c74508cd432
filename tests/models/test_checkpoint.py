"""What a checkpoint says of itself is read once."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_hub import running_hub, send_client_to
from huggingface_hub import constants
from PIL import Image
from tiny_models import tiny_pipeline

from motion_app.__main__ import main
from motion_app.errors import CheckpointError
from motion_app.library.motion_file import read_motion
from motion_app.models import checkpoint as checkpoint_module
from motion_app.models.checkpoint import Checkpoint, PartWeights


def test_one_generate_reads_each_config_and_each_header_once(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ours are read through pathlib; the libraries that load the weights use open and mmap.
    opened: Counter[str] = Counter()
    headers: Counter[str] = Counter()
    plain_open, plain_header = Path.open, checkpoint_module.weight_header

    def counted_open(self, *arguments, **options):
        if tiny_checkpoint in self.parents and self.suffix == ".json":
            opened[str(self.relative_to(tiny_checkpoint))] += 1
        return plain_open(self, *arguments, **options)

    def counted_header(file):
        headers[str(file.relative_to(tiny_checkpoint))] += 1
        return plain_header(file)

    monkeypatch.setattr(Path, "open", counted_open)
    monkeypatch.setattr(checkpoint_module, "weight_header", counted_header)
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(tmp_path / "image.png")
    request = {"image": "image.png", "prompt": "A fox.", "steps": 1, "model": str(tiny_checkpoint)}
    (tmp_path / "request.json").write_text(json.dumps(request))
    out = tmp_path / "out"
    assert main(["generate", str(tmp_path / "request.json"), "--out", str(out)]) == 0
    assert list(out.glob("*.mp4"))
    parts = ("transformer", "vae", "text_encoder")
    weights = {
        str(file.relative_to(tiny_checkpoint))
        for part in parts
        for file in (tiny_checkpoint / part).glob("*.safetensors")
    }
    assert headers == dict.fromkeys(weights, 1)
    wanted = {"transformer/config.json", "vae/config.json", "generation.json"}
    assert {name: opened[name] for name in wanted} == dict.fromkeys(wanted, 1)


def test_a_checkpoint_without_weights_has_sizes_and_no_fingerprint(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    whole = Checkpoint.read(tiny_checkpoint)
    assert (whole.defaults.name, whole.geometry.frames, whole.geometry.layers) == ("tiny", 13, 2)
    empty = replace(whole, folder=tmp_path)
    assert empty.weights["transformer"] == PartWeights(0, 0, 0)
    with pytest.raises(CheckpointError, match="holds no safetensors weights"):
        empty.fingerprint  # noqa: B018


def test_a_checkpoint_learns_first_as_its_settings_say_where_it_has_what_that_needs(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    told = Checkpoint.read(tiny_checkpoint)
    bare = replace(told, defaults=replace(told.defaults, learning="encoded"), folder=tmp_path)
    assert bare.ways == told.ways == ("fleximmt",)
    (tmp_path / Checkpoint.ENCODER).mkdir()
    (tmp_path / Checkpoint.ENCODER / "config.json").write_text("{}")
    assert bare.ways == ("encoded", "fleximmt", "encoded-refined")
    assert replace(told, folder=tmp_path).ways == ("fleximmt", "encoded", "encoded-refined")
    for part in ("transformer", "vae"):
        shutil.copytree(tiny_checkpoint / part, tmp_path / part)
    (tmp_path / "generation.json").write_text('{"learning": "concat"}')
    with pytest.raises(CheckpointError, match="choose one of fleximmt, encoded, encoded-refined"):
        Checkpoint.read(tmp_path)


@pytest.fixture
def in_parts(tmp_path: Path) -> Path:
    """A checkpoint whose transformer lies in several files."""
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole" / "transformer")
    pipeline.transformer.save_pretrained(tmp_path / "whole" / "transformer", max_shard_size="60KB")
    assert len(list((tmp_path / "whole" / "transformer").glob("*.safetensors"))) > 1
    return tmp_path / "whole"


def test_the_hubs_digests_tell_the_fingerprint_of_a_model_in_parts(
    in_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a published motion is bound to it without its weights."""
    files = {
        str(path.relative_to(in_parts)): path.read_bytes()
        for path in in_parts.rglob("*")
        if path.is_file()
    }
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    tokens = {
        f"transformer_blocks.{layer}.attn1.processor.motion_inversion_tokens": torch.ones(1, 4, 32)
        for layer in range(2)
    }
    torch.save(tokens, tmp_path / "pytorch_model.pt")
    asked = ["--name", "dance", "--phrase", "is moving", "--out", str(tmp_path / "a.safetensors")]
    with running_hub() as hub:
        send_client_to(hub.url, monkeypatch)
        hub.add("lab/tiny", files)
        file = str(tmp_path / "pytorch_model.pt")
        assert main(["import-motion", file, "--model", "lab/tiny", *asked]) == 0
        assert not [line for line in hub.asked if "resolve" in line and "safetensors" in line]
    here = Checkpoint.read(in_parts)
    assert read_motion(tmp_path / "a.safetensors").base == here.fingerprint
    assert Checkpoint.base_of(in_parts)[1] == here.fingerprint
    changed = next((in_parts / "transformer").glob("*.safetensors"))
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    assert Checkpoint.read(in_parts).fingerprint != here.fingerprint


def test_the_segmenter_is_the_named_one_a_folder_inside_or_the_default(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    whole = replace(Checkpoint.read(tiny_checkpoint), folder=tmp_path)
    with pytest.raises(CheckpointError, match="names no segmenter"):
        whole.segmenter()
    assert whole.segmenter(default="a/b") == "a/b"
    naming = replace(whole, defaults=replace(whole.defaults, segmenter="sam2"))
    assert naming.segmenter(default="a/b") == "sam2"
    (tmp_path / "sam2").mkdir()
    assert naming.segmenter() == str(tmp_path / "sam2")
