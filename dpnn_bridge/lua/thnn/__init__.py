"""Implement THNN's kernels, which nn's Lua files call, with PyTorch. Importing this package registers all of them."""

import importlib
import pkgutil

from dpnn_bridge.lua.thnn.registry import KERNELS, check_types, explain_failure

__all__ = ["KERNELS", "check_types", "explain_failure"]

for _family in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_family.name}")
