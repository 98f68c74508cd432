"""The checkpoint that ships does what the README says, measured in small on unseen scenes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from daily import some_daily
from diffusers import AutoencoderKLCogVideoX, CogVideoXImageToVideoPipeline
from PIL import Image
from transformers import Sam2Model

from motion_app.__main__ import main
from motion_app.benchmark.scenes import tuning_cases
from motion_app.benchmark.scores import colour_scores
from motion_app.engine.pipeline import MotionEngine
from motion_app.geometry import fit_image
from motion_app.jobs.models import Models
from motion_app.library.library import Library
from motion_app.models.clicks import ClickSegmenter
from motion_app.pocket.sam2 import measure_sam2
from motion_app.pocket.shipped import train_shipped_motions
from motion_app.pocket.vae import reconstruction_psnr, render_clips
from motion_app.scene import Click, Motion
from motion_app.settings import ROOT, Settings
from motion_app.ui.transfer.picture import load_examples
from motion_app.world.creatures import MOTIONS
from motion_app.world.world import WorldConfig

POCKET = ROOT / "checkpoints" / "pocket"


@pytest.fixture(scope="module")
def engine() -> MotionEngine:
    return MotionEngine.load(POCKET, device="cpu")


@pytest.fixture(scope="module")
def motions() -> list[Motion]:
    return Library([POCKET / "motions"]).list()


def test_the_stock_pipeline_loads_the_folder_and_generates() -> None:
    pipe = CogVideoXImageToVideoPipeline.from_pretrained(POCKET)
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(
        image=Image.new("RGB", (96, 64), "white"),
        prompt="A red cat jumps.",
        height=64,
        width=96,
        num_frames=13,
        num_inference_steps=2,
        guidance_scale=3.0,
        max_sequence_length=64,
        output_type="np",
    ).frames
    assert frames.shape == (1, 13, 64, 96, 3) and np.isfinite(frames).all()


def test_the_stock_class_loads_the_segmenter() -> None:
    model = Sam2Model.from_pretrained(POCKET / "sam2")
    assert sum(p.numel() for p in model.parameters()) < 2e6


def test_the_folder_is_small_and_holds_no_pickle() -> None:
    files = [path for path in POCKET.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30e6
    assert not [p.name for p in files if p.suffix in {".pt", ".bin", ".pkl", ".ckpt", ".training"}]


def test_no_file_tells_where_it_was_made() -> None:
    for config in POCKET.rglob("*.json"):
        assert not re.search(r'"_name_or_path": "[^"]', config.read_text()), config.name


def test_the_library_has_eight_motions_three_of_them_novel(
    engine: MotionEngine, motions: list[Motion]
) -> None:
    assert len(motions) >= 8
    assert sum(MOTIONS[motion.name].novel for motion in motions) >= 3
    for motion in motions:
        assert motion.base == engine.fingerprint, f"{motion.name} is of an older backbone"
        assert motion.preview is not None and motion.track is not None and len(motion.track) == 13


def test_the_vae_keeps_unseen_clips() -> None:
    vae = AutoencoderKLCogVideoX.from_pretrained(POCKET / "vae", torch_dtype=torch.float32)
    clips = render_clips(6, seed=987_654, config=WorldConfig())
    assert reconstruction_psnr(vae.eval(), clips) >= 28


def test_the_engine_without_motions_is_the_stock_pipeline_bit_for_bit(
    engine: MotionEngine, motions: list[Motion]
) -> None:
    names = [motion.name for motion in motions]
    case = tuning_cases(names, {2: 1}, geometry=engine.geometry)[0]
    request = case.request(case.chosen(motions), method="none", steps=3)
    ours = engine.generate(request).latents
    stock = engine.backbone.pipe(
        image=Image.fromarray(request.image),
        prompt=request.full_prompt(),
        height=64,
        width=96,
        num_frames=13,
        num_inference_steps=3,
        guidance_scale=engine.defaults.guidance,
        use_dynamic_cfg=False,
        generator=torch.Generator("cpu").manual_seed(request.options.seed),
        output_type="latent",
        max_sequence_length=64,
    ).frames
    assert np.array_equal(ours, stock.float().numpy())


@pytest.mark.parametrize("scenes", some_daily([2, 6], 2))
def test_objects_move_more_like_their_own_motion_than_like_the_other(
    engine: MotionEngine, motions: list[Motion], scenes: int
) -> None:
    names, margins = [motion.name for motion in motions], []
    for case in tuning_cases(names, {2: scenes}, geometry=engine.geometry):
        video = engine.generate(case.request(case.chosen(motions)))
        scores = colour_scores(case, video.frames, geometry=engine.geometry)
        margins += scores.values["own_minus_other[colour]"]
    assert np.mean(margins) > 0


def test_one_click_finds_the_creature() -> None:
    segmenter = ClickSegmenter.load(POCKET / "sam2", device="cpu")
    assert measure_sam2(segmenter, 16, seed=4242).one_click >= 0.85


def test_every_example_is_clicked_right() -> None:
    segmenter = ClickSegmenter.load(POCKET / "sam2", device="cpu")
    examples = load_examples(ROOT / "assets" / "examples")
    assert len(examples) >= 4
    for example in examples:
        image = fit_image(example.picture, 64, 96).image
        segmenter.set_image(image)
        scale = 96 / example.picture.shape[1]
        for item in example.objects:
            x0, y0, x1, y1 = (side * scale for side in item.box)
            mask = segmenter.predict([Click((x0 + x1) / 2, (y0 + y1) / 2)]).mask
            rows, columns = np.nonzero(mask)
            found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert np.allclose(found, (x0, y0, x1, y1), atol=4), (example.name, item.noun)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--alpha", "1"], "--alpha belongs to --method synmotion"),
        (["--method", "synmotion"], "would replace the motions that ship"),
        (["--method", "concat"], "name another folder with --motions-out"),
    ],
)
def test_motions_learned_another_way_never_replace_those_that_ship(wrong, words, tmp_path, capsys):
    command = ["pocket", "train", "--stages", "motions", "--runs", str(tmp_path / "runs")]
    assert main([*command, "--out", str(POCKET), *wrong]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_folder_of_motions_is_filled_up_and_what_it_holds_is_left(tmp_path: Path) -> None:
    given = {"steps": 1, "views": 1, "batch": 1, "alpha": 1.0, "parts": ("mot",)}
    models = Models(Settings(device="cpu"))
    options = {"models": models, "out": tmp_path, "method": "synmotion", "given": given}
    first = train_shipped_motions(POCKET, ["jump"], **options)
    kept = first[0].path.read_bytes()
    both = train_shipped_motions(POCKET, ["jump", "sway"], **options)
    assert [motion.name for motion in both] == ["jump", "sway"]
    assert {motion.method for motion in both} == {"synmotion"}
    assert first[0].path.read_bytes() == kept and both[0].track == first[0].track is not None
