"""The source of classes together with everything of dpnn_bridge that they use."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from functools import lru_cache
from types import ModuleType

from dpnn_bridge.errors import ConversionError

PACKAGE = "dpnn_bridge."


@lru_cache
def _top_level(module: ModuleType) -> tuple[str, dict[str, ast.stmt]]:
    """A module's source and its top-level statements by the names they bind."""
    source = inspect.getsource(module)
    names: dict[str, ast.stmt] = {}
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names[node.name] = node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update({(a.asname or a.name).partition(".")[0]: node for a in node.names})
        elif isinstance(node, ast.Assign):
            names.update({t.id: node for t in node.targets if isinstance(t, ast.Name)})
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
    return source, names


class SourceClosure:
    """Collects definitions in the order in which they can stand in one file."""

    def __init__(self) -> None:
        self._imports: set[str] = {"import torch", "from torch import nn"}
        self._definitions: dict[tuple[str, str], str] = {}
        self._names: dict[str, tuple[str, str]] = {}

    def add_class(self, cls: type) -> str:
        """Makes a class available and returns the expression that names it."""
        if cls.__module__.startswith("torch.nn."):
            return f"nn.{cls.__qualname__}"
        if not cls.__module__.startswith(PACKAGE):
            raise ConversionError(f"{cls.__module__}.{cls.__qualname__} is defined outside dpnn_bridge and PyTorch")
        self._add(sys.modules[cls.__module__], cls.__qualname__)
        return cls.__qualname__

    def imports(self) -> str:
        """All import statements as isort arranges them: the standard library, then PyTorch."""
        plain = {s for s in self._imports if s.startswith("import")}
        names: dict[str, set[str]] = {}
        for statement in self._imports - plain:
            _, home, _, name = statement.split(" ", 3)
            names.setdefault(home, set()).add(name)
        lines = sorted(plain) + [f"from {home} import {', '.join(sorted(n))}" for home, n in sorted(names.items())]
        groups: tuple[list[str], list[str]] = [], []
        for line in lines:
            groups[line.split(" ")[1].partition(".")[0] not in sys.stdlib_module_names].append(line)
        return "\n\n".join("\n".join(group) for group in groups if group)

    def definitions(self) -> list[str]:
        """All definitions, each after those it uses."""
        return list(self._definitions.values())

    def _add(self, module: ModuleType, name: str) -> None:
        key = (module.__name__, name)
        if key in self._definitions:
            return
        source, names = _top_level(module)
        node = names.get(name)
        if node is None:
            return  # a builtin, or a name of an inner scope
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self._add_import(module, node, name)
            return
        if self._names.setdefault(name, key) != key:
            raise ConversionError(f"{name} is defined in both {self._names[name][0]} and {module.__name__}")
        self._definitions[key] = ""  # stands in cycles
        for used in sorted({n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - {name}):
            self._add(module, used)
        del self._definitions[key]
        self._definitions[key] = _segment(source, node)

    def _add_import(self, module: ModuleType, node: ast.Import | ast.ImportFrom, name: str) -> None:
        alias = next(a for a in node.names if (a.asname or a.name).partition(".")[0] == name)
        if isinstance(node, ast.ImportFrom):
            home = ("." * node.level) + (node.module or "")
            if home == "__future__":
                return
            if node.level or home.startswith(PACKAGE) or home == PACKAGE[:-1]:
                if alias.asname:
                    raise ConversionError(f"{alias.name} is imported under another name in {module.__name__}")
                target = importlib.import_module(home, module.__package__)
                if isinstance(getattr(target, name, None), ModuleType):
                    raise ConversionError(f"{module.__name__} uses the module {name} as a whole")
                self._add(target, name)
                return
            self._imports.add(f"from {home} import {alias.name}" + (f" as {alias.asname}" if alias.asname else ""))
        else:
            self._imports.add(f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else ""))


def _segment(source: str, node: ast.stmt) -> str:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)])
    return "\n".join(source.splitlines()[first - 1 : node.end_lineno])
