"""Find the files that a user's Lua and Python files may load, because their content can change the result too.

The files are not run. File names are searched in their source code, so the result does not depend on whether they were
loaded.
"""

from __future__ import annotations

import ast
import os
import re
import site
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.python_parser import parse
from dpnn_bridge.base.regular import MAX_BYTES, is_accepted, read_file
from dpnn_bridge.errors import T7LimitError

#: a name of a file, folder or module
_NAME = re.compile(r"[\w./-]+")
#: a comment in Lua, or a string in quotes or in long brackets; an escape outside a string is skipped
_STRING = re.compile(
    r"""
    --\[(?P<equals>=*)\[.*?(?:\](?P=equals)\]|\Z) | --[^\n]* | \\.
    | (?P<quote>['"])(?P<short>(?:(?!(?P=quote))[^\\\n]|\\.)*)(?P=quote)
    | \[(?P<level>=*)\[(?:(?P<long>.*?)\](?P=level)\]|.*)
    """,
    re.DOTALL | re.VERBOSE,
)
#: a file name
_FILE = re.compile(r"[^\0\n]{1,255}")
#: maximum number of paths that are looked up for the files of a sandbox
_MAX_PATHS = 1 << 19
#: Python attributes that give the parent folder
_PARENT_ATTRIBUTES = ("dirname", "parent", "parents")
#: folders of installed packages, which contain no files of the user
_INSTALLED = [Path(path).resolve() for path in (Path(os.__file__).parent, *site.getsitepackages())]
_INSTALLED += [Path(site.getusersitepackages()).resolve(), Path(__file__).resolve().parents[1]]

#: a function that finds the names of files and folders in a program
_FindNames = Callable[[bytes], tuple[list[str], list[str]]]


def with_required(paths: Sequence[StrPath], *, python: bool, sandbox: bool = False) -> list[StrPath]:
    """Return files and all files that they may load, recursively.

    A file may load every existing file whose name is in a string or an ``import`` statement, including data files.
    Names are relative to the folders of the files, to the current folder, and to folders whose names are in strings,
    because the file may add those to ``package.path`` or ``sys.path``. Python files may run Lua files; for Lua files,
    Python files are data.

    Args:
        paths: Lua or Python files.
        python: whether they are Python files. Files of installed packages are excluded.
        sandbox: whether the files run in a sandbox, which can read only Lua files in their folders and below.

    Raises:
        MissingFileError, NotT7Error: a file cannot be read.
        T7LimitError: files of a sandbox contain more names than can be searched for in a short time.
    """
    found, followed = dict[Path, StrPath](), set[Path]()
    queue: list[tuple[Path, StrPath, _FindNames | None]]
    queue = [(Path(os.path.realpath(path)), path, _names_in_python if python else _names_in_lua) for path in paths]
    searched = dict.fromkeys(file.parent for file, *_ in queue)
    roots = tuple(searched)
    if not sandbox:
        with suppress(OSError):  # the current folder was deleted
            searched[Path.cwd()] = None
    earlier = dict[tuple[str, _FindNames], None]()  # names in the files that were searched
    tried = 0

    def count(paths: int) -> None:
        nonlocal tried
        tried += paths
        if sandbox and tried > _MAX_PATHS:
            raise T7LimitError("contains too many names to find the files that it loads", source=str(path))

    def is_reachable(path: Path) -> bool:
        return not sandbox or any(map(path.is_relative_to, roots))

    while queue:
        file, path, names_in = queue.pop(0)
        found.setdefault(file, path)
        if names_in is None or file in followed:  # None: a data file
            continue
        followed.add(file)
        files, folders = names_in(read_file(file))
        known = len(searched)
        for _ in range(2):  # a path may consist of two strings: os.path.join(here, "..", "common")
            count(len(folders) * (len(searched) + 1))
            possible = [folder / name for folder in [*searched, file.parent] for name in folders]
            real = (Path(os.path.realpath(folder)) for folder in possible if os.path.isdir(folder))
            searched |= dict.fromkeys(filter(is_reachable, real))
        count(len(files) * (len(searched) + 1) + len(earlier) * (len(searched) - known))
        names = dict.fromkeys((name, names_in) for name in files)
        candidates = [(folder / name, by) for name, by in names for folder in [*searched, file.parent]]
        # require 'setup', then 'x'
        candidates += [(folder / name, by) for name, by in earlier for folder in [*searched][known:]]
        earlier |= names
        existing = [(Path(os.path.realpath(f)), f, by) for f, by in candidates if is_accepted(f)]
        if sandbox:
            existing = [(real, f, by) for real, f, by in existing if real.suffix == ".lua" and is_reachable(real)]
        queue += [(real, f, _program(real, by)) for real, f, by in existing if not is_installed(real)]
    return list(found.values())


