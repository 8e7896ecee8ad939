"""Run a model on an example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dpnn_bridge.compare.memory import copied
from dpnn_bridge.compare.nested import without_dataclasses
from dpnn_bridge.conversion.failure import failure_reason
from dpnn_bridge.errors import ConversionError


def run(module: nn.Module, example: Any, name: str = "the example input") -> Any:
    """Return the output of a module without gradients.

    Args:
        module: the module.
        example: input of the module.
        name: name of the input, for messages.

    Raises:
        ConversionError: the module cannot run on the example.
    """
    try:
        with torch.no_grad():
            return without_dataclasses(module(example))
    except Exception as e:
        raise ConversionError(f"the model cannot run on {name}: {failure_reason(e)}") from e


def watched_copy(module: nn.Module, watch: Callable[[nn.Module, int], object]) -> nn.Module:
    """Return a copy of a module with hooks, to run without changing the module.

    The parameters are copied too, because some layers write to their weight when they run (``max_norm``).

    Args:
        module: the module.
        watch: function that is called with each submodule of the copy and the ``id`` of its original, to register a
            hook.
    """
    copy = copied(module)
    for original, copied_module in zip(module.modules(), copy.modules(), strict=True):
        watch(copied_module, id(original))
    return copy
