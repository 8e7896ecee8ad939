"""Export the names of a package's files, and import a file when one of its names is first used."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping, MutableSequence
from typing import Any

LazyExports = tuple[Callable[[str], Any], Callable[[], list[str]]]


def lazy_exports(package: str, homes: Mapping[str, str]) -> LazyExports:
    """Return ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: its ``__name__``.
        homes: name -> module that defines it, relative to ``dpnn_bridge``. With a dot at the end, as in ``"legacy."``,
            the name is itself a module, of that package.
    """

    def find(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if home.endswith("."):
            value: Any = importlib.import_module(f"dpnn_bridge.{home}{name}".replace("..", "."))
        else:
            value = getattr(importlib.import_module(f"dpnn_bridge.{home}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return find, lambda: sorted(homes)


def lazy_family_exports(package: str, path: MutableSequence[str]) -> LazyExports:
    """Export every class and function of the files of a package of module families, lazily.

    Args:
        package: its ``__name__``.
        path: its ``__path__``.
    """

    def names() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for info in pkgutil.iter_modules(path):
            for name, value in vars(importlib.import_module(f"{package}.{info.name}")).items():
                if getattr(value, "__module__", None) == f"{package}.{info.name}" and not name.startswith("_"):
                    found.setdefault(name, value)
        return found

    def find(name: str) -> Any:
        if name.startswith("_") or name not in (known := names()):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, known[name])
        return known[name]

    return find, lambda: sorted(names())
