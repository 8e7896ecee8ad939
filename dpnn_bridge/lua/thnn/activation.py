"""Kernels of activation functions. Gradients use THNN's formulas, many of them in terms of the saved output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dpnn_bridge.lua.tensor import Tensor, TorchError, cast_number, square_root
from dpnn_bridge.lua.thnn.registry import check_count, check_shape, kernel, like
from dpnn_bridge.torch7.random import Generator

Function = Callable[..., torch.Tensor]
#: layers that check the shape of gradOutput; others check only its number of elements
_SHAPED = ("Sqrt", "Square", "Tanh")


def _finish(target: Tensor, source: Tensor, values: torch.Tensor, inplace: bool) -> None:
    """Write the values to ``target``; in place: to ``source``, of which ``target`` becomes a view."""
    if inplace:
        source.write(values)
        target.set(source)
    else:
        target.assign(values)


def _check(layer: str, name: str, t: Tensor, grad_output: Tensor) -> None:
    if layer in _SHAPED:
        check_shape(t, grad_output, f"{name} gradOutput")
    else:
        check_count(t, grad_output)


def _of_input(name: str, forward: Function, backward: Function) -> None:
    """Register kernels with ``backward(input, grad_output, *options)``."""

    @kernel(f"{name}_updateOutput")
    def update_output(input: Tensor, output: Tensor, *options: Any) -> None:
        output.assign(forward(input.t, *options))

    @kernel(f"{name}_updateGradInput")
    def update_grad_input(input: Tensor, grad_output: Tensor, grad_input: Tensor, *options: Any) -> None:
        _check(name, "input", input, grad_output)
        grad_input.assign(backward(input.t, like(grad_output, input), *options))


def _of_output(name: str, forward: Function, backward: Function) -> None:
    """Register kernels with ``backward(output, grad_output, *options)``."""

    @kernel(f"{name}_updateOutput")
    def update_output(input: Tensor, output: Tensor, *options: Any) -> None:
        output.assign(forward(input.t, *options))

    @kernel(f"{name}_updateGradInput")
    def update_grad_input(
        input: Tensor | None, grad_output: Tensor, grad_input: Tensor, output: Tensor, *options: Any
    ) -> None:
        _check(name, "output", output, grad_output)
        grad_input.assign(backward(output.t, like(grad_output, output), *options))


def _inplace(name: str, forward: Function, backward: Function) -> None:
    """Register kernels of layers with an in-place flag as their last option."""

    @kernel(f"{name}_updateOutput")
    def update_output(input: Tensor, output: Tensor, *options: Any) -> None:
        _finish(output, input, forward(input.t, *options[:-1]), options[-1])

    @kernel(f"{name}_updateGradInput")
    def update_grad_input(input: Tensor, grad_output: Tensor, grad_input: Tensor, *options: Any) -> None:
        check_count(input, grad_output)
        _finish(grad_input, grad_output, backward(input.t, like(grad_output, input), *options[:-1]), options[-1])


def _shrinks(x: torch.Tensor, limit: float) -> torch.Tensor:
    return (x > limit) | (x < -limit)


_of_input("Abs", torch.abs, lambda x, g: torch.where(x >= 0, g, -g))
_of_input("Square", lambda x: x * x, lambda x, g: 2 * g * x)
_of_input(
    "HardShrink",
    lambda x, limit: torch.where(_shrinks(x, limit), x, 0.0),
    lambda x, g, limit: torch.where(_shrinks(x, limit), g, 0.0),
)
_of_input(
    "SoftShrink",
    lambda x, limit: torch.where(x > limit, x - limit, torch.where(x < -limit, x + limit, 0.0)),
    lambda x, g, limit: torch.where(_shrinks(x, limit), g, 0.0),
)
_of_output("Sigmoid", torch.sigmoid, lambda y, g: g * (1 - y) * y)
_of_output("Tanh", torch.tanh, lambda y, g: g * (1 - y * y))
_of_output("Sqrt", lambda x, eps=0: square_root(x), lambda y, g: torch.where(y == 0, 0.0, 0.5 * (g / y)))


def _soft_plus(x: torch.Tensor, beta: float, threshold: float) -> torch.Tensor:
    return torch.where(x * beta > threshold, x, torch.log1p(torch.exp(x * beta)) / beta)


def _soft_plus_gradient(y: torch.Tensor, g: torch.Tensor, beta: float, threshold: float) -> torch.Tensor:
    z = torch.exp(y * beta)
    return torch.where(y * beta > threshold, g, g * (z - 1) / z)


_of_output("SoftPlus", _soft_plus, _soft_plus_gradient)


def _clamp_gradient(x: torch.Tensor, g: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return torch.where((x <= low) | (x >= high), 0.0, g)


def _hard_tanh(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Clamp as in THNN: NaN becomes ``high``."""
    return torch.where(x <= low, low, torch.where(x <= high, x, high))