def is_installed(path: Path) -> bool:
    """Return whether a file belongs to Python, to an installed package or to dpnn_bridge."""
    return any(map(path.is_relative_to, _INSTALLED))


def _names_in_lua(text: bytes) -> tuple[list[str], list[str]]:
    """Return the names of files that a Lua file may load, and of folders that it may search."""
    strings = _strings_in_lua(text.decode("utf-8", "surrogateescape"))
    strings += [inner for string in strings for inner in _strings_in_lua(string)]  # a string may contain a program
    names = list(dict.fromkeys(filter(_FILE.fullmatch, strings)))
    plain = [name for name in names if _NAME.fullmatch(name)]
    # entries of package.path, such as ./lib/?.lua
    searched = [pattern.partition("?")[0] for name in names for pattern in name.split(";") if "?" in pattern]
    stems = [name.replace(".", "/") for name in plain]
    files = [*_relative(names), *(f"{stem}{end}" for stem in stems for end in (".lua", "/init.lua"))]
    packages = [name.replace(".", "/") for name in plain if name.endswith(".")]  # require('layers.' .. name)
    return files, _relative([*plain, *packages, *filter(None, searched)])


def _strings_in_lua(text: str) -> list[str]:
    """Return the strings of a Lua program; of escapes only those of quotes and backslashes are replaced."""
    found = [(match["short"], match["long"]) for match in _STRING.finditer(text)]
    return [long or re.sub(r"""\\(["'\\])""", r"\1", short or "") for short, long in found]


def _relative(names: list[str]) -> list[str]:
    """Return names, and names with a leading slash also without it, because of strings as in ``folder .. "/a.lua"``."""
    return [*names, *(name.lstrip("/") for name in names if name.startswith("/"))]


def _names_in_python(text: bytes) -> tuple[list[str], list[str]]:
    """Return the names of files that a Python file may load, and of folders that it may search."""
    try:
        nodes = list(ast.walk(parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # reported when the file is loaded
        return [], []
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    texts = [text for text in dict.fromkeys(texts) if _FILE.fullmatch(text)]
    strings = [text for text in texts if _NAME.fullmatch(text)]
    up = [node.attr for node in nodes if isinstance(node, ast.Attribute) and node.attr in _PARENT_ATTRIBUTES]
    up += [node.id for node in nodes if isinstance(node, ast.Name) and node.id == "dirname"]
    if "parents" in up or len(up) > 1:  # Path(__file__).parents[1], dirname(dirname(__file__))
        strings.append("..")
    modules = [name if "/" in name else name.replace(".", "/").lstrip("/") for name in strings]
    for node in nodes:
        if isinstance(node, ast.Import):
            modules += [alias.name.replace(".", "/") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above, package = "../" * (node.level - 1), (node.module or "").replace(".", "/")
            modules += [f"{above}{package}/{alias.name}".removeprefix("/") for alias in node.names]
    # importing a.b.c also loads a/__init__.py and a/b/__init__.py
    stems = dict.fromkeys(stem for name in modules for stem in accumulate(name.split("/"), "{}/{}".format))
    files = [*_relative(texts), *(f"{stem}{end}" for stem in stems for end in (".py", "/__init__.py"))]
    return files, _relative(strings)


#: function for a program -> suffix of a program that it may run -> function that finds the names in that program
_RUNS: dict[_FindNames, dict[str, _FindNames]] = {
    _names_in_python: {".py": _names_in_python, ".lua": _names_in_lua},
    _names_in_lua: {".lua": _names_in_lua},
}


def _program(file: Path, by: _FindNames) -> _FindNames | None:
    """Return the function that finds the names in a file; None if the file is data for the program that names it.

    Args:
        file: the file. Files above the size limit of programs are data.
        by: function that finds the names in the program.
    """
    names_in = _RUNS[by].get(file.suffix)
    return names_in if names_in is not None and os.path.getsize(file) <= MAX_BYTES else None
