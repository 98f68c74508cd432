"""The engine as a library: two things in a picture, a motion for each, and the video on disk.

    python -m tests.example_generate OUT

from the repository's root writes OUT/video.mp4, its recipe, masks and lossless frames.
"""

import json
import logging
import sys
from pathlib import Path

from motion_app.engine.pipeline import MotionEngine
from motion_app.geometry import fit_image
from motion_app.library.library import Library
from motion_app.media.files import read_image
from motion_app.media.results import SavedVideo, save_result
from motion_app.models.clicks import ClickSegmenter
from motion_app.scene import Box, GenerationRequest, Options, SceneObject, StepReport

POCKET = Path("checkpoints/pocket")  # or any CogVideoX image-to-video model, by folder or hub name
PICTURE = Path("assets/examples/2-side-by-side.png")
MOTIONS = ("jump", "walk right")  # of the library, for the things in the picture from left to right

log = logging.getLogger("example")


def generate(out: Path, *, steps: int | None = None, seed: int = 0) -> SavedVideo:
    """``steps`` None takes as many as the checkpoint asks for."""
    engine = MotionEngine.load(POCKET, device="cpu")
    frame = engine.geometry  # every size of this checkpoint, in pixels and in tokens
    library = Library([POCKET / "motions"])

    # The picture as it came, and as the model will see it.
    picture = read_image(PICTURE)  # (H0, W0, 3) uint8 RGB
    fitted = fit_image(picture, frame.height, frame.width, "crop")  # .image: (H, W, 3)

    # A mask for each thing: here from a box drawn around it, by SAM 2. A black and white picture
    # serves as well: motion_app.media.files.read_mask(path).
    segmenter = ClickSegmenter.load(POCKET / "sam2")
    segmenter.set_image(picture)
    drawn = json.loads(PICTURE.with_suffix(".json").read_text())["objects"]
    objects = []
    for thing, name in zip(drawn, MOTIONS, strict=True):
        mask = segmenter.predict([], Box(*thing["box"])).mask  # (H0, W0) bool
        objects.append(
            SceneObject(
                mask=fitted.fit_mask(mask),  # (H, W) bool, moved and cut as the picture was
                sentence=f"A {thing['noun']} is moving.",  # the prompt is all sentences in a row
                phrase="is moving",  # the motion's words: seen by this thing's pixels alone
                motion=library.find(name, base=engine.fingerprint),  # made for this very model
                name=thing["noun"],
            )
        )

    # Everything that determines the video. method="none" would be the stock model.
    request = GenerationRequest(fitted.image, tuple(objects), Options(seed=seed, steps=steps))
    video = engine.generate(request, on_step=tell)  # .frames: (T, H, W, 3) uint8
    return save_result(video, out, export=engine.defaults.export)


def tell(report: StepReport) -> bool:
    """Called after every denoising step; False would cancel the generation."""
    masks = "kept" if report.masks_settled else "still found anew"
    log.info("step %d of %d, %.1f s, masks %s", report.step, report.steps, report.seconds, masks)
    return True


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    saved = generate(Path(sys.argv[1]))
    log.info("%s; replay it with: motion_app generate %s --out DIR", saved.video, saved.recipe)
