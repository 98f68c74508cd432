"""Which model makes a video without motions: the checkpoint itself, or one of others that the
deployment names; its licence, what it makes, and the memory it takes are said beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from motion_app.errors import MotionAppError
from motion_app.methods import STOCK_METHOD
from motion_app.models.stock_files import GIGABYTE, RESIDENT, StockModel, StockOutlook
from motion_app.ui.markup import Texts

OWN = ""  # of the list: the checkpoint itself


class StockChoice:
    """The list; build it inside ``gr.Blocks``. ``models`` by name, at least one; ``outlook`` tells
    what one takes here."""

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
