"""Compute gradients of parameters as Torch7 does after a layer that computes in place has restored its input.

``nn.MulConstant`` and ``nn.AddConstant`` restore their input at the end of ``updateGradInput``. A layer that reads this
memory gets its gradients of parameters later in an ``nn.gModule``, and in all containers without a ``backward`` of
their own: ``accGradParameters`` then reads the restored values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.parity.influence import Unused
from dpnn_bridge.parity.layers import is_inplace, lua_name

#: class -> function of the module and its output, which returns the input, computed as in Torch7
_RESTORE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "nn.MulConstant": lambda module, output: output / module.constant_scalar,
    "nn.AddConstant": lambda module, output: output + -module.constant_scalar,
}
#: reason of a known difference
RESTORED = (
    "a layer that computes in place restores its input in Torch7's updateGradInput, and the container calls "
    "accGradParameters later, so these gradients are those for the restored input; in PyTorch they are those for the "
    "input that the layer read"
)


def is_restored(obj: LuaObject) -> bool:
    """Return whether a module computes in place in its forward pass and restores its input in its backward pass."""
    return obj.class_name in _RESTORE and bool(obj.get("inplace"))


def restoring_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules of a model that restore their input."""
    return [m for m in model.modules() if is_inplace(m) and lua_name(m) in _RESTORE]


def with_restored_inputs(unused: Unused, run: Callable[[nn.Module], list[Difference]]) -> dict[str, Difference]:
    """Return the comparisons of a run whose gradients of parameters are those for restored inputs, by name.

    Args:
        unused: the model before its run.
        run: function that runs a copy of the model, also backward, and compares its results.
    """
    model = unused.copy()
    try:
        with torch.random.fork_rng(), _reading_restored(model.modules()):
            return {d.name: d for d in run(model)}
    except Exception:  # a layer that does not run twice
        return {}


class _Memory:
    """The memory of layers that compute in place, and the layers that wrote into it."""

    def __init__(self) -> None:
        self.value: Tensor | None = None
        self.written_by: list[nn.Module] = []

    def restored(self, like: Tensor) -> Tensor:
        """Return what the memory contains after the backward pass, with the shape of a tensor that had been read."""
        assert self.value is not None
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


@contextmanager
def _reading_restored(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let layers with parameters compute their gradients from what memory contains after the backward pass."""
    memories: dict[int, _Memory] = {}
    kept: list[Tensor] = []  # no two tensors get one storage

    def after_forward(module: nn.Module, args: Any, output: Any) -> Any:
        if len(args) != 1 or not isinstance(args[0], Tensor) or not isinstance(output, Tensor):
            return output
        (given,) = args
        kept.extend((given, output))
        if is_inplace(module):
            memory = memories.setdefault(storage_id(given), _Memory())
            memories[storage_id(output)] = memory
            memory.value = output.detach()
            memory.written_by.append(module)
            return output
        memory = memories.get(storage_id(given))
        if memory is None or not module._parameters or module._modules:
            return output
        return _OfRestoredInput.apply(module, memory, output.detach(), given, *module.parameters())

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(after_forward).remove)
        yield
