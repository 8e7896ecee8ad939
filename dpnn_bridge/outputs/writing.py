"""Write a model in the format that the suffix of the output selects."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from typing_extensions import Unpack

from dpnn_bridge.base.arguments import checks_arguments, renamed
from dpnn_bridge.base.atomic import StrPath, reading_back, replacing
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.shards import obsolete_shards
from dpnn_bridge.base.suffixes import INDEX, index_of
from dpnn_bridge.conversion.settings import plain_settings
from dpnn_bridge.conversion.storable import check_tensors
from dpnn_bridge.errors import ConversionError, OptionError
from dpnn_bridge.modules.several import Models
from dpnn_bridge.outputs.format import ExportContext, Format
from dpnn_bridge.outputs.formats import format_named, suffix_of, suffixes
from dpnn_bridge.outputs.options import FormatKeywords, check_options, check_values, not_default


def target_of(path: StrPath, to: str | None, max_shard_size: Any = None) -> tuple[StrPath, Format]:
    """Return the path of the output, and its format. With ``max_shard_size``, the output is an index of shards.

    Raises:
        ConversionError: there is no such format.
        OptionError: the format does not support shards.
    """
    suffix = suffix_of(path, to)
    if max_shard_size is not None and suffix != INDEX:
        if suffix != ".safetensors":
            raise OptionError(
                f"{path}: max_shard_size= (--max-shard-size) is for .safetensors: use --to safetensors, or "
                "OUT.safetensors"
            )
        path, suffix = index_of(path), INDEX
    return path, format_named(suffix)


@wrap_errors(ConversionError, "writing")
@renamed(example="input")
@checks_arguments
def export(
    module: nn.Module,
    path: StrPath,
    *,
    to: str | None = None,
    metadata: dict[str, Any] | None = None,
    force: bool = False,
    inputs: Sequence[StrPath] = (),
    on_verified: Callable[[Path], None] | None = None,
    origin: Callable[[], str | None] | None = None,
    notes: list[str] | None = None,
    **options: Unpack[FormatKeywords],
) -> None:
    """Write a model to a temporary file, read it back, compare it with the model, and then rename it to ``path``.

    Args:
        module: the model.
        path: the output.
        to: suffix of the format; default: the suffix of ``path``.
        metadata: plain data to store with the model.
        force: whether to replace an existing file.
        inputs: files that are never replaced.
        on_verified: function that is called with the temporary file after the comparison.
        origin: see :class:`~dpnn_bridge.outputs.format.ExportContext`.
        notes: list to which remarks on the file are added.
        **options: options of the format, see :class:`~dpnn_bridge.outputs.options.ConvertOptions`. ``input`` is an
            input of the model: ``.onnx`` and ``.pt2`` require it, ``.py`` compares outputs with it, ``.t7`` selects
            Lua classes by its number of dimensions.

    Raises:
        ConversionError: the format is unknown, its package is missing, or it cannot store the model.
        OptionError: the format does not take an option.
        VerificationError: the file differs after reading back; ``path`` is unchanged.
        OutputError: the file cannot be written, see :func:`dpnn_bridge.base.atomic.replacing`.
    """
    check_values(options)
    path, format = target_of(path, to, options.get("max_shard_size"))
    _check_module(module, path, format)
    own = not_default(options)
    check_options(own, format, os.fspath(path))
    context = ExportContext(own.pop("input", None), dict(metadata or {}), own, origin)
    if origin is not None and format.origin_beside and (provenance := origin()) is not None:
        context.metadata["origin"] = provenance
    with replacing(path, force=force, inputs=inputs, parts=obsolete_shards if format.several else None) as temporary:
        with plain_settings(module):
            format.write(module, temporary, context)
            with reading_back(path):
                format.verify(module, temporary, context)
        if on_verified is not None:
            on_verified(temporary)
    if notes is not None:
        notes += context.notes


def _check_module(module: nn.Module, path: StrPath, format: Format) -> None:
    check_tensors(module)
    if not format.models:
        others = ", ".join(suffix for suffix in suffixes() if format_named(suffix).models)
        raise ConversionError(
            f"{path}: the input contains a model, and {format.suffix} stores only data; use {others}, or select data "
            "with key= (--key)"
        )
    if isinstance(module, Models) and format.program:
        keys = ", ".join(module.keys())
        raise ConversionError(
            f"{path}: {format.suffix} stores one model; select one with key= (--key), or --all: {keys}"
        )
