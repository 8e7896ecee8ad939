"""Writes a model in the format that the suffix of the output names.

Each format is one function that writes and one that reads back and compares; an output appears only after both.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from dpnn_bridge.base.atomic import StrPath, replacing
from dpnn_bridge.base.boundary import raises
from dpnn_bridge.base.suffixes import INDEX, OUTPUTS, PICKLED, index_of
from dpnn_bridge.errors import ConversionError, OptionError
from dpnn_bridge.modules.several import Models
from dpnn_bridge.outputs.made_of import OPTIONS

#: formats that hold what one forward does, not several models
ONE_FORWARD = (".py", ".onnx", ".pt2")


@dataclass
class Job:
    """What a format may need beside the module.

    Attributes:
        example: an input of the model, for formats that trace it and to compare outputs.
        metadata: plain data stored with the model where the format has a place for it.
        options: of one format, such as ``tensor_type`` for ``.t7``.
        origin: gives what the model was made of, see :func:`dpnn_bridge.outputs.made_of.origin_text`, once that is
            worked out; in most formats it is in the metadata.
        written: what ``write`` keeps for ``verify`` to compare the file with.
    """

    example: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    origin: Callable[[], str] | None = None
    written: Any = None


class Format(Protocol):
    """The functions of a format's module."""

    def write(self, module: nn.Module, path: Path, job: Job) -> None:
        """Writes the model."""
        ...

    def verify(self, module: nn.Module, path: Path, job: Job) -> None:
        """Reads the file back and raises VerificationError when it is not the same model."""
        ...

    def origin(self, path: Path) -> str | None:
        """What :attr:`Job.origin` gave when the file was written; any error when it is not whole, or another file."""
        ...


def suffix_of(path: StrPath, to: str | None = None) -> str:
    """The format of an output: ``to`` (with or without dot), else the suffix of ``path`` or of an index.

    Raises:
        ConversionError: no such format.
    """
    suffix = f".{to.lstrip('.')}" if to else Path(path).suffix
    if suffix == (".safetensors" if to else ".json") and os.fspath(path).endswith(INDEX):
        return INDEX
    if suffix not in OUTPUTS:
        raise ConversionError(f"{path}: cannot write {suffix or 'a file without suffix'}; choose {', '.join(OUTPUTS)}")
    return suffix


def format_of(path: StrPath, to: str | None = None) -> Format:
    """The module of the format that :func:`suffix_of` names."""
    name = (OUTPUTS | {INDEX: "shards"})[suffix_of(path, to)]
    return importlib.import_module(f"{__name__}.{name}")  # type: ignore[return-value]


@raises(ConversionError, "writing")
def export(
    module: nn.Module,
    path: StrPath,
    *,
    to: str | None = None,
    example: Any = None,
    metadata: dict[str, Any] | None = None,
    force: bool = False,
    inputs: Sequence[StrPath] = (),
    seal: Callable[[Path], None] | None = None,
    origin: Callable[[], str] | None = None,
    **options: Any,
) -> None:
    """Writes ``module`` to ``path``, reads the file back, compares, and only then lets it appear.

    Args:
        module: a converted module.
        path: the output; its suffix chooses the format.
        to: format name when the suffix does not say it.
        example: one input of the model; ``.onnx`` and ``.pt2`` need it, ``.py`` compares outputs with it.
        metadata: plain data to store beside the model.
        force: replace an existing file.
        inputs: files that are never replaced.
        seal: called with the file once it is verified, before it appears.
        origin: see :class:`Job`.
        **options: of the format.

    Raises:
        ConversionError: the format is unknown, lacks something, or cannot hold this model.
        OptionError: the format has no such option.
        VerificationError: what was read back differs; nothing was written.
        OutputError: the file cannot be written there, see :func:`dpnn_bridge.base.atomic.replacing`.
    """
    suffix = suffix_of(path, to)
    if isinstance(module, Models) and suffix in ONE_FORWARD:
        keys = ", ".join(module.keys())
        raise ConversionError(f"{path}: {suffix} holds one model; choose one with key= (--key), or --all: {keys}")
    if options.get("max_shard_size") is not None and suffix != INDEX:
        if suffix != ".safetensors":
            raise ConversionError(f"{path}: only .safetensors is written in shards, --max-shard-size")
        path, suffix = index_of(path), INDEX
    handler = format_of(path, to)
    _check_options(options, OPTIONS.get(suffix, ()), f"{path}: {suffix}")
    job = Job(example, metadata or {}, options, origin)
    if origin is not None and suffix not in PICKLED:
        job.metadata = {**job.metadata, "origin": origin()}
    with replacing(path, force=force, inputs=inputs, parts=suffix == INDEX) as temporary:
        handler.write(module, temporary, job)
        handler.verify(module, temporary, job)
        if seal is not None:
            seal(temporary)


def _check_options(options: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    unknown = sorted(options.keys() - set(known))
    if unknown:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise OptionError(f"{where} has no option {', '.join(unknown)}; {takes}")
