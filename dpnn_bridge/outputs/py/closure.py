"""Collect the source code of classes and of all definitions of their packages that they use."""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from itertools import chain, count
from types import ModuleType
from typing import Any

import torch
from torch import nn

from dpnn_bridge.base.python_parser import getsource, parse
from dpnn_bridge.conversion import tracing
from dpnn_bridge.errors import ConversionError

Key = tuple[str, str]  # name of a module, and a name in this module


class SourceClosure:
    """Collects definitions in the order of their dependencies, and the imports that they use."""

    def __init__(self) -> None:
        self._imports: set[str] = {"import torch", "from torch import nn"}
        self._order: list[Key] = []
        self._names: dict[Key, str] = {}
        self._taken = {"build", "load"}
        self._imported: dict[str, Any] = {"torch": torch, "nn": nn}
        self._candidates: dict[str, Iterator[str]] = {}

    def add(self, obj: Any) -> str:
        """Copy a class or function and return the expression for it, such as ``nn.Linear``.

        Raises:
            ConversionError: the definition cannot be copied.
        """
        if obj.__module__.startswith("torch.nn."):
            return f"nn.{obj.__qualname__}"
        if "." in obj.__qualname__:
            raise ConversionError(f"{obj.__qualname__} is defined in a function or class: .py cannot copy it")
        try:
            return self._add(sys.modules[obj.__module__], obj.__qualname__) or obj.__qualname__
        except (KeyError, OSError, TypeError) as e:
            raise ConversionError(
                f"the source of {obj.__module__}.{obj.__qualname__} is not available to be copied"
            ) from e

    def unique(self, name: str) -> str:
        """Reserve and return ``name``, with a number appended if the name is in use."""
        candidates = self._candidates.setdefault(name, chain([name], (f"{name}{i}" for i in count(2))))
        name = next(n for n in candidates if n not in self._taken and n not in self._imported)
        self._taken.add(name)
        return name

    def definitions(self) -> dict[str, str]:
        """Return the source code of all definitions by name, each after the definitions that it uses."""
        return {self._names[key]: self._text(key) for key in self._order}

    def imports(self) -> str:
        """Return all import statements in the order of isort: the standard library, then other packages."""
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

    def packages(self) -> list[str]:
        """Return the packages and modules that the code imports, without the standard library and those of PyTorch."""
        nodes = [n for t in (*self._imports, *self.definitions().values()) for n in ast.walk(parse(t))]
        plain = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
        names = plain | {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}
        found = {name.partition(".")[0] for name in names}
        return sorted(found - sys.stdlib_module_names - {"torch", "numpy", "typing_extensions"})

    # ------------------------------------------------------------------ dependencies
    def _add(self, module: ModuleType, name: str) -> str | None:
        """Copy the definition of a name in ``module``, with its dependencies, or add its import statement.

        Returns:
            The name in the file; None for a built-in name.

        Raises:
            ConversionError: the definition cannot be copied.
        """
        key, statement = _origin(module, name)
        home = sys.modules[key[0]]
        if statement is None:
            if hasattr(home, key[1]) and not key[1].startswith("__"):
                raise _uncopied(key, "is not defined by a statement of its own")
            return None
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            return self._import(module, statement, name)
        if key not in self._names:
            if key[1] in _changed(home):
                raise _uncopied(key, "is changed after its definition")
            if names := sorted({n for node in ast.walk(statement) if isinstance(node, ast.Global) for n in node.names}):
                raise _uncopied((key[0], names[0]), f"is changed by {key[1]}")
            if any(isinstance(node, ast.ImportFrom) and _is_own(node, home) for node in ast.walk(statement)):
                raise ConversionError(f"{key[1]} of the module {key[0]} imports when it runs: .py cannot copy it")
            self._names[key] = self.unique(key[1])
            for used in sorted({n.id for n in _names(statement).used} - {key[1]}):
                self._add(home, used)
            if _recorded_forward(home, statement) is not None:
                self._add(tracing, "leaf")
            self._order.append(key)
        return self._names[key]

    def _import(self, module: ModuleType, statement: ast.Import | ast.ImportFrom, name: str) -> str:
        """Add the import statement of a name.

        Raises:
            ConversionError: the name has another meaning in another definition, or is a module of the package.
        """
        if not self._is_free(module, name):
            raise _uncopied((module.__name__, name), "means something else in another definition")
        if isinstance(statement, ast.Import):
            self._imports |= {f"import {_text_of(alias)}" for alias in _plain_imports(module)[name]}
            return name
        alias = next(a for a in statement.names if (a.asname or a.name) == name)
        if _is_own(statement, module):
            raise ConversionError(
                f"{module.__name__} imports the module {alias.name}, which .py cannot copy; import names from it"
            )
        elif statement.module != "__future__":
            self._imports.add(f"from {statement.module} import {_text_of(alias)}")
        return name

    def _is_free(self, module: ModuleType, name: str) -> bool:
        """Return whether an imported name has no other meaning in the file; if so, reserve it for this meaning."""
        value = vars(module).get(name)
        return name not in self._taken and self._imported.setdefault(name, value) is value

    # ------------------------------------------------------------------ source code
    def _text(self, key: Key) -> str:
        """Return the source code of a definition, with the names that other definitions have in the file."""
        module = sys.modules[key[0]]
        source, statements = _top_level(module)
        statement = statements[key[1]]
        names = _names(statement)
        edits = [(n, self._known(module, n.id) or n.id) for n in names.used]
        edits += [(n, self._annotation(module, n.id)) for n in names.annotations]
        lines = [line.encode() for line in source.splitlines()]
        for node, text in sorted(edits, key=lambda edit: (edit[0].lineno, edit[0].col_offset), reverse=True):
            line = lines[node.lineno - 1]
            if node.id != text:
                lines[node.lineno - 1] = line[: node.col_offset] + text.encode() + line[node.end_col_offset :]
        forward = _recorded_forward(module, statement)
        if forward is not None:  # `record_as_leaf` decorated it in this package
            leaf = f"    @{self._known(tracing, 'leaf')}\n".encode()
            lines[forward.lineno - 1] = leaf + lines[forward.lineno - 1]
        decorators = getattr(statement, "decorator_list", [])
        first = min([statement.lineno, *(d.lineno for d in decorators)])
        text = b"\n".join(lines[first - 1 : statement.end_lineno]).decode()
        if self._names[key] != key[1]:
            text = re.sub(rf"^((?:def|class) )?{key[1]}\b", rf"\g<1>{self._names[key]}", text, count=1, flags=re.M)
        return _without_tool_comments(text)

    def _known(self, module: ModuleType, name: str) -> str | None:
        """Return the name of a definition in the file; None if the definition was not copied."""
        return self._names.get(_origin(module, name)[0])

    def _annotation(self, module: ModuleType, name: str) -> str:
        """Return the replacement of a name in an annotation: classes that only annotations use are not copied."""
        key, statement = _origin(module, name)
        if key in self._names or statement is None:
            return self._names.get(key, name)
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            return self._import(module, statement, name) if self._is_free(module, name) else name
        kind = getattr(sys.modules[key[0]], key[1])
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            return "nn.Module"
        self._imports.add("from typing import Any")
        return "Any"


