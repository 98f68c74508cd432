"""SynMotion's semantic branch: what a motion and a subject add to the prompt's text states.

    e  = [ e_mot + Z_mot(e^l_mot), e_sub + Z_sub(e^l_sub) ]        Z: a convolution born as zero
    e' = e + Z_ref(R(e))                                           R: the refiner
    (supplement, section 3.1)

Tokens keep their places and only subject and motion words are touched, so an instruction ("…, cut
paper style") and the padding stay as they are, to the bit. Each object's clause is enriched by its
own motion alone. Z_mot(e^l_mot) and Z_sub(e^l_sub) depend on no input: folded, they are tables.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from motion_app.errors import RequestError
from motion_app.phrases import Clause

SUBJECT_ROLE, MOTION_ROLE = 0, 1


def zero_conv(width: int, kind: str = "full") -> nn.Conv1d:
    """A convolution over tokens with kernel 1 that gives zero until it is trained; "depthwise" has
    one factor a channel."""
    groups = {"full": 1, "depthwise": width}[kind]
    conv = nn.Conv1d(width, width, 1, groups=groups)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def _over_tokens(conv: nn.Conv1d, states: Tensor) -> Tensor:
    """``conv`` on states (n, width)."""
    return conv(states.T).T  # (n, width)


class Refiner(nn.Module):
    """R: subject and motion words of one clause look at each other, without order and both ways.

    ``width``, ``layers``, ``heads`` and ``feed_forward`` are ours; the paper gives none.
    """

    def __init__(
        self, text_width: int, *, width: int, layers: int, heads: int, feed_forward: int
    ) -> None:
        super().__init__()
        self.inward = nn.Linear(text_width, width)
        self.roles = nn.Embedding(2, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                heads,
                feed_forward,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )
        self.outward = nn.Linear(width, text_width)

    def forward(self, states: Tensor, roles: Tensor) -> Tensor:
        """``states`` (n, text width) of one clause, ``roles`` (n,) int64; the same shape."""
        mixed = (self.inward(states) + self.roles(roles))[None]  # (1, n, width)
        for block in self.blocks:
            mixed = block(mixed)
        return self.outward(mixed[0])  # (n, text width)


class SemanticBranch(nn.Module):
    """The branch as it is used: tables of residuals, the refiner and its zero-conv, each of which
    may be missing (None) where it was never learned.

    ``motion`` (L_m, text width): one row a piece of the motion words; ``subject`` (n, text width):
    for a subject of more pieces the last row stands for the rest.
    """

    def __init__(
        self,
        motion: Tensor | None,
        subject: Tensor | None,
        refiner: Refiner | None,
        z_ref: nn.Conv1d | None,
    ) -> None:
        super().__init__()
        self.register_buffer("motion", motion)
        self.register_buffer("subject", subject)
        self.refiner, self.z_ref = refiner, z_ref

    def forward(
        self,
        text: Tensor,
        clause: Clause,
        *,
        strength: float = 1.0,
        without: Collection[str] = (),
    ) -> Tensor:
        """``text`` (L, text width) with one clause enriched. ``without``: "mot", "sub", "refiner";
        ``strength`` scales all that is added, 0 gives ``text`` itself."""
        return enrich(
            text,
            clause,
            motion=None if "mot" in without else self.motion,
            subject=None if "sub" in without else self.subject,
            mixer=None if "refiner" in without else self.mixer,
            strength=strength,
        )

    @property
    def mixer(self) -> Mixer | None:
        """R and Z_ref; None where they were never learned."""
        return None if self.refiner is None else Mixer(self.refiner, self.z_ref)


class Mixer:
    """Z_ref(R(e)) of one clause."""

    def __init__(self, refiner: Refiner, z_ref: nn.Conv1d) -> None:
        self.refiner, self.z_ref = refiner, z_ref

    def __call__(self, states: Tensor, roles: Tensor) -> Tensor:
        return _over_tokens(self.z_ref, self.refiner(states, roles))  # (n, text width)


def enrich(
    text: Tensor,
    clause: Clause,
    *,
    motion: Tensor | None,
    subject: Tensor | None,
    mixer: Mixer | None,
    strength: float = 1.0,
) -> Tensor:
    """e' of ``text`` (L, text width) for one clause; every row outside it is untouched."""
    positions, offsets, roles = [], [], []
    for span, table, role in (
        (clause.subject, subject, SUBJECT_ROLE),
        (clause.motion, motion, MOTION_ROLE),
    ):
        if span is None:
            continue
        rows = torch.arange(span[1] - span[0], device=text.device)
        positions.append(rows + span[0])
        roles.append(torch.full_like(rows, role))
        if table is None:
            offsets.append(torch.zeros(len(rows), text.shape[1], device=text.device))
        else:
            offsets.append(table[rows.clamp(max=len(table) - 1)].float())
    place, added = torch.cat(positions), torch.cat(offsets)  # (n,), (n, text width)
    if mixer is not None:
        added = added + mixer(text[place].float() + added, torch.cat(roles))
    return text.index_add(0, place, (strength * added).to(text.dtype))  # (L, text width)


