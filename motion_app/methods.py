"""The methods, what each needs of a motion, and what may be left out of it: one table, from which
every list of them in this program derives.

Ablations are named after FlexiMMT's Table 4 and SynMotion's supplement, Table 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

# Attention that is opened (Table 4), masks at inference, and their propagation.
ABLATIONS = (
    *("m2v", "m2m", "t2v", "t2t", "t2m", "m2x", "t2x", "infer_mask", "rmpm"),
    "step0_mask",  # no region masks on the first step, as the authors' release has it
)
PACK_ABLATIONS = ("mot", "sub", "refiner", "lora")  # parts of what SynMotion learned
SCOPES = ("released", "paper")  # what free video tokens may see: as the release, as the equations
TOKENS, CLIPS, STOCK = "tokens", "clips", "stock"
STOCK_METHOD = "none"  # the one of the family STOCK
FAMILIES = (TOKENS, CLIPS, STOCK)  # learned beforehand, told a clip, told nothing of a motion


@dataclass(frozen=True)
class Method:
    """``tokens``: it needs motion tokens of every motion, and a motion file of this method holds
    them; ``pack`` the same of SynMotion's embeddings and adapter, ``lora`` of a low-rank adapter of
    the whole model; ``clip``: it needs every motion's reference clip and what moves in it, which
    with none of the others is all it needs. ``adapter``: it needs weights beside
    the checkpoint's own, by their name in ``models/adapters.py``, and is not offered without.
    ``everywhere``: the whole picture sees its motion tokens, learned and used. ``encoder``: it is
    offered only where the checkpoint has a motion encoder. ``pictureless``: it needs no picture
    where the checkpoint needs none. ``without``: the names of what it can do
    without. ``title``: its name as people read it; ``told``: what it is told of a motion; ``work``:
    what a video of two objects takes, the stock model's being 1, by rule of thumb."""

    title: str
    tokens: bool = False
    pack: bool = False
    without: frozenset[str] = frozenset()
    clip: bool = False
    told: str = "tokens of one clip"
    work: float = 1.0
    adapter: str = ""
    everywhere: bool = False
    encoder: bool = False
    lora: bool = False
    pictureless: bool = False

    @property
    def family(self) -> str:
        """Which of ``FAMILIES`` it is of."""
        if self.tokens or self.pack or self.lora:
            return TOKENS
        return CLIPS if self.clip else STOCK


METHOD_TABLE: Mapping[str, Method] = MappingProxyType(
    {
        "fleximmt": Method("FlexiMMT", tokens=True, without=frozenset(ABLATIONS)),
        "concat": Method("Concatenation", tokens=True, everywhere=True),
        STOCK_METHOD: Method("None: the stock model", told="caption", pictureless=True),
        "synmotion": Method(
            "SynMotion",
            pack=True,
            pictureless=True,
            without=frozenset(
                {"t2v", "t2t", "t2x", "infer_mask", "rmpm", "step0_mask", *PACK_ABLATIONS}
            ),
        ),
        "both": Method(
            "FlexiMMT and SynMotion",
            tokens=True,
            pack=True,
            without=frozenset({*ABLATIONS, *PACK_ABLATIONS}),
        ),
        "lora-average": Method(
            "averaged adapters (comparison)", pack=True, without=frozenset(PACK_ABLATIONS)
        ),
        "flexiact": Method("FlexiAct", tokens=True, everywhere=True, adapter="any-frame"),
        "i2vedit": Method("I2VEdit", lora=True, clip=True, told="LoRA of one clip, clip", work=5.0),
        "time-to-move": Method("Time-to-Move", clip=True, told="path and size"),
        "go-with-the-flow": Method(
            "Go-with-the-Flow", clip=True, told="clip and mask", adapter="warped-noise"
        ),
        "anyv2v": Method("AnyV2V", clip=True, told="clip", work=5.0),
        "anyv2v-placed": Method("AnyV2V, placed", clip=True, told="clip and mask", work=5.0),
        "motionclone": Method("MotionClone", clip=True, told="clip", work=2.0),
        "attention-flow": Method("Attention flow", clip=True, told="clip and mask", work=6.0),
        "encoded": Method(
            "Encoded",
            tokens=True,
            without=frozenset(ABLATIONS),
            told="one look at clip and mask",
            encoder=True,
        ),
        "encoded-refined": Method(
            "Encoded and refined", tokens=True, without=frozenset(ABLATIONS), encoder=True
        ),
    }
)
METHODS = tuple(METHOD_TABLE)
ENCODED, REFINED = (name for name, method in METHOD_TABLE.items() if method.encoder)
# Those by which a motion is learned from clips, and the mask of the training where it is the
# method's and not the training's own.
LEARNED: Mapping[str, str | None] = MappingProxyType(
    {
        "fleximmt": None,
        "concat": "none",
        "synmotion": None,
        "i2vedit": None,
        ENCODED: None,
        REFINED: None,
    }
)
WAYS = ("fleximmt", ENCODED, REFINED)  # how one clip gives motion tokens
REFINED_SHARE = 5  # part of the steps of learning that refining what an encoder said takes
TOKEN_METHODS = tuple(name for name, method in METHOD_TABLE.items() if method.tokens)
PACK_METHODS = tuple(name for name, method in METHOD_TABLE.items() if method.pack)
LORA_METHODS = tuple(name for name, method in METHOD_TABLE.items() if method.lora)
PICTURELESS_METHODS = tuple(name for name, method in METHOD_TABLE.items() if method.pictureless)
CLIP_METHODS = tuple(name for name, method in METHOD_TABLE.items() if method.clip)


def methods_there(names: Iterable[str], *, encoder: bool) -> tuple[str, ...]:
    """Those of ``names`` that a checkpoint with or without an ``encoder`` has."""
    return tuple(name for name in names if encoder or not METHOD_TABLE[name].encoder)


def method_title(method: str) -> str:
    """A method as people read it; one that is not ours keeps its own name."""
    known = METHOD_TABLE.get(method)
    return method if known is None else known.title
