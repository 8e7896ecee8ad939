"""Replace layers of PyTorch in a model by Torch7's layers, as its export to ``.t7`` does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Difference, Tolerance, compare
from dpnn_bridge.compare.memory import copied
from dpnn_bridge.compare.precision import full_precision
from dpnn_bridge.conversion import convert_object, to_lua, to_lua_assuming
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.parametrized import parametrizations
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.errors import ConversionError, ConversionLimitError, ModelNotFoundError
from dpnn_bridge.files import load_with_report
from dpnn_bridge.modules.several import Models
from dpnn_bridge.parity.bounded import RunLimits

#: note for the report, after the name of the file
NOTE = "has layers of PyTorch. The layers of its export to Torch7 were compared"
#: accepted relative difference of the outputs of a network and its export, which may add up in another order
ROUNDING = Tolerance(1e-10, 1e-4)
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


def compare_with_network(network: nn.Module, export: nn.Module, value: Any, running: RunLimits) -> list[Difference]:
    """Compare the output of a network of PyTorch with the output of its export: both are in the mode of the run.

    Of a tuple, only the first part is compared if the export returns one tensor: a recurrent layer returns its state
    too. The comparison is empty if the network draws random numbers or does not accept the input.
    """
    before = torch.get_rng_state()
    outputs = []
    with torch.random.fork_rng(), torch.no_grad(), full_precision():
        for module in (network, export):
            own = copied(module)
            try:
                with running(own):
                    outputs.append(own(nested.copied(value)))
            except ConversionLimitError:
                raise
            except Exception:  # the comparison of the layers reports the error
                return []
        if not torch.equal(before, torch.get_rng_state()):
            return []
    expected, found = outputs
    if isinstance(expected, tuple) and isinstance(found, Tensor):
        expected = expected[0]
    if isinstance(expected, Tensor) and isinstance(found, Tensor):
        if expected.squeeze().shape == found.squeeze().shape:  # Torch7 has no tensors without dimensions
            found = found.reshape(expected.shape)
        found = found.to(expected)
    return compare("output of the network in PyTorch", found, expected, ROUNDING)


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
