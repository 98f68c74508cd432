"""The command line: one JSON object on the last line, one line of error, exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from motion_app.__main__ import main
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.engine.pipeline import MotionEngine
from motion_app.library.owners import Ownership, keep_owner
from motion_app.media.files import read_clip, read_mask

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def settings_of_this_test(monkeypatch, tmp_path, tiny_checkpoint):
    """The tiny checkpoint and an own library, on one thread of the CPU."""
    torch.set_num_threads(1)
    monkeypatch.setenv("MOTION_APP_MODEL", str(tiny_checkpoint))
    monkeypatch.setenv("MOTION_APP_MOTIONS", json.dumps([str(tmp_path / "library")]))
    monkeypatch.setenv("MOTION_APP_DEVICE", "cpu")


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A picture, a mask, a motion in the library, and a request that uses them."""
    (tmp_path / "library").mkdir()
    fresh = MotionTokens.fresh(layers=2, tokens=4, width=32, scale=1.0, distribution="normal")
    base = MotionEngine.load(tiny_checkpoint, device="cpu").fingerprint
    fresh.save(
        tmp_path / "library" / "jump.safetensors",
        MotionMetadata("jump", "is moving", base, track=[[1, 2], [3, 4]]),
    )
    Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(tmp_path / "image.png")
    mask = np.zeros((32, 48), np.uint8)
    mask[8:24, 8:24] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    only = {"mask": "mask.png", "sentence": "A red robot is moving.", "motion": "jump"}
    request = {"image": "image.png", "objects": [only], "seed": 3}
    (tmp_path / "request.json").write_text(json.dumps(request))
    return tmp_path


def run(capsys: pytest.CaptureFixture, *arguments: object) -> dict:
    """The JSON a command prints last."""
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out.splitlines()[-1])


