"""Define the interface of an output format."""

from __future__ import annotations

import filecmp
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from dpnn_bridge.outputs.data import Data
from dpnn_bridge.outputs.written import Written


@dataclass
class ExportContext:
    """The data for a format beside the module.

    Attributes:
        example: an input of the model, for formats that trace it and to compare outputs.
        metadata: plain data stored with the model where the format has a place for it.
        options: of one format, such as ``tensor_type`` for ``.t7``.
        origin: waits for the checksums and returns the provenance, see
            :func:`dpnn_bridge.outputs.options.origin_text`. Most formats have it in the metadata.
        written: data of ``write`` that ``verify`` compares the file with.
    """

    example: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    origin: Callable[[], str | None] | None = None
    written: Any = None


Job = ExportContext  # its name until November 2026


class Format:
    """One output format. A subclass, in a file of :mod:`dpnn_bridge.outputs.formats`, defines what it can.

    Attributes:
        suffix: of its files; the name of the subclass's file.
        options: names of the fields of :class:`~dpnn_bridge.outputs.options.ConvertOptions` that it takes when a
            module is written; they change the result.
        program: it contains one forward pass, so it contains one model only, and ``index_base`` and ``inplace``
            show in it.
        models: whether it contains models.
        data: whether it contains data without a model.
        text: data become text, which takes more memory.
        loads: whether :meth:`load` reads what a module is rebuilt from.
        rebuilt: whether :func:`dpnn_bridge.load` rebuilds the module, so that all of it can be compared: formats that
            load, and ``.t7``.
        traced: it contains a traced graph, whose sums may have another order.
        keeps_state: it contains the states of recurrent modules; else the loaded model starts new sequences.
        several: a model takes several files.
        bfloat16: it has this dtype. Without it such tensors become float32, so no model is cast to it.
        origin_beside: the metadata state what the file was made of, so the checksum of the input is needed before the
            file is written. False: the format stores it at the end, or not at all.
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
        """Write a model."""
        raise NotImplementedError

    def verify(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        """Read a file back and load it as its user does.

        Raises:
            VerificationError: it is not the same model.
            ConversionError: the written file cannot be loaded.
        """
        raise NotImplementedError

    def load(self, path: Path, name: str) -> dict[str, Any]:
        """Return the content of a file, as :func:`dpnn_bridge.outputs.container.pack` returns it.

        Args:
            path: the file.
            name: its name in messages.
        """
        raise NotImplementedError

    def open(self, path: Path, module: nn.Module) -> Written:
        """Return a file, opened to be compared with its model layer by layer."""
        raise NotImplementedError

    def write_data(self, found: Data, path: Path) -> None:
        """Write data without a model, read it back and compare."""
        raise NotImplementedError

    def origin(self, path: Path) -> str | None:
        """Return the :attr:`ExportContext.origin` that a file stores, or None.

        Raises:
            Exception: the file is incomplete, or of another format.
        """
        return None

    def same_content(self, one: Path, other: Path) -> bool:
        """Return whether two files contain the same, whatever versions of the package wrote them."""
        return filecmp.cmp(one, other, shallow=False)