def _origin(module: ModuleType, name: str) -> tuple[Key, ast.stmt | None]:
    """Find the module and statement that define a name, through the imports inside the package."""
    statement = _top_level(module)[1].get(name)
    if isinstance(statement, ast.ImportFrom) and _is_own(statement, module):
        alias = next(a for a in statement.names if (a.asname or a.name) == name)
        home = importlib.import_module("." * statement.level + (statement.module or ""), module.__package__)
        if not isinstance(getattr(home, alias.name, None), ModuleType):
            return _origin(home, alias.name)
    return (module.__name__, name), statement


def _uncopied(key: Key, reason: str) -> ConversionError:
    module, name = key
    return ConversionError(f"{name} of the module {module} {reason}: .py cannot copy it; define it in one statement")


@lru_cache
def _changed(module: ModuleType) -> set[str]:
    """Return the names in a module whose values later top-level statements change."""
    changed, defined = set[str](), set[str]()
    for statement in parse(getsource(module)).body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            bound = {statement.name}
        elif isinstance(statement, ast.If) and ast.unparse(statement.test).startswith("__name__"):
            continue  # does not run on import
        else:
            nodes = list(ast.walk(statement))
            changed |= {name for node in nodes if (name := _changed_by(node))}
            bound = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        changed |= bound & defined
        defined |= bound
    return changed


