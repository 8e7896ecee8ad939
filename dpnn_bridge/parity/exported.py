"""Replace layers of PyTorch in a model by Torch7's layers, as its export to ``.t7`` does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Difference, Tolerance, compare
from dpnn_bridge.compare.memory import copied
from dpnn_bridge.conversion.convert import convert_object, to_lua, to_lua_assuming
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.parametrized import parametrizations
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.errors import ConversionError, ConversionLimitError, ModelNotFoundError
from dpnn_bridge.files import load_with_report
from dpnn_bridge.modules.nn.upsampling import UpSampling, UpsamplingBilinear2d
from dpnn_bridge.modules.several import Models
from dpnn_bridge.parity.bounded import RunLimits

#: note for the report, after the name of the file
NOTE = "has layers of PyTorch. The layers of its export to Torch7 were compared"
#: accepted relative difference of the outputs of a network and its export, which both compute in double precision
ROUNDING = Tolerance(1e-7)
#: numbers of dimensions that an input of a layer may have
DIMENSIONS = range(1, 6)


def loaded(path: StrPath, options: Options, key: str, module: nn.Module) -> nn.Module:
    """Load the module of a file to compare it with ``module``, whose key in its Torch7 file is ``key``.

    The key selects the module if the file contains several. It may also be the path of a layer in a file that contains
    only ``module``, such as ``module`` of ``nn.Sequencer``.
    """
    try:
        found = load_with_report(path, key or None, options)[0]
    except ModelNotFoundError:
        return load_with_report(path, None, options)[0]
    expected = _layers(module)
    if key and _layers(found) != expected:
        with suppress(ConversionError):
            whole = load_with_report(path, None, options)[0]
            return max(found, whole, key=lambda m: len(_layers(m) & expected))
    return found


def as_exported(module: nn.Module, torch7: nn.Module, value: Any, options: Options) -> nn.Module | None:
    """Return a model with layers of PyTorch as it is exported to Torch7.

    The export can depend on the number of dimensions of each layer's input. The result is the export that has the most
    layers in common with ``torch7``: without an example, with ``value``, or with any number of dimensions.

    Args:
        module: the model.
        torch7: the model in the ``.t7`` file with which ``module`` is compared.
        value: an input of the model, or None.
        options: options of the conversion.

    Returns:
        The exported model; None if the model has the layers of ``torch7``, or is not exported.
    """
    own = set(module.modules()) - parametrizations(module).keys()
    if isinstance(module, Models) or all(record_of(m) is not None or isinstance(m, Placeholder) for m in own):
        return None
    layers, best, most = _layers(torch7), None, -1
    if _layers(module) == layers and [*map(type, module.modules())] == [*map(type, torch7.modules())]:
        return None
    for export in _exports(module, value, options):
        common = len(layers & _layers(export))
        if common > most:
            best, most = export, common
        if most == len(layers):
            break
    return best


def compare_with_network(
    network: nn.Module, export: nn.Module, value: Any, running: RunLimits, index_base: int
) -> list[Difference]:
    """Compare the output of a network of PyTorch with the output of its export, in the mode of the export.

    Both compute in double precision on the CPU with the weights in the precision of the export, so that rounding is no
    difference. The comparison is empty if the network draws random numbers or does not accept the input.

    Args:
        network, export: the network and its export.
        value: an input of the export.
        running: limits the resources of a run.
        index_base: first index for the export; the first one for the network's ``nn.Embedding`` is 0.
    """
    before = torch.get_rng_state()
    value = nested.map_tensors(_in_double, value)
    modes = {module.training for module in export.modules()}
    dtypes = {t.dtype for t in chain(export.parameters(), export.buffers()) if t.is_floating_point()}
    if len(dtypes) == 1:
        network = copied(network).to(dtypes.pop())
    try:
        with torch.random.fork_rng(), torch.no_grad():
            outputs = [_output_of(module, value, running, modes, index_base) for module in (network, export)]
            if not torch.equal(before, torch.get_rng_state()):
                return []
    except ConversionLimitError:
        raise
    except Exception:  # the comparison of the layers reports the error
        return []
    expected, found = _as_in_torch7(*outputs)
    return compare("output of the network in PyTorch", found, expected, ROUNDING)


def _in_double(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64 if tensor.is_floating_point() else None)


def _output_of(module: nn.Module, value: Any, running: RunLimits, modes: set[bool], index_base: int) -> Any:
    own = copied(module).to("cpu", torch.float64)
    if len(modes) == 1:  # otherwise the parts of both are in the modes of the file
        own.train(*modes)
    for part in own.modules():
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and record_of(part) is None:
            part.register_forward_pre_hook(lambda _, args: (args[0].long() - index_base, *args[1:]))
        if isinstance(part, (UpsamplingBilinear2d, UpSampling)):  # in single precision, positions differ by 1e-7
            part.positions = torch.float64
    with running(own):
        return own(nested.copied(value))


def _as_in_torch7(expected: Any, found: Any) -> tuple[Any, Any]:
    """Return the results of a network and of its export, as the export returns those of the network.

    A recurrent layer returns its output, without the state, and Torch7 has no tensors without dimensions.
    """
    if isinstance(expected, tuple) and isinstance(found, Tensor):
        expected = expected[0]
    if isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)) and len(expected) == len(found):
        pairs = [_as_in_torch7(*parts) for parts in zip(expected, found, strict=True)]
        return [e for e, _ in pairs], [f for _, f in pairs]
    if isinstance(expected, Tensor) and isinstance(found, Tensor):
        if expected.squeeze().shape == found.squeeze().shape:
            found = found.reshape(expected.shape)
        found = found.to(expected)
    return expected, found


def _exports(module: nn.Module, value: Any, options: Options) -> Iterator[nn.Module]:
    with suppress(ConversionError):
        obj, depends = to_lua_assuming(module, None)
        yield convert_object(obj, options)[0]
        if not depends:  # all exports are equal
            return
    if value is not None:
        with suppress(ConversionError):
            yield convert_object(to_lua(module, gradients=False, input=value), options)[0]
    for dimensions in DIMENSIONS:
        with suppress(ConversionError):
            yield convert_object(to_lua_assuming(module, dimensions)[0], options)[0]


def _layers(module: nn.Module) -> set[tuple[str, str, str]]:
    """Return the names, classes and settings of all layers; a whole number that comes from a file is an integer."""
    settings = ((name, m, re.sub(r"(\d)\.0\b", r"\1", m.extra_repr())) for name, m in module.named_modules())
    return {(name, type(m).__qualname__, text) for name, m, text in settings}
