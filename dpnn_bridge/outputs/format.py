"""Define the interface of an output format."""

from __future__ import annotations

import filecmp
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from dpnn_bridge.outputs.data import Data
from dpnn_bridge.outputs.data_difference import first_difference
from dpnn_bridge.outputs.written import Written

#: name of the provenance in the metadata of ``.onnx`` and ``.pt2``
ORIGIN = "dpnn_bridge_origin"


@dataclass
class ExportContext:
    """The data for writing an output, in addition to the module.

    Attributes:
        example: an input of the model, to trace the model and to compare outputs.
        metadata: plain data that is stored with the model if the format supports it.
        options: options of the format, such as ``tensor_type`` for ``.t7``.
        origin: function that waits for the checksums and returns the provenance, see
            :func:`dpnn_bridge.outputs.options.origin_text`. Most formats find it in the metadata instead.
        written: set by ``write``: the data that ``verify`` compares with the file.
        notes: remarks on the file, which ``write`` adds to the report of the conversion.
    """

    example: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    origin: Callable[[], str | None] | None = None
    written: Any = None
    notes: list[str] = field(default_factory=list)


Job = ExportContext  # its name until November 2026


class Format:
    """An output format. Each subclass is in a file of :mod:`dpnn_bridge.outputs.formats`.

    Attributes:
        suffix: suffix of the files; also the name of the Python file with the subclass.
        options: fields of :class:`~dpnn_bridge.outputs.options.ConvertOptions` that change the file of a model.
        program: whether the file contains the forward pass of one model, which depends on ``index_base`` and
            ``inplace``.
        models: whether the format supports models.
        data: whether the format supports data without a model.
        text: whether data are written as text, which takes more memory.
        loads: whether :meth:`load` is implemented.
        rebuilt: whether :func:`dpnn_bridge.load` creates the same module from the file, so that all its modules can be
            compared.
        traced: whether the file contains a traced graph, whose sums may have another order.
        keeps_state: whether the file contains the states of recurrent modules; else the loaded model starts with new
            sequences.
        several: whether a model consists of several files.
        bfloat16: whether the format supports bfloat16. Otherwise such tensors become float32.
        origin_beside: whether the metadata contains the provenance, so that the checksum of the input is needed before
            the file is written. Otherwise the provenance is written at the end or not at all.
    """

    suffix = ""
    options: tuple[str, ...] = ()
    program = False
    models = True
    data = False
    text = False
    loads = False
    rebuilt = False
    traced = False
    keeps_state = True
    several = False
    bfloat16 = True
    origin_beside = True

    def write(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        """Write a model to a file."""
        raise NotImplementedError

    def verify(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        """Read a written file back and compare it with the model.

        Raises:
            VerificationError: the file differs from the model.
            ConversionError: the file cannot be loaded.
        """
        raise NotImplementedError

    def load(self, path: Path, name: str) -> dict[str, Any]:
        """Return the content of a file, in the form that :func:`dpnn_bridge.outputs.container.pack` returns.

        Args:
            path: the file.
            name: name of the file for messages.
        """
        raise NotImplementedError

    def open(self, path: Path, module: nn.Module, key: str = "") -> Written:
        """Open a file to compare it with its model layer by layer; ``key`` selects the model if there are several."""
        raise NotImplementedError

    def write_data(self, found: Data, path: Path) -> None:
        """Write data without a model, read the file back and compare.

        Raises:
            ConversionError: the format cannot store the data.
            OptionError: an option is for models.
            VerificationError: the file differs.
        """
        raise NotImplementedError

    def read_data(self, path: Path) -> Any:
        """Return the data in a file as nested lists and dicts of arrays or tensors, numbers and strings, to compare.

        Raises:
            Exception: the file is incomplete or has another format.
        """
        raise NotImplementedError

    def data_difference(self, expected: Path, found: Path) -> str:
        """Return the first difference of the data in two files for which :meth:`same_content` is false.

        The result is empty if only the order of keys differs, or another property that is not part of the data.

        Raises:
            Exception: a file is incomplete or has another format, or the disk fails.
        """
        return first_difference(self.read_data(expected), self.read_data(found)) or "the contents differ"

    def origin(self, path: Path) -> str | None:
        """Return the provenance in a file, see :attr:`ExportContext.origin`; None if it has none.

        Raises:
            Exception: the file is incomplete or has another format.
        """
        return None

    def same_content(self, one: Path, other: Path) -> bool:
        """Return whether two files have the same content, even if different versions of this package wrote them."""
        return filecmp.cmp(one, other, shallow=False)
