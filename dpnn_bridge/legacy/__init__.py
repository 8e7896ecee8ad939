"""Run Python code of 2016 to 2019 that calls ``load_lua``, ``torch.legacy`` or torchfile on current PyTorch.

>>> net = dpnn_bridge.legacy.load_lua("model.t7")                      # doctest: +SKIP
>>> net.modules[0].weight.size(), net.forward(image).size()            # doctest: +SKIP

``python -m dpnn_bridge.legacy script.py`` runs an unchanged script. :func:`install` makes the same modules importable
in the current process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpnn_bridge.base.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from dpnn_bridge.legacy import nn, optim
    from dpnn_bridge.legacy.decoding import TorchObject, hashable_uniq_dict
    from dpnn_bridge.legacy.installation import install, uninstall
    from dpnn_bridge.legacy.loading import T7Reader, T7ReaderException, load_lua

__all__ = [
    "T7Reader",
    "T7ReaderException",
    "TorchObject",
    "hashable_uniq_dict",
    "install",
    "load_lua",
    "nn",
    "optim",
    "uninstall",
]

_MODULES = {
    "T7Reader": "legacy.loading",
    "T7ReaderException": "legacy.loading",
    "TorchObject": "legacy.decoding",
    "hashable_uniq_dict": "legacy.decoding",
    "install": "legacy.installation",
    "load_lua": "legacy.loading",
    "nn": "legacy.",
    "optim": "legacy.",
    "uninstall": "legacy.installation",
}

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
