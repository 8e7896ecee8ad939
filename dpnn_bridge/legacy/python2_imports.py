"""The modules that a file of a program imports, as far as they are files of the program themselves."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

#: methods of dicts that only Python 2 has -> number of arguments
METHODS = {"has_key": 1, "iteritems": 0, "iterkeys": 0, "itervalues": 0}
#: installed packages whose objects have none of these methods
_WITHOUT_METHODS = {"PIL", "dpnn_bridge", "h5py", "numpy", "scipy", "torch", "torchfile", "torchvision"}
_IMPORTS = re.compile(r"(?m)(?:^|[:;])[ \t]*(?:from[ \t]+(\w+)[\w.]*[ \t]+import\b|import[ \t]+(\w[^#;\n]*))")
_RELATIVE = re.compile(r"(?m)(?:^|[:;])[ \t]*from[ \t]+(\.+)[ \t]*(\w*)[\w.]*[ \t]+import[ \t]*\(?([\w\s,]*)")
_DEFINED = re.compile(r"\bdef ({0})\b|\b({0})\s*=(?!=)|[\"']({0})[\"']".format("|".join(METHODS)))


def is_file(module: str, folder: Path) -> bool:
    """Return whether a module is a file or package of a folder."""
    return (folder / f"{module}.py").exists() or (folder / module / "__init__.py").exists()


def relative(level: int, module: str, names: Iterable[str], folder: Path) -> set[tuple[str, Path]]:
    """Return the modules that a file of ``folder`` imports with dots, each with the folder that contains it.

    Args:
        level: the number of dots.
        module: first part of the module's name; empty for ``from . import name``, which may import modules.
        names: the imported names.
        folder: the folder of the file.
    """
    base = [folder, *folder.parents][min(level - 1, len(folder.parents))]
    return {(name, base) for name in ([module] if module else ["__init__", *names])}


def methods_elsewhere(modules: Iterable[str | tuple[str, Path]], folder: Path) -> set[str]:
    """Return the methods of Python 2's dicts that objects of other classes may have in a file.

    They are the methods that imported files of the program define, also those that these files import. An installed
    package may define all of them: only the standard library and a few packages are known to have none.

    Args:
        modules: the modules that the file imports, those with dots as :func:`relative` returns them.
        folder: the folder of the file.
    """
    found: set[str] = set()
    pending, seen = [*modules], set[str | tuple[str, Path]]()
    while pending:
        module = pending.pop()
        if module in seen:
            continue
        seen.add(module)
        files = _files(module, folder) if isinstance(module, str) else _files_in(*module)
        if files is None:
            return set(METHODS)
        for path in files:
            defined, imported = _read(path, path.stat().st_mtime_ns)
            found |= defined
            pending += imported
    return found


def _files_in(module: str, folder: Path) -> list[Path]:
    """Return the files of a module in a folder."""
    return [path for path in (folder / f"{module}.py", *(folder / module).glob("**/*.py")) if path.is_file()]


def _files(module: str, folder: Path) -> list[Path] | None:
    """Return the files of a module of the program; None for an installed package that may have the methods."""
    if is_file(module, folder):
        return _files_in(module, folder)
    if module in sys.stdlib_module_names or module in _WITHOUT_METHODS:
        return []
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # a module that has no spec
        return None
    if spec is None:
        return []  # the import fails
    if spec.origin is not None and not spec.submodule_search_locations:
        paths = [Path(spec.origin)]
    else:
        paths = [path for entry in spec.submodule_search_locations or () for path in Path(entry).glob("**/*.py")]
    return None if any(map(is_installed, paths)) or not all(path.suffix == ".py" for path in paths) else paths


def is_installed(path: Path) -> bool:
    """Return whether a file is part of Python or of an installed package."""
    return "site-packages" in path.parts or path.is_relative_to(sys.prefix)


@functools.cache
def _read(path: Path, changed: int) -> tuple[frozenset[str], frozenset[str | tuple[str, Path]]]:
    """Return the methods of Python 2's dicts that a file defines, and the modules that it imports.

    Args:
        path: the file, which Python 3 perhaps cannot compile.
        changed: time of its last change.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    defined = frozenset(name for names in _DEFINED.findall(text) for name in names if name)
    imported = [name for one, several in _IMPORTS.findall(text) for name in (one, *several.split(","))]
    modules: set[str | tuple[str, Path]] = {m[0] for name in imported if (m := re.match(r"\w+", name.strip()))}
    for dots, module, names in _RELATIVE.findall(text):
        modules |= relative(len(dots), module, re.findall(r"\w+", names), path.parent)
    return defined, frozenset(modules)
