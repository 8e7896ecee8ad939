"""Record modules that compute a norm or a PReLU in several steps as the one operation of PyTorch that is equal.

Examples are torchvision's ``FrozenBatchNorm2d``, and modules that compute the mean, the variance and the quotient of an
instance norm themselves. Which of a module's tensors is the weight or the running mean, and the eps, are found by
running a copy of the module with random tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.compare.memory import copied
from dpnn_bridge.porting.tape import Recorder
from dpnn_bridge.porting.values import DOUBLE, difference

#: an operation of PyTorch on an input and on tensors of a module
Operation = Callable[..., Tensor]


def use_operations(module: nn.Module, recorder: Recorder) -> None:
    """Replace ``forward`` of the modules in a copy of a network that compute one operation of PyTorch in several steps.

    Args:
        module: the copy, which is changed.
        recorder: the recorder that will run the copy.
    """
    for inner in module.modules():
        has_parts = next(inner.children(), None) is not None
        if not has_parts and not type(inner).__module__.startswith("torch.nn.") and _tensors(inner):
            vars(inner)["forward"] = _Recorded(inner, recorder)


def _tensors(module: nn.Module) -> list[Tensor]:
    """Return the floating-point tensors of a module if they can be those of one norm or PReLU, else an empty list."""
    found = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    return found if len(found) <= len(_ROLES) and len({t.numel() for t in found}) == 1 else []


class _Recorded:
    """The ``forward`` of a module: computes the result by one operation, if that gives the result of the module."""

    def __init__(self, module: nn.Module, recorder: Recorder) -> None:
        self.forward, self.recorder, self.tensors = module.forward, recorder, _tensors(module)
        self.fresh: nn.Module | None = copied(module)
        self.operation: Operation | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) != 1 or kwargs or not isinstance(args[0], Tensor) or args[0].dim() < 2:
            return self.forward(*args, **kwargs)
        self.recorder.paused = True
        try:
            if self.fresh is not None:
                self.operation, self.fresh = _operation_of(self.fresh, args[0]), None
            if self.operation is not None and not self._gives(self.operation, args[0]):
                self.operation = None
        finally:
            self.recorder.paused = False
        return self.forward(*args) if self.operation is None else self.operation(args[0], *self.tensors)

    def _gives(self, operation: Operation, x: Tensor) -> bool:
        """Return whether an operation and the module's own ``forward`` give the same result."""
        try:
            return _equal(self.forward(x.clone()), operation(x, *self.tensors))
        except Exception:  # if forward fails, it fails again when it is recorded
            return False


def _operation_of(module: nn.Module, x: Tensor) -> Operation | None:
    """Return the operation that a module computes for inputs of the shape of ``x``, or None."""
    generator = torch.Generator().manual_seed(0)
    tensors = _tensors(module)
    try:
        for tensor in tensors:
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5)
        sample = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        result = module.forward(sample.clone())
        if not isinstance(result, Tensor) or result.shape != x.shape:
            return None
        fitting = (op for op in _operations(sample, result, tensors) if _equal(op(sample, *tensors), result))
        return next(fitting, None)
    except Exception:  # if forward fails, it fails again when it is recorded
        return None


def _equal(result: Any, expected: Tensor) -> bool:
    same = isinstance(result, Tensor) and result.shape == expected.shape
    return same and difference(result.double(), expected) <= DOUBLE


#: roles of a norm's tensors
_ROLES = ("weight", "bias", "running_mean", "running_var")


def _operations(x: Tensor, result: Tensor, tensors: list[Tensor]) -> Iterator[Operation]:
    """Yield the operations that may give ``result`` for ``x``."""
    count, channels = len(tensors), tensors[0].numel()
    if count == 1 and channels in (1, x.shape[1]):
        yield lambda x, a: F.prelu(x, a.reshape(-1))
    if channels == x.shape[1]:
        for roles in permutations(_ROLES, count):
            if "running_mean" in roles and "running_var" in roles:
                yield from _norm(_batch_norm, x, result, tensors, roles)
    for roles in permutations(_ROLES[:2], count):
        if channels == x.shape[1] and x.dim() > 2:
            yield from _norm(_instance_norm, x, result, tensors, roles)
        if channels == x.shape[-1]:
            yield from _norm(_layer_norm, x, result, tensors, roles)


def _norm(
    norm: Operation, x: Tensor, result: Tensor, tensors: list[Tensor], roles: tuple[str, ...]
) -> Iterator[Operation]:
    """Yield the norm with the eps that gives a result. ``y = (x - mean) / sqrt(var + eps)`` is solved for eps."""
    named = dict(zip(roles, tensors, strict=True))
    shift, scale = named.get("bias"), named.get("weight")
    shape = [-1 if dim == (x.dim() - 1 if norm is _layer_norm else 1) else 1 for dim in range(x.dim())]
    normal = result if shift is None else result - shift.reshape(shape)
    normal = normal if scale is None else normal / scale.reshape(shape)
    if norm is _batch_norm:
        mean, variance = named["running_mean"].reshape(shape), named["running_var"].reshape(shape)
    else:
        dims = list(range(2, x.dim())) if norm is _instance_norm else [-1]
        mean, variance = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
    eps = float((((x - mean) / normal).square() - variance).median())
    if eps > -DOUBLE:
        rounded = float(f"{max(eps, 0.0):.5g}")
        yield lambda x, *tensors: norm(x, rounded, **dict(zip(roles, (t.reshape(-1) for t in tensors), strict=True)))


def _batch_norm(x: Tensor, eps: float, **named: Any) -> Tensor:
    return F.batch_norm(x, **named, eps=eps)


def _instance_norm(x: Tensor, eps: float, **named: Any) -> Tensor:
    return F.instance_norm(x, **named, eps=eps)


def _layer_norm(x: Tensor, eps: float, **named: Any) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], **named, eps=eps)
