"""Which Lua tensors are one parameter: those that view the same elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaTensor


def is_contiguous(tensor: LuaTensor) -> bool:
    """Whether the elements stand in row-major order without gaps."""
    step = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def region_of(tensor: LuaTensor) -> tuple[Any, ...]:
    """Identity of the elements that a tensor views, whatever shape a contiguous one has."""
    storage = id(tensor.storage)
    if is_contiguous(tensor):
        return (storage, tensor.offset, tensor.size)
    return (storage, tensor.offset, tensor.shape, tensor.stride)


def compact(tensor: LuaTensor) -> Tensor:
    """The elements of a tensor: its whole storage itself, or a copy of its part of a larger one."""
    value = tensor.torch()
    whole = tensor.storage is not None and tensor.storage.size == tensor.size and is_contiguous(tensor)
    return value if whole else value.contiguous().clone()


class Sharing:
    """Hands out parameters and buffers for Lua tensors, the same one for the same region."""

    def __init__(self) -> None:
        self._values: dict[Any, Tensor] = {}
        self._alive: list[LuaTensor] = []

    def assign(
        self, owner: nn.Module, leaf: str, tensor: LuaTensor, arrange: Callable[[Tensor], Tensor], key: Any
    ) -> None:
        """Sets ``owner.leaf`` to the parameter or buffer of ``tensor``.

        Args:
            owner: module that holds ``leaf`` as a parameter or buffer (possibly None).
            tensor: where the elements are.
            arrange: turns Lua's arrangement into torch's.
            key: what distinguishes arrangements.
        """
        if leaf not in owner._parameters and leaf not in owner._buffers:
            raise ConversionError(f"{type(owner).__name__} has no parameter or buffer {leaf!r}")
        is_parameter = leaf in owner._parameters
        identity = (region_of(tensor), key if key[1] is not None else (key[0], tensor.shape), is_parameter)
        value = self._values.get(identity)
        if value is None:
            value = arrange(compact(tensor))
            if is_parameter:
                value = nn.Parameter(value, requires_grad=value.is_floating_point())
            self._values[identity] = value
            self._alive.append(tensor)
        if is_parameter:
            owner._parameters[leaf] = value  # type: ignore[assignment]
        else:
            owner._buffers[leaf] = value

    def tie(self) -> None:
        """Ties parameters whose regions overlap without being the same."""
