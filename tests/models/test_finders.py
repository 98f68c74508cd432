"""Meta's own SAM 2 answers as transformers' on the same weights; words find things in pictures."""

import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertTokenizerFast,
    CLIPTokenizerFast,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    Sam2Config,
    Sam2Model,
    Sam2Processor,
    Sam3Config,
    Sam3ImageProcessor,
    Sam3Model,
    Sam3Processor,
    SwinConfig,
)
from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor

from motion_app.errors import CheckpointError, MediaError, RequestError
from motion_app.host import ModelHost
from motion_app.media.files import decode_data_uri, encode_data_uri, read_mask
from motion_app.models.clicks import ClickSegmenter, OriginalSegmenter, config_of, load_segmenter
from motion_app.models.words import FoundObject, ObjectFinder
from motion_app.request.paths import to_picture
from motion_app.scene import Box, Click
from motion_app.settings import Limits, Settings
from motion_app.ui.api.pictures import PictureEndpoints
from motion_app.ui.markup import Texts
from motion_app.ui.pictures import Previews
from motion_app.ui.transfer.actions import Finding, SceneActions
from motion_app.ui.transfer.draft import SceneDraft
from motion_app.ui.transfer.kept_drafts import KeptDrafts
from motion_app.ui.transfer.session import Action, Session
from motion_app.ui.transfer.tab import TransferTab

POSITIONS = "shared_embedding.positional_embedding"
TINY = "configs/sam2.1/sam2.1_hiera_t.yaml"
# Meta's name of a weight → transformers'; what only tracking in videos needs is not here.
RENAMED = (
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (
        r"^sam_prompt_encoder\.pe_layer\.\w+$",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    (r"^sam_prompt_encoder\.mask_downscaling\.0", "prompt_encoder.mask_embed.conv1"),
    (r"^sam_prompt_encoder\.mask_downscaling\.1", "prompt_encoder.mask_embed.layer_norm1"),
    (r"^sam_prompt_encoder\.mask_downscaling\.3", "prompt_encoder.mask_embed.conv2"),
    (r"^sam_prompt_encoder\.mask_downscaling\.4", "prompt_encoder.mask_embed.layer_norm2"),
    (r"^sam_prompt_encoder\.mask_downscaling\.6", "prompt_encoder.mask_embed.conv3"),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.output_upscaling\.0", "mask_decoder.upscale_conv1"),
    (r"^sam_mask_decoder\.output_upscaling\.1", "mask_decoder.upscale_layer_norm"),
    (r"^sam_mask_decoder\.output_upscaling\.3", "mask_decoder.upscale_conv2"),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"(?<=\d)\.norm(\d)\.", r".layer_norm\1."),
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (r"(_head|_mlps\.\d)\.layers\.0\.", r"\1.proj_in."),
    (r"(_head|_mlps\.\d)\.layers\.2\.", r"\1.proj_out."),
    (r"(_head|_mlps\.\d)\.layers\.1\.", r"\1.layers.0."),
)


def renamed(weights: dict[str, torch.Tensor], wanted: set[str]) -> dict[str, torch.Tensor]:
    """Meta's weights under transformers' names."""
    found = {}
    for name, tensor in weights.items():
        for pattern, to in RENAMED:
            name = re.sub(pattern, to, name)
        if name in wanted:
            found[name] = tensor
    points = [weights[f"sam_prompt_encoder.point_embeddings.{k}.weight"] for k in range(4)]
    found["prompt_encoder.point_embed.weight"] = torch.cat(points)
    shared = "prompt_encoder.shared_embedding.positional_embedding"
    found["shared_image_embedding.positional_embedding"] = found[shared]
    return found


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A checkpoint in Meta's form with random weights of the tiny size."""
    from sam2.build_sam import build_sam2

    torch.manual_seed(0)
    model = build_sam2(TINY, None, device="cpu")
    path = tmp_path_factory.mktemp("sam2") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": model.state_dict()}, path)
    return path


