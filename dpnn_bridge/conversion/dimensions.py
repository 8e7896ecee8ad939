"""Record the number of dimensions of each layer's input in a run on an example."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare import nested
from dpnn_bridge.compare.memory import copied
from dpnn_bridge.conversion.failure import failure_reason
from dpnn_bridge.errors import ConversionError


def seen(model: nn.Module, example: Any) -> dict[int, int]:
    """Map ``id`` of every module that takes one tensor to its number of dimensions in a run on ``example``.

    Modules that ran on inputs of several numbers of dimensions are left out.

    Raises:
        ConversionError: the model does not take the example.
    """
    found: dict[int, set[int]] = {}

    def note(key: int, _: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            found.setdefault(key, set()).add(args[0].dim())

    copy = copied(model, {id(p): p for p in model.parameters()}).eval()  # a run changes states that modules keep
    for ours, theirs in zip(model.modules(), copy.modules(), strict=True):
        theirs.register_forward_pre_hook(partial(note, id(ours)))
    try:
        with torch.no_grad():
            copy(nested.copied(example))
    except Exception as e:
        raise ConversionError(f"the model cannot run on the example input: {failure_reason(e)}") from e
    return {key: min(dims) for key, dims in found.items() if len(dims) == 1}
