"""Export the model of a comparison again, to see which of its tensors and results a right file contains.

Exporters merge operations and compute weights from others, in ways that depend on their version. A new export of the
model, in the same format, shows all of that. It is only made to explain a difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from dpnn_bridge.base.cached import cached_property
from dpnn_bridge.base.folders import temporary_folder
from dpnn_bridge.conversion.settings import plain_settings
from dpnn_bridge.errors import OptionError
from dpnn_bridge.outputs.format import ExportContext, Format
from dpnn_bridge.outputs.written import Written
from dpnn_bridge.parity.bounded import RunLimits

#: sizes of the dynamic axes of the example, if the model does not accept those of the file's own input
SIZES = (8, 32, 64)


class NewExport:
    """A new export of a model, which is made when it is needed.

    Args:
        format: format of the converted file.
        module: the model.
        file: content of the converted file, whose options are used again.
        value: an input of the model, or None.
        running: limits the resources of a run.
    """

    def __init__(self, format: Format, module: nn.Module, file: Written, value: Any, running: RunLimits) -> None:
        self._format, self._module, self._file, self._value, self._running = format, module, file, value, running

    @cached_property
    def written(self) -> Written | None:
        """The content of the new file; None if the model is not exported."""
        if not self._format.traced or self._value is None:
            return None
        for example in self._examples():
            with suppress(Exception), temporary_folder() as folder:  # such as a model without this input
                path = folder / f"model{self._format.suffix}"
                with torch.no_grad(), self._running(self._module):  # the exporter has no limits
                    self._module(example)
                with plain_settings(self._module):
                    self._format.write(self._module, path, ExportContext(example, options=self._options()))
                return self._format.open(path, self._module)
        return None

    def _options(self) -> dict[str, Any]:
        dynamic, names = self._file.dynamic, self._file.options.get("input_names")
        inputs = enumerate(dynamic.axes if dynamic else ())
        axes = [f"{names[i] if names else i}:{n}={axis}" for i, found in inputs for axis, n in found.items()]
        return {**self._file.options, "dynamic": axes or False}

    def _examples(self) -> Iterator[Any]:
        yield self._value
        if dynamic := self._file.dynamic:
            for size in SIZES:
                with suppress(OptionError):
                    yield dynamic.resized(self._value, {name: size for name in dynamic.names if name != "batch"})
