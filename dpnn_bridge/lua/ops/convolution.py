"""Declare conv2, xcorr2, conv3, xcorr3, with 'V' (valid) or 'F' (full).

The operands are an image and a kernel without channels, C channels and one kernel per channel, or C channels and
K x C kernels. :mod:`dpnn_bridge.lua.dispatch` describes the signatures (``R T2 T2 c=VF``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from dpnn_bridge.lua.dispatch import torch_function
from dpnn_bridge.lua.tensor import Tensor, TorchError, cast_tensor


def _convolve(image: torch.Tensor, kernels: torch.Tensor, full: bool, flip: bool) -> torch.Tensor:
    """Correlate an image (C x ...) with kernels (K x C x ...), or convolve it if ``flip``."""
    dims = image.dim() - 1  # spatial dimensions
    if not full and any(a < b for a, b in zip(image.shape[1:], kernels.shape[2:], strict=True)):
        raise TorchError("bad argument #2 (input image is smaller than kernel)")
    flipped = kernels.flip(list(range(2, 2 + dims)))
    if not image.is_floating_point():
        padding = [n - 1 for n in kernels.shape[2:]] if full else [0] * dims
        return _convolve_integers(image, flipped if flip else kernels, padding)
    if not full:
        f = F.conv2d if dims == 2 else F.conv3d
        return f(image.unsqueeze(0), flipped if flip else kernels).squeeze(0)
    f = F.conv_transpose2d if dims == 2 else F.conv_transpose3d  # without padding: infinity times 0 would be NaN
    transposed = (kernels if flip else flipped).transpose(0, 1)
    return f(image.unsqueeze(0), transposed).squeeze(0)


def _convolve_integers(image: torch.Tensor, kernels: torch.Tensor, padding: Sequence[int]) -> torch.Tensor:
    """Correlate 64-bit integers, which wrap on overflow as in C."""
    windows = F.pad(image, [n for n in reversed(padding) for _ in range(2)])
    for d, n in enumerate(kernels.shape[2:], 1):
        windows = windows.unfold(d, n, 1)
    inner = list(range(-len(padding), 0))
    columns = windows.movedim(inner, list(range(1, len(padding) + 1))).flatten(0, len(padding))
    return torch.tensordot(kernels.flatten(1), columns, 1)


def _declare(name: str, dims: int, flip: bool) -> None:
    """Declare a function of images with ``dims`` spatial dimensions."""

    def run(r: Tensor, image: Tensor, kernel: Tensor, how: str) -> None:
        x, k, full = image.t, kernel.t, how == "F"
        exact = x if x.is_floating_point() else x.long()
        k = k.to(exact.dtype)
        if image.dim == dims:
            result = _convolve(exact[None], k[None, None], full, flip)[0]
        elif kernel.dim == dims + 1:
            if image.size[0] != kernel.size[0]:
                raise TorchError("bad argument #2 (invalid number of input/kernel planes)")
            pairs = zip(exact, k, strict=True)  # one channel at a time, to get the same bits as Torch7
            result = torch.stack([_convolve(x[None], k[None, None], full, flip)[0] for x, k in pairs])
        else:
            if kernel.size[1] != image.size[0]:
                raise TorchError("bad argument #2 (invalid number of input planes)")
            result = _convolve(exact, k, full, flip)
        r.assign(cast_tensor(result, image.ty))

    for a, b in ((dims, dims), (dims + 1, dims + 1), (dims + 1, dims + 2)):
        small = ("convolve", str(dims), "flip" if flip else "") if dims == 2 or a == dims else ()
        torch_function(name, f"R T{a} T{b} c=VF", small=small)(run)


_declare("conv2", 2, flip=True)
_declare("xcorr2", 2, flip=False)
_declare("conv3", 3, flip=True)
_declare("xcorr3", 3, flip=False)
