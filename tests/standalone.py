"""Runs generated Python as where dpnn_bridge is not installed."""

from __future__ import annotations

import builtins
import types
from typing import Any


def executed(source: str) -> types.ModuleType:
    """The module that a source makes where dpnn_bridge cannot be imported."""

    def guarded(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "dpnn_bridge":
            raise ImportError("dpnn_bridge is not installed here")
        return original(name, *args, **options)

    original = builtins.__import__
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": guarded}
    exec(compile(source, "net.py", "exec"), module.__dict__)
    return module
