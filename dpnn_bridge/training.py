"""dpnn's Module interface as functions over any ``torch.nn.Module``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dpnn_bridge import registry
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaTensor
from dpnn_bridge.sharing import tie_of


def parameters(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters and their gradients as Torch7's ``module:parameters()`` lists them.

    A module that occurs twice is listed twice. Tensors have Lua's shape and arrangement and are detached views of the
    torch parameters where the arrangement allows a view; a parameter without gradient gives zeros.

    Args:
        module: any module; submodules that no Lua class describes contribute their own parameters in order.

    Returns:
        ``(params, grads)``, two lists of the same length.
    """
    fields = list(registry.spec_of(module).parameters(module))
    params = [registry.lua_value(owner, name, spec) for owner, name, spec in fields]
    grads = [registry.lua_value(owner, name, spec, gradient=True) for owner, name, spec in fields]
    return params, grads


# ---------------------------------------------------------------------- the flat vector
class FlatField(NamedTuple):
    """One torch parameter and how its elements stand in Torch7's flat vector.

    Attributes:
        parameter: the torch parameter.
        module: the module whose layout arranges it.
        layout: Lua's arrangement, None where it is torch's.
    """

    parameter: nn.Parameter
    module: nn.Module | None = None
    layout: registry.Layout | None = None

    def to_lua(self, tensor: Tensor) -> Tensor:
        """A tensor shaped like the parameter as a vector in Lua's order."""
        if self.layout is not None and self.module is not None:
            tensor = self.layout.to_lua(tensor, self.module)
        return tensor.reshape(-1)

    def to_torch(self, vector: Tensor) -> Tensor:
        """A vector in Lua's order in the shape, dtype and on the device of the parameter."""
        value = vector.to(self.parameter.device, self.parameter.dtype)
        if self.layout is None or self.module is None:
            return value.reshape(self.parameter.shape)
        shape = self.layout.to_lua(self.parameter.detach(), self.module).shape
        return self.layout.to_torch(value.reshape(shape), self.module)

    @property
    def size(self) -> int:
        """Number of elements in Lua's vector."""
        return self.to_lua(self.parameter.detach()).numel()


def flat_fields(target: nn.Module | Iterable[nn.Parameter]) -> list[FlatField]:
    """The parameters in the order of Torch7's ``getParameters()``, tied ones once.

    Args:
        target: a module, or parameters that are taken as they are.
    """
    if not isinstance(target, nn.Module):
        return [FlatField(p) for p in target]
    fields: dict[int, FlatField] = {}
    for module, _, spec in registry.spec_of(target).parameters(target):
        owner, leaf = registry.resolve(module, spec.attribute)
        tie = tie_of(owner, leaf)
        if tie is not None:
            owner, leaf, module, spec = tie.source.owner, tie.source.leaf, tie.source.module, tie.source.field
        parameter = getattr(owner, leaf)
        fields.setdefault(id(parameter), FlatField(parameter, module, spec.layout))
    return list(fields.values())


def split_flat(fields: list[FlatField], vector: Any, what: str) -> list[Tensor]:
    """Cuts a flat vector into tensors shaped like the parameters.

    Raises:
        ConversionError: it has not as many elements as the parameters together.
    """
    vector = vector.torch() if isinstance(vector, LuaTensor) else torch.as_tensor(vector)
    sizes = [f.size for f in fields]
    if vector.numel() != sum(sizes):
        raise ConversionError(
            f"{what} has {vector.numel()} elements, the parameters have {sum(sizes)}; "
            "is it of this model, and does the model have all its layers?"
        )
    parts = vector.detach().reshape(-1).split(sizes)
    return [field.to_torch(part) for field, part in zip(fields, parts, strict=True)]


def flatten(module: nn.Module, *, gradients: bool = False) -> Tensor:
    """All parameters as the one vector that Torch7's ``module:getParameters()`` returns; a copy.

    Args:
        module: any module.
        gradients: return the gradients instead, zeros where there are none.
    """
    parts = []
    for field in flat_fields(module):
        p = field.parameter.detach()
        grad = field.parameter.grad if field.parameter.grad is not None else torch.zeros_like(p)
        parts.append(field.to_lua(grad if gradients else p))
    return torch.cat(parts) if parts else torch.empty(0)


@torch.no_grad()
def load_flat(module: nn.Module, vector: Tensor | LuaTensor) -> None:
    """Fills a module from the vector that Torch7's ``getParameters()`` returned and a script saved.

    Args:
        module: a converted module, of the structure that the vector was taken from.
        vector: all parameters in Torch7's order, tied ones once.

    Raises:
        ConversionError: it has not as many elements as the parameters together.
    """
    fields = flat_fields(module)
    for field, value in zip(fields, split_flat(fields, vector, "the flat vector"), strict=True):
        field.parameter.copy_(value)


# ---------------------------------------------------------------------- REINFORCE
@runtime_checkable
class Rewarded(Protocol):
    """A module whose gradient is that of its sample's log probability times a reward."""

    def reinforce(self, reward: Tensor) -> None:
        """Sets the reward for the backward pass that follows."""


def reinforce(module: nn.Module, reward: Tensor) -> None:
    """Hands a reward to every REINFORCE module in ``module`` for the backward pass that follows, ``m:reinforce(r)``.

    Args:
        module: any module.
        reward: one number for each sample, shape :math:`(N)`.
    """
    for child in module.modules():
        if isinstance(child, Rewarded):
            child.reinforce(reward)
