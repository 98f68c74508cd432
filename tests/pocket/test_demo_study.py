"""The demo study made anew: scenes drawn, every method's video of each, all of one format."""

from __future__ import annotations

import json
from pathlib import Path

from motion_app.engine.pipeline import MotionEngine
from motion_app.library.library import Library
from motion_app.media.files import read_clip
from motion_app.pocket.shipped import COMPARED, make_demo_study
from motion_app.study.demo import demo_visits
from motion_app.study.demo_content import read_demo


def test_a_demo_is_made_by_the_pocket_and_can_be_visited(
    tmp_path: Path, short_pocket: Path
) -> None:
    engine = MotionEngine.load(short_pocket, device="cpu")
    motions = Library([short_pocket / "motions"]).list()
    out = tmp_path / "demo"
    out.mkdir()
    (out / "of the one before").touch()
    content = make_demo_study(out, engine, motions, scenes=1, steps=1)
    assert read_demo(out) == content and not (out / "of the one before").exists()
    assert json.loads((out / "demo.json").read_text())["made_with"] == engine.fingerprint
    scene, practice = content.items
    assert (scene.kind, practice.kind) == ("main", "practice") and len(scene.references) == 2
    assert list(scene.candidates) == list(content.methods) and len(COMPARED) == 6
    shapes = {
        read_clip(out / "media" / name).frames.shape
        for item in content.items
        for name in item.candidates.values()
    }
    assert shapes == {(5, 256, 384, 3)}
    told = (scene.caption, scene.name, content.title)
    assert not any(name.lower() in text.lower() for text in told for name in content.methods)
    visits = demo_visits(out)
    assert visits.find(visits.begin()) is not None
    visits.close()
