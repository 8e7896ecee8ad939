"""Register THNN kernels, with shared helpers. Gradients come from autograd if THNN's gradient is the derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dpnn_bridge.lua.tensor import Tensor, TorchError, shape_text

#: annotations of arguments that THNN.h declares as tensors of integers; all other tensors are of the kernel's own type
LongTensor = IntTensor = Tensor
#: annotation of positions of maxima: integers, or, from nn of early 2016, tensors of the kernel's own type
Positions = Tensor

#: kernel name, such as ``Tanh_updateOutput`` -> code; arguments as in THNN.h without the state
KERNELS: dict[str, Callable[..., None]] = {}
#: kernel name -> position of an argument -> its type, if it differs from the kernel's own type
_INTEGERS: dict[str, dict[int, str]] = {}


def kernel(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declare the code of one kernel. Results are tensors among the arguments."""

    def register(code: Callable[..., None]) -> Callable[..., None]:
        assert name not in KERNELS, name
        KERNELS[name] = code
        kinds = {n: kind.split()[0] for n, kind in enumerate(code.__annotations__.values())}
        _INTEGERS[name] = {n: kind for n, kind in kinds.items() if kind in ("LongTensor", "IntTensor", "Positions")}
        return code

    return register


def check_types(name: str, ty: str, args: Sequence[Any]) -> None:
    """Raise LuaJIT's error unless the tensors have the types that THNN.h declares for the kernel of type ``ty``."""
    integers = _INTEGERS[name]
    for n, arg in enumerate(args):
        if isinstance(arg, Tensor) and (arg.ty != ty or n in integers):
            kind = integers.get(n)
            if kind == "Positions" and arg.ty in (ty, "Long"):
                continue
            expected = {None: f"{ty}Tensor", "Positions": "LongTensor"}.get(kind, kind)
            if f"{arg.ty}Tensor" != expected:
                types = f"cannot convert 'struct TH{arg.ty}Tensor *' to 'struct TH{expected} *'"
                raise TorchError(f"bad argument #{n + 2} to 'v' ({types})")  # the first one is the state


def batched(x: torch.Tensor, space: int) -> tuple[torch.Tensor, bool]:
    """Return a batch of samples with ``space`` spatial dimensions, and whether it was one sample."""
    if x.dim() == space + 2:
        return x, False
    if x.dim() != space + 1:
        dims, sizes = f"{space + 1}D or {space + 2}D", shape_text(x.shape)
        raise TorchError(f"{dims} (batch mode) tensor expected for input, but got: {sizes}")
    return x.unsqueeze(0), True


def reordered(values: Sequence[Any]) -> tuple[int, ...]:
    """Reorder THNN's (W, H) or (T, W, H) to PyTorch's (H, W) or (T, H, W)."""
    n = [int(v) for v in values]
    return (n[1], n[0]) if len(n) == 2 else (n[0], n[2], n[1])


def pull_back(
    f: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], grad: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return the vector-Jacobian products of ``f``: the gradients of the inputs for a gradient of the result."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        result = f(*leaves)
        if result.numel() != grad.numel():
            raise TorchError(f"gradOutput has shape {list(grad.shape)}, the output {list(result.shape)}")
        # a scalar whose gradient is `grad`: with `grad` as an argument, autograd would import sympy
        return torch.autograd.grad((result * grad.reshape(result.shape)).sum(), leaves)


def check_count(input: Tensor, other: Tensor, name: str = "gradOutput") -> None:
    """Check that the input and the named tensor have the same number of elements."""
    if input.numel != other.numel:
        raise TorchError(
            f"input and {name} have different number of elements: input{input.shape_text} has {input.numel} elements, "
            f"while {name}{other.shape_text} has {other.numel} elements"
        )


def check_shape(first: Tensor, second: Tensor, names: str) -> None:
    """Raise an error unless two tensors have the same shape, as THNN_CHECK_SHAPE does; ``names`` is for the message."""
    if first.size != second.size:
        one, other = names.split()
        raise TorchError(
            f"{one} and {other} shapes do not match: {one} {first.shape_text}, {other} {second.shape_text}"
        )


def like(t: Tensor, shape: Tensor) -> torch.Tensor:
    """Return the elements of ``t`` in the shape of ``shape``."""
    return t.t.reshape(shape.size)
