"""Replace layers of PyTorch in a model by Torch7's layers, as its export to ``.t7`` does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from torch import nn

from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.conversion import convert_object, to_lua
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.errors import ConversionError, ModelNotFoundError
from dpnn_bridge.files import load_with_report
from dpnn_bridge.modules.several import Models

#: note for the report
NOTE = "MODEL has layers of PyTorch. The layers of its export to Torch7 were compared."


def loaded(path: StrPath, options: Options, key: str) -> nn.Module:
    """Load the module of a file; ``key`` selects the module if the file contains several."""
    try:
        return load_with_report(path, key or None, options)[0]
    except ModelNotFoundError:
        return load_with_report(path, None, options)[0]


def as_exported(module: nn.Module, path: StrPath, value: Any, options: Options, key: str) -> nn.Module | None:
    """Return a model with layers of PyTorch as it is exported to Torch7.

    The export can depend on the number of dimensions of the input. The result has the layers of the file if the export
    with or without ``value`` has them.

    Args:
        module: the model.
        path: the ``.t7`` file.
        value: an input of the model, or None.
        options: options of the conversion.
        key: selects the model if the file contains several.

    Returns:
        The exported model; None if the model has no layers of PyTorch, or is not exported.
    """
    if isinstance(module, Models) or all(record_of(m) is not None for m in module.modules()):
        return None
    layers = _layers(loaded(path, options, key))
    exports = list(_exports(module, value, options))
    return next((e for e in exports if _layers(e) == layers), exports[0] if exports else None)


def _exports(module: nn.Module, value: Any, options: Options) -> Iterator[nn.Module]:
    for example in (None,) if value is None else (None, value):
        with suppress(ConversionError):
            yield convert_object(to_lua(module, gradients=False, input=example), options)[0]


def _layers(module: nn.Module) -> list[tuple[str, str]]:
    return [(name, type(m).__qualname__) for name, m in module.named_modules()]
