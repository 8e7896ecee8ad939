"""Find the Lua file that ``require`` names, in checkouts and rock trees of any layout."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from dpnn_bridge.base.regular import read_file
from dpnn_bridge.errors import NotT7Error

#: folders in which a checkout keeps its Lua files; a package may be a folder or a file in each of them
_INSIDE = ("", "lua", "src", "lib")
#: where LuaRocks installs Lua files
_TREES = ("share/lua/5.1", "lua_modules/share/lua/5.1")
#: what names of repositories add to the name of a package: lua---nnx, torch-autograd, rnn-master
_DECORATION = re.compile(r"^(lua-+|torch7?-+)|[.-]+(torch7?|lua|master|main)$", re.IGNORECASE)
_PACKAGE = re.compile(r"""^\s*package\s*=\s*["']([^"']+)["']""", re.MULTILINE)
_MODULE = re.compile(r"""(?:\[\s*["']([^"']+)["']\s*\]|\b(\w+))\s*=\s*["']([^"']+\.lua)["']""")


@lru_cache(maxsize=1024)
def _rockspec(folder: Path) -> tuple[set[str], dict[str, str]]:
    """Return the names of the rocks of a checkout and the files of the modules that they list."""
    names: set[str] = set()
    modules: dict[str, str] = {}
    for path in (*sorted(folder.glob("rock*/*.rockspec")), *sorted(folder.glob("*.rockspec"))):  # the last one counts
        try:
            text = read_file(path).decode("latin-1")
        except NotT7Error:  # no regular file: a link of a checkout may name a device
            continue
        names.update(_PACKAGE.findall(text))
        modules |= {quoted or plain: file for quoted, plain, file in _MODULE.findall(text)}
    return names, modules


def _folders(root: Path) -> list[Path]:
    return [root, *sorted(p for p in root.iterdir() if p.is_dir())]


def _checkouts(root: Path, package: str, name: str, any_case: bool) -> Iterator[tuple[Path, Path | None]]:
    """Yield folders of ``root`` that are a checkout of the package, with the file that a rockspec names."""
    for folder in _folders(root):
        names, modules = _rockspec(folder)
        listed = folder / modules[name] if name in modules else None
        names = names | {_DECORATION.sub("", folder.name)}
        if listed or package in names or (any_case and package.lower() in map(str.lower, names)):
            yield folder, listed


def _inside_others(root: Path, package: str, rest: Sequence[str]) -> Iterator[Path]:
    """Yield files of folders of other names that have a folder of the package."""
    for folder in _folders(root):
        for home in (folder / "lua" / package, folder / package):
            if (home / "init.lua").is_file():
                yield from _plain(home.parent, package, rest)


def _candidates(home: Path, package: str, rest: Sequence[str]) -> Iterator[Path]:
    """Yield the files that may be the module in a checkout, best first."""
    for inside in _INSIDE:
        for folder in (home / inside, home / inside / package):
            inner = folder.joinpath(*rest) if rest else folder
            yield inner / "init.lua"
            yield inner.with_name(f"{inner.name}.lua") if rest else inner / f"{package}.lua"


def _plain(root: Path, package: str, rest: Sequence[str]) -> Iterator[Path]:
    """Yield the files that Lua's own search finds below ``root``, or in ``root`` as the package."""
    home = root if (root / "init.lua").is_file() and root.name == package else root / package
    inner = home.joinpath(*rest)
    yield inner.with_name(f"{inner.name}.lua")
    yield inner / "init.lua"


def _in_tests(home: Path, rest: Sequence[str]) -> Iterator[Path]:
    """Yield files of that name one folder deeper: a checkout keeps its tests in a folder of their own."""
    return iter(sorted(home.glob(f"*/{glob.escape(rest[-1])}.lua"))) if rest else iter(())


def _all(root: Path, package: str, rest: Sequence[str], name: str, any_case: bool) -> Iterator[Path]:
    yield from _plain(root, package, rest)
    for tree in _TREES:
        yield from _plain(root / tree, package, rest)
    homes = [(root / package, None)] if (root / package).is_dir() else []
    homes += [found for found in _checkouts(root, package, name, any_case) if found[0] != root / package]
    for home, listed in homes:
        yield from _candidates(home, package, rest)
        yield from (listed,) if listed else ()  # last: rockspecs of earlier versions name files that moved
    yield from _inside_others(root, package, rest)
    for home, _ in homes:
        yield from _in_tests(home, rest)


def find_module(roots: Sequence[Path], name: str, *, any_case: bool = True) -> str | None:
    """Find the file of a Lua module below folders, whatever the layout of the checkouts in them.

    ``a.b`` is ``a/b.lua`` or ``a/b/init.lua``, also below ``lua``, ``src`` or ``lib`` of a checkout. A folder is a
    checkout of ``a`` if its name is ``a`` up to case and additions such as ``torch-``, if its rockspec says so, or if
    it has ``a/init.lua`` or ``lua/a/init.lua``. A rockspec that lists the module names a file elsewhere. Without
    ``any_case``, a folder or rock whose name differs in its case is none: ``RNN`` may be a file beside the script.
    """
    if "\0" in name or Path(name).is_absolute() or ".." in re.split(r"[/\\]", name):
        return None  # it would leave the path
    package, *rest = name.split(".")
    if not all((package, *rest)) or any(part.startswith(("/", "\\")) for part in rest):
        return None
    files = (file for root in roots for file in _all(root, package, rest, name, any_case))
    return next((str(file) for file in files if file.is_file()), None)
