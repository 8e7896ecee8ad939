"""Find the results that change because Torch7 has one buffer for all uses of a module that occurs several times.

A later use overwrites the result of an earlier use. This matters only where the earlier result is read again, as in a
table of results, not in an ``nn.Sequential``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.modules.nn.arithmetic import shaped_like
from dpnn_bridge.parity import in_place
from dpnn_bridge.parity.given_gradients import GivenGradients, gradients_at
from dpnn_bridge.parity.influence import Summary, Unused, summary
from dpnn_bridge.parity.layers import copies_input, is_inplace, lua_name

#: classes whose backward pass in Torch7 uses the given input, and no buffer of the forward pass
_USES_INPUT = frozenset(
    f"nn.{name}"
    for name in (
        *("Sequential", "Linear", "Identity", "View", "Reshape", "ReLU", "ReLU6", "Threshold", "LeakyReLU", "PReLU"),
        *("HardTanh", "Clamp", "Abs", "Square", "MulConstant", "AddConstant", "Add", "Mul", "CMul", "HardShrink"),
        *("SoftShrink", "SoftSign"),
    )
)
#: those whose gradInput is their gradOutput
_SAME_GRADIENT = frozenset(("nn.Identity", "nn.View", "nn.Reshape", "nn.AddConstant"))
#: classes whose backward pass uses the output: the buffer of the last use
_USES_OUTPUT = frozenset(f"nn.{name}" for name in ("Tanh", "Sigmoid", "SoftMax", "LogSoftMax", "Exp"))
#: classes whose gradients of weights in Torch7 use the input of the last use, unfolded in a buffer
_USES_LAST_INPUT = frozenset(("nn.SpatialConvolution", "nn.SpatialConvolutionMM"))
#: classes that overwrite their input while they read it, if it is the result of an earlier use: Torch7's is undefined
_UNDEFINED = frozenset(
    f"nn.{name}"
    for name in (
        *("Cosine", "Linear", "LinearWeightNorm", "MM", "MixtureTable", "Padding", "PartialLinear"),
        *("SeqReverseSequence", "SpatialAveragePooling", "SpatialColorTransform", "SpatialGraph"),
        *("SpatialConvolutionMap", "SpatialCrossMapLRN", "SpatialDilatedConvolution", "SpatialFullConvolutionMap"),
        *("SpatialMaxPooling", "SpatialSubSampling", "SpatialZeroPadding", "TemporalConvolution"),
        *("TemporalRowConvolution", "TemporalSubSampling", "Transpose", "VolumetricAveragePooling"),
        "VolumetricDilatedConvolution",
    )
)
#: classes that combine the tensors of a table one after the other in their output
_ACCUMULATE = {
    "nn.CAddTable": torch.add,
    "nn.CMulTable": torch.mul,
    "nn.CMaxTable": torch.maximum,
    "nn.CMinTable": torch.minimum,
    "nn.CSubTable": torch.sub,
    "nn.CDivTable": torch.div,
}
#: other classes whose backward pass reads the same as PyTorch's if they occur once
_IF_ONCE = frozenset(
    f"nn.{name}"
    for name in (
        *("ConcatTable", "CAddTable", "JoinTable", "LookupTable", "Dropout", "SpatialMaxPooling"),
        *("SpatialAveragePooling", "BatchNormalization", "SpatialBatchNormalization", "GradientReversal"),
        *("FlattenTable", "SelectTable", "NarrowTable", "SplitTable", "CSubTable"),
        *("Select", "Narrow", "Transpose", "Unsqueeze", "Squeeze", "Replicate", "Padding", "SpatialZeroPadding"),
        *("Mean", "Sum", "Max", "Min", "SpatialUpSamplingNearest", "Contiguous"),
    )
)


class OneBuffer:
    """A forward pass as in Torch7, where each of some modules has one buffer for its results.

    Args:
        unused: the model before its run.
        repeated: the modules that occur several times. Modules inside them have one buffer each, too.

    Attributes:
        output: the output of this forward pass, after :meth:`affected`.
        plain: the output of PyTorch's forward pass, after :meth:`affected`.
        used: the ``id`` of each of these modules that ran several times, after :meth:`affected`.
        is_undefined: whether one of them reads its own result, so that no result of Torch7 can be expected.
    """

    output: Any = None
    plain: Any = None
    used: frozenset[int] = frozenset()
    is_undefined = False

    def __init__(self, unused: Unused, repeated: Iterable[nn.Module]) -> None:
        memo: set[nn.Module] = set()
        chosen = {id(m) for module in repeated for _, m in module.named_modules(memo)}
        self._unused = unused
        self._repeated = [i for i, number in enumerate(unused.ids) if number in chosen]

    def affected(self, forward: Callable[[nn.Module], Any]) -> set[int] | None:
        """Return the ``id`` of each module whose input or output changes; None if that cannot be found.

        Args:
            forward: function that runs the model on the input of the reference.
        """
        plain, shared = self._unused.copy(), self._unused.copy()
        try:
            with torch.no_grad():
                self.plain, expected, uses = _summaries(plain, forward)
                self.used = frozenset(self._unused.ids[i] for i in self._repeated if uses[i] > 1)
                modules = list(shared.modules())
                with _shared_buffers([modules[i] for i in self._repeated], modules) as undefined:
                    self.output, actual, _ = _summaries(shared, forward)
                self.is_undefined = bool(undefined)
        except Exception:  # a layer does not accept the other values, as in Torch7
            return None
        return {number for i, number in enumerate(self._unused.ids) if expected.get(i) != actual.get(i)}

    def compared(self, run: Callable[[nn.Module], list[Difference]]) -> dict[str, Difference] | None:
        """Return the comparisons of a run whose backward pass reads one buffer for all uses; None if that is unknown.

        Args:
            run: function that runs the model, also backward, and compares its results.
        """
        model = self._unused.copy()
        modules = list(model.modules())
        repeated = {modules[i] for i in self._repeated}
        names = _USES_INPUT | _USES_OUTPUT | _USES_LAST_INPUT
        known = {m for m in modules if lua_name(m) in names}
        if not known.issuperset(repeated) or not all(m in known or lua_name(m) in _IF_ONCE for m in modules):
            return None
        if any(is_inplace(m) and lua_name(m) in in_place.RESTORED for m in modules):
            return None
        if any(m._parameters for m in repeated) and any(lua_name(m) in _SAME_GRADIENT for m in modules):
            return None  # Torch7 may write into the gradient that it reads
        try:
            others = [m for m in modules if m not in repeated or is_inplace(m)]
            with in_place.one_memory(others), _one_memory(modules, repeated):
                return {d.name: d for d in run(model)}
        except Exception:  # a result has another size than that of an earlier use, or a layer in place overwrites it
            return None


@contextmanager
def _shared_buffers(repeated: Iterable[nn.Module], modules: Iterable[nn.Module]) -> Iterator[list[nn.Module]]:
    """Write all results of each module into one tensor, unless a result is a view of an input.

    Args:
        repeated: the modules with one tensor.
        modules: all modules.

    Returns: a list, to which modules are added whose results are undefined and become NaN.
    """
    several = set(repeated)
    buffers: dict[tuple[nn.Module, int], Tensor] = {}
    memories: set[int] = set()
    undefined: list[nn.Module] = []

    def after_forward(module: nn.Module, args: Any, output: Any) -> Any:
        given = list(nested.tensors(args))
        inputs = {storage_id(t): t for t in given}
        if lua_name(module) in _ACCUMULATE and module in several and isinstance(output, Tensor):
            output = _accumulated(module, given, buffers.get((module, 0)))
        position = count()
        inplace = is_inplace(module)
        copies = copies_input(module) and not inplace

        def stored(result: Tensor) -> Tensor:
            is_shared = storage_id(result) in inputs
            if is_shared and not copies:
                return result
            if inplace and given and storage_id(given[0]) in memories and given[0].shape == result.shape:
                return given[0].copy_(result)  # the modules of a .t7 do not change their input
            if module not in several:
                return result.clone() if is_shared else result
            if not is_shared and storage_id(result) in memories:  # a container returns the result of a module inside
                return result
            key = module, next(position)
            if key not in buffers or buffers[key].dtype != result.dtype:
                buffers[key] = result.clone()
                memories.add(storage_id(buffers[key]))
            own = inputs.get(storage_id(buffers[key]))
            if own is not None and own.shape == result.shape and lua_name(module) in _UNDEFINED:
                undefined.append(module)
                result = torch.full_like(result, torch.nan)
            return buffers[key].resize_(result.shape).copy_(result)

        return nested.map_tensors(stored, output)

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(after_forward).remove)
        yield undefined


def _accumulated(module: nn.Module, given: Sequence[Tensor], buffer: Tensor | None) -> Tensor:
    """Return the result of a layer that writes each partial result where a later input may be."""
    result, combine = given[0], _ACCUMULATE[lua_name(module)]
    for other in given[1:]:
        is_own = buffer is not None and storage_id(other) == storage_id(buffer)
        result = combine(result, result if is_own else shaped_like(result, other))
    return result


def _from_input(module: nn.Module, input: Tensor, gradient: Tensor) -> list[Tensor | None]:
    """Return the gradients of a module for what the memory of its input contains in the backward pass."""
    return gradients_at(lambda given: module.forward(*given), [input], list(module.parameters()), gradient)


@contextmanager
def _one_memory(modules: Iterable[nn.Module], repeated: Iterable[nn.Module]) -> Iterator[None]:
    """Let all uses of a repeated module return one memory, which other modules and its own backward pass read later.

    Args:
        modules: all modules, whose backward passes read what Torch7's read.
        repeated: the modules with several uses.
    """
    several = set(repeated)
    buffers: dict[tuple[nn.Module, str], Tensor] = {}
    memories: set[int] = set()
    results: dict[nn.Module, list[Tensor]] = {}

    def in_memory(module: nn.Module, name: str, value: Tensor) -> Tensor:
        """Return a value in the memory of the earlier uses, which is overwritten."""
        buffer = buffers.setdefault((module, name), value.detach().clone())
        memories.add(storage_id(buffer))
        if buffer.shape != value.shape:
            raise ValueError("another size")
        buffer.copy_(value.detach())
        given = value.clone()
        given.data = buffer
        return given

    def before_forward(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        if is_inplace(module) and any(storage_id(t) in memories for t in nested.tensors(args)):
            raise ValueError("a layer in place overwrites what all uses share")
        buffer = buffers.get((module, "output"))
        if buffer is not None and module._parameters and storage_id(args[0]) == storage_id(buffer):
            raise ValueError("two uses in a row: Torch7 would write into the gradient that it reads")
        return (in_memory(module, "input", args[0]),) if lua_name(module) in _USES_LAST_INPUT else None

    def after_forward(module: nn.Module, args: Any, output: Any) -> Any:
        if lua_name(module) in _USES_INPUT and not module._modules:
            compute = partial(_from_input, module, args[0])
            output = GivenGradients.apply(compute, output.detach(), args[0], *module.parameters())
        if module not in several or storage_id(output) in memories:  # a container returns that of a module inside
            return output
        if lua_name(module) in _USES_OUTPUT:  # autograd has stored the result
            results.setdefault(module, []).append(output)
            for earlier in results[module]:
                earlier.data.copy_(output.detach())
        return in_memory(module, "output", output)

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(before_forward).remove)
            stack.callback(module.register_forward_hook(after_forward).remove)
        yield


def _summaries(
    model: nn.Module, forward: Callable[[nn.Module], Any]
) -> tuple[Any, dict[int, list[Summary]], Counter[int]]:
    """Run a model; return its output, summaries of each module's last input and output, and the numbers of calls."""
    found: dict[int, list[Summary]] = {}
    calls: Counter[int] = Counter()

    def record(i: int) -> Callable[..., None]:
        def after_forward(module: nn.Module, args: Any, output: Any) -> None:
            calls[i] += 1
            found[i] = [summary(t) for t in nested.tensors((args, output))]

        return after_forward

    with ExitStack() as stack:
        for i, module in enumerate(model.modules()):
            stack.callback(module.register_forward_hook(record(i)).remove)
        output = forward(model)
    return output, found, calls
