"""How a video shall be made, and how that is read back.

Seed, preset, steps, guidance, method, badge; a preset is a named pair of steps and guidance. A
recipe, or a video that carries one, brings back what a person chose, with a word on everything that
may make the new video differ from the old one."""

from __future__ import annotations

import contextlib
import importlib.metadata
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from motion_app.errors import MotionAppError, RequestError
from motion_app.geometry import GenerationDefaults
from motion_app.library.library import Library
from motion_app.media.provenance import read_recipe
from motion_app.methods import FAMILIES, METHOD_TABLE, METHODS
from motion_app.request.request import ObjectEntry, RequestFile, parse_request
from motion_app.scene import Motion, Options
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.ui.boundary import listen
from motion_app.ui.markup import Texts

MOST_STEPS = 100
WHOLE_NUMBERS = ("seed", "steps")  # a browser may send 12.0
MOST_GUIDANCE = 15.0
PresetName = Literal["draft", "standard", "paper"]
DRAFT_SHARE = 2  # a draft takes one step where the checkpoint's own setting takes two
BIGGEST_SEED = 2**53 - 1  # what JavaScript keeps exactly
SHORT_DIGEST = 12  # letters of a digest that are shown


@dataclass(frozen=True)
class Chosen:
    """What stands in the fields, checked. Its seed is the one to use: a new one where it was not
    locked."""

    options: Options
    badge: bool

    @classmethod
    def of(cls, values: Mapping[str, Any], *, locked: bool, badge: bool) -> Chosen:
        """``values``: what stands in the fields, by the names of ``Options``; RequestError for an
        empty one."""
        chosen = dict(values) if locked else {**values, "seed": new_seed()}
        for name, value in chosen.items():
            if value is None:
                raise RequestError(f"the {name} is empty; fill in a number")
        whole = {name: int(chosen[name]) for name in WHOLE_NUMBERS}
        return cls(Options(**{**chosen, **whole}), badge=badge)


def new_seed() -> int:
    """A random seed from 0 to 2^31 − 1, which JavaScript keeps exactly."""
    return secrets.randbelow(2**31)


