"""Provide Lua's torch package over PyTorch: the functions that Lua calls and the prelude around them."""

from __future__ import annotations

from typing import Any

from dpnn_bridge.lua.builtins import builtin_entries
from dpnn_bridge.lua.environment import environment_entries, file_entries, random_entries
from dpnn_bridge.lua.mirror import mirror_entries
from dpnn_bridge.lua.state import LuaState
from dpnn_bridge.lua.system import system_entries

#: parts of the prelude that need LuaJIT's ffi
_WITH_FFI = (
    *("state", "geometry", "views", "elements", "dispatch", "subviews", "vectors", "loops", "copying", "reduce"),
    *("making", "convolution", "indexing", "apply", "order", "products", "lapack", "kernels", "random", "multinomial"),
)


class Runtime(LuaState):
    """A Lua state with the torch package over PyTorch; the arguments are those of :class:`LuaState`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_builtins(
            builtin_entries(self)
            | mirror_entries(self.account)
            | system_entries(self)
            | random_entries(self)
            | file_entries(self)
            | environment_entries(self)
        )
        self.run_prelude("setup.lua")
        for part in (
            "classes",
            "tensor",
            "methods",
            *(f"ffi/{part}" for part in _WITH_FFI if self.bridge["ffi"]),
            "file",
            *(("ffi/text", "ffi/reading", "ffi/writing") if self.bridge["ffi"] else ()),
            "tester",
            "cmdline",
            "environment",
            "packages",
            "thnn",
            "modules",
            "sandbox",
        ):
            self.run_prelude(f"{part}.lua")
