"""Implement the C parts of the Lua package ``image`` with Pillow and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dpnn_bridge.base.atomic import replacing
from dpnn_bridge.base.extras import install_advice
from dpnn_bridge.errors import OutputError
from dpnn_bridge.lua.arguments import check_string, describe
from dpnn_bridge.lua.tensor import DTYPES, FLOATING, Tensor, TorchError
from dpnn_bridge.lua.text import to_file, to_system


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise TorchError(f"image needs Pillow, which is not installed: {install_advice('lua')}") from None
    return Image


#: image formats that are read. Pillow reads others too, but passes PostScript files to another program
_IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def load_image(path: str, depth: float | None, ty: str) -> Tensor:
    """Read an image file as channels x height x width, 0 to 1 for floating types and 0 to 255 for bytes.

    Args:
        path: the file.
        depth: 3 or 1: convert to this number of channels; 1 returns height x width if the file has colors. Other
            numbers and None: as in the file.
        ty: element type of the result.

    Raises:
        TorchError: the file is missing or has an unsupported format.
    """
    path = check_string(path, 1)
    image, name = _pillow(), to_file(path)
    try:
        with image.open(name, formats=_IMAGE_FORMATS) as opened:
            deep = opened.mode.startswith("I")  # gray with 16 bits
            mode = "L" if opened.mode == "1" else opened.mode if opened.mode in ("L", "LA", "RGB", "RGBA") else "RGB"
            pixels = np.array(opened if deep else opened.convert(mode), dtype=np.int32 if deep else np.uint8)
    except OSError as error:
        raise TorchError(f"{path} is not a readable image: {error}") from None
    data = torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1)
    if ty in FLOATING:
        data = data.to(DTYPES[ty]) * (1 / (65535 if deep else 255))
    elif deep:
        data = data >> 8
    if depth == 1:
        data = luminance(data) if len(data) > 2 else data[:1]
    elif depth == 3:
        data = data[:3] if len(data) > 2 else data[:1].expand(3, -1, -1)
    return Tensor.fresh(data, ty)


def luminance(data: torch.Tensor) -> torch.Tensor:
    """Return the luminance, height x width, of the first three channels."""
    red, green, blue = data[:3].double()
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    return y if data.dtype == torch.float64 else _from_float(y.float(), data.dtype)


def image_luminance(t: Tensor) -> Tensor:
    """Return the luminance of a tensor of channels x height x width, of the same element type."""
    if t.dim != 3 or t.size[0] < 3:
        raise TorchError(f"image.rgb2y: an image must have 3 channels x height x width, this tensor is {t.shape_text}")
    return Tensor.fresh(luminance(t.t), t.ty)


def save_image(path: str, t: Tensor) -> tuple[()]:
    """Write a tensor of channels x height x width, or height x width, in the format of the file's suffix."""
    path = check_string(path, 1)
    if not isinstance(t, Tensor):
        raise TorchError(f"bad argument #2 (tensor expected, got {describe(t)})")
    image = _pillow()
    data = t.t if t.dim == 3 else t.t.reshape(1, *t.size)
    if data.dim() != 3 or data.shape[0] not in (1, 2, 3, 4):
        raise TorchError(f"an image must have 1 to 4 channels x height x width, this tensor is {t.shape_text}")
    if data.is_floating_point():
        data = (data.double() * 255).clamp(0, 255)
    pixels = data.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    try:
        with replacing(to_system(path), force=True) as temporary:
            image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(temporary)
    except (OSError, ValueError, OutputError) as error:
        raise TorchError(f"{path} cannot be written: {error}") from None
    return ()


def _from_float(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert intermediate results to ``dtype`` as libimage does, which rounds bytes and truncates other integers."""
    return ((values + 0.5).clamp(0, 255) if dtype == torch.uint8 else values).to(dtype)


def _resampled(x: torch.Tensor, target: int) -> torch.Tensor:
    """Scale the first dimension linearly, in C's order and precision: interpolate to enlarge, average to shrink."""
    count, dtype = len(x), x.dtype
    source = x if dtype == torch.float64 else x.float()
    columns = (-1, *[1] * (x.dim() - 1))
    steps = torch.arange(target + 1, dtype=torch.float32)
    if target == count:
        return x
    if target > count:
        at = steps[: target - 1] * (torch.tensor(float(count - 1)) / float(target - 1))
        low = at.long()
        part = (at - low).reshape(columns)
        inner = (1 - part) * source[low] + part * source[(low + 1).clamp(max=count - 1)]
        return torch.cat([_from_float(inner, dtype), x[-1:]])
    edges = steps * (torch.tensor(float(count)) / float(target))
    whole = edges.long()
    parts = (edges - whole).reshape(columns)
    first, last = whole[:-1], whole[1:]
    total = ((1 - parts[:-1]) * source[first]).float()
    weight = 1 - parts[:-1]
    for n in range(1, int((last - first).max())):  # the elements between both ends of a window
        inside = (first + n < last).reshape(columns)
        total = torch.where(inside, (total + source[(first + n).clamp(max=count - 1)]).float(), total)
        weight = torch.where(inside, weight + 1, weight)
    inside = (last < count).reshape(columns)
    total = torch.where(inside, (total + parts[1:] * source[last.clamp(max=count - 1)]).float(), total)
    weight = torch.where(inside, weight + parts[1:], weight)
    return _from_float(total / weight, dtype)


def scale_image(t: Tensor, width: float, height: float, mode: str) -> Tensor:
    """Scale a tensor of channels x height x width; ``simple`` takes the preceding pixel, ``bilinear`` is libimage's."""
    if t.dim not in (2, 3):
        raise TorchError(f"bad argument #1 (image.scale: src not 2 or 3 dimensional, but {t.shape_text})")
    data = t.t if t.dim == 3 else t.t.reshape(1, *t.size)
    rows, columns = max(1, int(height)), max(1, int(width))
    if mode == "simple":
        at = []
        for count, target in ((data.shape[1], rows), (data.shape[2], columns)):
            step = torch.tensor(float(count)) / float(target)
            at.append((torch.arange(target, dtype=torch.float32) * step).long().clamp(max=count - 1))
        scaled = data[:, at[0]][:, :, at[1]].float()
    elif mode == "bilinear":
        across = _resampled(data.permute(2, 0, 1), columns).permute(1, 2, 0)
        scaled = _resampled(across.permute(1, 0, 2), rows).permute(1, 0, 2)
    else:
        raise TorchError(f"image.scale: the modes are simple and bilinear, not {mode!r}")
    return Tensor.fresh(scaled if t.dim == 3 else scaled[0], t.ty)
