"""Load Python files of users that register Lua classes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import cache_from_source
from pathlib import Path

from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.checksum import sha256_of
from dpnn_bridge.base.exclusive import Exclusive
from dpnn_bridge.base.import_file import import_file, importing_from
from dpnn_bridge.base.regular import MAX_BYTES, check_file
from dpnn_bridge.conversion import registry
from dpnn_bridge.errors import ConversionError, NotT7Error, OptionError
from dpnn_bridge.outputs.required import with_required

#: path of a plugin -> name of its module, and checksums of the files that it uses, at the time when it ran
_loaded: dict[Path, tuple[str, dict[str, str]]] = {}
#: the plugins of each running :func:`only_plugins`, and the plugins that such calls loaded
_running: list[frozenset[Path]] = []
_temporary: set[Path] = set()


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
    if files == _loaded.get(path, ("", {}))[1]:
        return
    if _running and path not in _loaded:
        _temporary.add(path)
    name = _forget(path, files)
    with importing_from(str(path.parent), first=False):
        name = import_file(path, "dpnn_bridge_plugin", name, registry.unregister).__name__
    code = {file: checksum for file, checksum in files.items() if file.endswith(".py")}
    _loaded[path] = name, _checksums(path) | code  # the plugin may have written data files


def _forget(path: Path, files: Iterable[str] = ()) -> str:
    """Remove the mappings of a plugin, and the modules of the files that it uses; return the name of its module.

    Args:
        path: the plugin.
        files: files that the plugin uses now, in addition to those that it used when it ran.
    """
    name, previous = _loaded.pop(path, ("", {}))
    if not name:
        return ""
    registry.unregister(name)
    imported = (previous.keys() | set(files)) - {str(path)}
    for module_name, module in list(sys.modules.items()):
        if os.path.realpath(getattr(module, "__file__", None) or "") in imported:
            del sys.modules[module_name]
    # Python would use the cached byte code of a file that changed in the same second without changing its size
    for file in (file for file in imported if file.endswith(".py")):
        with suppress(OSError):
            os.unlink(cache_from_source(file))
    return name


@contextmanager
def only_plugins(plugins: Sequence[StrPath]) -> Iterator[None]:
    """Remove the plugins that other calls loaded inside this context manager, for a process that serves many programs.

    A call with other plugins waits until this call ends. Plugins stay registered after a call, so that the next call
    with the same plugins does not run them again.
    """
    wanted = frozenset(Path(os.path.realpath(plugin)) for plugin in plugins)
    while not _starts(wanted):
        time.sleep(0.01)
    try:
        yield
    finally:
        with Exclusive(only_plugins):
            _running.pop()


def _starts(wanted: frozenset[Path]) -> bool:
    """Return whether a call with these plugins may run now, and register the call."""
    with Exclusive(only_plugins):
        if any(plugins != wanted for plugins in _running):
            return False
        for path in _temporary - wanted:
            sys.modules.pop(_forget(path), None)
        _temporary.intersection_update(wanted)
        _running.append(wanted)
        return True


def _checksums(path: Path) -> dict[str, str]:
    return {os.path.realpath(file): sha256_of(file) for file in with_required([path], python=True)}