_inplace("HardTanh", _hard_tanh, _clamp_gradient)
_inplace(
    "Threshold",
    lambda x, threshold, value: torch.where(x > threshold, x, value),
    lambda x, g, threshold, *_: torch.where(x > threshold, g, 0.0),  # older versions of nn do not pass the value
)
_inplace(
    "LeakyReLU",
    lambda x, slope: torch.where(x > 0, x, x * slope),
    lambda x, g, slope: torch.where(x > 0, g, g * slope),
)


@kernel("ELU_updateOutput")
def elu(input: Tensor, output: Tensor, alpha: float, inplace: bool = False) -> None:
    x = input.t
    _finish(output, input, torch.where(x <= 0, (torch.exp(x) - 1) * alpha, x), inplace)


@kernel("ELU_updateGradInput")
def elu_gradient(
    input: Tensor, grad_output: Tensor, grad_input: Tensor, output: Tensor, alpha: float, inplace: bool = False
) -> None:
    check_count(input, grad_output)
    y, g = output.t, like(grad_output, output)
    _finish(grad_input, grad_output, torch.where(y <= 0, g * (y + alpha), g), inplace)


@kernel("LogSigmoid_updateOutput")
def log_sigmoid(input: Tensor, output: Tensor, buffer: Tensor) -> None:
    x = input.t
    top = torch.clamp(-x, min=0)
    z = torch.exp(-top) + torch.exp(-x - top)
    buffer.assign(z)
    output.assign(-(top + torch.log(z)))


@kernel("LogSigmoid_updateGradInput")
def log_sigmoid_gradient(input: Tensor, grad_output: Tensor, grad_input: Tensor, buffer: Tensor) -> None:
    check_count(input, grad_output)
    ratio = (buffer.t - 1) / buffer.t
    slope = torch.where(input.t < 0, 1 - ratio, ratio)
    grad_input.assign(grad_output.t * slope.reshape(grad_output.size or (0,)))  # with the sizes of gradOutput


# ---- softmax over the features of C, N x C, C x H x W or N x C x H x W


def _feature_dim(input: Tensor) -> int:
    if not 1 <= input.dim <= 4:
        raise TorchError(f"1D, 2D, 3D or 4D tensor expected but got: {input.shape_text}")
    return 0 if input.dim in (1, 3) else 1


@kernel("SoftMax_updateOutput")
def soft_max(input: Tensor, output: Tensor) -> None:
    output.assign(torch.softmax(input.t, _feature_dim(input)))


@kernel("SoftMax_updateGradInput")
def soft_max_gradient(input: Tensor, grad_output: Tensor, grad_input: Tensor, output: Tensor) -> None:
    check_shape(input, grad_output, "input gradOutput")
    dim, y, g = _feature_dim(output), output.t, like(grad_output, output)
    grad_input.assign(y * (g - (g * y).sum(dim, keepdim=True)))


@kernel("LogSoftMax_updateOutput")
def log_soft_max(input: Tensor, output: Tensor) -> None:
    output.assign(torch.log_softmax(input.t, _feature_dim(input)))


@kernel("LogSoftMax_updateGradInput")
def log_soft_max_gradient(input: Tensor, grad_output: Tensor, grad_input: Tensor, output: Tensor) -> None:
    check_shape(input, grad_output, "input gradOutput")
    dim, g = _feature_dim(output), like(grad_output, output)
    grad_input.assign(g - torch.exp(output.t) * g.sum(dim, keepdim=True))


# ---- with parameters or noise


