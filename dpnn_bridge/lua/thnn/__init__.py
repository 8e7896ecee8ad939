"""Implement the kernels behind nn's Lua files with PyTorch, one file per family. Importing registers all files."""

import importlib
import pkgutil

from dpnn_bridge.lua.thnn.registry import KERNELS, check_types

__all__ = ["KERNELS", "check_types"]

for _family in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_family.name}")
