"""Export pooling layers with options that nn lacks."""

from __future__ import annotations

from typing import Any

from torch import nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.registry import composition
from dpnn_bridge.modules.pytorch.parts import Parts, refuse
from dpnn_bridge.modules.pytorch.shapes import constant
from dpnn_bridge.objects import LuaObject, LuaTensor


def _each(value: Any, count: int) -> list[int]:
    """Return the value of an option for each of ``count`` dimensions."""
    return list(value) if isinstance(value, (tuple, list)) else [value] * count


def _refuse_indices(module: Any) -> None:
    for_unpooling = "indices" in module._buffers  # a hook stores the indices and returns only the values
    if getattr(module, "return_indices", False) and not for_unpooling:
        refuse(module, "return_indices=True", "return_indices=False can be exported")


def _windows(module: Any, count: int) -> list[tuple[int, int, int, int]]:
    """Return the kernel, stride, padding and dilation of each dimension."""
    names = ("kernel_size", "stride", "padding", "dilation")
    numbers = (_each(getattr(module, name, int(name == "dilation")), count) for name in names)
    return list(zip(*numbers, strict=True))


def _check_ceil_mode(module: Any, windows: list[tuple[int, int, int, int]]) -> None:
    """Raise an error if a window could start outside the input: without padding, Torch7 computes such windows."""
    gaps = any(stride > dilation * (kernel - 1) + 1 for kernel, stride, _, dilation in windows)
    if module.ceil_mode and gaps and not any(padding for *_, padding, _ in windows):
        refuse(module, "ceil_mode=True with a stride above the kernel size", "ceil_mode=False can be exported")


def _dilated_maximum(parts: Parts, ceil_mode: bool, *windows: tuple[int, int, int, int]) -> LuaObject:
    """Create a max pooling of images with windows over the last one or two dimensions."""
    rows = [(1, 1, 0, 1)] * (2 - len(windows)) + [*windows]
    names = ("k", "d", "pad", "dilation")
    numbers = {f"{n}{c}": v for c, row in zip("HW", rows, strict=True) for n, v in zip(names, row, strict=True)}
    indices = LuaTensor.empty("torch.LongTensor")
    return parts("SpatialDilatedMaxPooling", **numbers, ceil_mode=ceil_mode, indices=indices)


@composition(nn.MaxPool1d)
def max_pool_1d(module: Any, ctx: LuaContext) -> LuaObject:
    _refuse_indices(module)
    _check_ceil_mode(module, _windows(module, 1))
    parts = Parts(module, ctx)
    return parts.lifted(_dilated_maximum(parts, module.ceil_mode, *_windows(module, 1)))


@composition(nn.MaxPool2d)
def max_pool_2d(module: Any, ctx: LuaContext) -> None:
    _refuse_indices(module)
    _check_ceil_mode(module, _windows(module, 2))


@composition(nn.MaxPool3d)
def max_pool_3d(module: Any, ctx: LuaContext) -> LuaObject | None:
    """Export a dilated 3-D pooling as two poolings if nn's class computes something else.

    The class loses ceil mode when Torch7 loads it. It omits elements of a window that starts two or more elements
    before the input.
    """
    _refuse_indices(module)
    windows, parts = _windows(module, 3), Parts(module, ctx)
    if not any(dilation > 1 and (module.ceil_mode or padding > 1) for *_, padding, dilation in windows):
        return _check_ceil_mode(module, windows)
    depth, image = windows[:1], windows[1:]
    _check_ceil_mode(module, depth)
    _check_ceil_mode(module, image)
    pools = [parts.bottled(_dilated_maximum(parts, module.ceil_mode, *part), 3) for part in (image, depth)]
    return parts.of_batch(5, pools[0], parts.swap(3, 5), pools[1], parts.swap(3, 5))


