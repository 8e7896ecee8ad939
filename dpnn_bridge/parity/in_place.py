"""Compute gradients as Torch7 does where a layer that computes in place shares memory with other layers.

- A layer that reads its own output in the backward pass (``nn.Tanh``) reads what a later layer wrote into it.
- ``nn.MulConstant`` and ``nn.AddConstant`` restore their input at the end of ``updateGradInput``. A layer that reads
  this memory gets its gradients of parameters later in an ``nn.gModule``, and in all containers without a ``backward``
  of their own: ``accGradParameters`` then reads the restored values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.parity.influence import Unused
from dpnn_bridge.parity.layers import is_inplace, lua_name

#: class -> function of the module and its output, which returns the input, computed as in Torch7
_RESTORE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "nn.MulConstant": lambda module, output: output / module.constant_scalar,
    "nn.AddConstant": lambda module, output: output + -module.constant_scalar,
}
#: class that reads its output in Torch7 -> function of the module, its output and the gradient: the gradInput
_BY_OUTPUT: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "ELU": lambda module, y, g: torch.where(y <= 0, g * (y + module.alpha), g),
    "Exp": lambda _, y, g: g * y,
    "Sigmoid": lambda _, y, g: g * (1 - y) * y,
    "Sqrt": lambda _, y, g: torch.where(y == 0, 0, 0.5 * g / y),
    "Tanh": lambda _, y, g: g * (1 - y * y),
}
#: reason of a known difference
IN_PLACE = (
    "Torch7 computes these gradients from memory that a layer which computes in place has changed or restored; in "
    "PyTorch they are computed from the values of the forward pass"
)


def is_restored(obj: LuaObject) -> bool:
    """Return whether a module computes in place in its forward pass and restores its input in its backward pass."""
    return obj.class_name in _RESTORE and bool(obj.get("inplace"))


def may_share_memory(model: nn.Module) -> bool:
    """Return whether layers that compute in place may change gradients of a model in Torch7."""
    in_place = [m for m in model.modules() if is_inplace(m)]
    restores = any(lua_name(m) in _RESTORE for m in in_place)
    return restores or (bool(in_place) and any(type(m).__name__ in _BY_OUTPUT for m in model.modules()))


def of_torch7(unused: Unused, run: Callable[[nn.Module], list[Difference]]) -> list[dict[str, Difference]]:
    """Return the comparisons of runs whose gradients are those of Torch7's memory, by name.

    Args:
        unused: the model before its run.
        run: function that runs a copy of the model, also backward, and compares its results.

    Returns:
        One run for containers whose ``backward`` precedes the one of the layer before, and one for the others. It is
        empty if a layer does not run twice.
    """
    found = []
    for restores in (False, True):
        model = unused.copy()
        try:
            with torch.random.fork_rng(), _one_memory(model.modules(), restores=restores):
                found.append({d.name: d for d in run(model)})
        except Exception:  # a layer does not run twice
            return found
    return found


class _Memory:
    """Memory into which layers write one after another."""

    def __init__(self) -> None:
        self.value: Tensor | None = None
        self.written_by: list[nn.Module] = []

    def restored(self, like: Tensor) -> Tensor:
        """Return what the memory contains after the backward pass, with the shape of a tensor that was there."""
        if self.value is None:
            return like
        value = self.value
        for module in reversed(self.written_by):
            if (restore := _RESTORE.get(lua_name(module))) is not None:
                value = restore(module, value)
        return value.contiguous().view(like.shape)


class _OfRestoredInput(torch.autograd.Function):
    """The result of a layer, whose gradients of parameters are those for the restored input."""

    @staticmethod
    def forward(ctx: Any, module: nn.Module, memory: _Memory, output: Tensor, *inputs: Tensor) -> Tensor:
        ctx.module, ctx.memory, ctx.inputs = module, memory, inputs
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        x, *parameters = ctx.inputs
        trained = [p for p in parameters if p.requires_grad]
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            (of_input,) = torch.autograd.grad(ctx.module.forward(x), x, gradients, allow_unused=True)
            output = _with_statistics_of(x.detach(), ctx.module, ctx.memory.restored(x.detach()))
            found = torch.autograd.grad(output, trained, gradients, allow_unused=True) if trained else ()
        of_parameter = dict(zip(map(id, trained), found, strict=True))
        return None, None, None, of_input, *(of_parameter.get(id(p)) for p in parameters)


def _with_statistics_of(read: Tensor, module: nn.Module, restored: Tensor) -> Tensor:
    """Run a layer on a restored input; a batch normalization in training uses the mean and variance that it computed.

    Args:
        read: the input of its forward pass.
        module: the layer.
        restored: the restored input.
    """
    if not (isinstance(module, _BatchNorm) and module.training):
        return module.forward(restored)
    axes = [i for i in range(read.dim()) if i != 1]
    variance, mean = torch.var_mean(read, axes, correction=0)
    return nn.functional.batch_norm(restored, mean, variance, module.weight, module.bias, eps=module.eps)


class _OfOwnOutput(torch.autograd.Function):
    """The output of a layer, whose gradient is computed from what the memory of the output contains then."""

    @staticmethod
    def forward(ctx: Any, module: nn.Module, memory: _Memory, output: Tensor, input: Tensor) -> Tensor:
        ctx.module, ctx.memory = module, memory
        ctx.output = output.clone()
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        by_output = _BY_OUTPUT[type(ctx.module).__name__]
        return None, None, None, by_output(ctx.module, ctx.memory.restored(ctx.output), gradients[0])


@contextmanager
def _one_memory(modules: Iterable[nn.Module], *, restores: bool) -> Iterator[None]:
    """Let layers compute gradients from memory that they share with layers which compute in place.

    Args:
        modules: all modules.
        restores: whether layers with parameters read restored inputs.
    """
    memories: dict[int, _Memory] = {}
    kept: list[Tensor] = []  # no two tensors get one storage

    def after_forward(module: nn.Module, args: Any, output: Any) -> Any:
        given = nested.first_tensor(args)
        if len(args) != 1 or given is None or not isinstance(output, Tensor):
            return output
        in_place, memory = is_inplace(module), memories.get(storage_id(given))
        reads_output = given is args[0] and type(module).__name__ in _BY_OUTPUT
        if not in_place and not reads_output:
            reads = restores and memory is not None and module._parameters and not module._modules
            if not reads or given is not args[0]:
                return output
            return _OfRestoredInput.apply(module, memory, output.detach(), given, *module.parameters())
        if memory is None or not in_place:
            memory = _Memory()
        if reads_output:
            output = _OfOwnOutput.apply(module, memory, output.detach(), given)
        if in_place:
            memories[storage_id(given)] = memory
            memory.value = output.detach()
            memory.written_by.append(module)
        memories[storage_id(output)] = memory
        kept.extend((given, output))
        return output

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(after_forward).remove)
        yield
