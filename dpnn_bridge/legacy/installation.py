"""Make ``torch.legacy``, ``load_lua`` and torchfile importable for old scripts."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
import torch.utils.serialization

import dpnn_bridge.legacy.nn as nn
import dpnn_bridge.legacy.optim as optim
from dpnn_bridge import torchfile
from dpnn_bridge.legacy import decoding, loading

_MISSING = object()
#: replaced values: an object (or ``sys.modules``), the name of its attribute (or key), and the earlier value
_replaced: list[tuple[Any, str, Any]] = []


def _module(name: str, **contents: Any) -> ModuleType:
    module = ModuleType(name, "Installed by dpnn_bridge.legacy.")
    module.__dict__.update(contents)
    return module


def _modules() -> dict[str, ModuleType]:
    """Return name -> module for all modules that scripts may import."""
    readers = {
        "T7Reader": loading.T7Reader,
        "T7ReaderException": loading.T7ReaderException,
        "TorchObject": decoding.TorchObject,
        "hashable_uniq_dict": decoding.hashable_uniq_dict,
        "load_lua": loading.load_lua,
    }
    modules = {
        "torch.legacy": _module("torch.legacy", nn=nn, optim=optim, __path__=[]),
        "torch.legacy.nn": nn,
        "torch.legacy.nn.utils": nn.utils,
        "torch.legacy.optim": optim,
        "torch.utils.serialization.read_lua_file": _module("torch.utils.serialization.read_lua_file", **readers),
        "torchfile": torchfile,
    }
    for name, cls in nn.CLASSES.items():  # PyTorch had one module per class, and pickles contain its name
        modules[f"torch.legacy.nn.{name}"] = _module(f"torch.legacy.nn.{name}", **{name: cls})
    return modules


def install() -> None:
    """Make old scripts' imports work in this process, until :func:`uninstall`.

    Afterwards ``torch.legacy.nn``, ``torch.legacy.optim``, ``torch.utils.serialization.load_lua`` and ``torchfile``
    refer to the implementations in dpnn_bridge. A second call does nothing.
    """
    if _replaced:
        return
    modules = _modules()
    for name, module in modules.items():
        _replaced.append((sys.modules, name, sys.modules.get(name, _MISSING)))
        sys.modules[name] = module
    serialization = torch.utils.serialization
    for owner, name, value in (
        (torch, "legacy", modules["torch.legacy"]),
        (serialization, "load_lua", loading.load_lua),
        (serialization, "T7Reader", loading.T7Reader),
        (serialization, "read_lua_file", modules["torch.utils.serialization.read_lua_file"]),
    ):
        _replaced.append((owner, name, getattr(owner, name, _MISSING)))
        setattr(owner, name, value)


def uninstall() -> None:
    """Undo :func:`install`."""
    while _replaced:
        owner, name, value = _replaced.pop()
        if isinstance(owner, dict):
            owner.pop(name, None) if value is _MISSING else owner.__setitem__(name, value)
        elif value is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, value)
