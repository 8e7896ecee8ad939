"""Load Python files of users that register Lua classes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path

from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.checksum import sha256_of
from dpnn_bridge.base.exclusive import Exclusive
from dpnn_bridge.base.import_file import import_file
from dpnn_bridge.base.regular import MAX_BYTES, check_file
from dpnn_bridge.conversion import registry
from dpnn_bridge.errors import ConversionError, NotT7Error, OptionError
from dpnn_bridge.outputs.required import with_required

#: path of a plugin -> name of its module, and checksums of the files that it uses, at the time when it ran
_loaded: dict[Path, tuple[str, dict[str, str]]] = {}


def load_plugins(plugins: Sequence[StrPath]) -> list[Path]:
    """Run Python files that register classes with ``@lua_class``.

    Each file runs once, and again after the file, or a file that it uses (:func:`with_required`), has changed. Its
    classes stay registered until the process ends.

    Returns:
        All registered plugins, beginning with those of earlier calls.

    Raises:
        OptionError: a file is missing.
        ConversionError: a file raises when it runs.
    """
    for plugin in plugins:
        path = Path(os.path.realpath(plugin))  # resolve() raises an error for circular links
        try:
            check_file(plugin, MAX_BYTES, names="")
        except NotT7Error as error:
            raise OptionError(f"plugins= (--plugin): {error}") from error
        with Exclusive(path):
            wrap_errors(ConversionError, f"loading the plugin {plugin}")(_update)(path)
    return [path for path in list(_loaded) if os.path.exists(path)]


def _update(path: Path) -> None:
    """Run a plugin that has not run yet, or that has changed since it ran."""
    files = _checksums(path)
    name, previous = _loaded.get(path, ("", {}))
    if files == previous:
        return
    _loaded.pop(path, None)
    if name:
        registry.unregister(name)
        imported = (previous.keys() | files.keys()) - {str(path)}
        for module_name, module in list(sys.modules.items()):
            if os.path.realpath(getattr(module, "__file__", None) or "") in imported:
                del sys.modules[module_name]
        # Python would use the cached byte code of a file that changed in the same second without changing its size
        for file in (name for name in imported if name.endswith(".py")):
            with suppress(OSError):
                os.unlink(cache_from_source(file))
    name = import_file(path, "dpnn_bridge_plugin", name, registry.unregister).__name__
    code = {file: checksum for file, checksum in files.items() if file.endswith(".py")}
    _loaded[path] = name, _checksums(path) | code  # the plugin may have written data files


def _checksums(path: Path) -> dict[str, str]:
    return {os.path.realpath(file): sha256_of(file) for file in with_required([path], python=True)}
