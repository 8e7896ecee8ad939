"""Register THNN kernels, and provide helpers. Autograd computes gradients where THNN's gradient is the derivative."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from dpnn_bridge.lua.arguments import describe
from dpnn_bridge.lua.tensor import Tensor, TorchError, shape_text

#: annotations of arguments that THNN.h declares as tensors of integers; all other tensors have the kernel's own type
LongTensor = IntTensor = Tensor
#: annotation of positions of maxima: LongTensors, or in nn before 2016 tensors of the kernel's own type
Positions = Tensor

#: kernel name, such as ``Tanh_updateOutput`` -> code; arguments as in THNN.h without the state
KERNELS: dict[str, Callable[..., None]] = {}
#: kernel name -> position of an argument -> its type, if the type is not the kernel's own
_INTEGERS: dict[str, dict[int, str]] = {}


def kernel(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register the code of a kernel, which writes its results to arguments."""

    def register(code: Callable[..., None]) -> Callable[..., None]:
        assert name not in KERNELS, name
        KERNELS[name] = code
        types = {n: ty.split()[0] for n, ty in enumerate(code.__annotations__.values())}
        _INTEGERS[name] = {n: ty for n, ty in types.items() if ty in ("LongTensor", "IntTensor", "Positions")}
        return code

    return register


def check_types(name: str, ty: str, args: Sequence[Any]) -> None:
    """Raise LuaJIT's error unless all tensors have the types that THNN.h declares for the kernel of type ``ty``."""
    integers = _INTEGERS[name]
    for n, arg in enumerate(args):
        if isinstance(arg, Tensor) and (arg.ty != ty or n in integers):
            declared = integers.get(n)
            if declared == "Positions" and arg.ty in (ty, "Long"):
                continue
            expected = {None: f"{ty}Tensor", "Positions": "LongTensor"}.get(declared, declared)
            if f"{arg.ty}Tensor" != expected:
                types = f"cannot convert 'struct TH{arg.ty}Tensor *' to 'struct TH{expected} *'"
                raise TorchError(f"bad argument #{n + 2} to 'v' ({types})")  # argument 1 is the state


def explain_failure(name: str, ty: str, args: Sequence[Any]) -> None:
    """Raise an error that names the argument why a kernel failed: one that is missing, or that is not a tensor."""
    parameters = inspect.signature(KERNELS[name]).parameters.values()
    named = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    required = sum(p.default is p.empty for p in named)
    for n, (parameter, arg) in enumerate(zip(named, args, strict=False)):
        annotation = str(parameter.annotation)
        if annotation in ("Tensor", "LongTensor", "IntTensor", "Positions") and not isinstance(arg, Tensor):
            expected = {"Tensor": f"{ty}Tensor", "Positions": "LongTensor"}.get(annotation, annotation)
            raise TorchError(f"bad argument #{n + 1} to '{name}' (torch.{expected} expected, got {describe(arg)})")
    if len(args) < required:
        raise TorchError(f"wrong number of arguments to '{name}': got {len(args)}, needs {required}")


def batched(x: torch.Tensor, space: int) -> tuple[torch.Tensor, bool]:
    """Return ``x`` as a batch of samples with ``space`` spatial dimensions, and whether ``x`` is a single sample."""
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


def without_more(g: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Return gradOutput without samples or frames that an output of these sizes does not have; THNN ignores them."""
    return g[: sizes[0]] if g.shape[1:] == sizes[1:] else g


def fitted(g: torch.Tensor, sizes: Sequence[int], single: bool = True) -> torch.Tensor:
    """Return gradOutput with the sizes of the output; like THNN, ignore samples that the input does not have.

    Args:
        g: gradOutput.
        sizes: sizes of the output.
        single: whether the first dimension must have the same size too, unlike the samples of a batch.

    Raises:
        TorchError: another size is different, with THNN's message.
    """
    if not single and g.dim() == len(sizes):
        g = g[: sizes[0]]
    for d in range(len(sizes)) if single else [*range(1, len(sizes)), 0]:  # THNN finds missing samples last
        if g.dim() != len(sizes) or g.shape[d] != sizes[d]:
            found = shape_text(g.shape if g.numel() else ())
            need = f"Need gradOutput of dimension {len(sizes)} and gradOutput.size[{d}] == {sizes[d]}"
            raise TorchError(f"{need} but got gradOutput to be of shape: {found}")
    return g


def pull_back(
    f: Callable[..., torch.Tensor],
    inputs: Sequence[torch.Tensor],
    grad: torch.Tensor,
    fit: Callable[[torch.Tensor, Sequence[int]], torch.Tensor] = lambda grad, _: grad,
) -> tuple[torch.Tensor, ...]:
    """Return the vector-Jacobian product of ``f``: the gradients of the inputs for a gradient of the result.

    Args:
        f: the function.
        inputs: its arguments.
        grad: gradient of the result.
        fit: called with ``grad`` and the sizes of the result; returns the gradient to use, or raises an error.
    """
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        result = f(*leaves)
        grad = fit(grad, result.shape)
        if result.numel() != grad.numel():
            raise TorchError(f"gradOutput has shape {list(grad.shape)}, the output {list(result.shape)}")
        # differentiate a scalar, because autograd imports sympy if it gets `grad` as an argument
        return torch.autograd.grad((result * grad.reshape(result.shape)).sum(), leaves)


def check_count(input: Tensor, other: Tensor, name: str = "gradOutput") -> None:
    """Raise an error unless two tensors have the same number of elements; ``name`` of ``other`` is for the message."""
    if input.numel != other.numel:
        raise TorchError(
            f"input and {name} have different number of elements: input{input.shape_text} has {input.numel} elements, "
            f"while {name}{other.shape_text} has {other.numel} elements"
        )


def check_shape(first: Tensor, second: Tensor, names: str) -> None:
    """Raise an error unless two tensors have the same shape, like THNN_CHECK_SHAPE; ``names`` are for the message."""
    if first.size != second.size:
        one, other = names.split()
        raise TorchError(
            f"{one} and {other} shapes do not match: {one} {first.shape_text}, {other} {second.shape_text}"
        )


def like(t: Tensor, template: Tensor) -> torch.Tensor:
    """Return the elements of ``t`` in the shape of ``template``."""
    return t.t.reshape(template.size or (0,))
