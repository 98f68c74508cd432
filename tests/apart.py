"""How test files are shared out over pytest's workers: those with a browser to some of them."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

BROWSERS = int(os.environ.get("BROWSERS", "2"))  # workers that open one


class BrowserApart(LoadFileScheduling):
    """Files of ``browser`` go to the first workers, as long as there are any; the others to the
    rest. A browser waits for its pages, beside somebody who computes. It is started once for each
    of these workers, as its app is."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        apart = node in self.nodes[:BROWSERS]
        fitting = (file for file in self.workqueue if opens_a_browser(file) is apart)
        file = next(fitting, next(iter(self.workqueue)))
        self.workqueue.move_to_end(file, last=False)
        super()._assign_work_unit(node)


def opens_a_browser(file: str) -> bool:
    return PurePosixPath(file).parent.name == "browser"