@pytest.mark.long  # two libraries, neither of them ours
def test_metas_package_and_transformers_give_the_same_masks_on_the_same_weights(original):
    ours = load_segmenter(original, device="cpu")
    assert isinstance(ours, OriginalSegmenter)
    model = Sam2Model(Sam2Config())
    weights = torch.load(original, weights_only=True)["model"]
    assert config_of(weights, name="t") == TINY
    model.load_state_dict(renamed(weights, set(model.state_dict())))
    theirs = ClickSegmenter(model, Sam2Processor(Sam2ImageProcessor()))
    # At the models' own size, so that nobody's way of shrinking pictures is compared.
    image = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    for segmenter in (ours, theirs):
        segmenter.set_image(image)
    prompts = (
        ([Click(500, 400)], None),
        ([Click(500, 400), Click(100, 90, positive=False)], None),
        ([], Box(200, 200, 700, 800)),
    )
    for clicks, box in prompts:
        one, two = ours.predict(clicks, box), theirs.predict(clicks, box)
        assert np.allclose(one.scores, two.scores, atol=1e-3)
        assert (one.masks == two.masks).mean() > 0.999


def test_an_original_checkpoint_that_is_none_is_refused(original, tmp_path):
    weights = torch.load(original, weights_only=True)["model"]
    other = tmp_path / "other.pt"
    for content, words in (
        ({"weights": 1}, 'no "model"'),
        ({"model": {"a": torch.zeros(1)}}, "no published SAM 2"),
        ({"model": dict(list(weights.items())[:-5])}, "does not fit"),
    ):
        torch.save(content, other)
        with pytest.raises(CheckpointError, match=words) as caught:
            load_segmenter(other, device="cpu")
        assert "\n" not in str(caught.value)
    other.write_bytes(b"no pickle")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_segmenter(other, device="cpu")


@pytest.fixture(scope="module")
def grounding_dino(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "red", "robot", "fox"]
    (folder / "vocab.txt").write_text("\n".join(words))
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            out_indices=[2, 3, 4],
        ),
        text_config=BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        ),
        d_model=32,
        num_queries=12,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        max_text_len=16,
    )
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 96}
    GroundingDinoProcessor(
        GroundingDinoImageProcessor(size=size), BertTokenizerFast(str(folder / "vocab.txt"))
    ).save_pretrained(folder)
    return folder


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def test_words_become_boxes_inside_the_picture_the_surest_first(grounding_dino):
    finder = ObjectFinder.load(grounding_dino, device="cpu")
    found = finder.find(picture(), ["A red robot.", "fox"], threshold=0.0)
    assert found and {item.words for item in found} <= {"a red robot", "fox"}
    assert [item.score for item in found] == sorted((i.score for i in found), reverse=True)
    for item in found:
        assert 0 <= item.box.x0 <= item.box.x1 <= 96 and 0 <= item.box.y0 <= item.box.y1 <= 64
    assert finder.find(picture(), ["fox"], threshold=1.0) == []


def test_no_words_and_no_picture_are_refused(grounding_dino, tmp_path):
    finder = ObjectFinder.load(grounding_dino, device="cpu")
    with pytest.raises(RequestError, match="no words"):
        finder.find(picture(), [" ", ""])
    with pytest.raises(MediaError, match="uint8"):
        finder.find(picture()[..., 0], ["fox"])
    with pytest.raises(CheckpointError, match="of type None"):
        ObjectFinder.load(tmp_path, device="cpu")


