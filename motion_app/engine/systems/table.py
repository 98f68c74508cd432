"""Which system a method is, and with which settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from motion_app.engine.layers import System
from motion_app.engine.systems.anyv2v import AnyV2V, InjectionSettings
from motion_app.engine.systems.attention_flow import (
    AttentionFlow,
    CloneSettings,
    FlowSettings,
    MotionClone,
)
from motion_app.engine.systems.flexiact import FlexiAct, FlexiActSettings
from motion_app.engine.systems.go_with_the_flow import FlowNoiseSettings, GoWithTheFlow
from motion_app.engine.systems.i2vedit import EditSettings, I2VEdit
from motion_app.engine.systems.paste import AlongPaths, PasteSettings, PathSettings, TimeToMove
from motion_app.engine.systems.scene import SystemScene, Together
from motion_app.errors import CheckpointError
from motion_app.geometry import GenerationDefaults
from motion_app.methods import CLIPS, METHOD_TABLE
from motion_app.scene import GenerationRequest


@dataclass(frozen=True)
class SystemKind:
    """``build`` makes the system of a scene and ``settings``; a checkpoint's own go before
    these."""

    build: Callable[[SystemScene, Any], System]
    settings: Any

    def tuned(self, name: str, defaults: GenerationDefaults) -> Any:
        """The settings with a checkpoint's own; CheckpointError for unknown ones."""
        own = defaults.systems.get(name, {})
        try:
            return type(self.settings)(**{**vars(self.settings), **own})
        except TypeError as error:
            raise CheckpointError(
                f'the checkpoint\'s settings of the system "{name}" are wrong: {error}'
            ) from error


SYSTEMS: Mapping[str, SystemKind] = MappingProxyType(
    {
        "flexiact": SystemKind(FlexiAct, FlexiActSettings()),
        "i2vedit": SystemKind(I2VEdit, EditSettings()),
        "time-to-move": SystemKind(TimeToMove, PasteSettings()),
        "go-with-the-flow": SystemKind(GoWithTheFlow, FlowNoiseSettings()),
        "anyv2v": SystemKind(AnyV2V, InjectionSettings()),
        "anyv2v-placed": SystemKind(AnyV2V, InjectionSettings(placed=True)),
        "motionclone": SystemKind(MotionClone, CloneSettings()),
        "attention-flow": SystemKind(AttentionFlow, FlowSettings()),
    }
)


PATHS = "paths"  # what leads objects along them where the method is told no clips
ALONG_PATHS = SystemKind(AlongPaths, PathSettings())


def system_settings(method: str, defaults: GenerationDefaults) -> Any:
    """The settings, a dataclass, that ``method`` has with a checkpoint of these ``defaults``."""
    return SYSTEMS[method].tuned(method, defaults)


def chosen_settings(request: GenerationRequest, defaults: GenerationDefaults) -> dict[str, Any]:
    """The settings of all that acts on the video of ``request`` beside its tokens, as a recipe has
    them: "system", those of its method, and "paths", of what is led along them otherwise."""
    method, found = request.options.method, {}
    drawn = any(item.path is not None for item in request.objects)
    moved = any(item.motion is not None for item in request.objects)
    by_clip = METHOD_TABLE[method].family == CLIPS  # and by nothing that was learned of it
    if method in SYSTEMS and (moved or (drawn and by_clip)):
        found["system"] = system_settings(method, defaults)
    if drawn and not by_clip:
        found[PATHS] = ALONG_PATHS.tuned(PATHS, defaults)
    return found


def build_system(request: GenerationRequest, scene: SystemScene) -> System | None:
    """What acts on the video of ``request``, which is told as ``scene``; None where nothing does.
    Raises as its parts do."""
    chosen = chosen_settings(request, scene.backbone.checkpoint.defaults)
    parts = []
    for name, settings in chosen.items():
        kind = ALONG_PATHS if name == PATHS else SYSTEMS[request.options.method]
        told = scene.objects
        if PATHS in chosen:  # each is told its own
            told = tuple(one for one in told if (one.centres is not None) == (name == PATHS))
        parts.append(kind.build(replace(scene, objects=told), settings))
    return parts[0] if len(parts) == 1 else Together(parts) if parts else None