def fail(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line a mistake gives."""
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert len(printed.err.splitlines()) == 1 and printed.err.startswith("error: ")
    return printed.err


def test_generate_makes_a_video_and_all_that_belongs_to_it(folder, capsys):
    result = run(capsys, "generate", folder / "request.json", "--out", folder / "out")
    assert {"video", "recipe", "seed", "seconds", "masks"} <= set(result)
    assert read_clip(result["video"]).frames.shape == (13, 32, 48, 3)
    assert result["seed"] == 3
    assert read_mask(Path(result["masks"][0])).shape == (32, 7 * 48)
    frames = np.load(folder / "out" / "frames.npz")
    assert frames["frames"].shape == (13, 32, 48, 3)
    assert frames["masks"].shape == (1, 7, 8, 12)


def test_a_recipe_replays_its_video_and_options_override_it(folder, capsys):
    first = run(capsys, "generate", folder / "request.json", "--out", folder / "a", "--steps", 2)
    run(capsys, "generate", first["recipe"], "--out", folder / "b")
    run(capsys, "generate", first["recipe"], "--out", folder / "c", "--seed", 4)
    a, b, c = (np.load(folder / name / "frames.npz")["frames"] for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_methods_and_ablations_come_from_the_command_line(folder, capsys):
    path = folder / "request.json"
    run(capsys, "generate", path, "--out", folder / "a", "--steps", 1, "--method", "none")
    run(
        capsys, "generate", path, "--out", folder / "b", "--steps", 1, "--without", "m2v,step0_mask"
    )
    recipe = json.loads((folder / "b" / "recipe.json").read_text())
    assert recipe["without"] == recipe["request"]["without"] == ["m2v", "step0_mask"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--steps", "-3"], '"steps" is -3'),
        (["--seed", "-1"], '"seed" is -1'),
        (["--method", "magic"], "choose one of fleximmt"),
        (["--without", "m3v"], "choose one of m2v"),
        (["--steps", "many"], "--steps"),
        (["--bogus"], "--bogus"),
        (["--model", "no/such/model"], "model_index.json"),
    ],
)
def test_wrong_options_are_one_line(folder, capsys, options, complaint):
    path = folder / "request.json"
    assert complaint in fail(capsys, "generate", path, "--out", folder / "out", *options)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"image": "none.png"}, "none.png does not exist"),
        ({"bogus": 1}, 'unknown key "bogus"'),
        ({"objects": [], "prompt": "left " * 300}, "the prompt has 301 tokens"),
        ({"objects": [{"mask": "mask.png", "sentence": "A fox.", "motion": "jump"}]}, '"A fox."'),
        (
            {"objects": [{"mask": "mask.png", "sentence": "It is moving.", "motion": "jmp"}]},
            "did you mean jump",
        ),
    ],
)
def test_wrong_requests_are_one_line_before_any_weights_are_read(
    folder, capsys, monkeypatch, change, complaint
):
    monkeypatch.setattr(MotionEngine, "load", None)
    path = folder / "request.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert complaint in fail(capsys, "generate", path, "--out", folder / "out")


def test_a_folder_that_cannot_be_made_is_one_line(folder, capsys):
    out = folder / "image.png" / "out"
    assert "cannot be made" in fail(capsys, "generate", folder / "request.json", "--out", out)


def test_motions_are_listed_with_their_tracks_and_their_problems(folder, capsys):
    (folder / "library" / "broken.safetensors").write_bytes(b"x")
    result = run(capsys, "motions", "list")
    (motion,) = result["motions"]
    assert {"name", "phrase", "method", "base", "preview", "track"} <= set(motion)
    assert (motion["name"], motion["track"]) == ("jump", [[1.0, 2.0], [3.0, 4.0]])
    assert "broken.safetensors" in result["problems"][0]


def test_a_motion_is_renamed_and_shown_to_its_owner_alone_or_to_all(folder, capsys):
    keep_owner(folder / "library" / "jump.safetensors", "somebody")
    assert run(capsys, "motions", "rename", "jump", "high hop")["name"] == "high hop"
    assert "no motion" in fail(capsys, "motions", "rename", "jump", "hop")
    (file,) = (folder / "library").glob("*.safetensors")
    run(capsys, "motions", "share", "high hop", "--private")
    assert Ownership.read(file).private and Ownership.read(file).of("somebody")
    run(capsys, "motions", "share", "high hop")
    assert not Ownership.read(file).private


def published(path: Path, layers: int = 2, width: int = 32) -> Path:
    name = "transformer_blocks.{}.attn1.processor.motion_inversion_tokens"
    torch.save({name.format(layer): torch.ones(1, 4, width) for layer in range(layers)}, path)
    return path


def test_a_published_motion_is_imported_for_the_loaded_model(folder, capsys):
    file = published(folder / "pytorch_model.pt")
    out = folder / "library" / "dance.safetensors"
    options = ["--name", "dance", "--phrase", "is moving", "--out", out]
    run(capsys, "import-motion", file, *options)
    assert {m["name"] for m in run(capsys, "motions", "list")["motions"]} == {"dance", "jump"}


def test_files_that_cannot_be_imported_are_one_line(folder, capsys):
    options = ["--name", "x", "--phrase", "y", "--out", folder / "x.safetensors"]
    assert "no file" in fail(capsys, "import-motion", folder / "none.pt", *options)
    (folder / "junk.pt").write_bytes(b"junk")
    assert "junk.pt" in fail(capsys, "import-motion", folder / "junk.pt", *options)
    wide = published(folder / "wide.pt", width=48)
    assert "width" in fail(capsys, "import-motion", wide, *options)
    options[-1] = folder / "x.bin"
    assert ".safetensors" in fail(capsys, "import-motion", wide, *options)


def test_the_pocket_renders_a_scene_with_its_truth(tmp_path, capsys):
    out = tmp_path / "scene"
    result = run(capsys, "pocket", "render", "--seed", 4, "--motions", "jump,rise", "--out", out)
    assert len(result["objects"]) == 2
    count = len(list((out / "frames").iterdir()))
    for k, truth in enumerate(result["objects"]):
        assert truth["phrase"] in truth["sentence"] and truth["noun"] in truth["sentence"]
        assert np.array(truth["track"]).shape == (count, 2)
        first = read_mask(out / "masks" / f"{k}.png")
        assert np.array_equal(first, read_mask(out / "masks" / str(k) / "0.png"))
        y, x = truth["track"][0]
        assert first[round(y), round(x)]
    assert Image.open(out / "first_frame.png").size == Image.open(out / "frames" / "0.png").size
    again = run(capsys, "pocket", "render", "--seed", 4, "--motions", "jump,rise", "--out", out)
    assert again == result


def test_what_ships_beside_the_checkpoint_is_made_by_commands(tmp_path, capsys):
    places = ("--out", tmp_path / "examples", "--clips", tmp_path / "clips")
    drawn = run(capsys, "pocket", "examples", *places)
    shipped = sorted((ROOT / "assets" / "examples").glob("*.png"))
    assert [Path(path).name for path in drawn["pictures"]] == [path.name for path in shipped]
    for path, there in zip(drawn["pictures"], shipped, strict=True):
        assert np.array_equal(Image.open(path), Image.open(there)), there.name
    films = {path.name for path in (ROOT / "assets" / "clips").glob("*.mp4")}
    assert {Path(path).name for path in drawn["clips"]} == films
    out = tmp_path / "new" / "moving.gif"
    showcase = ("pocket", "showcase", "--model", ROOT / "checkpoints" / "pocket", "--out", out)
    made = run(capsys, *showcase, "--cases", 1)
    with Image.open(made["picture"]) as moving:
        assert moving.n_frames > 8 and made["bytes"] == out.stat().st_size
    assert "-1" in fail(capsys, *showcase, "--cases", -1)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--motions", "jump,fly"], "fly"),
        (["--objects", "3", "--motions", "jump"], "3 objects need 3 motions"),
        (["--objects", "4"], "invalid choice"),
        (["--motions", "jump,rise,sink,jump"], "1 to 3 objects"),
    ],
)
def test_scenes_that_cannot_be_drawn_are_one_line(tmp_path, capsys, options, complaint):
    assert complaint in fail(capsys, "pocket", "render", "--seed", 1, "--out", tmp_path, *options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "nothing was marked"),
        (["--point", "3,4"], "3 numbers"),
        (["--point", "3,4,2"], "must end in 1"),
        (["--point", "300,4,1"], "outside the picture"),
        (["--point", "3,4,0"], "what does not belong"),
        (["--box", "1,2,3"], "4 numbers"),
        (["--point", "nan,4,1"], "3 numbers"),
        (["--point", "3,4,1"], "segmenter"),
    ],
)
def test_clicks_that_mean_nothing_are_one_line(folder, capsys, options, complaint):
    arguments = ["segment", folder / "image.png", "--out", folder / "mask.png", *options]
    assert complaint in fail(capsys, *arguments)


def test_a_motion_learned_from_a_clip_joins_the_library(tmp_path, capsys):
    scene = tmp_path / "scene"
    drawn = run(capsys, "pocket", "render", "--seed", 2, "--motions", "jump", "--out", scene)
    out = tmp_path / "library" / "hop.safetensors"
    given = ["--name", "hop", "--phrase", "is moving", "--noun", "fox", "--steps", 1, "--out", out]
    given.append("--sample-latents")
    assert run(capsys, "train-motion", drawn["clip"], *given)["motion"] == str(out)
    (motion,) = run(capsys, "motions", "list")["motions"]
    assert (motion["name"], motion["phrase"]) == ("hop", "is moving")
    assert Path(motion["preview"]).is_file()
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["config"])["sample_latents"] is True


def test_a_lora_is_learned_and_a_video_made_with_it(folder, tmp_path, capsys):
    scene = tmp_path / "scene"
    drawn = run(capsys, "pocket", "render", "--seed", 2, "--motions", "jump", "--out", scene)
    out = tmp_path / "library" / "hop.safetensors"
    given = ["--name", "hop", "--phrase", "is moving", "--noun", "fox", "--out", out]
    given += ["--method", "i2vedit", "--steps", 2, "--rank", 2, "--spatial-share", 0.5]
    assert run(capsys, "train-motion", drawn["clip"], *given)["motion"] == str(out)
    with safe_open(out, framework="pt") as file:
        told = json.loads(file.metadata()["config"])
        assert file.get_slice("lora.to_q.down").get_shape()[1] == told["rank"] == 2
    assert told["spatial_share"] == 0.5
    request = json.loads((folder / "request.json").read_text())
    request["objects"][0]["motion"] = "hop"
    asked = folder / "asked.json"
    asked.write_text(json.dumps(request | {"method": "i2vedit", "steps": 2}))
    made = run(capsys, "generate", asked, "--out", tmp_path / "made")
    assert json.loads(Path(made["recipe"]).read_text())["system"]["noise"] > 0
    assert "needs motion tokens" in fail(
        capsys, "generate", asked, "--out", tmp_path / "other", "--method", "fleximmt"
    )


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--steps", "0"], "from 1 to"),
        (["--out", "x.bin"], ".safetensors"),
        (
            ["--spatial-share", "0.5"],
            "--spatial-share belongs to --method i2vedit, not to fleximmt",
        ),
        (["--rank", "4"], "--rank belongs to --method synmotion or i2vedit"),
        ([], "no file"),
    ],
)
def test_training_mistakes_are_one_line(tmp_path, capsys, options, complaint):
    given = [
        "--name",
        "x",
        "--phrase",
        "jumps",
        "--noun",
        "fox",
        "--out",
        tmp_path / "x.safetensors",
    ]
    clip = tmp_path / "none.mp4"
    if options:
        clip.write_bytes(b"")
    assert complaint in fail(capsys, "train-motion", clip, *given, *options)


def test_options_the_pocket_trainer_lacks_are_one_line(capsys):
    assert "--bogus" in fail(capsys, "pocket", "train", "--bogus")


def test_a_wrong_setting_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("MOTION_APP_LIMITS__OBJECTS", "none")
    assert "MOTION_APP_LIMITS__OBJECTS" in fail(capsys, "motions", "list")


def test_a_mistake_is_exit_code_2_and_no_stack_trace_in_a_real_process(tmp_path):
    command = [sys.executable, "-m", "motion_app", "generate", "none.json", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: the request none.json cannot be read: No such file or directory\n"


def test_memory_names_the_profile_that_is_chosen_here_and_on_a_gpu(capsys):
    here = run(capsys, "memory")
    assert here["chosen"] == here["here"]["profile"] == "resident" and here["measured"] is False
    assert 0 < here["here"]["device_gb"] < here["here"]["device_free_gb"]
    sizes = [row["device"] for row in here["gigabytes"].values()]
    assert sizes[0] >= sizes[1] >= sizes[2] and "group-offload" in here["gigabytes"]
    assert run(capsys, "memory", "--free", "1e-6")["chosen"] == "group-offload-fp8"
    main(["memory", "--free", "1"])
    table = capsys.readouterr().out.splitlines()
    assert sum("← chosen" in line for line in table) == 1 and table[-2].startswith("here: cpu")
