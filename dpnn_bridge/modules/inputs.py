"""Find an input shape for a model: try shapes that its file or its layers suggest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, islice, product, takewhile
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.checkpoints.architectures import architecture_of
from dpnn_bridge.conversion.failure import takes_list
from dpnn_bridge.conversion.limits import ResourceLimitMode, ResourceLimits
from dpnn_bridge.conversion.modes import evaluating
from dpnn_bridge.conversion.parametrized import layer_parameters, named_layers
from dpnn_bridge.modules.nn.container import ParallelTable
from dpnn_bridge.modules.nn.nngraph import GModule
from dpnn_bridge.modules.rnn.memory import forget
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor

#: usual heights and widths of inputs of published models, the cheapest first
SIDES = (32, 28, 64, 96, 128, 224, 227, 231, 256, 299)
#: other heights and widths to try for convolutional models
OTHER_SIDES = tuple(side for side in range(16, 257, 4) if side not in SIDES)
#: height and width of an image in a shape that the user has to adapt
TYPICAL = (224, 224)
#: maximum duration of the search in seconds
MAX_SECONDS = 2.0
#: file name in the suggested command for a model whose input is a list of unknown content
LIST_FILE = "list_of_inputs.t7"
#: maximum number of inputs per branch; all combinations are tried
PER_BRANCH = 4
#: maximum number of inputs of a model
MAX_INPUTS = 100

Sizes = tuple[int, ...]


def input_shapes(module: nn.Module, file_size: int | None = None, source: LuaObject | None = None) -> list[str]:
    """Return input shapes that the module accepts, as values of ``--input``, one for each input.

    The list is empty if no shape was found. The module runs in evaluation mode; its recurrent modules lose their
    states.

    Args:
        module: the model.
        file_size: size of the model's file in bytes, which limits the resources of a run. None: no limits.
        source: the Lua object of the model, which may contain the sizes of its last input.
    """
    started = perf_counter()
    try:
        with evaluating(module):
            for shapes in chain(_remembered(source), _published(module), _candidates(module)):
                if perf_counter() - started > MAX_SECONDS:
                    break
                limited = nullcontext() if file_size is None else ResourceLimitMode(ResourceLimits(more=file_size))
                if _runs(module, shapes, limited):
                    return _texts(shapes)
    finally:
        forget(module)
    return []


def likely_shapes(module: nn.Module) -> list[str]:
    """Return likely input shapes, derived from the first layers; the user has to adapt heights, widths and lengths.

    If the first layer takes a list of unknown content, the only element is :data:`LIST_FILE`.
    """
    if _taking_list(module) is not None:
        return [LIST_FILE]
    shapes = next(_candidates(module), [((1, 3, 0, 0), False)])
    return _texts(
        [((*size[:2], *TYPICAL) if len(size) == 4 and size[2] != 1 else size, indices) for size, indices in shapes]
    )


def input_options(module: nn.Module, source: LuaObject | None = None) -> str:
    """Return the ``--input`` options for a module: with accepted shapes if any were found, otherwise likely ones."""
    return _options(input_shapes(module, _size_of(module), source) or likely_shapes(module))


def accepted_instead(module: nn.Module, given: Any) -> str:
    """Return the end of the message that a module cannot run on an input: another input that it accepts.

    Returns:
        Text such as ``"; the model accepts --input 1x3x224x224 (input=tensor)"``; empty if none was found, or if the
        given input has these shapes or consists of other values than tensors.
    """
    tensors = given if isinstance(given, (list, tuple)) else [given]
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        return ""
    shapes = input_shapes(module, _size_of(module))
    same = [shape.partition(":")[0] for shape in shapes] == ["x".join(map(str, t.shape)) for t in tensors]
    return "" if same or not shapes else f"; the model accepts {_options(shapes)} (input=tensor)"


def _size_of(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def _options(shapes: list[str]) -> str:
    return " ".join(f"--input {shape}" for shape in shapes)


def _texts(shapes: list[tuple[Sizes, bool]]) -> list[str]:
    return [f"{'x'.join(map(str, size))}{':int64' if indices else ''}" for size, indices in shapes]


def _runs(module: nn.Module, shapes: list[tuple[Sizes, bool]], limits: AbstractContextManager[Any]) -> bool:
    """Run the module on ones of the given shapes; return whether it succeeds and keeps the batch size."""
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    forget(module)
    try:
        with torch.no_grad(), limits:
            values = [torch.ones(size, dtype=torch.int64 if indices else dtype) for size, indices in shapes]
            output = module(values if len(values) > 1 else values[0])
    except Exception:
        return False
    if not isinstance(output, Tensor) or output.dim() < 2 or values[0].dim() == 1:
        return True
    # a View can turn a larger image into several samples, so check the batch size
    if values[0].dim() == 3:
        return output.dim() > 2 or len(output) in values[0].shape
    return len(output) in [v.shape[0] for v in values if v.dim() > 1]


def _remembered(source: Any) -> Iterator[list[tuple[Sizes, bool]]]:
    """Yield the shape of the last input of the model or its first layer: with batch size 1, then as it was.

    A file that was saved without ``clearState`` contains the gradient of this input. Layers of cudnn store its shape.
    """
    visited: list[LuaObject] = []
    while isinstance(source, LuaObject) and source not in visited:
        visited.append(source)
        gradient, stored = source.get("gradInput"), source.get("iSize")
        inputs = [gradient[i] for i in gradient] if isinstance(gradient, LuaTable) else [gradient]
        sizes = [t.shape if isinstance(t, LuaTensor) else () for t in inputs]
        if isinstance(stored, LuaStorage) and stored.size < 6 and not all(sizes):
            sizes = [tuple(map(int, stored.numpy()))]
        if sizes and all(size and all(size) for size in sizes):
            yield [((1, *size[1:]), False) for size in sizes]
            yield [(size, False) for size in sizes]
            return
        layers = source.get("modules")
        source = layers.get(1) if isinstance(layers, LuaTable) else None


def _published(module: nn.Module) -> Iterator[list[tuple[Sizes, bool]]]:
    """Yield the input shape of the published architecture that the module's parameters match."""
    known = architecture_of(module)
    if known is not None:
        yield [(tuple(map(int, known.input.split("x"))), False)]


