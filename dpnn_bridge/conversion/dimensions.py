"""Record the number of dimensions of each layer's input in a run on an example."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.example_run import run, watched_copy


def input_dimensions(model: nn.Module, example: Any) -> dict[int, int | None]:
    """Run a model on an example and return the number of dimensions of each module's input.

    Returns:
        ``id`` of each module whose first input is a tensor -> number of dimensions; None if the module ran on inputs
        with different numbers of dimensions.

    Raises:
        ConversionError: the model cannot run on the example.
    """
    found: dict[int, set[int]] = {}

    def note(key: int, _: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            found.setdefault(key, set()).add(args[0].dim())

    copy = watched_copy(model, lambda module, key: module.register_forward_pre_hook(partial(note, key)))
    run(copy.eval(), nested.copied(example))
    return {key: dims.pop() if len(dims) == 1 else None for key, dims in found.items()}
