"""How test files are shared out over pytest's workers: those that open a browser to one of them."""

from __future__ import annotations

from pathlib import PurePosixPath

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController


class BrowserApart(LoadFileScheduling):
    """Files of ``browser`` go to the first worker as long as there are any, the others to the rest.

    Two browsers at a time keep each other waiting while the processors stand still in between: one
    waits for its pages beside somebody who computes. It is started once, as its app is."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        apart = node is self.nodes[0]
        fitting = (file for file in self.workqueue if opens_a_browser(file) is apart)
        file = next(fitting, next(iter(self.workqueue)))
        self.workqueue.move_to_end(file, last=False)
        super()._assign_work_unit(node)


def opens_a_browser(file: str) -> bool:
    return PurePosixPath(file).parent.name == "browser"
