"""Export names from the modules of a package, and import a module when one of its names is first used."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping, MutableSequence
from typing import Any

from dpnn_bridge.base.exclusive import Exclusive

LazyExports = tuple[Callable[[str], Any], Callable[[], list[str]]]


def importing() -> Exclusive:
    """Lock the first imports between threads.

    Python's own locks, one for each module, fail with an ImportError if one thread imports a package, which imports its
    modules, while another thread imports one of these modules. No module uses a name of :func:`lazy_exports` while it
    is imported, so a thread that waits for this lock holds no lock of a module of dpnn_bridge.
    """
    return Exclusive(importing)


def lazy_exports(package: str, modules: Mapping[str, str]) -> LazyExports:
    """Return ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: the ``__name__`` of the package.
        modules: exported name -> module that defines it, relative to ``dpnn_bridge``. A trailing dot, as in
            ``"legacy."``, means that the name is itself a module of that package.
    """

    def find(name: str) -> Any:
        module = modules.get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with importing():
            if module.endswith("."):
                value: Any = importlib.import_module(f"dpnn_bridge.{module}{name}".replace("..", "."))
            else:
                value = getattr(importlib.import_module(f"dpnn_bridge.{module}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return find, lambda: sorted(modules)


def lazy_family_exports(package: str, path: MutableSequence[str]) -> LazyExports:
    """Return ``__getattr__`` and ``__dir__`` of a package that export every public name of its modules.

    Args:
        package: the ``__name__`` of the package.
        path: the ``__path__`` of the package.
    """

    def names() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for info in pkgutil.iter_modules(path):
            for name, value in vars(importlib.import_module(f"{package}.{info.name}")).items():
                if getattr(value, "__module__", None) == f"{package}.{info.name}" and not name.startswith("_"):
                    found.setdefault(name, value)
        return found

    def find(name: str) -> Any:
        if name.startswith("_") or name not in (exported := names()):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, exported[name])
        return exported[name]

    return find, lambda: sorted(names())