class GenerationSettings:
    """The components; build it inside ``gr.Blocks``. ``badge_forced``: every video carries the
    visible badge, whatever is chosen. ``methods``: those that are offered."""

    def __init__(
        self,
        defaults: GenerationDefaults,
        texts: Texts,
        *,
        badge_forced: bool,
        methods: Sequence[str] = METHODS,
    ) -> None:
        self.texts, self.badge_forced, self.methods = texts, badge_forced, methods
        self.presets = presets(defaults)
        with gr.Row(elem_classes="seed-row"):
            self.seed = gr.Number(
                value=0, precision=0, minimum=0, label=texts("video.seed"), elem_id="seed"
            )
            self.lock = gr.Checkbox(
                value=True,
                label=texts("video.lock"),
                container=False,
                min_width=70,
                scale=0,
                elem_id="seed-lock",
            )
            self.dice = gr.Button(
                texts("video.dice"), size="sm", min_width=84, scale=0, elem_id="dice"
            )
        self.preset = gr.Radio(
            [(self._label(preset), preset.name) for preset in self.presets],
            value="standard",
            label=texts("video.preset"),
            elem_id="preset",
        )
        with gr.Accordion(texts("video.settings"), open=False, elem_id="settings"):
            self._build_details(defaults, badge_forced)

    def _build_details(self, defaults: GenerationDefaults, badge_forced: bool) -> None:
        texts = self.texts
        self.steps = gr.Slider(
            *(1, max(MOST_STEPS, defaults.steps)),
            value=defaults.steps,
            step=1,
            label=texts("video.steps"),
            elem_id="steps-count",
        )
        self.guidance = gr.Slider(
            *(0, max(MOST_GUIDANCE, defaults.guidance)),
            value=defaults.guidance,
            step=0.1,
            label=texts("video.guidance"),
            info=texts("video.guidance_info"),
            elem_id="guidance",
        )
        self.family = gr.Radio(
            [(texts(f"video.family_{name}"), name) for name in FAMILIES],
            value=METHOD_TABLE[METHODS[0]].family,
            label=texts("video.family"),
            elem_id="method-family",
        )
        self.method = gr.Dropdown(
            **self._method(METHODS[0]),
            label=texts("video.method"),
            elem_id="method",
        )
        self.badge = gr.Checkbox(
            value=badge_forced,
            interactive=not badge_forced,
            label=texts("video.badge"),
            info=texts("video.badge_forced" if badge_forced else "video.badge_info"),
            elem_id="badge",
        )

    def _method(self, name: str) -> dict[str, Any]:
        """The list of a method's family, the method chosen, with what it is told and what it
        costs."""
        family = METHOD_TABLE[name].family
        known = [m for m in METHODS if m in self.methods or m == name]  # a recipe may name any
        named = [m for m in known if METHOD_TABLE[m].family == family]
        choices = [(self.texts(f"video.method_{m}"), m) for m in named]
        return {"choices": choices, "value": name, "info": self.texts(f"video.about_{name}")}

    def _label(self, preset: Preset) -> str:
        return self.texts(f"video.preset_{preset.name}", steps=preset.steps)

    @property
    def controls(self) -> dict[str, Any]:
        """The components of ``Options``, by its names."""
        return {
            "seed": self.seed,
            "steps": self.steps,
            "guidance": self.guidance,
            "method": self.method,
        }

    @property
    def fields(self) -> list[Any]:
        """What ``chosen`` reads."""
        return [self.lock, self.badge, *self.controls.values()]

    def chosen(self, values: Sequence[Any]) -> Chosen:
        """The values of ``fields``, checked."""
        locked, badge, *others = values
        return Chosen.of(
            dict(zip(self.controls, others, strict=True)),
            locked=bool(locked),
            badge=self.badge_forced or bool(badge),
        )

    @property
    def restorable(self) -> list[Any]:
        """What ``restored`` updates."""
        return [self.lock, self.preset, self.family, *self.controls.values()]

    def named(self, values: Sequence[Any]) -> dict[str, Any]:
        """The values of ``fields`` by name, as they are: what ``returned`` takes."""
        return dict(zip(["lock", "badge", *self.controls], values, strict=True))

    @property
    def returnable(self) -> list[Any]:
        """What ``returned`` updates."""
        return [*self.restorable, self.badge]

    def returned(self, named: Mapping[str, Any]) -> list[Any]:
        """The updates for what was ``named`` before; none where it says nothing, or what cannot be
        any more."""
        nothing = [gr.skip()] * len(self.returnable)
        if not named:
            return nothing
        try:
            badge = self.badge_forced or bool(named["badge"])
            options = Chosen.of(
                {name: named[name] for name in self.controls}, locked=True, badge=badge
            )
        except (KeyError, MotionAppError):
            return nothing
        return [bool(named.get("lock")), *self._shown(options.options)[1:], badge]

    def wire(self) -> None:
        """Bind what the settings do to one another."""
        numbers = [self.steps, self.guidance]
        listen(self.dice.click, new_seed, outputs=[self.seed])
        listen(self.family.input, self.open_family, inputs=[self.family], outputs=[self.method])
        listen(self.method.input, self.tell_method, inputs=[self.method], outputs=[self.method])
        listen(self.preset.input, self.apply_preset, inputs=[self.preset], outputs=numbers)
        for slider in numbers:
            for event in (slider.input, slider.release):
                listen(event, self.name_preset, inputs=numbers, outputs=[self.preset])

    def apply_preset(self, name: str) -> list[Any]:
        """A preset's steps and guidance."""
        preset = next(preset for preset in self.presets if preset.name == name)
        return [preset.steps, preset.guidance]

    def open_family(self, family: str) -> dict[str, Any]:
        """The list of the methods of a family, its first one chosen."""
        first = next(name for name in self.methods if METHOD_TABLE[name].family == family)
        return gr.update(**self._method(first))

    def tell_method(self, name: str) -> dict[str, Any]:
        """What a method is told and what it costs."""
        return gr.update(info=self.texts(f"video.about_{name}"))

    def name_preset(self, steps: float, guidance: float) -> str | None:
        """The preset with these numbers, none where they are a person's own."""
        return preset_of(self.presets, steps=steps, guidance=guidance)

    def restored(self, request: RequestFile) -> list[Any]:
        """A recipe's numbers in the fields, and its seed locked."""
        return self._shown(request.options)

    def _shown(self, chosen: Options) -> list[Any]:
        standard = next(preset for preset in self.presets if preset.name == "standard")
        steps = standard.steps if chosen.steps is None else chosen.steps
        guidance = standard.guidance if chosen.guidance is None else chosen.guidance
        values = {name: getattr(chosen, name) for name in self.controls}
        values["method"] = gr.update(**self._method(chosen.method))
        values["steps"] = gr.update(value=steps, maximum=max(MOST_STEPS, steps))
        values["guidance"] = gr.update(value=guidance, maximum=max(MOST_GUIDANCE, guidance))
        preset = preset_of(self.presets, steps=steps, guidance=guidance)
        return [True, preset, METHOD_TABLE[chosen.method].family, *values.values()]


