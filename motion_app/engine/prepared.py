"""What is ready for one generation: the masks it begins with and what acts on the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor

from motion_app.engine.adapters import adapted
from motion_app.engine.attention import Attend, attend
from motion_app.engine.layers import AttentionLayer, System
from motion_app.engine.propagation import MaskTrack
from motion_app.engine.steering import AdapterSteering, GenerationSteering, steered


@dataclass(frozen=True, eq=False)
class PreparedScene:
    """``track``: the masks for step 0; ``steering``: None for stock attention; ``motion_digests``:
    of the motion files in the objects' order, "" without one; ``adapters``: SynMotion's; ``text``:
    the text states (conditional, unconditional), None where the pipeline encodes the prompt;
    ``system``: what else acts on the pipeline."""

    track: MaskTrack
    steering: GenerationSteering | None = None
    motion_digests: tuple[str, ...] = ()
    adapters: AdapterSteering | None = None
    text: tuple[Tensor, Tensor | None] | None = None
    system: System | None = None

    @contextmanager
    def installed(
        self, layers: Sequence[AttentionLayer], *, attention: Attend = attend
    ) -> Iterator[None]:
        """What acts in a model's ``layers`` during the generation; nothing for a stock one."""
        with ExitStack() as acting:
            if self.steering is not None:
                acting.enter_context(steered(layers, self.steering, attention=attention))
            if self.adapters is not None:
                acting.enter_context(adapted(layers, self.adapters.bank))
            if self.system is not None:
                acting.enter_context(self.system.installed(layers))
            yield