def _slopes(weight: Tensor, planes: float, x: torch.Tensor) -> torch.Tensor:
    if int(planes) == 0:
        return weight.t.reshape(-1)[0]
    dim = 1 if x.dim() > 1 else 0
    if x.shape[dim] != int(planes):
        raise TorchError(f"Wrong number of input planes. Expected {int(planes)} but got {x.shape[dim]}.")
    return weight.t.reshape([-1 if d == dim else 1 for d in range(x.dim())])


@kernel("PReLU_updateOutput")
def prelu(input: Tensor, output: Tensor, weight: Tensor, planes: float) -> None:
    x = input.t
    output.assign(torch.where(x > 0, x, _slopes(weight, planes, x) * x))


@kernel("PReLU_updateGradInput")
def prelu_gradient(input: Tensor, grad_output: Tensor, grad_input: Tensor, weight: Tensor, planes: float) -> None:
    check_count(input, grad_output)
    x, g = input.t, like(grad_output, input)
    grad_input.assign(torch.where(x > 0, g, _slopes(weight, planes, x) * g))


@kernel("PReLU_accGradParameters")
def prelu_parameters(
    input: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    _buffer: Tensor,
    _buffer2: Tensor,
    planes: float,
    scale: float,
) -> None:
    check_count(input, grad_output)
    x, g = input.t, like(grad_output, input)
    products = torch.where(x <= 0, x * g, 0.0)
    if int(planes) == 0:  # one slope, the first element, for all channels
        grad_weight.t.view(-1)[0] += scale * products.sum()
    else:
        dim = 1 if x.dim() > 1 else 0
        total = products.sum([d for d in range(x.dim()) if d != dim]) if x.dim() > 1 else products
        grad_weight.t.add_(scale * total.reshape(grad_weight.t.shape))


@kernel("RReLU_updateOutput")
def rrelu(
    input: Tensor,
    output: Tensor,
    noise: Tensor,
    lower: float,
    upper: float,
    train: bool,
    inplace: bool,
    generator: Generator,
) -> None:
    """Draw a slope for each element that is not positive, in logical order."""
    x = input.t
    lower, upper = cast_number(lower, input.ty), cast_number(upper, input.ty)
    if train:
        slopes = generator.slopes(x, lower, upper)
        noise.assign(slopes)
    else:
        slopes = torch.where(x <= 0, x.new_tensor((lower + upper) / 2), 1.0)
    _finish(output, input, x * slopes, inplace)


@kernel("RReLU_updateGradInput")
def rrelu_gradient(
    input: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    noise: Tensor,
    lower: float,
    upper: float,
    train: bool,
    inplace: bool,
) -> None:
    check_count(input, grad_output)
    g = like(grad_output, input)
    lower, upper = cast_number(lower, input.ty), cast_number(upper, input.ty)
    if train and upper - lower > 1e-6:
        result = grad_output.t * like(noise, grad_output)  # with the sizes of gradOutput
    else:
        result = g * torch.where(input.t <= 0, g.new_tensor((lower + upper) / 2), 1.0)
    _finish(grad_input, grad_output, result, inplace)


@kernel("GatedLinear_updateOutput")
def gated_linear(input: Tensor, output: Tensor, dim: float) -> None:
    first, gate = _halves(input, int(dim) - 1)
    output.assign(first * torch.sigmoid(gate))


@kernel("GatedLinear_updateGradInput")
def gated_linear_gradient(input: Tensor, grad_output: Tensor, grad_input: Tensor, dim: float) -> None:
    first, gate = _halves(input, int(dim) - 1)
    open_ = torch.sigmoid(gate)
    g = grad_output.t.reshape(first.shape)
    grad_input.assign(torch.cat([open_ * g, (1 - open_) * open_ * g * first], int(dim) - 1))


def _halves(input: Tensor, dim: int) -> tuple[torch.Tensor, ...]:
    if not 0 <= dim < input.dim:
        raise TorchError(f"bad argument #2 (dimension {dim + 1} out of range of {input.dim}D tensor)")
    if input.size[dim] % 2:
        raise TorchError(f"Halving dimension must be even. Dim {dim + 1} is size {input.size[dim]}")
    return input.t.chunk(2, dim)
