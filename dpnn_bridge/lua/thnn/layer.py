"""Register the three kernels of a layer, computed by PyTorch's convolution or derived by autograd.

Layers accept single samples and batches; :class:`Derived` with ``batches=False`` accepts single samples only. THNN's
work buffers (finput, columns, ones) are not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from dpnn_bridge.lua.tensor import Tensor, TorchError
from dpnn_bridge.lua.thnn.registry import batched, fitted, kernel, pull_back, without_more

Forward = Callable[..., torch.Tensor]


class Derived:
    """A layer that is defined by a forward function; autograd computes the gradients.

    Args:
        forward: called as ``forward(batch, weight, bias or None, *options)``.
        space: number of spatial dimensions.
        for_input: the forward function whose derivative updateGradInput computes, if THNN's differs from ``forward``;
            gradOutput must have the size of its output.
        batches: whether batches are allowed.
        checks: whether gradOutput must have the sizes of the output, and not only as many elements.
    """

    def __init__(
        self,
        forward: Forward,
        space: int,
        for_input: Forward | None = None,
        batches: bool = True,
        checks: bool = False,
    ) -> None:
        self._forward, self._for_input, self._space, self._batches = forward, for_input, space, batches
        self._checks = checks

    def output(self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *options: Any) -> torch.Tensor:
        return self._of_batch(self._forward, x, w, b, *options)

    def grad_input(self, x: torch.Tensor, g: torch.Tensor, w: torch.Tensor, *options: Any) -> torch.Tensor:
        forward = self._for_input or self._forward
        return pull_back(lambda x: self._of_batch(forward, x, w, None, *options), [x], g, self._fit(x))[0]

    def grad_parameters(
        self, x: torch.Tensor, g: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *options: Any
    ) -> Sequence[torch.Tensor]:
        """Return the gradients of the weight and, unless ``b`` is None, of the bias."""
        fit = self._fit(x)
        if self._for_input is not None:  # gradOutput has the sizes of its output
            g, fit = fit(g, self._of_batch(self._for_input, x, w, None, *options).shape), without_more
        leaves = [torch.zeros_like(p) for p in (w, b) if p is not None]
        return pull_back(lambda w, b=None: self.output(x, w, b, *options), leaves, g, fit)

    def _fit(self, x: torch.Tensor) -> Callable[[torch.Tensor, Sequence[int]], torch.Tensor]:
        """Return the function that checks and fits gradOutput to the sizes of the output."""
        return partial(fitted, single=x.dim() == self._space + 1) if self._checks else without_more

    def _of_batch(self, forward: Forward, x: torch.Tensor, *others: Any) -> torch.Tensor:
        batch, single = batched(x, self._space)
        if not single and not self._batches:
            raise TorchError(f"bad argument #2 ({self._space + 1}D tensor expected)")
        y = forward(batch, *others)
        return y.squeeze(0) if single else y


class Convolution:
    """A layer that is computed by PyTorch's convolution.

    Args:
        plan: called as ``plan(input, weight, *geometry)``; returns the weight in PyTorch's shape, stride, padding,
            dilation, whether the convolution is transposed, and output padding.
        space: number of spatial dimensions.
    """

    def __init__(self, plan: Callable[..., tuple[Any, ...]], space: int) -> None:
        self._plan, self._space = plan, space

    def output(self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *options: Any) -> torch.Tensor:
        batch, single = batched(x, self._space)
        kernel, stride, pad, dilation, transposed, extra = self._plan(batch, w, *options)
        batch = extended(batch, kernel, stride, pad, dilation, transposed)
        y = torch.convolution(batch, kernel, b, stride, pad, dilation, transposed, extra, 1)
        return y.squeeze(0) if single else y

    def grad_input(self, x: torch.Tensor, g: torch.Tensor, w: torch.Tensor, *options: Any) -> torch.Tensor:
        gradient = self._gradients(x, g, w, (True, False, False), options)[0]
        without_extension = tuple(slice(n) for n in x.shape[-self._space :])
        return gradient[(..., *without_extension)].reshape(x.shape)

    def grad_parameters(
        self, x: torch.Tensor, g: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *options: Any
    ) -> Sequence[torch.Tensor]:
        gradients = self._gradients(x, g, w, (False, True, b is not None), options)
        return gradients[1].reshape(w.shape), gradients[2]

    def _gradients(
        self, x: torch.Tensor, g: torch.Tensor, w: torch.Tensor, mask: tuple[bool, ...], options: tuple[Any, ...]
    ) -> Any:
        batch, single = batched(x, self._space)
        kernel, stride, pad, dilation, transposed, extra = self._plan(batch, w, *options)
        batch = extended(batch, kernel, stride, pad, dilation, transposed)
        shape = [len(batch), kernel.shape[1 if transposed else 0]]
        for n, k, s, p, d, e in zip(batch.shape[2:], kernel.shape[2:], stride, pad, dilation, extra, strict=True):
            extent = d * (k - 1) + 1
            shape.append((n - 1) * s - 2 * p + extent + e if transposed else (n + 2 * p - extent) // s + 1)
        g = fitted(g, shape[single:], single)
        geometry = (stride, pad, dilation, transposed, extra, 1)
        return torch.ops.aten.convolution_backward(g.reshape(shape), batch, kernel, [shape[1]], *geometry, mask)


class Unfolded(Convolution):
    """A convolution that THNN computes by unfolding the input; without padding, a window may extend past its row."""

    def __init__(self, plan: Callable[..., tuple[Any, ...]], space: int) -> None:
        super().__init__(plan, space)
        self._past_rows = Derived(lambda x, w, b, *options: _convolve_past_rows(x, b, *plan(x, w, *options)), space)

    def _reads_past_rows(self, x: torch.Tensor, w: torch.Tensor, options: tuple[Any, ...]) -> bool:
        batch, _ = batched(x, self._space)
        kernel, stride, pad, *_ = self._plan(batch, w, *options)
        return not any(pad) and any(overhang(batch, kernel, stride, pad))

    def output(self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *options: Any) -> torch.Tensor:
        return (self._past_rows if self._reads_past_rows(x, w, options) else super()).output(x, w, b, *options)

    def grad_input(self, x: torch.Tensor, g: torch.Tensor, w: torch.Tensor, *options: Any) -> torch.Tensor:
        return (self._past_rows if self._reads_past_rows(x, w, options) else super()).grad_input(x, g, w, *options)

    def grad_parameters(
        self, x: torch.Tensor, g: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *options: Any
    ) -> Sequence[torch.Tensor]:
        return (self._past_rows if self._reads_past_rows(x, w, options) else super()).grad_parameters(
            x, g, w, b, *options
        )


def overhang(
    x: torch.Tensor, kernel: torch.Tensor, stride: Sequence[int], pad: Sequence[int], dilation: Sequence[int] = ()
) -> list[int]:
    """Return how far the kernel extends beyond each padded dimension.

    C rounds the number of windows towards zero: there is one window if the kernel is larger than the padded input by
    less than a stride.

    Raises:
        TorchError: the kernel is larger by a stride or more, so that there is no window.
    """
    dilation = dilation or [1] * len(stride)
    sizes = zip(x.shape[2:], kernel.shape[2:], pad, dilation, strict=True)
    missing = [max(0, d * (k - 1) + 1 - n - 2 * p) for n, k, p, d in sizes]
    if any(m >= s for m, s in zip(missing, stride, strict=True) if m):
        raise TorchError(f"Given input size: {list(x.shape[1:])}. Calculated output size is too small")
    return missing


def extended(
    x: torch.Tensor,
    kernel: torch.Tensor,
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
    transposed: bool = False,
) -> torch.Tensor:
    """Pad a batch with zeros at the end of each dimension as far as the kernel extends beyond it."""
    missing = [] if transposed else overhang(x, kernel, stride, pad, dilation)
    return F.pad(x, [n for m in reversed(missing) for n in (0, m)]) if any(missing) else x


def _convolve_past_rows(
    x: torch.Tensor, b: torch.Tensor | None, kernel: torch.Tensor, stride: Sequence[int], *_: Any
) -> torch.Tensor:
    """Convolve with a kernel larger than the input: windows contain the elements that follow a row in memory.

    Raises:
        TorchError: there are no such elements; THNN would read memory outside the tensor.
    """
    x = x.contiguous()
    size = kernel.shape[2:]
    counts = [max(0, n - k) // s + 1 for n, k, s in zip(x.shape[2:], size, stride, strict=True)]
    steps = [n * s for n, s in zip(x.stride()[2:], stride, strict=True)]
    try:
        windows = x.as_strided((*x.shape[:2], *size, *counts), (*x.stride(), *steps), x.storage_offset())
    except RuntimeError:
        message = (
            f"the kernel {list(size)} is larger than the input {list(x.shape[2:])}, and no elements follow the input"
        )
        raise TorchError(message) from None
    y = kernel.flatten(1) @ windows.reshape(len(x), kernel[0].numel(), -1)
    y = y.reshape(len(x), len(kernel), *counts)
    return y if b is None else y + b.reshape(-1, *[1] * len(size))


def declare(
    name: str, layer: Derived | Convolution, buffers: tuple[int, int, int], geometry: int, table: bool = False
) -> None:
    """Register the three kernels of a layer.

    Args:
        name: name of the layer.
        layer: the implementation.
        buffers: number of work buffers after the parameters in updateOutput, updateGradInput, accGradParameters.
        geometry: number of arguments that describe the layer, such as the kernel size.
        table: whether the buffer is the table of connections of a Map layer, where updateGradInput also gets the bias.
    """
    for_output, for_input, for_parameters = buffers

    def options(args: tuple[Any, ...], skip: int) -> list[Any]:
        numbers = [int(v) if isinstance(v, float) else v for v in args[skip : skip + geometry]]
        return [args[skip - 1], *numbers] if table else numbers

    @kernel(f"{name}_updateOutput")
    def update_output(input: Tensor, output: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> None:
        b = None if bias is None else bias.t
        output.assign(layer.output(input.t, weight.t, b, *options(args, for_output)))

    @kernel(f"{name}_updateGradInput")
    def update_grad_input(input: Tensor, grad_output: Tensor, grad_input: Tensor, weight: Tensor, *args: Any) -> None:
        numbers = options(args, for_input + table)
        grad_input.assign(layer.grad_input(input.t, grad_output.t, weight.t, *numbers))

    @kernel(f"{name}_accGradParameters")
    def acc_grad_parameters(
        input: Tensor, grad_output: Tensor, grad_weight: Tensor, grad_bias: Tensor | None, *args: Any
    ) -> None:
        numbers = options(args, for_parameters)
        scale = args[for_parameters + geometry] if len(args) > for_parameters + geometry else 1
        w, b = grad_weight.t, None if grad_bias is None else grad_bias.t
        gradients = layer.grad_parameters(input.t, grad_output.t, w, b, *numbers)
        w.add_(gradients[0], alpha=scale)
        if b is not None:
            b.add_(gradients[1], alpha=scale)