@pytest.fixture(scope="module")
def sam3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam3")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4}
    tokens = {"<|startoftext|>": 0, "<|endoftext|>": 1, "f": 2, "o": 3, "x</w>": 4, "fo": 5}
    tokens["fox</w>"] = 6
    config = Sam3Config(
        vision_config={
            "model_type": "sam3_vision_model",
            "backbone_config": {
                "model_type": "sam3_vit_model",
                **small,
                "num_hidden_layers": 2,
                "image_size": 112,
                "pretrain_image_size": 56,
                "patch_size": 14,
                "window_size": 4,
                "global_attn_indexes": [1],
            },
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config={
            "model_type": "clip_text_model",
            **small,
            "vocab_size": len(tokens),
            "num_hidden_layers": 1,
            "max_position_embeddings": 32,
            "projection_dim": 32,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
        geometry_encoder_config={**small, "num_layers": 1},
        detr_encoder_config={**small, "num_layers": 1},
        detr_decoder_config={**small, "num_layers": 1, "num_queries": 6},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 4},
    )
    Sam3Model(config).save_pretrained(folder)
    tokenizer = CLIPTokenizerFast(vocab=tokens, merges=[("f", "o"), ("fo", "x</w>")])
    size = {"height": 112, "width": 112}
    Sam3Processor(Sam3ImageProcessor(size=size), tokenizer).save_pretrained(folder)
    return folder


def test_sam3_gives_masks_for_words(sam3):
    finder = ObjectFinder.load(sam3, device="cpu")
    found = finder.find(picture(), ["fox"], threshold=0.0)
    assert found and all(item.mask.shape == (64, 96) for item in found)
    assert all(item.mask.dtype == bool for item in found)


# from words to objects --------------------------------------------------------------------------


def square(image: np.ndarray, clicks, box: Box | None) -> SimpleNamespace:
    """A segmenter that takes a box for its object."""
    masks = np.zeros((3, *image.shape[:2]), dtype=bool)
    masks[:, round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)] = True
    return SimpleNamespace(masks=masks, scores=np.array([0.5, 0.9, 0.7]), best=1)


def host_with(finder: Path | None, *, objects: int = 8) -> ModelHost:
    """The pocket's sizes, and clicks that are answered at once; nothing is loaded."""
    host = ModelHost(Settings(finder=None if finder is None else str(finder), device="cpu"))
    host.settings = host.settings.model_copy(update={"limits": Limits(objects=objects)})
    host.segmenter = lambda: SimpleNamespace(
        segment=lambda image, clicks, box: square(np.zeros((64, 96, 3), np.uint8), clicks, box),
    )
    return host


def session_with(image: np.ndarray, host: ModelHost) -> Session:
    session = Session()
    session.put(SceneDraft.of(image, "crop", host.geometry()), Action("transfer.did_picture"))
    return session


def test_what_words_name_becomes_objects_that_one_undo_takes_back(grounding_dino):
    host = host_with(grounding_dino, objects=4)
    host.finder().find = partial(host.finder().find, threshold=0.0)  # its weights are random
    actions = SceneActions(host, [])
    session = session_with(np.repeat(np.repeat(picture(), 4, 0), 4, 1), host)
    finding = actions.look_for(session, {"text": "red robot, fox"})
    assert len(finding.found) > 4
    actions.add_found(session, finding)
    objects = session.draft.objects
    assert 0 < len(objects) <= 4 and {item.name for item in objects} <= {"red robot", "fox"}
    assert all(item.name in item.sentence and item.mask.any() for item in objects)
    assert session.draft.selected is None
    session.undo()
    assert session.draft.objects == ()


def test_masks_of_the_finder_are_taken_as_they_are(sam3):
    host = host_with(sam3)
    host.finder().find = partial(host.finder().find, threshold=0.0)
    actions, session = SceneActions(host, []), session_with(picture(), host)
    finding = actions.look_for(session, {"text": "fox"})
    actions.add_found(session, finding)
    masks = [item.mask for item in finding.found]
    for item in session.draft.objects:
        assert any(np.array_equal(item.mask, mask) for mask in masks)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_found_box_lands_on_the_same_thing_in_every_fit(fit):
    image = np.zeros((200, 200, 3), np.uint8)
    geometry = host_with(None).geometry()
    draft = SceneDraft.of(image, fit, geometry)
    found = FoundObject("fox", 0.9, Box(80, 90, 120, 130))
    (item,) = draft.with_found([found], square, most=8).objects
    rows, columns = np.nonzero(item.mask)
    x, y = to_picture(draft.fitted, columns.mean() + 0.5, rows.mean() + 0.5)
    assert abs(x - 100) < 4 and abs(y - 110) < 4 and item.name == "fox"


