"""The way through the package: no file imports in a circle, no room imports one above it, no file grows too long."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[2] / "dpnn_bridge"

#: rooms from the ground up: a file imports from its own room and from those before it. Single files of the package
#: root are rooms of their own, and so may be a file of a room; what is not named here belongs to the folder above it.
ROOMS = (
    "base/display",
    "base/elements",
    "base/exclusive",
    "errors",
    "objects",
    "base",
    "torch7",
    "loaders",
    "compare",
    "conversion",
    "checkpoints",
    "training",
    "optim",
    "modules/nn",
    "modules/nnx",
    "modules/cuda",
    "modules/dpnn",
    "modules/rnn",
    "modules/facebook",
    "modules",
    "zoo",
    "memory",
    "outputs",
    "outputs/py",
    "outputs/formats",
    "outputs/writing",
    "outputs/__init__",  # exports names of the three before
    "lua",
    "plugins",
    "legacy/fields",
    "legacy/lua_graph",
    "legacy/unpickler",
    "legacy/pickles",
    "files",
    "files/converting",
    "torchfile",
    "legacy",
    "files/checkpoint",
    "files/summary",
    "batch",
    "parity",
    "porting",
    "pictures",
    "pytest_plugin",
    "cli",
    "__main__",
    "__init__",
)

LONGEST = 400


@cache
def sources() -> dict[str, Path]:
    """Module name -> file of every module of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path, nodes: Iterable[ast.AST], modules: Mapping[str, Path]) -> set[str]:
    """The modules that nodes of a file import."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.update(full if (full := f"{base}.{a.name}") in modules else base for a in node.names)
    return (found & modules.keys()) - {name}


@cache
def imports() -> dict[str, set[str]]:
    """Module -> modules that it imports, inside functions and for type checkers too."""
    return {n: imported(n, path, ast.walk(ast.parse(path.read_text())), sources()) for n, path in sources().items()}


def room(name: str) -> str:
    """The room of a module: the longest of :data:`ROOMS` that its path begins with."""
    path = sources()[name].relative_to(PACKAGE).with_suffix("").as_posix()
    return max((r for r in ROOMS if path == r or path.startswith(f"{r}/")), key=len, default="")


def test_every_file_has_a_room() -> None:
    assert [name for name in sources() if not room(name)] == []


def test_the_page_about_the_architecture_names_every_room() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = {name.rstrip("/").removeprefix("modules/") for name in re.findall(r"`([\w/]+)`", page)}
    places = [path.relative_to(PACKAGE).with_suffix("").parts for path in sources().values()]
    rooms = {place[1 if place[0] == "modules" else 0] for place in places}
    assert {room for room in rooms if not room.startswith("_")} <= named
    assert {room.removeprefix("modules/") for room in ROOMS if not room.endswith("__")} <= named


def test_the_table_of_the_architecture_has_the_order_of_the_rooms() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    table, early = (
        page.partition("## Subpackages")[2],
        page.partition("Some files come before")[2].partition("`tests/")[0],
    )
    labels = re.findall(r"^\| (`.+?`) \|", table.partition("**Public API.**")[0], re.MULTILINE)
    listed = re.findall(r"`([\w/]+?)/?`", " ".join(labels))
    assert listed == [room for room in ROOMS if room in listed]
    place = {name: i for i, name in enumerate(ROOMS)}
    folders = {
        room: room.rpartition("/")[0] for room in ROOMS if room not in listed and not room.startswith("modules/")
    }
    before = {room for room, folder in folders.items() if folder in place and place[room] < place[folder]}
    assert before == {name for name in re.findall(r"`([\w/]+)`", early) if name in folders}


def test_no_import_of_a_file_waits_for_exported_names() -> None:
    """A thread that waits for the lock of these names must hold no lock of a module (``base/lazy_exports``)."""
    texts = {name: path.read_text() for name, path in sources().items()}
    found = []
    for package in (name for name, text in texts.items() if "lazy_exports(__name__" in text):
        face: Any = importlib.import_module(package)
        exported = inspect.getclosurevars(face.__getattr__).nonlocals.get("modules") or face._MODULES
        statement = re.compile(rf"^from {re.escape(package)} import (\([^)]*\)|.*)$", re.MULTILINE)
        found += [
            (n, package, m[1])
            for n, t in texts.items()
            for m in statement.finditer(t)
            if exported.keys() & set(re.findall(r"\w+", m[1]))
        ]
    assert found == []


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a file is imported; not those for type checkers, not those inside functions."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from statements([*([] if "TYPE_CHECKING" in ast.unparse(node.test) else node.body), *node.orelse])
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            children = ("body", "orelse", "finalbody")
            for inner in (node, *getattr(node, "handlers", ())):
                yield from statements(s for name in children for s in getattr(inner, name, ()))


def waits(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    """Module -> modules whose import it waits for: those that it imports, their packages, and its own package."""
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        names = {name, *imported(name, path, statements(ast.parse(path.read_text()).body), modules)}
        packages = {str(package) for n in names for package in accumulate(n.split("."), "{}.{}".format)}
        found[name] = (packages & modules.keys()) - {name}
    return found


#: packages that import their own modules, which no other module imports directly
OWN = ("dpnn_bridge.legacy.nn", "dpnn_bridge.lua.thnn")


def test_no_package_waits_for_its_own_modules() -> None:
    """Python fails if a thread imports such a package, and another thread one of these modules at the same time."""
    graph = waits(sources())
    for package in OWN:
        graph[package] = {name for name in graph[package] if not name.startswith(f"{package}.")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        raise AssertionError("these wait for each other: " + " -> ".join(reversed(e.args[1]))) from None


def test_a_package_that_waits_for_its_own_modules_is_found(tmp_path: Path) -> None:
    texts = {
        "p": "from p.a import A",
        "p.a": "try:\n    from p import b\nexcept ImportError:\n    pass",
        "p.b": "if TYPE_CHECKING:\n    from p.c import C\ndef f():\n    import p.c",
        "p.c": "import p.b",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    graph = waits({name: tmp_path / name for name in texts})
    assert graph == {"p": {"p.a"}, "p.a": {"p", "p.b"}, "p.b": {"p"}, "p.c": {"p", "p.b"}}


def test_modules_of_such_a_package_are_imported_by_nothing_else() -> None:
    inside = tuple(f"{package}." for package in OWN)
    others = {name: found for name, found in waits(sources()).items() if not f"{name}.".startswith(inside)}
    assert {name: own for name, found in others.items() if (own := {f for f in found if f.startswith(inside)})} == {}


def test_no_circle() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as e:
        raise AssertionError("imports in a circle: " + " -> ".join(reversed(e.args[1]))) from None


def test_no_import_upwards() -> None:
    upwards = [
        f"{name} ({room(name)}) imports {other} ({room(other)})"
        for name, others in imports().items()
        for other in sorted(others)
        if ROOMS.index(room(other)) > ROOMS.index(room(name))
    ]
    assert upwards == []


def test_no_file_is_too_long() -> None:
    files = [*sources().values(), *PACKAGE.rglob("*.lua")]
    lengths = {path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in files}
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}
