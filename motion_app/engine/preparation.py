"""A request made ready for the transformer: motions loaded, words found, masks on the grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from motion_app.engine.adapters import Adapter, GatedAdapters, adapted
from motion_app.engine.attention import Attend, attend
from motion_app.engine.layout import SequenceLayout
from motion_app.engine.motion_tokens import MotionTokens
from motion_app.engine.propagation import MaskTrack
from motion_app.engine.steering import AdapterSteering, GenerationSteering, KeyValues, steered
from motion_app.engine.synmotion import MotionPack, check_words
from motion_app.errors import RequestError
from motion_app.geometry import mask_to_grid
from motion_app.library.motion_file import file_digest
from motion_app.methods import ABLATIONS, PACK_METHODS, TOKEN_METHODS
from motion_app.request.phrases import Clause, find_clauses, find_phrases
from motion_app.scene import GenerationRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from motion_app.engine.pipeline import MotionEngine

Learned = TypeVar("Learned")


@dataclass(frozen=True, eq=False)
class PreparedScene:
    """``track``: the masks for step 0; ``steering``: None for stock attention; ``motion_digests``:
    of the motion files in the objects' order, "" without one; ``adapters``: SynMotion's; ``text``:
    the text states (conditional, unconditional), None where the pipeline encodes the prompt."""

    track: MaskTrack
    steering: GenerationSteering | None = None
    motion_digests: tuple[str, ...] = ()
    adapters: AdapterSteering | None = None
    text: tuple[Tensor, Tensor | None] | None = None

    @contextmanager
    def installed(self, transformer: nn.Module, *, attention: Attend = attend) -> Iterator[None]:
        """What acts on the transformer during the generation; nothing for a stock one."""
        with ExitStack() as acting:
            if self.steering is not None:
                acting.enter_context(steered(transformer, self.steering, attention=attention))
            if self.adapters is not None:
                acting.enter_context(adapted(transformer, self.adapters.bank))
            yield


def prepare_scene(engine: MotionEngine, request: GenerationRequest) -> PreparedScene:
    """The scene of a checked request with its steps and guidance filled in. Raises MotionFileError
    for a motion that cannot be used and RequestError for words that do not fit."""
    g, objects = engine.geometry, request.objects
    first = [mask_to_grid(item.mask, g.grid_height, g.grid_width) for item in objects]
    first = torch.from_numpy(np.stack(first)) if first else torch.zeros(0, *g.grid[1:]).bool()
    track = MaskTrack.start(first.to(engine.profile.device), g.grid_frames)
    # Also where nothing is steered: the stock pipeline cuts a long prompt off in silence.
    find_phrases(request.full_prompt(), objects, engine.pipe.tokenizer, g.text_tokens)
    if request.method == "none" or all(item.motion is None for item in objects):
        return PreparedScene(track)
    return _MovingScene(engine, request, track).prepared()


class _MovingScene:
    """A scene in which something has a motion. The lists run over its objects, None for one without
    a motion or where the method does not use them."""

    def __init__(self, engine: MotionEngine, request: GenerationRequest, track: MaskTrack) -> None:
        self.engine, self.request, self.track = engine, request, track
        self.objects = request.objects
        self.everywhere = _everywhere(request)
        self.clauses: list[Clause | None] = find_clauses(
            request.full_prompt(), self.objects, engine.pipe.tokenizer, engine.geometry.text_tokens
        )
        nothing = [None] * len(self.objects)
        tokens, packs = request.method in TOKEN_METHODS, request.method in PACK_METHODS
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
        if self.request.method in TOKEN_METHODS or not self.everywhere:
            steering = self._steering(adapters)
        digests = tuple(
            "" if item.motion is None else file_digest(item.motion.path) for item in self.objects
        )
        return PreparedScene(self.track, steering, digests, adapters, self._text())

    def _loaded(self, load: Callable[[Path], Learned]) -> list[Learned | None]:
        """``load`` of each object's motion file, once a file."""
        paths = [None if item.motion is None else item.motion.path for item in self.objects]
        loaded = {path: load(path) for path in dict.fromkeys(paths) if path is not None}
        return [None if path is None else loaded[path] for path in paths]

    def _load_tokens(self, path: Path) -> MotionTokens:
        g, base = self.engine.geometry, self.engine.fingerprint
        return MotionTokens.load(path, layers=g.layers, width=g.width_tokens, base=base)

    def _load_pack(self, path: Path) -> MotionPack:
        transformer = self.engine.pipe.transformer
        pack = MotionPack.load(
            path,
            transformer=transformer,
            text_width=transformer.config.text_embed_dim,
            base=self.engine.fingerprint,
        )
        return pack.to(self.engine.profile.device)

    def _check_words(self) -> None:
        for item, pack, clause in zip(self.objects, self.packs, self.clauses, strict=True):
            if pack is not None:
                motion = item.motion
                check_words(pack.pieces, clause.pieces, name=motion.name, phrase=motion.phrase)

    def _steering(self, adapters: AdapterSteering | None) -> GenerationSteering:
        """MDMA for every object with a motion, whether it has motion tokens or not."""
        engine, request = self.engine, self.request
        g = engine.geometry
        layout = SequenceLayout(
            text=g.text_tokens,
            phrases=[None if clause is None else clause.motion for clause in self.clauses],
            motion=[0 if motion is None else motion.tokens for motion in self.motions],
            grid=g.grid,
            members=[k for k, item in enumerate(self.objects) if item.motion is not None],
        )
        without = {"infer_mask"} if request.method == "concat" else request.without & set(ABLATIONS)
        strengths = [item.strength for item in self.objects]
        halves = [strengths]
        if request.guidance > 1:  # the stock pipeline then runs an unconditional half first
            silent = [0.0] * len(self.objects)
            halves.insert(0, strengths if engine.defaults.motion_in_unconditional else silent)
        propagates = without.isdisjoint({"infer_mask", "rmpm"})
        return GenerationSteering(
            layout,
            self.track.masks,
            self._key_values(),
            halves=halves,
            scope=request.scope,
            without=without,
            feature_layers=engine.propagation.feature_layers(g.layers) if propagates else 0,
            nouns=self._nouns() if "rmpm" in without else None,
            adapters=adapters,
        )

    def _adapter(self, k: int) -> Adapter | None:
        pack = self.packs[k]
        return None if pack is None or "lora" in self.request.without else pack.adapter

    def _adapters(self) -> AdapterSteering | None:
        """The objects' adapters, gated by the masks of step 0; None where there are none."""
        engine = self.engine
        acting = [k for k in range(len(self.objects)) if self._adapter(k) is not None]
        if not acting:
            return None
        halves = [True]
        if self.request.guidance > 1:
            halves.insert(0, engine.defaults.motion_in_unconditional)
        adapters = AdapterSteering(
            [self._adapter(k) for k in acting],
            acting,
            [self.clauses[k].spans for k in acting],
            strengths=[self.objects[k].strength for k in acting],
            halves=halves,
            text=engine.geometry.text_tokens,
            everywhere=self.everywhere,
        )
        adapters.set_masks(self.track.masks)
        return adapters

    def _text(self) -> tuple[Tensor, Tensor | None] | None:
        """The prompt's states with every clause enriched and those of the empty one (None where no
        unconditional half runs), (1, L, text width) each; None where no pack is used."""
        if all(pack is None for pack in self.packs):
            return None
        request, engine = self.request, self.engine
        read_apart = [
            clause
            for pack, clause in zip(self.packs, self.clauses, strict=True)
            if pack is not None and pack.apart
        ]
        prompt, empty = engine.prompts.encode(
            request.full_prompt(), guided=request.guidance > 1, apart=read_apart
        )
        states = prompt[0]  # (L, text width)
        for item, pack, clause in zip(self.objects, self.packs, self.clauses, strict=True):
            if pack is not None:
                states = pack.branch(
                    states, clause, strength=item.strength, without=request.without
                )
        return states[None], empty

    def _key_values(self) -> list[KeyValues]:
        """Per layer the keys and values of all objects' motions, (1, heads, ΣM, d) each. An
        object's own adapter acts on its motion tokens too."""
        g, transformer = self.engine.geometry, self.engine.pipe.transformer
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
            motion = motion.to(transformer.device)
            gates = torch.full((1, 1, motion.tokens), key[1], device=transformer.device)
            adapters = GatedAdapters([] if adapter is None else [adapter], gates)
            with adapted(transformer, adapters):
                projected[key] = motion.key_values(transformer)
        device = self.engine.profile.device
        if not chosen:
            nothing = torch.zeros(1, g.heads, 0, g.head_dim, device=device)
            return [(nothing, nothing)] * g.layers
        per_object = [projected[key] for key in chosen]
        return [
            tuple(
                torch.cat([pairs[layer][part] for pairs in per_object], dim=2).to(device)
                for part in (0, 1)
            )
            for layer in range(g.layers)
        ]

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
        engine = self.engine
        return find_phrases(
            self.request.full_prompt(), named, engine.pipe.tokenizer, engine.geometry.text_tokens
        )


def _everywhere(request: GenerationRequest) -> bool:
    """Whether adapters act on all tokens: averaged, without masks, or for an object that is alone
    in its request, as SynMotion itself has it."""
    if request.method == "lora-average" or "infer_mask" in request.without:
        return True
    return request.method == "synmotion" and len(request.objects) == 1
