"""Compute gradients as Torch7 does where a layer that computes in place shares memory with other layers.

In the backward pass, a layer reads its input or its output from memory. A layer that computes in place may have written
into this memory after the layer read or wrote it.

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

from dpnn_bridge.base.cached import cached_property
from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.parity.given_gradients import GivenGradients, gradients_at
from dpnn_bridge.parity.influence import Unused
from dpnn_bridge.parity.layers import copies_input, is_inplace, lua_name
from dpnn_bridge.parity.shared_gradients import shared_gradients

#: class -> function of the module and its output, which returns the input, computed as in Torch7
RESTORED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "nn.MulConstant": lambda module, output: output / module.constant_scalar,
    "nn.AddConstant": lambda module, output: output + -module.constant_scalar,
}
#: class that reads its output in Torch7 -> function of the module, its output and the gradient: the gradInput
_BY_OUTPUT: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "nn.ELU": lambda module, y, g: torch.where(y <= 0, g * (y + module.alpha), g),
    "nn.Exp": lambda _, y, g: g * y,
    "nn.Sigmoid": lambda _, y, g: g * (1 - y) * y,
    "nn.Sqrt": lambda _, y, g: torch.where(y == 0, 0, 0.5 * g / y),
    "nn.Tanh": lambda _, y, g: g * (1 - y * y),
}
#: classes without parameters that read their input in Torch7
_BY_INPUT = frozenset(
    f"nn.{name}"
    for name in (
        *(
            "Abs",
            "Clamp",
            "HardShrink",
            "HardTanh",
            "LeakyReLU",
            "Log",
            "Power",
            "ReLU",
            "ReLU6",
            "SoftShrink",
            "SoftSign",
        ),
        *("Square", "Threshold", "CDivTable", "CMulTable", "DotProduct", "MM", "MV"),
    )
)
#: classes with parameters that read their input from a buffer, in which it is unfolded
_UNFOLDED = frozenset(
    f"nn.{name}"
    for name in (
        *("SpatialConvolution", "SpatialConvolutionLocal", "SpatialConvolutionMM", "TemporalRowConvolution"),
        *("VolumetricConvolution", "VolumetricConvolutionMM"),
    )
)
#: reason of a known difference
IN_PLACE = (
    "Torch7 computes these gradients from memory that a layer which computes in place has changed or restored; in "
    "PyTorch they are computed from the values of the forward pass"
)


def is_restored(obj: LuaObject) -> bool:
    """Return whether a module computes in place in its forward pass and restores its input in its backward pass."""
    return obj.class_name in RESTORED and bool(obj.get("inplace"))


def may_share_memory(model: nn.Module) -> bool:
    """Return whether layers that compute in place may change gradients of a model in Torch7."""
    return any(map(is_inplace, model.modules()))


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
    for last in (False, True):
        model = unused.copy()
        try:
            with (
                torch.random.fork_rng(),
                one_memory(model.modules(), restores=last),
                shared_gradients(model.modules(), parameters_last=last),
            ):
                found.append({d.name: d for d in run(model)})
        except Exception:  # a layer does not run twice
            return found
    return found


class _Memory:
    """A storage of Torch7, into which layers write one after another.

    Attributes:
        values: its elements.
        written: the layers that wrote into it, with the positions of the elements.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.written: list[tuple[nn.Module, Tensor]] = []

    def write(self, module: nn.Module, positions: Tensor, values: Tensor) -> None:
        self.values[positions] = values
        self.written.append((module, positions))

    @cached_property
    def restored(self) -> Tensor:
        """What the memory contains after the backward pass, which reads it after all layers have written."""
        values = self.values.clone()
        for module, positions in reversed(self.written):
            if (restore := RESTORED.get(lua_name(module))) is not None:
                values[positions] = restore(module, values[positions])
        return values


class _Part:
    """The elements of a tensor in the memory of Torch7.

    Attributes:
        memory: the memory.
        positions: the positions of the elements, with the shape of the tensor.
    """

    def __init__(self, memory: _Memory, positions: Tensor) -> None:
        self.memory, self.positions = memory, positions
        self._before = len(memory.written)

    @property
    def is_changed(self) -> bool:
        """Whether a layer has written into the memory since."""
        return len(self.memory.written) > self._before or any(lua_name(m) in RESTORED for m, _ in self.memory.written)

    def now(self, *, restored: bool) -> Tensor:
        """Return the elements that are there in the backward pass."""
        return (self.memory.restored if restored else self.memory.values)[self.positions]

    def write(self, module: nn.Module, values: Tensor) -> None:
        self.memory.write(module, self.positions, values)