class DualEmbedding(nn.Module):
    """The branch as it is learned: e^l_mot, e^l_sub, three zero-convs and the refiner, float32.

    ``e_mot`` must not be zero, nor ``e_sub``: a zero-conv of zeros never learns. ``parts`` of
    "mot", "sub", "refiner" are there, the others missing.
    """

    def __init__(
        self,
        e_mot: Tensor,
        e_sub: Tensor,
        *,
        parts: Collection[str],
        kind: str,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
    ) -> None:
        super().__init__()
        text_width = e_mot.shape[1]
        has = {part: part in parts for part in ("mot", "sub", "refiner")}
        self.e_mot = nn.Parameter(e_mot.clone().float()) if has["mot"] else None
        self.z_mot = zero_conv(text_width, kind) if has["mot"] else None
        self.e_sub = nn.Parameter(e_sub.clone().float()) if has["sub"] else None
        self.z_sub = zero_conv(text_width, kind) if has["sub"] else None
        self.refiner = self.z_ref = None
        if has["refiner"]:
            self.refiner = Refiner(
                text_width, width=width, layers=layers, heads=heads, feed_forward=feed_forward
            )
            self.z_ref = zero_conv(text_width, kind)

    def tables(self) -> tuple[Tensor | None, Tensor | None]:
        """Z_mot(e^l_mot) and Z_sub(e^l_sub), with gradient."""
        motion = None if self.e_mot is None else _over_tokens(self.z_mot, self.e_mot)
        subject = None if self.e_sub is None else _over_tokens(self.z_sub, self.e_sub)
        return motion, subject

    def forward(self, text: Tensor, clause: Clause, *, motion_residual: str = "learn") -> Tensor:
        """e' of ``text`` (L, text width). ``motion_residual``: "learn", "detach" (added, no
        gradient to it, neither directly nor through the refiner) or "omit"."""
        motion, subject = self.tables()
        if motion_residual == "omit":
            motion = None
        elif motion_residual == "detach" and motion is not None:
            motion = motion.detach()
        mixer = None if self.refiner is None else Mixer(self.refiner, self.z_ref)
        return enrich(text, clause, motion=motion, subject=subject, mixer=mixer)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """θ_mot, θ_sub and θ_ref, by the part they belong to."""
        return {
            "mot": [] if self.e_mot is None else [self.e_mot, *self.z_mot.parameters()],
            "sub": [] if self.e_sub is None else [self.e_sub, *self.z_sub.parameters()],
            "refiner": []
            if self.refiner is None
            else [*self.refiner.parameters(), *self.z_ref.parameters()],
        }

    @torch.no_grad()
    def fold(self) -> SemanticBranch:
        """The same branch with its input-free parts computed once."""
        return SemanticBranch(*self.tables(), self.refiner, self.z_ref)


def check_words(pieces: tuple[int, ...], came: tuple[int, ...], *, name: str, phrase: str) -> None:
    """RequestError unless the prompt's motion words are those the motion was learned with: its
    embedding has one row for each of their pieces."""
    if pieces != came:
        raise RequestError(
            f'the motion "{name}" was learned by SynMotion with the words "{phrase}"; write them '
            "as its phrase"
        )