@dataclass(frozen=True)
class Preset:
    """``steps`` of denoising at ``guidance``, the scale of classifier-free guidance."""

    name: PresetName
    steps: int
    guidance: float


def presets(defaults: GenerationDefaults) -> tuple[Preset, ...]:
    """Draft (half the checkpoint's steps), standard (the checkpoint's own settings) and paper (what
    FlexiMMT's authors ran CogVideoX-5B-I2V with, the defaults of ``GenerationDefaults``)."""
    paper = GenerationDefaults()
    draft_steps = max(1, defaults.steps // DRAFT_SHARE)
    return (
        Preset("draft", draft_steps, defaults.guidance),
        Preset("standard", defaults.steps, defaults.guidance),
        Preset("paper", paper.steps, paper.guidance),
    )


def preset_of(known: Sequence[Preset], *, steps: float, guidance: float) -> PresetName | None:
    """The first of ``known`` with these numbers; None where a person chose others."""
    for preset in known:
        if (preset.steps, preset.guidance) == (steps, guidance):
            return preset.name
    return None


@dataclass(frozen=True)
class Note:
    """A line about a recipe. ``key`` is that of its text, ``values`` fill it in; a "warning" says
    that another video comes out, "quiet" that it may."""

    kind: Literal["warning", "quiet"]
    key: str
    values: tuple[tuple[str, str], ...] = ()

    def text(self, texts: Texts) -> str:
        return texts(self.key, **dict(self.values))


@dataclass(frozen=True)
class Environment:
    """What a video is made with here: the model's ``name``, the fingerprint of its ``base`` (None
    before it is loaded), the ``device``, and the ``versions`` of the packages that compute."""

    name: str
    base: str | None
    device: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Replay:
    """``request`` with its numbers filled in: ``seed``, ``steps`` and ``guidance`` are never
    None where the recipe knew them. ``notes``: what differs here."""

    request: RequestFile
    notes: tuple[Note, ...]


def installed_versions(names: Sequence[str] = ("torch", "diffusers")) -> dict[str, str]:
    """Versions of packages as installed, none of them imported; one that is not there is left
    out."""
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def read_replay(
    path: Path, *, library: Library, environment: Environment, limits: Limits = DEFAULT_LIMITS
) -> Replay:
    """The request inside a recipe, a request file, or a video made here.

    Raises MediaError for a video without a recipe, RequestError for JSON that is no request, and
    MotionFileError for a motion that is not in the ``library`` or belongs to another base model.
    """
    return replay_of(read_recipe(path, limits=limits), library=library, environment=environment)


def replay_of(recipe: Mapping[str, Any], *, library: Library, environment: Environment) -> Replay:
    """As ``read_replay``, for JSON that was read already."""
    request = parse_request(recipe)
    _check_complete(request)
    known = recipe if "base" in recipe else {}
    motions = [
        None if item.motion is None else library.find(_motion_name(item), base=environment.base)
        for item in request.objects
    ]
    notes = [
        *_model_notes(known, environment),
        *_motion_notes(known, motions),
        *_ablation_notes(request),
        *_environment_notes(known, environment),
    ]
    return Replay(request, tuple(notes))


def _check_complete(request: RequestFile) -> None:
    """A page reads no files by name: the picture and the masks must be inside."""
    pictures = [("image", request.image)]
    pictures += [
        (f"mask of object {number}", item.mask)
        for number, item in enumerate(request.objects, start=1)
    ]
    for what, source in pictures:
        if not source.startswith("data:"):
            raise RequestError(
                f'the {what} is the file "{Path(source).name}", which is not in the recipe; drop '
                "the recipe.json that was written beside the video, it holds its pictures"
            )
    seed = request.options.seed
    if seed > BIGGEST_SEED:
        raise RequestError(
            f"the seed {seed} is above {BIGGEST_SEED}, the most that a browser keeps "
            "exactly; replay this recipe with the command line"
        )


def _motion_name(item: ObjectEntry) -> str:
    """A motion that was given as a file is looked for in the library by its name."""
    return Path(str(item.motion)).name.removesuffix(".safetensors")


def _model_notes(recipe: Mapping[str, Any], environment: Environment) -> list[Note]:
    base = recipe.get("base")
    if not base or environment.base is None or base == environment.base:
        return []
    names = (("there", str(recipe.get("model", ""))), ("here", environment.name))
    return [Note("warning", "video.replay_base", names)]


def _motion_notes(recipe: Mapping[str, Any], motions: Sequence[Motion | None]) -> list[Note]:
    """One warning for each motion that has changed under its name since."""
    notes = []
    for made, motion in zip(recipe.get("objects", []), motions, strict=False):
        digest = made.get("motion_sha256", "") if isinstance(made, dict) else ""
        if motion is None or not digest or digest == motion.digest:
            continue
        values = (
            ("motion", motion.name),
            ("there", str(digest)[:SHORT_DIGEST]),
            ("here", motion.digest[:SHORT_DIGEST]),
        )
        notes.append(Note("warning", "video.replay_motion", values))
    return notes


def _ablation_notes(request: RequestFile) -> list[Note]:
    chosen = request.options
    if not chosen.without and chosen.scope == Options().scope:
        return []
    parts = ", ".join([*chosen.without, f"scope {chosen.scope}"])
    return [Note("warning", "video.replay_ablation", (("parts", parts),))]


def _environment_notes(recipe: Mapping[str, Any], environment: Environment) -> list[Note]:
    versions = recipe.get("versions")
    there = versions if isinstance(versions, dict) else {}
    pairs = [
        (name, str(there[name]), here)
        for name, here in sorted(environment.versions.items())
        if name in there
    ]
    if "device" in recipe and environment.device:  # which is not known before the model is loaded
        pairs.append(("device", str(recipe["device"]), environment.device))
    changed = [f"{name} {old} → {new}" for name, old, new in pairs if _plain(old) != _plain(new)]
    if not changed:
        return []
    return [Note("quiet", "video.replay_versions", (("changes", ", ".join(changed)),))]


def _plain(version: str) -> str:
    """Without the build's own part: PyTorch calls itself 2.11.0+cpu, its package 2.11.0."""
    return version.partition("+")[0]
