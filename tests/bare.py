"""``python tests/bare.py WORDS``: the command line as on a machine where nothing is installed but
torch, diffusers, transformers and numpy, and what these bring."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from typing import Any

GIVEN = ("torch", "diffusers", "transformers", "numpy")
NOT_ALWAYS = {"pydantic", "pydantic_core"}  # brought by some versions and not by others


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def brought(names: tuple[str, ...]) -> set[str]:
    """The distributions of these names and all that they require, extras aside."""
    found: set[str] = set()
    waiting = [plain(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            continue
        found.add(name)
        needed = [line for line in needed if "extra ==" not in line]
        waiting += [plain(re.match(r"[\w.-]+", line)[0]) for line in needed]
    return found


class Bare:
    """A finder that does not see what is not ``allowed``."""

    def __init__(self, finder: Any, missing: set[str]) -> None:
        self.finder, self.missing = finder, missing

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] in self.missing:
            return None
        return self.finder.find_spec(name, path, target)

    def find_distributions(self, *context: Any) -> Any:
        return getattr(self.finder, "find_distributions", lambda *_: ())(*context)


def strip() -> set[str]:
    """From now on only what is brought can be imported; gives the names that are missing."""
    allowed = brought(GIVEN)
    missing = {
        top
        for top, packages in packages_distributions().items()
        if not {plain(package) for package in packages} & allowed
    } | NOT_ALWAYS
    sys.meta_path[:] = [Bare(finder, missing) for finder in sys.meta_path]
    return missing


if __name__ == "__main__":
    missing = strip()
    assert {"gradio", "sqlalchemy", "cv2", "psutil", "accelerate"} <= missing
    from motion_app.__main__ import main

    code = main(sys.argv[1:])
    there = {name.split(".")[0] for name in sys.modules} & missing
    assert not there, f"imported all the same: {sorted(there)}"
    sys.exit(code)
