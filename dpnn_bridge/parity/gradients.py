"""Compare gradients, and errors of forward and backward passes, with Torch7's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.base.cached import cached_property
from dpnn_bridge.base.display import printable, shortened
from dpnn_bridge.compare.differences import Difference, Tolerance, compare, compare_tensor, mismatch
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.fields import get_tensor
from dpnn_bridge.conversion.lua_class import ParameterSite
from dpnn_bridge.errors import ConversionLimitError
from dpnn_bridge.objects import LuaTable, LuaTensor
from dpnn_bridge.parity.accepted import accept_known
from dpnn_bridge.parity.buffers import lua_tensors

SHARED = (
    "the layers share weights but not gradients in Torch7; in PyTorch, the shared parameter has one gradient, which "
    "combines them"
)


def of_gradients(tolerance: Tolerance, reference: LuaTable) -> Tolerance:
    """Return a tolerance for the gradients of a reference.

    They are proportional to ``gradOutput``, which is very small for the mean loss of many elements. So is the minimum
    scale of their differences.
    """
    given = [t.numpy() for t in lua_tensors(reference.get("gradOutput")) if t.size and t.dtype.kind == "f"]
    largest = max((float(np.abs(t[np.isfinite(t)]).max(initial=0)) for t in given), default=1.0)
    return replace(tolerance, floor=tolerance.floor * min(largest, 1.0)) if largest else tolerance


def compare_gradients(
    module: nn.Module, grads: Any, expected: Any, tolerance: Tolerance, memory: Sequence[Any] = ()
) -> list[Difference]:
    """Compare ``gradParams``. The differences are relative to the largest gradient of the same layer.

    For example, the gradient of a bias before a batch normalization is zero. The computed values are rounding errors of
    a sum whose terms are as large as the gradient of the weight.

    Args:
        module: the module.
        grads: gradients of its parameters, in the order of ``parameters()`` in Torch7.
        expected: Torch7's gradients.
        tolerance: accepted differences.
        memory: positions of Torch7's gradients in memory, see :func:`memory_of`. If a shared parameter has several
            gradients in Torch7, their sum is expected, in which equal positions count once.
    """
    sites = list(registry.parameters(module))
    owners = [id(owner) for owner, _, _ in sites]
    if not isinstance(expected, list) or not len(owners) == len(grads) == len(expected):
        return compare("gradParams", grads, expected, tolerance)
    largest: dict[int, float] = {}
    for owner, grad, e in zip(owners, grads, expected, strict=True):
        if not isinstance(grad, Tensor) or not isinstance(e, Tensor) or grad.shape != e.shape:
            continue  # a difference of any size
        finite = e[e.isfinite()]
        size = float(finite.abs().max()) if len(finite) else 0.0
        largest[owner] = max(largest.get(owner, tolerance.floor), size)
    found, combined = [], _Combined(sites, expected, memory)
    for i, (owner, grad, e) in enumerate(zip(owners, grads, expected, strict=True)):
        if not isinstance(e, Tensor):
            found += compare(f"gradParams[{i + 1}]", grad, e, tolerance)
            continue
        allowed = replace(tolerance, floor=largest.get(owner, tolerance.floor))
        difference = compare_tensor(f"gradParams[{i + 1}]", grad, e, allowed)
        found.append(difference)
        if not difference.ok:
            total = combined.of(i)
            if total is not None and compare_tensor("sum", grad, total, allowed).ok:
                accept_known(difference, SHARED)
    return found


class _Combined:
    """The gradients of parameters that several modules share, each combined from Torch7's gradients of these modules.

    Args:
        sites: the parameters.
        expected: Torch7's gradients.
        memory: their positions in memory, or empty.
    """

    def __init__(self, sites: Sequence[ParameterSite], expected: Sequence[Any], memory: Sequence[Any]) -> None:
        self._sites, self._expected, self._memory = sites, expected, memory
        self._known: dict[tuple[int, str, torch.Size], Tensor | None] = {}

    @cached_property
    def _uses(self) -> list[list[int]]:
        """The positions of each parameter in the list of all parameters."""
        tensors = [get_tensor(owner, spec.attribute) for owner, _, spec in self._sites]
        groups: dict[int, list[int]] = {}
        for i, tensor in enumerate(tensors):
            groups.setdefault(id(tensor), []).append(i)
        return [groups[id(tensor)] for tensor in tensors]

    @cached_property
    def _of_owner(self) -> dict[int, list[int]]:
        """The positions of the parameters of each module."""
        positions: dict[int, list[int]] = {}
        for i, (owner, _, _) in enumerate(self._sites):
            positions.setdefault(id(owner), []).append(i)
        return positions

    def of(self, i: int) -> Tensor | None:
        """Return the combined gradient of a parameter; None if no other module has the parameter."""
        uses = self._uses[i]
        if len(uses) < 2:
            return None
        key = uses[0], self._sites[i][1], self._expected[i].shape
        if key not in self._known:
            total = self._joined(i)
            self._known[key] = self._sum(i) if total is None else total
        return self._known[key]

    def _joined(self, i: int) -> Tensor | None:
        """Combine the gradients of clones by the rule of their class; None if there is no rule or only one module."""
        owner, name, _ = self._sites[i]
        clones = [self._sites[j][0] for j in self._uses[i] if self._sites[j][1] == name]
        if len(clones) < 2:
            return None
        gradients: dict[str, list[Tensor]] = {}
        for j in sorted({j for clone in clones for j in self._of_owner[id(clone)]}):
            gradients.setdefault(self._sites[j][1], []).append(self._expected[j])
        return registry.mapping_of(owner).joined_gradient(owner, name, gradients)

    def _sum(self, i: int) -> Tensor | None:
        shape, expected = self._expected[i].shape, self._expected
        same = [j for j in self._uses[i] if isinstance(expected[j], Tensor) and expected[j].shape == shape]
        parts = {self._memory[j] if self._memory else j: expected[j] for j in same}
        return torch.stack([*parts.values()]).sum(0) if len(parts) > 1 else None


def memory_of(table: Any) -> list[Any]:
    """Return storage and offset of each tensor in a Lua list, and the ID of other elements."""
    elements = table.as_list() if isinstance(table, LuaTable) else []
    return [(id(e.storage), e.offset) if isinstance(e, LuaTensor) else id(e) for e in elements]


def shaped_like(tensors: list[Tensor], expected: Any) -> list[Tensor]:
    """Reshape ``tensors`` to the shapes of ``expected``; old modules reshape parameters in their first forward pass."""
    if not isinstance(expected, list) or len(expected) != len(tensors):
        return tensors
    return [
        t.reshape(e.shape) if isinstance(e, Tensor) and e.numel() == t.numel() else t
        for t, e in zip(tensors, expected, strict=True)
    ]


def refused(name: str, reason: str, call: Callable[[], Any]) -> Difference:
    """Check that a call that fails in Torch7 also raises an error in PyTorch, with a message.

    Args:
        name: ``"forward"`` or ``"backward"``.
        reason: Torch7's message.
        call: the call.

    Returns:
        A failed comparison if the call succeeds, or raises an error that indicates a bug, such as a ``NameError``.
    """
    reason = printable(shortened(str(reason), 500))
    try:
        call()
    except ConversionLimitError:
        raise
    except Exception as e:
        if str(e) and not isinstance(e, (NameError, AttributeError, NotImplementedError)):
            return Difference(name, 0.0, 0.0)
        return Difference(
            name,
            float("inf"),
            0.0,
            f"expected an error like Torch7's ({reason}), found {type(e).__name__}: {shortened(str(e), 500)}",
        )
    return Difference(name, float("inf"), 0.0, f"Torch7 refused this call ({reason}), here it works")


def zero_grad(module: nn.Module) -> None:
    """Clear all gradients."""
    for p in module.parameters():
        p.grad = None


def compare_grad_input(name: str, inputs: Any, expected: Any, tolerance: Tolerance) -> list[Difference]:
    """Compare ``gradInput`` with the gradients of the input's tensors; Torch7 may omit parts of ``gradInput``."""
    if isinstance(inputs, Tensor):
        if not isinstance(expected, Tensor) or expected.numel() == 0:
            zero = inputs.grad is None or not inputs.grad.any()
            return [Difference(name, 0.0, 0.0)] if zero else [mismatch(name, inputs.grad, "no gradient")]
        if not inputs.is_floating_point() and not expected.any():  # for indices, Torch7 may return zeros of any shape
            return [Difference(name, 0.0, 0.0)]
        grad = inputs.grad if inputs.grad is not None else inputs.new_zeros(()).expand_as(inputs)
        if grad.numel() == expected.numel():  # Torch7 may return a view of another shape
            grad = grad.reshape(expected.shape)
        if grad.dtype == torch.float32:  # also if Torch7's gradient is double
            tolerance = tolerance.in_single()
        return [compare_tensor(name, grad, expected, tolerance)]
    if isinstance(inputs, list):
        parts = expected if isinstance(expected, list) else [None] * len(inputs)
        if len(parts) < len(inputs):
            parts = [*parts, *[None] * (len(inputs) - len(parts))]
        return [d for i, v in enumerate(inputs) for d in compare_grad_input(f"{name}[{i + 1}]", v, parts[i], tolerance)]
    if isinstance(inputs, dict):
        parts = expected if isinstance(expected, dict) else {}
        return [d for k, v in inputs.items() for d in compare_grad_input(f"{name}.{k}", v, parts.get(k), tolerance)]
    return []