def _changed_by(node: ast.AST) -> str:
    """Return the name of the variable whose value a statement changes in place; empty if there is none."""
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    call = (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute)
    )
    part: Any = node.value.func if call else node  # type: ignore[attr-defined]
    if not call and not (isinstance(part, (ast.Attribute, ast.Subscript)) and not isinstance(part.ctx, ast.Load)):
        return ""
    while isinstance(part, (ast.Attribute, ast.Subscript)):
        part = part.value
    return part.id if isinstance(part, ast.Name) else ""


def _is_own(statement: ast.ImportFrom, module: ModuleType) -> bool:
    """Return whether a statement imports from dpnn_bridge or from the top-level package of the module."""
    own = {"dpnn_bridge", module.__name__.partition(".")[0]}
    return bool(statement.level) or (statement.module or "").partition(".")[0] in own


def _recorded_forward(module: ModuleType, statement: ast.stmt) -> ast.FunctionDef | None:
    """Return the ``forward`` of a class if :func:`tracing.leaf` decorates it; None for other statements."""
    if not isinstance(statement, ast.ClassDef) or not tracing.is_recorded(getattr(module, statement.name)):
        return None
    return next(n for n in statement.body if isinstance(n, ast.FunctionDef) and n.name == "forward")


@lru_cache
def _top_level(module: ModuleType) -> tuple[str, dict[str, ast.stmt]]:
    """Return the source code of a module, and its top-level statements by the names that they define."""
    source = _without_mappings(getsource(module))
    names: dict[str, ast.stmt] = {}
    for node in parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names[node.name] = node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update({(a.asname or a.name).partition(".")[0]: node for a in node.names})
        elif isinstance(node, ast.Assign):
            names.update({t.id: node for t in node.targets if isinstance(t, ast.Name)})
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
    return source, names


@lru_cache
def _plain_imports(module: ModuleType) -> dict[str, list[ast.alias]]:
    """Return name -> top-level ``import`` statements that define it; ``import a.b`` and ``import a.c`` define ``a``."""
    names: dict[str, list[ast.alias]] = {}
    for node in parse(_top_level(module)[0]).body:
        for alias in node.names if isinstance(node, ast.Import) else ():
            names.setdefault((alias.asname or alias.name).partition(".")[0], []).append(alias)
    return names


def _text_of(alias: ast.alias) -> str:
    return alias.name + (f" as {alias.asname}" if alias.asname else "")


#: decorators that have no use outside this package
_OWN_DECORATORS = {"lua_class", "faster", "also_inside_as_traced", "checks_arguments", "record_as_leaf"}


def _without_mappings(source: str) -> str:
    """Return source code without the inner classes ``Lua`` and without the decorators in ``_OWN_DECORATORS``."""
    lines = source.splitlines(keepends=True)
    for node in reversed([n for n in parse(source).body if isinstance(n, (ast.ClassDef, ast.FunctionDef))]):
        for inner in reversed(node.body if isinstance(node, ast.ClassDef) else ()):
            if isinstance(inner, ast.ClassDef) and inner.name == "Lua":
                first = inner.lineno - 1
                while not lines[first - 1].strip():
                    first -= 1
                lines[first : inner.end_lineno] = []
            elif isinstance(inner, ast.FunctionDef):
                _drop_decorators(lines, inner)
        _drop_decorators(lines, node)
    return "".join(lines)


