"""Record modules that compute a norm or a PReLU in several steps as the one operation of PyTorch that is equal.

Examples are torchvision's ``FrozenBatchNorm2d``, and modules that compute the mean, the variance and the quotient of an
instance norm themselves. Which of a module's tensors is the weight or the running mean, and the eps, are found by
running the module with random tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.porting.events import NORMS
from dpnn_bridge.porting.tape import Recorder
from dpnn_bridge.porting.values import DOUBLE, difference, unexpanded

#: types of the events of these operations
COMPOSITE_KINDS = frozenset((*NORMS, "prelu"))
#: an operation of PyTorch on an input and on tensors of a module
Operation = Callable[..., Tensor]
#: roles of a norm's tensors
_ROLES = ("weight", "bias", "running_mean", "running_var")
#: scale of the inputs whose variance is so small that the eps determines the result
_SMALL = 1e-6


def composites(module: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a network that may compute a norm or a PReLU in several steps, by name."""
    return {name: inner for name, inner in module.named_modules() if _may_be_composite(inner)}


def _may_be_composite(module: nn.Module) -> bool:
    own, stock = next(module.children(), None) is None, type(module).__module__.startswith("torch.nn.")
    if not own or stock or not 0 < len(_tensors(module)) <= len(_ROLES):
        return False
    return all(unexpanded(t) is t for t in _tensors(module))  # random numbers are written into them


def _tensors(module: nn.Module) -> list[Tensor]:
    return [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]


def use_operations(module: nn.Module, recorder: Recorder) -> None:
    """Replace ``forward`` of the modules in a copy of a network that compute one operation of PyTorch in several steps.

    Args:
        module: the copy, which is changed.
        recorder: the recorder that will run the copy.
    """
    for inner in composites(module).values():
        vars(inner)["forward"] = _Recorded(inner, recorder)


class _Recorded:
    """The ``forward`` of a module: computes the result by one operation, if that gives the result of the module."""

    def __init__(self, module: nn.Module, recorder: Recorder) -> None:
        self.forward, self.recorder, self.tensors = module.forward, recorder, _tensors(module)
        self.operation: Operation | None = None
        self.examined = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        if len(given) != 1 or not isinstance(given[0], Tensor) or given[0].dim() < 2:
            return self.forward(*args, **kwargs)
        x = given[0]
        self.recorder.paused = True
        try:
            if not self.examined:
                self.examined, self.operation = True, self._find(x.double())
            if self.operation is not None and not self._gives(self.operation, x.double()):
                self.operation = None
        finally:
            self.recorder.paused = False
        return self.forward(*args, **kwargs) if self.operation is None else self.operation(x, *self.tensors)

    def _find(self, x: Tensor) -> Operation | None:
        """Return the operation that the module computes for inputs of the shape of ``x``, or None."""
        sizes = {t.numel() for t in self.tensors}
        if len(sizes) != 1 or not sizes & {1, x.shape[1], x.shape[-1]}:
            return None
        generator, before = torch.Generator().manual_seed(0), [t.clone() for t in self.tensors]
        sample = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        try:
            for tensor in self.tensors:
                tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5)
            fitting = (op for op in self._operations(sample) if self._gives(op, sample))
            return next(fitting, None)
        finally:
            for tensor, values in zip(self.tensors, before, strict=True):
                tensor.copy_(values)

    def _gives(self, operation: Operation, x: Tensor) -> bool:
        """Return whether an operation gives the result of the module's own ``forward``, which does not change ``x``."""
        given = x.clone()
        try:
            result, expected = self.forward(given), operation(x, *self.tensors)
        except Exception:  # if forward fails, it fails again when it is recorded
            return False
        same = isinstance(result, Tensor) and result.shape == expected.shape and torch.equal(given, x)
        return same and difference(result, expected) <= DOUBLE

    def _operations(self, x: Tensor) -> Iterator[Operation]:
        """Yield the operations that may give the module's result for ``x``."""
        count, channels = len(self.tensors), self.tensors[0].numel()
        if count == 1 and channels in (1, x.shape[1]):
            yield lambda x, a: F.prelu(x, a.reshape(-1))
        if channels == x.shape[1]:
            for roles in permutations(_ROLES, count):
                if "running_mean" in roles and "running_var" in roles:
                    yield from self._norm(_batch_norm, x, roles)
        for roles in permutations(_ROLES[:2], count):
            if channels == x.shape[1] and x.dim() > 2:
                yield from self._norm(_instance_norm, x, roles)
            if channels == x.shape[-1]:
                yield from self._norm(_layer_norm, x, roles)

    def _norm(self, norm: Operation, x: Tensor, roles: tuple[str, ...]) -> Iterator[Operation]:
        """Yield the norm with the eps of the module, if it has these roles.

        ``y = (x - mean) / sqrt(var + eps)`` is solved for eps, for inputs with a small variance.
        """
        named = dict(zip(roles, self.tensors, strict=True))
        variance = named.get("running_var", torch.empty(0))
        before = variance.clone()
        try:
            variance *= _SMALL**2
            eps = _eps(norm, x * _SMALL, self.forward(x * _SMALL), named)
        except Exception:  # if forward fails, it fails again when it is recorded
            return
        finally:
            variance.copy_(before)
        least = _SMALL**2 * DOUBLE  # of the rounding error
        if eps > -least:
            yield partial(_named, norm, float(f"{eps:.6g}") if eps > least else 0.0, roles)


def _eps(norm: Operation, x: Tensor, result: Tensor, named: dict[str, Tensor]) -> float:
    """Return the eps with which a norm gives a result."""
    at = x.dim() - 1 if norm is _layer_norm else 1
    shaped = {role: t.reshape([-1 if dim == at else 1 for dim in range(x.dim())]) for role, t in named.items()}
    normal = (result - shaped.get("bias", 0)) / shaped.get("weight", 1)
    if norm is _batch_norm:
        mean, variance = shaped["running_mean"], shaped["running_var"]
    else:
        dims = list(range(2, x.dim())) if norm is _instance_norm else [-1]
        mean, variance = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
    return float((((x - mean) / normal).square() - variance).median())


def _named(norm: Operation, eps: float, roles: tuple[str, ...], x: Tensor, *tensors: Tensor) -> Tensor:
    return norm(x, eps, **dict(zip(roles, (t.reshape(-1) for t in tensors), strict=True)))


def _batch_norm(x: Tensor, eps: float, **named: Any) -> Tensor:
    return F.batch_norm(x, **named, eps=eps)


def _instance_norm(x: Tensor, eps: float, **named: Any) -> Tensor:
    return F.instance_norm(x, **named, eps=eps)


def _layer_norm(x: Tensor, eps: float, **named: Any) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], **named, eps=eps)