def test_what_is_cut_off_found_twice_or_too_much_is_left_out():
    image = np.zeros((400, 96, 3), np.uint8)  # the crop keeps rows 168 to 232
    draft = SceneDraft.of(image, "crop", host_with(None).geometry())
    boxes = {
        "gone": Box(10, 0, 40, 60),
        "cat": Box(10, 180, 40, 220),
        "animal": Box(11, 181, 40, 221),
        "fox": Box(60, 180, 90, 220),
        "hen": Box(44, 180, 56, 220),
    }
    found = [FoundObject(words, 0.9, box) for words, box in boxes.items()]
    after = draft.with_found(found, square, most=2)
    assert [item.name for item in after.objects] == ["cat", "fox"]
    assert after.with_found(found, square, most=8).objects[2].name == "hen"
    empty = FoundObject("dog", 0.9, Box(0, 0, 1, 1), np.zeros((400, 96), bool))
    assert draft.with_found([empty], square, most=8).objects == ()


def test_words_without_a_finder_or_without_an_answer_say_what_to_do(grounding_dino):
    host = host_with(None)
    session = session_with(picture(), host)
    with pytest.raises(RequestError, match="MOTION_APP_FINDER"):
        SceneActions(host, []).look_for(session, {"text": "fox"})
    host = host_with(grounding_dino)
    actions = SceneActions(host, [])
    nothing = Finding(session.draft.picture, "fox", ())
    with pytest.raises(RequestError, match="nothing new was found for “fox”"):
        actions.add_found(session, nothing)
    with pytest.raises(RequestError, match="picture was changed"):
        actions.add_found(session, Finding(picture(), "fox", ()))
    with pytest.raises(RequestError, match="no words"):
        actions.look_for(session, {"text": " , "})


def test_the_field_for_words_is_there_only_where_a_finder_is_set(grounding_dino, tmp_path):
    for finder, there in ((None, False), (grounding_dino, True)):
        with gr.Blocks(analytics_enabled=False) as page:
            kept = KeptDrafts(tmp_path, Limits())
            state, previews = gr.State(Session()), Previews(Limits())
            shown = (Texts("en"), [], state, previews, kept)
            TransferTab(host_with(finder), *shown, timer=gr.Timer())
        ids = {block.elem_id for block in page.blocks.values()}
        assert ("find" in ids) == there and "fit" in ids


def test_the_endpoint_finds_boxes_and_masks_by_words(grounding_dino, sam3):
    image = encode_data_uri(picture())
    for folder, masked in ((grounding_dino, False), (sam3, True)):
        endpoints = PictureEndpoints(host_with(folder))
        answer = endpoints.find(image, ["fox"], threshold=0.0)
        assert json.loads(json.dumps(answer)) == answer and answer["objects"]
        for item in answer["objects"]:
            x0, y0, x1, y1 = item["box"]
            assert 0 <= x0 <= x1 <= 96 and 0 <= y0 <= y1 <= 64 and item["words"] == "fox"
            assert (item["mask"] is not None) == masked
            if masked:
                assert read_mask(decode_data_uri(item["mask"])).shape == (64, 96)
    with pytest.raises(RequestError, match="between 0 and 1"):
        endpoints.find(image, ["fox"], threshold=2.0)
    with pytest.raises(RequestError, match="at most 16 words"):
        endpoints.find(image, ["fox"] * 17)
    with pytest.raises(RequestError, match="MOTION_APP_FINDER"):
        PictureEndpoints(host_with(None)).find(image, ["fox"])
