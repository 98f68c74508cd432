"""Reference clips that ship: each shows one creature that stands, moves, and stands again, so that
learning a motion can be tried with one click. Drawn larger than the model's frame, as clips that
people bring are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from motion_app.errors import MediaError
from motion_app.media.files import write_video
from motion_app.text_files import listed
from motion_app.wording import NEUTRAL_PHRASE
from motion_app.world.world import WorldConfig, draw_scene, render

CLIP_SEED = 53_000
# Motions of the world, and what one learned from such a clip is called: no name of the library's.
CLIPS = {"spin": "spin", "shake": "shake", "crouch": "duck", "bow": "bow"}
RESTS = 8  # frames before and after


@dataclass(frozen=True)
class ExampleClip:
    """``file`` shows a ``noun`` do what a motion called ``name`` is; ``phrase`` are its words."""

    file: Path
    name: str
    noun: str
    phrase: str = NEUTRAL_PHRASE


def render_clips(
    folder: Path, config: WorldConfig = WorldConfig(), *, enlarge: int = 3
) -> list[Path]:
    """Writes ``folder/NAME.mp4``, ``enlarge`` times the model's frame, and ``NAME.json`` with its
    words. The same code draws the same frames."""
    folder.mkdir(parents=True, exist_ok=True)
    large = replace(config, height=config.height * enlarge, width=config.width * enlarge, level=1)
    written = []
    for number, (name, called) in enumerate(CLIPS.items()):
        rng = np.random.default_rng([CLIP_SEED, number])
        scene = draw_scene(rng, replace(config, level=1), objects=1, motions=[name])
        creatures = tuple(
            replace(c, radius=c.radius * enlarge, x=c.x * enlarge, y=c.y * enlarge)
            for c in scene.creatures
        )
        frames = render(replace(scene, config=large, creatures=creatures)).frames
        rests = [np.repeat(frames[at : at + 1 or None], RESTS, axis=0) for at in (0, -1)]
        path = folder / f"{name}.mp4"
        write_video(path, np.concatenate([rests[0], frames, rests[1]]), float(config.fps))
        words = {"name": called, "noun": scene.creatures[0].noun, "phrase": NEUTRAL_PHRASE}
        path.with_suffix(".json").write_text(json.dumps(words, indent=2) + "\n")
        written.append(path)
    return written


def load_clips(folder: Path) -> tuple[ExampleClip, ...]:
    """All of a folder, by name; () where there is none. MediaError for words that cannot be
    read."""
    clips = []
    for path in listed(folder, "*.mp4"):
        notes = path.with_suffix(".json")
        try:
            words = json.loads(notes.read_text(encoding="utf-8-sig"))
            known = {key: str(words[key]) for key in ("name", "noun", "phrase")}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise MediaError(
                f'{notes.name} must hold {{"name", "noun", "phrase"}}: {error}'
            ) from error
        clips.append(ExampleClip(path, **known))
    return tuple(clips)
