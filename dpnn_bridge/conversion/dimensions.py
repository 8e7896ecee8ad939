"""Record the number of dimensions of each layer's input in a run on an example."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.failure import failure_reason
from dpnn_bridge.conversion.modes import evaluating
from dpnn_bridge.errors import ConversionError


def seen(model: nn.Module, example: Any) -> dict[int, int]:
    """Map ``id`` of every module that takes one tensor to its number of dimensions in a run on ``example``.

    Modules that ran on inputs of several numbers of dimensions are left out.

    Raises:
        ConversionError: the model does not take the example.
    """
    found: dict[int, set[int]] = {}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            found.setdefault(id(module), set()).add(args[0].dim())

    with ExitStack() as stack, evaluating(model), torch.no_grad():
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(note).remove)
        try:
            model(nested.copied(example))
        except Exception as e:
            raise ConversionError(f"the model cannot run on the example input: {failure_reason(e)}") from e
    return {key: min(dims) for key, dims in found.items() if len(dims) == 1}
