"""Import modules under their earlier names, for code of users and for pickles."""

from __future__ import annotations

import importlib
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: earlier name of a module or package -> current name
MOVED = {
    "dpnn_bridge.checkpoint": "dpnn_bridge.files.checkpoint",
    "dpnn_bridge.converting": "dpnn_bridge.files.converting",
    "dpnn_bridge.executors": "dpnn_bridge.batch.executors",
    "dpnn_bridge.manifest": "dpnn_bridge.batch.manifest",
    "dpnn_bridge.modules.third_party": "dpnn_bridge.zoo",
    "dpnn_bridge.summary": "dpnn_bridge.files.summary",
}


class MovedModules(MetaPathFinder, Loader):
    """Import finder for the names in :data:`MOVED` and their submodules; both names import the same module object.

    It is in front of Python's own finder, which would import the modules of a moved package a second time.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if _current(fullname) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module = importlib.import_module(_current(spec.name))
        spec.loader_state = module.__spec__  # the import system replaces __spec__ before exec_module
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def _current(name: str) -> str:
    """Return the current name of a moved module, otherwise an empty string."""
    return next((new + name[len(old) :] for old, new in MOVED.items() if f"{name}.".startswith(f"{old}.")), "")
