"""Find the output formats. Each format is one file, named after its suffix, with ``_`` for a dot inside the suffix.

Each file defines ``FORMAT``, a :class:`~dpnn_bridge.outputs.format.Format`. There is no other list of formats.
Listing the suffixes does not import PyTorch.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING

from dpnn_bridge.base.suffixes import INDEX
from dpnn_bridge.errors import ConversionError, NotT7Error

if TYPE_CHECKING:
    from dpnn_bridge.outputs.format import Format


def suffixes() -> list[str]:
    """Return the suffixes of all formats, without the index of a sharded ``.safetensors`` model."""
    return [suffix for suffix in _modules() if suffix != INDEX]


def suffix_of(path: str | os.PathLike[str], to: str | None = None) -> str:
    """Return the suffix of the format of a file.

    Args:
        path: the file.
        to: suffix of the format, with or without a dot; default: from the name of the file.

    Raises:
        ConversionError: there is no such format.
    """
    name, known = PurePath(path).name, _modules()
    suffix = f".{to.lstrip('.')}" if to else PurePath(path).suffix
    if name.endswith(INDEX) and suffix == (".safetensors" if to else ".json"):
        return INDEX
    if suffix not in known:
        found = suffix or "a file without a suffix"
        raise ConversionError(f"{path}: cannot write {found}; use one of {_listed()}")
    return suffix


def format_of(path: str | os.PathLike[str]) -> Format:
    """Return the format of a file; for errors see :func:`suffix_of`."""
    return format_named(suffix_of(path))


def format_of_input(path: str | os.PathLike[str]) -> Format:
    """Return the format of a file that is read.

    Raises:
        NotT7Error: no format has its suffix.
    """
    found = _format_at(path)
    if found is None:
        what = f"the suffix {PurePath(path).suffix}" if PurePath(path).suffix else "no suffix"
        raise NotT7Error(
            f"{path}: not a converted file: it has {what}; rename it, if its suffix was one of {_listed()}"
        )
    return found


def format_named(suffix: str) -> Format:
    """Return the format of a suffix."""
    return importlib.import_module(_modules()[suffix]).FORMAT


def is_converted_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file has the suffix of a format with :attr:`Format.loads`, which excludes ``.t7``."""
    found = _format_at(path)
    return found is not None and found.loads


def is_data_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file has the suffix of a format without a program, so that reading the file executes nothing."""
    found = _format_at(path)
    return found is not None and not found.program


def _format_at(path: str | os.PathLike[str]) -> Format | None:
    name = os.fspath(path)
    suffix = INDEX if name.endswith(INDEX) else PurePath(name).suffix
    return format_named(suffix) if suffix in _modules() else None


def _listed() -> str:
    return ", ".join(suffixes())


def _modules() -> dict[str, str]:
    """Return suffix -> name of the Python module of the format."""
    return _modules_in(tuple(__path__))


@cache
def _modules_in(folders: tuple[str, ...]) -> dict[str, str]:
    return {f".{info.name.replace('_', '.')}": f"{__name__}.{info.name}" for info in pkgutil.iter_modules(folders)}
