"""The adapter of the whole model that a system needs, read once a file."""

from __future__ import annotations

from motion_app.engine.adapters import Adapter
from motion_app.engine.lora_files import read_adapter
from motion_app.engine.systems.scene import SystemScene
from motion_app.models.adapters import needed_adapter


def model_adapter(scene: SystemScene, method: str) -> Adapter:
    """What ``method`` needs beside the model of ``scene``, on its device. RequestError where it is
    not here, CheckpointError where it cannot be read."""
    backbone = scene.backbone
    needed = needed_adapter(backbone.checkpoint, method)
    key = ("adapter", str(needed.file), needed.file.stat().st_mtime_ns)
    if key not in scene.features:
        read = read_adapter(needed.file, backbone.attention_layers(), strength=needed.strength)
        scene.features[key] = read.to(backbone.profile.device, backbone.profile.dtype)
    return scene.features[key]
