"""Load Python files of users that register Lua classes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.exclusive import Exclusive
from dpnn_bridge.base.regular import MOST_BYTES, check_file
from dpnn_bridge.errors import ConversionError, NotT7Error, OptionError


def load_plugins(plugins: Sequence[StrPath]) -> None:
    """Run Python files that register classes with ``@lua_class``; each only once.

    Raises:
        OptionError: a file is missing.
        ConversionError: a file raises when it runs.
    """
    for plugin in plugins:
        path = Path(os.path.realpath(plugin))  # resolve() raises for links in a circle
        try:
            check_file(plugin, MOST_BYTES)
        except NotT7Error as error:
            raise OptionError(f"plugins= (--plugin): {error}") from error
        with Exclusive(path):
            if path not in _loaded_plugins:
                wrap_errors(ConversionError, f"loading the plugin {plugin}")(_import_file)(path)
                _loaded_plugins.add(path)


def _import_file(path: Path) -> None:
    """Run a Python file as a module that ``inspect`` and ``pickle`` find."""
    name = f"dpnn_bridge_plugin_{path.stem}"
    with Exclusive(_import_file):  # another thread may be importing a file of the same name
        while name in sys.modules:
            name += "_"
        loader = SourceFileLoader(name, str(path))
        spec = spec_from_file_location(name, path, loader=loader)
        assert spec is not None
        module = sys.modules[name] = module_from_spec(spec)
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


_loaded_plugins: set[Path] = set()
