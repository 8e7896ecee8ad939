"""Make the modules that old scripts import available: ``torch.legacy``, ``load_lua`` and torchfile."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
import torch.utils.serialization

from dpnn_bridge import torchfile
from dpnn_bridge.legacy import decoding, loading, nn, optim

_MISSING = object()
#: replaced values: an object (or ``sys.modules``), the name of its attribute (or key), and the earlier value
_replaced: list[tuple[Any, str, Any]] = []


def _module(name: str, **contents: Any) -> ModuleType:
    made = ModuleType(name, "Installed by dpnn_bridge.legacy.")
    made.__dict__.update(contents)
    return made


def _modules() -> dict[str, ModuleType]:
    """Return name -> module of everything that scripts may import."""
    readers = {
        "T7Reader": loading.T7Reader,
        "T7ReaderException": loading.T7ReaderException,
        "TorchObject": decoding.TorchObject,
        "hashable_uniq_dict": decoding.hashable_uniq_dict,
        "load_lua": loading.load_lua,
    }
    found = {
        "torch.legacy": _module("torch.legacy", nn=nn, optim=optim, __path__=[]),
        "torch.legacy.nn": nn,
        "torch.legacy.nn.utils": nn.utils,
        "torch.legacy.optim": optim,
        "torch.utils.serialization.read_lua_file": _module("torch.utils.serialization.read_lua_file", **readers),
        "torchfile": torchfile,
    }
    for name, kind in nn.CLASSES.items():  # PyTorch had one file for each class, which pickles name
        found[f"torch.legacy.nn.{name}"] = _module(f"torch.legacy.nn.{name}", **{name: kind})
    return found


def install() -> None:
    """Make old scripts' imports work in this process, until :func:`uninstall`.

    ``torch.legacy.nn``, ``torch.legacy.optim``, ``torch.utils.serialization.load_lua`` and ``torchfile`` are those of
    dpnn_bridge afterwards. A second call does nothing.
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
    """Restore what :func:`install` replaced."""
    while _replaced:
        owner, name, value = _replaced.pop()
        if isinstance(owner, dict):
            owner.pop(name, None) if value is _MISSING else owner.__setitem__(name, value)
        elif value is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, value)
