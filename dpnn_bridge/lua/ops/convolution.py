"""conv2, xcorr2, conv3, xcorr3: 'V' valid or 'F' full, of a plane, plane by plane, or with a bank of kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from dpnn_bridge.lua.dispatch import torch_function
from dpnn_bridge.lua.tensor import Tensor, TorchError, cast_tensor


def _convolve(planes: torch.Tensor, kernels: torch.Tensor, full: bool, flip: bool) -> torch.Tensor:
    """Correlate planes (C x ...) with kernels (K x C x ...)."""
    space = planes.dim() - 1
    if not full and any(a < b for a, b in zip(planes.shape[1:], kernels.shape[2:], strict=True)):
        raise TorchError("bad argument #2 (input image is smaller than kernel)")
    turned = kernels.flip(list(range(2, 2 + space)))
    if not planes.is_floating_point():
        padding = [n - 1 for n in kernels.shape[2:]] if full else [0] * space
        return _convolve_integers(planes, turned if flip else kernels, padding)
    if not full:
        f = F.conv2d if space == 2 else F.conv3d
        return f(planes.unsqueeze(0), turned if flip else kernels).squeeze(0)
    f = F.conv_transpose2d if space == 2 else F.conv_transpose3d  # nothing is multiplied by padding, as infinity is NaN
    spread = kernels if flip else turned
    return f(planes.unsqueeze(0), spread.transpose(0, 1)).squeeze(0)


def _convolve_integers(planes: torch.Tensor, kernels: torch.Tensor, padding: Sequence[int]) -> torch.Tensor:
    """Correlate in 64 bits, which wrap as C's integers do."""
    windows = F.pad(planes, [n for n in reversed(padding) for _ in range(2)])
    for d, n in enumerate(kernels.shape[2:], 1):
        windows = windows.unfold(d, n, 1)
    inner = list(range(-len(padding), 0))
    columns = windows.movedim(inner, list(range(1, len(padding) + 1))).flatten(0, len(padding))
    return torch.tensordot(kernels.flatten(1), columns, 1)


def _declare(name: str, space: int, flip: bool) -> None:
    def run(r: Tensor, image: Tensor, kernel: Tensor, how: str) -> None:
        x, k, full = image.t, kernel.t, how == "F"
        exact = x if x.is_floating_point() else x.long()
        k = k.to(exact.dtype)
        if image.dim == space:
            result = _convolve(exact[None], k[None, None], full, flip)[0]
        elif kernel.dim == space + 1:
            if image.size[0] != kernel.size[0]:
                raise TorchError("bad argument #2 (invalid number of input/kernel planes)")
            pairs = zip(exact, k, strict=True)  # with the bits of each plane alone
            result = torch.stack([_convolve(x[None], k[None, None], full, flip)[0] for x, k in pairs])
        else:
            if kernel.size[1] != image.size[0]:
                raise TorchError("bad argument #2 (invalid number of input planes)")
            result = _convolve(exact, k, full, flip)
        r.assign(cast_tensor(result, image.ty))

    for a, b in ((space, space), (space + 1, space + 1), (space + 1, space + 2)):
        small = ("convolve", str(space), "flip" if flip else "") if space == 2 or a == space else ()
        torch_function(name, f"R T{a} T{b} c=VF", small=small)(run)


_declare("conv2", 2, flip=True)
_declare("xcorr2", 2, flip=False)
_declare("conv3", 3, flip=True)
_declare("xcorr3", 3, flip=False)