class _Memories:
    """The memories of a run: storages of PyTorch -> the positions in Torch7's memory."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[_Memory, Tensor]] = {}
        self._kept: list[Tensor] = []  # no two tensors get one storage

    def part(self, tensor: Tensor) -> _Part:
        """Return where the elements of a tensor are."""
        if storage_id(tensor) not in self._places:
            flat = _all_of(tensor).detach().clone()
            self._place(tensor, _Memory(flat), torch.arange(flat.numel(), device=tensor.device))
        memory, positions = self._places[storage_id(tensor)]
        return _Part(memory, positions.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()))

    def write(self, module: nn.Module, given: Tensor, output: Tensor) -> None:
        """Write the output of a layer that computes in place over its input."""
        part = self.part(given)
        part.write(module, output.detach())
        if storage_id(output) == storage_id(given):  # an idle dropout returns its input
            return
        positions = torch.zeros(_all_of(output).numel(), dtype=torch.int64, device=output.device)
        positions.as_strided(output.shape, output.stride(), output.storage_offset()).copy_(part.positions)
        self._place(output, part.memory, positions)

    def _place(self, tensor: Tensor, memory: _Memory, positions: Tensor) -> None:
        self._places[storage_id(tensor)] = memory, positions
        self._kept.append(tensor)


def _all_of(tensor: Tensor) -> Tensor:
    """Return all elements of a tensor's storage."""
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.detach().as_strided((size,), (1,), 0)


def _reads_input(module: nn.Module) -> bool:
    """Return whether the backward pass of a layer reads the input of its forward pass in Torch7."""
    name = lua_name(module)
    return not module._modules and (name in _BY_INPUT or (bool(module._parameters) and name not in _UNFOLDED))


def _of_output(module: nn.Module, output: _Part, gradient: Tensor) -> list[Tensor | None] | None:
    """Return the gradient of a layer that reads its output, if the output has changed."""
    if not output.is_changed:
        return None
    return [_BY_OUTPUT[lua_name(module)](module, output.now(restored=True), gradient)]


def _of_input(
    module: nn.Module, input: Any, parts: list[_Part], gradient: Tensor, *, restores: bool
) -> list[Tensor | None] | None:
    """Return the gradients of a layer that reads its input, if the input has changed.

    Args:
        module, input: the layer and the input of its forward pass.
        parts: the tensors of the input in Torch7's memory.
        gradient: gradient of its output.
        restores: whether the gradients of parameters are computed from the restored input.
    """
    if not any(part.is_changed for part in parts):
        return None

    def run(given: list[Tensor]) -> Tensor:
        tensors = iter(given)
        return module.forward(nested.map_tensors(lambda _: next(tensors), input))

    now, later = ([part.now(restored=late) for part in parts] for late in (False, restores))
    if isinstance(module, _BatchNorm) and module.training:
        return _of_normalization(module, input.detach(), now[0], later[0], gradient)
    of_input = gradients_at(run, now, [], gradient)
    of_parameters = gradients_at(run, later, list(module.parameters()), gradient)
    return [*of_input, *of_parameters[len(later) :]]


def _of_normalization(
    module: _BatchNorm, input: Tensor, now: Tensor, later: Tensor, gradient: Tensor
) -> list[Tensor | None]:
    """Return the gradients of a batch normalization in training, with the statistics of its forward pass.

    Args:
        module, input: the layer and the input of its forward pass.
        now, later: what is read for the gradients of the input and of the parameters.
        gradient: gradient of its output.
    """
    axes = [i for i in range(input.dim()) if i != 1]
    shape = [-1 if i == 1 else 1 for i in range(input.dim())]
    variance, mean = torch.var_mean(input, axes, correction=0)

    def run(given: list[Tensor]) -> Tensor:
        return nn.functional.batch_norm(given[0], mean, variance, module.weight, module.bias, eps=module.eps)

    slope, centered = (variance + module.eps).rsqrt().view(shape), now - mean.view(shape)
    along = (centered * gradient).mean(axes, keepdim=True) * slope.square()
    of_input = (gradient - gradient.mean(axes, keepdim=True) - centered * along) * slope
    if module.weight is not None:
        of_input = of_input * module.weight.detach().view(shape)
    return [of_input, *gradients_at(run, [later], list(module.parameters()), gradient)[1:]]


@contextmanager
def one_memory(modules: Iterable[nn.Module], *, restores: bool = False) -> Iterator[None]:
    """Let layers compute gradients from memory that they share with layers which compute in place.

    Args:
        modules: all modules.
        restores: whether gradients of parameters are computed from restored inputs.
    """
    memories = _Memories()

    def after_forward(module: nn.Module, args: Any, output: Any) -> Any:
        if len(args) != 1 or not isinstance(output, Tensor):
            return output
        given, in_place = nested.first_tensor(args), is_inplace(module)
        if copies_input(module) and not in_place and storage_id(output) in map(storage_id, nested.tensors(args)):
            output = output.clone()
        by_output = lua_name(module) in _BY_OUTPUT
        if in_place or by_output:
            if args[0] is given and (by_output or lua_name(module) in _BY_INPUT):  # in place, input and output are one

                def of_own(gradient: Tensor) -> list[Tensor | None] | None:
                    if by_output:
                        return _of_output(module, own, gradient)
                    return _of_input(module, given, [own], gradient, restores=False)

                output = GivenGradients.apply(of_own, output, given)
            if in_place and given is not None and given.shape == output.shape:
                memories.write(module, given, output)
            own = memories.part(output)
            return output
        if not _reads_input(module):
            return output
        tensors = list(nested.tensors(args))
        parts = [memories.part(t) for t in tensors]

        def gradients(gradient: Tensor) -> list[Tensor | None] | None:
            return _of_input(module, args[0], parts, gradient, restores=restores)

        return GivenGradients.apply(gradients, output, *tensors, *module.parameters())

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(after_forward).remove)
        yield