@composition(nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
def fractional_max_pool(module: Any, ctx: LuaContext) -> None:
    _refuse_indices(module)


# ---------------------------------------------------------------------- averages
def _average(parts: Parts, kernel: list[int], stride: list[int], padding: list[int], **options: bool) -> LuaObject:
    """Create an average pooling of images; a 1-D input becomes images with one row."""
    is_1d = len(kernel) == 1
    numbers = {"k": [1] * is_1d + kernel, "d": [1] * is_1d + stride, "pad": [0] * is_1d + padding}
    fields = {f"{name}{c}": v for name, values in numbers.items() for c, v in zip("HW", values, strict=True)}
    pool = parts("SpatialAveragePooling", **fields, **{"divide": True, **options})
    return parts.lifted(pool) if is_1d else pool


@composition(nn.AvgPool1d)
def average_pool_1d(module: Any, ctx: LuaContext) -> LuaObject:
    _check_ceil_mode(module, _windows(module, 1))
    options = {n: getattr(module, n) for n in ("ceil_mode", "count_include_pad")}
    sizes = (_each(v, 1) for v in (module.kernel_size, module.stride, module.padding))
    return _average(Parts(module, ctx), *sizes, **options)


@composition(nn.AvgPool2d)
def average_pool_2d(module: Any, ctx: LuaContext) -> LuaObject | None:
    """Export a pooling with ``divisor_override`` as the sum of each window and a factor."""
    _check_ceil_mode(module, _windows(module, 2))
    if module.divisor_override is None:
        return None
    if module.ceil_mode:  # in ceil mode, nn's divide=false does not give the sum of a window at the edge
        refuse(module, "divisor_override with ceil_mode=True", "each of the two options alone can be exported")
    parts = Parts(module, ctx)
    sizes = [_each(v, 2) for v in (module.kernel_size, module.stride, module.padding)]
    sums = _average(parts, *sizes, ceil_mode=False, count_include_pad=True, divide=False)
    return parts.chain(sums, parts.times(1 / module.divisor_override))


@composition(nn.AvgPool3d)
def average_pool_3d(module: Any, ctx: LuaContext) -> LuaObject | None:
    kernel, stride, padding = (_each(v, 3) for v in (module.kernel_size, module.stride, module.padding))
    if module.ceil_mode:
        refuse(module, "ceil_mode=True in three dimensions", "ceil_mode=False can be exported")
    if not any(padding) and module.divisor_override is None and module.count_include_pad:
        return None
    parts, names = Parts(module, ctx), "THW"

    def average() -> LuaObject:
        fields = {f"{p}{c}": v for p, vs in (("k", kernel), ("d", stride)) for c, v in zip(names, vs, strict=True)}
        pooling = parts("VolumetricAveragePooling", **fields)
        pads = [p for p in reversed(padding) for _ in range(2)]
        return parts.chain(constant(parts, 0, pads), pooling) if any(padding) else pooling

    if module.divisor_override is not None:
        return parts.chain(average(), parts.times(kernel[0] * kernel[1] * kernel[2] / module.divisor_override))
    if module.count_include_pad or not any(padding):
        return average()
    return parts.join("CDivTable", average(), parts.chain(parts.always(1), average()))


@composition(nn.LPPool1d, nn.LPPool2d)
def power_pool(module: Any, ctx: LuaContext) -> LuaObject:
    """Export a power-average pooling.

    The root begins with nn.Sqrt, whose gradient at 0 is 0, as PyTorch's. A root that negative sums have, as for
    ``norm_type=1``, begins with nn.HardShrink, which only sets the gradient at 0 to 0.
    """
    count = 1 if isinstance(module, nn.LPPool1d) else 2
    kernel, power = _each(module.kernel_size, count), float(module.norm_type)
    stride = kernel if module.stride is None else _each(module.stride, count)
    parts, elements = Parts(module, ctx), kernel[0] * kernel[-1] if count == 2 else kernel[0]
    if power == float("inf"):
        refuse(module, "norm_type=inf", "MaxPool1d and MaxPool2d can be exported")
    _check_ceil_mode(module, [(k, s, 0, 1) for k, s in zip(kernel, stride, strict=True)])
    means = _average(parts, kernel, stride, [0] * count, ceil_mode=module.ceil_mode, count_include_pad=True)
    of_negative = (1 / power).is_integer()
    first = parts("HardShrink", **{"lambda": 0}) if of_negative else parts("Sqrt", eps=0)
    exponent = (1 if of_negative else 2) / power
    root = [first] if exponent == 1 else [first, parts("Power", pow=exponent)]
    return parts.chain(parts("Power", pow=power), means, parts.times(elements), *root)


# ---------------------------------------------------------------------- to a given size
_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_ADAPTIVE_MAX = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)


@composition(*_ADAPTIVE, *_ADAPTIVE_MAX)
def adaptive_pool(module: Any, ctx: LuaContext) -> LuaObject:
    """Pool one dimension after the other if nn has no class for all of them."""
    _refuse_indices(module)
    count = int(type(module).__name__[-2])
    parts, maximum, sizes = Parts(module, ctx), isinstance(module, _ADAPTIVE_MAX), _each(module.output_size, count)

    def images(height: int, width: int) -> LuaObject:
        buffers = {"indices": LuaTensor.empty("torch.LongTensor")} if maximum else {}
        name = f"SpatialAdaptive{'Max' if maximum else 'Average'}Pooling"
        return parts(name, H=height, W=width, **buffers)

    def last(size: int) -> LuaObject:
        row = parts.chain(parts("Unsqueeze", pos=2), images(1, size), parts("Squeeze", dim=2))
        return parts.bottled(row, 2)

    if count == 1:
        return parts.lifted(images(1, sizes[0]))
    if count == 2 and None not in sizes:
        return images(*sizes)
    layers = []
    for i, size in enumerate(sizes):
        if size is not None:
            swaps = [parts.swap(i - count, -1, from_end=True) for _ in range(2 if i < count - 1 else 0)]
            layers += [*swaps[:1], last(size), *swaps[1:]]
    return parts.chain(*layers) if layers else parts.identity()
