"""Find the Lua file of a module for ``require``, in checkouts and LuaRocks trees of any layout."""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from dpnn_bridge.base.reading import retry_eagain
from dpnn_bridge.base.regular import read_file
from dpnn_bridge.errors import FileAccessError, NotT7Error

#: folders of a checkout that may contain its Lua files
_SOURCE_FOLDERS = ("", "lua", "src", "lib")
#: where LuaRocks installs Lua files
_TREES = ("share/lua/5.1", "lua_modules/share/lua/5.1")
#: prefixes and suffixes that repository names add to the package name: lua---nnx, torch-autograd, rnn-master
_AFFIXES = re.compile(r"^(lua-+|torch7?-+)|[.-]+(torch7?|lua|master|main)$", re.IGNORECASE)
_PACKAGE = re.compile(r"""^[^\S\n]*package\s*=\s*["']([^"']+)["']""", re.MULTILINE)
_MODULE = re.compile(r"""(?:\[\s*["']([^"']+)["']\s*\]|\b(\w+))\s*=\s*["']([^"']+\.lua)["']""")
#: errors of a disk, not of a path
_FAULTS = (errno.EIO, errno.ESTALE, errno.EAGAIN)


def _mode(path: str | os.PathLike[str]) -> int:
    """Return the mode of a file or folder; 0 if it is missing or inaccessible."""
    try:
        return retry_eagain(lambda: os.stat(path), os.fspath(path)).st_mode
    except ValueError:  # a name that no file can have
        return 0
    except OSError as error:
        if error.errno in _FAULTS:
            raise
        return 0


def _is_file(path: str | os.PathLike[str]) -> bool:
    return stat.S_ISREG(_mode(path))


def _is_folder(path: str | os.PathLike[str]) -> bool:
    return stat.S_ISDIR(_mode(path))


@lru_cache(maxsize=1024)
def _rockspec(folder: Path) -> tuple[set[str], dict[str, str]]:
    """Return the package names in the rockspecs of a checkout, and their list of modules: name -> file."""
    names: set[str] = set()
    modules: dict[str, str] = {}
    for path in (*sorted(folder.glob("rock*/*.rockspec")), *sorted(folder.glob("*.rockspec"))):  # the last one wins
        try:
            text = read_file(path).decode("latin-1")
        except (NotT7Error, FileAccessError):  # an untrusted checkout may contain a link to a device
            continue
        names.update(_PACKAGE.findall(text))
        modules |= {quoted or plain: file for quoted, plain, file in _MODULE.findall(text)}
    return names, modules


def _with_subfolders(root: Path) -> list[Path]:
    try:
        return [root, *sorted(filter(_is_folder, root.iterdir()))]
    except PermissionError:  # its files may be accessible by name
        return [root]


def _checkouts(root: Path, package: str, name: str, any_case: bool) -> Iterator[tuple[Path, Path | None]]:
    """Yield checkouts of the package, with the file of the module if a rockspec lists it: ``root`` and its folders."""
    for folder in _with_subfolders(root):
        names, modules = _rockspec(folder)
        listed = folder / modules[name] if name in modules else None
        names = names | {_AFFIXES.sub("", folder.name)}
        if listed or package in names or (any_case and package.lower() in map(str.lower, names)):
            yield folder, listed


def _in_other_checkouts(root: Path, package: str, rest: Sequence[str]) -> Iterator[Path]:
    """Yield candidates in checkouts of other packages that contain this package in a folder."""
    for folder in _with_subfolders(root):
        for inner in (folder / "lua" / package, folder / package):
            if _is_file(inner / "init.lua"):
                yield from _by_lua_rules(inner.parent, package, rest)


def _candidates(checkout: Path, package: str, rest: Sequence[str]) -> Iterator[Path]:
    """Yield the candidates in a checkout of the package, best first."""
    for inside in _SOURCE_FOLDERS:
        for folder in (checkout / inside, checkout / inside / package):
            inner = folder.joinpath(*rest) if rest else folder
            yield inner / "init.lua"
            yield inner.with_name(f"{inner.name}.lua") if rest else inner / f"{package}.lua"


def _by_lua_rules(root: Path, package: str, rest: Sequence[str]) -> Iterator[Path]:
    """Yield the candidates that Lua's own search finds below ``root``, which may also be the package's own folder."""
    folder = root if _is_file(root / "init.lua") and root.name == package else root / package
    inner = folder.joinpath(*rest)
    yield inner.with_name(f"{inner.name}.lua")
    yield inner / "init.lua"


def _one_folder_deeper(checkout: Path, rest: Sequence[str]) -> Iterator[Path]:
    """Yield candidates one folder deeper, such as the folder of the tests in a checkout."""
    return iter(sorted(checkout.glob(f"*/{glob.escape(rest[-1])}.lua"))) if rest else iter(())


def _all_candidates(root: Path, package: str, rest: Sequence[str], name: str, any_case: bool) -> Iterator[Path]:
    yield from _by_lua_rules(root, package, rest)
    for tree in _TREES:
        yield from _by_lua_rules(root / tree, package, rest)
    checkouts = [(root / package, None)] if _is_folder(root / package) else []
    checkouts += [found for found in _checkouts(root, package, name, any_case) if found[0] != root / package]
    for checkout, listed in checkouts:
        yield from _candidates(checkout, package, rest)
        yield from (listed,) if listed else ()  # last, because rockspecs of earlier versions list files that moved
    yield from _in_other_checkouts(root, package, rest)
    for checkout, _ in checkouts:
        yield from _one_folder_deeper(checkout, rest)


def find_module(roots: Sequence[Path], name: str, *, any_case: bool = True) -> str | None:
    """Find the file of a Lua module below folders, which may contain checkouts of any layout.

    ``a.b`` is ``a/b.lua`` or ``a/b/init.lua``, also below ``lua``, ``src`` or ``lib`` of a checkout, or the file that a
    rockspec lists for the module. A folder is a checkout of ``a`` if it is called ``a``, apart from affixes such as
    ``torch-``, if its rockspec names ``a``, or if it contains ``a/init.lua`` or ``lua/a/init.lua``.

    Args:
        roots: the folders.
        name: name of the module, as for ``require``.
        any_case: whether the name of a checkout may differ in case. ``RNN`` may be a file next to the script instead.

    Returns:
        Path of the file, or None.

    Raises:
        OSError: the disk fails.
    """
    if "\0" in name or Path(name).is_absolute() or ".." in re.split(r"[/\\]", name):
        return None  # a file outside the folders
    package, *rest = name.split(".")
    if not all((package, *rest)) or any(part.startswith(("/", "\\")) for part in rest):
        return None
    files = (file for root in roots for file in _all_candidates(root, package, rest, name, any_case))
    return next((str(file) for file in files if _is_file(file)), None)
