"""Which system a method is, and with which settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from motion_app.engine.systems.paste import PasteSettings, TimeToMove
from motion_app.engine.systems.scene import SystemScene
from motion_app.errors import CheckpointError
from motion_app.geometry import GenerationDefaults


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


def system_settings(method: str, defaults: GenerationDefaults) -> Any:
    """The settings, a dataclass, that ``method`` has with a checkpoint of these ``defaults``."""
    return SYSTEMS[method].tuned(method, defaults)


def build_system(method: str, scene: SystemScene) -> System:
    """The system ``method`` on ``scene``; raises as its parts do."""
    settings = system_settings(method, scene.backbone.checkpoint.defaults)
    return SYSTEMS[method].build(scene, settings)
