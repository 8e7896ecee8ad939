"""Write a model in the format that the suffix of the output selects.

Each format is one class, in a file of :mod:`dpnn_bridge.outputs.formats`. The class writes a temporary file, reads it
back and compares it with the model. Only then the file gets the name of the output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpnn_bridge.base.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from dpnn_bridge.outputs.format import ExportContext, Format
    from dpnn_bridge.outputs.formats import format_of, suffix_of
    from dpnn_bridge.outputs.options import ConvertOptions
    from dpnn_bridge.outputs.writing import export

__all__ = ["ConvertOptions", "ExportContext", "Format", "export", "format_of", "suffix_of"]

_MODULES = {
    "ConvertOptions": "outputs.options",
    **dict.fromkeys(("ExportContext", "Format", "Job"), "outputs.format"),
    **dict.fromkeys(("format_of", "suffix_of"), "outputs.formats"),
    "export": "outputs.writing",
}
__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
