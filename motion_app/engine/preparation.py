"""A request made ready for the transformer: motions loaded, words found, masks on the grid."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from motion_app.engine.adapters import Adapter, GatedAdapters, adapted
from motion_app.engine.backbone import Backbone
from motion_app.engine.layers import KeyValues
from motion_app.engine.layout import SequenceLayout
from motion_app.engine.motion_encoder import encode_clip
from motion_app.engine.motion_tokens import MotionTokens
from motion_app.engine.prepared import PreparedScene
from motion_app.engine.propagation import MaskTrack, PropagationConfig
from motion_app.engine.steering import AdapterSteering, GenerationSteering
from motion_app.engine.synmotion import MotionPack, check_words
from motion_app.engine.systems.scene import SystemScene
from motion_app.engine.systems.table import build_system, chosen_settings
from motion_app.errors import RequestError
from motion_app.geometry import mask_to_grid
from motion_app.library.motion_clip import read_motion_clip
from motion_app.library.motion_file import read_motion
from motion_app.methods import (
    ABLATIONS,
    CLIP_METHODS,
    ENCODED,
    METHOD_TABLE,
    PACK_METHODS,
    STOCK_METHOD,
    TOKEN_METHODS,
)
from motion_app.request.phrases import find_phrases
from motion_app.scene import Clause, GenerationRequest, SceneObject
from motion_app.text_files import file_digest

Learned = TypeVar("Learned")


def prepare_scene(
    backbone: Backbone,
    request: GenerationRequest,
    propagation: PropagationConfig,
    *,
    guided: bool,
    features: MutableMapping[tuple, Any],
) -> PreparedScene:
    """The scene of a request that is ``checked``; ``guided``: an unconditional half runs before the
    conditional one; ``features``: of clips, see ``SystemScene``. MotionFileError for a motion that
    cannot be used and RequestError for words that do not fit."""
    g, objects = backbone.geometry, request.objects
    masks = [mask_to_grid(item.mask, g.grid_height, g.grid_width) for item in request.marked]
    first = torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *g.grid[1:]).bool()
    track = MaskTrack.start(first.to(backbone.profile.device), g.grid_frames)
    method = request.options.method
    moved = method != STOCK_METHOD and any(item.motion is not None for item in objects)
    prepared = PreparedScene(track)
    if moved and method not in CLIP_METHODS:
        moving = _MovingScene(
            backbone, request, track, propagation, guided=guided, features=features
        )
        prepared = moving.prepared()
    if not chosen_settings(request, backbone.checkpoint.defaults):
        return prepared
    text = prepared.text
    if text is None:
        text = backbone.prompts.encode(request.full_prompt(), guided=guided)
    told = SystemScene.of(
        backbone, request, text=text, features=features, steering=prepared.steering
    )
    system = build_system(request, told)
    return replace(prepared, motion_digests=_digests(objects), text=text, system=system)


def _digests(objects: Sequence[SceneObject]) -> tuple[str, ...]:
    return tuple("" if item.motion is None else file_digest(item.motion.path) for item in objects)


class _MovingScene:
    """A scene in which something has a motion. The lists run over its objects, None for one without
    a motion or where the method does not use them."""

    def __init__(
        self,
        backbone: Backbone,
        request: GenerationRequest,
        track: MaskTrack,
        propagation: PropagationConfig,
        *,
        guided: bool,
        features: MutableMapping[tuple, Any],
    ) -> None:
        self.backbone, self.request, self.track = backbone, request, track
        self.features = features
        self.propagation, self.guided = propagation, guided
        self.layers = backbone.attention_layers()
        self.objects = request.objects
        self.everywhere = _everywhere(request)
        if request.clauses is None:
            raise ValueError("nobody checked the request; see request.request.checked_request")
        self.clauses: Sequence[Clause | None] = request.clauses
        nothing = [None] * len(self.objects)
        method = request.options.method
        tokens, packs = method in TOKEN_METHODS, method in PACK_METHODS
        self.motions: Sequence[MotionTokens | None] = (
            self._loaded(self._load_tokens) if tokens else nothing
        )
        self.packs: Sequence[MotionPack | None] = (
            self._loaded(self._load_pack) if packs else nothing
        )
        self._check_words()

    def prepared(self) -> PreparedScene:
        adapters = self._adapters()
        steering = None
        if self.request.options.method in TOKEN_METHODS or not self.everywhere:
            steering = self._steering(adapters)
        digests = _digests(self.objects)
        return PreparedScene(self.track, steering, digests, adapters, self._text())

    def _loaded(self, load: Callable[[Path], Learned]) -> list[Learned | None]:
        """``load`` of each object's motion file, once a file."""
        paths = [None if item.motion is None else item.motion.path for item in self.objects]
        loaded = {path: load(path) for path in dict.fromkeys(paths) if path is not None}
        return [None if path is None else loaded[path] for path in paths]

    def _load_tokens(self, path: Path) -> MotionTokens:
        g, base = self.backbone.geometry, self.backbone.checkpoint.fingerprint
        if self.request.options.method == ENCODED and read_motion(path).method != ENCODED:
            return encode_clip(self.backbone, read_motion_clip(path, name=path.stem), self.features)
        return MotionTokens.load(path, layers=g.layers, width=g.width_tokens, base=base)

    def _load_pack(self, path: Path) -> MotionPack:
        pack = MotionPack.load(
            path,
            layers=self.layers,
            text_width=self.backbone.text_width,
            base=self.backbone.checkpoint.fingerprint,
        )
        return pack.to(self.backbone.profile.device)

    def _check_words(self) -> None:
        for k, pack, clause in self._packed():
            motion = self.objects[k].motion
            if motion is not None:
                check_words(pack.pieces, clause.pieces, name=motion.name, phrase=motion.phrase)

    def _packed(self) -> list[tuple[int, MotionPack, Clause]]:
        """The objects with a pack: their numbers, packs and clauses."""
        rows = zip(range(len(self.objects)), self.packs, self.clauses, strict=True)
        return [
            (k, pack, clause) for k, pack, clause in rows if pack is not None and clause is not None
        ]

    def _steering(self, adapters: AdapterSteering | None) -> GenerationSteering:
        """MDMA for every object with a motion, whether it has motion tokens or not."""
        request, g = self.request, self.backbone.geometry
        layout = SequenceLayout(
            text=g.text_tokens,
            phrases=[None if clause is None else clause.motion for clause in self.clauses],
            motion=[0 if motion is None else motion.tokens for motion in self.motions],
            grid=g.grid,
            members=[k for k, item in enumerate(self.objects) if item.motion is not None],
        )
        without = (
            {"infer_mask"}
            if METHOD_TABLE[request.options.method].everywhere
            else set(request.options.without) & set(ABLATIONS)
        )
        strengths = [item.strength for item in self.objects]
        halves = [strengths]
        if self.guided:
            silent = [0.0] * len(self.objects)
            halves.insert(0, strengths if self._in_unconditional else silent)
        propagates = without.isdisjoint({"infer_mask", "rmpm"})
        return GenerationSteering(
            layout,
            self.track.masks,
            self._key_values(),
            halves=halves,
            scope=request.options.scope,
            without=without,
            feature_layers=self.propagation.feature_layers(g.layers) if propagates else 0,
            nouns=self._nouns() if "rmpm" in without else None,
            adapters=adapters,
        )

    @property
    def _in_unconditional(self) -> bool:
        """Whether motions act in the unconditional half too."""
        return self.backbone.checkpoint.defaults.motion_in_unconditional

    def _adapter(self, k: int) -> Adapter | None:
        pack = self.packs[k]
        return None if pack is None or "lora" in self.request.options.without else pack.adapter

    def _adapters(self) -> AdapterSteering | None:
        """The objects' adapters, gated by the masks of step 0; None where there are none."""
        acting = {
            k: (adapter, clause.spans)
            for k, _, clause in self._packed()
            if (adapter := self._adapter(k)) is not None
        }
        if not acting:
            return None
        halves = [True]
        if self.guided:
            halves.insert(0, self._in_unconditional)
        adapters = AdapterSteering(
            [adapter for adapter, _ in acting.values()],
            list(acting),
            [spans for _, spans in acting.values()],
            strengths=[self.objects[k].strength for k in acting],
            halves=halves,
            text=self.backbone.geometry.text_tokens,
            everywhere=self.everywhere,
        )
        masks = self.track.masks
        if self.request.image is None:  # and what is alone, without a place, is everywhere
            masks = masks.new_ones(len(self.objects), *masks.shape[1:])
        adapters.set_masks(masks)
        return adapters

    def _text(self) -> tuple[Tensor, Tensor | None] | None:
        """The prompt's states with every clause enriched and those of the empty one (None where no
        unconditional half runs), (1, L, text width) each; None where no pack is used."""
        if all(pack is None for pack in self.packs):
            return None
        request = self.request
        read_apart = [clause for _, pack, clause in self._packed() if pack.apart]
        prompt, empty = self.backbone.prompts.encode(
            request.full_prompt(), guided=self.guided, apart=read_apart
        )
        states = prompt[0]  # (L, text width)
        for k, pack, clause in self._packed():
            strength = self.objects[k].strength
            states = pack.branch(states, clause, strength=strength, without=request.options.without)
        return states[None], empty

    def _key_values(self) -> list[KeyValues]:
        """Per layer the keys and values of all objects' motions, (1, heads, ΣM, d) each. An
        object's own adapter acts on its motion tokens too."""
        g, device = self.backbone.geometry, self.backbone.transformer.device
        projected: dict[tuple[int, float], list[KeyValues]] = {}
        chosen: list[tuple[int, float]] = []
        for k, motion in enumerate(self.motions):
            if motion is None:
                continue
            adapter = self._adapter(k)
            key = (id(motion), 1.0 if adapter is None else self.objects[k].strength)
            chosen.append(key)
            if key in projected:
                continue
            motion = motion.to(device)
            gates = torch.full((1, 1, motion.tokens), key[1], device=device)
            adapters = GatedAdapters([] if adapter is None else [adapter], gates)
            with adapted(self.layers, adapters):
                projected[key] = motion.key_values(self.layers)
        device = self.backbone.profile.device
        if not chosen:
            nothing = torch.zeros(1, g.heads, 0, g.head_dim, device=device)
            return [(nothing, nothing)] * g.layers

        def together(layer: int, part: int) -> Tensor:
            tokens = [projected[key][layer][part] for key in chosen]
            return torch.cat(tokens, dim=2).to(device)  # (1, heads, ΣM, d)

        return [(together(layer, 0), together(layer, 1)) for layer in range(g.layers)]

    def _nouns(self) -> list[tuple[int, int] | None]:
        """Text positions of each moving object's name, for the ablation ``rmpm``."""
        named = []
        for number, item in enumerate(self.objects, start=1):
            if item.motion is not None and not item.name.strip():
                raise RequestError(
                    f'without "rmpm" the masks come from the objects\' names; object {number} has '
                    f'none. Name it by the word of its sentence "{item.sentence}"'
                )
            named.append(replace(item, phrase=item.name))
        backbone = self.backbone
        return find_phrases(
            self.request.full_prompt(), named, backbone.tokenizer, backbone.geometry.text_tokens
        )


def _everywhere(request: GenerationRequest) -> bool:
    """Whether adapters act on all tokens: averaged, without masks, or for an object that is alone
    in its request, as SynMotion itself has it."""
    if request.options.method == "lora-average" or "infer_mask" in request.options.without:
        return True
    return request.options.method == "synmotion" and len(request.objects) == 1