def _candidates(module: nn.Module) -> Iterator[list[tuple[Sizes, bool]]]:
    """Yield the inputs to try, the likeliest first: the shape of each, and whether its elements are indices."""
    first = _taking_list(module)
    if isinstance(first, ParallelTable) and len(first) <= MAX_INPUTS:
        yield from _branch_inputs(list(first))
        return
    count = next((m.num_inputs for m in _first_modules(module) if isinstance(m, GModule)), 1 if first is None else 2)
    single = list(_single_inputs(module))
    if count == 1:
        yield from ([candidate] for candidate in single)
    elif count <= MAX_INPUTS:  # recurrent states have the width of an input or output of a linear layer
        linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
        widths = dict.fromkeys([m.in_features for m in linear] + [m.out_features for m in linear])
        index = [((1,), True)] if any(hasattr(m, "index_base") for m in module.modules()) else []
        for (size, indices), width in product([*index, *single, *(((1, w), False) for w in widths)], widths):
            yield [(size, indices), *[((1, width), False)] * (count - 1)]


def _branch_inputs(branches: list[nn.Module]) -> Iterator[list[tuple[Sizes, bool]]]:
    """Yield lists with one accepted input per branch, in all combinations; no branch runs after the time is over."""
    accepted: list[list[tuple[Sizes, bool]]] = []
    started = perf_counter()
    for branch in branches:
        tried = takewhile(lambda _: perf_counter() - started < MAX_SECONDS, _single_inputs(branch))
        runs = (c for c in tried if _runs(branch, [c], ResourceLimitMode(ResourceLimits())))
        accepted.append(list(islice(runs, PER_BRANCH)))
        if not accepted[-1]:
            return
    yield from map(list, product(*accepted))


def _taking_list(module: nn.Module) -> nn.Module | None:
    """Return the first layer of a model if the annotation of its ``forward`` is a list."""
    for first in _first_modules(module):
        if isinstance(first, GModule):
            return None
        if takes_list(first):
            return first
    return None


def _first_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the module, its first child, the first child of that, and so on, up to the first one with parameters."""
    yield module
    if any(p is not None for p in module._parameters.values()):
        return
    for child in module.children():
        yield from _first_modules(child)
        return


def _single_inputs(module: nn.Module) -> Iterator[tuple[Sizes, bool]]:
    """Yield the inputs to try for a module with one input, the likeliest first."""
    layers = [m for _, m in named_layers(module)]
    first = next((m for m in layers if any(True for _ in layer_parameters(m)) or hasattr(m, "index_base")), None)
    if hasattr(first, "index_base") or isinstance(first, nn.Embedding):
        yield from (((1, 9), True), ((9, 1), True), ((9,), True), ((1,), True))
    convolution: Any = next((m for m in layers if _convolves_images(m)), None)
    if convolution:
        if convolution is first and isinstance(convolution, nn.ConvTranspose2d):
            yield (1, convolution.in_channels, 1, 1), False
        yield from (((1, convolution.in_channels, side, side), False) for side in SIDES)
    for layer in layers:
        if isinstance(width := getattr(layer, "in_features", None), int):
            yield (1, width), False
            break
    if isinstance(volume := next((m for m in layers if isinstance(m, nn.Conv3d)), None), nn.Conv3d):
        yield (1, volume.in_channels, 16, 112, 112), False
    width = getattr(first, "input_size", None) or getattr(first, "in_channels", None)
    if isinstance(width, int):
        yield from (((9, 1, width), False), ((1, 100, width), False), ((1, width, 100), False))
    images = [(channels, side, side) for side, channels in product(SIDES, (3, 1))]
    yield from (((1, *image), False) for image in images)
    yield from ((image, False) for image in images)  # some layers of old versions accept only single images
    if convolution:
        yield from (((1, convolution.in_channels, side, side), False) for side in OTHER_SIDES)


def _convolves_images(layer: nn.Module) -> bool:
    kernel = getattr(layer, "kernel_size", None)
    return isinstance(getattr(layer, "in_channels", None), int) and isinstance(kernel, tuple) and len(kernel) == 2