def _drop_decorators(lines: list[str], node: ast.ClassDef | ast.FunctionDef) -> None:
    for decorator in reversed(node.decorator_list):
        if ast.unparse(decorator).partition("(")[0].rpartition(".")[2] in _OWN_DECORATORS:
            lines[decorator.lineno - 1 : decorator.end_lineno] = []


class _Names:
    """The free names of a statement.

    Attributes:
        used: names in code.
        annotations: names in annotations.
    """

    def __init__(self, statement: ast.stmt) -> None:
        self.used: list[ast.Name] = []
        self.annotations: list[ast.Name] = []
        self._scopes: list[set[str]] = []
        self._visit(statement)

    def _visit(self, *nodes: ast.AST | None) -> None:
        for node in nodes:
            if isinstance(node, ast.Name):
                hidden = any(node.id in scope for scope in self._scopes) or hasattr(builtins, node.id)
                self.used += [node] if isinstance(node.ctx, ast.Load) and not hidden else []
            elif isinstance(node, ast.AnnAssign):
                self._annotation(node.annotation)
                self._visit(node.value)
            elif isinstance(node, ast.FunctionDef):
                arguments = _arguments(node.args)
                self._visit(*node.decorator_list, *node.args.defaults, *node.args.kw_defaults)
                self._annotation(*(a.annotation for a in arguments), node.returns)
                self._scope({a.arg for a in arguments} | _bound(node.body), *node.body)
            elif isinstance(node, ast.Lambda):
                self._visit(*node.args.defaults, *node.args.kw_defaults)
                self._scope({a.arg for a in _arguments(node.args)}, node.body)
            elif isinstance(node, ast.ClassDef):
                self._visit(*node.decorator_list, *node.bases, *node.keywords)
                own = _bound(node.body)
                for part in node.body:  # names of the class are not visible in its methods
                    self._scope(set() if isinstance(part, ast.FunctionDef) else own, part)
            elif isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
                self._scope(_bound(g.target for g in node.generators), *ast.iter_child_nodes(node))
            elif node is not None:
                self._visit(*ast.iter_child_nodes(node))

    def _scope(self, names: set[str], *nodes: ast.AST) -> None:
        self._scopes.append(names)
        self._visit(*nodes)
        self._scopes.pop()

    def _annotation(self, *annotations: ast.AST | None) -> None:
        names = (n for a in annotations if a is not None for n in ast.walk(a) if isinstance(n, ast.Name))
        self.annotations += [n for n in names if not hasattr(builtins, n.id)]


@cache
def _names(statement: ast.stmt) -> _Names:
    return _Names(statement)


def _arguments(node: ast.arguments) -> list[ast.arg]:
    rest = [a for a in (node.vararg, node.kwarg) if a is not None]
    return [*node.posonlyargs, *node.args, *node.kwonlyargs, *rest]


def _bound(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the names that statements define in their scope."""
    names, stack = set[str](), list(nodes)
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
            continue
        if isinstance(node, ast.comprehension):  # its target is in an inner scope
            stack += [node.iter, *node.ifs]
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        stack.extend(ast.iter_child_nodes(node))
    return names


def _without_tool_comments(text: str) -> str:
    """Return source code without doctest examples and comments for type checkers and linters."""
    text = re.sub(r"  # (type: ignore|noqa|pyright:)[^\n]*", "", text)
    text = re.sub(r"\n\n( +)Examples:\n(?:\1 +[^\n]*\n|\n)+(?=\1\S)", "\n\n", text)
    return re.sub(r"\n\n( +\"\"\"\n)", r"\n\1", text)
