"""Find the files that Lua and Python files of a user load, which decide the result of a conversion as well.

Nothing is run: what a file names is looked up, so that the answer is the same before and after the file is loaded.
"""

from __future__ import annotations

import ast
import os
import re
import site
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.regular import is_accepted, read_file

#: possible names of files, folders and modules
_NAME = re.compile(r"[\w./-]+")
#: a Lua string that may name a file, and a file name in any language
_STRING = re.compile(r"""['"]([^'"\\\n]{1,255})['"]|\[(=*)\[([^\n]{1,255}?)\]\2\]""")
_FILE = re.compile(r"[^\0\n]{1,255}")
#: Python attributes that give the folder of a file, or the one above
_UP = ("dirname", "parent", "parents")
#: folders of installed packages, which contain no files of the user
_INSTALLED = [Path(path).resolve() for path in (Path(os.__file__).parent, *site.getsitepackages())]
_INSTALLED.append(Path(__file__).resolve().parents[1])


def with_required(paths: Sequence[StrPath], *, python: bool, sandbox: bool = False) -> list[StrPath]:
    """Return files with those that they load from their folders, and so on.

    Args:
        paths: Lua files, which load what their strings name for ``require`` and ``dofile``; or Python files. Any other
            file that a string names counts as well: it may be a table of constants. Folders that the strings name are
            searched as well: the file may add them to ``package.path`` or ``sys.path``.
        python: they are Python files. These load what their ``import`` statements and their strings name. Installed
            packages do not count.
        sandbox: they run in a sandbox, which reads only Lua files below their folders. Nothing else that they name is
            looked at.

    Raises:
        MissingFileError, NotT7Error: a file cannot be read.
    """
    names_in: Callable[[bytes], tuple[list[str], list[str]]] = _names_in_python if python else _names_in_lua
    suffix = ".py" if python else ".lua"
    found = dict[Path, StrPath]()
    queue = [(Path(os.path.realpath(path)), path) for path in paths]
    homes = dict.fromkeys(file.parent for file, _ in queue)
    roots = tuple(homes)
    while queue:
        file, path = queue.pop(0)
        if file in found:
            continue
        found[file] = path
        if file.suffix != suffix and path not in paths:  # data
            continue
        files, folders = names_in(read_file(file))
        for _ in range(2):  # a folder may be named in two parts: os.path.join(here, "..", "common")
            places = [home / name for home in [*homes, file.parent] for name in folders]
            homes |= dict.fromkeys(Path(os.path.realpath(place)) for place in places if os.path.isdir(place))
        named = [home / name for name in files for home in [*homes, file.parent]]
        there = [(Path(os.path.realpath(f)), f) for f in named if is_accepted(f)]
        if sandbox:
            there = [(f, name) for f, name in there if f.suffix == suffix and any(map(f.is_relative_to, roots))]
        queue += [(real, f) for real, f in there if not is_installed(real)]
    return list(found.values())


def is_installed(path: Path) -> bool:
    """Return whether a file belongs to Python or to an installed package, whose content does not count."""
    return any(map(path.is_relative_to, _INSTALLED))


def _names_in_lua(text: bytes) -> tuple[list[str], list[str]]:
    """Return the files that a Lua file may load, and the folders that it may search."""
    found = _STRING.findall(text.decode("utf-8", "surrogateescape"))
    names = list(dict.fromkeys(short or long for short, _, long in found))
    plain = [name for name in names if _NAME.fullmatch(name)]
    searched = [pattern.partition("?")[0] for name in names for pattern in name.split(";") if "?" in pattern]
    stems = [name.replace(".", "/") for name in plain]
    files = [*_below(names), *(f"{stem}{end}" for stem in stems for end in (".lua", "/init.lua"))]
    return files, _below([*plain, *filter(None, searched)])  # the latter of package.path: ./lib/?.lua


def _below(names: list[str]) -> list[str]:
    """Return names of files or folders, also those that a folder stands in front of: ``f"{here}/scale.json"``."""
    return [*names, *(name.lstrip("/") for name in names if name.startswith("/"))]


def _names_in_python(text: bytes) -> tuple[list[str], list[str]]:
    """Return the files that a Python file may load, and the folders that it may search."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):  # loading it reports what is wrong
        return [], []
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    texts = [text for text in dict.fromkeys(texts) if _FILE.fullmatch(text)]
    strings = [text for text in texts if _NAME.fullmatch(text)]
    up = [node.attr for node in nodes if isinstance(node, ast.Attribute) and node.attr in _UP]
    if "parents" in up or len(up) > 1:  # Path(__file__).parents[1], dirname(dirname(__file__))
        strings.append("..")
    modules = [name if "/" in name else name.replace(".", "/") for name in strings]
    for node in nodes:
        if isinstance(node, ast.Import):
            modules += [alias.name.replace(".", "/") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above, package = "../" * (node.level - 1), (node.module or "").replace(".", "/")
            modules += [f"{above}{package}/{alias.name}".removeprefix("/") for alias in node.names]
    # a package runs its __init__.py before its modules
    stems = dict.fromkeys(stem for name in modules for stem in accumulate(name.split("/"), "{}/{}".format))
    return [*_below(texts), *(f"{stem}{end}" for stem in stems for end in (".py", "/__init__.py"))], _below(strings)
