"""How a video shall be made: seed, preset, steps, guidance, method, badge; a preset is a named pair
of steps and guidance. And by which model, where no motion is told: the checkpoint itself, or one of
others that the deployment names."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import gradio as gr

from motion_app.errors import MotionAppError, RequestError
from motion_app.geometry import GenerationDefaults
from motion_app.methods import FAMILIES, METHOD_TABLE, METHODS, STOCK, STOCK_METHOD
from motion_app.models.stock_files import GIGABYTE, RESIDENT, StockModel, StockOutlook
from motion_app.request.request import RequestFile
from motion_app.scene import Options
from motion_app.ui.boundary import listen
from motion_app.ui.markup import Texts, method_text

MOST_STEPS = 100
WHOLE_NUMBERS = ("seed", "steps")  # a browser may send 12.0
MOST_GUIDANCE = 15.0
PresetName = Literal["draft", "standard", "paper"]
DRAFT_SHARE = 2  # a draft takes one step where the checkpoint's own setting takes two
BIGGEST_SEED = 2**53 - 1  # what JavaScript keeps exactly
OWN = ""  # of the list: the checkpoint itself


class StockChoice:
    """The list of models; build it inside ``gr.Blocks``. ``models`` by name, at least one;
    ``outlook`` tells what one takes here. Licence, what it makes and its memory are said beside."""

    def __init__(
        self,
        texts: Texts,
        models: Mapping[str, StockModel],
        outlook: Callable[[str], StockOutlook],
    ) -> None:
        self.texts, self.models, self.outlook = texts, models, outlook
        choices = [(name, name) for name in models]
        self.list = gr.Dropdown(
            choices=[(texts("video.stock_own"), OWN), *choices],
            label=texts("video.stock"),
            elem_id="stock-model",
            **self._values(None, method=""),
        )

    def _values(self, name: str | None, *, method: str) -> dict[str, Any]:
        known = name if name in self.models else OWN
        return {"value": known, "visible": method == STOCK_METHOD, "info": self.about(known)}

    def update(self, name: str | None, *, method: str) -> Any:
        """The list with ``name`` chosen, None for the checkpoint; hidden but where ``method`` is
        the one that is told no motion."""
        return gr.update(**self._values(name, method=method))

    def about(self, name: str) -> str:
        """Title, licence and the regions it leaves out, what is made, and the memory that takes."""
        if name == OWN:
            return self.texts("video.stock_own_info")
        model = self.models[name]
        return " ".join(
            (
                f"{model.title}:",
                self.texts(f"video.stock_licence_{model.rights}"),
                self.texts(
                    "video.stock_makes",
                    frames=model.frames,
                    fps=f"{model.fps:g}",
                    width=model.width,
                    height=model.height,
                ),
                self._memory(name),
            )
        )

    def _memory(self, name: str) -> str:
        try:
            found = self.outlook(name)
        except MotionAppError as error:
            return str(error)
        kind = "fits" if found.where == RESIDENT else "waits"
        free = found.main_free if found.device_free is None else found.device_free
        return self.texts(
            f"video.stock_{kind if found.fits else 'too_large'}",
            taken=f"{found.main_bytes / GIGABYTE:.1f}",
            free=f"{free / GIGABYTE:.1f}",
        )


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
        stock = chosen.pop("stock", None) or None
        for name, value in chosen.items():
            if value is None:
                raise RequestError(f"the {name} is empty; fill in a number")
        whole = {name: int(chosen[name]) for name in WHOLE_NUMBERS}
        return cls(Options(**{**chosen, **whole}, stock=stock), badge=badge)


def new_seed() -> int:
    """A random seed from 0 to 2^31 − 1, which JavaScript keeps exactly."""
    return secrets.randbelow(2**31)


class GenerationSettings:
    """The components; build it inside ``gr.Blocks``. ``badge_forced``: every video carries the
    visible badge, whatever is chosen. ``methods``: those that are offered; ``stock``: models of
    others by name, () none, and ``outlook`` tells what one takes here."""

    def __init__(
        self,
        defaults: GenerationDefaults,
        texts: Texts,
        *,
        badge_forced: bool,
        methods: Sequence[str] = METHODS,
        stock: Mapping[str, StockModel] = MappingProxyType({}),
        outlook: Callable[[str], StockOutlook] | None = None,
    ) -> None:
        self._stock_models, self._outlook = stock, outlook
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
        self.stock = None
        if self._stock_models and self._outlook is not None:
            self.stock = StockChoice(texts, self._stock_models, self._outlook)
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
        choices = [(method_text(m, self.texts), m) for m in named]
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
            **({} if self.stock is None else {"stock": self.stock.list}),
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
            values = {name: named[name] for name in self.controls if name != "stock"}
            values["stock"] = named.get("stock") if self.stock is not None else None
            options = Chosen.of(values, locked=True, badge=badge)
        except (KeyError, MotionAppError):
            return nothing
        return [bool(named.get("lock")), *self._shown(options.options)[1:], badge]

    def wire(self) -> None:
        """Bind what the settings do to one another."""
        numbers = [self.steps, self.guidance]
        listen(self.dice.click, new_seed, outputs=[self.seed])
        listen(self.family.input, self.open_family, inputs=[self.family], outputs=[self.method])
        listen(self.method.input, self.tell_method, inputs=[self.method], outputs=[self.method])
        if self.stock is not None:
            chosen = [self.stock.list, *numbers, self.preset]
            given = [self.family, self.stock.list]
            listen(self.family.input, self.leave_stock, inputs=given, outputs=chosen)
            listen(self.stock.list.input, self.choose_stock, inputs=chosen[:1], outputs=chosen)
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

    def choose_stock(self, name: str) -> list[Any]:
        """A model of others with its own steps and guidance, or the checkpoint with its standard
        ones; updates of the list, both numbers and the preset."""
        model = self._stock_models.get(name)
        own = model or next(preset for preset in self.presets if preset.name == "standard")
        numbers = [
            gr.update(value=own.steps, maximum=max(MOST_STEPS, own.steps)),
            gr.update(value=own.guidance, maximum=max(MOST_GUIDANCE, own.guidance)),
        ]
        preset = preset_of(self.presets, steps=own.steps, guidance=own.guidance)
        return [self._stock_update(name, STOCK_METHOD), *numbers, preset]

    def leave_stock(self, family: str, name: str) -> list[Any]:
        """The checkpoint again, where another family of methods is opened; the list is shown with
        the family that is told no motion."""
        method = STOCK_METHOD if family == STOCK else ""
        left = self.choose_stock(OWN) if name in self._stock_models else [gr.skip()] * 4
        return [self._stock_update(None, method), *left[1:]]

    def _stock_update(self, name: str | None, method: str) -> Any:
        return gr.skip() if self.stock is None else self.stock.update(name, method=method)

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
        if self.stock is not None:
            values["stock"] = self._stock_update(chosen.stock, chosen.method)
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
